//! A block-like domain for tests: volumes are ranges of one file, shown as loop
//! devices. Its tables live in memory and outlive the object, as a volume group
//! outlives a host. What is given back is not cleared: the next volume in the same
//! place sees the bytes of the last.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::DomainMetadata;
use disk_format::vdsm::slot::SlotNumber;
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{SlotFormat, VolumeMetadata};

use crate::authority::Authority;
use crate::domain::{
    Domain, DomainKind, Draft, EntryState, LeaseLocation, NewVolume, Space, Special, VolumeEntry,
};
use crate::job::{Context, Result};

pub(super) const EXTENT: u64 = 1 << 20;
/// From one volume's place to the next.
const STRIDE: u64 = 64 << 20;
const PLACES: u64 = 64;

#[derive(Debug, Clone)]
struct Tags {
    image: ImageId,
    parent: VolumeId,
    slot: SlotNumber,
    removed: Option<bool>,
}

#[derive(Debug, Clone)]
struct Lv {
    place: u64,
    bytes: u64,
    tags: Option<Tags>,
}

/// What is on the storage.
#[derive(Debug, Default)]
struct Group {
    lvs: BTreeMap<VolumeId, Lv>,
    slots: BTreeMap<SlotNumber, [u8; 512]>,
}

#[derive(Debug, Clone)]
pub(super) struct Shelf {
    id: DomainId,
    folder: PathBuf,
    group: Arc<Mutex<Group>>,
    loops: Arc<Mutex<BTreeMap<VolumeId, PathBuf>>>,
}

