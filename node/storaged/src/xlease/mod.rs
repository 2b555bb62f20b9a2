//! External leases of a domain: the index in its `xleases` volume, and the
//! resources beside it.
//!
//! What has to be done, in which order, is planned by
//! [`disk_format::vdsm::xlease`]; here it is done. Only whoever has the domain's
//! authority changes the index; everybody may look.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use disk_format::Geometry;
use disk_format::paxos;
use disk_format::vdsm::error::FormatError;
use disk_format::vdsm::uuid::{DomainId, LeaseId};
use disk_format::vdsm::xlease::{
    INDEX_BYTES, Index, Location, RECORDS, Step, XleaseError, index_offset, lease_offset,
};
use linux::disk::Access;
use sanlock_client::Client;

use crate::authority::Authority;
use crate::block::{BlockDomain, Piece, Region};
use crate::domain::{Domain, LeaseLocation, Special};
use crate::image::leases::LeaseName;
use crate::job::{Context, Result};

/// How long the lease daemon may take to write a resource.
const ANSWER: Duration = Duration::from_secs(120);

/// Writes resources.
pub trait Resources {
    /// Writes a free resource, whatever was there.
    ///
    /// # Errors
    /// I/O, or no answer.
    fn write(&self, lease: &LeaseName) -> Result<()>;

    /// Clears the resource that is there.
    ///
    /// # Errors
    /// I/O, or no answer.
    fn clear(&self, lease: &LeaseName) -> Result<()>;
}

/// Has the lease daemon write them.
#[derive(Debug)]
pub struct DaemonResources {
    client: Client,
    hosts_max: u32,
}

impl DaemonResources {
    /// Through the daemon behind `client`; new resources have room for
    /// `hosts_max` hosts.
    #[must_use]
    pub fn new(client: Client, hosts_max: u32) -> Self {
        Self { client, hosts_max }
    }

    fn call(&self, lease: &LeaseName, clear: bool) -> Result<()> {
        let align = u32::try_from(lease.alignment).unwrap_or(0);
        let geometry = Geometry::new(lease.block_size, align)
            .map_err(|error| Failure::new(FailureKind::Unsupported, error.to_string()))?;
        let told = |error: sanlock_client::Error| {
            let kind = if error.is_unknown() {
                FailureKind::Timeout
            } else {
                FailureKind::Io
            };
            Failure::new(kind, format!("lease {}: {error}", lease.resource))
        };
        let resource = sanlock_client::lease(
            &lease.lockspace.to_string(),
            &lease.resource,
            &lease.location.path,
            lease.location.offset,
            Some(geometry),
        )
        .map_err(told)?;
        self.client
            .write_resource(&resource, self.hosts_max, clear, ANSWER)
            .map_err(told)
    }
}

impl Resources for DaemonResources {
    fn write(&self, lease: &LeaseName) -> Result<()> {
        self.call(lease, false)
    }

    fn clear(&self, lease: &LeaseName) -> Result<()> {
        self.call(lease, true)
    }
}

/// The `xleases` volume of a domain.
#[derive(Debug)]
pub struct Xleases {
    domain: DomainId,
    geometry: Geometry,
    /// Where the volume's bytes are.
    pieces: Vec<Piece>,
}

impl Xleases {
    /// Of a block domain.
    ///
    /// # Errors
    /// `Unsupported` below version 4.
    pub fn of_block(domain: &BlockDomain) -> Result<Self> {
        Ok(Self {
            domain: domain.id(),
            geometry: geometry(domain)?,
            pieces: domain.pieces(Special::Xleases.name())?,
        })
    }

    /// Of a file domain. Its volume grows as leases are added.
    ///
    /// # Errors
    /// `Unsupported` below version 4.
    pub fn of_file(domain: &dyn Domain) -> Result<Self> {
        Ok(Self::in_file(
            domain.id(),
            geometry(domain)?,
            &domain.special(Special::Xleases),
        ))
    }

    pub(crate) fn in_file(domain: DomainId, geometry: Geometry, path: &Path) -> Self {
        let last = lease_offset(geometry, RECORDS);
        Self {
            domain,
            geometry,
            pieces: vec![Piece {
                device: path.to_path_buf(),
                start: 0,
                length: last,
            }],
        }
    }

