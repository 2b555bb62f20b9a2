//! Looking for new and grown LUNs on everything that is connected.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use linux::blkdev;
use linux::scsi::{self, Transport};

use super::{Places, iscsi, multipath};
use crate::job::{Context, Result};

/// How long all scans together may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Adapters of virtual machines whose LUNs may be shared.
const VIRTUAL: [&str; 3] = ["virtio_scsi", "vmw_pvscsi", "storvsc"];

/// Scans iSCSI sessions and SCSI adapters, all at once, then waits for udev and
/// multipathd, and lets maps grow.
///
/// A scan that hangs in the kernel is left behind after 30 s, with its thread.
///
/// # Errors
///
/// [`FailureKind::Timeout`] when a scan did not end, [`FailureKind::Failed`]
/// when one failed; the others were done all the same.
pub fn rescan(context: &Context, places: &Places) -> Result<()> {
    context.go_on()?;
    context.tell(0, 1, "scanning");
    type Scan = Box<dyn FnOnce() -> std::result::Result<(), String> + Send>;
    let mut scans: Vec<(String, Scan)> = Vec::new();
    let sessions = iscsi::session::list(&places.sys);
    if !sessions.is_empty() {
        let context = context.clone();
        scans.push((
            "iSCSI sessions".into(),
            Box::new(move || {
                iscsi::admin::rescan(&context, DEADLINE).map_err(|failure| failure.message)
            }),
        ));
    }
    for host in scsi::hosts(&places.sys) {
        let wanted = matches!(host.transport, Transport::FibreChannel | Transport::Sas)
            || (host.transport == Transport::Other && VIRTUAL.contains(&host.driver.as_str()));
        if wanted {
            let sys = places.sys.clone();
            scans.push((
                host.name.clone(),
                Box::new(move || scsi::scan(&sys, &host.name).map_err(|error| error.to_string())),
            ));
        }
    }
    // Sessions' disks are asked by iscsiadm.
    for block in blkdev::list(&places.sys) {
        let by_session = sessions
            .iter()
            .any(|session| session.disks.contains(&block.name));
        if !by_session && scsi::identity(&places.sys, &block.name).is_some() {
            let sys = places.sys.clone();
            scans.push((
                block.name.clone(),
                Box::new(move || {
                    scsi::reread_size(&sys, &block.name).map_err(|error| error.to_string())
                }),
            ));
        }
    }
    let (sender, receiver) = mpsc::channel();
    let mut open: Vec<String> = Vec::new();
    for (name, scan) in scans {
        open.push(name.clone());
        let sender = sender.clone();
        std::thread::spawn(move || {
            let outcome = scan();
            // Nobody listens any more after the deadline.
            sender.send((name, outcome)).ok();
        });
    }
    drop(sender);
    let until = Instant::now() + DEADLINE;
    let mut faults = Vec::new();
    while !open.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let Ok((name, outcome)) = receiver.recv_timeout(left) else {
            break;
        };
        open.retain(|scanned| *scanned != name);
        if let Err(fault) = outcome {
            faults.push(format!("{name}: {fault}"));
        }
    }
    multipath::settle(context, places)?;
    if !open.is_empty() {
        return Err(Failure::new(
            FailureKind::Timeout,
            format!(
                "rescan: no end within {} s: {}",
                DEADLINE.as_secs(),
                open.join(", ")
            ),
        ));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Failed,
        format!("rescan: {}", faults.join("; ")),
    ))
}
