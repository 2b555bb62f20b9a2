//! Guests whose thin drives are watched: who extends for them, and who maps what
//! their volumes have become.

use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use control::config::Manager;
use control::storage::report::WatchReport;
use control::storage::request::WatchedDrive;
use control::storage::{Answer, Failure, FailureKind, VolumeName};

use super::Daemon;
use super::socket::done;
use super::workers::Key;
use crate::job::Result;
use crate::thin::{Drive, Extender, Handle, Later, Monitor, Refresher, Watch};
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
    pub(crate) drives: Vec<WatchedDrive>,
}

impl Watched {
    pub(crate) fn report(&self) -> WatchReport {
        self.handle.report()
    }
}

/// The daemon as a monitor needs it.
struct Helper(Weak<Daemon>);

impl Extender for Helper {
    fn extend(&self, volume: &VolumeName, mib: u64) -> Later<thin::ExtendOutcome> {
        let (daemon, volume) = (self.0.clone(), volume.clone());
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
        let (daemon, volume) = (self.0.clone(), volume.clone());
        Box::pin(async move {
            let Some(daemon) = daemon.upgrade() else {
                return thin::RefreshOutcome::Failed;
            };
            match daemon.refresh(&volume).await {
                Ok(size_bytes) => thin::RefreshOutcome::Done { size_bytes },
                Err(failure) => {
                    tracing::warn!("volume {}: not refreshed: {failure}", volume.volume);
                    thin::RefreshOutcome::Failed
                }
            }
        })
    }
}

impl Daemon {
    /// Begins to watch a guest; again with other drives replaces the watch.
    pub(crate) fn watch_guest(
        self: &Rc<Self>,
        qmp: &str,
        mut drives: Vec<WatchedDrive>,
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
        let helper = Rc::new(Helper(Rc::downgrade(self)));
        // The one that is there lets go of the socket first: QEMU serves one client.
        watches.remove(qmp);
        let (monitor, handle) = Monitor::new(
            watch,
            Rc::clone(&helper) as Rc<dyn Extender>,
            helper as Rc<dyn Refresher>,
        );
        self.executor.spawn(monitor.run()).detach();
        let count = drives.len();
        watches.insert(qmp.to_owned(), Watched { handle, drives });
        drop(watches);
        self.remember();
        Ok(done(format!("{count} drives of {qmp} are watched")))
    }

    /// Takes up the watches of an earlier daemon, as far as their domains are there.
    pub(crate) fn watch_again(self: &Rc<Self>) {
        let left = std::mem::take(&mut *self.unwatched.borrow_mut());
        for (qmp, drives) in left {
            if let Err(failure) = self.watch_guest(&qmp, drives.clone()) {
                tracing::debug!("{qmp}: {failure}");
                self.unwatched.borrow_mut().push((qmp, drives));
            }
        }
    }

    /// Ends it.
    pub(crate) fn unwatch_guest(&self, qmp: &str) -> Result<Answer> {
        if self.watches.borrow_mut().remove(qmp).is_none() {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("{qmp}: not watched; `nodectl storage status --json` shows who is"),
            ));
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