impl Shelf {
    pub(super) fn new(folder: &Path, id: DomainId) -> Self {
        std::fs::create_dir_all(folder.join("dev").join(id.to_string())).unwrap();
        std::fs::create_dir_all(folder.join("root")).unwrap();
        let disk = File::create(folder.join("disk")).unwrap();
        disk.set_len(STRIDE * PLACES).unwrap();
        Self {
            id,
            folder: folder.to_path_buf(),
            group: Arc::default(),
            loops: Arc::default(),
        }
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    pub(super) fn active(&self) -> Vec<VolumeId> {
        self.loops.lock().unwrap().keys().copied().collect()
    }

    /// Where a volume's bytes are on the disk.
    pub(super) fn place(&self, id: VolumeId) -> u64 {
        self.group().lvs[&id].place * STRIDE
    }

    pub(super) fn set_tag(&self, id: VolumeId, parent: VolumeId) {
        if let Some(tags) = &mut self.group().lvs.get_mut(&id).unwrap().tags {
            tags.parent = parent;
        }
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, authority: &dyn Authority) -> Result<()> {
        authority.check(&self.id.to_string())
    }

    fn node(&self, id: VolumeId) -> PathBuf {
        self.folder
            .join("dev")
            .join(self.id.to_string())
            .join(id.to_string())
    }

    fn attach(&self, id: VolumeId) {
        let mut loops = self.loops.lock().unwrap();
        let (place, bytes) = {
            let group = self.group();
            let lv = &group.lvs[&id];
            (lv.place, lv.bytes)
        };
        if let Some(old) = loops.remove(&id) {
            run(&["-d", &old.to_string_lossy()]);
            std::fs::remove_file(self.node(id)).unwrap();
        }
        let device = run(&[
            "-f",
            "--show",
            "-o",
            &(place * STRIDE).to_string(),
            "--sizelimit",
            &bytes.to_string(),
            &self.disk().to_string_lossy(),
        ]);
        let device = PathBuf::from(device.trim());
        std::os::unix::fs::symlink(&device, self.node(id)).unwrap();
        loops.insert(id, device);
    }

    fn detach(&self, id: VolumeId) {
        if let Some(device) = self.loops.lock().unwrap().remove(&id) {
            run(&["-d", &device.to_string_lossy()]);
            std::fs::remove_file(self.node(id)).unwrap();
        }
    }

    /// As after a reboot: nothing is active.
    pub(super) fn detach_all(&self) {
        for id in self.active() {
            self.detach(id);
        }
    }

    fn entry(id: VolumeId, lv: &Lv) -> VolumeEntry {
        VolumeEntry {
            id,
            image: lv.tags.as_ref().map_or(ImageId::BLANK, |t| t.image),
            parent_tag: lv.tags.as_ref().map(|t| t.parent),
            slot: lv.tags.as_ref().map(|t| t.slot),
            size_bytes: lv.bytes,
            allocated_bytes: lv.bytes,
            state: match &lv.tags {
                None => EntryState::HalfMade,
                Some(tags) => match tags.removed {
                    None => EntryState::Live,
                    Some(zero) => EntryState::Removed { zero },
                },
            },
            shared_with: Vec::new(),
        }
    }

    fn gone(id: VolumeId) -> Failure {
        Failure::new(FailureKind::NotFound, format!("volume {id}: not there"))
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        if Arc::strong_count(&self.loops) == 1 {
            self.detach_all();
        }
    }
}

/// Runs losetup; it races with others for the free device.
pub(super) fn run(arguments: &[&str]) -> String {
    let mut last = String::new();
    for _ in 0..50 {
        let output = Command::new("losetup")
            .args(arguments)
            .output()
            .expect("losetup: apt-get install mount");
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        last = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    panic!("losetup {arguments:?}: {last}");
}

impl Domain for Shelf {
    fn id(&self) -> DomainId {
        self.id
    }

    fn kind(&self) -> DomainKind {
        DomainKind::Block
    }

    fn version(&self) -> DomainVersion {
        DomainVersion::V5
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn alignment(&self) -> u64 {
        1 << 20
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn special(&self, which: Special) -> PathBuf {
        self.folder.join(which.name())
    }

    fn metadata(&self) -> Result<DomainMetadata> {
        Err(Failure::new(FailureKind::Unsupported, "no metadata"))
    }

    fn change_metadata(
        &self,
        _: &dyn Authority,
        _: &mut dyn FnMut(&mut DomainMetadata) -> Result<()>,
    ) -> Result<DomainMetadata> {
        Err(Failure::new(FailureKind::Unsupported, "no metadata"))
    }

    fn upgrade(&self, _: &Context, _: &dyn Authority, _: DomainVersion) -> Result<()> {
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        Ok(Space {
            total_bytes: STRIDE * PLACES,
            free_bytes: 0,
        })
    }

    fn volumes(&self) -> Result<Vec<VolumeEntry>> {
        let group = self.group();
        Ok(group
            .lvs
            .iter()
            .map(|(id, lv)| Self::entry(*id, lv))
            .collect())
    }

    fn volume(&self, id: VolumeId) -> Result<VolumeEntry> {
        let group = self.group();
        let lv = group.lvs.get(&id).ok_or_else(|| Self::gone(id))?;
        let entry = Self::entry(id, lv);
        if entry.is_live() {
            return Ok(entry);
        }
        Err(Self::gone(id))
    }

    fn volume_metadata(&self, entry: &VolumeEntry) -> Result<VolumeMetadata> {
        let group = self.group();
        let slot = entry.slot.and_then(|slot| group.slots.get(&slot));
        let slot = slot.ok_or_else(|| Self::gone(entry.id))?;
        let metadata = VolumeMetadata::decode_slot(slot)
            .map_err(|e| Failure::new(FailureKind::Damaged, e.to_string()))?;
        if metadata.image != entry.image {
            return Err(Failure::new(FailureKind::Damaged, "stale slot"));
        }
        Ok(metadata)
    }

    fn write_volume_metadata(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        metadata: &VolumeMetadata,
    ) -> Result<()> {
        self.check(authority)?;
        let slot = metadata.encode_slot(SlotFormat::V5).unwrap();
        let number = entry.slot.ok_or_else(|| Self::gone(entry.id))?;
        self.group().slots.insert(number, slot);
        Ok(())
    }

    fn make_image(&self, _: &dyn Authority, _: ImageId) -> Result<()> {
        Ok(())
    }

    fn share(&self, _: &dyn Authority, _: &VolumeEntry, _: ImageId) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, _: &Context, authority: &dyn Authority, new: &NewVolume) -> Result<Draft> {
        self.check(authority)?;
        let slot = {
            let mut group = self.group();
            if group.lvs.contains_key(&new.id) {
                return Err(Failure::new(FailureKind::Exists, "there"));
            }
            let place = (0..PLACES)
                .find(|place| group.lvs.values().all(|lv| lv.place != *place))
                .ok_or_else(|| Failure::new(FailureKind::NoSpace, "no place left"))?;
            let bytes = new.size_bytes.next_multiple_of(EXTENT);
            assert!(bytes <= STRIDE, "test volumes are small");
            let used = group
                .lvs
                .values()
                .filter_map(|lv| lv.tags.as_ref().map(|t| t.slot))
                .collect();
            let lv = Lv {
                place,
                bytes,
                tags: None,
            };
            group.lvs.insert(new.id, lv);
            SlotNumber::lowest_free(DomainVersion::V5, &used).unwrap()
        };
        self.attach(new.id);
        Ok(Draft {
            id: new.id,
            image: new.image,
            path: self.node(new.id),
            size_bytes: new.size_bytes.next_multiple_of(EXTENT),
            slot: Some(slot),
            lease: LeaseLocation {
                path: self.special(Special::Leases),
                offset: slot.lease_offset(1 << 20),
            },
        })
    }

    fn publish(
        &self,
        authority: &dyn Authority,
        draft: &Draft,
        metadata: &VolumeMetadata,
    ) -> Result<VolumeEntry> {
        let slot = draft.slot.unwrap();
        self.check(authority)?;
        self.group()
            .slots
            .insert(slot, metadata.encode_slot(SlotFormat::V5).unwrap());
        self.check(authority)?;
        let mut group = self.group();
        let lv = group.lvs.get_mut(&draft.id).unwrap();
        lv.tags = Some(Tags {
            image: draft.image,
            parent: metadata.parent,
            slot,
            removed: None,
        });
        Ok(Self::entry(draft.id, lv))
    }

    fn discard_draft(&self, authority: &dyn Authority, draft: &Draft) -> Result<()> {
        self.check(authority)?;
        self.detach(draft.id);
        self.group().lvs.remove(&draft.id);
        Ok(())
    }

    fn activate(&self, entries: &[&VolumeEntry]) -> Result<()> {
        for entry in entries {
            self.attach(entry.id);
        }
        Ok(())
    }

    fn deactivate(&self, entries: &[&VolumeEntry]) -> Result<Vec<VolumeId>> {
        for entry in entries {
            self.detach(entry.id);
        }
        Ok(Vec::new())
    }

    fn refresh(&self, entries: &[&VolumeEntry]) -> Result<()> {
        self.activate(entries)
    }

    fn path(&self, entry: &VolumeEntry) -> PathBuf {
        self.node(entry.id)
    }

    fn lease(&self, entry: &VolumeEntry) -> LeaseLocation {
        LeaseLocation {
            path: self.special(Special::Leases),
            offset: entry.slot.unwrap().lease_offset(1 << 20),
        }
    }

    fn extend(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        self.check(authority)?;
        let bytes = {
            let mut group = self.group();
            let lv = group.lvs.get_mut(&entry.id).unwrap();
            lv.bytes = lv.bytes.max(to_bytes.next_multiple_of(EXTENT)).min(STRIDE);
            lv.bytes
        };
        if self.active().contains(&entry.id) {
            self.attach(entry.id);
        }
        Ok(bytes)
    }

    fn reduce(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        self.check(authority)?;
        let mut group = self.group();
        let lv = group.lvs.get_mut(&entry.id).unwrap();
        lv.bytes = lv.bytes.min(to_bytes.next_multiple_of(EXTENT));
        Ok(lv.bytes)
    }

    fn set_parent_tag(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        parent: VolumeId,
    ) -> Result<()> {
        self.check(authority)?;
        self.set_tag(entry.id, parent);
        Ok(())
    }

    fn mark_removed(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        zero: bool,
    ) -> Result<VolumeEntry> {
        self.check(authority)?;
        let mut group = self.group();
        let lv = group.lvs.get_mut(&entry.id).unwrap();
        lv.tags.as_mut().unwrap().removed = Some(zero);
        Ok(Self::entry(entry.id, lv))
    }

    fn mark_image_removed(
        &self,
        authority: &dyn Authority,
        image: ImageId,
        zero: bool,
    ) -> Result<Vec<VolumeEntry>> {
        let mut marked = Vec::new();
        for entry in self.volumes()? {
            if entry.image != image {
                continue;
            }
            if entry.is_live() {
                marked.push(self.mark_removed(authority, &entry, zero)?);
            } else {
                marked.push(entry);
            }
        }
        Ok(marked)
    }

    fn remove(&self, authority: &dyn Authority, entry: &VolumeEntry) -> Result<()> {
        if self.volume(entry.id).is_ok() {
            return Err(Failure::new(FailureKind::WrongState, "live"));
        }
        self.check(authority)?;
        self.detach(entry.id);
        self.group().lvs.remove(&entry.id);
        Ok(())
    }

    fn sweep(&self, _: &dyn Authority) -> Result<usize> {
        Ok(0)
    }
}
