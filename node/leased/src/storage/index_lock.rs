//! The lease that protects a resource index: taken and given back by driving
//! the lease's state machines with blocking I/O.

use std::fmt;
use std::thread;
use std::time::Duration;

use disk_format::rindex::LEASE_NAME;
use disk_format::{Geometry, LockspaceName, ResourceName};
use lease::code::Code;
use lease::resource::{
    Acquire, AcquireOptions, Effect, Input, Operation, Outcome, Owners, Place, Release,
    ReleaseOptions, Target, Us,
};
use lease::{IoOutcome, Monotonic, Now};
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError};
use sanlock_wire::{Disk, Rindex};

use super::device::{Device, open_code};
use super::rindex::lease_offset;

/// How long, in I/O timeouts, to try to put back a lease that was not had or
/// could not be given back.
const PUT_BACK_TIMES_T: u64 = 8;

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

/// Does `work` while holding the index's lease. If the lease is not to be had
/// at once, its error is the result; if it cannot be given back, `work`'s.
pub(super) fn with_lock<T>(
    index: &Rindex,
    geometry: Geometry,
    member: &Member,
    work: impl FnOnce() -> Result<T, Code>,
) -> Result<T, Code> {
    let driver = Driver::new(index, geometry, member)?;
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
    let mut release = Release::new(member.us, target, &held, ReleaseOptions::default());
    let released = driver.run(&mut release).code;
    if result.is_ok() && released != Code::OK {
        tracing::warn!(code = released.0, "the index's lease was not given back");
    }
    result
}

/// Does what an operation asks for, one thing after the other.
struct Driver<'a> {
    member: &'a Member,
    /// The index's device, and where on it the lease lies.
    device: BlockDevice,
    offset: u64,
}

impl<'a> Driver<'a> {
    fn new(index: &Rindex, geometry: Geometry, member: &'a Member) -> Result<Self, Code> {
        let offset = lease_offset(index.disk.offset, geometry)?;
        let device = BlockDevice::open(index.disk.path.as_path(), Access::ReadWrite)
            .map_err(|error| open_code(&error))?;
        Ok(Self {
            member,
            device,
            offset,
        })
    }

    fn run(&self, operation: &mut dyn Operation) -> Outcome {
        let owners: &dyn Owners = self.member.owners.as_ref();
        let mut known_at = None;
        operation.handle(now(), Input::Start, owners);
        loop {
            while let Some(effect) = operation.next_effect() {
                self.perform(operation, &effect);
            }
            if operation.is_drained() {
                break;
            }
            // Standing back after a lost ballot; or, with the result known,
            // trying again to put back what was done. Nothing is in flight
            // here, so giving up after a while is safe: the lease then frees
            // itself when we next use it, or with our delta lease.
            let Some(deadline) = operation.deadline() else {
                break;
            };
            if operation.result().is_some() {
                let known = *known_at.get_or_insert_with(|| now().boottime);
                if deadline
                    > known.plus_s(PUT_BACK_TIMES_T * u64::from(self.member.us.io_timeout_s))
                {
                    break;
                }
            }
            let wait = deadline.0.saturating_sub(now().boottime.0);
            thread::sleep(Duration::from_nanos(wait));
            let input = if (self.member.alive)() {
                Input::Tick
            } else {
                Input::Abandon
            };
            operation.handle(now(), input, owners);
        }
        operation.result().cloned().unwrap_or(Outcome {
            code: Code::ERROR,
            held: None,
            lvb: None,
            notify: None,
            request: None,
            seen: None,
        })
    }

    fn perform(&self, operation: &mut dyn Operation, effect: &Effect) {
        let owners: &dyn Owners = self.member.owners.as_ref();
        match effect {
            Effect::Read {
                io,
                place,
                offset,
                bytes,
            } => {
                let mut buffer = AlignedBuffer::new(usize::try_from(*bytes).unwrap_or(0));
                let outcome = match self.read(*place, *offset, &mut buffer) {
                    Ok(()) => IoOutcome::Read(&buffer),
                    Err(number) => IoOutcome::Failed(number),
                };
                operation.handle(now(), Input::Io(*io, outcome), owners);
            }
            Effect::Write {
                io,
                place,
                offset,
                sector,
                not_after,
                content,
            } => {
                let mut buffer = AlignedBuffer::new(usize::try_from(*sector).unwrap_or(0));
                content.fill(&mut buffer);
                let outcome = if now().boottime > *not_after || !(self.member.alive)() {
                    IoOutcome::NotStarted
                } else {
                    match self.write(*place, *offset, &buffer) {
                        Ok(()) => IoOutcome::Written,
                        Err(number) => IoOutcome::Failed(number),
                    }
                };
                operation.handle(now(), Input::Io(*io, outcome), owners);
            }
        }
    }

    /// # Errors
    /// The kernel's error number.
    fn read(&self, place: Place, offset: u64, into: &mut [u8]) -> Result<(), i32> {
        match place {
            Place::Disk(_) => self
                .device
                .read_at(into, self.offset.saturating_add(offset))
                .map_err(number),
            Place::OwnerDelta { lockspace, host_id } => {
                if lockspace != self.member.lockspace {
                    return Err(ENODEV);
                }
                let space = &self.member.space;
                let device = Device::open_lockspace(space, Access::Read).map_err(|_| ENODEV)?;
                let sector = u64::from(self.member.geometry.sector_size());
                let start = space.offset + (u64::from(host_id.get()) - 1) * sector + offset;
                let read = device.read(start, into.len()).map_err(|code| -code.0)?;
                into.copy_from_slice(&read);
                Ok(())
            }
        }
    }

    fn write(&self, place: Place, offset: u64, from: &[u8]) -> Result<(), i32> {
        match place {
            Place::Disk(_) => self
                .device
                .write_at(from, self.offset.saturating_add(offset))
                .map_err(number),
            // Nobody writes another host's delta lease.
            Place::OwnerDelta { .. } => Err(EINVAL),
        }
    }
}

const EIO: i32 = 5;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EMSGSIZE: i32 = 90;

fn number(error: IoError) -> i32 {
    match error {
        IoError::Os(number) => number,
        IoError::Short(_) => EMSGSIZE,
        IoError::Expired => EIO,
    }
}

fn now() -> Now {
    Now {
        monotonic: Monotonic(linux::clock::monotonic_ns()),
        boottime: Monotonic(linux::clock::boottime_ns()),
    }
}
