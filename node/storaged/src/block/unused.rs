//! Taking away mappings that nobody uses.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::Marker;
use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::uuid::{DomainId, VolumeId};

use super::reader;
use crate::command::Run;
use crate::job::{Context, Result};
use crate::layout::Layout;
use crate::lvm::{Lvm, Mapping};

/// How long taking one mapping away may take.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Deactivates, at the daemon's start, all active volumes of domains that are
/// neither special, nor prepared (listed in the run directory), nor open.
/// Returns how many went.
///
/// # Errors
/// The LUNs cannot be listed.
pub fn deactivate_unused(lvm: &Lvm, context: &Context) -> Result<usize> {
    let mut gone = 0;
    for (name, group) in reader::all(lvm)? {
        let (Ok(id), Ok(group)) = (name.parse::<DomainId>(), group) else {
            continue;
        };
        if group.marker() == Marker::Foreign {
            continue;
        }
        let prepared = prepared(lvm.layout(), id);
        for volume in &group.volumes {
            let unused = SpecialLv::from_name(&volume.name).is_none()
                && !prepared.contains(&volume.name)
                && lvm.layout().logical_volume(&name, &volume.name).exists();
            if !unused {
                continue;
            }
            // LVM itself refuses an open one, so there is no race to lose.
            match lvm.map(context, Mapping::Deactivate, &name, &[&volume.name]) {
                Ok(()) => gone += 1,
                Err(failure) => {
                    tracing::info!(domain = name, volume = volume.name, %failure, "volume stays active");
                }
            }
        }
    }
    Ok(gone)
}

/// Takes away all of a domain's mappings on this host, also when its LUNs no
/// longer answer.
///
/// # Errors
/// `InUse`: those that somebody still has open.
pub fn take_down(lvm: &Lvm, context: &Context, id: DomainId) -> Result<()> {
    if !lvm.env().device_mapper {
        return Ok(());
    }
    let name = id.to_string();
    let Err(failure) = lvm.unmap_group(context, &name) else {
        return Ok(());
    };
    for map in maps(lvm.layout(), &name) {
        let removed = Run::new("dmsetup")
            .args(["remove", &map])
            .within(REMOVE_TIMEOUT)
            .succeed(context);
        if let Err(failure) = removed {
            tracing::info!(map, %failure, "mapping stays");
        }
    }
    let left = maps(lvm.layout(), &name);
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::InUse,
        format!(
            "domain {id}: still in use are {}: {failure}",
            left.join(", ")
        ),
    ))
}

/// Names of the maps of a group's volumes: `<group>-<volume>`, each hyphen of
/// the two doubled.
fn maps(layout: &Layout, group: &str) -> Vec<String> {
    let prefix = format!("{}-", group.replace('-', "--"));
    let devices = fs::read_dir(layout.sys.join("block")).into_iter().flatten();
    devices
        .flatten()
        .filter_map(|device| fs::read_to_string(device.path().join("dm/name")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| {
            // A group whose name goes on has another hyphen here.
            name.strip_prefix(&prefix)
                .is_some_and(|volume| !volume.starts_with('-'))
        })
        .collect()
}

/// Volumes below `…/<domain>/<image>/`.
fn prepared(layout: &Layout, id: DomainId) -> BTreeSet<String> {
    let images = fs::read_dir(layout.prepared(id)).into_iter().flatten();
    images
        .flatten()
        .filter_map(|image| fs::read_dir(image.path()).ok())
        .flatten()
        .flatten()
        .filter_map(|volume| volume.file_name().into_string().ok())
        .filter(|name| name.parse::<VolumeId>().is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_volumes_are_those_linked_in_the_run_directory() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::under(folder.path());
        let id: DomainId = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap();
        assert!(prepared(&layout, id).is_empty());
        let volume = "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f";
        let image = layout
            .prepared(id)
            .join("6b055e16-337d-4cbe-9af9-d75f00f910c1");
        fs::create_dir_all(&image).unwrap();
        std::os::unix::fs::symlink("/dev/nowhere", image.join(volume)).unwrap();
        fs::write(image.join("note"), "").unwrap();
        assert_eq!(prepared(&layout, id), BTreeSet::from([volume.to_owned()]));
    }

    #[test]
    fn only_the_maps_of_the_group_are_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout {
            sys: folder.path().to_path_buf(),
            ..Layout::under(folder.path())
        };
        for (number, name) in [
            "a--b-ids",
            "a--b-d772f1c6--3ebb",
            "a--b--c-ids",
            "x--a--b-ids",
            "3600140a",
        ]
        .into_iter()
        .enumerate()
        {
            let about = folder.path().join(format!("block/dm-{number}/dm"));
            fs::create_dir_all(&about).unwrap();
            fs::write(about.join("name"), format!("{name}\n")).unwrap();
        }
        let mut found = maps(&layout, "a-b");
        found.sort();
        assert_eq!(found, ["a--b-d772f1c6--3ebb", "a--b-ids"]);
    }
}
