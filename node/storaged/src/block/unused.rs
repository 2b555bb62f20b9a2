//! Taking away mappings that nobody uses.

use std::collections::BTreeSet;
use std::fs;

use disk_format::vdsm::domain::Marker;
use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::uuid::{DomainId, VolumeId};

use super::reader;
use crate::job::{Context, Result};
use crate::layout::Layout;
use crate::lvm::{Lvm, Mapping};

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
}
