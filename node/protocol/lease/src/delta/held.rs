//! Renewal, and loss (spec §3.3 and §3.5). Nothing here allocates.

use disk_format::{Generation, Leader, delta};

use super::{DeltaLease, Effect, Held, IoId, IoOutcome, Patience, Pending, Phase, Stage};
use crate::status::{Loss, Note, Renewal, RenewalFailure, Stalled};
use crate::time::Monotonic;
use crate::timings;

impl DeltaLease {
    pub(super) fn lost_at(&self, held: &Held) -> Monotonic {
        held.last_success
            .plus_s(timings::lost_s(self.config.io_timeout_s))
    }

    pub(super) fn held_deadline(&self, held: &Held) -> Monotonic {
        let t = self.config.io_timeout_s;
        let lost = self.lost_at(held);
        let warn = if held.failing {
            lost
        } else {
            held.last_success.plus_s(timings::failing_s(t))
        };
        let phase = match held.phase {
            Phase::Waiting { until } => until,
            Phase::Reading { read, patience } => match patience {
                Patience::Fresh => read.since.plus_ms(timings::stalling_ms(t)),
                Patience::Warned => read.since.plus_s(timings::io_s(t)),
                Patience::Extended => self.given_up_at(&read),
            },
            Phase::Writing {
                write,
                warned: false,
                ..
            } => write.since.plus_ms(timings::stalling_ms(t)),
            // A renewal write is waited for to the end: a second one could be
            // overtaken by the first.
            Phase::Writing { warned: true, .. } => lost,
        };
        phase.min(warn).min(lost)
    }

    /// Makes a lease that was not renewed for 8T lost.
    pub(super) fn expire_held(&mut self) {
        if let Stage::Held(held) = &self.stage
            && self.now.boottime >= self.lost_at(held)
        {
            let loss = Loss::Expired(timings::lost_s(self.config.io_timeout_s));
            let held = *held;
            self.lose(&held, loss);
        }
    }

    fn lose(&mut self, held: &Held, loss: Loss) {
        self.note(Note::Lost(loss));
        self.stage = Stage::Lost {
            loss,
            generation: Generation(held.record.owner_generation),
            last_success: held.last_success,
            overtaken: matches!(held.phase, Phase::Writing { .. }),
        };
    }

    /// The watchdog's clock stands still while the machine sleeps, ours does
    /// not: after a sleep the expiry it was told is moved to where it belongs.
    pub(super) fn count_sleep(&mut self) {
        let slept = self.slept();
        let expires = match &self.stage {
            Stage::Held(held) => self.lost_at(held),
            Stage::Lost { last_success, .. } => {
                last_success.plus_s(timings::lost_s(self.config.io_timeout_s))
            }
            Stage::Waiting(_)
            | Stage::First(_)
            | Stage::Watching(_)
            | Stage::Writing { .. }
            | Stage::Settling { .. }
            | Stage::Registering { .. }
            | Stage::Unclaiming { .. }
            | Stage::Releasing { .. }
            | Stage::Released => return,
        };
        if !self.config.watchdog || slept < self.slept.saturating_add(timings::SLEEP_NS) {
            return;
        }
        let expire_s = self.expiry_s(expires);
        self.emit(Effect::WatchdogUpdate {
            renewal_s: expire_s.saturating_sub(timings::lost_s(self.config.io_timeout_s)),
            expire_s,
        });
    }

    /// A point of boot-time in the watchdog's seconds, for as long as the
    /// machine does not sleep. Never 0, which means "none".
    pub(super) fn expiry_s(&mut self, at: Monotonic) -> u64 {
        self.slept = self.slept();
        Monotonic(at.0.saturating_sub(self.slept)).seconds().max(1)
    }

    /// By how much boot-time is ahead of the monotonic clock.
    pub(super) fn slept(&self) -> u64 {
        self.now.boottime.0.saturating_sub(self.now.monotonic.0)
    }

