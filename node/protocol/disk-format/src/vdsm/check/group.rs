//! From LVM's metadata to what is judged.

use std::collections::{BTreeMap, BTreeSet};

use super::{Areas, BlockFacts, LeaseLeader, LvFacts, PvFacts, geometry};
use crate::vdsm::domain::{DomainMetadata, Marker};
use crate::vdsm::lv::{LvState, SpecialLv};
use crate::vdsm::lvm::label::Area;
use crate::vdsm::lvm::{Device, TableLine, Vg, linear_table};
use crate::vdsm::mailbox;
use crate::vdsm::slot::{SLOT_BYTES, SlotNumber};
use crate::vdsm::xlease;

impl BlockFacts {
    /// All that is judged of a VG, read through the extents its text names:
    /// `read` gives a piece of the physical volume of an id, or why it cannot.
    /// Of a VG that is no domain nothing is read.
    #[must_use]
    pub fn read(
        vg: &Vg,
        devices: &[(String, Device)],
        read: impl FnMut(&str, Area) -> Result<Vec<u8>, String>,
    ) -> Self {
        let mut facts = Self::of_vg(vg, devices);
        let tags = || facts.tags.iter().map(String::as_str);
        if Marker::of(tags()) == Marker::Foreign {
            return facts;
        }
        let metadata = DomainMetadata::from_vg_tags(tags()).ok();
        let mut reader = Reader {
            vg,
            read,
            tables: BTreeMap::new(),
        };
        if let Some(metadata) = &metadata {
            facts.slots = reader.slots(&facts, metadata);
        }
        facts.areas = reader.areas(metadata.as_ref());
        if let Some(metadata) = &metadata {
            facts.areas.leaders = reader.leaders(&facts, metadata);
        }
        facts
    }

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

/// Reads logical volumes through their extents.
struct Reader<'a, R> {
    vg: &'a Vg,
    read: R,
    /// Tables that were made: one is needed for every slot.
    tables: BTreeMap<String, Result<Vec<TableLine>, String>>,
}

impl<R: FnMut(&str, Area) -> Result<Vec<u8>, String>> Reader<'_, R> {
    /// Reads from a logical volume.
    fn read(&mut self, lv: &str, area: Area) -> Result<Vec<u8>, String> {
        let table = self
            .tables
            .entry(lv.to_owned())
            .or_insert_with(|| linear_table(self.vg, lv).map_err(|error| error.to_string()));
        let table = table.as_ref().map_err(String::clone)?;
        let line_end = |line: &TableLine| {
            let start = line.start_sector.saturating_mul(512);
            start.saturating_add(line.sectors.saturating_mul(512))
        };
        let end = area.offset.saturating_add(area.bytes);
        let first = table.partition_point(|line| line_end(line) <= area.offset);
        let mut bytes = Vec::new();
        for line in table.iter().skip(first) {
            let start = line.start_sector.saturating_mul(512);
            let from = area.offset.max(start);
            let to = end.min(line_end(line));
            if from >= to {
                break;
            }
            let there = line.pv_sector.saturating_mul(512);
            let piece = Area {
                offset: there.saturating_add(from - start),
                bytes: to - from,
            };
            bytes.extend_from_slice(&(self.read)(&line.pv_uuid, piece)?);
        }
        if u64::try_from(bytes.len()) == Ok(area.bytes) {
            Ok(bytes)
        } else {
            Err(format!(
                "{} of {} bytes at {}: the volume or its disk ends",
                bytes.len(),
                area.bytes,
                area.offset
            ))
        }
    }

    fn slots(
        &mut self,
        facts: &BlockFacts,
        metadata: &DomainMetadata,
    ) -> BTreeMap<SlotNumber, Result<Vec<u8>, String>> {
        let used: BTreeSet<SlotNumber> = facts
            .lvs
            .iter()
            .filter_map(|lv| LvState::of(&lv.name, lv.tags.iter().map(String::as_str)).slot())
            .collect();
        used.into_iter()
            .map(|slot| {
                let offset = slot.offset(metadata.version());
                let bytes = length(SLOT_BYTES);
                let read = self.read(SpecialLv::Metadata.name(), Area { offset, bytes });
                (slot, read)
            })
            .collect()
    }

    /// The leases of volumes, and the external ones.
    fn leaders(&mut self, facts: &BlockFacts, metadata: &DomainMetadata) -> Vec<LeaseLeader> {
        let geometry = geometry(Some(metadata));
        let align = u64::from(geometry.align_size());
        let mut sector = |special: SpecialLv, offset: u64| {
            let bytes = length(SLOT_BYTES);
            self.read(special.name(), Area { offset, bytes })
        };
        let mut leaders = Vec::new();
        for lv in &facts.lvs {
            let state = LvState::of(&lv.name, lv.tags.iter().map(String::as_str));
            if let LvState::Volume { id, tags } = state
                && tags.slot.is_usable(metadata.version())
            {
                let read = sector(SpecialLv::Leases, tags.slot.lease_offset(align));
                leaders.push(LeaseLeader::of_volume(id, read));
            }
        }
        leaders.extend(LeaseLeader::of_index(
            facts.areas.index.as_ref(),
            metadata.id(),
            geometry,
            |offset| sector(SpecialLv::Xleases, offset),
        ));
        leaders
    }

    /// What there is to judge of the special volumes; that one is missing is
    /// told by its name alone.
    fn areas(&mut self, metadata: Option<&DomainMetadata>) -> Areas {
        let align = metadata
            .and_then(|metadata| metadata.alignment_bytes().ok())
            .map_or(1 << 20, u64::from);
        let mut area = |special: SpecialLv, offset: u64, bytes: usize| {
            let area = Area {
                offset,
                bytes: length(bytes),
            };
            let name = special.name();
            let known = self.vg.lvs.contains_key(name);
            known.then(|| self.read(name, area))
        };
        Areas {
            index: area(SpecialLv::Xleases, align, xlease::INDEX_BYTES),
            inbox: area(SpecialLv::Inbox, 0, mailbox::AREA_BYTES),
            outbox: area(SpecialLv::Outbox, 0, mailbox::AREA_BYTES),
            ids: area(SpecialLv::Ids, 0, SLOT_BYTES),
            sdm: area(SpecialLv::Leases, align, SLOT_BYTES),
            xleases_bytes: self
                .vg
                .lvs
                .get(SpecialLv::Xleases.name())
                .map(|lv| self.vg.lv_bytes(lv)),
            leaders: Vec::new(),
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
