//! The pure core of one child process: when to start it, when it counts as
//! ready, when to start it again, how to end it.
//!
//! ```text
//!            want            READY=1 (or at once)
//!  Waiting ───────▶ Starting ──────────────▶ Ready
//!     ▲                │ exit, start deadline  │ exit
//!     │ unwant         ▼                       ▼
//!     └──────────  BackingOff(until) ◀─────────┘
//!
//!  any with a process ──stop──▶ Stopping ──exit──▶ Stopped
//!                                  │ stop deadline: SIGKILL to the whole group;
//!                                  └─ still there after a while ──▶ Stopped
//! ```
//!
//! Invariants, tested below: at most one process at a time; a child that ends
//! within its minimum run time waits twice as long as the last time (bounded)
//! before its next start; a stopped child never starts again.

use std::collections::VecDeque;

use linux::process::Exit;

use crate::boot::sequence::Millis;

/// Longest wait for a killed process to be gone. One stuck in the kernel, in a read
/// of a dead disk for instance, must not hold up a shutdown.
pub const KILLED_MAX_MS: Millis = 15_000;

/// The numbers of one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From start to readiness.
    pub start_deadline_ms: Millis,
    /// A run at least this long was healthy: the back-off starts afresh.
    pub run_min_ms: Millis,
    /// First wait before a restart.
    pub backoff_min_ms: Millis,
    /// Longest wait before a restart.
    pub backoff_max_ms: Millis,
    /// From SIGTERM to SIGKILL.
    pub stop_deadline_ms: Millis,
    /// Whether it tells its readiness; otherwise it counts as ready once started.
    pub notifies: bool,
}

/// Where a child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not wanted yet.
    Waiting,
    /// A process runs and has not told its readiness.
    Starting,
    /// A process runs and is ready.
    Ready,
    /// Ended; starts again at this time.
    BackingOff(Millis),
    /// Told to end; killed at this time.
    Stopping(Millis),
    /// Ended for good.
    Stopped,
}

impl State {
    /// The word shown to people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff(_) => "backing-off",
            Self::Stopping(_) => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// What the driver must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start the process; answer with [`Policy::spawned`] or [`Policy::spawn_failed`].
    Spawn,
    /// Send SIGTERM to the process.
    Terminate,
    /// Send SIGKILL to the process and everything in its group.
    Kill,
    /// It became ready.
    BecameReady,
    /// It ended by itself and starts again after this many milliseconds.
    RestartIn(Millis),
}

/// One child.
#[derive(Debug)]
pub struct Policy {
    limits: Limits,
    state: State,
    started: Option<Millis>,
    backoff_ms: Millis,
    starts: u32,
    last_exit: Option<String>,
    /// A kill was asked for and its exit is awaited.
    killed: bool,
    effects: VecDeque<Effect>,
}

