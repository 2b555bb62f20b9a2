//! The LUN's file, seen from outside the node, and volumes put in its group.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use disk_format::vdsm::lvm::Vg;
use disk_format::vdsm::lvm::label::{newest, read_device};
use disk_format::vdsm::uuid::VolumeId;

use super::{DOMAIN, Lab};
use crate::lun::Lun;

/// Volumes that want to grow, one for each host of a full pool.
pub(super) const VOLUMES: usize = 249;
/// Segments of each, so that the metadata is that of a pool in use.
const SEGMENTS: u64 = 4;
/// Extents of each segment.
const EXTENTS: u64 = 2;

/// The file; removed when done with.
#[derive(Debug)]
pub(super) struct Disk {
    lun: Lun,
    file: File,
}

impl Disk {
    pub(super) fn create(path: &Path, mib: u64) -> Result<Self> {
        let lun = Lun::create(path, 1, mib)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        Ok(Self { lun, file })
    }

    pub(super) fn lun(&self) -> &Lun {
        &self.lun
    }

    /// The node writes it past this machine's page cache, which notices.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The group as it is now.
    pub(super) fn group(&self) -> Result<Vg> {
        let device = read_device(|area| {
            let mut bytes = vec![0; usize::try_from(area.bytes).unwrap_or(0)];
            let read = self.file.read_exact_at(&mut bytes, area.offset);
            read.map(|()| bytes).map_err(|error| error.to_string())
        })?;
        newest([&device]).cloned().context("no group on the LUN")
    }

    /// Where in the file a small volume is.
    pub(super) fn place(&self, volume: &str) -> Result<u64> {
        let group = self.group()?;
        let found = group.lvs.get(volume).and_then(|lv| {
            let stripe = lv.segments.first()?.linear()?;
            let physical = group.pvs.get(&stripe.pv)?;
            Some((physical.pe_start_sectors << 9) + stripe.extent * group.extent_bytes())
        });
        found.with_context(|| format!("volume {volume} of the group"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Left behind, it is only in the way until the next run.
        drop(fs::remove_file(&self.lun.path));
    }
}

/// The volume of one host.
fn volume(number: usize) -> VolumeId {
    let mut bytes = [0xb0; 16];
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    VolumeId::from_bytes(bytes)
}

impl Lab<'_> {
    /// Size of each of the volumes at first.
    pub(super) fn first_mib(&self) -> Result<u32> {
        let extent_mib = self.disk.group()?.extent_bytes() >> 20;
        Ok(u32::try_from(SEGMENTS * EXTENTS * extent_mib)?)
    }

    /// Puts the volumes in the group, in one commit: with `lvcreate` it would
    /// take longer than everything that is measured.
    pub(super) fn fill(&self) -> Result<Vec<VolumeId>> {
        let group = self.disk.group()?;
        let next = group.extents() - group.free_extents();
        let volumes: Vec<VolumeId> = (0..VOLUMES).map(volume).collect();
        let names: Vec<String> = volumes.iter().map(ToString::to_string).collect();
        self.node.shell("cd /run; : >names")?;
        for some in names.chunks(50) {
            self.node
                .shell(&format!("printf '%s\\n' {} >>names", some.join(" ")))?;
        }
        let lines = [
            // A segment: its number from 0.
            format!(
                "segment() {{ printf 'segment%d {{\\nstart_extent = %d\\nextent_count = {EXTENTS}\\ntype = \"striped\"\\n\
                 stripe_count = 1\\nstripes = [\\n\"pv0\", %d\\n]\\n}}\\n' $(($1 + 1)) $(($1 * {EXTENTS})) \
                 $(({next} + ($1 * {VOLUMES} + n) * {})); }}",
                // Not next to each other: LVM would join them.
                EXTENTS + 1
            ),
            format!(
                "volume() {{ printf '%s {{\\nid = \"bench0-aaaa-aaaa-aaaa-aaaa-aaaa-%06d\"\\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\\n\
                 flags = []\\ntags = [\"IU_%s\", \"MD_%d\", \"PU_{}\"]\\ncreation_time = 1700000000\\ncreation_host = \"bench\"\\n\
                 segment_count = {SEGMENTS}\\n' $1 $n $1 $((n + 1000)); for s in $(seq 0 {}); do segment $s; done; echo '}}'; }}",
                VolumeId::BLANK,
                SEGMENTS - 1
            ),
            self.lvm(&format!("vgcfgbackup -f /run/before {DOMAIN}")),
            "n=0; while IFS= read -r l; do printf '%s\\n' \"$l\"; case $l in *'logical_volumes {') while read v; do volume $v; n=$((n + 1)); done <names;; esac; \
             done <before >after"
                .to_owned(),
            self.lvm(&format!("vgcfgrestore --yes -f /run/after {DOMAIN}")),
        ];
        for line in lines {
            self.node.shell(&format!("{line} 2>&1"))?;
        }
        let group = self.disk.group()?;
        let there = names.iter().filter(|name| group.lvs.contains_key(*name));
        ensure!(
            there.count() == VOLUMES,
            "not all volumes were put in the group"
        );
        (self.say)(&format!(
            "{VOLUMES} volumes of {SEGMENTS} segments are there"
        ));
        Ok(volumes)
    }
}