    /// Writes an empty index, whatever was there.
    ///
    /// # Errors
    /// Authority; I/O.
    pub fn format(&self, authority: &dyn Authority, now_s: u64) -> Result<()> {
        let (_, steps) = Index::format(&self.domain, now_s, self.geometry);
        self.perform(authority, None, &steps)
    }

    /// All leases with their places, in order of their records.
    ///
    /// # Errors
    /// I/O; `Damaged` for an index that needs rebuilding.
    pub fn list(&self) -> Result<Vec<(LeaseId, LeaseName)>> {
        let index = self.index()?;
        if index.is_updating() {
            return Err(self.refused(&XleaseError::Updating));
        }
        index
            .leases()
            .map(|(record, id)| {
                let offset = lease_offset(self.geometry, record);
                Ok((id, self.name(&id.to_string(), offset)?))
            })
            .collect()
    }

    /// Where one lease is.
    ///
    /// # Errors
    /// `NotFound`; as [`Self::list`].
    pub fn lookup(&self, lease: LeaseId) -> Result<LeaseName> {
        let found = self.index()?.lookup(&lease, self.geometry);
        let Location { offset, .. } = found.map_err(|error| self.refused(&error))?;
        self.name(&lease.to_string(), offset)
    }

    /// Adds a lease.
    ///
    /// # Errors
    /// `Exists`; `NoSpace`; `Damaged`; authority; I/O.
    pub fn add(
        &self,
        authority: &dyn Authority,
        resources: &dyn Resources,
        lease: LeaseId,
    ) -> Result<LeaseName> {
        let mut index = self.index()?;
        let (location, steps) = index
            .add(&lease, self.geometry, self.bytes())
            .map_err(|error| self.refused(&error))?;
        self.perform(authority, Some(resources), &steps)?;
        self.name(&lease.to_string(), location.offset)
    }

    /// Removes a lease. The caller has made sure that nobody holds it.
    ///
    /// # Errors
    /// `NotFound`; `Damaged`; authority; I/O.
    pub fn remove(
        &self,
        authority: &dyn Authority,
        resources: &dyn Resources,
        lease: LeaseId,
    ) -> Result<()> {
        let mut index = self.index()?;
        let steps = index
            .remove(&lease, self.geometry)
            .map_err(|error| self.refused(&error))?;
        self.perform(authority, Some(resources), &steps)
    }

    /// Makes index and resources agree again, whatever state the index is in as
    /// long as its metadata can be read. Returns how many resources were changed.
    ///
    /// # Errors
    /// `Damaged` when the metadata cannot be read; authority; I/O.
    pub fn rebuild(
        &self,
        context: &Context,
        authority: &dyn Authority,
        resources: &dyn Resources,
        now_s: u64,
    ) -> Result<usize> {
        let mut index = self.index()?;
        let found = self.found(context)?;
        let steps = index.rebuild(&found, now_s, self.geometry, self.bytes());
        self.perform(authority, Some(resources), &steps)?;
        let written = |step: &&Step| !matches!(step, Step::WriteIndex { .. });
        Ok(steps.iter().filter(written).count())
    }

    /// The names of the resources that are there.
    fn found(&self, context: &Context) -> Result<BTreeMap<usize, LeaseId>> {
        let region = self.region(Access::Read)?;
        let there = self.bytes();
        let mut found = BTreeMap::new();
        let sector = self.geometry.sector_bytes();
        for record in 0..RECORDS {
            let offset = lease_offset(self.geometry, record);
            if offset + u64::from(self.geometry.align_size()) > there {
                break;
            }
            context.go_on()?;
            context.tell(
                u64::try_from(record).unwrap_or(0),
                u64::try_from(RECORDS).unwrap_or(0),
                "resources",
            );
            let bytes = match region.read(offset, sector) {
                Ok(bytes) => bytes,
                // A file ends where its last lease does.
                Err(_) if self.is_file() => break,
                Err(failure) => return Err(failure),
            };
            let Ok(leader) = paxos::leader(&bytes) else {
                continue;
            };
            let is_one = leader.magic == paxos::MAGIC && !leader.resource_name.is_empty();
            if is_one {
                let name = String::from_utf8_lossy(leader.resource_name.bytes()).into_owned();
                found.insert(record, name.parse().unwrap_or(LeaseId::BLANK));
            }
        }
        Ok(found)
    }

