//! What holds for all values and all bytes of the domain formats.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};

use disk_format::Geometry;
use disk_format::vdsm::domain::{Backing, NewDomain};
use disk_format::vdsm::task::{Files, Job, Outcome, Recovery, Task, TaskState};
use disk_format::vdsm::volume::{DESCRIPTION_BYTES, cut_description};
use disk_format::vdsm::xlease::{INDEX_BYTES, Index, Record, Step, XleaseError, index_offset};
use disk_format::vdsm::{
    Allocation, DiskType, DomainClass, DomainId, DomainMetadata, DomainType, DomainVersion,
    ImageId, LeaseId, Legality, LvState, PvMapping, SlotFormat, SlotNumber, TaskId, VolumeFormat,
    VolumeId, VolumeMetadata, VolumeTags, VolumeType, lvm::report, ovf, tag,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Text as people and managers write it.
fn line() -> impl Strategy<Value = String> {
    "[^\\p{Cc}\\p{Z}]([^\\p{Cc}\\p{Zl}\\p{Zp}]{0,46}[^\\p{Cc}\\p{Z}])?"
}

prop_compose! {
    fn volumes()(
        ids in any::<[[u8; 16]; 3]>(),
        blocks in 0..1u64 << 50,
        ctime_s in any::<u64>(),
        description in "[ -~]{0,250}|[^\\p{Cc}]{0,250}",
        disk_type in select(DiskType::ALL),
        format in select(VolumeFormat::ALL),
        generation in 0..=999u16,
        legality in select(Legality::ALL),
        sequence in any::<u32>(),
        volume_type in select(VolumeType::ALL),
        allocation in select(Allocation::ALL),
    ) -> VolumeMetadata {
        VolumeMetadata {
            domain: DomainId::from_bytes(ids[0]),
            image: ImageId::from_bytes(ids[1]),
            parent: VolumeId::from_bytes(ids[2]),
            capacity_bytes: blocks * 512,
            ctime_s,
            description: cut_description(&description).to_owned(),
            disk_type, format, generation, legality, sequence, volume_type, allocation,
        }
    }
}

prop_compose! {
    fn domains()(
        id in any::<[u8; 16]>(),
        version in select([DomainVersion::V3, DomainVersion::V4, DomainVersion::V5].as_slice()),
        block in any::<bool>(),
        class in select(DomainClass::ALL),
        description in line(),
        path in line(),
        extents in proptest::collection::vec(0..1u64 << 32, 1..=10),
    ) -> DomainMetadata {
        let backing = if block {
            let pv = |(number, &extents): (usize, &u64)| PvMapping {
                device: format!("36001405{number}"), uuid: format!("hcs8X1-{number}"), start: 0, extents, offset: 0,
            };
            Backing::Block { vg_uuid: "sGk8qQ".to_owned(), pvs: extents.iter().enumerate().map(pv).collect() }
        } else {
            Backing::File { remote_path: path }
        };
        DomainMetadata::new(&NewDomain {
            id: DomainId::from_bytes(id),
            version,
            kind: if block { DomainType::Fcp } else { DomainType::Nfs },
            class, description, backing,
            block_bytes: 512,
            alignment_bytes: 1 << 20,
        }).unwrap()
    }
}

const FORMATS: [SlotFormat; 3] = [SlotFormat::V4, SlotFormat::Converting, SlotFormat::V5];

proptest! {
    #[test]
    fn volumes_come_back_from_slots_and_files(volume in volumes(), format in select(FORMATS.as_slice())) {
        let stored = if format == SlotFormat::V5 { volume.clone() } else { VolumeMetadata { sequence: 0, ..volume.clone() } };
        // With all its values at their longest, a converting slot may be too small.
        if let Ok(slot) = volume.encode_slot(format) {
            prop_assert_eq!(VolumeMetadata::decode_slot(&slot), Ok(stored.clone()));
            prop_assert_eq!(SlotFormat::detect(&slot), Some(format));
            let file = volume.encode_meta(format).unwrap();
            prop_assert_eq!(VolumeMetadata::decode_meta(&file), Ok(stored));
        } else {
            prop_assert_eq!(format, SlotFormat::Converting);
        }
    }

    #[test]
    fn a_slot_that_decodes_decodes_the_same_after_being_encoded_again(
        volume in volumes(), format in select(FORMATS.as_slice()),
        edits in proptest::collection::vec((0usize..512, any::<u8>()), 0..4),
    ) {
        let Ok(mut slot) = volume.encode_slot(format) else { return Ok(()); };
        for (place, byte) in edits {
            slot[place] = byte;
        }
        let Ok(decoded) = VolumeMetadata::decode_slot(&slot) else { return Ok(()); };
        for format in FORMATS {
            if let Ok(again) = decoded.encode_slot(format) {
                let expected = if format == SlotFormat::V5 { decoded.clone() } else { VolumeMetadata { sequence: 0, ..decoded.clone() } };
                prop_assert_eq!(VolumeMetadata::decode_slot(&again), Ok(expected));
            }
        }
    }

    #[test]
    fn any_bytes_are_no_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1024), text in ".{0,200}") {
        drop(std::hint::black_box((
            VolumeMetadata::decode_slot(&bytes), VolumeMetadata::decode_meta(&bytes), DomainMetadata::from_lines(&bytes),
            DomainMetadata::from_vg_tags([text.as_str()]), tag::decode(&text), ovf::Description::parse(&text),
            report::parse_lvs(&text), report::parse_pvs(&text), report::parse_vgs(&text),
            LvState::of("d772f1c6-3ebb-43c3-a42e-73fcd8255a5f", [text.as_str()]),
        )));
    }

    #[test]
    fn domains_come_back_from_lines_and_from_tags(domain in domains()) {
        prop_assert_eq!(DomainMetadata::from_lines(&domain.to_lines()), Ok(domain.clone()));
        let tags = domain.to_vg_tags().unwrap();
        prop_assert_eq!(DomainMetadata::from_vg_tags(tags.iter().map(String::as_str)), Ok(domain));
    }

    #[test]
    fn one_changed_character_breaks_the_seal_of_a_domain(domain in domains(), place in any::<prop::sample::Index>(), by in 1u8..26) {
        let mut lines = domain.to_lines();
        // Letters only, so that lines and keys stay what they are.
        let letters: Vec<usize> = (0..lines.len()).filter(|&at| lines[at].is_ascii_lowercase()).collect();
        let place = letters[place.index(letters.len())];
        let old = lines[place];
        lines[place] = b'a' + (old - b'a' + by) % 26;
        prop_assert!(DomainMetadata::from_lines(&lines).is_err());
    }

    #[test]
    fn text_comes_back_from_a_tag_of_allowed_characters(text in any::<String>()) {
        let tag = tag::encode(&text);
        prop_assert!(tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-/=!:#&".contains(&byte)));
        prop_assert_eq!(tag::decode(&tag), Ok(text));
    }

    #[test]
    fn descriptions_are_cut_to_bytes_and_never_inside_a_character(text in any::<String>(), many in 1usize..200) {
        let text = text.repeat(many);
        let cut = cut_description(&text);
        let text = text.trim();
        prop_assert!(text.starts_with(cut) && cut.len() <= DESCRIPTION_BYTES && cut.trim() == cut);
        let left = text[cut.len()..].trim_start();
        // What was left out begins with what did not fit.
        prop_assert!(left.is_empty() || text.len() - left.len() + 4 > DESCRIPTION_BYTES);
    }

    #[test]
    fn tags_of_a_volume_come_back_whatever_else_is_there(
        slot in any::<u32>(), ids in any::<[[u8; 16]; 2]>(), other in "[a-z_]{1,20}", last in any::<bool>(),
    ) {
        let tags = VolumeTags { slot: SlotNumber(slot), image: ImageId::from_bytes(ids[0]), parent: VolumeId::from_bytes(ids[1]) };
        let mut all: Vec<String> = tags.encode().into();
        all.insert(if last { 3 } else { 0 }, other);
        let id = VolumeId::from_bytes([7; 16]);
        let state = LvState::of(&id.to_string(), all.iter().map(String::as_str));
        prop_assert_eq!(state, LvState::Volume { id, tags });
    }

    #[test]
    fn tasks_come_back_from_their_files(
        texts in proptest::collection::vec(line(), 8), id in any::<[u8; 16]>(), state in select(TaskState::ALL),
        params in proptest::collection::vec("[!-+\\--~]{1,30}", 0..4), jobs in 0usize..4, code in any::<i64>(), over in any::<bool>(),
    ) {
        prop_assume!(texts.iter().chain(&params).all(|text| !text.contains("_eq_")));
        let text = |number: usize| texts[number].clone();
        let task = Task {
            id: TaskId::from_bytes(id), name: text(0), tag: "spm".to_owned(), store: text(1), recovery_policy: "auto".to_owned(),
            persist_policy: "auto".to_owned(), clean_policy: "manual".to_owned(), priority: "low".to_owned(), state,
            jobs: vec![Job { name: text(2), runcmd: text(3) }; jobs],
            recoveries: vec![Recovery { name: text(4), module_name: text(5), object: text(6), function: text(7), params }],
            outcome: over.then(|| Outcome { code, message: text(0), result: String::new() }),
        };
        // Such a value would come back as another: it is refused.
        if let Ok(files) = task.to_files() {
            prop_assert_eq!(Task::from_files(task.id, &files), Ok(task));
        } else {
            let ambiguous = texts.iter().chain(&task.recoveries[0].params).any(|text| text.replace('=', "_eq_").contains("_eq_"));
            prop_assert!(ambiguous);
        }
    }

    #[test]
    fn damaged_task_files_are_refused_or_read_but_never_a_panic(edits in proptest::collection::vec((0usize..400, any::<u8>()), 1..5)) {
        let id = TaskId::from_bytes([9; 16]);
        let mut content = format!("id = {id}\nname = x\ntag = spm\nstore = /s\nrecoveryPolicy = auto\npersistPolicy = auto\ncleanPolicy = auto\npriority = low\nstate = running\nnjobs = 0\nnrecoveries = 0\nmetadataVersion = 1\n").into_bytes();
        for (place, byte) in edits {
            if let Some(place) = content.get_mut(place) { *place = byte; }
        }
        let files = Files::from([(format!("{id}.task"), content)]);
        drop(std::hint::black_box(Task::from_files(id, &files)));
    }
}

