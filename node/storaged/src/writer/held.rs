//! An `SDM` lease that this process holds.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::DomainId;
use mailbox::role::LeaseView;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::net::Shutdown;
use sanlock_client::{Code, Error, Registered, Resource};

use super::cluster::{ANSWER, Cluster, told};
use super::lock::LockPlace;
use crate::authority::Authority;
use crate::job::Result;
use crate::pool::Life;

/// For how long the lease daemon's word is taken without asking again. Far
/// below the time it leaves a process that lost its lease (half of 8 × its
/// io_timeout), and above what a run of writes in one commit takes.
pub const FRESH: Duration = Duration::from_millis(100);
/// How long a lease may take to be given back: it is written to disk.
const RELEASE: Duration = Duration::from_secs(60);

/// An `SDM` lease, held from [`Cluster::take`] to [`Held::release`] or drop.
#[derive(Debug)]
pub struct Held {
    place: LockPlace,
    grip: Grip,
}

#[derive(Debug)]
enum Grip {
    /// At the lease daemon.
    Lease {
        lease: Resource,
        /// The same socket as `registered`'s: what children inherit.
        socket: OwnedFd,
        state: Mutex<State>,
    },
    /// A lock on a file of this host, and whether it is locked.
    Lock(File, AtomicBool),
}

#[derive(Debug)]
struct State {
    registered: Registered,
    /// When the daemon said last that it is held.
    asked: Option<Instant>,
}

