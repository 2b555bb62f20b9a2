//! A domain's own lease: only for commits, where every domain has its own
//! manager, and for single changes in any pool.
//!
//! When it is taken, kept and given back, who changes the domain now, and what
//! follows what is not certain is decided by [`mailbox::role::Sdm`], which the
//! simulator runs, too. All jobs of this process that commit to the domain share
//! its lease and take turns; a single change has a connection of its own.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use mailbox::role::{LeaseView, Sdm, SdmEffect, SdmEnd, SdmInput, Took};
use mailbox::{Monotonic, RequestId};

use super::cluster::Cluster;
use super::held::Held;
use super::lock::LockPlace;
use crate::authority::Authority;
use crate::command::left_writing;
use crate::job::{Context, Result};
use crate::pool::OnLost;

/// How long one attempt to take the lease may take.
const ATTEMPT: Duration = Duration::from_secs(50);
/// Between two looks whether the work was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// A domain's own lease in this process. Dropping it is what a crash does, once
/// a release under way has ended.
pub(super) struct DomainLease(Arc<Shared>);

impl std::fmt::Debug for DomainLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DomainLease").field(self.place()).finish()
    }
}

struct Shared {
    cluster: Cluster,
    held: Held,
    state: Mutex<State>,
    woken: Condvar,
    on_lost: OnLost,
    /// For a single change: how long taking it waits for the death of a host.
    once: Option<Duration>,
}

struct State {
    core: Sdm,
    /// What the core wants done with the lease: true takes it.
    todo: VecDeque<bool>,
    ended: BTreeMap<RequestId, SdmEnd>,
    next: u64,
    /// Why it was not taken.
    refusal: Option<Failure>,
    over: bool,
}

impl DomainLease {
    /// For the domain at `place`, whose lockspace is joined.
    ///
    /// # Errors
    /// No lease daemon; no more threads.
    pub(super) fn new(cluster: &Cluster, place: &LockPlace, on_lost: OnLost) -> Result<Self> {
        let core = Sdm::new(linux::clock::boottime_ns());
        Self::begin(cluster, place, on_lost, core, None)
    }

    fn begin(
        cluster: &Cluster,
        place: &LockPlace,
        on_lost: OnLost,
        core: Sdm,
        once: Option<Duration>,
    ) -> Result<Self> {
        let held = if place.local {
            Held::unlocked(place)?
        } else {
            Held::registered(place.clone(), place.sdm()?, cluster.register(place)?)?
        };
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            held,
            state: Mutex::new(State {
                core,
                todo: VecDeque::new(),
                ended: BTreeMap::new(),
                next: 1,
                refusal: None,
                over: false,
            }),
            woken: Condvar::new(),
            on_lost,
            once,
        });
        let mine = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("domain lease".to_owned())
            .spawn(move || mine.run())
            .map_err(|error| {
                Failure::new(FailureKind::Failed, format!("thread for a lease: {error}"))
            })?;
        Ok(Self(shared))
    }

    /// Where it lies.
    pub(super) fn place(&self) -> &LockPlace {
        self.0.held.place()
    }

    /// A change does not end, and may still write.
    pub(super) fn hangs(&self) {
        self.0.tell(SdmInput::ChangeHangs);
    }
}

