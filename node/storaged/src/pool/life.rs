//! The role's core at work in this process.
//!
//! [`mailbox::role::Spm`] decides: which step comes next, what follows a failed
//! one, when the lease daemon is asked, when this process ends, and whether
//! metadata may be changed now. The simulator runs the same core. Here are its
//! clock, its questions to the lease daemon (each on a thread of its own, so that
//! neither a step nor the daemon can keep it from ending the process), and the
//! loop that does its steps on the caller's thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use mailbox::Monotonic;
use mailbox::role::{
    Effect, Input, LeaseView, Phase, Refusal, Spm, Step, StepFailed, StepId, StopReason,
};

use crate::command::left_writing;
use crate::job::Result;
use crate::writer::Held;

/// Called when only the end of this process helps: ends it.
pub type OnLost = Arc<dyn Fn(&str) + Send + Sync>;

/// How a step went wrong.
#[derive(Debug)]
pub(crate) struct Stumble {
    failure: Failure,
    /// Something of it may still be under way.
    unknown: bool,
}

impl Stumble {
    /// What only the end of this process puts right.
    pub(crate) fn fatal(failure: Failure) -> Self {
        Self {
            failure,
            unknown: true,
        }
    }
}

impl From<Failure> for Stumble {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            unknown: false,
        }
    }
}

/// How a start, a stop or a move ended.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Where the role is now; [`Phase::Killing`]: this process has to end.
    pub(crate) phase: Phase,
    /// The first step that went wrong.
    pub(crate) failure: Option<Failure>,
}

/// The role's core; clones are the same one.
#[derive(Clone)]
pub(crate) struct Life(Arc<Shared>);

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Life")
            .field(&self.lock().core.phase())
            .finish()
    }
}

/// Ends the core's threads when it is dropped: nothing else is put in order.
#[derive(Debug)]
pub(crate) struct Living(Life);

impl std::ops::Deref for Living {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.0
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.lease = None;
        drop(state);
        self.0.0.woken.notify_all();
    }
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    on_lost: OnLost,
}

struct State {
    core: Spm,
    todo: VecDeque<(StepId, Step)>,
    settled: bool,
    refused: Option<Refusal>,
    /// What the lease daemon is asked for, and whether it is to be asked now.
    lease: Option<Arc<Held>>,
    ask: bool,
    /// What it said last that was not a yes.
    doubt: Option<String>,
    /// Ends the mail at once.
    drop_mail: Option<Box<dyn FnOnce() + Send>>,
    ended: bool,
}