impl Held {
    pub(super) fn registered(
        place: LockPlace,
        lease: Resource,
        registered: Registered,
    ) -> Result<Self> {
        let socket = registered
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Failure::new(FailureKind::Failed, format!("descriptor: {error}")))?;
        Ok(Self {
            place,
            grip: Grip::Lease {
                lease,
                socket,
                state: Mutex::new(State {
                    registered,
                    asked: None,
                }),
            },
        })
    }

    /// Locks a domain of this host alone.
    pub(super) fn local(place: &LockPlace) -> Result<Self> {
        let held = Self::unlocked(place)?;
        held.lock()?;
        Ok(held)
    }

    /// For a domain of this host alone, not locked yet.
    pub(super) fn unlocked(place: &LockPlace) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&place.ids)
            .map_err(|error| lock_failed(place, &error, FailureKind::Io))?;
        Ok(Self {
            place: place.clone(),
            grip: Grip::Lock(file, AtomicBool::new(false)),
        })
    }

    /// Locks a domain of this host alone; a lease of the lease daemon needs
    /// nothing.
    ///
    /// # Errors
    /// [`FailureKind::InUse`]: another process has it.
    pub(super) fn lock(&self) -> Result<()> {
        let Grip::Lock(file, locked) = &self.grip else {
            return Ok(());
        };
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| lock_failed(&self.place, &error.into(), FailureKind::InUse))?;
        locked.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Whether the lease daemon has hung up: it holds nothing for us any more.
    pub(super) fn is_cut_off(&self) -> bool {
        match &self.grip {
            Grip::Lease { socket, .. } => hung_up(socket),
            Grip::Lock(..) => false,
        }
    }

    /// Takes the lease on the registered connection.
    pub(super) fn acquire(
        &self,
        no_wait: bool,
        within: Duration,
    ) -> std::result::Result<(), Error> {
        let Grip::Lease { lease, state, .. } = &self.grip else {
            return Ok(());
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .registered
            .acquire(lease, Cluster::how(no_wait), within)?;
        state.asked = Some(Instant::now());
        Ok(())
    }

    /// Gives the lease back on the connection, which stays registered.
    pub(super) fn let_go(&self) -> Result<()> {
        let (lease, state) = match &self.grip {
            Grip::Lease { lease, state, .. } => (lease, state),
            Grip::Lock(file, locked) => {
                locked.store(false, Ordering::SeqCst);
                return rustix::fs::flock(file, FlockOperation::Unlock)
                    .map_err(|error| lock_failed(&self.place, &error.into(), FailureKind::Failed));
            }
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked = None;
        match state.registered.release(lease, RELEASE) {
            Ok(())
            | Err(Error::Refused {
                code: Code::ENOENT, ..
            }) => Ok(()),
            Err(error) => Err(told(&self.place, "giving its SDM lease back", &error)),
        }
    }

    /// Closes the connection at the lease daemon, which frees the lease. Only when
    /// nothing that inherited the connection may still write.
    pub(super) fn hang_up(&self) {
        let closed = match &self.grip {
            Grip::Lease { socket, .. } => rustix::net::shutdown(socket, Shutdown::Both),
            Grip::Lock(file, locked) => {
                locked.store(false, Ordering::SeqCst);
                rustix::fs::flock(file, FlockOperation::Unlock)
            }
        };
        if let Err(error) = closed {
            // The daemon has closed it already, or the end of this lease does.
            tracing::debug!(domain = %self.place.domain, %error, "connection not closed");
        }
    }

    /// Which domain's.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.place.domain
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> &LockPlace {
        &self.place
    }

    /// Its version, as the daemon knows it; 0 on a domain of this host alone.
    ///
    /// # Errors
    /// [`FailureKind::LeaseNotHeld`].
    pub fn lver(&self) -> Result<u64> {
        let Grip::Lease { lease, state, .. } = &self.grip else {
            return Ok(0);
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let held = state
            .registered
            .inquire(ANSWER)
            .map_err(|error| self.lost(&error))?;
        held.iter()
            .find(|one| one.name.same_name(&lease.name))
            .map(|one| one.lver)
            .ok_or_else(|| self.lost(&"the lease daemon does not know of it"))
    }

    /// Succeeds while it is proved to be held: the daemon said so at most
    /// [`FRESH`] ago, and has not hung up.
    ///
    /// # Errors
    /// [`FailureKind::LeaseNotHeld`], also when the daemon does not answer.
    pub fn check(&self) -> Result<()> {
        let (lease, socket, state) = match &self.grip {
            Grip::Lease {
                lease,
                socket,
                state,
            } => (lease, socket, state),
            Grip::Lock(_, locked) if locked.load(Ordering::SeqCst) => return Ok(()),
            Grip::Lock(..) => return Err(self.lost(&"given back")),
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = state.asked else {
            return Err(self.lost(&"given back"));
        };
        if hung_up(socket) {
            return Err(self.lost(&"the lease daemon hung up"));
        }
        if asked.elapsed() <= FRESH {
            return Ok(());
        }
        // The answer is as old as the question.
        let now = Instant::now();
        match state.registered.holds(lease, ANSWER) {
            Ok(true) => {
                state.asked = Some(now);
                Ok(())
            }
            Ok(false) => Err(self.lost(&"the lease daemon says so")),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Asks the daemon, whatever it said before: what the role's core makes of
    /// its answer, and the answer when it is not a yes.
    pub(crate) fn view(&self) -> (LeaseView, Option<String>) {
        let Grip::Lease {
            lease,
            socket,
            state,
        } = &self.grip
        else {
            return (LeaseView::Held, None);
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |why: &dyn std::fmt::Display| Some(self.lost(why).message);
        if state.asked.is_none() {
            return (LeaseView::NotHeld, told(&"given back"));
        }
        if hung_up(socket) {
            return (LeaseView::NotHeld, told(&"the lease daemon hung up"));
        }
        let now = Instant::now();
        match state.registered.holds(lease, ANSWER) {
            Ok(true) => {
                state.asked = Some(now);
                (LeaseView::Held, None)
            }
            Ok(false) => (LeaseView::NotHeld, told(&"the lease daemon says so")),
            Err(error) if hung_up(socket) => (LeaseView::NotHeld, told(&error)),
            Err(error) => (LeaseView::Unknown, told(&error)),
        }
    }

    /// Gives it back, and makes sure that it is.
    ///
    /// # Errors
    /// The outcome is not known: then only the end of this process gives it back.
    pub fn release(self) -> Result<()> {
        self.let_go()
    }

    /// What children that write inherit.
    #[must_use]
    pub fn registration(&self) -> BorrowedFd<'_> {
        match &self.grip {
            Grip::Lease { socket, .. } => socket.as_fd(),
            Grip::Lock(file, _) => file.as_fd(),
        }
    }

    fn lost(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(
            FailureKind::LeaseNotHeld,
            format!(
                "domain {}: its SDM lease is not held: {why}",
                self.place.domain
            ),
        )
    }
}

/// For the domain itself and no other.
impl Authority for Held {
    fn check(&self, domain: &str) -> Result<()> {
        if domain != self.place.domain.to_string() {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!(
                    "domain {domain}: the lease held is one of domain {}",
                    self.place.domain
                ),
            ));
        }
        Held::check(self)
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        Some(Held::registration(self))
    }
}

/// The pool manager's right: the master's `SDM` lease covers every domain of
/// the pool, as long as the role's core permits it.
#[derive(Debug, Clone)]
pub struct PoolAuthority {
    master: Arc<Held>,
    members: Arc<RwLock<BTreeSet<DomainId>>>,
    life: Life,
}

impl PoolAuthority {
    /// With the master's lease, over the master and these domains, while the role's
    /// core permits it. The core asks for this lease from now on.
    pub(crate) fn new(
        master: Held,
        members: impl IntoIterator<Item = DomainId>,
        life: &Life,
    ) -> Self {
        let (domain, master) = (master.domain(), Arc::new(master));
        life.watch(Arc::clone(&master));
        Self {
            master,
            members: Arc::new(RwLock::new(members.into_iter().chain([domain]).collect())),
            life: life.clone(),
        }
    }

    /// The same domains under another master's lease, after a migration.
    #[must_use]
    pub fn moved(&self, master: Held) -> Self {
        let members: Vec<_> = self
            .members
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        Self::new(master, members, &self.life)
    }

    /// What was run under this right does not end, and may still write.
    pub(crate) fn hangs(&self) {
        self.life.commit_hangs();
    }

    /// The master's lease.
    #[must_use]
    pub fn master(&self) -> &Held {
        &self.master
    }

    /// Covers one more domain, which was attached.
    pub fn add(&self, domain: DomainId) {
        self.members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(domain);
    }

    /// Covers a domain no longer, which was detached.
    pub fn remove(&self, domain: DomainId) {
        self.members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&domain);
    }

    /// Gives the master's lease back although others still know of it: their
    /// checks fail from now on.
    ///
    /// # Errors
    /// The outcome is not known.
    pub fn give_back(&self) -> Result<()> {
        self.master.let_go()
    }
}

impl Authority for PoolAuthority {
    fn check(&self, domain: &str) -> Result<()> {
        let member = domain.parse::<DomainId>().is_ok_and(|domain| {
            self.members
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&domain)
        });
        if !member {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!("domain {domain}: not one of the pool this host manages"),
            ));
        }
        if !self.life.permits() {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!("domain {domain}: this host's role in the pool has ended"),
            ));
        }
        self.master.check().inspect_err(|_| self.life.doubt())
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        Some(self.master.registration())
    }
}

fn lock_failed(place: &LockPlace, error: &std::io::Error, kind: FailureKind) -> Failure {
    Failure::new(
        kind,
        format!(
            "domain {}: lock on {}: {error}",
            place.domain,
            place.ids.display()
        ),
    )
}

fn hung_up(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut polled, Some(&now)) {
        Ok(_) => polled.iter().any(|one| {
            one.revents()
                .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
        }),
        Err(_) => false,
    }
}