    pub(super) fn on_held_due(&mut self, mut held: Held) {
        let now = self.now.boottime;
        let t = self.config.io_timeout_s;
        if now >= self.lost_at(&held) {
            return self.expire_held();
        }
        if !held.failing && now >= held.last_success.plus_s(timings::failing_s(t)) {
            held.failing = true;
            self.note(Note::Failing {
                age_ms: now.ms_since(held.last_success),
            });
        }
        match held.phase {
            Phase::Waiting { until } if now >= until => {
                self.last_attempt = Some(now);
                held.phase = Phase::Reading {
                    read: self.read_area(),
                    patience: Patience::Fresh,
                };
            }
            Phase::Reading { read, patience } => self.on_reading_due(&mut held, read, patience),
            Phase::Writing {
                write,
                record,
                read_ms,
                warned: false,
            } if now >= write.since.plus_ms(timings::stalling_ms(t)) => {
                self.note(Note::Stalling {
                    what: Stalled::Write,
                    age_ms: now.ms_since(write.since),
                });
                held.phase = Phase::Writing {
                    write,
                    record,
                    read_ms,
                    warned: true,
                };
            }
            Phase::Waiting { .. } | Phase::Writing { .. } => {}
        }
        self.stage = Stage::Held(held);
    }

    /// When a reading is abandoned.
    fn given_up_at(&self, read: &Pending) -> Monotonic {
        read.since
            .plus_s(timings::io_s(self.config.io_timeout_s))
            .plus_ms(self.read_extend_ms)
    }

    fn on_reading_due(&mut self, held: &mut Held, read: Pending, patience: Patience) {
        let now = self.now.boottime;
        let io_s = timings::io_s(self.config.io_timeout_s);
        let stalling_ms = timings::stalling_ms(self.config.io_timeout_s);
        match patience {
            Patience::Fresh if now >= read.since.plus_ms(stalling_ms) => {
                self.note(Note::Stalling {
                    what: Stalled::Read,
                    age_ms: now.ms_since(read.since),
                });
                held.phase = Phase::Reading {
                    read,
                    patience: Patience::Warned,
                };
            }
            Patience::Warned if now >= read.since.plus_s(io_s) => {
                held.phase = Phase::Reading {
                    read,
                    patience: Patience::Extended,
                };
                self.trouble(held, RenewalFailure::ReadTimeout);
            }
            Patience::Extended if now >= self.given_up_at(&read) => {
                self.retry(held, RenewalFailure::ReadAbandoned);
            }
            Patience::Fresh | Patience::Warned | Patience::Extended => {}
        }
    }

    pub(super) fn on_held_io(&mut self, held: Held, io: IoId, outcome: IoOutcome<'_>) {
        match held.phase {
            Phase::Reading { read, .. } if read.io == io => {
                let read_ms = self.now.boottime.ms_since(read.since);
                self.on_renewal_read(held, read_ms, outcome);
            }
            Phase::Writing {
                write,
                record,
                read_ms,
                ..
            } if write.io == io => {
                let renewal = Renewal {
                    submitted: write.since,
                    timestamp_s: record.timestamp,
                    read_ms,
                    write_ms: self.now.boottime.ms_since(write.since),
                };
                self.on_renewed(held, renewal, record, outcome);
            }
            // The outcome of a read given up.
            Phase::Waiting { .. } | Phase::Reading { .. } | Phase::Writing { .. } => {}
        }
    }