fn lease(number: u8) -> LeaseId {
    LeaseId::from_bytes([number.wrapping_add(1); 16])
}

/// The volume and what the lease daemon has in it, by offset.
struct Volume {
    bytes: Vec<u8>,
    resources: BTreeMap<u64, LeaseId>,
    geometry: Geometry,
}

impl Volume {
    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::WriteIndex { offset, bytes } => {
                    let size = self.geometry.sector_bytes();
                    assert!(bytes.len().is_multiple_of(size));
                    let at = usize::try_from(*offset).unwrap();
                    assert!(at.is_multiple_of(size));
                    self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
                }
                Step::WriteResource { offset, lease } => {
                    self.resources.insert(*offset, *lease);
                }
                Step::ClearResource { offset, .. } => {
                    self.resources.remove(offset);
                }
            }
        }
    }

    fn index(&self, domain: &DomainId) -> Index {
        let base = usize::try_from(index_offset(self.geometry)).unwrap();
        Index::decode(&self.bytes[base..], domain).unwrap()
    }

    /// What the index says is what is there.
    fn agrees(&self, domain: &DomainId) -> bool {
        let index = self.index(domain);
        let listed: BTreeMap<u64, LeaseId> = index
            .leases()
            .map(|(_, id)| (index.lookup(&id, self.geometry).unwrap().offset, id))
            .collect();
        !index.is_updating() && listed == self.resources
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a set: adding, removing; each plan cut off after any of its
    /// steps, then rebuilt.
    #[test]
    fn the_index_is_a_set_that_survives_a_crash_at_every_step(
        changes in proptest::collection::vec((any::<bool>(), 0u8..6, 0usize..4), 1..24), large in any::<bool>(),
    ) {
        let geometry = if large { Geometry::Sector4096Align2M } else { Geometry::Sector512Align1M };
        let domain = DomainId::from_bytes([5; 16]);
        let room = 7 * u64::from(geometry.align_size());
        let (mut index, steps) = Index::format(&domain, 1, geometry);
        let base = usize::try_from(index_offset(geometry)).unwrap();
        let mut volume = Volume { bytes: vec![0; base + INDEX_BYTES], resources: BTreeMap::new(), geometry };
        volume.run(&steps);
        let mut model = BTreeSet::new();
        for (add, number, crash) in changes {
            let id = lease(number);
            let steps = if add {
                match index.add(&id, geometry, room) {
                    Ok((_, steps)) => { prop_assert!(!model.contains(&id)); steps }
                    Err(XleaseError::Exists(_)) => { prop_assert!(model.contains(&id)); continue; }
                    Err(error) => { prop_assert_eq!(error, XleaseError::Full(4)); prop_assert_eq!(model.len(), 4); continue; }
                }
            } else {
                match index.remove(&id, geometry) {
                    Ok(steps) => { prop_assert!(model.contains(&id)); steps }
                    Err(error) => { prop_assert_eq!(error, XleaseError::NotFound(id)); prop_assert!(!model.contains(&id)); continue; }
                }
            };
            let done = crash.min(steps.len());
            volume.run(&steps[..done]);
            index = volume.index(&domain);
            if done < steps.len() {
                let found = volume.resources.iter().map(|(offset, id)| {
                    (usize::try_from(offset / u64::from(geometry.align_size()) - 3).unwrap(), *id)
                }).collect();
                let steps = index.rebuild(&found, 2, geometry, room);
                volume.run(&steps);
            }
            prop_assert!(volume.agrees(&domain));
            prop_assert_eq!(&volume.index(&domain), &index);
            let now: BTreeSet<_> = index.leases().map(|(_, id)| id).collect();
            model = if done == steps.len() {
                let mut wanted = model;
                if add { wanted.insert(id); } else { wanted.remove(&id); }
                prop_assert_eq!(&now, &wanted);
                wanted
            } else {
                // One step back or forth, nothing else lost.
                let mut other = model.clone();
                if add { other.insert(id); } else { other.remove(&id); }
                prop_assert!(now == model || now == other);
                now
            };
        }
    }

    #[test]
    fn any_index_can_be_rebuilt_and_then_agrees(
        edits in proptest::collection::vec((0usize..8 * 64, any::<u8>()), 0..12), found in proptest::collection::btree_map(0usize..8, 0u8..5, 0..8),
    ) {
        let geometry = Geometry::Sector512Align1M;
        let domain = DomainId::from_bytes([5; 16]);
        let room = 11 * u64::from(geometry.align_size());
        let (mut index, _) = Index::format(&domain, 1, geometry);
        for number in 0..4 {
            index.add(&lease(number), geometry, room).unwrap();
        }
        let mut bytes = index.bytes().to_vec();
        for (place, byte) in edits {
            bytes[512 + place] = byte;
        }
        bytes[70] = b'u';
        let mut index = Index::decode(&bytes, &domain).unwrap();
        prop_assert_eq!(index.lookup(&lease(0), geometry), Err(XleaseError::Updating));
        let found: BTreeMap<usize, LeaseId> = found.into_iter().map(|(record, number)| (record, lease(number))).collect();
        let base = usize::try_from(index_offset(geometry)).unwrap();
        let resources = found.iter().map(|(record, id)| ((u64::try_from(*record).unwrap() + 3) << 20, *id)).collect();
        let mut volume = Volume { bytes: vec![0; base + INDEX_BYTES], resources, geometry };
        let steps = index.rebuild(&found, 2, geometry, room);
        volume.run(&steps);
        prop_assert!(volume.agrees(&domain));
        prop_assert!(index.records().all(|record| !matches!(record, Record::Corrupt(_))));
        let ids: Vec<_> = index.leases().map(|(_, id)| id).collect();
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }

    #[test]
    fn records_encode_to_themselves(bytes in any::<[[u8; 32]; 2]>(), number in any::<u8>(), offset in 0..99_999_999_999u64, updating in any::<bool>()) {
        let mut raw = [0; 64];
        raw.copy_from_slice(bytes.as_flattened());
        prop_assert_eq!(Record::decode(&raw).encode(), raw);
        let record = Record::Lease { id: lease(number), offset, updating };
        prop_assert_eq!(Record::decode(&record.encode()), record);
    }
}
