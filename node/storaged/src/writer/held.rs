//! An `SDM` lease that this process holds.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::DomainId;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use sanlock_client::{Code, Error, Registered, Resource};

use super::cluster::{ANSWER, Cluster, told};
use super::lock::LockPlace;
use crate::authority::Authority;
use crate::job::Result;

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
    /// A lock on a file of this host.
    Lock(File),
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
        let failed = |error: std::io::Error, kind| {
            Failure::new(
                kind,
                format!(
                    "domain {}: lock on {}: {error}",
                    place.domain,
                    place.ids.display()
                ),
            )
        };
        let file = File::options()
            .read(true)
            .write(true)
            .open(&place.ids)
            .map_err(|error| failed(error, FailureKind::Io))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into(), FailureKind::InUse))?;
        Ok(Self {
            place: place.clone(),
            grip: Grip::Lock(file),
        })
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
        let Grip::Lease { lease, state, .. } = &self.grip else {
            return Ok(());
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
        self.check_within(FRESH)
    }

    /// Asks the daemon, whatever it said before.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_now(&self) -> Result<()> {
        self.check_within(Duration::ZERO)
    }

    fn check_within(&self, fresh: Duration) -> Result<()> {
        let Grip::Lease {
            lease,
            socket,
            state,
        } = &self.grip
        else {
            return Ok(());
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = state.asked else {
            return Err(self.lost(&"given back"));
        };
        if hung_up(socket) {
            return Err(self.lost(&"the lease daemon hung up"));
        }
        if !fresh.is_zero() && asked.elapsed() <= fresh {
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

    /// Whether the daemon says, without doubt, that it is not held.
    #[must_use]
    pub fn surely_lost(&self) -> bool {
        let Grip::Lease {
            lease,
            socket,
            state,
        } = &self.grip
        else {
            return false;
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        hung_up(socket) || matches!(state.registered.holds(lease, ANSWER), Ok(false))
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
            Grip::Lock(file) => file.as_fd(),
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
/// the pool.
#[derive(Debug, Clone)]
pub struct PoolAuthority {
    master: Arc<Held>,
    members: Arc<RwLock<BTreeSet<DomainId>>>,
}

impl PoolAuthority {
    /// With the master's lease, over the master and these domains.
    #[must_use]
    pub fn new(master: Held, members: impl IntoIterator<Item = DomainId>) -> Self {
        let domain = master.domain();
        Self {
            master: Arc::new(master),
            members: Arc::new(RwLock::new(members.into_iter().chain([domain]).collect())),
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
        Self::new(master, members)
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

    /// The lease, when nobody else uses this authority any more.
    #[must_use]
    pub fn into_master(self) -> Option<Held> {
        Arc::into_inner(self.master)
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
        self.master.check()
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        Some(self.master.registration())
    }
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
