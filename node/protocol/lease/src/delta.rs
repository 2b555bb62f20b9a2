//! Our own lease: the state machine around one record.

mod acquire;
mod held;
mod release;
mod seam;

use disk_format::{Generation, HostBitmap, HostExtras, Leader, delta};
use heapless::Deque;

pub use seam::{Config, Effect, Input, IoId, IoOutcome, Record};

use crate::status::{Failure, Loss, Note, Renewal, RenewalFailure, Rival, State, Status};
use crate::time::{Monotonic, Now};
use crate::timings;

/// Effects never wait for more than one call of [`DeltaLease::handle`].
const EFFECTS_MAX: usize = 8;
/// When nobody drains them the oldest notes go.
const NOTES_MAX: usize = 16;

/// A read or write that was asked for.
#[derive(Debug, Clone, Copy)]
struct Pending {
    io: IoId,
    since: Monotonic,
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    record: Leader,
    /// When it last changed before our eyes, or was first seen.
    since: Monotonic,
    renewed: bool,
    next_look: Monotonic,
    look: Option<Pending>,
}

/// Something we wrote at acquire.
#[derive(Debug, Clone, Copy)]
struct Claim {
    record: Leader,
    /// Seconds to wait before reading it back.
    settle_s: u64,
    /// When its timestamp was made.
    submitted: Monotonic,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// What we last wrote.
    record: Leader,
    /// Whether the disk surely holds exactly that.
    certain: bool,
    /// When the last successful renewal's timestamp was made.
    last_success: Monotonic,
    phase: Phase,
    failing: bool,
    trouble: Option<RenewalFailure>,
    watchdog_gone: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box would allocate in the renewal path"
)]
#[derive(Debug, Clone, Copy)]
enum Phase {
    Waiting {
        until: Monotonic,
    },
    Reading {
        read: Pending,
        /// How patient we have become with it.
        patience: Patience,
    },
    Writing {
        write: Pending,
        record: Leader,
        /// How long the reading before it took.
        read_ms: u64,
        warned: bool,
    },
}

/// Steps of waiting for one reading of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Less than half of T.
    Fresh,
    /// Reported as slow.
    Warned,
    /// Longer than T: counted as failed, but it gets T more before a fresh one
    /// is tried.
    Extended,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box would allocate in the renewal path"
)]
#[derive(Debug, Clone, Copy)]
enum Stage {
    Waiting(Option<Failure>),
    First(Pending),
    Watching(Watch),
    Writing {
        write: Pending,
        claim: Claim,
    },
    Settling {
        claim: Claim,
        until: Monotonic,
        look: Option<Pending>,
    },
    Registering {
        claim: Claim,
        until: Monotonic,
    },
    Held(Held),
    /// Reading back whether our claim still stands before it is freed.
    Unclaiming {
        read: Pending,
        claim: Claim,
    },
    Releasing {
        write: Pending,
    },
    Released,
    Lost {
        loss: Loss,
        generation: Generation,
        last_success: Monotonic,
        /// A renewal was still on its way to the disk.
        overtaken: bool,
    },
}

/// The lease on one host id.
///
/// After every [`Self::handle`], drain [`Self::next_effect`] and
/// [`Self::next_note`], and call again at [`Self::deadline`] at the latest.
#[derive(Debug, Clone)]
pub struct DeltaLease {
    config: Config,
    stage: Stage,
    now: Now,
    next_io: u64,
    /// A claim of ours may have landed at any moment, on top of anything: a
    /// record with our name no longer proves that nobody else held the lease.
    uncertain: bool,
    /// Whoever left a record with our name is surely over.
    succeeds: bool,
    /// By how much boot-time was ahead of the monotonic clock, ns, when the
    /// watchdog was last told an expiry.
    slept: u64,
    release_wanted: bool,
    /// How long a renewal's reading may take beyond T, ms.
    read_extend_ms: u64,
    renewals: u64,
    renewal_failures: u64,
    latest_renewal: Option<Renewal>,
    last_attempt: Option<Monotonic>,
    bitmap: HostBitmap,
    extras: HostExtras,
    effects: Deque<Effect, EFFECTS_MAX>,
    notes: Deque<Note, NOTES_MAX>,
}

