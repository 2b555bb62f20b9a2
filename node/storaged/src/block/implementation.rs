//! A block domain as [`Domain`].

use std::path::PathBuf;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainMetadata, diff_tags};
use disk_format::vdsm::lv::{
    INITIALIZING, LvState, SpecialLv, VolumeTags, image_tag, parent_tag, removed_tag, slot_tag,
};
use disk_format::vdsm::slot::{SLOT_BYTES, SlotNumber};
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::VolumeMetadata;

use super::{BlockDomain, Group, Reach, metadata_of, slots, unstorable};
use crate::authority::Authority;
use crate::domain::{
    Domain, DomainKind, Draft, EntryState, LeaseLocation, NewVolume, Space, Special, VolumeEntry,
};
use crate::job::{Context, Result};
use crate::lvm::{Change, Mapping};

impl Domain for BlockDomain {
    fn id(&self) -> DomainId {
        self.id
    }

    fn kind(&self) -> DomainKind {
        DomainKind::Block
    }

    fn version(&self) -> DomainVersion {
        self.lock().version
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn alignment(&self) -> u64 {
        self.lock().alignment
    }

    fn root(&self) -> PathBuf {
        self.lvm.layout().block_domain(self.id)
    }

    fn special(&self, which: Special) -> PathBuf {
        self.device_of(which.name())
    }

    fn metadata(&self) -> Result<DomainMetadata> {
        let metadata = metadata_of(&*self.group()?)?;
        self.lock().version = metadata.version();
        Ok(metadata)
    }

    fn change_metadata(
        &self,
        authority: &dyn Authority,
        change: &mut dyn FnMut(&mut DomainMetadata) -> Result<()>,
    ) -> Result<DomainMetadata> {
        let group = self.group()?;
        let before = metadata_of(&group)?;
        let mut wanted = before.clone();
        change(&mut wanted)?;
        if wanted != before {
            let tags = wanted
                .to_vg_tags()
                .map_err(|error| unstorable(&self.name, &error))?;
            let (delete, add) = diff_tags(&group.tags, &tags);
            let delete: Vec<String> = delete.into_iter().collect();
            let add: Vec<String> = add.into_iter().collect();
            let change = Change::TagGroup {
                delete: &delete,
                add: &add,
            };
            self.change_until(authority, &change, |group| {
                metadata_of(group).is_ok_and(|found| found == wanted)
            })?;
        }
        self.lock().version = wanted.version();
        Ok(wanted)
    }

    fn upgrade(
        &self,
        context: &Context,
        authority: &dyn Authority,
        to: DomainVersion,
    ) -> Result<()> {
        self.upgrade_to(context, authority, to)
    }

    fn space(&self) -> Result<Space> {
        let group = self.group()?;
        Ok(Space {
            total_bytes: group.total_extents() * group.extent_bytes,
            free_bytes: group.free_extents() * group.extent_bytes,
        })
    }

    fn volumes(&self) -> Result<Vec<VolumeEntry>> {
        let group = self.group()?;
        let mut entries: Vec<VolumeEntry> = group
            .volumes
            .iter()
            .filter_map(|volume| self.entry(&group, volume))
            .collect();
        entries.sort_by_key(|entry| entry.id);
        Ok(entries)
    }

    fn volume(&self, id: VolumeId) -> Result<VolumeEntry> {
        let group = self.group()?;
        self.entry_of(&group, id)
            .filter(VolumeEntry::is_live)
            .ok_or_else(|| self.missing(id))
    }

    fn volume_metadata(&self, entry: &VolumeEntry) -> Result<VolumeMetadata> {
        let slot = self.slot_of(entry)?;
        let bytes = self.read_slot(self.version(), slot)?;
        let metadata = self.decode_slot(slot, &bytes)?;
        if metadata.domain != self.id || metadata.image != entry.image {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!(
                    "volume {} of domain {}: slot {slot} is stale, of image {} of domain {}",
                    entry.id, self.name, metadata.image, metadata.domain
                ),
            ));
        }
        Ok(metadata)
    }

    fn write_volume_metadata(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        metadata: &VolumeMetadata,
    ) -> Result<()> {
        let version = self.version();
        let bytes = self.encode_slot(version, metadata)?;
        // The slot may be another volume's by now if this one was removed.
        let now = self.volume(entry.id)?;
        let slot = self.slot_of(&now)?;
        self.write_slot(authority, version, slot, &bytes)
    }

    fn make_image(&self, _authority: &dyn Authority, _image: ImageId) -> Result<()> {
        Ok(())
    }

    fn share(
        &self,
        _authority: &dyn Authority,
        _template: &VolumeEntry,
        _image: ImageId,
    ) -> Result<()> {
        Ok(())
    }

    fn allocate(
        &self,
        context: &Context,
        authority: &dyn Authority,
        new: &NewVolume,
    ) -> Result<Draft> {
        context.go_on()?;
        // What is decided here must be so still when it is written: another host
        // may be changing the domain until the lease is ours.
        authority.check(&self.name)?;
        let group = self.group()?;
        let name = new.id.to_string();
        if group.volume(&name).is_some() {
            return Err(Failure::new(
                FailureKind::Exists,
                format!("volume {name} of domain {}: there already", self.name),
            ));
        }
        let extents = group.extents_for(new.size_bytes.max(1));
        if extents > group.free_extents() {
            return Err(self.no_space(&name, extents, group.free_extents()));
        }
        let slot = slots::set_aside(self.id, self.version(), &group)?;
        let change = Change::CreateVolume {
            name: &name,
            mib: (extents * group.extent_bytes) >> 20,
            // With its slot from the first moment: nobody else may take it, or
            // write a lease in its place.
            tags: &[INITIALIZING.to_owned(), slot_tag(slot)],
            device: None,
        };
        let made = self.change_until(authority, &change, |group| group.volume(&name).is_some());
        if let Err(failure) = made {
            slots::release(self.id, slot);
            return Err(failure);
        }
        let size_bytes = extents * group.extent_bytes;
        Ok(Draft {
            id: new.id,
            image: new.image,
            path: self.device_of(&name),
            size_bytes,
            slot: Some(slot),
            lease: self.location(
                SpecialLv::Leases.name(),
                slot.lease_offset(self.alignment()),
            )?,
        })
    }

    fn publish(
        &self,
        authority: &dyn Authority,
        draft: &Draft,
        metadata: &VolumeMetadata,
    ) -> Result<VolumeEntry> {
        let name = draft.id.to_string();
        let slot = draft.slot.ok_or_else(|| {
            Failure::new(
                FailureKind::BadRequest,
                format!("volume {name}: draft without slot"),
            )
        })?;
        let version = self.version();
        let bytes = self.encode_slot(version, metadata)?;
        let group = self.group()?;
        let state = group.volume(&name).map(super::Logical::state);
        if !matches!(state, Some(LvState::Initializing { .. })) {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("volume {name} of domain {}: no draft", self.name),
            ));
        }
        if group.slot_users(slot).any(|user| user != name) {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!(
                    "domain {}: slot {slot} was taken by another host",
                    self.name
                ),
            ));
        }
        let tags = VolumeTags {
            slot,
            image: draft.image,
            parent: metadata.parent,
        };
        self.write_slot(authority, version, slot, &bytes)?;
        let change = Change::TagVolumes {
            names: &[&name],
            delete: &[INITIALIZING.to_owned()],
            add: &tags.encode(),
        };
        self.change_until(authority, &change, |group| {
            self.entry_of(group, draft.id)
                .is_some_and(|entry| entry.is_live() && entry.slot == Some(slot))
        })?;
        slots::release(self.id, slot);
        self.volume(draft.id)
    }

    fn discard_draft(&self, authority: &dyn Authority, draft: &Draft) -> Result<()> {
        let group = self.group()?;
        if let Some(entry) = self.entry_of(&group, draft.id) {
            if entry.state != EntryState::HalfMade {
                return Err(Failure::new(
                    FailureKind::WrongState,
                    format!("volume {} of domain {}: no draft", draft.id, self.name),
                ));
            }
            self.remove(authority, &entry)?;
        }
        if let Some(slot) = draft.slot {
            if !self.group()?.used_slots().contains(&slot) {
                self.write_slot(authority, self.version(), slot, &[0; SLOT_BYTES])?;
            }
            slots::release(self.id, slot);
        }
        Ok(())
    }

    fn activate(&self, entries: &[&VolumeEntry]) -> Result<()> {
        let names: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
        self.refuse_moving(&names)?;
        let (active, inactive): (Vec<&str>, Vec<&str>) = names
            .iter()
            .map(String::as_str)
            .partition(|name| self.device_of(name).exists());
        let context = Context::quiet();
        self.lvm
            .map(&context, Mapping::Activate, &self.name, &inactive)?;
        self.lvm
            .map(&context, Mapping::Refresh, &self.name, &active)
    }

    fn deactivate(&self, entries: &[&VolumeEntry]) -> Result<Vec<VolumeId>> {
        let names: Vec<String> = entries
            .iter()
            .map(|entry| entry.id.to_string())
            .filter(|name| self.device_of(name).exists())
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = self
            .lvm
            .map(&Context::quiet(), Mapping::Deactivate, &self.name, &names);
        let left: Vec<VolumeId> = entries
            .iter()
            .filter(|entry| self.device_of(&entry.id.to_string()).exists())
            .map(|entry| entry.id)
            .collect();
        match said {
            // Nothing stayed, whatever it complained about; or those that are open.
            Err(failure) if !left.is_empty() => {
                tracing::info!(domain = self.name, ?left, %failure, "volumes stay active");
            }
            Ok(()) | Err(_) => {}
        }
        Ok(left)
    }

    fn refresh(&self, entries: &[&VolumeEntry]) -> Result<()> {
        let names: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let group = self.group()?;
        crate::refresh::refresh(&self.lvm, &Context::quiet(), &group, &names)
    }

    fn path(&self, entry: &VolumeEntry) -> PathBuf {
        self.device_of(&entry.id.to_string())
    }

    fn lease(&self, entry: &VolumeEntry) -> LeaseLocation {
        let name = SpecialLv::Leases.name();
        // A volume without slot has no lease; offset 0 is one that is never used.
        let offset = entry
            .slot
            .map_or(0, |slot| slot.lease_offset(self.alignment()));
        self.location(name, offset)
            .unwrap_or_else(|_| LeaseLocation {
                path: self.device_of(name),
                offset,
            })
    }

    fn extend(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        self.extend_many(&Context::quiet(), authority, &[(entry.id, to_bytes)])?
            .pop()
            .unwrap_or_else(|| Err(self.missing(entry.id)))
    }

    fn extend_many(
        &self,
        context: &Context,
        authority: &dyn Authority,
        requests: &[(VolumeId, u64)],
    ) -> Result<Vec<Result<u64>>> {
        Self::extend_many(self, context, authority, requests)
    }

    fn reduce(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        let group = self.group()?;
        let now = self
            .entry_of(&group, entry.id)
            .ok_or_else(|| self.missing(entry.id))?;
        let extents = group.extents_for(to_bytes.max(1));
        let wanted = extents * group.extent_bytes;
        if wanted >= now.size_bytes {
            return Ok(now.size_bytes);
        }
        let name = entry.id.to_string();
        let change = Change::ReduceVolume {
            name: &name,
            mib: wanted >> 20,
        };
        self.change_until(authority, &change, |group| {
            group
                .volume(&name)
                .is_some_and(|volume| volume.extents() == extents)
        })?;
        Ok(wanted)
    }

    fn set_parent_tag(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        parent: VolumeId,
    ) -> Result<()> {
        let now = self.volume(entry.id)?;
        let Some(old) = now.parent_tag.filter(|old| *old != parent) else {
            return Ok(());
        };
        let name = entry.id.to_string();
        let change = Change::TagVolumes {
            names: &[&name],
            delete: &[parent_tag(&old)],
            add: &[parent_tag(&parent)],
        };
        self.change_until(authority, &change, |group| {
            self.entry_of(group, entry.id)
                .is_some_and(|entry| entry.parent_tag == Some(parent))
        })
    }

    fn mark_removed(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        zero: bool,
    ) -> Result<VolumeEntry> {
        let mut marked = self.mark(authority, vec![entry.id], zero)?;
        marked.pop().ok_or_else(|| self.missing(entry.id))
    }

    fn mark_image_removed(
        &self,
        authority: &dyn Authority,
        image: ImageId,
        zero: bool,
    ) -> Result<Vec<VolumeEntry>> {
        let all = self.volumes()?;
        let of_image = all.iter().filter(|entry| {
            entry.image == image && entry.state != EntryState::HalfMade && !image.is_blank()
        });
        self.mark(authority, of_image.map(|entry| entry.id).collect(), zero)
    }

    fn remove(&self, authority: &dyn Authority, entry: &VolumeEntry) -> Result<()> {
        let group = self.group()?;
        let Some(now) = self.entry_of(&group, entry.id) else {
            return Ok(());
        };
        if now.is_live() {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!(
                    "volume {} of domain {}: live, not marked for removal",
                    entry.id, self.name
                ),
            ));
        }
        let name = entry.id.to_string();
        self.change_until(
            authority,
            &Change::RemoveVolumes { names: &[&name] },
            |group| group.volume(&name).is_none(),
        )
    }

    fn activate_special(&self, which: Special) -> Result<()> {
        self.activate_volume(which.name())
    }

    fn deactivate_special(&self, which: Special) -> Result<()> {
        if self.reach() == Reach::Beneath || !self.device_of(which.name()).exists() {
            return Ok(());
        }
        self.lvm.map(
            &Context::quiet(),
            Mapping::Deactivate,
            &self.name,
            &[which.name()],
        )
    }

    fn sweep(&self, _authority: &dyn Authority) -> Result<usize> {
        // Everything a block domain can leave behind is among its volumes.
        Ok(0)
    }
}

