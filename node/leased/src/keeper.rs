//! The thread that keeps every delta lease of this machine.
//!
//! What it is: all [`lease::DeltaLease`] cores, one a lockspace, with their
//! I/O, their watchdog connections and their clocks, behind a handle that
//! never waits. What it is not: it makes no decision of the protocol, and it
//! knows nothing of resources, clients, or what is believed of other hosts;
//! what it reads of those it hands over as it is ([`Event::Area`]).
//!
//! ```text
//!   owner of the handle ──commands──▶ keeper thread ──▶ ring ──▶ devices
//!                       ◀──events────      │ ▲     └──▶ wdmd's sockets, without waiting
//!                                     tasks│ │outcomes
//!                                          ▼ │
//!                     one thread for each lockspace that is being joined:
//!                     opens the device, talks to wdmd
//! ```
//!
//! A renewal reads the area and writes our sector. While nobody was ever seen
//! behind the first 128 KiB (256 hosts of 512 bytes each) only they are read,
//! but for every fourth time: what is saved is the better part of the processor
//! time of a renewal, what it costs is that a host that appears behind them is
//! seen up to 8T late, which is before its first call could be missed.
//!
//! Invariants:
//! - while leases are held the keeper thread allocates nothing, opens nothing,
//!   and waits for nothing but its deadlines and the kernel's completions;
//! - a device or a watchdog that hangs holds up no lockspace but its own: it
//!   keeps at most two requests of each of its lockspaces in flight, and
//!   buffers they sit on are replaced;
//! - an owner that does not take its events holds up nothing: readings are
//!   then reused undelivered, everything else waits in its lockspace;
//! - every join ends with exactly one [`Event::JoinFailed`] or [`Event::Left`].

mod handle;
mod journal;
mod opening;
mod outbox;
mod pool;
mod space;
mod status;
#[cfg(test)]
mod tests;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use disk_format::{Generation, Geometry, HostId, HostName, LockspaceName};
use lease::code::Code;
use lease::{Monotonic, Now};
use linux::disk::{AlignedBuffer, BlockDevice};
use linux::ring::Backend;

pub use handle::Keeper;
pub use opening::JoinError;
pub use status::{Joining, SpaceStatus, reason};

/// Lockspaces at once, those included that end. A join beyond fails with
/// [`Code::ENOSPC`].
pub const SPACES_MAX: usize = 1000;

/// A lockspace joined once; never used twice in the life of a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

impl fmt::Display for SpaceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "s{}", self.0)
    }
}

/// Largest request that a block device of a lockspace is told to make of one
/// (`max_sectors_kb`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestSize {
    /// Left as it is.
    Ignore,
    /// As large as the lockspace's area.
    Align,
    /// So many KiB.
    Kib(u32),
}

/// How the keeper works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether the thread takes real-time priority; a refusal is only logged.
    pub realtime: bool,
    /// How requests reach the kernel.
    pub backend: Backend,
    /// What block devices are told.
    pub request_size: RequestSize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            realtime: true,
            backend: Backend::Auto,
            request_size: RequestSize::Kib(1024),
        }
    }
}

/// A lockspace to join.
#[derive(Debug, Clone)]
pub struct Join {
    /// Its number.
    pub id: SpaceId,
    /// Its name.
    pub name: LockspaceName,
    /// Our host id in it.
    pub host_id: HostId,
    /// Our unique name.
    pub host_name: HostName,
    /// Device or file.
    pub path: PathBuf,
    /// Byte offset of the area.
    pub offset: u64,
    /// T, seconds, 1–255.
    pub io_timeout_s: u8,
    /// The watchdogs' fire timeout, seconds; equal on all hosts.
    pub fire_timeout_s: u32,
    /// How long a renewal's reading may take beyond T, seconds; `None`: T.
    pub read_extend_s: Option<u32>,
    /// wdmd's socket; `None`: no watchdog.
    pub watchdog: Option<PathBuf>,
    /// Keeps trying whatever goes wrong, and waits for another host that has
    /// the host id. Otherwise the first failure ends the join with a code.
    pub persistent: bool,
}

/// What happened in a lockspace.
#[derive(Debug)]
pub enum Event {
    /// The lease is held.
    Joined {
        /// The area's geometry.
        geometry: Geometry,
        /// Our generation.
        generation: Generation,
        /// The open device.
        device: Arc<BlockDevice>,
        /// The timestamp on disk, seconds of the monotonic clock.
        timestamp_s: u64,
        /// When that was made, on the boot-time clock.
        submitted: Monotonic,
    },
    /// The join came to nothing, and the lockspace is forgotten.
    JoinFailed {
        /// What its client is told.
        code: Code,
        /// The same for a person, with the next step.
        reason: Arc<str>,
    },
    /// A part of the area was read. Give the buffer back with
    /// [`Keeper::recycle`], soon.
    Area {
        /// The area's geometry.
        geometry: Geometry,
        /// Which MiB of the area.
        part: usize,
        /// What was read.
        buffer: AlignedBuffer,
        /// When reading began, on the boot-time clock.
        asked: Monotonic,
        /// When it was done.
        read_at: Now,
    },
    /// A renewal succeeded.
    Renewed(lease::Renewal),
    /// Renewal attempts failed since the last event of this kind.
    RenewalFailed {
        /// Why the latest did.
        code: Code,
        /// How many.
        attempts: u64,
    },
    /// Not renewed for 6T.
    Failing,
    /// The lease is lost for good: whatever uses it must end. Its expiry
    /// stands at the watchdog until [`Keeper::abandon`].
    Lost {
        /// Why.
        code: Code,
        /// When the last successful renewal was submitted, on the boot-time
        /// clock.
        last_success: Monotonic,
    },
    /// The lockspace was left and is forgotten.
    Left {
        /// [`Code::OK`], or why it was lost before.
        code: Code,
    },
}

/// Both clocks.
#[must_use]
pub fn now() -> Now {
    Now {
        monotonic: Monotonic(linux::clock::monotonic_ns()),
        boottime: Monotonic(linux::clock::boottime_ns()),
    }
}
