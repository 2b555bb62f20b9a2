//! From nothing to held (spec §3.2).
//!
//! Three deliberate differences to the original, none visible to it:
//! - another's record is looked at every T while we wait, so that a release
//!   or a sign of life is seen at once instead of at the end;
//! - the wait begins anew with every change, so that a busy host id is taken
//!   as soon as its holder is surely dead, without anybody asking again;
//! - a write must begin within T of the read it rests on, and if its outcome
//!   stays unknown, finding our own record on disk later proves nothing (it
//!   may have landed on top of a new holder's): it is then waited for as if it
//!   were another's.

use disk_format::{Generation, Geometry, HostBitmap, Leader, delta};

use super::{Claim, DeltaLease, Effect, Held, IoOutcome, Pending, Phase, Stage, Watch};
use crate::status::{Failure, Note};
use crate::time::Monotonic;
use crate::timings;

/// How far a record's timestamp may be ahead of its writer's clock, seconds.
const AHEAD_S: u64 = 2;

impl DeltaLease {
    pub(super) fn start(&mut self, geometry: Geometry) {
        if matches!(self.stage, Stage::Waiting(_)) && self.config.host_id.fits(geometry).is_ok() {
            self.last_attempt = Some(self.now.boottime);
            self.stage = Stage::First(self.read_own());
        }
    }

    pub(super) fn on_first(&mut self, read: Pending, outcome: IoOutcome<'_>) {
        match self.own_record(outcome) {
            Ok(record) if self.is_available(&record) => {
                self.claim(record, next_generation(&record), read)
            }
            Ok(record) => self.watch(record, false),
            Err(failure) => self.fail(failure),
        }
    }

    /// Whether a record may be written over without waiting for anybody.
    fn is_available(&self, record: &Leader) -> bool {
        let ours = record
            .resource_name
            .same_name(self.config.host_name.field());
        record.timestamp == 0 || (ours && !self.uncertain && self.is_over(record))
    }

    /// Whether the process that left a record with our name is over together
    /// with everything it guarded: the machine was started anew since, which
    /// its clock tells; or there was no watchdog to guard anything with.
    ///
    /// Otherwise a new generation would let others have at once what the old
    /// one's clients still use until their watchdog fires.
    fn is_over(&self, record: &Leader) -> bool {
        // Renewals that follow each other within a second write ahead of time.
        let now_s = self.timestamp().saturating_add(AHEAD_S);
        self.succeeds || !self.config.watchdog || record.timestamp > now_s
    }

    /// Seconds after which an unchanged record's host is surely dead.
    pub(super) fn take_over_s(&self, record: &Leader) -> u64 {
        let t = self.io_timeout_of(record);
        // A record of our own that landed late may hide the holder's timeout.
        let t = if self.uncertain {
            t.max(self.config.io_timeout_s)
        } else {
            t
        };
        timings::host_dead_s(t, self.config.fire_timeout_s)
    }

    fn watch(&mut self, record: Leader, renewed: bool) {
        let since = self.now.boottime;
        let watch = Watch {
            record,
            since,
            renewed,
            next_look: self.next_look(since, &record),
            look: None,
        };
        let rival = self.rival(&watch);
        self.note(if renewed {
            Note::Busy(rival)
        } else {
            Note::Watching(rival)
        });
        self.stage = Stage::Watching(watch);
    }

    /// T from now, but a look that will decide comes exactly when it can.
    fn next_look(&self, since: Monotonic, record: &Leader) -> Monotonic {
        let regular = self
            .now
            .boottime
            .plus_s(timings::io_s(self.config.io_timeout_s));
        let decisive = since.plus_s(self.take_over_s(record));
        if decisive > self.now.boottime {
            regular.min(decisive)
        } else {
            regular
        }
    }

    pub(super) fn on_watch_due(&mut self, watch: Watch) {
        if watch.look.is_some() {
            self.fail(Failure::ReadTimeout(self.config.io_timeout_s));
        } else {
            let look = Some(self.read_area());
            self.stage = Stage::Watching(Watch { look, ..watch });
        }
    }

    pub(super) fn on_watched(&mut self, watch: Watch, look: Pending, outcome: IoOutcome<'_>) {
        match self.own_record(outcome) {
            Err(failure) => self.fail(failure),
            Ok(record) => {
                let unchanged = record == watch.record;
                let surely_dead = watch.since.plus_s(self.take_over_s(&watch.record));
                let abandoned = unchanged && look.since >= surely_dead;
                if abandoned || self.is_available(&record) {
                    self.claim(record, next_generation(&record), look);
                } else if unchanged {
                    let next_look = self.next_look(watch.since, &record);
                    self.stage = Stage::Watching(Watch {
                        next_look,
                        look: None,
                        ..watch
                    });
                } else if watch.renewed && record.owner_generation == watch.record.owner_generation
                {
                    // Still alive: nothing new to tell.
                    let since = self.now.boottime;
                    let next_look = self.next_look(since, &record);
                    self.stage = Stage::Watching(Watch {
                        record,
                        since,
                        next_look,
                        look: None,
                        ..watch
                    });
                } else {
                    self.watch(record, true);
                }
            }
        }
    }

    /// Writes our claim over `found`, as it was read by `read`.
    fn claim(&mut self, found: Leader, generation: Generation, read: Pending) {
        let t = self.config.io_timeout_s;
        let not_after = read.since.plus_s(timings::io_s(t));
        if self.now.boottime > not_after {
            return self.fail(Failure::Stalled);
        }
        let settle_s = timings::settle_s(self.io_timeout_of(&found).max(t));
        let record = Leader {
            owner_id: u64::from(self.config.host_id.get()),
            owner_generation: generation.0,
            resource_name: *self.config.host_name.field(),
            timestamp: self.timestamp(),
            io_timeout: u16::from(t),
            ..found
        }
        .sealed();
        let write = self.write(&record, &HostBitmap::EMPTY, not_after);
        let claim = Claim {
            record,
            settle_s,
            submitted: self.now.boottime,
        };
        self.stage = Stage::Writing { write, claim };
    }

