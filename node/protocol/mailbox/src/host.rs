//! The requester's side: one host's requests, and the answers to them.
//!
//! ```text
//!            baseline read       own mailbox cleared
//!  Baseline ───────────▶ Clearing ───────────▶ Running ── stop ──▶ Stopping ──▶ Stopped
//!   ▲     │ failed: 2 s                            │
//!   └─────┘                              each slot │
//!                                                  ▼
//!           request written            good answer, or refused         CLEAN seen, or 10 s
//!     Free ─────────────────▶ Asked ───────────────────────────▶ Clean ───────────────▶ Free
//!      ▲                        │ no answer in time                             (slot zeroed)
//!      └────────────────────────┘ (slot zeroed; the request takes another slot)
//! ```
//!
//! A request is apart from its slot: when it is refused, or not answered, it
//! leaves the slot and later takes another one, so that the SPM sees something
//! new at once, whatever it remembers of the old slot.

mod answers;
mod deadline;
mod jobs;

use std::collections::{BTreeMap, VecDeque};

use disk_format::vdsm::mailbox::{EventBlock, Extend};
use lease::Monotonic;

use crate::desk::{Desk, Owner};
use crate::mail::{self, Block, MAILBOX_BYTES, SLOTS};
use crate::random::Random;
use crate::seam::{Effect, IoId, IoOutcome, Note, Outcome, RequestId, Volume};
use crate::timings;

/// When nobody drains them the oldest notes go.
const NOTES_MAX: usize = 64;

/// Whose mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Our host id, 1 to 249 where the SPM is VDSM's.
    pub host_id: u16,
    /// A random number, another one each time: event ids follow from it, and
    /// in which slot the first request goes (the seed modulo 63).
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Time has passed. Always harmless. The first one starts the mailbox.
    Tick,
    /// Somebody wants a volume to be larger. Answered by exactly one
    /// [`Effect::Completed`].
    Extend(RequestId, Extend),
    /// A read or write ended. Those of no use any more are ignored.
    Io(IoId, IoOutcome<'a>),
    /// Answer every caller, clear our mailbox, end with [`Effect::Stopped`].
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Baseline,
    Clearing,
    Running,
    Stopping { tries: u32 },
    Stopped,
}

/// A request, apart from where it is written.
#[derive(Debug, Clone)]
struct Job {
    extend: Extend,
    callers: Vec<RequestId>,
    slot: Option<usize>,
    give_up_at: Monotonic,
    /// Not to be sent before.
    not_before: Monotonic,
    refusals: u32,
    resends: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Asked { job: u64, since: Monotonic },
    Clean { since: Monotonic },
}

/// What a write carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// Our mailbox, in this version.
    Mailbox(u64),
    /// The event for versions up to this one.
    Event(u64),
}

/// One host's mailbox, requester's side.
///
/// After every [`Self::handle`], drain [`Self::next_effect`] and
/// [`Self::next_note`], and call again at [`Self::deadline`] at the latest.
#[derive(Debug, Clone)]
pub struct Host {
    config: Config,
    stage: Stage,
    now: Monotonic,
    next_io: u64,
    random: Random,
    reads: Desk<()>,
    writes: Desk<Carried>,
    /// What our mailbox in the inbox shall hold.
    image: Box<Block>,
    version: u64,
    /// The newest version surely written.
    written: u64,
    /// The SPM is to be told of versions up to this one; 0: of none.
    event_owed: u64,
    /// When to write once more after an unknown outcome, and how often it was.
    settle: Option<(Monotonic, usize)>,
    /// Our mailbox in the outbox as last read.
    seen: Box<Block>,
    /// That was read since the last time nothing was outstanding.
    fresh: bool,
    look_at: Monotonic,
    active_since: Monotonic,
    slots: [Slot; SLOTS],
    next_slot: usize,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    effects: VecDeque<Effect>,
    notes: VecDeque<Note>,
}

