//! The SPM's side: reads everybody's mail, has volumes extended, answers.
//!
//! ```text
//!            outbox zeroed              Stop                   commits ended
//!  Zeroing ─────────────▶ Running ─────────────▶ Draining ──────────────────▶ Over
//!     │                      │                      │                          ▲
//!     └──────────────────────┴── LeaseLost ─────────┴──────── at once ─────────┘
//!
//!  a request, or a local one        batch ended well               host shows CLEAN
//!  ───▶ pending ───▶ in a batch ─────────────────────▶ replied ──────────────────▶ CLEAN
//!          ▲             │ unknown: after 1 s, again      │
//!          └─────────────┘ refused: replied with 0        └ unacknowledged: written again
//! ```
//!
//! Reading: block 0 every 20 ms while something goes on, every 250 ms
//! otherwise; another event id there means that everybody's mail is read at
//! once. Without one, all mail is read every 2 s while something goes on, and
//! a part of it every 2 s while nothing does (see [`crate::timings`]); if a
//! request is found that no event told of, all of it for the next ten minutes.

mod answers;
mod batches;
mod looking;
mod peer;

use std::collections::{BTreeMap, VecDeque};

use disk_format::vdsm::DomainId;
use lease::Monotonic;

use self::batches::{Key, Ticket, Want};
use self::looking::{Look, Looking};
use self::peer::Peer;
use crate::desk::{Desk, Owner};
use crate::mail::{Extend, MAILBOX_BYTES, MAILBOX_STEP};
use crate::seam::{BatchId, Committed, Effect, IoId, IoOutcome, Note, Outcome, RequestId, Volume};
use crate::timings;

/// When nobody drains them the oldest notes go.
const NOTES_MAX: usize = 256;

/// How the SPM's side works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Mailboxes, the event block included: 250 means host ids 1 to 249.
    pub mailboxes: u16,
    /// Whether there is mail at all. Without, only local requests are gathered
    /// into batches: that is how a host works whose domains have no SPM.
    pub mail: bool,
    /// Whether answers carry a checksum, which hosts of ours could check and
    /// VDSM's ignore.
    pub checksum: bool,
    /// Commits under way at once, each for another domain; at least 1.
    pub commits_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mailboxes: 250,
            mail: true,
            checksum: false,
            commits_max: 4,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Time has passed. Always harmless. The first one starts the SPM's side,
    /// for which the lease must be held.
    Tick,
    /// A read or write ended. Those of no use any more are ignored.
    Io(IoId, IoOutcome<'a>),
    /// A batch ended, with a result for each of its extends in their order;
    /// what is missing counts as [`Committed::Unknown`]. Every batch must end:
    /// when the writer dies, with an empty list.
    Committed(BatchId, &'a [Committed]),
    /// This very host wants a volume to be larger. Answered by exactly one
    /// [`Effect::Completed`].
    LocalExtend {
        /// Its name.
        request: RequestId,
        /// What.
        extend: Extend,
        /// A guest stands still until it is done.
        urgent: bool,
    },
    /// The lease is lost, or cannot be proved held. Nothing of what was to be
    /// done is done any more.
    LeaseLost,
    /// Begin no more commits, answer for those under way, end with
    /// [`Effect::Stopped`].
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Zeroing,
    Running,
    Draining,
    Over,
}

/// What a write carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Zeros,
    /// Mailboxes from this one on, so many.
    Mailboxes(usize, usize),
}

/// A batch under way.
#[derive(Debug, Clone)]
struct Flight {
    domain: DomainId,
    wants: Vec<(Key, Want)>,
}

/// The SPM's side of the mailbox.
///
/// After every [`Self::handle`], drain [`Self::next_effect`] and
/// [`Self::next_note`], and call again at [`Self::deadline`] at the latest.
#[derive(Debug, Clone)]
pub struct Manager {
    config: Config,
    stage: Stage,
    now: Monotonic,
    next_io: u64,
    reads: Desk<Look>,
    writes: Desk<Carried>,
    looking: Looking,
    /// Index: host id. The first one is the event block's and never used.
    peers: Vec<Peer>,
    /// How many of them have something to be written.
    dirty: usize,
    /// Where the next write begins to look for it.
    next_write: usize,
    /// The earliest time at which something is to be written again, so that
    /// an idle SPM need not ask every peer.
    repeat_at: Option<Monotonic>,
    pending: BTreeMap<Key, Want>,
    flights: BTreeMap<BatchId, Flight>,
    next_batch: u64,
    next_want: u64,
    locals: usize,
    effects: VecDeque<Effect>,
    notes: VecDeque<Note>,
}

impl Manager {
    /// The SPM's side, which has done nothing yet.
    ///
    /// # Panics
    /// When there is no room for a host, or no commit is allowed.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert!(config.mailboxes > 1, "there is room for a host");
        assert!(config.commits_max > 0, "a commit is allowed");
        Self {
            config,
            stage: if config.mail {
                Stage::Zeroing
            } else {
                Stage::Running
            },
            now: Monotonic(0),
            next_io: 1,
            reads: Desk::new(Volume::Inbox, false),
            writes: Desk::new(Volume::Outbox, true),
            looking: Looking::new(),
            peers: vec![Peer::default(); usize::from(config.mailboxes)],
            dirty: 0,
            next_write: 1,
            repeat_at: None,
            pending: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_batch: 1,
            next_want: 1,
            locals: 0,
            effects: VecDeque::new(),
            notes: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Monotonic, input: Input<'_>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Io(io, outcome) => self.on_io(io, outcome),
            Input::Committed(batch, results) => self.on_committed(batch, results),
            Input::LocalExtend {
                request,
                extend,
                urgent,
            } => self.on_local(request, extend, urgent),
            Input::LeaseLost => self.on_lease_lost(),
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

    /// Whether mail is read and answered.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// How many volumes wait for a commit, those in one included.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let flying: usize = self.flights.values().map(|flight| flight.wants.len()).sum();
        self.pending.len() + flying
    }