    pub(super) fn on_claimed(&mut self, claim: Claim, outcome: IoOutcome<'_>) {
        match outcome {
            IoOutcome::Written if self.release_wanted => self.unclaim(claim),
            IoOutcome::Written => {
                let until = self.now.boottime.plus_s(claim.settle_s);
                self.stage = Stage::Settling {
                    claim,
                    until,
                    look: None,
                };
            }
            IoOutcome::Failed(error) => {
                self.uncertain = true;
                self.fail(Failure::WriteFailed(error));
            }
            IoOutcome::NotStarted | IoOutcome::Read(_) => self.fail(Failure::Stalled),
        }
    }

    pub(super) fn on_settle_due(&mut self, claim: Claim, until: Monotonic, look: Option<Pending>) {
        if look.is_some() {
            self.fail(Failure::ReadTimeout(self.config.io_timeout_s));
        } else {
            let look = Some(self.read_own());
            self.stage = Stage::Settling { claim, until, look };
        }
    }

    pub(super) fn on_settled(&mut self, claim: Claim, look: Pending, outcome: IoOutcome<'_>) {
        match self.own_record(outcome) {
            Err(failure) => self.fail(failure),
            // A previous holder with a longer timeout made us wait so long that
            // our own lease would soon expire: once more, with our own.
            Ok(record) if record == claim.record && self.is_stale(&claim) => {
                let generation = self.generation_anew(&claim, look);
                self.claim(record, generation, look);
            }
            Ok(record) if record == claim.record => self.register(claim),
            // Another host was faster, or slower: its record is there now.
            Ok(record) => self.watch(record, true),
        }
    }

    /// The generation of a claim that is made anew, as `look` found it: the
    /// same, if it surely lands within 8T of the first. Otherwise somebody with
    /// a longer timeout may have looked after that, and call the generation dead
    /// at 8T + W without another look.
    fn generation_anew(&self, claim: &Claim, look: Pending) -> Generation {
        let t = self.config.io_timeout_s;
        let landed = look.since.plus_s(timings::io_s(t));
        if landed <= claim.submitted.plus_s(timings::lost_s(t)) {
            Generation(claim.record.owner_generation)
        } else {
            next_generation(&claim.record)
        }
    }

    fn is_stale(&self, claim: &Claim) -> bool {
        let limit = timings::claim_s(self.config.io_timeout_s);
        self.now.boottime > claim.submitted.plus_s(limit)
    }

    fn register(&mut self, claim: Claim) {
        if self.config.watchdog {
            let renewal_s = claim.record.timestamp;
            let lost_s = timings::lost_s(self.config.io_timeout_s);
            let expire_s = self.expiry_s(claim.submitted.plus_s(lost_s));
            self.emit(Effect::WatchdogRegister {
                renewal_s,
                expire_s,
            });
            let until = self
                .now
                .boottime
                .plus_s(timings::io_s(self.config.io_timeout_s));
            self.stage = Stage::Registering { claim, until };
        } else {
            self.hold(claim);
        }
    }

    pub(super) fn on_registered(&mut self, registered: bool) {
        let Stage::Registering { claim, .. } = self.stage else {
            return;
        };
        if registered {
            self.hold(claim);
        } else {
            // The registration may have been made all the same.
            self.note(Note::Failed(Failure::Watchdog));
            self.emit(Effect::WatchdogClear);
            // Nobody waits for its outcome, but the next attempt begins only
            // when that is known.
            self.write_freed(&claim.record);
            self.stage = Stage::Waiting(Some(Failure::Watchdog));
        }
    }

    fn hold(&mut self, claim: Claim) {
        self.uncertain = false;
        self.renewals = 0;
        self.latest_renewal = None;
        self.renewal_failures = 0;
        let generation = Generation(claim.record.owner_generation);
        self.note(Note::Acquired {
            host_id: self.config.host_id,
            generation,
        });
        self.stage = Stage::Held(Held {
            record: claim.record,
            certain: true,
            last_success: claim.submitted,
            phase: Phase::Waiting {
                until: self.first_renewal(&claim),
            },
            failing: false,
            trouble: None,
            watchdog_gone: false,
        });
        self.expire_held();
    }

    /// 2T after the claim, and yet not at once: clients of the original rely on
    /// a moment in which nothing is known of other hosts.
    fn first_renewal(&self, claim: &Claim) -> Monotonic {
        let due = claim
            .submitted
            .plus_s(timings::renewal_s(self.config.io_timeout_s));
        let moment = self.now.boottime.plus_ms(timings::FIRST_PAUSE_MS);
        due.max(moment)
    }

    /// Our record out of what was read, verified.
    pub(super) fn own_record(&self, outcome: IoOutcome<'_>) -> Result<Leader, Failure> {
        match outcome {
            IoOutcome::Read(bytes) => {
                let record = delta::leader(bytes).ok_or(Failure::ReadFailed(0))?;
                delta::verify(&record, &self.config.lockspace)?;
                Ok(record)
            }
            IoOutcome::Failed(error) => Err(Failure::ReadFailed(error)),
            IoOutcome::NotStarted | IoOutcome::Written => Err(Failure::Stalled),
        }
    }
}

/// The generation of the acquisition after the one in `record`.
fn next_generation(record: &Leader) -> Generation {
    Generation(record.owner_generation).next()
}
