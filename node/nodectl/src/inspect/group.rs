//! Block domains: LVM's metadata are read from the physical volumes themselves,
//! the domain's areas through the extents these metadata name. Neither `lvm` nor
//! an active volume is needed, and nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use control::storage::inspection::GroupInspection;
use disk_format::vdsm::check::{self, BlockFacts};
use disk_format::vdsm::lvm::{Device, Vg, label};
use disk_format::vdsm::{FormatError, SpecialLv};

use super::domain::Found;
use crate::disk::Disk;

/// A physical volume.
struct Pv {
    path: String,
    disk: Disk,
    device: Device,
}

impl Pv {
    /// Opens a disk; `None` when it is no physical volume.
    fn open(path: &Path) -> Result<Option<Self>> {
        let disk = Disk::open(path)?;
        let read = label::read_device(|area| {
            let length = usize::try_from(area.bytes).map_err(|error| error.to_string())?;
            if area.offset == 0 {
                // A disk too small for a label, or unreadable, has none.
                return Ok(disk.read(0, length).unwrap_or_default());
            }
            let bytes = disk
                .read(area.offset, length)
                .map_err(|error| format!("{error:#}"))?;
            if bytes.len() == length {
                Ok(bytes)
            } else {
                Err(format!("the disk ends at {}", disk.size()))
            }
        });
        match read {
            Ok(device) => Ok(Some(Self {
                path: path.display().to_string(),
                disk,
                device,
            })),
            Err(FormatError::Empty { .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Id of the VG that its own metadata are of, when it has any.
    fn vg(&self) -> Option<&Vg> {
        label::newest([&self.device])
    }
}

/// The domains on these disks. Nothing for one that is given alone and that is
/// no physical volume, or in no volume group; beside others that is an error.
pub(super) fn find(paths: &[&Path], alone: bool) -> Result<Vec<Found>> {
    let mut pvs = Vec::new();
    for path in paths {
        match Pv::open(path)? {
            Some(pv) => pvs.push(pv),
            None if alone => return Ok(Vec::new()),
            None => {
                let name = || path.display().to_string();
                Disk::open(path)?.read(0, 512).with_context(name)?;
                bail!("{}: not an LVM physical volume", name());
            }
        }
    }
    complete(&mut pvs);
    let found = groups(&pvs);
    for pv in &pvs {
        if found.iter().any(|found| found.places.contains(&pv.path)) {
            continue;
        }
        let device = &pv.device;
        for copy in device.copies.iter().filter(|copy| !copy.ignored) {
            if let Err(error) = &copy.vg {
                bail!(
                    "{}: LVM metadata area at {}: {error}; no other area of its volume group can be read",
                    pv.path,
                    copy.area.offset
                );
            }
        }
        if let Some(vg) = pv.vg() {
            bail!(
                "{}: LVM physical volume {} has the metadata of volume group {}, which does not name it",
                pv.path,
                device.label.uuid,
                vg.name
            );
        }
        let elsewhere = device.copies.iter().all(|copy| copy.ignored);
        if elsewhere || !alone {
            bail!(
                "{}: LVM physical volume {} without metadata; give the one that has those of its volume group, too",
                pv.path,
                device.label.uuid
            );
        }
    }
    Ok(found)
}

/// The volume group that a directory of `/dev` is of.
pub(super) fn name_of(directory: &Path) -> Option<String> {
    let special = |special: SpecialLv| directory.join(special.name()).symlink_metadata().is_ok();
    if directory.parent() == Some(Path::new("/dev")) || SpecialLv::ALL.into_iter().all(special) {
        return directory.file_name()?.to_str().map(str::to_owned);
    }
    None
}

/// The domain of a volume group of this host.
pub(super) fn by_name(name: &str) -> Result<Option<Found>> {
    let pvs: Vec<Pv> = host_disks()
        .iter()
        .filter_map(|path| Pv::open(path).ok().flatten())
        .collect();
    Ok(groups(&pvs)
        .into_iter()
        .find(|found| found.report.name == name))
}

/// Adds what the volume groups of disks of this host lack. Image files have
/// nothing to be searched.
fn complete(pvs: &mut Vec<Pv>) {
    let have: BTreeSet<String> = pvs.iter().map(|pv| pv.device.label.uuid.clone()).collect();
    let real = pvs.iter().any(|pv| pv.disk.sector_size().is_some());
    let lacks = pvs.iter().any(|pv| {
        pv.vg()
            .is_none_or(|vg| vg.pvs.values().any(|known| !have.contains(&known.uuid)))
    });
    if !real || !lacks {
        return;
    }
    let wanted: BTreeSet<String> = pvs
        .iter()
        .filter_map(Pv::vg)
        .flat_map(|vg| vg.pvs.values())
        .map(|pv| pv.uuid.clone())
        .collect();
    let mut seen = have.clone();
    for path in host_disks() {
        let Ok(Some(pv)) = Pv::open(&path) else {
            continue;
        };
        let uuid = pv.device.label.uuid.clone();
        let of_group = pv
            .vg()
            .is_some_and(|vg| vg.pvs.values().any(|known| have.contains(&known.uuid)));
        if (wanted.contains(&uuid) || of_group) && seen.insert(uuid) {
            pvs.push(pv);
        }
    }
}

/// Disks of this host: multipath maps before their paths.
fn host_disks() -> Vec<PathBuf> {
    let names = |directory: &str| -> BTreeSet<String> {
        std::fs::read_dir(directory)
            .map(|entries| {
                entries
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect()
            })
            .unwrap_or_default()
    };
    let mut disks: Vec<PathBuf> = names("/dev/mapper")
        .into_iter()
        .filter(|name| name != "control")
        .map(|name| Path::new("/dev/mapper").join(name))
        .collect();
    disks.extend(
        names("/sys/class/block")
            .into_iter()
            .filter(|name| !name.starts_with("dm-") && !name.starts_with("ram"))
            .map(|name| Path::new("/dev").join(name)),
    );
    disks
}

/// The volume groups whose metadata are on these physical volumes.
fn groups(pvs: &[Pv]) -> Vec<Found> {
    let mut newest: BTreeMap<&str, &Vg> = BTreeMap::new();
    for vg in pvs.iter().filter_map(Pv::vg) {
        let best = newest.entry(&vg.uuid).or_insert(vg);
        if vg.seqno > best.seqno {
            *best = vg;
        }
    }
    newest.into_values().map(|vg| found(vg, pvs)).collect()
}

fn found(vg: &Vg, pvs: &[Pv]) -> Found {
    let members: BTreeMap<&str, &Pv> = pvs
        .iter()
        .filter(|pv| {
            vg.pvs
                .values()
                .any(|known| known.uuid == pv.device.label.uuid)
        })
        .map(|pv| (pv.device.label.uuid.as_str(), pv))
        .collect();
    let devices: Vec<(String, Device)> = members
        .values()
        .map(|pv| (pv.path.clone(), pv.device.clone()))
        .collect();
    let facts = BlockFacts::read(vg, &devices, |pv, area| {
        let pv = members
            .get(pv)
            .ok_or_else(|| format!("physical volume {pv} is missing"))?;
        let length = usize::try_from(area.bytes).map_err(|error| error.to_string())?;
        pv.disk
            .read(area.offset, length)
            .map_err(|error| format!("{}: {error:#}", pv.path))
    });
    Found {
        places: devices.into_iter().map(|(path, _)| path).collect(),
        report: check::block(&facts),
        group: Some(GroupInspection {
            seqno: vg.seqno,
            extent_bytes: vg.extent_bytes(),
            extents: vg.extents(),
            free_extents: vg.free_extents(),
        }),
        tasks: Vec::new(),
    }
}
