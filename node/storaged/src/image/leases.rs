//! Leases of volumes: made with the volume, taken by whoever changes its content.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use disk_format::Geometry;
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use sanlock_client::{Acquire, Client, Code, Registered};

use crate::authority::Authority;
use crate::domain::{Domain, LeaseLocation, VolumeEntry};
use crate::job::Result;

/// How long an answer of the lease daemon may take that only reads or writes.
const ANSWER: Duration = Duration::from_secs(120);

/// How long taking a lease may take: it waits for nobody's death.
const ACQUIRE: Duration = Duration::from_secs(180);

/// A lease, by name and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseName {
    /// Its lockspace: the domain.
    pub lockspace: DomainId,
    /// Its name: the volume's id, `SDM`, or that of an external lease.
    pub resource: String,
    /// Where it is.
    pub location: LeaseLocation,
    /// Sector size in bytes.
    pub block_size: u32,
    /// Its size in bytes.
    pub alignment: u64,
}

impl LeaseName {
    /// The lease of a volume at `location`.
    pub fn of_volume(domain: &dyn Domain, volume: VolumeId, location: LeaseLocation) -> Self {
        Self {
            lockspace: domain.id(),
            resource: volume.to_string(),
            location,
            block_size: domain.block_size(),
            alignment: domain.alignment(),
        }
    }

    /// The lease of a volume that is there.
    pub fn of_entry(domain: &dyn Domain, entry: &VolumeEntry) -> Self {
        Self::of_volume(domain, entry.id, domain.lease(entry))
    }
}

/// What keeps leases: the lease daemon, or nothing on a domain of one host.
pub trait Leases: Send + Sync + std::fmt::Debug {
    /// Writes a new lockspace area of the domain at the start of `area`.
    ///
    /// # Errors
    ///
    /// I/O, or no answer.
    fn create_lockspace(&self, area: &LeaseName) -> Result<()>;

    /// Writes a new, free lease, whatever was there.
    ///
    /// # Errors
    ///
    /// I/O, or no answer.
    fn create(&self, lease: &LeaseName) -> Result<()>;

    /// Takes a lease for this process.
    ///
    /// # Errors
    ///
    /// `InUse` when somebody has it; `Damaged` when there is no such lease;
    /// `WrongState` while the lockspace is not joined; I/O, or no answer.
    fn acquire<'a>(&'a self, lease: &LeaseName) -> Result<Box<dyn HeldLease + 'a>>;
}

/// A lease that is held. Dropping it gives it back.
pub trait HeldLease: std::fmt::Debug {
    /// Succeeds while it is proved to be held.
    ///
    /// # Errors
    ///
    /// `LeaseNotHeld`.
    fn check(&self) -> Result<()>;

    /// Its value block.
    ///
    /// # Errors
    ///
    /// I/O.
    fn value(&self) -> Result<Vec<u8>>;

    /// Writes its value block, at most a sector.
    ///
    /// # Errors
    ///
    /// I/O.
    fn set_value(&self, value: &[u8]) -> Result<()>;
}

/// The right to change the metadata of volumes of one domain that comes with
/// holding the volume's lease.
#[derive(Debug)]
pub struct UnderLease<'a> {
    domain: String,
    held: &'a dyn HeldLease,
}

impl<'a> UnderLease<'a> {
    /// While `held` is held, in `domain`.
    #[must_use]
    pub fn new(domain: DomainId, held: &'a dyn HeldLease) -> Self {
        Self {
            domain: domain.to_string(),
            held,
        }
    }
}

impl Authority for UnderLease<'_> {
    fn check(&self, domain: &str) -> Result<()> {
        if domain != self.domain {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!(
                    "domain {domain}: the lease held is one of domain {}",
                    self.domain
                ),
            ));
        }
        self.held.check()
    }

    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// No leases: a domain that only this host can reach, guarded by a file lock.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLeases;

impl Leases for NoLeases {
    fn create_lockspace(&self, _area: &LeaseName) -> Result<()> {
        Ok(())
    }

    fn create(&self, _lease: &LeaseName) -> Result<()> {
        Ok(())
    }

    fn acquire<'a>(&'a self, _lease: &LeaseName) -> Result<Box<dyn HeldLease + 'a>> {
        Ok(Box::new(HeldByNobodyElse(Mutex::default())))
    }
}

#[derive(Debug)]
struct HeldByNobodyElse(Mutex<Vec<u8>>);

impl HeldLease for HeldByNobodyElse {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn value(&self) -> Result<Vec<u8>> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn set_value(&self, value: &[u8]) -> Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value.to_vec();
        Ok(())
    }
}

/// Leases of the lease daemon.
#[derive(Debug)]
pub struct DaemonLeases {
    client: Client,
    hosts_max: u32,
    io_timeout_s: u32,
    /// Registered when the first lease is taken, and kept.
    registered: Mutex<Option<Registered>>,
}

impl DaemonLeases {
    /// Through the daemon behind `client`; new leases have room for `hosts_max`
    /// hosts, new lockspaces the time limit `io_timeout_s` (0: the daemon's own).
    #[must_use]
    pub fn new(client: Client, hosts_max: u32, io_timeout_s: u32) -> Self {
        Self {
            client,
            hosts_max,
            io_timeout_s,
            registered: Mutex::new(None),
        }
    }

