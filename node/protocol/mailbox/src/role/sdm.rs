//! A domain's own `SDM` lease, for one change at a time: of a domain without an
//! SPM ([`Sdm::new`]), or for a single change beside the SPM's role or without
//! it ([`Sdm::once`]: a domain joins or leaves a pool, is upgraded, becomes the
//! master of a pool that has lost its own).
//!
//! ```text
//!          a change          taken               no more changes, or 2 s     done
//!   Idle ───────────▶ Taking ──────▶ Holding ──────────────────────▶ Releasing ──▶ Idle
//!    ▲                  │ busy: pause  │ lease lost, change without an end │ failed
//!    └──────────────────┤              ▼                                   │
//!                       └──────────▶ Killing ◀────────────────────────────┘
//!                     unknown
//! ```
//!
//! It lives in a writer, the process that holds the lease and changes the domain.
//! Killing is the end of that process and of all its children. A single change
//! has a connection at the lease daemon of its own in a process that has other
//! things to do: while nothing of the change runs, that connection is closed
//! instead, which frees the lease as well.

use std::collections::VecDeque;

use lease::Monotonic;

use super::steps::Step;
use crate::desk::sooner;
use crate::random::Random;
use crate::seam::RequestId;

/// The lease is kept for changes that follow each other, but not longer than
/// this in all: other hosts wait.
pub const HOLD_MS: u64 = 2_000;
/// Pause before taking it again.
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
/// A single change takes at most so long: it may be the upgrade of thousands of
/// volumes, or a pool of many domains.
pub const SINGLE_LIMIT_MS: u64 = 3_600_000;
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
    /// A change is not wanted any more; harmless once it is run.
    Withdraw(RequestId),
    /// The answer to [`SdmEffect::Take`].
    Took(Took),
    /// The change that was run has ended, well or not.
    Ran(RequestId),
    /// The answer to [`SdmEffect::Release`]; `false`: it may still be held.
    Released(bool),
    /// The lease is lost.
    LeaseLost,
    /// The change that is run does not end, and may still write.
    ChangeHangs,
}