impl DeltaLease {
    /// A lease not held and not asked for.
    ///
    /// # Panics
    /// When the I/O timeout is 0.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert!(config.io_timeout_s > 0, "io_timeout is 1 to 255 seconds");
        Self {
            config,
            stage: Stage::Waiting(None),
            now: Now::default(),
            next_io: 1,
            uncertain: false,
            succeeds: false,
            slept: 0,
            release_wanted: false,
            read_extend_ms: timings::io_s(config.io_timeout_s) * 1000,
            renewals: 0,
            renewal_failures: 0,
            latest_renewal: None,
            last_attempt: None,
            bitmap: HostBitmap::EMPTY,
            extras: HostExtras::NONE,
            effects: Deque::new(),
            notes: Deque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.now = self.now.max(now);
        // Whether the lease is still held is decided before anything else:
        // an outcome that arrives late must not revive it.
        self.expire_held();
        self.count_sleep();
        match input {
            Input::Tick => {}
            Input::Start(geometry) => self.start(geometry),
            Input::Io(io, outcome) => self.on_io(io, outcome),
            Input::WatchdogRegistered(registered) => self.on_registered(registered),
            Input::WatchdogGone => self.on_watchdog_gone(),
            Input::Release => self.on_release(),
        }
        // Each turn moves the deadline, or ends; three moves happen at most
        // (warn, give up a read, begin the next).
        for _ in 0..4 {
            if self.deadline().is_none_or(|due| due > self.now.boottime) {
                break;
            }
            self.on_due();
        }
    }

