//! Hands memory back that children needed only to start.
//!
//! udevd, journald and the consoles touch most of their program text once, in
//! the first seconds. Nothing presses the kernel to drop those pages, so a node
//! would carry them for as long as it runs. They are clean copies of the
//! read-only root and are read again if they are needed again. The lease
//! daemon's memory is locked and promised to it, and PID 1 is left alone: what
//! keeps a lease safe must not wait for the root disk.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use linux::cgroup::{self, Cgroup};

use crate::boot::steps::Context;
use crate::children::table::CHILDREN_GROUP;
use crate::{time, worker};

/// How often it is looked whether the devices of the boot have appeared.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for udevd's workers to end once nothing is left to do.
const REST: Duration = Duration::from_secs(5);
/// More than there is: everything that can be dropped.
const AMOUNT: &str = "4G";

/// Waits for the end of the boot's work and then trims once.
pub async fn after_boot(context: Rc<Context>) {
    while !context.facts.borrow().devices_settled(time::now()) {
        smol::Timer::after(LOOK_INTERVAL).await;
    }
    smol::Timer::after(REST).await;
    let trimmed = worker::run("trim", || trim(Path::new(cgroup::ROOT))).await;
    if let Err(error) = trimmed.and_then(|done| done) {
        tracing::warn!("start-up memory is kept: {error}");
    }
}

/// Drops what can be dropped below the children's group of the hierarchy at `root`.
fn trim(root: &Path) -> io::Result<()> {
    let children = Cgroup::create(root, CHILDREN_GROUP)?;
    match children.limit("memory.reclaim", AMOUNT) {
        // "Less than asked for", which is how it always ends.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_childrens_group_alone_is_trimmed_and_a_refusal_is_told() {
        let root = tempfile::tempdir().unwrap();
        let children = root.path().join(CHILDREN_GROUP);
        std::fs::create_dir(&children).unwrap();
        trim(root.path()).unwrap();
        let knob = children.join("memory.reclaim");
        assert_eq!(std::fs::read_to_string(&knob).unwrap(), AMOUNT);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        std::fs::remove_file(&knob).unwrap();
        std::fs::create_dir(&knob).unwrap();
        assert!(trim(root.path()).is_err());
    }
}
