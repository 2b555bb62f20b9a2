//! A domain without an SPM: its own `SDM` lease, for one change at a time.
//!
//! ```text
//!          a change          taken               no more changes, or 2 s     done
//!   Idle ───────────▶ Taking ──────▶ Holding ──────────────────────▶ Releasing ──▶ Idle
//!    ▲                  │ busy: pause  │ lease lost, change without an end │ failed
//!    │                  └──▶ Idle      ▼                                   │
//!    └────────── writer gone ────── Killing ◀──────────────────────────────┘
//! ```

use std::collections::VecDeque;

use lease::Monotonic;

use crate::desk::sooner;
use crate::random::Random;
use crate::seam::RequestId;

/// The lease is kept for so long after a change, in case another one follows.
pub const LINGER_MS: u64 = 50;
/// But not longer than this in all: other hosts wait.
pub const HOLD_MS: u64 = 2_000;
/// Pause before taking it again after that.
pub const YIELD_MS: u64 = 100;
/// First pause after the lease was found busy; doubles up to [`BUSY_MAX_MS`].
pub const BUSY_MS: u64 = 20;
/// Longest pause after the lease was found busy.
pub const BUSY_MAX_MS: u64 = 1_000;
/// A change that the lease could not be taken for ends after so long: longer
/// than a dead holder's lease takes to become free.
pub const GIVE_UP_MS: u64 = 200_000;
/// Taking or releasing takes at most so long; then the writer is killed.
pub const LEASE_LIMIT_MS: u64 = 60_000;
/// A change takes at most so long; then the writer is killed.
pub const CHANGE_LIMIT_MS: u64 = 600_000;
/// Changes waiting. More are ended as [`SdmEnd::Full`].
pub const CHANGES_MAX: usize = 256;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdmInput {
    /// Time has passed. Always harmless.
    Tick,
    /// A change of this domain's metadata is wanted; ended by exactly one
    /// [`SdmEffect::Ended`].
    Change {
        /// Its name.
        request: RequestId,
        /// Before those that are not.
        urgent: bool,
    },
    /// The answer to [`SdmEffect::Take`]; `false`: surely not taken.
    Taken(bool),
    /// The change that was run has ended, well or not.
    Ran(RequestId),
    /// The answer to [`SdmEffect::Release`].
    Released(bool),
    /// The lease is lost, or cannot be proved held.
    LeaseLost,
    /// The writer and all its children are gone, whoever ended them.
    WriterGone,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SdmEnd {
    /// It was run under the lease; it knows itself how that went.
    Ran,
    /// The writer was killed, or died, in the middle of it.
    Unknown,
    /// Not begun: the lease could not be taken in time.
    Busy,
    /// Not begun: too many are waiting.
    Full,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdmEffect {
    /// Have the writer take the lease.
    Take,
    /// Run a change.
    Run(RequestId),
    /// Have the writer release the lease.
    Release,
    /// Kill the writer and its children.
    KillWriter,
    /// A change has ended.
    Ended(RequestId, SdmEnd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Taking { since: Monotonic },
    Holding { since: Monotonic, until: Monotonic },
    Releasing { since: Monotonic },
    Killing,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    request: RequestId,
    urgent: bool,
    give_up_at: Monotonic,
}

/// One domain's lease, on this host.
///
/// After every [`Self::handle`], drain [`Self::next_effect`], and call again at
/// [`Self::deadline`] at the latest.
#[derive(Debug, Clone)]
pub struct Sdm {
    phase: Phase,
    now: Monotonic,
    random: Random,
    waiting: VecDeque<Change>,
    running: Option<(RequestId, Monotonic)>,
    not_before: Monotonic,
    busy: u32,
    effects: VecDeque<SdmEffect>,
}

impl Sdm {
    /// Not held; `seed` spreads the tries of several hosts.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            phase: Phase::Idle,
            now: Monotonic(0),
            random: Random(seed),
            waiting: VecDeque::new(),
            running: None,
            not_before: Monotonic(0),
            busy: 0,
            effects: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Monotonic, input: SdmInput) {
        self.now = self.now.max(now);
        match input {
            SdmInput::Tick => {}
            SdmInput::Change { request, urgent } => self.on_change(request, urgent),
            SdmInput::Taken(taken) => self.on_taken(taken),
            SdmInput::Ran(request) => self.on_ran(request),
            SdmInput::Released(released) => self.on_released(released),
            SdmInput::LeaseLost => match self.phase {
                Phase::Taking { .. } | Phase::Holding { .. } => self.kill(),
                Phase::Idle | Phase::Releasing { .. } | Phase::Killing => {}
            },
            SdmInput::WriterGone => self.on_writer_gone(),
        }
        self.advance();
    }

    /// The next thing to do, in order; `None` when there is no more.
    pub fn next_effect(&mut self) -> Option<SdmEffect> {
        self.effects.pop_front()
    }

    /// Whether the lease may be held by this host's writer.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// When to call [`Self::handle`] with [`SdmInput::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let give_up = self.waiting.iter().map(|change| change.give_up_at).min();
        let phase = match self.phase {
            Phase::Idle => (!self.waiting.is_empty()).then_some(self.not_before),
            Phase::Taking { since } | Phase::Releasing { since } => {
                Some(since.plus_ms(LEASE_LIMIT_MS))
            }
            Phase::Holding { until, .. } => Some(match self.running {
                Some((_, since)) => since.plus_ms(CHANGE_LIMIT_MS),
                None => until,
            }),
            Phase::Killing => None,
        };
        sooner(give_up, phase)
    }

    fn on_change(&mut self, request: RequestId, urgent: bool) {
        if self.waiting.len() >= CHANGES_MAX {
            return self.end(request, SdmEnd::Full);
        }
        let change = Change {
            request,
            urgent,
            give_up_at: self.now.plus_ms(GIVE_UP_MS),
        };
        let place = if urgent {
            self.waiting.iter().take_while(|one| one.urgent).count()
        } else {
            self.waiting.len()
        };
        self.waiting.insert(place, change);
    }

    fn on_taken(&mut self, taken: bool) {
        let Phase::Taking { .. } = self.phase else {
            return;
        };
        if taken {
            self.busy = 0;
            self.phase = Phase::Holding {
                since: self.now,
                until: self.now.plus_ms(LINGER_MS),
            };
            return;
        }
        let pause = (BUSY_MS << self.busy.min(10)).min(BUSY_MAX_MS);
        self.busy += 1;
        self.phase = Phase::Idle;
        let jitter = self.random.below(pause / 2 + 1);
        self.not_before = self.now.plus_ms(pause / 2 + jitter);
    }

    fn on_ran(&mut self, request: RequestId) {
        if self.running.is_none_or(|(running, _)| running != request) {
            return;
        }
        self.running = None;
        if let Phase::Holding { until, .. } = &mut self.phase {
            *until = self.now.plus_ms(LINGER_MS);
        }
        self.end(request, SdmEnd::Ran);
    }

    fn on_released(&mut self, released: bool) {
        if let Phase::Releasing { .. } = self.phase {
            if !released {
                return self.kill();
            }
            self.phase = Phase::Idle;
            self.not_before = self.now.plus_ms(YIELD_MS);
        }
    }

    fn on_writer_gone(&mut self) {
        if let Some((request, _)) = self.running.take() {
            self.end(request, SdmEnd::Unknown);
        }
        if self.phase != Phase::Idle {
            self.phase = Phase::Idle;
            self.not_before = self.now.plus_ms(YIELD_MS);
        }
    }

    fn kill(&mut self) {
        self.phase = Phase::Killing;
        self.effects.push_back(SdmEffect::KillWriter);
    }

    fn end(&mut self, request: RequestId, end: SdmEnd) {
        self.effects.push_back(SdmEffect::Ended(request, end));
    }

    fn advance(&mut self) {
        while let Some(place) = self
            .waiting
            .iter()
            .position(|one| one.give_up_at <= self.now)
        {
            if let Some(change) = self.waiting.remove(place) {
                self.end(change.request, SdmEnd::Busy);
            }
        }
        match self.phase {
            Phase::Idle if !self.waiting.is_empty() && self.now >= self.not_before => {
                self.phase = Phase::Taking { since: self.now };
                self.effects.push_back(SdmEffect::Take);
            }
            Phase::Taking { since } | Phase::Releasing { since } => {
                if self.now >= since.plus_ms(LEASE_LIMIT_MS) {
                    self.kill();
                }
            }
            Phase::Holding { since, until } => self.hold(since, until),
            Phase::Idle | Phase::Killing => {}
        }
    }

    fn hold(&mut self, since: Monotonic, until: Monotonic) {
        if let Some((_, begun)) = self.running {
            if self.now >= begun.plus_ms(CHANGE_LIMIT_MS) {
                self.kill();
            }
            return;
        }
        let over = self.now >= since.plus_ms(HOLD_MS);
        if !over && let Some(change) = self.waiting.pop_front() {
            self.running = Some((change.request, self.now));
            return self.effects.push_back(SdmEffect::Run(change.request));
        }
        if over || self.now >= until {
            self.phase = Phase::Releasing { since: self.now };
            self.effects.push_back(SdmEffect::Release);
        }
    }
}