    fn with<T>(
        &self,
        lease: &LeaseName,
        call: impl FnOnce(&mut Registered) -> std::result::Result<T, sanlock_client::Error>,
    ) -> Result<T> {
        let mut registered = self
            .registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = match registered.take() {
            Some(open) => open,
            None => self.client.register(ANSWER).map_err(|e| told(lease, &e))?,
        };
        let open = registered.insert(open);
        match call(open) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // Closing it gives back whatever an order without an answer took.
                if error.is_daemon_gone() {
                    *registered = None;
                }
                Err(told(lease, &error))
            }
        }
    }
}

fn told(lease: &LeaseName, error: &sanlock_client::Error) -> Failure {
    let kind = match error.code() {
        Some(code) if code.is_held_elsewhere() => FailureKind::InUse,
        // By this host: another process, or another piece of this one's work.
        Some(Code::EEXIST | Code::EBUSY | Code::EUCLEAN) => FailureKind::InUse,
        // What is there is not this lease.
        Some(
            Code::LEADER_MAGIC
            | Code::LEADER_VERSION
            | Code::LEADER_LOCKSPACE
            | Code::LEADER_RESOURCE
            | Code::LEADER_CHECKSUM,
        ) => FailureKind::Damaged,
        // The lockspace is not joined.
        Some(Code::ENOSPC) => FailureKind::WrongState,
        Some(_) => FailureKind::Io,
        None if error.is_unknown() => FailureKind::Timeout,
        None => FailureKind::Failed,
    };
    Failure::new(
        kind,
        format!(
            "lease {} of domain {}: {error}",
            lease.resource, lease.lockspace
        ),
    )
}

fn geometry(lease: &LeaseName) -> Result<Geometry> {
    let wrong = || {
        Failure::new(
            FailureKind::Unsupported,
            format!(
                "lease {}: sectors of {} bytes and leases of {} bytes",
                lease.resource, lease.block_size, lease.alignment
            ),
        )
    };
    let align = u32::try_from(lease.alignment).map_err(|_| wrong())?;
    Geometry::new(lease.block_size, align).map_err(|_| wrong())
}

fn resource(lease: &LeaseName) -> Result<sanlock_client::Resource> {
    sanlock_client::lease(
        &lease.lockspace.to_string(),
        &lease.resource,
        &lease.location.path,
        lease.location.offset,
        Some(geometry(lease)?),
    )
    .map_err(|e| told(lease, &e))
}

impl Leases for DaemonLeases {
    fn create_lockspace(&self, area: &LeaseName) -> Result<()> {
        let lockspace = sanlock_client::lockspace(
            &area.lockspace.to_string(),
            0,
            &area.location.path,
            Some(geometry(area)?),
        )
        .map_err(|e| told(area, &e))?;
        self.client
            .write_lockspace(&lockspace, self.hosts_max, self.io_timeout_s, ANSWER)
            .map_err(|e| told(area, &e))
    }

    fn create(&self, lease: &LeaseName) -> Result<()> {
        self.client
            .write_resource(&resource(lease)?, self.hosts_max, false, ANSWER)
            .map_err(|e| told(lease, &e))
    }

    fn acquire<'a>(&'a self, lease: &LeaseName) -> Result<Box<dyn HeldLease + 'a>> {
        let resource = resource(lease)?;
        let how = Acquire {
            value: true,
            no_wait: true,
            shared: false,
        };
        self.with(lease, |open| open.acquire(&resource, how, ACQUIRE))?;
        Ok(Box::new(HeldAtDaemon {
            leases: self,
            name: lease.clone(),
            resource,
        }))
    }
}

#[derive(Debug)]
struct HeldAtDaemon<'a> {
    leases: &'a DaemonLeases,
    name: LeaseName,
    resource: sanlock_client::Resource,
}

impl HeldLease for HeldAtDaemon<'_> {
    fn check(&self) -> Result<()> {
        let held = self
            .leases
            .with(&self.name, |open| open.holds(&self.resource, ANSWER))
            .map_err(|failure| Failure::new(FailureKind::LeaseNotHeld, failure.message))?;
        if held {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::LeaseNotHeld,
            format!(
                "lease {} of domain {}: no longer held",
                self.name.resource, self.name.lockspace
            ),
        ))
    }

    fn value(&self) -> Result<Vec<u8>> {
        self.leases
            .with(&self.name, |open| open.value(&self.resource, ANSWER))
    }

    fn set_value(&self, value: &[u8]) -> Result<()> {
        self.leases.with(&self.name, |open| {
            open.set_value(&self.resource, value, ANSWER)
        })
    }
}

impl Drop for HeldAtDaemon<'_> {
    fn drop(&mut self) {
        let released = self
            .leases
            .with(&self.name, |open| open.release(&self.resource, ANSWER));
        if let Err(failure) = released {
            tracing::warn!(lease = %self.name.resource, %failure, "lease not given back");
        }
    }
}
