//! Where the lockspace and the `SDM` lease of a domain lie.

use std::path::PathBuf;

use control::storage::{Failure, FailureKind};
use disk_format::Geometry;
use disk_format::vdsm::uuid::DomainId;
use sanlock_client::{Lockspace, Resource};

use crate::domain::{Domain, DomainKind, Special};
use crate::job::Result;

/// Name of the lease that guards a domain's metadata.
pub const SDM: &str = "SDM";

/// Where a domain's lockspace and `SDM` lease lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockPlace {
    /// The domain: the lockspace's name.
    pub domain: DomainId,
    /// The lockspace's device or file.
    pub ids: PathBuf,
    /// The leases' device or file.
    pub leases: PathBuf,
    /// Sector size and alignment.
    pub geometry: Geometry,
    /// A domain of this host alone: a lock on the file `ids` instead of leases.
    pub local: bool,
}

impl LockPlace {
    /// Of a connected domain.
    ///
    /// # Errors
    /// [`FailureKind::Unsupported`] for sizes that do not go together.
    pub fn of(domain: &dyn Domain) -> Result<Self> {
        let sizes = || -> Option<Geometry> {
            let align = u32::try_from(domain.alignment()).ok()?;
            Geometry::new(domain.block_size(), align).ok()
        };
        let geometry = sizes().ok_or_else(|| {
            Failure::new(
                FailureKind::Unsupported,
                format!(
                    "domain {}: sectors of {} bytes and leases of {} bytes do not go together",
                    domain.id(),
                    domain.block_size(),
                    domain.alignment()
                ),
            )
        })?;
        Ok(Self {
            domain: domain.id(),
            ids: domain.special(Special::Ids),
            leases: domain.special(Special::Leases),
            geometry,
            local: domain.kind() == DomainKind::Local,
        })
    }

    /// The lockspace with this host id; 0 for any.
    pub(super) fn lockspace(&self, host_id: u16) -> Result<Lockspace> {
        sanlock_client::lockspace(
            &self.domain.to_string(),
            host_id.into(),
            &self.ids,
            Some(self.geometry),
        )
        .map_err(|error| self.wrong(&error))
    }

    /// The `SDM` lease: in the second of the leases' areas.
    pub(super) fn sdm(&self) -> Result<Resource> {
        sanlock_client::lease(
            &self.domain.to_string(),
            SDM,
            &self.leases,
            self.geometry.align_size().into(),
            Some(self.geometry),
        )
        .map_err(|error| self.wrong(&error))
    }

    fn wrong(&self, error: &sanlock_client::Error) -> Failure {
        Failure::new(
            FailureKind::Unsupported,
            format!("domain {}: {error}", self.domain),
        )
    }
}
