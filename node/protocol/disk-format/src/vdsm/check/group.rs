//! From LVM's metadata to what is judged.

use super::{BlockFacts, LvFacts, PvFacts};
use crate::vdsm::lvm::{Device, Vg};

impl BlockFacts {
    /// What LVM's text says of a VG, and which of its physical volumes were
    /// found, by the path of their device. Slots and areas are not read yet.
    #[must_use]
    pub fn of_vg(vg: &Vg, devices: &[(String, Device)]) -> Self {
        let pvs = vg
            .pvs
            .values()
            .map(|pv| {
                let found = devices
                    .iter()
                    .find(|(_, device)| device.label.uuid == pv.uuid);
                PvFacts {
                    uuid: pv.uuid.clone(),
                    device: found.map(|(path, _)| path.clone()),
                    extents: pv.pe_count,
                    areas_used: found.map(|(_, device)| {
                        let used = device.copies.iter().filter(|copy| !copy.ignored);
                        u64::try_from(used.count()).unwrap_or(u64::MAX)
                    }),
                }
            })
            .collect();
        let lvs = vg
            .lvs
            .iter()
            .map(|(name, lv)| LvFacts {
                name: name.clone(),
                tags: lv.tags.clone(),
                size_bytes: vg.lv_bytes(lv),
                start: lv
                    .segments
                    .first()
                    .and_then(|segment| segment.stripes.first())
                    .and_then(|stripe| Some((vg.pvs.get(&stripe.pv)?.uuid.clone(), stripe.extent))),
            })
            .collect();
        let room = devices
            .iter()
            .flat_map(|(_, device)| &device.copies)
            .filter(|copy| !copy.ignored)
            .filter_map(|copy| {
                let bytes = copy.text_bytes?;
                // One copy may take half of the area.
                Some((copy.area.bytes, (copy.area.bytes / 2).saturating_sub(bytes)))
            })
            .min_by_key(|(_, free)| *free);
        Self {
            name: vg.name.clone(),
            uuid: vg.uuid.clone(),
            tags: vg.tags.clone(),
            flags: Some(vg.flags.clone()),
            extent_bytes: vg.extent_bytes(),
            free_extents: vg.free_extents(),
            metadata_room: room,
            lvm_faults: faults(vg, devices),
            pvs,
            lvs,
            ..Self::default()
        }
    }
}

/// Areas that cannot be read, and those that are behind the newest commit.
fn faults(vg: &Vg, devices: &[(String, Device)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, device) in devices {
        for copy in device.copies.iter().filter(|copy| !copy.ignored) {
            let place = format!("{path}: metadata area at {}", copy.area.offset);
            match &copy.vg {
                Err(error) => faults.push(format!("{place}: {error}")),
                Ok(None) => faults.push(format!("{place}: in use and empty")),
                Ok(Some(other)) if other.uuid != vg.uuid => {
                    faults.push(format!("{place}: of volume group {}", other.name));
                }
                Ok(Some(other)) if other.seqno != vg.seqno => faults.push(format!(
                    "{place}: commit {}, the newest is {}: a writer stopped between the areas",
                    other.seqno, vg.seqno
                )),
                Ok(Some(_)) => {}
            }
        }
    }
    faults
}
