//! The life of an SPM.
//!
//! ```text
//!            Start                    all steps done              Stop
//!   Free ──────────▶ Starting ─────────────────────▶ Serving ───────────▶ Stopping ──▶ Free
//!    ▲                  │ a step failed             ▲ │  ▲                  │
//!    │                  ├── lease surely not held   │ │  └── work goes on ──┤
//!    └──────────────────┘                  Move ────┘ │                     │
//!                       │ its outcome is unknown      │ lease lost          │ a step failed
//!                       └───────────────────────────▶ Killing ◀─────────────┘
//! ```
//!
//! It lives in the writer: the process that holds the lease and changes
//! metadata. Whatever is not certain ends in Killing, and with it the process
//! and all of its children: no lease, a step of stopping that failed, a step
//! without an outcome, a commit that hangs, a lease daemon that does not answer.
//! The mail is dropped first, so that nothing is answered that may not have been
//! done. Nobody comes back from there: the lease goes with the last process.

use std::collections::VecDeque;

use lease::Monotonic;

use super::steps::{Step, StepFailed, StepId};
use crate::desk::sooner;

/// So many times in a row the lease daemon may fail to answer.
pub const ASK_FAILURES_MAX: u32 = 3;
/// Killing is ordered again after so long.
const KILL_AGAIN_MS: u64 = 5_000;

/// How often the lease daemon is asked whether the lease is still held, ms:
/// every `io_timeout_s`.
#[must_use]
pub const fn ask_lease_ms(io_timeout_s: u32) -> u64 {
    let seconds = if io_timeout_s == 0 { 1 } else { io_timeout_s };
    seconds as u64 * 1000
}

const _: () = {
    // A writer without a lease is gone before others may take it, even when
    // the lease daemon itself does not see to it: a lease is lost after 8, and
    // free after 14 I/O timeouts.
    assert!(ASK_FAILURES_MAX + 2 < 14 - 8);
};

/// How an SPM lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Upgrade domains at start.
    pub upgrade: bool,
    /// How long an I/O of the leases may take, seconds.
    pub io_timeout_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upgrade: false,
            io_timeout_s: 10,
        }
    }
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
    /// Go on on another master.
    Move,
    /// A step is done.
    Done(StepId),
    /// A step failed.
    Failed(StepId, StepFailed),
    /// The answer to [`Effect::AskLease`], or news that came by themselves.
    Lease(LeaseView),
    /// A commit does not end, and may still write.
    CommitHangs,
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
    /// A commit does not end.
    CommitHangs,
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
    /// End this process and its children, whatever step is under way.
    KillWriter(StopReason),
    /// A start, a stop or a move has ended.
    Settled(Phase),
    /// A start or a move was refused.
    Refused(Refusal),
}

/// Why a start or a move was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The role is not free here, so it cannot be taken.
    NotFree(Phase),
    /// It is not served here, so it cannot move.
    NotServing(Phase),
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
    /// The SPM, on its way to another master.
    Moving,
    /// Ceasing to be it.
    Stopping,
    /// The end of this process.
    Killing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Doing {
    id: StepId,
    step: Step,
    since: Monotonic,
}

