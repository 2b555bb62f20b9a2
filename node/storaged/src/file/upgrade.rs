//! Bringing a file domain to a newer version.
//!
//! 4 → 5 in three passes, so that whoever reads in between finds what its version
//! promises: every `.meta` gets CAP beside SIZE, then the domain gets its new
//! version, then every `.meta` loses SIZE and MTIME. After a crash anywhere the
//! same call finishes what is left.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use control::storage::{Failure, FailureKind};
use disk_format::Geometry;
use disk_format::vdsm::uuid::DomainId;
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::SlotFormat;

use super::{FileDomain, direct};
use crate::authority::{Authority, Unattached};
use crate::domain::{Domain, DomainKind, Special, VolumeEntry};
use crate::job::{Context, Result};
use crate::xlease::Xleases;

impl FileDomain {
    pub(super) fn upgrade_to(
        &self,
        context: &Context,
        authority: &dyn Authority,
        to: DomainVersion,
    ) -> Result<()> {
        let from = self.read()?.version();
        if from != to && !from.upgrades().contains(&to) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!(
                    "domain {}: no upgrade from version {from} to {to}",
                    self.id()
                ),
            ));
        }
        if from < DomainVersion::V4 && to >= DomainVersion::V4 {
            self.add_xleases(authority)?;
        }
        if to < DomainVersion::V5 {
            return self.set_version(authority, from, to);
        }
        if from < DomainVersion::V5 {
            self.rewrite_all(context, authority, SlotFormat::Converting)?;
        }
        context.go_on()?;
        self.set_version(authority, from, to)?;
        // From here on there is no way back, and nothing is lost by going on later.
        self.rewrite_all(context, authority, SlotFormat::V5)
    }

    fn set_version(
        &self,
        authority: &dyn Authority,
        from: DomainVersion,
        to: DomainVersion,
    ) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.change(authority, &mut |metadata| {
            metadata
                .upgrade(to, 512)
                .map_err(|e| Failure::new(FailureKind::BadRequest, e.to_string()))
        })
        .map(drop)
    }

    fn add_xleases(&self, authority: &dyn Authority) -> Result<()> {
        if self.kind() == DomainKind::Local {
            return Ok(());
        }
        let path = self.special_path(Special::Xleases);
        authority.check(&self.id().to_string())?;
        // What an attempt that died left is not yet anybody's: the version says
        // that there is none.
        direct::remove_file(&path)?;
        direct::make_file(&path, 0o660, 0)?;
        let alignment = u32::try_from(self.alignment()).unwrap_or(u32::MAX);
        format_xleases(&path, self.id(), self.block_size(), alignment)
    }

    /// Rewrites every volume's metadata that are not yet in `format`. One that
    /// cannot be read stays as it is: it was unusable before, too.
    fn rewrite_all(
        &self,
        context: &Context,
        authority: &dyn Authority,
        format: SlotFormat,
    ) -> Result<()> {
        let entries: Vec<VolumeEntry> = self
            .volumes()?
            .into_iter()
            .filter(VolumeEntry::is_live)
            .collect();
        let total = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        for (done, entry) in (0..).zip(&entries) {
            context.tell(done, total, "volume metadata");
            let path = self.meta_path(entry);
            let found = SlotFormat::detect(&direct::read_file(&path)?);
            if found == Some(format) || found.is_none() {
                continue;
            }
            // Never back: a volume that has the newest form keeps it.
            if format == SlotFormat::Converting && found == Some(SlotFormat::V5) {
                continue;
            }
            match self.volume_metadata(entry) {
                Ok(metadata) => self.write_meta(authority, entry, &metadata, format)?,
                Err(failure) if failure.kind == FailureKind::Damaged => {
                    tracing::warn!(volume = %entry.id, %failure, "metadata not converted");
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// Writes an empty index of external leases into `path`.
pub(super) fn format_xleases(
    path: &Path,
    domain: DomainId,
    block_size: u32,
    alignment: u32,
) -> Result<()> {
    let geometry = Geometry::new(block_size, alignment)
        .map_err(|e| Failure::new(FailureKind::Unsupported, e.to_string()))?;
    // Nobody knows of the file yet: the domain's version says that there is none.
    let authority = Unattached {
        domain: domain.to_string(),
    };
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    Xleases::in_file(domain, geometry, path).format(&authority, now_s)
}