    fn on_io(&mut self, io: IoId, outcome: IoOutcome<'_>) {
        if self.stage == Stage::Over {
            return;
        }
        match self.reads.owner(io) {
            Owner::Pending(look, since) => return self.on_look(look, since, outcome),
            Owner::Abandoned => return,
            Owner::Nobody => {}
        }
        match self.writes.owner(io) {
            Owner::Pending(carried, _) => self.on_written(carried, outcome),
            // It may have landed on top of what was written since.
            Owner::Abandoned => self.rewrite_all(),
            Owner::Nobody => {}
        }
    }

    fn on_written(&mut self, carried: Carried, outcome: IoOutcome<'_>) {
        let errno = match outcome {
            IoOutcome::Written => {
                let note = self.writes.succeeded();
                self.note(note);
                if carried == Carried::Zeros && self.stage == Stage::Zeroing {
                    self.stage = Stage::Running;
                    self.note(Some(Note::Running));
                }
                return;
            }
            IoOutcome::Failed(errno) => Some(errno),
            IoOutcome::Read(_) | IoOutcome::Unknown => None,
        };
        self.write_failed(carried, errno);
    }

    fn write_failed(&mut self, carried: Carried, errno: Option<i32>) {
        let note = self.writes.failed(self.now, errno);
        self.note(note);
        if let Carried::Mailboxes(first, count) = carried {
            for host in first..first + count {
                self.soil(host);
            }
        }
    }

    fn on_lease_lost(&mut self) {
        if self.stage == Stage::Over {
            return;
        }
        let local = |effect: &Effect| matches!(effect, Effect::Completed { .. });
        self.effects.retain(local);
        self.over();
    }

    fn on_stop(&mut self) {
        match self.stage {
            Stage::Zeroing | Stage::Running => {}
            Stage::Draining | Stage::Over => return,
        }
        self.stage = Stage::Draining;
        // What waits is left to the next SPM: it is still in the inbox.
        let pending = std::mem::take(&mut self.pending);
        for want in pending.into_values() {
            self.answer_locals(&want.tickets, Outcome::Stopped);
        }
    }

    /// Nothing follows but answers to local callers.
    fn over(&mut self) {
        self.stage = Stage::Over;
        let pending = std::mem::take(&mut self.pending).into_values();
        let flights = std::mem::take(&mut self.flights).into_values();
        let flying = flights.flat_map(|flight| flight.wants.into_iter().map(|(_, want)| want));
        for want in pending.chain(flying).collect::<Vec<_>>() {
            self.answer_locals(&want.tickets, Outcome::Stopped);
        }
        self.effects.push_back(Effect::Stopped);
    }

    /// Does what is due.
    fn advance(&mut self) {
        if self.stage == Stage::Over {
            return;
        }
        if let Some(look) = self.reads.give_up(self.now) {
            self.look_failed(look, None);
        }
        if let Some(carried) = self.writes.give_up(self.now) {
            self.write_failed(carried, None);
        }
        if self.stage == Stage::Running {
            self.begin_batches();
        }
        self.repeat();
        self.begin_write();
        if self.stage == Stage::Draining
            && self.flights.is_empty()
            && self.dirty == 0
            && !self.writes.is_pending()
        {
            return self.over();
        }
        if self.stage == Stage::Running && self.config.mail {
            self.begin_look();
        }
    }

    fn begin_write(&mut self) {
        if !self.writes.is_free(self.now) {
            return;
        }
        if self.stage == Stage::Zeroing {
            let bytes = vec![0; self.peers.len() * MAILBOX_BYTES];
            return self.write(Carried::Zeros, 0, bytes);
        }
        if self.dirty == 0 {
            return;
        }
        let count = self.peers.len();
        let mut turn = (0..count).map(|step| (self.next_write + step) % count);
        let Some(first) = turn.find(|host| self.peers[*host].dirty) else {
            return;
        };
        let run = self.peers[first..]
            .iter()
            .take(timings::WRITE_MAILBOXES)
            .take_while(|peer| peer.dirty)
            .count();
        let mut bytes = Vec::with_capacity(run * MAILBOX_BYTES);
        for peer in &mut self.peers[first..first + run] {
            peer.dirty = false;
            self.dirty -= 1;
            peer.append(&mut bytes, self.config.checksum);
        }
        self.next_write = (first + run) % count;
        let offset = u64::try_from(first).unwrap_or(0) * MAILBOX_STEP;
        self.write(Carried::Mailboxes(first, run), offset, bytes);
    }

    fn write(&mut self, carried: Carried, offset: u64, bytes: Vec<u8>) {
        let io = self.io();
        self.writes.begin(io, self.now, carried);
        self.effects.push_back(Effect::Write {
            io,
            volume: Volume::Outbox,
            offset,
            bytes,
        });
    }

    fn io(&mut self) -> IoId {
        let io = IoId(self.next_io);
        self.next_io += 1;
        io
    }

    fn answer_locals(&mut self, tickets: &[Ticket], outcome: Outcome) {
        for ticket in tickets {
            if let Ticket::Local(request) = ticket {
                self.locals -= 1;
                self.effects.push_back(Effect::Completed {
                    request: *request,
                    outcome,
                });
            }
        }
    }

    fn note(&mut self, note: Option<Note>) {
        let Some(note) = note else { return };
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }
}
