//! When something is due.

use lease::Monotonic;

use super::{Host, Slot, Stage};
use crate::desk::sooner;
use crate::timings;

impl Host {
    /// When to call [`Self::handle`] with [`super::Input::Tick`] at the latest;
    /// `None`: only when something happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        if self.stage == Stage::Stopped {
            return None;
        }
        let mut due = sooner(self.reads.limit(), self.writes.limit());
        due = sooner(due, self.jobs.values().map(|job| job.give_up_at).min());
        let looks = match self.stage {
            Stage::Baseline => true,
            Stage::Running => self.looks(),
            Stage::Clearing | Stage::Stopping { .. } | Stage::Stopped => false,
        };
        if looks {
            due = sooner(due, self.reads.free_at().map(|at| at.max(self.look_at)));
        }
        if self.stage != Stage::Baseline {
            due = sooner(due, self.settle.map(|(at, _)| at));
            if self.written < self.version || self.event_owed > 0 {
                due = sooner(due, self.writes.free_at());
            }
        }
        if self.stage == Stage::Running {
            for slot in &self.slots {
                due = sooner(due, self.slot_due(*slot));
            }
            let waiting = self.jobs.values().filter(|job| job.slot.is_none());
            let next = waiting.map(|job| job.not_before).min();
            // Those that are ready wait for a slot, not for the time.
            due = sooner(due, next.filter(|at| *at > self.now));
        }
        due
    }

    fn slot_due(&self, slot: Slot) -> Option<Monotonic> {
        match slot {
            Slot::Free => None,
            Slot::Clean { since } => Some(since.plus_ms(timings::CLEAN_LIMIT_MS)),
            Slot::Asked { job, since } => {
                let resends = self.jobs.get(&job).map_or(0, |job| job.resends);
                Some(since.plus_ms(timings::RESEND_MS << resends.min(8)))
            }
        }
    }

    /// Whether the outbox is of interest.
    pub(super) fn looks(&self) -> bool {
        self.has_sent() || self.jobs.values().any(|job| job.not_before <= self.now)
    }

    /// Whether anything is in our mailbox.
    pub(super) fn has_sent(&self) -> bool {
        self.slots.iter().any(|slot| *slot != Slot::Free)
    }

    /// How long until the next look.
    pub(super) fn pace_ms(&self) -> u64 {
        let quiet = self.now.ms_since(self.active_since);
        if quiet < timings::FAST_FOR_MS {
            timings::FAST_MS
        } else if quiet < timings::SLOW_FOR_MS {
            timings::SLOW_MS
        } else {
            timings::SLOWEST_MS
        }
    }
}
