//! One thin drive of a running guest.

mod cycle;
mod seam;

use std::collections::VecDeque;

use crate::predict::Predictor;
use crate::size::{self, MIB};
use crate::time::Monotonic;
pub use seam::{
    Config, Effect, ExtendOutcome, Input, Notice, PauseReason, RefreshOutcome, Sample, State,
    Status, Target, ThresholdOutcome, Ticket,
};

/// How often a drive without threshold is looked at.
const POLL_MS: u64 = 2000;
/// How often a guest that outruns the free limit is looked at.
const CLOSE_WATCH_MS: u64 = 250;
/// When to look again after a probe fired, to know the rate.
const PROBE_GAP_MS: u64 = 100;
/// A request without an answer is made again after this, then twice this…
const EXTEND_PATIENCE_MS: u64 = 2000;
/// …up to this.
const EXTEND_PATIENCE_MS_MAX: u64 = 10_000;
/// A refresh that takes longer counts as unanswered.
const REFRESH_PATIENCE_MS: u64 = 60_000;
/// QEMU answers within this, or is asked again.
const QEMU_PATIENCE_MS: u64 = 2000;
/// After the first failure; doubles with each.
const BACK_OFF_MS: u64 = 100;
/// Failures are never further apart than this.
const BACK_OFF_MS_MAX: u64 = 2000;
/// ENOSPC although there is room (a full array below, say): the guest is
/// continued at once, then after this, then twice this…
const FRUITLESS_MS: u64 = 1000;
/// …up to this.
const FRUITLESS_MS_MAX: u64 = 60_000;
/// A guest that has written this part of a chunk since has made progress.
const PROGRESS_OF_CHUNK: u64 = 32;
/// A guest stuck at the largest size is looked at this often: somebody may have
/// made the volume larger.
const STUCK_MS: u64 = 10_000;
/// A threshold is moved only if it moves by this much.
const THRESHOLD_STEP_BYTES: u64 = 64 * MIB;

/// What the drive waits for; never more than one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    Sample,
    Extend(Target),
    Refresh(Target),
    Arm(Armed),
    /// After a failure.
    BackOff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Armed {
    at_bytes: u64,
    /// Early, to learn the rate; not the place where more is needed.
    probe: bool,
}

/// The state machine of one drive.
///
/// Call [`Drive::handle`] with everything that happens, drain
/// [`Drive::next_effect`] after each call, and call with [`Input::Tick`] when
/// [`Drive::deadline`] has come; an early tick is harmless.
#[derive(Debug, Clone)]
pub struct Drive {
    config: Config,
    state: State,
    step: Step,
    deadline: Option<Monotonic>,
    ticket: Ticket,
    /// First request of this cycle: its answer is as good as the newest's.
    cycle_ticket: Ticket,
    armed: Option<Armed>,
    event_pending: bool,
    follow_up: bool,
    probed: bool,
    polling: bool,
    capacity_bytes: u64,
    /// The capacity has changed since it was read.
    capacity_stale: bool,
    physical_bytes: u64,
    allocation_bytes: u64,
    wanted_bytes: u64,
    starving: bool,
    fruitless: u32,
    fruitless_allocation: u64,
    fruitless_until: Monotonic,
    stuck: bool,
    noticed: Option<Monotonic>,
    attempts: u32,
    extends: u64,
    replicating: bool,
    migrating: bool,
    extends_off: bool,
    predictor: Predictor,
    effects: VecDeque<Effect>,
}

