//! Guests whose thin drives are watched: who extends for them, and who maps what
//! their volumes have become.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use control::config::Manager;
use control::storage::report::WatchReport;
use control::storage::request::{GuestChange, VolumeRequest, WatchedDrive};
use control::storage::{Answer, Failure, FailureKind, Reply, Request, VolumeName};
use serde::{Deserialize, Serialize};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::unix::UnixStream;

use super::Daemon;
use super::socket::done;
use super::workers::Key;
use crate::job::Result;
use crate::thin::{Command, Drive, Extender, Handle, Later, Monitor, Refresher, Watch};
use crate::worker::work::{Carrier, ExtendItem, Place, Work};

/// A writer's answer to an extend.
const EXTEND_DEADLINE: Duration = Duration::from_secs(60);
/// The mail's own limit is 200 s.
const MAIL_DEADLINE: Duration = Duration::from_secs(215);
/// Mapping a volume.
const REFRESH_DEADLINE: Duration = Duration::from_secs(60);
/// Guests of a host.
const WATCHES_MAX: usize = 512;

/// A watched guest.
pub(crate) struct Watched {
    handle: Handle,
    kept: Kept,
    /// Where the destination of its migration answers; shared with its monitor.
    destination: Rc<RefCell<Option<PathBuf>>>,
}

/// What of a watch survives the daemon: also what holds at the moment, for one
/// that forgot a migration would extend what the destination does not map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// QMP socket.
    qmp: String,
    drives: Vec<WatchedDrive>,
    #[serde(default)]
    told: Vec<GuestChange>,
}

impl Watched {
    pub(crate) fn report(&self) -> WatchReport {
        WatchReport {
            told: self.kept.told.iter().map(words).collect(),
            ..self.handle.report()
        }
    }

    pub(crate) fn kept(&self) -> Kept {
        self.kept.clone()
    }

    /// Tells the monitor. False when it does not keep up.
    fn tell(&mut self, change: GuestChange) -> bool {
        let command = match &change {
            GuestChange::Migrating { destination } => {
                *self.destination.borrow_mut() = destination.as_ref().map(PathBuf::from);
                Command::Migrating(true)
            }
            GuestChange::Stayed => Command::Migrating(false),
            GuestChange::Hold => Command::Hold(true),
            GuestChange::Release => Command::Hold(false),
            GuestChange::Resized { node } => Command::Resized { node: node.clone() },
            GuestChange::Replicating { node, replica } => Command::Replicating {
                node: node.clone(),
                replica: Some(replica.clone()),
            },
            GuestChange::Replicated { node } => Command::Replicating {
                node: node.clone(),
                replica: None,
            },
        };
        if !self.handle.send(command) {
            return false;
        }
        note(&mut self.kept.told, change);
        true
    }
}

/// What holds after a change.
fn note(told: &mut Vec<GuestChange>, change: GuestChange) {
    let of = |node: &str, other: &GuestChange| matches!(other, GuestChange::Replicating { node: theirs, .. } if theirs == node);
    match &change {
        GuestChange::Migrating { .. } | GuestChange::Stayed => {
            told.retain(|other| !matches!(other, GuestChange::Migrating { .. }));
        }
        GuestChange::Hold | GuestChange::Release => {
            told.retain(|other| *other != GuestChange::Hold);
        }
        GuestChange::Replicating { node, .. } | GuestChange::Replicated { node } => {
            told.retain(|other| !of(node, other));
        }
        GuestChange::Resized { .. } => {}
    }
    let lasts = matches!(
        change,
        GuestChange::Migrating { .. } | GuestChange::Hold | GuestChange::Replicating { .. }
    );
    if lasts {
        told.push(change);
    }
}

/// What holds, for people.
fn words(change: &GuestChange) -> String {
    match change {
        GuestChange::Migrating {
            destination: Some(socket),
        } => format!("migrating, its destination answers at {socket}"),
        GuestChange::Migrating { destination: None } => {
            "migrating, nothing is extended until it ends".to_owned()
        }
        GuestChange::Hold => "held: it is not continued".to_owned(),
        GuestChange::Replicating { node, replica } => {
            format!("drive {node} is copied to volume {}", replica.volume)
        }
        other => format!("{other:?}"),
    }
}

/// The daemon as a monitor needs it.
struct Helper {
    daemon: Weak<Daemon>,
    destination: Rc<RefCell<Option<PathBuf>>>,
}

