//! Metadata slots: reading, writing, setting aside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::slot::{SLOT_BYTES, SlotNumber};
use disk_format::vdsm::uuid::DomainId;
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{SlotFormat, VolumeMetadata};
use linux::disk::Access;

use super::{BlockDomain, Group, damaged, unstorable};
use crate::authority::Authority;
use crate::job::Result;

/// Slots of drafts that are being made: perhaps in no tag yet, and not free. Other
/// hosts wait for the lease meanwhile, so they need not be known outside.
static SET_ASIDE: Mutex<BTreeMap<DomainId, BTreeSet<SlotNumber>>> = Mutex::new(BTreeMap::new());

/// Sets the lowest free slot aside.
pub(super) fn set_aside(
    domain: DomainId,
    version: DomainVersion,
    group: &Group,
) -> Result<SlotNumber> {
    let mut all = SET_ASIDE.lock().unwrap_or_else(PoisonError::into_inner);
    let mine = all.entry(domain).or_default();
    let mut used = group.used_slots();
    used.extend(mine.iter().copied());
    let slot = SlotNumber::lowest_free(version, &used).ok_or_else(|| {
        Failure::new(
            FailureKind::NoSpace,
            format!(
                "domain {domain}: all {} volumes it can have exist",
                SlotNumber::usable_count(version)
            ),
        )
    })?;
    mine.insert(slot);
    Ok(slot)
}

/// Ends what [`set_aside`] began: a tag has the slot now, or nobody.
pub(super) fn release(domain: DomainId, slot: SlotNumber) {
    let mut all = SET_ASIDE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mine) = all.get_mut(&domain) {
        mine.remove(&slot);
    }
}

impl BlockDomain {
    /// The bytes of a slot.
    pub(super) fn read_slot(&self, version: DomainVersion, slot: SlotNumber) -> Result<Vec<u8>> {
        let region = self.region(SpecialLv::Metadata.name(), Access::Read)?;
        let bytes = region.read(slot.offset(version), SLOT_BYTES)?;
        Ok(bytes.to_vec())
    }

    /// Writes a slot with one direct write.
    pub(super) fn write_slot(
        &self,
        authority: &dyn Authority,
        version: DomainVersion,
        slot: SlotNumber,
        bytes: &[u8; SLOT_BYTES],
    ) -> Result<()> {
        if !slot.is_usable(version) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("domain {}: slot {slot} is not for volumes", self.name),
            ));
        }
        let region = self.region(SpecialLv::Metadata.name(), Access::ReadWrite)?;
        authority.check(&self.name)?;
        region.write(slot.offset(version), bytes)
    }

    /// A slot as metadata of a volume.
    pub(super) fn decode_slot(&self, slot: SlotNumber, bytes: &[u8]) -> Result<VolumeMetadata> {
        VolumeMetadata::decode_slot(bytes).map_err(|error| {
            damaged(&self.name, &error).while_doing(format_args!("metadata slot {slot}"))
        })
    }

    /// The bytes of a volume's metadata in a domain of this version.
    pub(super) fn encode_slot(
        &self,
        version: DomainVersion,
        metadata: &VolumeMetadata,
    ) -> Result<[u8; SLOT_BYTES]> {
        if metadata.domain != self.id {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!(
                    "domain {}: metadata of a volume of domain {}",
                    self.name, metadata.domain
                ),
            ));
        }
        metadata
            .encode_slot(SlotFormat::of(version))
            .map_err(|error| unstorable(&self.name, &error))
    }
}