impl Host {
    /// A mailbox that has done nothing yet.
    ///
    /// # Panics
    /// When the host id is 0, which is the event block's.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert!(config.host_id > 0, "host ids begin with 1");
        Self {
            config,
            stage: Stage::Baseline,
            now: Monotonic(0),
            next_io: 1,
            random: Random(config.seed),
            reads: Desk::new(Volume::Outbox, false),
            writes: Desk::new(Volume::Inbox, true),
            image: Box::new([0; MAILBOX_BYTES]),
            version: 1,
            written: 0,
            event_owed: 0,
            settle: None,
            seen: Box::new([0; MAILBOX_BYTES]),
            fresh: false,
            look_at: Monotonic(0),
            active_since: Monotonic(0),
            slots: [Slot::Free; SLOTS],
            next_slot: usize::try_from(config.seed % 63).unwrap_or(0),
            jobs: BTreeMap::new(),
            next_job: 1,
            effects: VecDeque::new(),
            notes: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Monotonic, input: Input<'_>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Extend(request, extend) => self.on_extend(request, extend),
            Input::Io(io, outcome) => self.on_io(io, outcome),
            Input::Stop => self.on_stop(),
        }
        self.advance();
    }

    /// The next thing to do, in order; `None` when there is no more.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next line for the log; `None` when there is no more.
    pub fn next_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// Whether requests are sent: the baseline is read, our mailbox cleared.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// How many requests have not ended, joined ones counting once.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.jobs.len()
    }

    fn on_io(&mut self, io: IoId, outcome: IoOutcome<'_>) {
        match self.reads.owner(io) {
            Owner::Pending((), _) => return self.on_read(outcome),
            Owner::Abandoned => return,
            Owner::Nobody => {}
        }
        match self.writes.owner(io) {
            Owner::Pending(carried, _) => self.on_written(carried, outcome),
            // It may have landed on top of what was written since.
            Owner::Abandoned => self.change(false),
            Owner::Nobody => {}
        }
    }

    fn on_read(&mut self, outcome: IoOutcome<'_>) {
        let bytes: &Block = match outcome {
            IoOutcome::Read(bytes) => match bytes.try_into() {
                Ok(bytes) => bytes,
                Err(_) => return self.read_failed(None),
            },
            IoOutcome::Failed(errno) => return self.read_failed(Some(errno)),
            IoOutcome::Written | IoOutcome::Unknown => return self.read_failed(None),
        };
        let note = self.reads.succeeded();
        self.notes(note);
        match self.stage {
            Stage::Baseline => {
                *self.seen = *bytes;
                self.stage = Stage::Clearing;
            }
            Stage::Running => {
                self.on_answers(bytes);
                *self.seen = *bytes;
                self.fresh = true;
                self.look_at = self.now.plus_ms(self.pace_ms());
            }
            Stage::Clearing | Stage::Stopping { .. } | Stage::Stopped => {}
        }
    }

    fn read_failed(&mut self, errno: Option<i32>) {
        let note = self.reads.failed(self.now, errno);
        self.notes(note);
        if self.stage == Stage::Baseline {
            self.look_at = self.now.plus_ms(timings::BASELINE_RETRY_MS);
        }
    }

    fn on_written(&mut self, carried: Carried, outcome: IoOutcome<'_>) {
        let errno = match outcome {
            IoOutcome::Written => None,
            IoOutcome::Failed(errno) => Some(Some(errno)),
            IoOutcome::Read(_) | IoOutcome::Unknown => Some(None),
        };
        let Some(errno) = errno else {
            let note = self.writes.succeeded();
            self.notes(note);
            match carried {
                Carried::Mailbox(version) => self.on_mailbox_written(version),
                Carried::Event(version) => {
                    if self.event_owed <= version {
                        self.event_owed = 0;
                    }
                }
            }
            return;
        };
        let note = self.writes.failed(self.now, errno);
        self.notes(note);
        self.write_failed(carried);
    }

    fn write_failed(&mut self, carried: Carried) {
        if matches!(carried, Carried::Mailbox(_)) {
            self.settle = Some((self.now.plus_ms(timings::SETTLE_MS[0]), 0));
        }
        if let Stage::Stopping { tries } = &mut self.stage {
            *tries += 1;
            if *tries >= timings::STOP_TRIES {
                self.stopped();
            }
        }
    }

    fn on_mailbox_written(&mut self, version: u64) {
        self.written = self.written.max(version);
        match self.stage {
            Stage::Clearing => {
                self.stage = Stage::Running;
                self.notes(Some(Note::Running));
            }
            Stage::Stopping { .. } if self.written == self.version => self.stopped(),
            Stage::Stopping { .. } | Stage::Baseline | Stage::Running | Stage::Stopped => {}
        }
    }

    fn on_stop(&mut self) {
        match self.stage {
            Stage::Stopping { .. } | Stage::Stopped => return,
            Stage::Baseline | Stage::Clearing | Stage::Running => {}
        }
        let jobs = std::mem::take(&mut self.jobs);
        for job in jobs.into_values() {
            self.answer(&job.callers, Outcome::Stopped);
        }
        self.slots = [Slot::Free; SLOTS];
        self.image.fill(0);
        self.change(false);
        self.event_owed = 0;
        self.stage = Stage::Stopping { tries: 0 };
    }

    fn stopped(&mut self) {
        self.stage = Stage::Stopped;
        self.effects.push_back(Effect::Stopped);
    }

    /// Does what is due.
    fn advance(&mut self) {
        if self.reads.give_up(self.now).is_some() {
            self.read_failed(None);
        }
        if let Some(carried) = self.writes.give_up(self.now) {
            let note = self.writes.failed(self.now, None);
            self.notes(note);
            self.write_failed(carried);
        }
        // Callers are answered in time, whatever the storage does.
        self.expire_jobs();
        if self.stage == Stage::Running {
            self.expire_slots();
            self.fill_slots();
        }
        // What was read is a baseline only for what is sent while it is kept up.
        if !self.has_sent() {
            self.fresh = false;
        }
        self.begin_write();
        self.begin_read();
    }

    fn begin_write(&mut self) {
        match self.stage {
            Stage::Baseline | Stage::Stopped => return,
            Stage::Clearing | Stage::Running | Stage::Stopping { .. } => {}
        }
        if let Some((at, turn)) = self.settle
            && self.now >= at
        {
            self.version += 1;
            self.settle = timings::SETTLE_MS
                .get(turn + 1)
                .map(|pause| (self.now.plus_ms(*pause), turn + 1));
        }
        if !self.writes.is_free(self.now) {
            return;
        }
        // An event goes out as soon as its mailbox is on the disk, even when the
        // mailbox has changed again: the SPM reads while we write on.
        if self.event_owed > 0 && self.written >= self.event_owed {
            let bytes = EventBlock {
                id: self.random.event_id(),
            }
            .encode()
            .to_vec();
            let carried = Carried::Event(self.event_owed);
            return self.write(carried, 0, bytes);
        }
        if self.written < self.version {
            mail::seal(&mut self.image);
            let offset = u64::from(self.config.host_id) * mail::MAILBOX_STEP;
            let bytes = self.image.to_vec();
            self.write(Carried::Mailbox(self.version), offset, bytes);
        }
    }

    fn write(&mut self, carried: Carried, offset: u64, bytes: Vec<u8>) {
        let io = self.io();
        self.writes.begin(io, self.now, carried);
        self.effects.push_back(Effect::Write {
            io,
            volume: Volume::Inbox,
            offset,
            bytes,
        });
    }

    fn begin_read(&mut self) {
        let wanted = match self.stage {
            Stage::Baseline => true,
            Stage::Running => self.looks(),
            Stage::Clearing | Stage::Stopping { .. } | Stage::Stopped => false,
        };
        if !wanted || self.now < self.look_at || !self.reads.is_free(self.now) {
            return;
        }
        let io = self.io();
        self.reads.begin(io, self.now, ());
        self.effects.push_back(Effect::Read {
            io,
            volume: Volume::Outbox,
            offset: u64::from(self.config.host_id) * mail::MAILBOX_STEP,
            length: MAILBOX_BYTES,
        });
    }

    /// Our mailbox has changed; with `tell`, the SPM shall look at it at once.
    fn change(&mut self, tell: bool) {
        self.version += 1;
        if tell {
            self.event_owed = self.version;
            self.active_since = self.now;
            self.look_at = self.look_at.min(self.now.plus_ms(timings::FAST_MS));
        }
    }

    fn io(&mut self) -> IoId {
        let io = IoId(self.next_io);
        self.next_io += 1;
        io
    }

    fn answer(&mut self, callers: &[RequestId], outcome: Outcome) {
        for request in callers {
            self.effects.push_back(Effect::Completed {
                request: *request,
                outcome,
            });
        }
    }

    fn notes(&mut self, note: Option<Note>) {
        let Some(note) = note else { return };
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }
}
