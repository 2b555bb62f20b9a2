//! The `SDM` leases, as simple as their promises: the timing of the real ones,
//! none of their workings (those are the lease world's business).
//!
//! ```text
//!   0            20 …            80                    140 s after the last renewal
//!   |-------------|--------------|----------------------|------▶
//!   renewal       renewal due    lost: daemon says so   others may take it
//! ```
//! A lease whose writer is gone is free at once, as long as the machine's lease
//! daemon is alive to say so. There is no watchdog: a writer without a lease is
//! ended by the cores in time, or the judge objects.

use crate::clock::S;

/// Between renewals, ns.
pub(super) const RENEWAL: u64 = 20 * S;
/// After the last renewal the lease is lost, ns.
pub(super) const LOST: u64 = 80 * S;
/// After the last renewal others may take it, ns.
pub(super) const FREE: u64 = 140 * S;

/// Who holds one lease: a machine's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) machine: usize,
    pub(super) writer: u64,
}

/// One machine's membership.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Membership {
    /// The last renewal; `None`: not a member.
    pub(super) renewed: Option<u64>,
    /// Cannot renew before.
    pub(super) cut_until: u64,
    /// The daemon does not answer before.
    pub(super) mute_until: u64,
}

impl Membership {
    /// Whether leases of this machine still count as held by its own daemon.
    pub(super) fn is_fresh(&self, now: u64) -> bool {
        self.renewed.is_some_and(|renewed| now < renewed + LOST)
    }

    /// Whether others may take its leases.
    pub(super) fn is_dead(&self, now: u64) -> bool {
        self.renewed.is_none_or(|renewed| now >= renewed + FREE)
    }
}
