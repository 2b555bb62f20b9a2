//! When a host makes itself the SPM.
//!
//! The lease decides between two that try at once; this only sees to it that
//! the best one tries first, that nobody tries while there is an SPM or a
//! manager that appoints one, and that a host that fails lets others try.

use lease::Monotonic;

/// The lease has to be free for so long before the best host takes it.
pub const GRACE_MS: u64 = 5_000;
/// Each better host is given so long more.
pub const TURN_MS: u64 = 10_000;
/// A view older than this is not acted upon; views come every 20 to 30 s.
pub const VIEW_MS: u64 = 60_000;
/// A manager was there if it was seen within this.
pub const MANAGER_MS: u64 = 300_000;
/// After an operator's stop this host stays back for so long.
pub const HOLD_OFF_MS: u64 = 120_000;
/// Pause after a failed start; doubles up to [`FAILED_MAX_MS`].
pub const FAILED_MS: u64 = 20_000;
/// Longest pause after failed starts.
pub const FAILED_MAX_MS: u64 = 120_000;

/// A live member of the master domain's lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its host id.
    pub host_id: u16,
    /// How well it sees the storage, 0 (not at all) to 100; `None` when it
    /// does not say, which counts as 50.
    pub score: Option<u8>,
}

/// Who holds the `SDM` lease of the master domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, or a host that is surely dead.
    Nobody,
    /// Somebody who may be alive, or ourselves.
    Somebody,
    /// It could not be read.
    Unknown,
}

/// Decides when to try.
#[derive(Debug, Clone)]
pub struct Takeover {
    host_id: u16,
    enabled: bool,
    viewed: Option<Monotonic>,
    free_since: Option<Monotonic>,
    better: u64,
    able: bool,
    manager_seen: Option<Monotonic>,
    hold_until: Monotonic,
    failures: u32,
}

impl Takeover {
    /// For this host. `enabled` is off by default where VDSM hosts share the
    /// pool: their manager appoints the SPM.
    #[must_use]
    pub fn new(host_id: u16, enabled: bool) -> Self {
        Self {
            host_id,
            enabled,
            viewed: None,
            free_since: None,
            better: 0,
            able: false,
            manager_seen: None,
            hold_until: Monotonic(0),
            failures: 0,
        }
    }

    /// What the lockspace looks like; told at least twice in [`VIEW_MS`].
    pub fn view(&mut self, now: Monotonic, holder: Holder, live: &[Candidate]) {
        let stale = self.is_stale(now);
        self.viewed = Some(now);
        match holder {
            Holder::Somebody => {
                self.free_since = None;
                self.failures = 0;
            }
            // Neither a reason to begin counting nor to begin anew.
            Holder::Unknown => {}
            Holder::Nobody if stale => self.free_since = Some(now),
            Holder::Nobody => {
                self.free_since.get_or_insert(now);
            }
        }
        let rank = |one: &Candidate| (std::cmp::Reverse(one.score.unwrap_or(50)), one.host_id);
        let own = live.iter().find(|one| one.host_id == self.host_id);
        self.able = own.is_some_and(|own| own.score != Some(0));
        let better = own.map_or(0, |own| {
            live.iter().filter(|one| rank(one) < rank(own)).count()
        });
        self.better = u64::try_from(better).unwrap_or(u64::MAX);
    }

    /// A manager that appoints SPMs gave an order.
    pub fn manager_seen(&mut self, now: Monotonic) {
        self.manager_seen = Some(now);
    }

    /// An operator took the role from this host.
    pub fn stood_down(&mut self, now: Monotonic) {
        self.hold_until = self.hold_until.max(now.plus_ms(HOLD_OFF_MS));
    }

    /// A start ended without service.
    pub fn failed(&mut self, now: Monotonic) {
        let pause = FAILED_MS << self.failures.min(10);
        self.failures += 1;
        self.hold_until = self.hold_until.max(now.plus_ms(pause.min(FAILED_MAX_MS)));
    }

    /// When to try, as things stand; `None`: not at all. To be asked again
    /// after every call of the others.
    #[must_use]
    pub fn due(&self, now: Monotonic) -> Option<Monotonic> {
        if !self.enabled || !self.able || self.is_stale(now) {
            return None;
        }
        let turn = GRACE_MS.saturating_add(TURN_MS.saturating_mul(self.better));
        let mut due = self.free_since?.plus_ms(turn).max(self.hold_until);
        if let Some(seen) = self.manager_seen {
            due = due.max(seen.plus_ms(MANAGER_MS));
        }
        Some(due)
    }

    fn is_stale(&self, now: Monotonic) -> bool {
        self.viewed
            .is_none_or(|viewed| now.ms_since(viewed) > VIEW_MS)
    }
}