impl Policy {
    /// A child not wanted yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let backoff_ms = limits.backoff_min_ms;
        let effects = VecDeque::new();
        Self {
            limits,
            state: State::Waiting,
            started: None,
            backoff_ms,
            starts: 0,
            last_exit: None,
            killed: false,
            effects,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Starts after the first.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// Time of the last start.
    #[must_use]
    pub fn started(&self) -> Option<Millis> {
        self.started
    }

    /// How it last ended.
    #[must_use]
    pub fn last_exit(&self) -> Option<&str> {
        self.last_exit.as_deref()
    }

    /// It is wanted from now on.
    pub fn want(&mut self, now: Millis) {
        if self.state == State::Waiting {
            self.start(now);
        }
    }

    /// The process was started.
    pub fn spawned(&mut self, now: Millis) {
        self.starts += 1;
        if self.state == State::Starting && !self.limits.notifies {
            self.ready(now);
        }
    }

    /// The process could not be started.
    pub fn spawn_failed(&mut self, now: Millis, why: &str) {
        self.starts += 1;
        self.gone(now, why.to_owned());
    }

    /// The process told its readiness.
    pub fn ready(&mut self, _now: Millis) {
        if self.state == State::Starting {
            self.state = State::Ready;
            self.effects.push_back(Effect::BecameReady);
        }
    }

    /// The process ended.
    pub fn exited(&mut self, now: Millis, exit: Exit) {
        self.gone(now, exit.to_string());
    }

    /// It shall end for good.
    pub fn stop(&mut self, now: Millis) {
        match self.state {
            State::Waiting | State::BackingOff(_) => self.state = State::Stopped,
            State::Starting | State::Ready => {
                self.state = State::Stopping(now + self.limits.stop_deadline_ms);
                self.killed = false;
                self.effects.push_back(Effect::Terminate);
            }
            State::Stopping(_) | State::Stopped => {}
        }
    }

    /// Acts on what is due. Call by [`Policy::deadline`]; calling early is harmless.
    pub fn tick(&mut self, now: Millis) {
        match self.state {
            State::BackingOff(until) if now >= until => self.start(now),
            State::Starting | State::Stopping(_)
                if !self.killed && self.deadline().is_some_and(|due| now >= due) =>
            {
                self.killed = true;
                self.effects.push_back(Effect::Kill);
            }
            State::Stopping(_) if self.killed && self.deadline().is_some_and(|due| now >= due) => {
                self.state = State::Stopped;
                self.last_exit = Some(format!(
                    "still there {} s after it was killed",
                    KILLED_MAX_MS / 1000
                ));
            }
            _ => {}
        }
    }

    /// When [`Policy::tick`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        match self.state {
            State::BackingOff(until) => Some(until),
            State::Stopping(until) if self.killed => Some(until + KILLED_MAX_MS),
            _ if self.killed => None,
            State::Starting => Some(self.started? + self.limits.start_deadline_ms),
            State::Stopping(until) => Some(until),
            State::Waiting | State::Ready | State::Stopped => None,
        }
    }

    /// The next thing to do, until there is none.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn start(&mut self, now: Millis) {
        (self.state, self.started, self.killed) = (State::Starting, Some(now), false);
        self.effects.push_back(Effect::Spawn);
    }

    fn gone(&mut self, now: Millis, how: String) {
        self.last_exit = Some(how);
        match self.state {
            State::Starting | State::Ready => {
                let ran = now.saturating_sub(self.started.unwrap_or(now));
                if ran >= self.limits.run_min_ms {
                    self.backoff_ms = self.limits.backoff_min_ms;
                }
                let wait = self.backoff_ms;
                self.backoff_ms = (wait * 2).min(self.limits.backoff_max_ms);
                self.state = State::BackingOff(now + wait);
                self.effects.push_back(Effect::RestartIn(wait));
            }
            State::Stopping(_) => self.state = State::Stopped,
            State::Waiting | State::BackingOff(_) | State::Stopped => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        start_deadline_ms: 5000,
        run_min_ms: 10_000,
        backoff_min_ms: 100,
        backoff_max_ms: 1000,
        stop_deadline_ms: 3000,
        notifies: true,
    };

    fn effects(policy: &mut Policy) -> Vec<Effect> {
        std::iter::from_fn(|| policy.next_effect()).collect()
    }

    fn running() -> Policy {
        let mut policy = Policy::new(LIMITS);
        policy.want(0);
        assert_eq!(effects(&mut policy), [Effect::Spawn]);
        policy.spawned(0);
        policy.ready(10);
        assert_eq!(effects(&mut policy), [Effect::BecameReady]);
        policy
    }

    #[test]
    fn a_child_that_keeps_dying_waits_longer_each_time_up_to_the_bound() {
        let mut policy = running();
        let mut now = 20;
        for wait in [100, 200, 400, 800, 1000, 1000] {
            policy.exited(now, Exit::Code(1));
            assert_eq!(effects(&mut policy), [Effect::RestartIn(wait)]);
            policy.tick(now + wait - 1);
            assert_eq!(effects(&mut policy), [], "not before its time");
            now += wait;
            policy.tick(now);
            assert_eq!(effects(&mut policy), [Effect::Spawn]);
            policy.spawned(now);
            now += 5;
        }
        assert_eq!((policy.restarts(), policy.last_exit()), (6, Some("exit 1")));
    }

    #[test]
    fn a_healthy_run_resets_the_back_off() {
        let mut policy = running();
        policy.exited(20, Exit::Signal(9));
        policy.tick(120);
        effects(&mut policy);
        policy.exited(120 + LIMITS.run_min_ms, Exit::Signal(9));
        assert_eq!(effects(&mut policy), [Effect::RestartIn(100)]);
    }

    #[test]
    fn a_child_that_never_gets_ready_is_killed_once_and_restarted() {
        let mut policy = Policy::new(LIMITS);
        policy.want(0);
        effects(&mut policy);
        policy.spawned(0);
        assert_eq!(policy.deadline(), Some(5000));
        policy.tick(5000);
        policy.tick(5001);
        assert_eq!(effects(&mut policy), [Effect::Kill]);
        assert_eq!(policy.deadline(), None);
        policy.exited(5002, Exit::Signal(9));
        assert_eq!(effects(&mut policy), [Effect::RestartIn(100)]);
    }

    #[test]
    fn a_stopped_child_is_terminated_then_killed_and_never_comes_back() {
        let mut policy = running();
        policy.stop(100);
        assert_eq!(effects(&mut policy), [Effect::Terminate]);
        policy.tick(3099);
        assert_eq!(effects(&mut policy), []);
        policy.tick(3100);
        assert_eq!(effects(&mut policy), [Effect::Kill]);
        policy.exited(3101, Exit::Signal(9));
        assert_eq!(policy.state(), State::Stopped);
        policy.want(4000);
        policy.tick(9000);
        assert_eq!(effects(&mut policy), []);
    }

    #[test]
    fn one_that_not_even_a_kill_ends_is_given_up_and_its_late_end_changes_nothing() {
        let mut policy = running();
        policy.stop(0);
        policy.tick(3000);
        assert_eq!(effects(&mut policy), [Effect::Terminate, Effect::Kill]);
        assert_eq!(policy.deadline(), Some(3000 + KILLED_MAX_MS));
        policy.tick(3000 + KILLED_MAX_MS - 1);
        assert_eq!(policy.state(), State::Stopping(3000));
        policy.tick(3000 + KILLED_MAX_MS);
        assert_eq!(policy.state(), State::Stopped);
        assert_eq!(policy.deadline(), None);
        assert!(policy.last_exit().unwrap().contains("after it was killed"));
        policy.exited(90_000, Exit::Signal(9));
        policy.tick(90_000);
        assert_eq!(
            (policy.state(), effects(&mut policy)),
            (State::Stopped, vec![])
        );
    }

    #[test]
    fn one_without_notification_is_ready_once_started_and_a_failed_start_backs_off() {
        let mut policy = Policy::new(Limits {
            notifies: false,
            ..LIMITS
        });
        policy.want(0);
        policy.spawn_failed(0, "no such file");
        assert_eq!(
            effects(&mut policy),
            [Effect::Spawn, Effect::RestartIn(100)]
        );
        assert_eq!(policy.last_exit(), Some("no such file"));
        policy.tick(100);
        policy.spawned(100);
        assert_eq!(effects(&mut policy), [Effect::Spawn, Effect::BecameReady]);
    }

    #[test]
    fn a_child_stopped_while_backing_off_is_stopped_at_once() {
        let mut policy = running();
        policy.exited(20, Exit::Code(0));
        effects(&mut policy);
        policy.stop(30);
        policy.tick(1000);
        assert_eq!(
            (policy.state(), effects(&mut policy)),
            (State::Stopped, vec![])
        );
    }
}
