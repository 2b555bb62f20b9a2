//! What a lease is told, and what it asks for.

use disk_format::{Geometry, HostId, HostName, LockspaceName, delta};

use crate::time::Monotonic;

/// What of a sector carries meaning.
pub type Record = [u8; delta::RECORD_BYTES];

/// Whose lease, in which lockspace.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The lockspace.
    pub lockspace: LockspaceName,
    /// Our host id.
    pub host_id: HostId,
    /// Our unique host name; another host with the same one would be taken
    /// for ourselves.
    pub host_name: HostName,
    /// T, seconds, 1–255.
    pub io_timeout_s: u8,
    /// The watchdogs' fire timeout, seconds; equal on all hosts.
    pub fire_timeout_s: u32,
    /// Whether the lease must be registered with a watchdog before it counts.
    pub watchdog: bool,
}

/// Names one read or write; its outcome carries the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// How a read or write ended. There is no "timed out": the lease sees the
/// time pass itself, and an outcome that comes later is recognised as late.
#[derive(Debug, Clone, Copy)]
pub enum IoOutcome<'a> {
    /// A read is done: the first [`delta::RECORD_BYTES`] of our sector. What
    /// was read of the others is for [`crate::hosts::Hosts`].
    Read(&'a [u8]),
    /// A write is done and durable.
    Written,
    /// The kernel's error number. A failed write may have changed the disk.
    Failed(i32),
    /// Surely not done: it never began.
    NotStarted,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The device is open and holds our lockspace with this geometry, which
    /// has room for our host id: begin to acquire. Ignored unless the state
    /// is [`State::Waiting`].
    Start(Geometry),
    /// Time has passed. Always harmless.
    Tick,
    /// A read or write ended. Outcomes of abandoned ones are ignored.
    Io(IoId, IoOutcome<'a>),
    /// The answer to [`Effect::WatchdogRegister`].
    WatchdogRegistered(bool),
    /// The watchdog's connection broke.
    WatchdogGone,
    /// Give the lease back.
    Release,
}

/// What to do.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would allocate in the renewal path"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Read our host id's sector.
    ReadOwn(IoId),
    /// Read every host's sector.
    ReadArea(IoId),
    /// Write our host id's sector (the rest of it zero), unless boot-time has
    /// passed `not_after` when the write would begin.
    Write {
        /// Its name.
        io: IoId,
        /// Latest start.
        not_after: Monotonic,
        /// What to write.
        record: Record,
    },
    /// Register with the watchdog; answered by [`Input::WatchdogRegistered`].
    WatchdogRegister {
        /// Monotonic seconds of the last renewal.
        renewal_s: u64,
        /// Monotonic seconds of the expiry.
        expire_s: u64,
    },
    /// Move the expiry; not answered.
    WatchdogUpdate {
        /// Monotonic seconds of the last renewal.
        renewal_s: u64,
        /// Monotonic seconds of the expiry.
        expire_s: u64,
    },
    /// Take the expiry back: the lease is given up in an orderly way.
    WatchdogClear,
}
