//! A real block domain, made by `lvm` on loop devices. This kernel may have no
//! device-mapper: the linear ranges that it would map are shown as loop devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use disk_format::vdsm::domain::DomainMetadata;
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::VolumeMetadata;

use super::shelf::run;
use super::site::{Site, Sort};
use super::{crash, flows, model};
use crate::authority::Authority;
use crate::block::BlockDomain;
use crate::block::tests::Lab;
use crate::domain::{
    Domain, DomainKind, Draft, LeaseLocation, NewVolume, Space, Special, VolumeEntry,
};
use crate::job::{Context, Result};

/// Devices in GiB: enough for the domain's own volumes and a few of ours.
const GIB: u64 = 20;

#[derive(Debug)]
pub(super) struct Real {
    inner: BlockDomain,
    nodes: PathBuf,
    active: Mutex<BTreeMap<VolumeId, PathBuf>>,
    disk: PathBuf,
    // Its devices go with it: last.
    _lab: Hidden,
}

struct Hidden(#[expect(dead_code, reason = "held for its devices")] Lab);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lab")
    }
}

impl Real {
    pub(super) fn new(folder: &Path) -> Self {
        let lab = Lab::new(&[GIB]);
        let inner = lab.domain(DomainVersion::V5);
        let nodes = folder.join("nodes");
        std::fs::create_dir(&nodes).unwrap();
        Self {
            inner,
            nodes,
            active: Mutex::default(),
            disk: lab.loops.file(0),
            _lab: Hidden(lab),
        }
    }

    fn node(&self, id: VolumeId) -> PathBuf {
        self.nodes.join(id.to_string())
    }

    fn attach(&self, id: VolumeId) {
        self.detach(id);
        let pieces = self.inner.pieces(&id.to_string()).unwrap();
        let [piece] = pieces.as_slice() else {
            panic!("volume {id} in {} pieces", pieces.len());
        };
        let device = run(&[
            "-f",
            "--show",
            "--direct-io=on",
            "-o",
            &piece.start.to_string(),
            "--sizelimit",
            &piece.length.to_string(),
            &self.disk.to_string_lossy(),
        ]);
        let device = PathBuf::from(device.trim());
        std::os::unix::fs::symlink(&device, self.node(id)).unwrap();
        self.active.lock().unwrap().insert(id, device);
    }

    fn detach(&self, id: VolumeId) {
        if let Some(device) = self.active.lock().unwrap().remove(&id) {
            run(&["-d", &device.to_string_lossy()]);
            std::fs::remove_file(self.node(id)).unwrap();
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let all: Vec<VolumeId> = self.active.lock().unwrap().keys().copied().collect();
        for id in all {
            self.detach(id);
        }
    }
}

impl Domain for Real {
    fn id(&self) -> DomainId {
        self.inner.id()
    }

    fn kind(&self) -> DomainKind {
        self.inner.kind()
    }

    fn version(&self) -> DomainVersion {
        self.inner.version()
    }

    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }

    fn alignment(&self) -> u64 {
        self.inner.alignment()
    }

    fn root(&self) -> PathBuf {
        self.inner.root()
    }

    fn special(&self, which: Special) -> PathBuf {
        self.inner.special(which)
    }

    fn metadata(&self) -> Result<DomainMetadata> {
        self.inner.metadata()
    }

    fn change_metadata(
        &self,
        authority: &dyn Authority,
        change: &mut dyn FnMut(&mut DomainMetadata) -> Result<()>,
    ) -> Result<DomainMetadata> {
        self.inner.change_metadata(authority, change)
    }

    fn upgrade(
        &self,
        context: &Context,
        authority: &dyn Authority,
        to: DomainVersion,
    ) -> Result<()> {
        self.inner.upgrade(context, authority, to)
    }

    fn space(&self) -> Result<Space> {
        self.inner.space()
    }

    fn volumes(&self) -> Result<Vec<VolumeEntry>> {
        self.inner.volumes()
    }

    fn volume(&self, id: VolumeId) -> Result<VolumeEntry> {
        self.inner.volume(id)
    }

    fn volume_metadata(&self, entry: &VolumeEntry) -> Result<VolumeMetadata> {
        self.inner.volume_metadata(entry)
    }

    fn write_volume_metadata(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        metadata: &VolumeMetadata,
    ) -> Result<()> {
        self.inner.write_volume_metadata(authority, entry, metadata)
    }

    fn make_image(&self, authority: &dyn Authority, image: ImageId) -> Result<()> {
        self.inner.make_image(authority, image)
    }

    fn share(
        &self,
        authority: &dyn Authority,
        template: &VolumeEntry,
        image: ImageId,
    ) -> Result<()> {
        self.inner.share(authority, template, image)
    }

    fn allocate(
        &self,
        context: &Context,
        authority: &dyn Authority,
        new: &NewVolume,
    ) -> Result<Draft> {
        let draft = self.inner.allocate(context, authority, new)?;
        self.attach(new.id);
        Ok(Draft {
            path: self.node(new.id),
            ..draft
        })
    }

    fn publish(
        &self,
        authority: &dyn Authority,
        draft: &Draft,
        metadata: &VolumeMetadata,
    ) -> Result<VolumeEntry> {
        self.inner.publish(authority, draft, metadata)
    }

    fn discard_draft(&self, authority: &dyn Authority, draft: &Draft) -> Result<()> {
        self.detach(draft.id);
        self.inner.discard_draft(authority, draft)
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
        self.inner.lease(entry)
    }

    fn extend(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        let size = self.inner.extend(authority, entry, to_bytes)?;
        if self.active.lock().unwrap().contains_key(&entry.id) {
            self.attach(entry.id);
        }
        Ok(size)
    }

    fn reduce(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        self.inner.reduce(authority, entry, to_bytes)
    }

    fn set_parent_tag(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        parent: VolumeId,
    ) -> Result<()> {
        self.inner.set_parent_tag(authority, entry, parent)
    }

    fn mark_removed(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        zero: bool,
    ) -> Result<VolumeEntry> {
        self.inner.mark_removed(authority, entry, zero)
    }

    fn mark_image_removed(
        &self,
        authority: &dyn Authority,
        image: ImageId,
        zero: bool,
    ) -> Result<Vec<VolumeEntry>> {
        self.inner.mark_image_removed(authority, image, zero)
    }

    fn remove(&self, authority: &dyn Authority, entry: &VolumeEntry) -> Result<()> {
        self.detach(entry.id);
        self.inner.remove(authority, entry)
    }

    fn sweep(&self, authority: &dyn Authority) -> Result<usize> {
        self.inner.sweep(authority)
    }
}

#[test]
fn volumes_live_and_die_in_a_real_volume_group() {
    flows::make_and_delete(&Site::new(Sort::Lvm));
}

#[test]
fn templates_and_clones_in_a_real_volume_group() {
    flows::share_template(&Site::new(Sort::Lvm));
}

#[test]
fn merges_in_a_real_volume_group() {
    flows::merge_twice(&Site::new(Sort::Lvm));
}

#[test]
fn random_work_in_a_real_volume_group_keeps_every_byte() {
    model::random_work(Sort::Lvm, 1);
}

#[test]
fn creating_a_snapshot_in_a_real_volume_group_dies_at_every_step() {
    crash::die_creating_a_snapshot(Sort::Lvm);
}
