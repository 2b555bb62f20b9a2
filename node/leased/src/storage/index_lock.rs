//! The lease that protects a resource index: taken and given back by driving
//! the lease's state machines with blocking I/O.

use std::fmt;

use disk_format::rindex::LEASE_NAME;
use disk_format::{Geometry, LockspaceName, ResourceName};
use lease::code::Code;
use lease::resource::{
    Acquire, AcquireOptions, Outcome, Owners, Release, ReleaseOptions, Target, Us,
};
use sanlock_wire::{Disk, Rindex};

use super::driver::{Driver, Space};
use super::rindex::lease_offset;

/// Our membership in the index's lockspace, as of when the command began.
pub struct Member {
    /// Ourselves.
    pub us: Us,
    /// The lockspace's name.
    pub lockspace: LockspaceName,
    /// The lockspace's geometry.
    pub geometry: Geometry,
    /// Where the lockspace lies.
    pub space: Disk,
    /// What is known of its other hosts.
    pub owners: Box<dyn Owners + Send>,
    /// Whether our delta lease is surely still ours; asked before every write.
    pub alive: Box<dyn Fn() -> bool + Send>,
    /// Decides how long to stand back after a lost ballot; another for every
    /// host and command.
    pub seed: u64,
}

impl fmt::Debug for Member {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Member")
            .field("us", &self.us)
            .field("lockspace", &self.lockspace)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Before a write under the lock.
    ///
    /// # Errors
    /// [`Code::ENOSPC`] once the lockspace may be lost.
    pub(super) fn check(&self) -> Result<(), Code> {
        if (self.alive)() {
            Ok(())
        } else {
            Err(Code::ENOSPC)
        }
    }
}

/// Does `work` while holding the index's lease, which lies one area of this
/// geometry after the index. The outer error is the lease's, if it is not to
/// be had at once; that it cannot be given back afterwards is only logged.
pub(super) fn with_lock<T>(
    index: &Rindex,
    geometry: Geometry,
    member: &Member,
    work: impl FnOnce() -> Result<T, Code>,
) -> Result<Result<T, Code>, Code> {
    let disk = Disk {
        path: index.disk.path.clone(),
        offset: lease_offset(index.disk.offset, geometry)?,
    };
    let alive = || (member.alive)();
    let mut driver = Driver::new(
        &[disk],
        member.owners.as_ref(),
        &alive,
        member.us.io_timeout_s,
    )?;
    driver.space = Some(Space {
        name: member.lockspace,
        geometry: member.geometry,
        disk: &member.space,
    });
    let target = Target {
        lockspace: member.lockspace,
        resource: ResourceName::new(LEASE_NAME).map_err(|_| Code::EINVAL)?,
        geometry: member.geometry,
        disks: 1,
    };
    let options = AcquireOptions {
        no_wait: true,
        ..AcquireOptions::default()
    };
    let mut acquire = Acquire::new(member.us, target, options, member.seed);
    let held = match driver.run(&mut acquire) {
        Outcome {
            code: Code::OK,
            held: Some(held),
            ..
        } => held,
        outcome => return Err(outcome.code),
    };
    let result = work();
    // As the original: one write less.
    let options = ReleaseOptions {
        unmarked: true,
        ..ReleaseOptions::default()
    };
    let mut release = Release::new(member.us, target, &held, options);
    let released = driver.run(&mut release).code;
    if released != Code::OK {
        tracing::warn!(code = released.0, "the index's lease was not given back");
    }
    Ok(result)
}
