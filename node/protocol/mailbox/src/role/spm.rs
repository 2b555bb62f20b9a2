//! The life of an SPM.
//!
//! ```text
//!            Start                    all steps done              Stop
//!   Free ──────────▶ Starting ─────────────────────▶ Serving ───────────▶ Stopping ──▶ Free
//!    ▲                  │ a step failed                 │                    │
//!    │                  ├── lease surely not held ──▶ Free                   │
//!    │                  └── it may be held ────────────▶│◀── a step failed ──┘
//!    │                                                  ▼
//!    └──── CleanUp done ─── Cleaning ◀── writer gone ── Killing
//! ```
//!
//! Whatever is not certain ends in Killing: no lease, a step of stopping that
//! failed, a step without an outcome, a lease daemon that does not answer. The
//! mail is dropped first, so that nothing is answered that the writer may not
//! have done.

use std::collections::VecDeque;

use lease::Monotonic;

use super::steps::{Step, StepFailed, StepId};

/// How often the lease daemon is asked whether the lease is still held.
pub const ASK_LEASE_MS: u64 = 10_000;
/// So many times in a row it may fail to answer.
pub const ASK_FAILURES_MAX: u32 = 3;
/// Killing is ordered again after so long without the writer being gone.
const KILL_AGAIN_MS: u64 = 5_000;
/// Pause before cleaning up is tried again.
const CLEAN_AGAIN_MS: u64 = 10_000;

const _: () = {
    // A writer without a lease is gone before others may take it, even when
    // the lease daemon itself does not see to it: 60 s after the loss.
    assert!(ASK_LEASE_MS * (ASK_FAILURES_MAX as u64 + 2) < 60_000);
};

/// How an SPM lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// Upgrade domains at start.
    pub upgrade: bool,
}

/// What the lease daemon says about our lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseView {
    /// Held by the writer.
    Held,
    /// Surely not.
    NotHeld,
    /// It did not answer.
    Unknown,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Time has passed. Always harmless.
    Tick,
    /// Become the SPM.
    Start(Config),
    /// Cease to be it.
    Stop,
    /// A step is done.
    Done(StepId),
    /// A step failed.
    Failed(StepId, StepFailed),
    /// The answer to [`Effect::AskLease`], or news that came by themselves.
    Lease(LeaseView),
    /// The writer and all its children are gone, whoever ended them.
    WriterGone,
}

/// Why a writer was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopReason {
    /// The lease daemon says that the lease is not held.
    LeaseLost,
    /// It does not say anything.
    LeaseUnproved,
    /// This step failed, or has no outcome, while the lease may be held.
    Step(Step),
    /// The writer ended by itself.
    WriterDied,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Do a step; answered by [`Input::Done`] or [`Input::Failed`].
    Do(StepId, Step),
    /// Ask the lease daemon; answered by [`Input::Lease`].
    AskLease,
    /// Give [`crate::manager::Input::LeaseLost`] to the SPM's side, now; if
    /// [`Step::StartMail`] is under way, it must not start any more.
    DropMail,
    /// Kill the writer and its children, whatever step is under way; answered by [`Input::WriterGone`].
    KillWriter(StopReason),
    /// A start or a stop has ended.
    Settled(Phase),
    /// A start or a stop was refused.
    Refused(Refusal),
}

/// Why a start was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The role is not free on this host.
    NotFree(Phase),
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not the SPM.
    Free,
    /// Becoming it.
    Starting,
    /// The SPM.
    Serving,
    /// Ceasing to be it.
    Stopping,
    /// Waiting for the end of the writer.
    Killing,
    /// Clearing away what it left.
    Cleaning,
}

#[derive(Debug, Clone, Copy)]
struct Doing {
    id: StepId,
    step: Step,
    since: Monotonic,
}

/// The life of an SPM on this host.
///
/// After every [`Self::handle`], drain [`Self::next_effect`], and call again at
/// [`Self::deadline`] at the latest.
#[derive(Debug, Clone)]
pub struct Spm {
    phase: Phase,
    config: Config,
    now: Monotonic,
    next_id: u64,
    doing: Option<Doing>,
    /// The next step of starting or stopping.
    turn: usize,
    stop_wanted: bool,
    /// When the lease daemon is asked next, and whether it owes an answer.
    ask_at: Monotonic,
    asked: bool,
    ask_failures: u32,
    again_at: Monotonic,
    reason: StopReason,
    effects: VecDeque<Effect>,
}

impl Default for Spm {
    fn default() -> Self {
        Self::new()
    }
}