    fn on_renewal_read(&mut self, mut held: Held, read_ms: u64, outcome: IoOutcome<'_>) {
        let sector = match outcome {
            IoOutcome::Read(sector) => sector,
            IoOutcome::Failed(error) => {
                self.retry(&mut held, RenewalFailure::ReadFailed(error));
                self.stage = Stage::Held(held);
                return;
            }
            IoOutcome::NotStarted | IoOutcome::Written => {
                self.retry(&mut held, RenewalFailure::NotStarted);
                self.stage = Stage::Held(held);
                return;
            }
        };
        let Some(found) = delta::leader(sector) else {
            self.retry(&mut held, RenewalFailure::ReadFailed(0));
            self.stage = Stage::Held(held);
            return;
        };
        if let Err(loss) = self.still_ours(&held, &found) {
            return self.lose(&held, loss);
        }
        let record = Leader {
            // Others know a renewal by its change. Between two within one
            // second of this clock, which stands still in sleep, time may have
            // passed for them.
            timestamp: self.timestamp().max(found.timestamp.saturating_add(1)),
            io_timeout: u16::from(self.config.io_timeout_s),
            ..self.extras.stored_in(found)
        }
        .sealed();
        let bitmap = self.bitmap;
        let write = self.write(&record, &bitmap, self.lost_at(&held));
        held.phase = Phase::Writing {
            write,
            record,
            read_ms,
            warned: false,
        };
        self.stage = Stage::Held(held);
    }

    /// What was found where our record should be.
    fn still_ours(&self, held: &Held, found: &Leader) -> Result<(), Loss> {
        delta::verify(found, &self.config.lockspace)?;
        let ours = &held.record;
        let same_owner = found.owner_id == ours.owner_id
            && found.owner_generation == ours.owner_generation
            && found.resource_name == ours.resource_name;
        if !same_owner {
            return Err(Loss::Owner {
                name: found.resource_name,
                owner_id: found.owner_id,
                generation: Generation(found.owner_generation),
            });
        }
        // After a write of unknown outcome either of two records may be there.
        if held.certain && found != ours {
            Err(Loss::Changed)
        } else {
            Ok(())
        }
    }

    fn on_renewed(
        &mut self,
        mut held: Held,
        renewal: Renewal,
        record: Leader,
        outcome: IoOutcome<'_>,
    ) {
        match outcome {
            IoOutcome::Written => {
                let t = self.config.io_timeout_s;
                if held.trouble.take().is_some() || held.failing {
                    self.note(Note::Recovered {
                        gap_ms: renewal.submitted.ms_since(held.last_success),
                    });
                }
                held.failing = false;
                held.record = record;
                held.certain = true;
                held.last_success = renewal.submitted;
                self.latest_renewal = Some(renewal);
                held.phase = Phase::Waiting {
                    until: renewal.submitted.plus_s(timings::renewal_s(t)),
                };
                self.renewals += 1;
                if self.config.watchdog {
                    let expire_s = self.expiry_s(self.lost_at(&held));
                    self.emit(Effect::WatchdogUpdate {
                        renewal_s: record.timestamp,
                        expire_s,
                    });
                }
            }
            IoOutcome::Failed(error) => {
                held.certain = false;
                self.retry(&mut held, RenewalFailure::WriteFailed(error));
            }
            IoOutcome::NotStarted | IoOutcome::Read(_) => {
                self.retry(&mut held, RenewalFailure::NotStarted)
            }
        }
        self.stage = Stage::Held(held);
        if self.release_wanted {
            self.on_release();
        }
    }

    fn retry(&mut self, held: &mut Held, failure: RenewalFailure) {
        held.phase = Phase::Waiting {
            until: self.now.boottime.plus_ms(timings::RETRY_PAUSE_MS),
        };
        self.trouble(held, failure);
    }

    /// Counts every failure, tells only of the first of its kind in a row.
    fn trouble(&mut self, held: &mut Held, failure: RenewalFailure) {
        self.renewal_failures += 1;
        if held.trouble != Some(failure) {
            self.note(Note::RenewalFailed(failure));
        }
        held.trouble = Some(failure);
    }

    pub(super) fn on_watchdog_gone(&mut self) {
        if let Stage::Held(held) = &mut self.stage
            && !held.watchdog_gone
        {
            held.watchdog_gone = true;
            self.note(Note::WatchdogGone);
        }
    }
}
