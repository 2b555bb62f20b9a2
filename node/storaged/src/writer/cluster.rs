//! This host among the hosts of a pool: joining lockspaces, taking and
//! inspecting `SDM` leases.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use sanlock_client::{Acquire, Client, Code, Error, HostState, Joined, Registered, Resource};

use super::held::Held;
use super::lock::LockPlace;
use crate::job::Result;
use crate::pool::OnLost;

/// For what the lease daemon answers from memory.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// For what takes a few reads and writes.
const DISK: Duration = Duration::from_secs(60);
/// Between two looks at a lockspace that is being joined or left.
const LOOK: Duration = Duration::from_millis(50);

/// Who holds a lease, by what is on disk and what is known of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Nobody, or a host that is surely dead.
    Free {
        /// Its version.
        lver: u64,
    },
    /// A host.
    Held {
        /// Which.
        host_id: u64,
        /// Its generation.
        generation: u64,
        /// The lease's version.
        lver: u64,
        /// Whether it is known to be alive; otherwise it is assumed so.
        live: bool,
    },
}

/// This host, as the lease daemon knows it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    host_id: u16,
    io_timeout_s: u32,
    on_lost: OnLost,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("client", &self.client)
            .field("host_id", &self.host_id)
            .field("io_timeout_s", &self.io_timeout_s)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Through the lease daemon behind `socket`, as host `host_id` (1–250), with
    /// `io_timeout_s` for new lockspaces.
    ///
    /// # Errors
    /// A host id outside 1–250.
    pub fn new(socket: &Path, host_id: u16, io_timeout_s: u32) -> Result<Self> {
        if !(1..=250).contains(&host_id) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("host id {host_id}: a host of a pool has 1 to 250"),
            ));
        }
        Ok(Self {
            client: Client::new(socket),
            host_id,
            io_timeout_s,
            on_lost: Arc::new(|why| {
                tracing::error!(why, "the process ends");
                std::process::abort();
            }),
        })
    }

    /// The same in a process that `on_lost` ends, when only its end gives a lease
    /// back for sure. Otherwise the process is aborted.
    #[must_use]
    pub fn ended_by(self, on_lost: OnLost) -> Self {
        Self { on_lost, ..self }
    }

    /// What ends this process.
    pub(super) fn on_lost(&self) -> OnLost {
        Arc::clone(&self.on_lost)
    }

    /// This host's number.
    #[must_use]
    pub fn host_id(&self) -> u16 {
        self.host_id
    }

    /// Seconds of an I/O of new lockspaces.
    #[must_use]
    pub fn io_timeout_s(&self) -> u32 {
        self.io_timeout_s
    }

    /// Begins to join the domain's lockspace; joined or under way is success.
    ///
    /// # Errors
    /// No lease daemon, or the lockspace is used with another host id.
    pub fn begin_join(&self, place: &LockPlace) -> Result<()> {
        if place.local {
            return Ok(());
        }
        self.client
            .add_lockspace_async(&place.lockspace(self.host_id)?, self.io_timeout_s, ANSWER)
            .map_err(|error| told(place, "joining its lockspace", &error))
    }

    /// How far this host is in the domain's lockspace.
    ///
    /// # Errors
    /// No answer.
    pub fn joined(&self, place: &LockPlace) -> Result<Joined> {
        if place.local {
            return Ok(Joined::Yes);
        }
        self.client
            .inq_lockspace(&place.lockspace(self.host_id)?, false, ANSWER)
            .map_err(|error| told(place, "asking for its lockspace", &error))
    }

    /// Joins the domain's lockspace, however long it takes up to `within`.
    ///
    /// # Errors
    /// [`FailureKind::Timeout`] after `within`; another refusal at once.
    pub fn join(&self, place: &LockPlace, within: Duration) -> Result<()> {
        if place.local {
            return Ok(());
        }
        let start = Instant::now();
        let lockspace = place.lockspace(self.host_id)?;
        // Given once and waited for by looking: the answer to the order itself
        // may come only after the death of another host.
        let mut begun = false;
        loop {
            match self.joined(place)? {
                Joined::Yes => return Ok(()),
                Joined::Changing => {}
                Joined::No if begun && start.elapsed() < within => {
                    // It failed: the daemon's reason comes with a new attempt.
                    let left = within.saturating_sub(start.elapsed());
                    return match self
                        .client
                        .add_lockspace(&lockspace, self.io_timeout_s, left)
                    {
                        Ok(()) => Ok(()),
                        Err(Error::Refused {
                            code: Code::EEXIST, ..
                        }) => Ok(()),
                        Err(error) => Err(told(place, "joining its lockspace", &error)),
                    };
                }
                Joined::No => {
                    self.begin_join(place)?;
                    begun = true;
                }
            }
            if start.elapsed() >= within {
                return Err(Failure::new(
                    FailureKind::Timeout,
                    format!(
                        "domain {}: host id {} not held after {} s",
                        place.domain,
                        self.host_id,
                        within.as_secs()
                    ),
                ));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Leaves the domain's lockspace; not joined is success.
    ///
    /// # Errors
    /// [`FailureKind::InUse`] while a lease of it is held here.
    pub fn leave(&self, place: &LockPlace) -> Result<()> {
        if place.local {
            return Ok(());
        }
        match self
            .client
            .rem_lockspace(&place.lockspace(self.host_id)?, true, DISK)
        {
            Ok(())
            | Err(Error::Refused {
                code: Code::ENOENT, ..
            }) => Ok(()),
            Err(Error::Refused {
                code: Code::EBUSY, ..
            }) => Err(Failure::new(
                FailureKind::InUse,
                format!("domain {}: leases of it are held here", place.domain),
            )),
            Err(error) => Err(told(place, "leaving its lockspace", &error)),
        }
    }

    /// Who holds the domain's `SDM` lease. Whoever cannot be told dead is taken
    /// for alive.
    ///
    /// # Errors
    /// The lease cannot be read, or has another name.
    pub fn owner(&self, place: &LockPlace) -> Result<Owner> {
        if place.local {
            return Ok(Owner::Free { lver: 0 });
        }
        let lease = place.sdm()?;
        let seen = self
            .client
            .read_resource_owners(&lease, DISK)
            .map_err(|error| told(place, "reading its SDM lease", &error))?;
        if !seen.resource.name.same_name(&lease.name)
            || !seen
                .resource
                .lockspace_name
                .same_name(&lease.lockspace_name)
        {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!(
                    "domain {}: its SDM lease is named {}:{}",
                    place.domain, seen.resource.lockspace_name, seen.resource.name
                ),
            ));
        }
        let lver = seen.resource.lver;
        let Some(owner) = seen.owners.first().filter(|owner| owner.host_id != 0) else {
            return Ok(Owner::Free { lver });
        };
        let lockspace = place.lockspace(0)?;
        let known = self
            .client
            .host_state(&lockspace, owner.host_id, ANSWER)
            .unwrap_or(None);
        let dead = known.is_some_and(|(host, state)| {
            matches!(state, HostState::Dead | HostState::Free)
                || host.generation != owner.generation
        });
        if dead {
            return Ok(Owner::Free { lver });
        }
        Ok(Owner::Held {
            host_id: owner.host_id,
            generation: owner.generation,
            lver,
            live: known.is_some_and(|(_, state)| state == HostState::Live),
        })
    }

    /// Hosts seen alive in the domain's lockspace, in order; this one is among
    /// them when it has joined.
    ///
    /// # Errors
    /// No lease daemon, or the lockspace is not joined.
    pub fn live(&self, place: &LockPlace) -> Result<Vec<u16>> {
        if place.local {
            return Ok(vec![self.host_id]);
        }
        let hosts = self
            .client
            .hosts(&place.lockspace(0)?, ANSWER)
            .map_err(|error| told(place, "asking for its hosts", &error))?;
        let mut live: Vec<u16> = hosts
            .iter()
            .filter(|host| host.state() == Some(HostState::Live))
            .filter_map(|host| u16::try_from(host.host_id).ok())
            .collect();
        if self.joined(place)? == Joined::Yes {
            live.push(self.host_id);
        }
        live.sort_unstable();
        live.dedup();
        Ok(live)
    }

    /// A connection by which this process may hold leases.
    pub(super) fn register(&self, place: &LockPlace) -> Result<Registered> {
        self.client
            .register(ANSWER)
            .map_err(|error| told(place, "registering at the lease daemon", &error))
    }

    /// Takes the domain's `SDM` lease for this process. The lockspace must be
    /// joined. Waits for the death of a host that may be dead unless `no_wait`.
    ///
    /// # Errors
    /// [`FailureKind::InUse`] when another host or process has it.
    pub fn take(&self, place: &LockPlace, no_wait: bool, within: Duration) -> Result<Held> {
        if place.local {
            return Held::local(place);
        }
        let registered = self.register(place)?;
        let lease = place.sdm()?;
        let mut held = Held::registered(place.clone(), lease, registered)?;
        self.acquire(&mut held, no_wait, within)?;
        Ok(held)
    }

    fn acquire(&self, held: &mut Held, no_wait: bool, within: Duration) -> Result<()> {
        match held.acquire(no_wait, within) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused(held.place(), &error)),
        }
    }

    /// What a refused acquire means, with who holds it.
    pub(super) fn refused(&self, place: &LockPlace, error: &Error) -> Failure {
        let holder = match error.code() {
            Some(Code::EEXIST) => " by another process of this host".to_owned(),
            Some(code) if code.is_held_elsewhere() => match self.owner(place) {
                Ok(Owner::Held { host_id, .. }) => format!(" by host {host_id}"),
                Ok(Owner::Free { .. }) | Err(_) => " by another host".to_owned(),
            },
            _ => return told(place, "taking its SDM lease", error),
        };
        Failure::new(
            FailureKind::InUse,
            format!("domain {}: its SDM lease is held{holder}", place.domain),
        )
    }

    /// Writes a new, empty lockspace and a free `SDM` lease: for a new domain.
    ///
    /// # Errors
    /// The storage, or no lease daemon.
    pub fn format(&self, place: &LockPlace) -> Result<()> {
        if place.local {
            return Ok(());
        }
        let failed = |what| move |error: Error| told(place, what, &error);
        self.client
            .write_lockspace(&place.lockspace(0)?, 0, self.io_timeout_s, DISK)
            .map_err(failed("writing its lockspace"))?;
        self.client
            .write_resource(&place.sdm()?, 0, false, DISK)
            .map_err(failed("writing its SDM lease"))
    }

    /// Acquire options of every `SDM` lease.
    pub(super) fn how(no_wait: bool) -> Acquire {
        Acquire {
            no_wait,
            ..Acquire::default()
        }
    }

    /// The lease as it is on disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_lease(&self, place: &LockPlace) -> Result<Resource> {
        self.client
            .read_resource(&place.sdm()?, DISK)
            .map_err(|error| told(place, "reading its SDM lease", &error))
    }
}

/// A failure of the lease daemon, about a domain.
pub(super) fn told(place: &LockPlace, doing: &str, error: &Error) -> Failure {
    let kind = match error {
        Error::Refused { code, .. } => match *code {
            code if code.is_held_elsewhere() => FailureKind::InUse,
            Code::EBUSY | Code::EEXIST | Code::HOSTID_BUSY => FailureKind::InUse,
            Code::EINVAL => FailureKind::WrongState,
            Code::ENOSPC => FailureKind::WrongState,
            Code::LEADER_MAGIC
            | Code::LEADER_LOCKSPACE
            | Code::LEADER_RESOURCE
            | Code::LEADER_CHECKSUM
            | Code::LEADER_VERSION => FailureKind::Damaged,
            Code::ENODEV => FailureKind::NotFound,
            code if code.is_io() => FailureKind::Io,
            _ => FailureKind::Failed,
        },
        Error::Silent { .. } => FailureKind::Timeout,
        Error::Forbidden { .. } => FailureKind::Denied,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("domain {}: {doing}: {error}", place.domain))
}