impl Life {
    /// A free role. `on_lost` ends this process.
    ///
    /// # Errors
    /// No more threads.
    pub(crate) fn begin(on_lost: OnLost) -> Result<Living> {
        let life = Self(Arc::new(Shared {
            state: Mutex::new(State {
                core: Spm::new(),
                todo: VecDeque::new(),
                settled: false,
                refused: None,
                lease: None,
                ask: false,
                doubt: None,
                drop_mail: None,
                ended: false,
            }),
            woken: Condvar::new(),
            on_lost,
        }));
        let living = Living(life.clone());
        let begin = |name: &str, run: fn(&Self)| {
            let life = life.clone();
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&life))
                .map(drop)
                .map_err(|error| {
                    Failure::new(
                        FailureKind::Failed,
                        format!("thread for the {name}: {error}"),
                    )
                })
        };
        begin("role clock", Self::keep_time)?;
        begin("lease watch", Self::keep_asking)?;
        Ok(living)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether metadata may be changed under the role.
    pub(crate) fn permits(&self) -> bool {
        let state = self.lock();
        !state.ended && state.core.permits()
    }

    /// The lease that is asked for from now on.
    pub(crate) fn watch(&self, lease: Arc<Held>) {
        self.lock().lease = Some(lease);
    }

    /// What ends the mail that was just started; false, and done at once, when it
    /// may not serve any more.
    pub(crate) fn set_mail(&self, drop_mail: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.lock();
        if state.core.permits() {
            state.drop_mail = Some(Box::new(drop_mail));
            return true;
        }
        drop(state);
        drop_mail();
        false
    }

    /// A check has failed: the lease daemon is asked at once what that means.
    pub(crate) fn doubt(&self) {
        self.lock().ask = true;
        self.0.woken.notify_all();
    }

    /// A commit does not end, and may still write.
    pub(crate) fn commit_hangs(&self) {
        self.tell(Input::CommitHangs);
    }

    /// Tells the core, and does what it wants done at once.
    fn tell(&self, input: Input) {
        let mut state = self.lock();
        state.core.handle(now(), input);
        let (mut drop_mail, mut kill) = (None, None);
        while let Some(effect) = state.core.next_effect() {
            match effect {
                Effect::Do(id, step) => state.todo.push_back((id, step)),
                Effect::AskLease => state.ask = true,
                Effect::DropMail => drop_mail = state.drop_mail.take(),
                Effect::KillWriter(reason) => kill = Some(words(reason, state.doubt.as_deref())),
                Effect::Settled(_) => state.settled = true,
                Effect::Refused(refusal) => state.refused = Some(refusal),
            }
        }
        drop(state);
        self.0.woken.notify_all();
        if let Some(drop_mail) = drop_mail {
            drop_mail();
        }
        if let Some(why) = kill {
            (self.0.on_lost)(&why);
        }
    }

    /// Gives an order and does the steps it leads to, with `step`, on this thread;
    /// one order at a time.
    ///
    /// # Errors
    /// [`FailureKind::WrongState`] when the order does not fit.
    pub(crate) fn run(
        &self,
        order: Input,
        step: &mut dyn FnMut(Step) -> std::result::Result<(), Stumble>,
    ) -> Result<Settled> {
        {
            let mut state = self.lock();
            state.settled = false;
            state.refused = None;
            state.todo.clear();
        }
        self.tell(order);
        let mut failure = None;
        loop {
            let mut state = self.lock();
            let (id, next) = loop {
                if let Some(refusal) = state.refused {
                    return Err(refused(refusal));
                }
                if let Some(next) = state.todo.pop_front() {
                    break next;
                }
                let phase = state.core.phase();
                if state.settled || phase == Phase::Killing {
                    return Ok(Settled { phase, failure });
                }
                state = self
                    .0
                    .woken
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let before = left_writing();
            let outcome = step(next);
            // What a step left behind in the kernel may still write.
            let hangs = left_writing() > before;
            match outcome {
                Ok(()) => self.tell(Input::Done(id)),
                Err(stumble) => {
                    tracing::warn!(step = ?next, failure = %stumble.failure, "the role's step failed");
                    let failed = if stumble.unknown || hangs {
                        StepFailed::Unknown
                    } else {
                        StepFailed::Undone
                    };
                    failure.get_or_insert(stumble.failure);
                    self.tell(Input::Failed(id, failed));
                }
            }
        }
    }

    fn keep_time(&self) {
        let mut state = self.lock();
        while !state.ended {
            let left = state
                .core
                .deadline()
                .map(|due| due.0.saturating_sub(now().0));
            match left {
                Some(0) => {
                    drop(state);
                    self.tell(Input::Tick);
                    state = self.lock();
                }
                Some(left) => {
                    let waited = self.0.woken.wait_timeout(state, Duration::from_nanos(left));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    let waited = self.0.woken.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn keep_asking(&self) {
        let mut state = self.lock();
        while !state.ended {
            if !std::mem::take(&mut state.ask) {
                let waited = self.0.woken.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let lease = state.lease.clone();
            drop(state);
            let (view, doubt) = match &lease {
                Some(lease) => lease.view(),
                None => (LeaseView::Unknown, None),
            };
            if let Some(doubt) = &doubt {
                tracing::warn!(doubt, ?view, "lease not confirmed");
            }
            let mut current = self.lock();
            let same = match (&current.lease, &lease) {
                (Some(current), Some(asked)) => Arc::ptr_eq(current, asked),
                _ => false,
            };
            current.doubt = doubt;
            drop((current, lease));
            // What is said of another lease is of no interest any more.
            if same {
                self.tell(Input::Lease(view));
            }
            state = self.lock();
        }
    }
}

fn words(reason: StopReason, doubt: Option<&str>) -> String {
    let doubt = doubt.unwrap_or("nothing is known of it");
    match reason {
        StopReason::LeaseLost => format!("the manager's lease is lost: {doubt}"),
        StopReason::LeaseUnproved => {
            format!("nobody confirms the manager's lease: {doubt}")
        }
        StopReason::Step(step) => {
            format!("the manager's step {step:?} failed, or did not end")
        }
        StopReason::CommitHangs => "a commit does not end".to_owned(),
    }
}

fn refused(refusal: Refusal) -> Failure {
    let why = match refusal {
        Refusal::NotFree(_) => "this host is the pool's manager already",
        Refusal::NotServing(_) => "this host is not the pool's manager",
    };
    Failure::new(FailureKind::WrongState, why)
}

fn now() -> Monotonic {
    Monotonic(linux::clock::boottime_ns())
}