impl Extender for Helper {
    fn extend(&self, volume: &VolumeName, mib: u64) -> Later<thin::ExtendOutcome> {
        let (daemon, volume) = (self.daemon.clone(), volume.clone());
        Box::pin(async move {
            let Some(daemon) = daemon.upgrade() else {
                return thin::ExtendOutcome::Failed;
            };
            match daemon.extend(&volume, mib << 20).await {
                Ok(_) => thin::ExtendOutcome::Done,
                Err(failure) => {
                    tracing::warn!("volume {}: not extended: {failure}", volume.volume);
                    if failure.kind == FailureKind::NoSpace {
                        thin::ExtendOutcome::Refused
                    } else {
                        thin::ExtendOutcome::Failed
                    }
                }
            }
        })
    }
}

impl Refresher for Helper {
    fn refresh(&self, volume: &VolumeName, _at_least_bytes: u64) -> Later<thin::RefreshOutcome> {
        let (daemon, volume) = (self.daemon.clone(), volume.clone());
        Box::pin(async move {
            let Some(daemon) = daemon.upgrade() else {
                return thin::RefreshOutcome::Failed;
            };
            match daemon.refresh(&volume).await {
                Ok(size_bytes) => thin::RefreshOutcome::Done { size_bytes },
                Err(failure) => {
                    tracing::warn!("volume {}: not refreshed: {failure}", volume.volume);
                    daemon.check_for_luns(&volume.domain);
                    thin::RefreshOutcome::Failed
                }
            }
        })
    }

    fn refresh_destination(
        &self,
        volume: &VolumeName,
        _at_least_bytes: u64,
    ) -> Later<thin::RefreshOutcome> {
        let (socket, volume) = (self.destination.borrow().clone(), volume.clone());
        Box::pin(async move {
            let Some(socket) = socket else {
                return thin::RefreshOutcome::Impossible;
            };
            match refresh_there(&socket, &volume).await {
                Ok(size_bytes) => thin::RefreshOutcome::Done { size_bytes },
                Err(reason) => {
                    let socket = socket.display();
                    tracing::warn!(
                        "volume {}: not refreshed by {socket}: {reason}",
                        volume.volume
                    );
                    thin::RefreshOutcome::Failed
                }
            }
        })
    }
}

/// Has the storage daemon of another host map a volume; the size it has there.
async fn refresh_there(socket: &Path, volume: &VolumeName) -> std::result::Result<u64, String> {
    let ask = async {
        let request = Request::Volume(VolumeRequest::Refresh {
            volume: volume.clone(),
        });
        let mut line = serde_json::to_vec(&request).map_err(io::Error::from)?;
        line.push(b'\n');
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        // Far more than the report of a volume.
        let mut stream = BufReader::new(stream.take(1 << 20));
        stream.read_until(b'\n', &mut answer).await?;
        Ok(answer)
    };
    let late = async {
        smol::Timer::after(REFRESH_DEADLINE).await;
        Err(io::Error::from(io::ErrorKind::TimedOut))
    };
    let answer = smol::future::or(ask, late)
        .await
        .map_err(|error| error.to_string())?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Answer(answer)) => match *answer {
            Answer::Volume(report) => Ok(report.size_bytes),
            other => Err(format!("another answer: {other:?}")),
        },
        Ok(Reply::Failure(failure)) => Err(failure.to_string()),
        Ok(Reply::Accepted { .. }) => Err("another answer".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn not_watched(qmp: &str) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("{qmp}: not watched; `nodectl storage status --json` shows who is"),
    )
}

impl Daemon {
    /// Begins to watch a guest; again with other drives replaces the watch.
    pub(crate) fn watch_guest(
        self: &Rc<Self>,
        qmp: &str,
        drives: Vec<WatchedDrive>,
    ) -> Result<Answer> {
        self.watch_as(qmp, drives, Vec::new())
    }

