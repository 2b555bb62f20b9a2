//! Drives the lease's state machines with blocking I/O, one thing after the
//! other: for the index's lease, and for tools without a daemon.

use std::fmt;
use std::thread;
use std::time::Duration;

use disk_format::{Geometry, LockspaceName};
use lease::code::Code;
use lease::resource::{Effect, Input, Operation, Outcome, Owners, Place};
use lease::{IoOutcome, Monotonic, Now};
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError};
use sanlock_wire::Disk;

use super::device::{Device, open_code};

/// How long, in I/O timeouts, to try to put back a lease that was not had or
/// could not be given back.
const PUT_BACK_TIMES_T: u64 = 8;

/// The lockspace in which other hosts' delta leases are looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space<'a> {
    /// Its name.
    pub(crate) name: LockspaceName,
    /// Its geometry.
    pub(crate) geometry: Geometry,
    /// Where it lies.
    pub(crate) disk: &'a Disk,
}

/// Does what an operation asks for, one thing after the other.
pub(crate) struct Driver<'a> {
    devices: Vec<(BlockDevice, u64)>,
    /// `None`: no lockspace is known, nobody's delta lease can be read.
    pub(crate) space: Option<Space<'a>>,
    pub(crate) owners: &'a dyn Owners,
    /// Whether writing is still safe; asked before every write.
    pub(crate) alive: &'a dyn Fn() -> bool,
    /// I/O timeout, seconds.
    pub(crate) io_timeout_s: u8,
}

impl<'a> Driver<'a> {
    /// A driver for a lease on these disks, of which nothing else is known.
    ///
    /// # Errors
    /// The kernel's, when one of them cannot be opened.
    pub(crate) fn new(
        disks: &[Disk],
        owners: &'a dyn Owners,
        alive: &'a dyn Fn() -> bool,
        io_timeout_s: u8,
    ) -> Result<Self, Code> {
        let mut devices = Vec::new();
        for disk in disks {
            let device = BlockDevice::open(disk.path.as_path(), Access::ReadWrite)
                .map_err(|error| open_code(&error))?;
            devices.push((device, disk.offset));
        }
        Ok(Self {
            devices,
            space: None,
            owners,
            alive,
            io_timeout_s,
        })
    }

    /// Runs an operation until it can no longer change the disk.
    pub(crate) fn run(&self, operation: &mut dyn Operation) -> Outcome {
        let owners = self.owners;
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
                if deadline > known.plus_s(PUT_BACK_TIMES_T * u64::from(self.io_timeout_s)) {
                    break;
                }
            }
            let wait = deadline.0.saturating_sub(now().boottime.0);
            thread::sleep(Duration::from_nanos(wait));
            let input = if (self.alive)() {
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
        let owners = self.owners;
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
                let outcome = if now().boottime > *not_after || !(self.alive)() {
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
            Place::Disk(disk) => {
                let (device, start) = self.device(disk)?;
                device
                    .read_at(into, start.saturating_add(offset))
                    .map_err(number)
            }
            Place::OwnerDelta { lockspace, host_id } => {
                let space = self.space.filter(|space| space.name == lockspace);
                let space = space.ok_or(ENODEV)?;
                let device =
                    Device::open_lockspace(space.disk, Access::Read).map_err(|_| ENODEV)?;
                let sector = u64::from(space.geometry.sector_size());
                let distance = (u64::from(host_id.get()) - 1) * sector + offset;
                let start = space.disk.offset.saturating_add(distance);
                let read = device.read(start, into.len()).map_err(|code| -code.0)?;
                into.copy_from_slice(&read);
                Ok(())
            }
        }
    }

    /// # Errors
    /// The kernel's error number.
    fn write(&self, place: Place, offset: u64, from: &[u8]) -> Result<(), i32> {
        match place {
            Place::Disk(disk) => {
                let (device, start) = self.device(disk)?;
                device
                    .write_at(from, start.saturating_add(offset))
                    .map_err(number)
            }
            // Nobody writes another host's delta lease.
            Place::OwnerDelta { .. } => Err(EINVAL),
        }
    }

    fn device(&self, disk: u8) -> Result<(&BlockDevice, u64), i32> {
        let (device, offset) = self.devices.get(usize::from(disk)).ok_or(ENODEV)?;
        Ok((device, *offset))
    }
}

impl fmt::Debug for Driver<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Driver")
            .field("devices", &self.devices)
            .field("space", &self.space)
            .finish_non_exhaustive()
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

/// Both clocks.
pub(crate) fn now() -> Now {
    Now {
        monotonic: Monotonic(linux::clock::monotonic_ns()),
        boottime: Monotonic(linux::clock::boottime_ns()),
    }
}
