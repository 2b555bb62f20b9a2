//! Giving the lease back (spec §3.4).
//!
//! The record is freed only when it is surely ours: a lease whose last
//! renewal is in doubt stays on disk as it is, and others wait for it to die.

use disk_format::Leader;

use super::{Claim, DeltaLease, Effect, IoOutcome, Phase, Stage};
use crate::status::{Failure, Note};
use crate::timings;

impl DeltaLease {
    pub(super) fn on_release(&mut self) {
        self.release_wanted = true;
        match self.stage {
            // Nothing of ours is on disk.
            Stage::Waiting(_) | Stage::First(_) | Stage::Watching(_) => self.end_release(false),
            // Its outcome decides, within T.
            Stage::Writing { .. } => {}
            Stage::Settling {
                claim: Claim { record, .. },
                ..
            } => self.unclaim(record),
            Stage::Registering { claim, .. } => {
                self.emit(Effect::WatchdogClear);
                self.free(&claim.record, None);
            }
            Stage::Held(held) => {
                if matches!(held.phase, Phase::Writing { .. }) {
                    // Freeing now could be undone by the renewal in flight;
                    // its outcome comes, or the lease is lost.
                    return;
                }
                if self.config.watchdog {
                    self.emit(Effect::WatchdogClear);
                }
                if held.certain {
                    self.free(&held.record, None);
                } else {
                    self.end_release(false);
                }
            }
            Stage::Unclaiming { .. }
            | Stage::Releasing { .. }
            | Stage::Released
            | Stage::Lost { .. } => {}
        }
    }

    /// Frees a claim that somebody may have written over meanwhile.
    pub(super) fn unclaim(&mut self, record: Leader) {
        let read = self.read_own();
        self.stage = Stage::Unclaiming { read, record };
    }

    pub(super) fn on_unclaim_read(&mut self, record: &Leader, outcome: IoOutcome<'_>) {
        match self.own_record(outcome, 0) {
            Ok(found) if found == *record => self.free(record, None),
            Ok(_) | Err(_) => self.end_release(false),
        }
    }

    /// Writes `record` with timestamp 0. After a `failure` to acquire, that is
    /// where it ends; otherwise the lease is released.
    pub(super) fn free(&mut self, record: &Leader, failure: Option<Failure>) {
        let freed = Leader {
            timestamp: 0,
            ..*record
        }
        .sealed();
        let not_after = self
            .now
            .boottime
            .plus_s(timings::io_s(self.config.io_timeout_s));
        let write = self.write(&freed, not_after);
        self.stage = match failure {
            // Whether it lands does not matter: the next attempt reads first.
            Some(failure) => Stage::Waiting(Some(failure)),
            None => Stage::Releasing { write },
        };
    }

    pub(super) fn end_release(&mut self, clean: bool) {
        self.note(Note::Released { clean });
        self.stage = Stage::Released;
    }
}