    fn watch_as(
        self: &Rc<Self>,
        qmp: &str,
        mut drives: Vec<WatchedDrive>,
        told: Vec<GuestChange>,
    ) -> Result<Answer> {
        let mut watches = self.watches.borrow_mut();
        if watches.len() >= WATCHES_MAX && !watches.contains_key(qmp) {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("{WATCHES_MAX} guests are watched already"),
            ));
        }
        let mut watched = Vec::new();
        for drive in &mut drives {
            let place = self.place(&drive.volume.domain)?;
            if place.carrier != Carrier::Block {
                return Err(Failure::new(
                    FailureKind::BadRequest,
                    format!(
                        "drive {}: its domain is made of files, which grow by themselves",
                        drive.node
                    ),
                ));
            }
            // Names may come to mean another domain; ids do not.
            drive.volume.domain = place.domain.clone();
            let layout = &self.options.layout;
            watched.push(Drive {
                node: drive.node.clone(),
                volume: drive.volume.clone(),
                path: layout.logical_volume(&place.domain, &drive.volume.volume),
            });
        }
        let watch = Watch {
            socket: PathBuf::from(qmp),
            drives: watched,
            config: crate::thin::config(&self.config.borrow().thin),
            sys: self.options.layout.sys.clone(),
        };
        let destination = Rc::<RefCell<Option<PathBuf>>>::default();
        let helper = Rc::new(Helper {
            daemon: Rc::downgrade(self),
            destination: Rc::clone(&destination),
        });
        // The one that is there lets go of the socket first: QEMU serves one client.
        watches.remove(qmp);
        let (monitor, handle) = Monitor::new(
            watch,
            Rc::clone(&helper) as Rc<dyn Extender>,
            helper as Rc<dyn Refresher>,
        );
        self.executor.spawn(monitor.run()).detach();
        let count = drives.len();
        let mut watched = Watched {
            handle,
            kept: Kept {
                qmp: qmp.to_owned(),
                drives,
                told: Vec::new(),
            },
            destination,
        };
        for change in told {
            // The monitor has not begun: there is room for as many as are kept.
            watched.tell(change);
        }
        watches.insert(qmp.to_owned(), watched);
        drop(watches);
        self.remember();
        Ok(done(format!("{count} drives of {qmp} are watched")))
    }

    /// Takes up the watches of an earlier daemon, as far as their domains are there.
    pub(crate) fn watch_again(self: &Rc<Self>) {
        let left = std::mem::take(&mut *self.unwatched.borrow_mut());
        for kept in left {
            let again = self.watch_as(&kept.qmp, kept.drives.clone(), kept.told.clone());
            if let Err(failure) = again {
                tracing::debug!("{}: {failure}", kept.qmp);
                self.unwatched.borrow_mut().push(kept);
            }
        }
    }

    /// Takes what happens to a guest that is watched.
    pub(crate) fn tell_of_guest(
        self: &Rc<Self>,
        qmp: &str,
        mut change: GuestChange,
    ) -> Result<Answer> {
        if let GuestChange::Replicating { replica, .. } = &mut change {
            let place = self.place(&replica.domain)?;
            if place.carrier != Carrier::Block {
                return Err(Failure::new(
                    FailureKind::BadRequest,
                    format!(
                        "volume {}: its domain is made of files, which grow by themselves",
                        replica.volume
                    ),
                ));
            }
            replica.domain = place.domain;
        }
        let mut watches = self.watches.borrow_mut();
        let watched = watches.get_mut(qmp).ok_or_else(|| not_watched(qmp))?;
        if let GuestChange::Resized { node }
        | GuestChange::Replicating { node, .. }
        | GuestChange::Replicated { node } = &change
            && !watched.kept.drives.iter().any(|drive| drive.node == *node)
        {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("{qmp}: no drive {node} is watched there"),
            ));
        }
        if !watched.tell(change) {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("{qmp}: its monitor does not keep up; ask again"),
            ));
        }
        let told: Vec<String> = watched.kept.told.iter().map(words).collect();
        drop(watches);
        self.remember();
        Ok(done(if told.is_empty() {
            format!("{qmp} is watched as usual")
        } else {
            format!("{qmp}: {}", told.join("; "))
        }))
    }

    /// Ends it.
    pub(crate) fn unwatch_guest(&self, qmp: &str) -> Result<Answer> {
        if self.watches.borrow_mut().remove(qmp).is_none() {
            return Err(not_watched(qmp));
        }
        self.remember();
        Ok(done(format!("{qmp} is not watched any more")))
    }

    /// Has a volume on LUNs made larger, by whoever may: the writer here, or the
    /// pool's manager elsewhere over the mailbox.
    pub(crate) async fn extend(
        self: &Rc<Self>,
        volume: &VolumeName,
        size_bytes: u64,
    ) -> Result<Answer> {
        let place = self.place(&volume.domain)?;
        let items = vec![ExtendItem {
            volume: VolumeName {
                domain: place.domain.clone(),
                ..volume.clone()
            },
            size_bytes,
        }];
        if let Ok(key) = self.writer(&place) {
            let work = Work::Extend { place, items };
            return self.workers.work(&key, work, EXTEND_DEADLINE).await;
        }
        let context = self.pool_context()?;
        if context.manager == Manager::Pool {
            // Idempotent; also after the master has moved.
            let work = Work::StartMail { pool: context };
            self.workers.work(&Key::Mail, work, EXTEND_DEADLINE).await?;
        }
        let work = Work::MailExtend { place, items };
        self.workers.work(&Key::Mail, work, MAIL_DEADLINE).await
    }

    /// Maps the present size of a volume on this host, and tells it.
    async fn refresh(self: &Rc<Self>, volume: &VolumeName) -> Result<u64> {
        let place: Place = self.place(&volume.domain)?;
        let key = Key::Refresh(place.domain.clone());
        let work = Work::Refresh {
            place,
            volume: volume.clone(),
        };
        match self.workers.work(&key, work, REFRESH_DEADLINE).await? {
            Answer::Volume(report) => Ok(report.size_bytes),
            _ => Err(Failure::new(FailureKind::Failed, "refresh: another answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating(node: &str, volume: &str) -> GuestChange {
        GuestChange::Replicating {
            node: node.to_owned(),
            replica: VolumeName {
                domain: "d".to_owned(),
                image: "i".to_owned(),
                volume: volume.to_owned(),
            },
        }
    }

    #[test]
    fn what_holds_is_kept_and_what_has_ended_is_not() {
        let mut told = Vec::new();
        let here = GuestChange::Migrating {
            destination: Some("/run/a".to_owned()),
        };
        let there = GuestChange::Migrating { destination: None };
        for change in [
            here,
            GuestChange::Hold,
            replicating("vda", "one"),
            replicating("vdb", "two"),
            GuestChange::Resized {
                node: "vda".to_owned(),
            },
            there.clone(),
            GuestChange::Hold,
            replicating("vda", "three"),
        ] {
            note(&mut told, change);
        }
        let all = [
            replicating("vdb", "two"),
            there,
            GuestChange::Hold,
            replicating("vda", "three"),
        ];
        assert_eq!(told, all);
        for change in [
            GuestChange::Release,
            GuestChange::Stayed,
            GuestChange::Replicated {
                node: "vda".to_owned(),
            },
        ] {
            note(&mut told, change);
        }
        assert_eq!(told, [replicating("vdb", "two")]);
    }

    /// A destination that reads one request and sends this.
    fn asked_of(answer: &'static str) -> (std::result::Result<u64, String>, String) {
        use std::io::{BufRead, Write};
        let folder = tempfile::tempdir().expect("a directory");
        let socket = folder.path().join("there");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let there = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut line = String::new();
            let copy = stream.try_clone().expect("a copy");
            std::io::BufReader::new(copy)
                .read_line(&mut line)
                .expect("a request");
            stream.write_all(answer.as_bytes()).expect("sent");
            line
        });
        let volume = VolumeName {
            domain: "d".to_owned(),
            image: "i".to_owned(),
            volume: "v".to_owned(),
        };
        let size = smol::block_on(refresh_there(&socket, &volume));
        (size, there.join().expect("it ends"))
    }

    #[test]
    fn a_destination_is_asked_for_the_size_that_it_maps() {
        let (size, request) =
            asked_of("{\"answer\":{\"volume\":{\"volume\":\"v\",\"size_bytes\":4096}}}\n");
        assert_eq!(size, Ok(4096));
        let request: Request = serde_json::from_str(&request).expect("a request");
        let asked = matches!(
            &request,
            Request::Volume(VolumeRequest::Refresh { volume }) if volume.volume == "v"
        );
        assert!(asked, "{request:?}");
        for nonsense in [
            "",
            "{}\n",
            "{\"failure\":{\"kind\":\"not-found\",\"message\":\"gone\"}}\n",
            "{\"accepted\":{\"task\":\"t\"}}\n",
        ] {
            assert!(asked_of(nonsense).0.is_err(), "{nonsense}");
        }
    }
}
