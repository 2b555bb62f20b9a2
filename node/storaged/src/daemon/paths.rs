//! The paths of LUNs: counted every ten seconds, and as soon as the kernel tells
//! that one has changed; told with the connections and domains they belong to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use control::storage::Answer;
use control::storage::connection::Connection;
use control::storage::health::LunPaths;
use control::storage::report::{ConnectionReport, DomainReport};
use linux::uevent::{Uevent, UeventSocket};
use smol::Async;
use smol::channel::{Receiver, Sender, bounded};

use super::Daemon;
use super::workers::Key;
use crate::worker::work::Work;

/// Between two counts.
const CYCLE: Duration = Duration::from_secs(10);
/// A count that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// One change of a path brings others: they are counted together.
const TOGETHER: Duration = Duration::from_millis(500);
/// Asking disks for their new sizes.
const RESCAN_DEADLINE: Duration = Duration::from_secs(90);

/// What is known of paths.
#[derive(Debug)]
pub(crate) struct Paths {
    luns: RefCell<Vec<LunPaths>>,
    /// Why they are not known.
    reason: RefCell<Option<String>>,
    /// A disk has told that its size has changed.
    grown: Cell<bool>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for Paths {
    fn default() -> Self {
        let (wake, woken) = bounded(1);
        Self {
            luns: RefCell::default(),
            reason: RefCell::default(),
            grown: Cell::default(),
            wake,
            woken,
        }
    }
}

impl Paths {
    /// Has them counted soon.
    pub(crate) fn look(&self) {
        // Woken already is as good.
        self.wake.try_send(()).ok();
    }

    /// Why they are not known.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Adds a connection's LUNs to its report.
    pub(crate) fn tell_connection(&self, report: &mut ConnectionReport, connection: &Connection) {
        let luns = self.luns.borrow();
        let own = luns
            .iter()
            .filter(|lun| is_over(lun, connection, &report.sessions));
        report.luns = own.cloned().collect();
    }

    /// The paths of the LUNs of these names, as far as they are known.
    pub(crate) fn of(&self, names: &[String]) -> Vec<LunPaths> {
        let luns = self.luns.borrow();
        let named = |name: &String| luns.iter().find(|lun| lun.is(name)).cloned();
        names.iter().filter_map(named).collect()
    }

    /// Adds the paths of a domain's LUNs to its report, and whether they are too few.
    pub(crate) fn tell_domain(&self, report: &mut DomainReport) {
        report.lun_paths = self.of(&report.luns);
        let dead: Vec<String> = report
            .lun_paths
            .iter()
            .filter(|lun| lun.active == 0)
            .map(|lun| format!("LUN {}: {}", lun.wwid, lun.words()))
            .collect();
        report.degraded = (!dead.is_empty()).then(|| dead.join("; "));
    }

    fn take(&self, luns: Vec<LunPaths>) {
        self.reason.replace(None);
        let before = self.luns.replace(luns);
        for (is_worse, words) in changes(&before, &self.luns.borrow()) {
            if is_worse {
                tracing::warn!("{words}");
            } else {
                tracing::info!("{words}");
            }
        }
    }
}

impl Daemon {
    /// Counts paths, for ever, while LUNs are connected.
    pub(crate) async fn keep_paths(self: Rc<Self>) {
        loop {
            let block = self
                .connections
                .kept()
                .connections()
                .any(|(_, connection)| connection.is_block());
            if block {
                if self.paths.grown.take() {
                    self.ask_sizes().await;
                }
                self.count_paths().await;
                self.carry_domains();
            } else {
                self.paths.take(Vec::new());
            }
            smol::future::or(
                async {
                    self.paths.woken.recv().await.ok();
                    smol::Timer::after(TOGETHER).await;
                },
                async {
                    smol::Timer::after(CYCLE).await;
                },
            )
            .await;
        }
    }

    async fn count_paths(self: &Rc<Self>) {
        let answer = self.workers.work(&Key::Paths, Work::Paths, DEADLINE).await;
        match answer {
            Ok(Answer::Paths(luns)) => self.paths.take(luns),
            Ok(_) => {}
            Err(failure) => {
                let before = self.paths.reason.replace(Some(failure.message.clone()));
                if before.as_ref() != Some(&failure.message) {
                    tracing::warn!("paths of LUNs: {failure}");
                }
            }
        }
    }

    /// Has every disk asked for its size, and maps grow.
    async fn ask_sizes(self: &Rc<Self>) {
        let asked = self.workers.work(&Key::Scan, Work::Rescan, RESCAN_DEADLINE);
        match asked.await {
            Ok(_) => tracing::info!("a LUN's size has changed: every disk was asked for its own"),
            Err(failure) => tracing::warn!("a LUN's size has changed: {failure}"),
        }
    }

