//! Giving the lease back (spec §3.4).
//!
//! The record is freed only when it is surely ours: a lease whose last
//! renewal is in doubt stays on disk as it is, and others wait for it to die.

use disk_format::{HostBitmap, Leader};

use super::{Claim, DeltaLease, Effect, IoOutcome, Pending, Phase, Stage};
use crate::status::Note;
use crate::timings;

impl DeltaLease {
    pub(super) fn on_release(&mut self) {
        self.release_wanted = true;
        match self.stage {
            // Nothing of ours is on disk.
            Stage::Waiting(_) | Stage::First(_) | Stage::Watching(_) => self.end_release(false),
            // Its outcome decides, within T.
            Stage::Writing { .. } => {}
            Stage::Settling { claim, .. } => self.unclaim(claim),
            Stage::Registering { claim, .. } => {
                self.emit(Effect::WatchdogClear);
                self.free(&claim.record);
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
                    self.free(&held.record);
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
    pub(super) fn unclaim(&mut self, claim: Claim) {
        let read = self.read_own();
        self.stage = Stage::Unclaiming { read, claim };
    }

    pub(super) fn on_unclaim_read(&mut self, claim: &Claim, outcome: IoOutcome<'_>) {
        match self.own_record(outcome) {
            Ok(found) if found == claim.record => self.free(&claim.record),
            Ok(_) | Err(_) => self.end_release(false),
        }
    }

    fn free(&mut self, record: &Leader) {
        let write = self.write_freed(record);
        self.stage = Stage::Releasing { write };
    }

    /// Writes `record` with timestamp 0.
    pub(super) fn write_freed(&mut self, record: &Leader) -> Pending {
        let freed = Leader {
            timestamp: 0,
            ..*record
        }
        .sealed();
        let io_s = timings::io_s(self.config.io_timeout_s);
        self.write(&freed, &HostBitmap::EMPTY, self.now.boottime.plus_s(io_s))
    }

    pub(super) fn end_release(&mut self, clean: bool) {
        self.note(Note::Released { clean });
        self.stage = Stage::Released;
    }
}