impl Drive {
    /// A drive nothing is known of: UNSET, to be looked at now.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::Unset,
            step: Step::Idle,
            deadline: Some(Monotonic(0)),
            ticket: Ticket(0),
            cycle_ticket: Ticket(0),
            armed: None,
            event_pending: false,
            follow_up: false,
            probed: false,
            polling: false,
            capacity_bytes: 0,
            capacity_stale: false,
            physical_bytes: 0,
            allocation_bytes: 0,
            wanted_bytes: 0,
            starving: false,
            fruitless: 0,
            fruitless_allocation: 0,
            fruitless_until: Monotonic(0),
            stuck: false,
            noticed: None,
            attempts: 0,
            extends: 0,
            replicating: false,
            migrating: false,
            extends_off: false,
            predictor: Predictor::default(),
            effects: VecDeque::new(),
        }
    }

    /// Takes something that happened. Never blocks, never panics.
    pub fn handle(&mut self, now: Monotonic, input: Input) {
        match input {
            Input::Tick => {
                if self.deadline.is_some_and(|deadline| deadline <= now) {
                    self.on_deadline(now);
                }
            }
            Input::Threshold => self.on_threshold(now),
            Input::NoSpace => self.on_no_space(now),
            Input::Sampled { ticket, sample } => {
                if self.step == Step::Sample && ticket == self.ticket {
                    match sample {
                        Some(sample) => self.evaluate(now, sample),
                        None => self.back_off(now),
                    }
                }
            }
            Input::Extended { ticket, outcome } => self.on_extended(now, ticket, outcome),
            Input::Refreshed { ticket, outcome } => {
                if let Step::Refresh(target) = self.step
                    && ticket == self.ticket
                {
                    self.on_refreshed(now, target, outcome);
                }
            }
            Input::ThresholdSet { ticket, outcome } => {
                if let Step::Arm(armed) = self.step
                    && ticket == self.ticket
                {
                    self.on_armed(now, armed, outcome);
                }
            }
            Input::Resized => {
                self.capacity_stale = true;
                self.unset(now);
            }
            Input::Moved => {
                self.predictor.moved();
                self.unset(now);
            }
            Input::Replicating(on) => {
                if self.replicating != on {
                    self.replicating = on;
                    self.unset(now);
                }
            }
            Input::Migrating(on) => {
                self.migrating = on;
                if !on && self.extends_off {
                    self.extends_off = false;
                    self.unset(now);
                }
            }
            Input::Running => {
                self.starving = false;
                if self.state == State::Disabled {
                    self.unset(now);
                }
            }
        }
    }

    /// The next thing to be done; `None` when there is nothing more for now.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Drive::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.deadline
    }

    /// Whether the guest is stopped for lack of space on this drive.
    #[must_use]
    pub fn starving(&self) -> bool {
        self.starving
    }

    /// What is known, for people.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            capacity_bytes: self.capacity_bytes,
            physical_bytes: self.physical_bytes,
            allocation_bytes: self.allocation_bytes,
            wanted_bytes: match self.step {
                Step::Extend(_) | Step::Refresh(_) => Some(self.wanted_bytes),
                _ if self.attempts > 0 && self.state == State::Exceeded => Some(self.wanted_bytes),
                _ => None,
            },
            threshold_bytes: self.armed.map(|armed| armed.at_bytes),
            starving: self.starving,
            polling: self.polling,
            attempts: self.attempts,
            fruitless: self.fruitless,
            extends: self.extends,
            rate_bytes_per_s: self.predictor.rate_bytes_per_s(),
            round_trip_ms: self.predictor.round_trip_ms(),
        }
    }

    fn on_deadline(&mut self, now: Monotonic) {
        match self.step {
            Step::Idle | Step::BackOff => self.sample(now),
            Step::Sample => self.back_off(now),
            Step::Extend(target) => {
                // The request may be under way still; made again it is harmless,
                // for it names a size and not a difference.
                self.attempts = self.attempts.saturating_add(1);
                self.tell(Notice::Unanswered {
                    attempts: self.attempts,
                });
                self.request(now, target);
            }
            Step::Refresh(target) => self.refresh(now, target),
            Step::Arm(_) => self.on_armed_not(now),
        }
    }

    fn on_threshold(&mut self, now: Monotonic) {
        let fired = self.armed.take();
        match self.step {
            Step::Idle | Step::Sample | Step::Arm(_) if self.state == State::Disabled => {}
            Step::Idle => {
                if fired.is_some_and(|armed| armed.probe) {
                    self.probed = true;
                } else {
                    self.state = State::Exceeded;
                }
                self.follow_up = true;
                self.noticed.get_or_insert(now);
                self.sample(now);
            }
            Step::Sample | Step::Arm(_) => {
                self.noticed.get_or_insert(now);
                self.event_pending = true;
            }
            // The periodic retry is coming anyhow.
            Step::BackOff | Step::Extend(_) | Step::Refresh(_) => {}
        }
    }

    fn on_no_space(&mut self, now: Monotonic) {
        if !self.starving {
            self.starving = true;
            self.tell(Notice::NoSpace);
        }
        if self.state != State::Disabled {
            self.state = State::Exceeded;
        }
        self.noticed.get_or_insert(now);
        match self.step {
            Step::Idle => self.sample(now),
            Step::Arm(_) => self.event_pending = true,
            Step::Sample | Step::BackOff | Step::Extend(_) | Step::Refresh(_) => {}
        }
    }

    fn evaluate(&mut self, now: Monotonic, sample: Sample) {
        if sample.capacity_bytes == 0 || sample.physical_bytes == 0 {
            // QEMU reports nothing after some failures; to believe it would make
            // M zero and stop a healthy guest.
            self.tell(Notice::EmptySample);
            self.back_off(now);
            return;
        }
        self.event_pending = false;
        self.capacity_stale = false;
        self.capacity_bytes = sample.capacity_bytes;
        self.physical_bytes = sample.physical_bytes;
        self.allocation_bytes = sample.allocation_bytes;
        self.predictor
            .allocation(now, sample.allocation_bytes, sample.written_bytes);
        let maximum = self.maximum_bytes();
        let probable = size::next_bytes(
            sample.physical_bytes,
            self.config.policy.chunk_bytes(self.replicating),
            maximum,
        )
        .max(sample.physical_bytes);
        if sample.allocation_bytes > probable {
            self.disable();
            self.tell(Notice::Improbable {
                allocation_bytes: sample.allocation_bytes,
                probable_bytes: probable,
            });
            self.effects.push_back(Effect::Pause {
                reason: PauseReason::Other,
            });
            return;
        }
        let room = !size::needs_extend(
            sample.physical_bytes,
            sample.allocation_bytes,
            self.free_limit_bytes(),
        );
        if sample.physical_bytes >= maximum {
            self.at_maximum(now);
        } else if !room {
            self.begin_cycle(now);
        } else {
            self.attempts = 0;
            self.noticed = None;
            if self.starving && !self.fruitless_turn(now) {
                return;
            }
            self.arm(now);
        }
    }

    /// The guest lacked space although there is room. Most likely the space came
    /// while it stopped; if it makes no progress, the lack is not ours to mend,
    /// and to continue it at once each time would only spin. True if it may go
    /// on now.
    fn fruitless_turn(&mut self, now: Monotonic) -> bool {
        let progress = self.config.policy.chunk_bytes(false) / PROGRESS_OF_CHUNK;
        if self.allocation_bytes > self.fruitless_allocation.saturating_add(progress) {
            self.fruitless = 0;
            self.fruitless_until = now;
            self.fruitless_allocation = self.allocation_bytes;
        }
        if now < self.fruitless_until {
            self.enter(Step::BackOff, Some(self.fruitless_until));
            return false;
        }
        let wait_ms = FRUITLESS_MS
            .saturating_mul(1u64 << self.fruitless.min(10))
            .min(FRUITLESS_MS_MAX);
        self.fruitless = self.fruitless.saturating_add(1);
        self.fruitless_until = now.plus_ms(wait_ms);
        if self.fruitless > 1 {
            self.tell(Notice::NoSpaceElsewhere {
                times: self.fruitless,
            });
        }
        true
    }

    fn at_maximum(&mut self, now: Monotonic) {
        self.disable();
        if !self.starving {
            return;
        }
        if self.allocation_bytes < self.physical_bytes.saturating_sub(MIB) {
            if self.fruitless_turn(now) {
                self.satisfied();
            }
            return;
        }
        if !std::mem::replace(&mut self.stuck, true) {
            self.tell(Notice::AtMaximum {
                maximum_bytes: self.maximum_bytes(),
            });
        }
        self.enter(Step::Idle, Some(now.plus_ms(STUCK_MS)));
    }

    /// There is room: sees to it that QEMU tells in time.
    fn arm(&mut self, now: Monotonic) {
        if self.polling {
            self.state = State::Unset;
            self.satisfied();
            self.enter(Step::Idle, Some(now.plus_ms(self.poll_ms())));
            return;
        }
        let wanted = self.threshold();
        if let Some(armed) = self.armed
            && armed.probe == wanted.probe
            && self.allocation_bytes < armed.at_bytes
            && armed.at_bytes < wanted.at_bytes.saturating_add(THRESHOLD_STEP_BYTES)
        {
            self.settle(now);
            return;
        }
        self.enter(Step::Arm(wanted), Some(now.plus_ms(QEMU_PATIENCE_MS)));
        self.effects.push_back(Effect::SetThreshold {
            ticket: self.ticket,
            at_bytes: wanted.at_bytes,
        });
    }

    fn on_armed(&mut self, now: Monotonic, armed: Armed, outcome: ThresholdOutcome) {
        match outcome {
            ThresholdOutcome::Set => {
                self.armed = Some(armed);
                self.settle(now);
            }
            ThresholdOutcome::Failed => self.on_armed_not(now),
            ThresholdOutcome::Unsupported => {
                self.tell(Notice::Polling);
                self.polling = true;
                self.arm(now);
            }
        }
    }

    fn on_armed_not(&mut self, now: Monotonic) {
        self.armed = None;
        self.state = State::Unset;
        self.satisfied();
        self.enter(Step::Idle, Some(now.plus_ms(POLL_MS)));
    }

    /// The threshold is in place.
    fn settle(&mut self, now: Monotonic) {
        self.state = State::Set;
        let again = std::mem::take(&mut self.event_pending);
        if again {
            // Told while it was being set, perhaps of this very threshold, which
            // then is not there any more.
            self.armed = None;
            self.follow_up = true;
            if !self.starving {
                self.sample(now);
                return;
            }
        }
        self.satisfied();
        let look_again = if std::mem::take(&mut self.follow_up) && self.config.predict {
            Some(now.plus_ms(PROBE_GAP_MS))
        } else if self.fast() {
            Some(now.plus_ms(CLOSE_WATCH_MS))
        } else {
            None
        };
        self.enter(Step::Idle, look_again);
    }

    /// The guest has room on this drive.
    fn satisfied(&mut self) {
        self.stuck = false;
        if std::mem::take(&mut self.starving) {
            self.effects.push_back(Effect::Resume);
        }
    }

    fn sample(&mut self, now: Monotonic) {
        self.enter(Step::Sample, Some(now.plus_ms(QEMU_PATIENCE_MS)));
        self.effects.push_back(Effect::QueryStats {
            ticket: self.ticket,
        });
    }

    fn back_off(&mut self, now: Monotonic) {
        let wait_ms = BACK_OFF_MS
            .saturating_mul(1u64 << self.attempts.min(10))
            .min(BACK_OFF_MS_MAX);
        self.attempts = self.attempts.saturating_add(1);
        self.enter(Step::BackOff, Some(now.plus_ms(wait_ms)));
    }

    fn disable(&mut self) {
        self.state = State::Disabled;
        self.armed = None;
        self.attempts = 0;
        self.noticed = None;
        self.enter(Step::Idle, None);
    }

    /// Nothing known about the threshold any more; a request under way goes on.
    fn unset(&mut self, now: Monotonic) {
        self.armed = None;
        self.probed = false;
        match self.step {
            Step::Extend(_) | Step::Refresh(_) => {}
            Step::Idle | Step::Sample | Step::Arm(_) | Step::BackOff => {
                self.state = State::Unset;
                self.sample(now);
            }
        }
    }

    fn enter(&mut self, step: Step, deadline: Option<Monotonic>) {
        self.step = step;
        self.deadline = deadline;
        self.ticket = Ticket(self.ticket.0.wrapping_add(1));
    }

    fn tell(&mut self, notice: Notice) {
        self.effects.push_back(Effect::Tell(notice));
    }
}