    /// Hears what the kernel tells of disks, for ever. Without it they are looked
    /// at every ten seconds all the same.
    pub(crate) async fn hear_kernel(self: Rc<Self>) {
        let opened = UeventSocket::open().and_then(Async::new_nonblocking);
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("events of the kernel: {error}");
                return;
            }
        };
        loop {
            if let Err(error) = socket.readable().await {
                tracing::warn!("events of the kernel: {error}");
                return;
            }
            match socket.get_ref().receive() {
                Ok(Some(event)) => match meaning(&event) {
                    Meaning::Nothing => {}
                    Meaning::Paths => self.paths.look(),
                    Meaning::Size => {
                        self.paths.grown.set(true);
                        self.paths.look();
                    }
                },
                Ok(None) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Some were lost: one of them may have been a path's.
                Err(_) => self.paths.look(),
            }
        }
    }
}

/// What an event says of paths.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    Paths,
    Size,
}

fn meaning(event: &Uevent) -> Meaning {
    if event.get("SDEV_UA") == Some("CAPACITY_DATA_HAS_CHANGED") {
        return Meaning::Size;
    }
    if event.get("SUBSYSTEM") != Some("block") || event.get("DEVTYPE") != Some("disk") {
        return Meaning::Nothing;
    }
    let name = event.get("DEVNAME").unwrap_or_default();
    let is_disk = name.starts_with("sd") && event.action != "change";
    // Volumes come and go with their guests; of maps only events of paths count.
    let is_path = name.starts_with("dm-")
        && matches!(
            event.get("DM_ACTION"),
            Some("PATH_FAILED" | "PATH_REINSTATED")
        );
    if is_disk || is_path {
        Meaning::Paths
    } else {
        Meaning::Nothing
    }
}

/// Ids of the connections that LUNs come over.
pub(crate) fn carriers<'a>(
    luns: &[LunPaths],
    connections: impl Iterator<Item = (&'a str, &'a Connection, &'a [String])>,
) -> Vec<String> {
    connections
        .filter(|(_, connection, sessions)| {
            luns.iter().any(|lun| is_over(lun, connection, sessions))
        })
        .map(|(id, _, _)| id.to_owned())
        .collect()
}

/// Whether a LUN comes over a connection: over one of the sessions it made, or, before
/// it was made, one that it would make.
fn is_over(lun: &LunPaths, connection: &Connection, sessions: &[String]) -> bool {
    match connection {
        Connection::Fc {} => lun.sessions.is_empty(),
        Connection::Iscsi { .. } if !sessions.is_empty() => lun
            .sessions
            .iter()
            .any(|session| sessions.contains(session)),
        Connection::Iscsi {
            target: Some(target),
            ..
        } => lun
            .sessions
            .iter()
            .any(|session| session.split(' ').next() == Some(target)),
        Connection::Iscsi { portals, .. } => lun.sessions.iter().any(|session| {
            let portal = session.split(' ').nth(1).unwrap_or_default();
            portals.iter().any(|asked| {
                portal == asked
                    || portal
                        .rsplit_once(':')
                        .is_some_and(|(host, _)| host == asked)
            })
        }),
        _ => false,
    }
}