/// How taking the lease went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Took {
    /// It is held.
    Yes,
    /// Surely not held: somebody else has it.
    Busy,
    /// Surely not held, and trying again is of no use.
    Refused,
    /// Nobody can tell.
    Unknown,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SdmEnd {
    /// It was run under the lease; it knows itself how that went.
    Ran,
    /// Not begun: the lease could not be taken in time.
    Busy,
    /// Not begun: the lease cannot be taken, or nobody can tell whether it is.
    Refused,
    /// Not begun: it was withdrawn.
    Withdrawn,
    /// Not begun: too many are waiting.
    Full,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdmEffect {
    /// Take the lease.
    Take,
    /// Run a change.
    Run(RequestId),
    /// Release the lease.
    Release,
    /// End this process and its children.
    KillWriter,
    /// Close the connection of a single change: the lease may be held by it, and
    /// nothing is written under it any more.
    HangUp,
    /// A change has ended.
    Ended(RequestId, SdmEnd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Taking { since: Monotonic },
    Holding { since: Monotonic },
    Releasing { since: Monotonic },
    Killing,
    HungUp,
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
    /// For a single change: how long taking the lease may take, ms.
    once: Option<u64>,
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
            once: None,
            waiting: VecDeque::new(),
            running: None,
            not_before: Monotonic(0),
            busy: 0,
            effects: VecDeque::new(),
        }
    }

    /// For a single change, where an I/O of the leases may take `io_timeout_s`.
    /// [`SdmEffect::Take`] waits for the death of a host that may be dead itself,
    /// so a lease that is busy then is not tried again.
    #[must_use]
    pub fn once(io_timeout_s: u32) -> Self {
        Self {
            once: Some(Step::TakeLease.limit_ms(io_timeout_s)),
            ..Self::new(0)
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Monotonic, input: SdmInput) {
        self.now = self.now.max(now);
        match input {
            SdmInput::Tick => {}
            SdmInput::Change { request, urgent } => self.on_change(request, urgent),
            SdmInput::Withdraw(request) => self.on_withdraw(request),
            SdmInput::Took(took) => self.on_took(took),
            SdmInput::Ran(request) => self.on_ran(request),
            SdmInput::Released(released) => self.on_released(released),
            SdmInput::LeaseLost | SdmInput::ChangeHangs => match self.phase {
                Phase::Holding { .. } => self.kill(),
                Phase::Idle
                | Phase::Taking { .. }
                | Phase::Releasing { .. }
                | Phase::Killing
                | Phase::HungUp => {}
            },
        }
        self.advance();
    }

    /// The next thing to do, in order; `None` when there is no more.
    pub fn next_effect(&mut self) -> Option<SdmEffect> {
        self.effects.pop_front()
    }

    /// Whether this change may be made now: it is being run, under the lease.
    /// Asked right before every write, together with the lease daemon.
    #[must_use]
    pub fn permits(&self, request: RequestId) -> bool {
        let runs = self.running.is_some_and(|(running, _)| running == request);
        runs && matches!(self.phase, Phase::Holding { .. })
    }

    /// Whether the lease may be held by this process. The connection of a single
    /// change that was closed counts as one that still may.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Whether the lease is being given back.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        matches!(self.phase, Phase::Releasing { .. })
    }

    /// When to call [`Self::handle`] with [`SdmInput::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let give_up = self.waiting.iter().map(|change| change.give_up_at).min();
        let phase = match self.phase {
            Phase::Idle => (!self.waiting.is_empty()).then_some(self.not_before),
            Phase::Taking { since } => Some(since.plus_ms(self.take_limit_ms())),
            Phase::Releasing { since } => Some(since.plus_ms(LEASE_LIMIT_MS)),
            Phase::Holding { .. } => self
                .running
                .map(|(_, since)| since.plus_ms(self.change_limit_ms())),
            Phase::Killing | Phase::HungUp => None,
        };
        sooner(give_up, phase)
    }

    fn take_limit_ms(&self) -> u64 {
        self.once.unwrap_or(LEASE_LIMIT_MS)
    }

    fn change_limit_ms(&self) -> u64 {
        match self.once {
            Some(_) => SINGLE_LIMIT_MS,
            None => CHANGE_LIMIT_MS,
        }
    }

    fn on_change(&mut self, request: RequestId, urgent: bool) {
        if self.phase == Phase::HungUp {
            return self.end(request, SdmEnd::Refused);
        }
        if self.waiting.len() >= CHANGES_MAX {
            return self.end(request, SdmEnd::Full);
        }
        let change = Change {
            request,
            urgent,
            give_up_at: self.now.plus_ms(GIVE_UP_MS.max(self.take_limit_ms())),
        };
        let place = if urgent {
            self.waiting.iter().take_while(|one| one.urgent).count()
        } else {
            self.waiting.len()
        };
        self.waiting.insert(place, change);
    }

    fn on_withdraw(&mut self, request: RequestId) {
        let place = self.waiting.iter().position(|one| one.request == request);
        if place.is_some_and(|place| self.waiting.remove(place).is_some()) {
            self.end(request, SdmEnd::Withdrawn);
        }
    }

    fn on_took(&mut self, took: Took) {
        let Phase::Taking { .. } = self.phase else {
            return;
        };
        match took {
            Took::Yes => {
                self.busy = 0;
                self.phase = Phase::Holding { since: self.now };
            }
            Took::Busy if self.once.is_some() => {
                self.phase = Phase::Idle;
                self.end_waiting(SdmEnd::Busy);
            }
            Took::Busy => {
                let pause = (BUSY_MS << self.busy.min(10)).min(BUSY_MAX_MS);
                self.busy += 1;
                self.phase = Phase::Idle;
                let jitter = self.random.below(pause / 2 + 1);
                self.not_before = self.now.plus_ms(pause / 2 + jitter);
            }
            Took::Refused => {
                self.phase = Phase::Idle;
                self.end_waiting(SdmEnd::Refused);
            }
            Took::Unknown => self.kill(),
        }
    }

    fn on_ran(&mut self, request: RequestId) {
        if self.running.is_none_or(|(running, _)| running != request) {
            return;
        }
        self.running = None;
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

    fn kill(&mut self) {
        if self.once.is_some() && self.running.is_none() {
            self.phase = Phase::HungUp;
            self.effects.push_back(SdmEffect::HangUp);
            return self.end_waiting(SdmEnd::Refused);
        }
        self.phase = Phase::Killing;
        self.effects.push_back(SdmEffect::KillWriter);
    }

    fn end_waiting(&mut self, end: SdmEnd) {
        for change in std::mem::take(&mut self.waiting) {
            self.end(change.request, end);
        }
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
            Phase::Taking { since } if self.now >= since.plus_ms(self.take_limit_ms()) => {
                self.kill();
            }
            Phase::Releasing { since } if self.now >= since.plus_ms(LEASE_LIMIT_MS) => {
                self.kill();
            }
            Phase::Holding { since } => self.hold(since),
            Phase::Idle
            | Phase::Taking { .. }
            | Phase::Releasing { .. }
            | Phase::Killing
            | Phase::HungUp => {}
        }
    }

    fn hold(&mut self, since: Monotonic) {
        if let Some((_, begun)) = self.running {
            if self.now >= begun.plus_ms(self.change_limit_ms()) {
                self.kill();
            }
            return;
        }
        let over = self.now >= since.plus_ms(HOLD_MS);
        if !over && let Some(change) = self.waiting.pop_front() {
            self.running = Some((change.request, self.now));
            return self.effects.push_back(SdmEffect::Run(change.request));
        }
        self.phase = Phase::Releasing { since: self.now };
        self.effects.push_back(SdmEffect::Release);
    }
}