impl Drop for DomainLease {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.woken.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, input: SdmInput) {
        let mut state = self.lock();
        state.core.handle(now(), input);
        let mut kill = false;
        while let Some(effect) = state.core.next_effect() {
            match effect {
                SdmEffect::Take => state.todo.push_back(true),
                SdmEffect::Release => state.todo.push_back(false),
                // The core says so by its permission.
                SdmEffect::Run(_) | SdmEffect::Ended(_, SdmEnd::Ran) => {}
                SdmEffect::Ended(request, end) => {
                    state.ended.insert(request, end);
                }
                SdmEffect::KillWriter => kill = true,
                SdmEffect::HangUp => self.held.hang_up(),
            }
        }
        drop(state);
        self.woken.notify_all();
        if kill {
            (self.on_lost)(&format!(
                "domain {}: its lease is lost, or may be, or what was done under it hangs",
                self.held.domain()
            ));
        }
    }

    /// Takes and gives back as the core wants it, and keeps its time. Both calls
    /// end by themselves before the core's limit.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(take) = state.todo.pop_front() {
                drop(state);
                if take {
                    let (took, refusal) = self.take();
                    self.lock().refusal = refusal;
                    self.tell(SdmInput::Took(took));
                } else {
                    let released = self.held.let_go();
                    if let Err(failure) = &released {
                        tracing::error!(%failure, "lease not given back");
                    }
                    self.tell(SdmInput::Released(released.is_ok()));
                }
                state = self.lock();
                continue;
            }
            if state.over {
                return;
            }
            let due = state.core.deadline();
            let left = due.map(|due| due.0.saturating_sub(now().0));
            state = match left {
                Some(0) => {
                    drop(state);
                    self.tell(SdmInput::Tick);
                    self.lock()
                }
                Some(left) => {
                    let waited = self.woken.wait_timeout(state, Duration::from_nanos(left));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.woken.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn take(&self) -> (Took, Option<Failure>) {
        let refused = |failure: Failure| {
            let took = match failure.kind {
                FailureKind::InUse => Took::Busy,
                _ => Took::Refused,
            };
            (took, Some(failure))
        };
        if self.held.place().local {
            return match self.held.lock() {
                Ok(()) => (Took::Yes, None),
                Err(failure) => refused(failure),
            };
        }
        let taken = match self.once {
            Some(within) => self.held.acquire(false, within),
            None => self.held.acquire(true, ATTEMPT),
        };
        match taken {
            Ok(()) => (Took::Yes, None),
            Err(error) => {
                let failure = self.cluster.refused(self.held.place(), &error);
                // A daemon that has hung up holds nothing for us.
                if error.is_unknown() && !self.held.is_cut_off() {
                    return (Took::Unknown, Some(failure));
                }
                refused(failure)
            }
        }
    }

    /// Asks for a change and waits until it may be made.
    fn begin(&self, patience: Duration, context: &Context) -> Result<RequestId> {
        let request = {
            let mut state = self.lock();
            let request = RequestId(state.next);
            state.next += 1;
            request
        };
        let start = Instant::now();
        self.tell(SdmInput::Change {
            request,
            urgent: false,
        });
        let mut withdrawn = None;
        let mut state = self.lock();
        loop {
            if state.core.permits(request) {
                return Ok(request);
            }
            if let Some(end) = state.ended.remove(&request) {
                let refusal = state.refusal.clone();
                return Err(withdrawn.unwrap_or_else(|| self.not_begun(end, refusal, start)));
            }
            let why = match context.go_on() {
                Err(failure) => Some(failure),
                Ok(()) if start.elapsed() >= patience => {
                    Some(self.not_begun(SdmEnd::Busy, state.refusal.clone(), start))
                }
                Ok(()) => None,
            };
            if withdrawn.is_none()
                && let Some(why) = why
            {
                withdrawn = Some(why);
                drop(state);
                self.tell(SdmInput::Withdraw(request));
                state = self.lock();
                continue;
            }
            let waited = self.woken.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn not_begun(&self, end: SdmEnd, refusal: Option<Failure>, start: Instant) -> Failure {
        let domain = self.held.domain();
        let failure = refusal.unwrap_or_else(|| {
            let why = match end {
                SdmEnd::Full => "too many changes wait for its lease",
                _ => "other changes hold its lease",
            };
            Failure::new(FailureKind::InUse, format!("domain {domain}: {why}"))
        });
        match end {
            SdmEnd::Busy => failure.while_doing(format_args!(
                "no commit within {} s",
                start.elapsed().as_secs()
            )),
            _ => failure,
        }
    }

    /// Ends a change; returns when the lease is given back, or another change
    /// goes on under it.
    fn end(&self, request: RequestId) {
        self.tell(SdmInput::Ran(request));
        let mut state = self.lock();
        while state.core.is_releasing() && !state.over {
            let waited = self.woken.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn check(&self, request: RequestId) -> Result<()> {
        if !self.lock().core.permits(request) {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!(
                    "domain {}: its lease is not held any more",
                    self.held.domain()
                ),
            ));
        }
        self.held.check().inspect_err(|_| {
            if self.held.view().0 == LeaseView::NotHeld {
                self.tell(SdmInput::LeaseLost);
            }
        })
    }
}

/// The right to change one domain for a single change, from [`Single::take`] to
/// [`Single::release`]: beside the pool's role, or without it. Dropping it gives
/// the lease back, too.
#[derive(Debug)]
pub struct Single {
    lease: DomainLease,
    request: RequestId,
    /// Processes that could not be ended when it was taken.
    left: usize,
}

impl Single {
    /// Takes the lease of the domain at `place`, whose lockspace is joined. The
    /// death of a host that may be dead is waited for up to `within`.
    ///
    /// # Errors
    /// [`FailureKind::InUse`] when another host or process has it; no lease
    /// daemon; `Cancelled`.
    pub fn take(
        context: &Context,
        cluster: &Cluster,
        place: &LockPlace,
        within: Duration,
    ) -> Result<Self> {
        let core = Sdm::once(cluster.io_timeout_s());
        let lease = DomainLease::begin(cluster, place, cluster.on_lost(), core, Some(within))?;
        let left = left_writing();
        // The core gives up by itself.
        let request = lease.0.begin(Duration::MAX, context)?;
        Ok(Self {
            lease,
            request,
            left,
        })
    }

    /// Gives it back, and makes sure that it is.
    ///
    /// # Errors
    /// The outcome is not known: its connection is closed, by which the lease
    /// daemon frees it. Something that was run under it may still write: the
    /// process ends.
    pub fn release(mut self) -> Result<()> {
        self.end();
        if self.lease.0.lock().core.may_hold() {
            return Err(Failure::new(
                FailureKind::Failed,
                format!(
                    "domain {}: whether its lease was given back is not known",
                    self.lease.place().domain
                ),
            ));
        }
        Ok(())
    }

    fn end(&mut self) {
        if left_writing() > self.left {
            self.lease.hangs();
        }
        self.lease.0.end(self.request);
    }
}

/// Done before, it has nothing left to do.
impl Drop for Single {
    fn drop(&mut self) {
        self.end();
    }
}

/// For the domain itself and no other.
impl Authority for Single {
    fn check(&self, domain: &str) -> Result<()> {
        let own = self.lease.0.held.domain();
        if domain != own.to_string() {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!("domain {domain}: the lease held is one of domain {own}"),
            ));
        }
        self.lease.0.check(self.request)
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lease.0.held.registration())
    }
}