/// What to tell of LUNs whose paths are not what they were: whether it is a turn
/// for the worse, and the words.
fn changes(before: &[LunPaths], now: &[LunPaths]) -> Vec<(bool, String)> {
    let mut told = Vec::new();
    for lun in now {
        let old = before.iter().find(|old| old.wwid == lun.wwid);
        let same = |old: &LunPaths| {
            (old.paths, old.active, old.failed, &old.map)
                == (lun.paths, lun.active, lun.failed, &lun.map)
        };
        if old.is_some_and(same) {
            continue;
        }
        let is_worse = lun.failed > old.map_or(0, |old| old.failed)
            || old.is_some_and(|old| lun.active < old.active);
        told.push((is_worse, format!("LUN {}: {}", lun.wwid, lun.words())));
    }
    for old in before {
        if !now.iter().any(|lun| lun.wwid == old.wwid) {
            told.push((false, format!("LUN {}: gone", old.wwid)));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lun(wwid: &str, active: u32, failed: u32) -> LunPaths {
        LunPaths {
            wwid: wwid.into(),
            map: Some(wwid.into()),
            paths: active + failed,
            active,
            failed,
            sessions: vec!["iqn.a:one 10.0.0.1:3260".into()],
        }
    }

    #[test]
    fn only_changes_are_told_and_failures_as_such() {
        let first = [lun("a", 2, 0), lun("b", 1, 1)];
        let told = changes(&[], &first);
        assert_eq!(
            told,
            [
                (false, "LUN a: 2 of 2 paths work".to_owned()),
                (true, "LUN b: 1 of 2 paths works".to_owned())
            ]
        );
        assert_eq!(changes(&first, &first), []);
        let told = changes(&first, &[lun("a", 0, 2)]);
        assert_eq!(
            told,
            [
                (true, "LUN a: none of 2 paths works".to_owned()),
                (false, "LUN b: gone".to_owned())
            ]
        );
        assert!(!changes(&[lun("a", 0, 2)], &first[..1])[0].0);
    }

    #[test]
    fn a_domain_none_of_whose_paths_work_is_degraded() {
        let paths = Paths::default();
        paths.take(vec![lun("36001", 1, 1), lun("36002", 0, 2)]);
        let mut report = DomainReport {
            luns: vec!["36001".into()],
            ..DomainReport::default()
        };
        paths.tell_domain(&mut report);
        assert_eq!(
            (report.lun_paths.len(), report.degraded.as_ref()),
            (1, None)
        );
        report.luns = vec!["36001".into(), "/dev/mapper/36002".into(), "unknown".into()];
        paths.tell_domain(&mut report);
        assert_eq!(report.lun_paths.len(), 2);
        assert_eq!(
            report.degraded.as_deref(),
            Some("LUN 36002: none of 2 paths works")
        );
        paths.take(vec![lun("36001", 1, 1), lun("36002", 2, 0)]);
        paths.tell_domain(&mut report);
        assert_eq!(report.degraded, None);
    }

    #[test]
    fn luns_belong_to_the_connections_they_come_over() {
        let iscsi = |text: &str| serde_json::from_str::<Connection>(text).unwrap();
        let one = lun("a", 1, 0);
        for (text, is) in [
            (
                r#"{"type":"iscsi","portals":["x"],"target":"iqn.a:one"}"#,
                true,
            ),
            (
                r#"{"type":"iscsi","portals":["x"],"target":"iqn.a"}"#,
                false,
            ),
            (r#"{"type":"iscsi","portals":["10.0.0.1"]}"#, true),
            (r#"{"type":"iscsi","portals":["10.0.0.1:3260"]}"#, true),
            (r#"{"type":"iscsi","portals":["10.0.0"]}"#, false),
            (r#"{"type":"fc"}"#, false),
            (r#"{"type":"nfs","export":"s:/x"}"#, false),
        ] {
            assert_eq!(is_over(&one, &iscsi(text), &[]), is, "{text}");
        }
        let local = LunPaths {
            sessions: Vec::new(),
            ..one.clone()
        };
        assert!(is_over(&local, &Connection::Fc {}, &[]));
        // The sessions made decide, not the portal that was asked for them.
        let asked = iscsi(r#"{"type":"iscsi","portals":["10.0.0.9"]}"#);
        assert!(!is_over(&one, &asked, &[]));
        assert!(is_over(&one, &asked, &one.sessions));
        assert!(!is_over(
            &one,
            &asked,
            &["iqn.a:one 10.0.0.9:3260".to_owned()]
        ));

        // A domain is on every connection that one of its LUNs comes over.
        let all = [
            iscsi(r#"{"type":"iscsi","portals":["x"],"target":"iqn.a:two"}"#),
            iscsi(r#"{"type":"iscsi","portals":["x"],"target":"iqn.a:one"}"#),
            iscsi(r#"{"type":"nfs","export":"s:/x"}"#),
            Connection::Fc {},
        ];
        let on = |luns: &[LunPaths]| {
            let ids: Vec<String> = all.iter().map(Connection::id).collect();
            let named = ids.iter().map(String::as_str).zip(&all);
            carriers(
                luns,
                named.map(|(id, connection)| (id, connection, &[][..])),
            )
        };
        assert_eq!(on(std::slice::from_ref(&one)), ["iscsi:iqn.a:one"]);
        assert_eq!(on(&[one, local]), ["iscsi:iqn.a:one", "fc"]);
        assert!(on(&[]).is_empty());
    }

    #[test]
    fn events_of_paths_and_sizes_are_told_from_all_others() {
        let event = |text: &str| {
            let bytes = text.replace(' ', "\0");
            meaning(&Uevent::parse(bytes.as_bytes()).unwrap())
        };
        let disk = "SUBSYSTEM=block DEVTYPE=disk";
        assert_eq!(event(&format!("add@/x {disk} DEVNAME=sdb")), Meaning::Paths);
        assert_eq!(
            event(&format!(
                "change@/x {disk} DEVNAME=dm-1 DM_ACTION=PATH_FAILED"
            )),
            Meaning::Paths
        );
        for other in [
            "change@/x SUBSYSTEM=block DEVTYPE=disk DEVNAME=dm-4",
            "add@/x SUBSYSTEM=block DEVTYPE=disk DEVNAME=dm-4",
            "add@/x SUBSYSTEM=block DEVTYPE=partition DEVNAME=sda1",
            "add@/x SUBSYSTEM=net INTERFACE=eth0",
        ] {
            assert_eq!(event(other), Meaning::Nothing, "{other}");
        }
        assert_eq!(
            event("change@/x SUBSYSTEM=scsi DEVTYPE=scsi_device SDEV_UA=CAPACITY_DATA_HAS_CHANGED"),
            Meaning::Size
        );
    }
}