    /// The next thing to do, in order; `None` when there is no more.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next line for the log; `None` when there is no more.
    pub fn next_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// When, on the boot-time clock, to call [`Self::handle`] with
    /// [`Input::Tick`] at the latest; `None`: only when something happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let io_s = timings::io_s(self.config.io_timeout_s);
        match &self.stage {
            Stage::Waiting(_) | Stage::Released | Stage::Lost { .. } => None,
            Stage::First(io) | Stage::Unclaiming { read: io, .. } => Some(io.since.plus_s(io_s)),
            Stage::Writing { write: io, .. } | Stage::Releasing { write: io } => {
                Some(io.since.plus_s(io_s))
            }
            Stage::Watching(watch) => Some(
                watch
                    .look
                    .map_or(watch.next_look, |look| look.since.plus_s(io_s)),
            ),
            Stage::Settling { until, look, .. } => {
                Some(look.map_or(*until, |look| look.since.plus_s(io_s)))
            }
            Stage::Registering { until, .. } => Some(*until),
            Stage::Held(held) => Some(self.held_deadline(held)),
        }
    }

    /// How long a renewal's reading may take beyond T before a fresh one is
    /// tried, instead of T. With 0 a short moment is left to it all the same.
    pub fn extend_reads(&mut self, seconds: u32) {
        let extend_ms = u64::from(seconds) * 1000;
        self.read_extend_ms = extend_ms.max(timings::RETRY_PAUSE_MS);
    }

    /// Whom the following renewals call, and what they tell them.
    pub fn notify(&mut self, bitmap: HostBitmap, extras: HostExtras) {
        self.bitmap = bitmap;
        self.extras = extras;
    }

    /// Whether a claim or a renewal of ours may land, or have landed, at any
    /// moment, on top of anything: then a record with our name proves nothing.
    /// Ends when the lease is held.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        match &self.stage {
            Stage::Writing { .. } => true,
            Stage::Lost { overtaken, .. } => *overtaken,
            Stage::Waiting(_)
            | Stage::First(_)
            | Stage::Watching(_)
            | Stage::Settling { .. }
            | Stage::Registering { .. }
            | Stage::Held(_)
            | Stage::Unclaiming { .. }
            | Stage::Releasing { .. }
            | Stage::Released => self.uncertain,
        }
    }

    /// Tells a new lease that whatever an earlier one of this process left
    /// behind is over: everything it guarded has ended, its expiry was taken
    /// back, and nothing of it is on its way to the disk any more.
    pub fn assume_succession(&mut self) {
        self.succeeds = true;
    }

    /// Makes a new lease as careful as one that [`Self::is_uncertain`] and
    /// that it takes the place of.
    pub fn assume_uncertain(&mut self) {
        self.uncertain = true;
    }

    /// Where the lease stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status {
            state: State::Waiting,
            generation: None,
            last_renewal: None,
            expires: None,
            renewals: self.renewals,
            renewal_failures: self.renewal_failures,
            latest_renewal: self.latest_renewal,
            last_attempt: self.last_attempt,
            rival: None,
            failure: None,
            loss: None,
            trouble: None,
            watchdog_gone: false,
        };
        match &self.stage {
            Stage::Waiting(failure) => status.failure = *failure,
            Stage::First(_)
            | Stage::Writing { .. }
            | Stage::Settling { .. }
            | Stage::Registering { .. } => {
                status.state = State::Acquiring;
            }
            Stage::Watching(watch) => {
                status.state = if watch.renewed {
                    State::Busy
                } else {
                    State::Acquiring
                };
                status.rival = Some(self.rival(watch));
            }
            Stage::Held(held) => {
                status.state = if held.failing {
                    State::Failing
                } else {
                    State::Held
                };
                status.generation = Some(Generation(held.record.owner_generation));
                status.last_renewal = Some(held.last_success);
                status.expires = Some(self.lost_at(held));
                status.trouble = held.trouble;
                status.watchdog_gone = held.watchdog_gone;
            }
            Stage::Unclaiming { .. } | Stage::Releasing { .. } | Stage::Released => {
                status.state = State::Released
            }
            Stage::Lost {
                loss,
                generation,
                last_success,
                ..
            } => {
                status.state = State::Lost;
                status.generation = Some(*generation);
                status.last_renewal = Some(*last_success);
                status.loss = Some(*loss);
            }
        }
        status
    }

    /// Whether an answer to [`Effect::WatchdogRegister`] is waited for.
    #[must_use]
    pub fn is_registering(&self) -> bool {
        matches!(self.stage, Stage::Registering { .. })
    }

    /// While held: the timestamp on disk, in seconds of the monotonic clock,
    /// and when it was made, on the boot-time clock.
    #[must_use]
    pub fn stamped(&self) -> Option<(u64, Monotonic)> {
        match &self.stage {
            Stage::Held(held) => Some((held.record.timestamp, held.last_success)),
            Stage::Waiting(_)
            | Stage::First(_)
            | Stage::Watching(_)
            | Stage::Writing { .. }
            | Stage::Settling { .. }
            | Stage::Registering { .. }
            | Stage::Unclaiming { .. }
            | Stage::Releasing { .. }
            | Stage::Released
            | Stage::Lost { .. } => None,
        }
    }

    /// Whether a release has run its course: nothing of ours is on its way to
    /// the disk any more, or it is too late to care.
    #[must_use]
    pub fn is_released(&self) -> bool {
        matches!(self.stage, Stage::Released)
    }

    fn on_io(&mut self, io: IoId, outcome: IoOutcome<'_>) {
        match self.stage {
            Stage::First(read) if read.io == io => self.on_first(read, outcome),
            Stage::Watching(watch) => {
                if let Some(look) = watch.look.filter(|look| look.io == io) {
                    self.on_watched(watch, look, outcome);
                }
            }
            // Told late, as to a machine that stood still: it may have landed
            // late as well, when others had settled already.
            Stage::Writing { write, .. }
                if write.io == io
                    && matches!(outcome, IoOutcome::Written)
                    && self.now.boottime
                        > write.since.plus_s(timings::io_s(self.config.io_timeout_s)) =>
            {
                self.on_due();
            }
            Stage::Writing { write, claim } if write.io == io => self.on_claimed(claim, outcome),
            Stage::Settling {
                claim,
                look: Some(look),
                ..
            } if look.io == io => self.on_settled(claim, look, outcome),
            Stage::Held(held) => self.on_held_io(held, io, outcome),
            Stage::Unclaiming { read, claim } if read.io == io => {
                self.on_unclaim_read(&claim, outcome)
            }
            Stage::Releasing { write } if write.io == io => {
                self.end_release(matches!(outcome, IoOutcome::Written));
            }
            // The outcome of something given up.
            Stage::Waiting(_)
            | Stage::First(_)
            | Stage::Writing { .. }
            | Stage::Settling { .. }
            | Stage::Registering { .. }
            | Stage::Unclaiming { .. }
            | Stage::Releasing { .. }
            | Stage::Released
            | Stage::Lost { .. } => {}
        }
    }

    fn on_due(&mut self) {
        let t = self.config.io_timeout_s;
        match self.stage {
            Stage::Waiting(_) | Stage::Released | Stage::Lost { .. } => {}
            Stage::First(_) => self.fail(Failure::ReadTimeout(t)),
            Stage::Watching(watch) => self.on_watch_due(watch),
            Stage::Writing { .. } => {
                self.uncertain = true;
                self.fail(Failure::WriteTimeout(t));
            }
            Stage::Settling { claim, until, look } => self.on_settle_due(claim, until, look),
            Stage::Registering { .. } => self.on_registered(false),
            Stage::Held(held) => self.on_held_due(held),
            Stage::Unclaiming { .. } | Stage::Releasing { .. } => self.end_release(false),
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.note(Note::Failed(failure));
        self.stage = Stage::Waiting(Some(failure));
        if self.release_wanted {
            self.end_release(false);
        }
    }

    fn rival(&self, watch: &Watch) -> Rival {
        Rival {
            name: watch.record.resource_name,
            generation: Generation(watch.record.owner_generation),
            seen: watch.since,
            renewed: watch.renewed,
            dead_at: watch.since.plus_s(self.take_over_s(&watch.record)),
        }
    }

    fn pending(&mut self) -> Pending {
        let io = IoId(self.next_io);
        self.next_io += 1;
        Pending {
            io,
            since: self.now.boottime,
        }
    }

    fn read_own(&mut self) -> Pending {
        let read = self.pending();
        self.emit(Effect::ReadOwn(read.io));
        read
    }

    fn read_area(&mut self) -> Pending {
        let read = self.pending();
        self.emit(Effect::ReadArea(read.io));
        read
    }

    fn write(&mut self, record: &Leader, bitmap: &HostBitmap, not_after: Monotonic) -> Pending {
        // Nothing but our own record, in order, ever goes to disk.
        assert!(
            record.owner_id == u64::from(self.config.host_id.get()),
            "only our own host id is written"
        );
        assert!(
            record.resource_name == *self.config.host_name.field(),
            "only our own host name is written"
        );
        assert!(
            delta::verify(record, &self.config.lockspace) == Ok(()),
            "a record verifies before it is written"
        );
        let mut bytes = [0; delta::RECORD_BYTES];
        delta::encode_sector(record, bitmap, &mut bytes);
        let write = self.pending();
        self.emit(Effect::Write {
            io: write.io,
            not_after,
            record: bytes,
        });
        write
    }

    /// Seconds of the clock that goes to disk. Never 0, which means "free".
    fn timestamp(&self) -> u64 {
        self.now.monotonic.seconds().max(1)
    }

    /// The I/O timeout of a record's host, ours if it states none.
    fn io_timeout_of(&self, record: &Leader) -> u8 {
        match timings::io_timeout_of_record(record.io_timeout) {
            0 => self.config.io_timeout_s,
            theirs => theirs,
        }
    }

    fn emit(&mut self, effect: Effect) {
        assert!(
            self.effects.push_back(effect).is_ok(),
            "effects are drained after every call"
        );
    }

    fn note(&mut self, note: Note) {
        if self.notes.is_full() {
            self.notes.pop_front();
        }
        assert!(
            self.notes.push_back(note).is_ok(),
            "there is room for a note"
        );
    }
}