/// The right to change one domain, taken with the first check after each rest.
#[derive(Debug)]
pub struct Commits {
    lease: Arc<DomainLease>,
    /// The change that is being made.
    current: Mutex<Option<RequestId>>,
    patience: Duration,
    context: Context,
}

impl Commits {
    /// For the domain at `place`, whose lockspace is joined. A lease that another
    /// host holds is waited for up to `patience`. `on_lost` ends this process.
    ///
    /// # Errors
    /// No lease daemon.
    pub fn new(
        cluster: &Cluster,
        place: &LockPlace,
        patience: Duration,
        context: &Context,
        on_lost: OnLost,
    ) -> Result<Self> {
        let lease = Arc::new(DomainLease::new(cluster, place, on_lost)?);
        Ok(Self::on(&lease, patience, context))
    }

    /// By a lease that others in this process use, too.
    pub(super) fn on(lease: &Arc<DomainLease>, patience: Duration, context: &Context) -> Self {
        Self {
            lease: Arc::clone(lease),
            current: Mutex::new(None),
            patience,
            context: context.clone(),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<RequestId>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        if let Some(request) = self.current().take() {
            self.lease.0.end(request);
        }
    }
}

/// Gives the lease back, unless another change goes on under it.
impl Drop for Commits {
    fn drop(&mut self) {
        self.end();
    }
}

impl Authority for Commits {
    fn check(&self, domain: &str) -> Result<()> {
        let own = self.lease.0.held.domain();
        if domain != own.to_string() {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!("domain {domain}: commits of domain {own} only"),
            ));
        }
        let mut current = self.current();
        let request = match *current {
            Some(request) => request,
            None => *current.insert(self.lease.0.begin(self.patience, &self.context)?),
        };
        self.lease.0.check(request)
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lease.0.held.registration())
    }

    fn rest(&self, _domain: &str) {
        if !self.lease.place().local {
            self.end();
        }
    }
}

fn now() -> Monotonic {
    Monotonic(linux::clock::boottime_ns())
}
