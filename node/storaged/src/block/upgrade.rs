//! Bringing a block domain to a newer version (§1.3).
//!
//! Every step may be repeated: an interrupted upgrade leaves a domain of the old
//! version (perhaps with slots of the new one beside its own, which nobody
//! reads), or of the new one with an old area not yet zeroed, which nobody reads
//! either.

use control::storage::{Failure, FailureKind};
use disk_format::Geometry;
use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::slot::V5_BASE_BYTES;
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{SlotFormat, VolumeMetadata};
use disk_format::vdsm::xlease::Index;
use linux::disk::Access;

use super::create::now_s;
use super::{BlockDomain, damaged, unstorable};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::lvm::Change;
use crate::xlease::write_index;

impl BlockDomain {
    /// Upgrades to `to`, step by step.
    pub(super) fn upgrade_to(
        &self,
        context: &Context,
        authority: &dyn Authority,
        to: DomainVersion,
    ) -> Result<()> {
        let from = self.metadata()?.version();
        if from == to {
            return Ok(());
        }
        if !from.upgrades().contains(&to) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!(
                    "domain {}: no upgrade from version {from} to {to}",
                    self.name
                ),
            ));
        }
        if !from.has_external_leases() {
            self.add_external_leases(context, authority)?;
        }
        if to >= DomainVersion::V5 {
            self.convert_slots(context, authority, from)?;
        }
        self.change_metadata(authority, &mut |metadata| {
            metadata
                .upgrade(to, 512)
                .map_err(|error| unstorable(&self.name, &error))
        })?;
        if to >= DomainVersion::V5
            && let Err(failure) = self.zero_old_slots(context, authority)
        {
            tracing::warn!(domain = self.name, %failure, "old metadata slots not zeroed");
        }
        super::links::make(self.lvm.layout(), self.id, to)
    }

    /// Creates and formats `xleases`.
    fn add_external_leases(&self, context: &Context, authority: &dyn Authority) -> Result<()> {
        let name = SpecialLv::Xleases.name();
        if self.group()?.volume(name).is_none() {
            context.tell(0, 0, "volume for external leases");
            let change = Change::CreateVolume {
                name,
                mib: SpecialLv::Xleases.requested_bytes(1 << 20) >> 20,
                tags: &[],
                device: None,
            };
            self.change_until(authority, &change, |group| group.volume(name).is_some())?;
        }
        // Below version 4 nobody has put anything in it.
        let region = self.region(name, Access::ReadWrite)?;
        let (_, steps) = Index::format(&self.id, now_s(), Geometry::Sector512Align1M);
        for step in &steps {
            authority.check(&self.name)?;
            write_index(&region, step)?;
        }
        Ok(())
    }

    /// Writes the slots of version 5 beside those of `from`.
    fn convert_slots(
        &self,
        context: &Context,
        authority: &dyn Authority,
        from: DomainVersion,
    ) -> Result<()> {
        let group = self.group()?;
        let slots = group.used_slots();
        if let Some(slot) = slots.iter().find(|slot| slot.offset(from) >= V5_BASE_BYTES) {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!(
                    "domain {}: slot {slot} lies where version 5 has its slots",
                    self.name
                ),
            ));
        }
        let total = u64::try_from(slots.len()).unwrap_or(0);
        for (done, slot) in (0..).zip(slots) {
            context.tell(done, total, "metadata slots");
            context.go_on()?;
            let bytes = self.read_slot(from, slot)?;
            // What cannot be read as metadata is not made better by converting: the
            // volume stays as broken as it is.
            let metadata = match VolumeMetadata::decode_slot(&bytes) {
                Ok(metadata) => metadata,
                Err(error) => {
                    tracing::warn!(domain = self.name, %slot, %error, "slot not converted");
                    continue;
                }
            };
            let new = metadata
                .encode_slot(SlotFormat::V5)
                .map_err(|error| damaged(&self.name, &error))?;
            self.write_slot(authority, DomainVersion::V5, slot, &new)?;
        }
        Ok(())
    }

    fn zero_old_slots(&self, context: &Context, authority: &dyn Authority) -> Result<()> {
        let region = self.region(SpecialLv::Metadata.name(), Access::ReadWrite)?;
        authority.check(&self.name)?;
        region.zero(context, 0, V5_BASE_BYTES)
    }
}