impl BlockDomain {
    pub(super) fn missing(&self, id: VolumeId) -> Failure {
        Failure::new(
            FailureKind::NotFound,
            format!("volume {id} of domain {}: no such volume", self.name),
        )
    }

    pub(super) fn no_space(&self, volume: &str, needed: u64, free: u64) -> Failure {
        Failure::new(
            FailureKind::NoSpace,
            format!(
                "volume {volume} of domain {}: needs {needed} extents, {free} are free",
                self.name
            ),
        )
    }

    fn slot_of(&self, entry: &VolumeEntry) -> Result<SlotNumber> {
        entry.slot.ok_or_else(|| {
            Failure::new(
                FailureKind::Damaged,
                format!(
                    "volume {} of domain {}: has no metadata slot",
                    entry.id, self.name
                ),
            )
        })
    }

    /// Marks volumes for removal and gives them as they are then. A promise to
    /// zero is never taken back.
    fn mark(
        &self,
        authority: &dyn Authority,
        ids: Vec<VolumeId>,
        zero: bool,
    ) -> Result<Vec<VolumeEntry>> {
        let group = self.group()?;
        for &id in &ids {
            let entry = self.marked(&group, id)?;
            let (old, keep) = match entry.state {
                EntryState::Live => (image_tag(&entry.image), false),
                EntryState::Removed { zero: before } => {
                    (removed_tag(&entry.image, before), before || !zero)
                }
                EntryState::HalfMade => return Err(self.missing(id)),
            };
            if keep {
                continue;
            }
            let name = id.to_string();
            let change = Change::TagVolumes {
                names: &[&name],
                delete: &[old],
                add: &[removed_tag(&entry.image, zero)],
            };
            self.change_until(authority, &change, |group| {
                self.entry_of(group, id)
                    .is_some_and(|entry| entry.state == EntryState::Removed { zero })
            })?;
        }
        let group = self.group()?;
        ids.into_iter().map(|id| self.marked(&group, id)).collect()
    }

    fn marked(&self, group: &Group, id: VolumeId) -> Result<VolumeEntry> {
        self.entry_of(group, id).ok_or_else(|| self.missing(id))
    }
}
