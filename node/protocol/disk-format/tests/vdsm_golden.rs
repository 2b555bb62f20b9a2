//! What the original made decodes to the values it was made of, and the same
//! values encode to the original's bytes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use disk_format::vdsm::domain::{Backing, Marker, NewDomain, TAG_READY, diff_tags};
use disk_format::vdsm::lvm::{linear_table, report};
use disk_format::vdsm::task::{Files, Task, TaskState};
use disk_format::vdsm::xlease::{self, Index, Record, Step, XleaseError};
use disk_format::vdsm::{
    Allocation, DiskType, DomainClass, DomainId, DomainMetadata, DomainRole, DomainType,
    DomainVersion, ImageId, LeaseId, Legality, LvState, PoolDomainStatus, PvMapping, SlotFormat,
    SlotNumber, SpecialLv, VolumeFormat, VolumeId, VolumeMetadata, VolumeType, lvm, ovf,
};
use disk_format::{Geometry, vdsm};

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/vdsm-{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn golden_text(name: &str) -> String {
    String::from_utf8(golden(name)).unwrap()
}

fn domain() -> DomainId {
    "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap()
}

fn volume() -> VolumeId {
    "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f".parse().unwrap()
}

fn image() -> ImageId {
    "6b055e16-337d-4cbe-9af9-d75f00f910c1".parse().unwrap()
}

fn new_block(version: DomainVersion) -> NewDomain {
    let pv = |device: &str, uuid: &str| PvMapping {
        device: device.to_owned(),
        uuid: uuid.to_owned(),
        start: 0,
        extents: 797,
        offset: 0,
    };
    NewDomain {
        id: domain(),
        version,
        kind: DomainType::Iscsi,
        class: DomainClass::Data,
        description: "data one é".to_owned(),
        backing: Backing::Block {
            vg_uuid: "sGk8qQ-aaaa-bbbb-cccc-dddd-eeee-ffffff".to_owned(),
            pvs: vec![
                pv(
                    "360014054953d2ac56c1430db1b9deb57",
                    "hcs8X1-mCjx-KIFX-3TVU-5UvT-2TqO-Kxkk1D",
                ),
                pv(
                    "3600140541ae85bdefbb49c59b9b7de59",
                    "Xc1Bzq-HLVx-1Vtz-UBWQ-9Pbm-Ss7b-qGzPLo",
                ),
            ],
        },
        block_bytes: 512,
        alignment_bytes: 1 << 20,
    }
}

#[test]
fn metadata_made_for_a_new_block_domain_is_the_originals() {
    for (version, name) in [
        (DomainVersion::V4, "metadata/domain-block-v4"),
        (DomainVersion::V5, "metadata/domain-block-v5"),
    ] {
        let made = DomainMetadata::new(&new_block(version)).unwrap();
        check_domain(&made, name);
    }
}

#[test]
fn a_master_with_its_pool_is_the_originals() {
    let mut made = DomainMetadata::new(&new_block(DomainVersion::V5)).unwrap();
    let pool = "5d928855-b09b-47a7-b920-bd2d2eb5808c".parse().unwrap();
    made.set_pool(Some(pool));
    made.set_role(DomainRole::Master);
    made.set_master_version(1);
    let other = "aaaaaaaa-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap();
    let keys = vdsm::PoolKeys {
        description: Some("Default".to_owned()),
        domains: Some(BTreeMap::from([
            (domain(), PoolDomainStatus::Active),
            (other, PoolDomainStatus::Attached),
        ])),
        spm_id: Some(-1),
        spm_lver: Some(-1),
    };
    made.set_pool_keys(&keys).unwrap();
    check_domain(&made, "metadata/domain-block-v5-master");
    assert_eq!(made.pool_keys(), Ok(keys));
    assert_eq!(made.pools(), [pool]);
    assert_eq!(made.master_version(), Ok(Some(1)));
}

fn check_domain(made: &DomainMetadata, name: &str) {
    let lines = golden_text(&format!("{name}.lines"));
    assert_eq!(String::from_utf8(made.to_lines()).unwrap(), lines);
    assert_eq!(
        DomainMetadata::from_lines(lines.as_bytes()).as_ref(),
        Ok(made)
    );
    let text = golden_text(&format!("{name}.vgtags"));
    let tags: Vec<&str> = text.lines().collect();
    assert_eq!(tags.first(), Some(&TAG_READY));
    assert_eq!(Marker::of(tags.iter().copied()), Marker::Ready);
    assert_eq!(
        DomainMetadata::from_vg_tags(tags.iter().copied()).as_ref(),
        Ok(made)
    );
    let wanted = tags.iter().skip(1).map(|tag| (*tag).to_owned()).collect();
    assert_eq!(made.to_vg_tags(), Ok(wanted));
    let mapping = made.pv_mapping().unwrap();
    assert_eq!(
        mapping.iter().map(|pv| pv.offset).collect::<Vec<_>>(),
        [0, 797]
    );
}

#[test]
fn metadata_of_file_domains_are_the_originals() {
    for (version, name) in [
        (DomainVersion::V4, "metadata/domain-nfs-v4.metadata"),
        (DomainVersion::V5, "metadata/domain-nfs-v5.metadata"),
    ] {
        let made = DomainMetadata::new(&NewDomain {
            kind: DomainType::Nfs,
            backing: Backing::File {
                remote_path: "server.example:/export/data one".to_owned(),
            },
            ..new_block(version)
        })
        .unwrap();
        let lines = golden(name);
        assert_eq!(made.to_lines(), lines);
        let mut padded = lines;
        padded.resize(4096, 0);
        assert_eq!(DomainMetadata::from_lines(&padded), Ok(made));
    }
}

#[test]
fn an_upgrade_changes_only_the_tags_that_differ() {
    let old = DomainMetadata::new(&new_block(DomainVersion::V4)).unwrap();
    let mut new = old.clone();
    new.upgrade(DomainVersion::V5, 512).unwrap();
    assert_eq!(
        new,
        DomainMetadata::new(&new_block(DomainVersion::V5)).unwrap()
    );
    let mut stored = old.to_vg_tags().unwrap();
    stored.insert(TAG_READY.to_owned());
    let (gone, added) = diff_tags(&stored, &new.to_vg_tags().unwrap());
    let keys = |tags: &std::collections::BTreeSet<String>| {
        let names: Vec<String> = tags
            .iter()
            .filter_map(|tag| tag.split_once('='))
            .map(|(key, _)| key.to_owned())
            .collect();
        names.join(" ")
    };
    assert_eq!(
        keys(&gone),
        "MDT_LOGBLKSIZE MDT_PHYBLKSIZE MDT_VERSION MDT__SHA_CKSUM"
    );
    assert_eq!(
        keys(&added),
        "MDT_ALIGNMENT MDT_BLOCK_SIZE MDT_VERSION MDT__SHA_CKSUM"
    );
    assert!(new.upgrade(DomainVersion::V4, 512).is_err());
}

fn sample_volume() -> VolumeMetadata {
    VolumeMetadata {
        domain: domain(),
        image: image(),
        parent: VolumeId::BLANK,
        capacity_bytes: 10 << 30,
        ctime_s: 1_550_522_547,
        description: r#"{"DiskAlias":"vm1_Disk1","DiskDescription":""}"#.to_owned(),
        disk_type: DiskType::Data,
        format: VolumeFormat::Cow,
        generation: 3,
        legality: Legality::Legal,
        sequence: 1,
        volume_type: VolumeType::Leaf,
        allocation: Allocation::Sparse,
    }
}

#[test]
fn volume_slots_are_the_originals_in_every_version() {
    let v5 = sample_volume();
    let v4 = VolumeMetadata {
        sequence: 0,
        ..v5.clone()
    };
    for (name, format, metadata) in [
        ("metadata/volume-v4.slot", SlotFormat::V4, &v4),
        (
            "metadata/volume-v4-converting.slot",
            SlotFormat::Converting,
            &v4,
        ),
        ("metadata/volume-v5.slot", SlotFormat::V5, &v5),
    ] {
        let slot = golden(name);
        assert_eq!(
            VolumeMetadata::decode_slot(&slot).as_ref(),
            Ok(metadata),
            "{name}"
        );
        assert_eq!(
            metadata.encode_slot(format).unwrap().as_slice(),
            slot,
            "{name}"
        );
        assert_eq!(SlotFormat::detect(&slot), Some(format), "{name}");
    }
    let file = golden("metadata/volume-v5-file.meta");
    assert_eq!(VolumeMetadata::decode_meta(&file).as_ref(), Ok(&v5));
    assert_eq!(v5.encode_meta(SlotFormat::V5), Ok(file));
}

#[test]
fn the_store_of_configurations_is_understood() {
    let slot = golden("metadata/volume-v5-ovfstore.slot");
    let metadata = VolumeMetadata::decode_slot(&slot).unwrap();
    assert_eq!(metadata.disk_type, DiskType::OvfStore);
    assert_eq!(metadata.capacity_bytes, ovf::VOLUME_BYTES);
    assert_eq!(
        metadata.encode_slot(SlotFormat::V5).unwrap().as_slice(),
        slot
    );
    let store = ovf::Description::parse(&metadata.description).unwrap();
    assert!(store.updated);
    assert_eq!(store.size_bytes, 51200);
    assert_eq!(store.domains, [domain()]);
    assert_eq!(store.emit(), metadata.description);
}

#[test]
fn the_persisted_task_comes_back_file_by_file() {
    let id = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8";
    let mut files = Files::new();
    for part in ["task", "job.0", "recover.0", "recover.1"] {
        let name = format!("{id}.{part}");
        files.insert(name.clone(), golden(&format!("tasks/{id}/{name}")));
    }
    let task = Task::from_files(id.parse().unwrap(), &files).unwrap();
    assert_eq!(task.name, "createVolume");
    assert_eq!(task.state, TaskState::Preparing);
    assert_eq!(task.recoveries.len(), 2);
    assert_eq!(task.recoveries[0].function, "startCreateVolumeRollback");
    assert_eq!(
        task.recoveries[0].params,
        [
            domain().to_string(),
            image().to_string(),
            volume().to_string()
        ]
    );
    assert_eq!(task.to_files(), Ok(files));
}

fn lease(number: u8) -> LeaseId {
    format!("10000000-0000-4000-8000-00000000000{number}")
        .parse()
        .unwrap()
}

/// Does what a plan says to a copy of the volume; gives the resources written.
fn apply(volume: &mut [u8], steps: &[Step]) -> Vec<(u64, Option<LeaseId>)> {
    let mut resources = Vec::new();
    for step in steps {
        match step {
            Step::WriteIndex { offset, bytes } => {
                let offset = usize::try_from(*offset).unwrap();
                volume[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Step::WriteResource { offset, lease } => resources.push((*offset, Some(*lease))),
            Step::ClearResource { offset, .. } => resources.push((*offset, None)),
        }
    }
    resources
}

#[test]
fn the_index_goes_through_the_originals_states() {
    for (geometry, name) in [
        (Geometry::Sector512Align1M, "512-1m"),
        (Geometry::Sector4096Align2M, "4k-2m"),
    ] {
        let align = u64::from(geometry.align_size());
        let base = usize::try_from(xlease::index_offset(geometry)).unwrap();
        let mut volume = vec![0; base + xlease::INDEX_BYTES];
        let state = |volume: &[u8], golden_name: &str| {
            let wanted = golden(&format!("xlease/index-{name}-{golden_name}.bin"));
            assert!(volume[base..] == wanted, "{name} {golden_name}");
            Index::decode(&wanted, &domain()).unwrap()
        };
        let (mut index, steps) = Index::format(&domain(), 1_700_000_000, geometry);
        assert_eq!(apply(&mut volume, &steps), []);
        assert_eq!(state(&volume, "formatted"), index);
        let room = 1024 * align;
        for number in 0..3 {
            let (location, steps) = index.add(&lease(number), geometry, room).unwrap();
            assert_eq!(location.offset, (3 + u64::from(number)) * align);
            let resources = apply(&mut volume, &steps);
            assert_eq!(resources, [(location.offset, Some(lease(number)))]);
            assert_eq!(steps.len(), 2);
        }
        assert_eq!(state(&volume, "3leases"), index);
        let again = index.add(&lease(1), geometry, room);
        assert_eq!(again, Err(XleaseError::Exists(lease(1))));
        let steps = index.remove(&lease(1), geometry).unwrap();
        assert_eq!(apply(&mut volume, &steps), [(4 * align, None)]);
        assert_eq!(state(&volume, "removed-2nd"), index);
        let gone = index.lookup(&lease(1), geometry);
        assert_eq!(gone, Err(XleaseError::NotFound(lease(1))));
        let (location, steps) = index.add(&lease(3), geometry, room).unwrap();
        assert_eq!((location.record, location.offset), (1, 4 * align));
        apply(&mut volume, &steps);
        assert_eq!(state(&volume, "readd"), index);
        let ids: Vec<_> = index.leases().map(|(_, id)| id).collect();
        assert_eq!(ids, [lease(0), lease(3), lease(2)]);
        assert_eq!(index.record(3959), Some(Record::Free));
        assert_eq!(index.record(3960), None);
    }
}

#[test]
fn reports_of_the_real_lvm_are_read() {
    let pvs = report::parse_pvs(&golden_text("lvm/pvs-v5-domain.out")).unwrap();
    assert!(pvs.missing.is_empty());
    let [first, second] = pvs.pvs.as_slice() else {
        panic!("{pvs:?}");
    };
    assert!(first.is_metadata_pv() && !second.is_metadata_pv());
    assert_eq!((first.pe_start, first.pe_count), (135_266_304, 797));
    assert_eq!(first.vg_name, domain().to_string());

    let vgs = report::parse_vgs(&golden_text("lvm/vgs-v5-domain.out")).unwrap();
    let [vg] = vgs.vgs.as_slice() else {
        panic!("{vgs:?}");
    };
    assert_eq!(vg.pv_names, ["/dev/loop0", "/dev/loop1"]);
    assert!(vg.is_writable() && !vg.is_partial());
    assert_eq!((vg.extent_count, vg.free_count), (1594, 1518));
    let tags = || vg.tags.iter().map(String::as_str);
    assert_eq!(Marker::of(tags()), Marker::Ready);
    let metadata = DomainMetadata::from_vg_tags(tags()).unwrap();
    assert_eq!(metadata.id(), domain());
    assert_eq!(metadata.description(), "data one é");

    let lvs = report::parse_lvs(&golden_text("lvm/lvs-v5-domain.out")).unwrap();
    assert_eq!(lvs.lvs.len(), 8);
    let states: Vec<LvState> = lvs
        .lvs
        .iter()
        .map(|lv| LvState::of(&lv.name, lv.tags.iter().map(String::as_str)))
        .collect();
    for special in SpecialLv::ALL {
        let place = states
            .iter()
            .position(|state| *state == LvState::Special(special))
            .unwrap_or_else(|| panic!("{special:?}"));
        let wanted = special.requested_bytes(1 << 20).next_multiple_of(128 << 20);
        assert_eq!(lvs.lvs[place].size, wanted, "{special:?}");
    }
    let LvState::Volume { id, tags } = &states[0] else {
        panic!("{states:?}");
    };
    assert_eq!(
        (*id, tags.image, tags.slot),
        (volume(), image(), SlotNumber(1))
    );
    assert_eq!(lvs.lvs[0].first, Some(("/dev/loop0".to_owned(), 36)));
}

#[test]
fn text_metadata_of_the_real_lvm_is_read() {
    let vg = lvm::Vg::parse(&golden("lvm/vg-metadata-text.txt")).unwrap();
    assert_eq!(
        (vg.name.as_str(), vg.seqno),
        (domain().to_string().as_str(), 13)
    );
    assert_eq!(vg.flags, ["NOAUTOACTIVATE"]);
    assert_eq!(vg.extent_bytes(), 128 << 20);
    assert_eq!((vg.pvs.len(), vg.lvs.len()), (2, 8));
    assert_eq!((vg.extents(), vg.free_extents()), (1594, 1518));
    assert_eq!(vg.pvs["pv0"].pe_start_sectors * 512, 135_266_304);
    let metadata = DomainMetadata::from_vg_tags(vg.tags.iter().map(String::as_str)).unwrap();
    assert_eq!(metadata.version(), DomainVersion::V5);
    let table = linear_table(&vg, &volume().to_string()).unwrap();
    let [line] = table.as_slice() else {
        panic!("{table:?}");
    };
    assert_eq!((line.start_sector, line.sectors), (0, 40 * 262_144));
    assert_eq!(line.pv_sector, 264_192 + 36 * 262_144);
    assert_eq!(line.pv_uuid, vg.pvs["pv0"].uuid);
}