impl Spm {
    /// Not the SPM.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::Free,
            config: Config::default(),
            now: Monotonic(0),
            next_id: 1,
            doing: None,
            turn: 0,
            stop_wanted: false,
            ask_at: Monotonic(0),
            asked: false,
            ask_failures: 0,
            again_at: Monotonic(0),
            reason: StopReason::WriterDied,
            effects: VecDeque::new(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The step under way.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        self.doing.map(|doing| doing.step)
    }

    /// Whether the writer may hold the lease, or still be there.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        match self.phase {
            Phase::Free | Phase::Cleaning => false,
            Phase::Serving | Phase::Stopping | Phase::Killing => true,
            Phase::Starting => self.doing.is_some_and(|doing| doing.step.may_hold()),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Monotonic, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Start(config) => self.on_start(config),
            Input::Stop => self.on_stop(),
            Input::Done(id) => self.on_done(id),
            Input::Failed(id, failed) => self.on_failed(id, failed),
            Input::Lease(view) => self.on_lease(view),
            Input::WriterGone => self.on_writer_gone(),
        }
        self.advance();
    }

    /// The next thing to do, in order; `None` when there is no more.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let step = self
            .doing
            .map(|doing| doing.since.plus_ms(doing.step.limit_ms()));
        let other = match self.phase {
            Phase::Killing => Some(self.again_at),
            Phase::Cleaning if self.doing.is_none() => Some(self.again_at),
            Phase::Free | Phase::Cleaning => None,
            Phase::Starting | Phase::Serving | Phase::Stopping => {
                self.may_hold().then_some(self.ask_at)
            }
        };
        crate::desk::sooner(step, other)
    }

    fn on_start(&mut self, config: Config) {
        if self.phase != Phase::Free {
            let refusal = Refusal::NotFree(self.phase);
            return self.effects.push_back(Effect::Refused(refusal));
        }
        self.config = config;
        self.phase = Phase::Starting;
        self.stop_wanted = false;
        self.turn = 0;
        self.next_step();
    }

    fn on_stop(&mut self) {
        match self.phase {
            Phase::Free => self.effects.push_back(Effect::Settled(Phase::Free)),
            // The step under way is not torn; then it goes back.
            Phase::Starting => self.stop_wanted = true,
            Phase::Serving => self.begin_stop(),
            Phase::Stopping | Phase::Killing | Phase::Cleaning => {}
        }
    }

    fn begin_stop(&mut self) {
        self.phase = Phase::Stopping;
        self.turn = 0;
        self.next_step();
    }

    /// Begins the next step, or the next phase.
    fn next_step(&mut self) {
        let steps: &[Step] = match self.phase {
            Phase::Starting => &Step::START,
            Phase::Stopping => &Step::STOP,
            Phase::Free | Phase::Serving | Phase::Killing | Phase::Cleaning => &[],
        };
        let skip = |step: &Step| {
            matches!(step, Step::UpgradeDomains | Step::CancelUpgrade) && !self.config.upgrade
        };
        let left = steps.iter().enumerate().skip(self.turn);
        let next = left
            .filter(|(_, step)| !skip(step))
            .map(|(turn, step)| (turn, *step))
            .next();
        if let Some((turn, step)) = next {
            self.turn = turn + 1;
            return self.begin(step);
        }
        if self.phase == Phase::Starting {
            self.phase = Phase::Serving;
            self.effects.push_back(Effect::Settled(Phase::Serving));
            let id = self.id();
            // In the background: its end is of no consequence here.
            self.effects.push_back(Effect::Do(id, Step::RecoverTasks));
        } else {
            self.free();
        }
    }

    fn begin(&mut self, step: Step) {
        let id = self.id();
        if step == Step::TakeLease {
            self.ask_failures = 0;
            self.asked = false;
            // It is not held before this step is done.
            self.ask_at = self.now.plus_ms(step.limit_ms() + ASK_LEASE_MS);
        }
        self.doing = Some(Doing {
            id,
            step,
            since: self.now,
        });
        self.effects.push_back(Effect::Do(id, step));
    }

    fn take(&mut self, id: StepId) -> Option<Doing> {
        self.doing.take_if(|doing| doing.id == id)
    }

    fn on_done(&mut self, id: StepId) {
        let Some(doing) = self.take(id) else { return };
        match self.phase {
            Phase::Cleaning => return self.free(),
            Phase::Starting | Phase::Stopping => {}
            Phase::Free | Phase::Serving | Phase::Killing => return,
        }
        if doing.step == Step::TakeLease {
            self.ask_at = self.now.plus_ms(ASK_LEASE_MS);
        }
        if self.phase == Phase::Starting && self.stop_wanted {
            return if doing.step.may_hold() {
                self.begin_stop();
            } else {
                self.free();
            };
        }
        self.next_step();
    }

    fn on_failed(&mut self, id: StepId, failed: StepFailed) {
        let Some(doing) = self.take(id) else { return };
        match self.phase {
            Phase::Cleaning => self.again_at = self.now.plus_ms(CLEAN_AGAIN_MS),
            Phase::Starting => match (doing.step, failed) {
                // Nothing is held yet.
                (Step::JoinLockspace, _) | (Step::TakeLease, StepFailed::Undone) => self.free(),
                (_, StepFailed::Unknown) => self.kill(StopReason::Step(doing.step)),
                (_, StepFailed::Undone) => self.begin_stop(),
            },
            Phase::Stopping => self.kill(StopReason::Step(doing.step)),
            Phase::Free | Phase::Serving | Phase::Killing => {}
        }
    }

    fn on_lease(&mut self, view: LeaseView) {
        self.asked = false;
        if !self.is_proved_to_need_it() {
            return;
        }
        match view {
            LeaseView::Held => self.ask_failures = 0,
            LeaseView::NotHeld => self.kill(StopReason::LeaseLost),
            LeaseView::Unknown => {
                self.ask_failures += 1;
                if self.ask_failures > ASK_FAILURES_MAX {
                    self.kill(StopReason::LeaseUnproved);
                }
            }
        }
    }

    /// Whether the lease must be held now: it was taken, and is not being
    /// released.
    fn is_proved_to_need_it(&self) -> bool {
        let step = self.doing.map(|doing| doing.step);
        match self.phase {
            Phase::Starting => step.is_some_and(|step| step.may_hold() && step != Step::TakeLease),
            Phase::Serving => true,
            Phase::Stopping => step != Some(Step::ReleaseLease),
            Phase::Free | Phase::Killing | Phase::Cleaning => false,
        }
    }

    fn on_writer_gone(&mut self) {
        match self.phase {
            Phase::Free | Phase::Cleaning => {}
            Phase::Killing => self.clean_up(),
            Phase::Starting | Phase::Serving | Phase::Stopping => {
                let step = self.doing.map(|doing| doing.step);
                if step == Some(Step::ReleaseLease) {
                    // That is how releasing ends.
                    self.doing = None;
                    return self.free();
                }
                if !self.may_hold() {
                    return;
                }
                self.reason = StopReason::WriterDied;
                self.effects.push_back(Effect::DropMail);
                self.clean_up();
            }
        }
    }

    fn kill(&mut self, reason: StopReason) {
        self.phase = Phase::Killing;
        self.doing = None;
        self.reason = reason;
        self.again_at = self.now.plus_ms(KILL_AGAIN_MS);
        self.effects.push_back(Effect::DropMail);
        self.effects.push_back(Effect::KillWriter(reason));
    }

    fn clean_up(&mut self) {
        self.phase = Phase::Cleaning;
        self.begin(Step::CleanUp);
    }

    fn free(&mut self) {
        self.phase = Phase::Free;
        self.effects.push_back(Effect::Settled(Phase::Free));
    }

    fn advance(&mut self) {
        if let Some(doing) = self.doing
            && self.now >= doing.since.plus_ms(doing.step.limit_ms())
        {
            self.on_failed(doing.id, StepFailed::Unknown);
        }
        match self.phase {
            Phase::Killing if self.now >= self.again_at => {
                self.again_at = self.now.plus_ms(KILL_AGAIN_MS);
                self.effects.push_back(Effect::KillWriter(self.reason));
            }
            Phase::Cleaning if self.doing.is_none() && self.now >= self.again_at => {
                self.begin(Step::CleanUp);
            }
            Phase::Starting | Phase::Serving | Phase::Stopping
                if self.may_hold() && self.now >= self.ask_at =>
            {
                self.ask();
            }
            Phase::Free
            | Phase::Starting
            | Phase::Serving
            | Phase::Stopping
            | Phase::Killing
            | Phase::Cleaning => {}
        }
    }

    fn ask(&mut self) {
        self.ask_at = self.now.plus_ms(ASK_LEASE_MS);
        if self.asked {
            self.on_lease(LeaseView::Unknown);
            if self.phase == Phase::Killing {
                return;
            }
        }
        self.asked = true;
        self.effects.push_back(Effect::AskLease);
    }

    fn id(&mut self) -> StepId {
        let id = StepId(self.next_id);
        self.next_id += 1;
        id
    }
}