/// The life of an SPM in this process.
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
    /// The next step of starting, stopping or moving.
    turn: usize,
    /// Whether it served before it began to stop, so that it may go on.
    served: bool,
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
            served: false,
            stop_wanted: false,
            ask_at: Monotonic(0),
            asked: false,
            ask_failures: 0,
            again_at: Monotonic(0),
            reason: StopReason::LeaseUnproved,
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

    /// Whether this process may hold the lease.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        match self.phase {
            Phase::Free => false,
            Phase::Serving | Phase::Moving | Phase::Stopping | Phase::Killing => true,
            Phase::Starting => self.doing.is_some_and(|doing| doing.step.may_hold()),
        }
    }

    /// Whether metadata may be changed under the lease: it was taken, is not
    /// being released, and nobody has said that it is lost. Asked right before
    /// every change, together with the lease daemon.
    #[must_use]
    pub fn permits(&self) -> bool {
        let step = self.doing.map(|doing| doing.step);
        match self.phase {
            Phase::Starting => step.is_some_and(|step| step.may_hold() && step != Step::TakeLease),
            Phase::Serving | Phase::Moving => true,
            Phase::Stopping => step != Some(Step::ReleaseLease),
            Phase::Free | Phase::Killing => false,
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Monotonic, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Start(config) => self.on_start(config),
            Input::Stop => self.on_stop(),
            Input::Move => self.on_move(),
            Input::Done(id) => self.on_done(id),
            Input::Failed(id, failed) => self.on_failed(id, failed),
            Input::Lease(view) => self.on_lease(view),
            Input::CommitHangs => {
                if self.may_hold() && self.phase != Phase::Killing {
                    self.kill(StopReason::CommitHangs);
                }
            }
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
            .map(|doing| doing.since.plus_ms(self.limit_ms(doing.step)));
        let other = match self.phase {
            Phase::Killing => Some(self.again_at),
            Phase::Free => None,
            Phase::Starting | Phase::Serving | Phase::Moving | Phase::Stopping => {
                self.may_hold().then_some(self.ask_at)
            }
        };
        sooner(step, other)
    }

    fn limit_ms(&self, step: Step) -> u64 {
        step.limit_ms(self.config.io_timeout_s)
    }

    fn ask_ms(&self) -> u64 {
        ask_lease_ms(self.config.io_timeout_s)
    }

    fn on_start(&mut self, config: Config) {
        if self.phase != Phase::Free {
            let refusal = Refusal::NotFree(self.phase);
            return self.effects.push_back(Effect::Refused(refusal));
        }
        self.config = config;
        self.stop_wanted = false;
        self.served = false;
        self.go(Phase::Starting);
    }

    fn on_stop(&mut self) {
        match self.phase {
            Phase::Free => self.effects.push_back(Effect::Settled(Phase::Free)),
            // The step under way is not torn; then it goes back.
            Phase::Starting | Phase::Moving => self.stop_wanted = true,
            Phase::Serving => self.begin_stop(),
            Phase::Stopping | Phase::Killing => {}
        }
    }

    fn on_move(&mut self) {
        if self.phase != Phase::Serving {
            let refusal = Refusal::NotServing(self.phase);
            return self.effects.push_back(Effect::Refused(refusal));
        }
        self.go(Phase::Moving);
    }

    fn begin_stop(&mut self) {
        self.stop_wanted = false;
        self.go(Phase::Stopping);
    }

    fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.turn = 0;
        self.next_step();
    }

    /// Begins the next step, or the next phase.
    fn next_step(&mut self) {
        let steps: &[Step] = match self.phase {
            Phase::Starting => &Step::START,
            Phase::Stopping => &Step::STOP,
            Phase::Moving => &Step::MOVE,
            Phase::Free | Phase::Serving | Phase::Killing => &[],
        };
        let skip = |step: &Step| *step == Step::UpgradeDomains && !self.config.upgrade;
        let left = steps.iter().enumerate().skip(self.turn);
        let next = left
            .filter(|(_, step)| !skip(step))
            .map(|(turn, step)| (turn, *step))
            .next();
        if let Some((turn, step)) = next {
            self.turn = turn + 1;
            return self.begin(step);
        }
        match self.phase {
            Phase::Starting | Phase::Moving if self.stop_wanted => {
                self.served = true;
                self.begin_stop();
            }
            Phase::Starting | Phase::Moving => {
                self.serve();
                let id = self.id();
                // In the background: its end is of no consequence here.
                self.effects.push_back(Effect::Do(id, Step::RecoverTasks));
            }
            _ => self.free(),
        }
    }

    fn serve(&mut self) {
        self.phase = Phase::Serving;
        self.served = true;
        self.effects.push_back(Effect::Settled(Phase::Serving));
    }

    fn begin(&mut self, step: Step) {
        let id = self.id();
        if step == Step::TakeLease {
            self.ask_failures = 0;
            self.asked = false;
            // It is not held before this step is done.
            self.ask_at = self.now.plus_ms(self.limit_ms(step) + self.ask_ms());
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
        if doing.step == Step::TakeLease {
            self.ask_at = self.now.plus_ms(self.ask_ms());
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
        let undone = failed == StepFailed::Undone;
        match (self.phase, doing.step) {
            // Nothing is held yet.
            (Phase::Starting, Step::JoinLockspace) => self.free(),
            (Phase::Starting, Step::TakeLease) if undone => self.free(),
            (Phase::Starting, _) if undone => self.begin_stop(),
            // Work goes on, and so does the SPM.
            (Phase::Stopping | Phase::Moving, Step::ForbidWrites) if undone && self.served => {
                self.stop_wanted = false;
                self.serve();
            }
            // The old master is it as before.
            (Phase::Moving, Step::MoveMaster) if undone => self.next_step(),
            (Phase::Starting | Phase::Moving | Phase::Stopping, step) => {
                self.kill(StopReason::Step(step));
            }
            (Phase::Free | Phase::Serving | Phase::Killing, _) => {}
        }
    }

    fn on_lease(&mut self, view: LeaseView) {
        self.asked = false;
        if !self.permits() {
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

    fn kill(&mut self, reason: StopReason) {
        self.phase = Phase::Killing;
        self.doing = None;
        self.reason = reason;
        self.again_at = self.now.plus_ms(KILL_AGAIN_MS);
        self.effects.push_back(Effect::DropMail);
        self.effects.push_back(Effect::KillWriter(reason));
    }

    fn free(&mut self) {
        self.phase = Phase::Free;
        self.effects.push_back(Effect::Settled(Phase::Free));
    }

    fn advance(&mut self) {
        if let Some(doing) = self.doing
            && self.now >= doing.since.plus_ms(self.limit_ms(doing.step))
        {
            self.on_failed(doing.id, StepFailed::Unknown);
        }
        match self.phase {
            Phase::Killing if self.now >= self.again_at => {
                self.again_at = self.now.plus_ms(KILL_AGAIN_MS);
                self.effects.push_back(Effect::KillWriter(self.reason));
            }
            Phase::Starting | Phase::Serving | Phase::Moving | Phase::Stopping
                if self.may_hold() && self.now >= self.ask_at =>
            {
                self.ask();
            }
            Phase::Free
            | Phase::Starting
            | Phase::Serving
            | Phase::Moving
            | Phase::Stopping
            | Phase::Killing => {}
        }
    }

    fn ask(&mut self) {
        self.ask_at = self.now.plus_ms(self.ask_ms());
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