    fn perform(
        &self,
        authority: &dyn Authority,
        resources: Option<&dyn Resources>,
        steps: &[Step],
    ) -> Result<()> {
        let region = self.region(Access::ReadWrite)?;
        let domain = self.domain.to_string();
        for step in steps {
            authority.check(&domain)?;
            match (step, resources) {
                (Step::WriteIndex { .. }, _) => write_index(&region, step)?,
                (Step::WriteResource { offset, lease }, Some(resources)) => {
                    resources.write(&self.name(&lease.to_string(), *offset)?)?;
                }
                (Step::ClearResource { offset, may_fail }, Some(resources)) => {
                    let cleared = resources.clear(&self.name("", *offset)?);
                    match cleared {
                        Err(failure) if *may_fail => {
                            tracing::warn!(domain, offset, %failure, "resource not cleared");
                        }
                        other => other?,
                    }
                }
                (Step::WriteResource { .. } | Step::ClearResource { .. }, None) => {
                    return Err(Failure::new(
                        FailureKind::Failed,
                        "index of external leases: a resource has to be written",
                    ));
                }
            }
        }
        Ok(())
    }

    fn index(&self) -> Result<Index> {
        let region = self.region(Access::Read)?;
        let bytes = region.read(index_offset(self.geometry), INDEX_BYTES)?;
        Index::decode(&bytes, &self.domain).map_err(|error| {
            let hint = match error {
                FormatError::Empty { .. } => ": format it",
                _ => "",
            };
            Failure::new(
                FailureKind::Damaged,
                format!("domain {}: {error}{hint}", self.domain),
            )
        })
    }

    fn region(&self, access: Access) -> Result<Region> {
        Region::open(self.pieces.clone(), access)
    }

    fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.length).sum()
    }

    fn is_file(&self) -> bool {
        matches!(self.pieces.as_slice(), [piece] if piece.device.is_file())
    }

    fn name(&self, resource: &str, offset: u64) -> Result<LeaseName> {
        Ok(LeaseName {
            lockspace: self.domain,
            resource: resource.to_owned(),
            location: self.location(offset)?,
            block_size: self.geometry.sector_size(),
            alignment: u64::from(self.geometry.align_size()),
        })
    }

    fn location(&self, offset: u64) -> Result<LeaseLocation> {
        let mut begins = 0;
        for piece in &self.pieces {
            if offset < begins + piece.length {
                return Ok(LeaseLocation {
                    path: PathBuf::from(&piece.device),
                    offset: piece.start + (offset - begins),
                });
            }
            begins += piece.length;
        }
        Err(Failure::new(
            FailureKind::BadRequest,
            format!("domain {}: no lease can be at {offset}", self.domain),
        ))
    }

    fn refused(&self, error: &XleaseError) -> Failure {
        let kind = match error {
            XleaseError::Exists(_) => FailureKind::Exists,
            XleaseError::NotFound(_) => FailureKind::NotFound,
            XleaseError::Full(_) => FailureKind::NoSpace,
            XleaseError::Updating => FailureKind::Damaged,
        };
        Failure::new(kind, format!("domain {}: {error}", self.domain))
    }
}

/// Does a step that writes the index.
///
/// # Errors
/// I/O.
pub(crate) fn write_index(region: &Region, step: &Step) -> Result<()> {
    match step {
        Step::WriteIndex { offset, bytes } => region.write(*offset, bytes),
        Step::WriteResource { .. } | Step::ClearResource { .. } => Err(Failure::new(
            FailureKind::Failed,
            "index of external leases: not a step of the index",
        )),
    }
}

fn geometry(domain: &dyn Domain) -> Result<Geometry> {
    if !domain.version().has_external_leases() {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "domain {}: version {} has no external leases",
                domain.id(),
                domain.version()
            ),
        ));
    }
    let align = u32::try_from(domain.alignment()).unwrap_or(0);
    Geometry::new(domain.block_size(), align)
        .map_err(|error| Failure::new(FailureKind::Damaged, error.to_string()))
}
