//! Numbers about leases.

use lease::Monotonic;
use lease::code::Code;

/// How often something was done, and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Times.
    pub count: u64,
    /// All of them together, microseconds.
    pub total_us: u64,
    /// The longest, microseconds.
    pub longest_us: u64,
}

impl Timing {
    pub(super) fn add(&mut self, from: Monotonic, to: Monotonic) {
        let us = to.0.saturating_sub(from.0) / 1_000;
        self.count += 1;
        self.total_us = self.total_us.saturating_add(us);
        self.longest_us = self.longest_us.max(us);
    }
}

/// Numbers about one resource, or about all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Leases won on disk.
    pub acquires: Timing,
    /// Leases given back on disk.
    pub releases: Timing,
    /// Changes of mode.
    pub conversions: Timing,
    /// Shares of a lease this host had already.
    pub joined: u64,
    /// Orphans adopted.
    pub adopted: u64,
    /// Acquires refused because another host has the lease.
    pub contended: u64,
    /// Acquires refused because another process of this host has the lease.
    pub busy: u64,
    /// Operations that ended in a failure of the storage or of a record.
    pub failed: u64,
    /// Operations that ran into their time-out.
    pub timed_out: u64,
    /// Requests of other hosts acted upon.
    pub requested: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Metrics {
    pub(super) fn count_failure(&mut self, code: Code) {
        if is_contention(code) {
            self.contended += 1;
        } else if code == Code::AIO_TIMEOUT {
            self.timed_out += 1;
        } else {
            self.failed += 1;
        }
    }

    pub(super) fn count_io(&mut self, write: bool) {
        if write {
            self.writes += 1;
        } else {
            self.reads += 1;
        }
    }
}

/// Whether others simply have the lease.
pub(super) fn is_contention(code: Code) -> bool {
    matches!(
        code,
        Code::EAGAIN
            | Code::ACQUIRE_IDLIVE
            | Code::ACQUIRE_OWNED
            | Code::ACQUIRE_OTHER
            | Code::ACQUIRE_SHRETRY
            | Code::ACQUIRE_OWNED_RETRY
    )
}
