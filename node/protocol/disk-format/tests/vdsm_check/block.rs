//! Groups, slots, volumes, chains.

use disk_format::vdsm::check::{self, BlockFacts};
use disk_format::vdsm::lv::{INITIALIZING, removed_tag};
use disk_format::vdsm::{
    DiskType, DomainId, DomainRole, Legality, SlotFormat, SlotNumber, VolumeFormat, VolumeId,
    VolumeMetadata, VolumeType, ovf,
};

use crate::sample::*;
use disk_format::vdsm::check::Grade::{Error, Note, Warning};

#[test]
fn a_healthy_block_domain_has_no_findings() {
    let report = Block::healthy().check();
    assert_eq!(report.findings, []);
    assert_eq!(report.volumes.len(), 2);
    assert_eq!(report.worst(), None);
}

#[test]
fn a_foreign_group_is_not_looked_into() {
    let mut block = Block::healthy();
    block.facts.tags.clear();
    only(
        &block.check(),
        Error,
        "not a storage domain: it lacks the tag",
    );
}

#[test]
fn a_half_made_domain_is_told() {
    let mut block = Block::healthy();
    let tag = "RHAT_storage_domain_UNREADY".to_owned();
    block.facts.tags = vec![tag.clone()];
    only(&block.check(), Error, "half-made: it still has the tag");
    // As it is before its metadata are written.
    let mut facts = block.facts();
    facts.tags = vec![tag];
    has(&check::block(&facts), "domain metadata is empty");
}

#[test]
fn broken_metadata_are_told() {
    let block = Block::healthy();
    let mut facts = block.facts();
    for tag in &mut facts.tags {
        *tag = tag.replace("DESCRIPTION=sample", "DESCRIPTION=other");
    }
    has(&check::block(&facts), "error: domain metadata: checksum");
    let mut facts = block.facts();
    facts.name = DomainId::from_bytes([9; 16]).to_string();
    has(&check::block(&facts), "they are of domain 8adbc85e");
    let mut block = Block::healthy();
    block.metadata.set_role(DomainRole::Master);
    only(
        &block.check(),
        Warning,
        "a master that is attached to no pool",
    );
}

#[test]
fn what_is_wrong_with_the_group_is_told() {
    let change = |change: fn(&mut BlockFacts)| {
        let mut block = Block::healthy();
        change(&mut block.facts);
        block.check()
    };
    only(
        &change(|facts| facts.flags = Some(vec![])),
        Note,
        "lacks the flag NOAUTOACTIVATE",
    );
    only(
        &change(|facts| facts.extent_bytes = 4 << 20),
        Warning,
        "extents of 4194304 bytes",
    );
    only(
        &change(|facts| facts.pvs[1].device = None),
        Error,
        "physical volume rh1Qh0",
    );
    only(
        &change(|facts| facts.metadata_room = Some((128 << 20, 12 << 20))),
        Warning,
        "12582912 of 67108864 bytes for LVM's metadata are free",
    );
    only(
        &change(|facts| facts.pvs[1].areas_used = Some(2)),
        Warning,
        "2 physical volumes have both metadata areas",
    );
    only(
        &change(|facts| facts.pvs[1].extents = 900),
        Warning,
        "PV1 has 900 extents, listed are 797",
    );
    only(
        &change(|facts| facts.lvs.retain(|lv| lv.name != "leases")),
        Error,
        "leases: this volume of the domain is missing",
    );
    only(
        &change(|facts| {
            for lv in &mut facts.lvs {
                if lv.name == "leases" {
                    lv.size_bytes = 1 << 30;
                }
            }
        }),
        Error,
        "leases: it has 1073741824 bytes: at least 2147483648 are needed",
    );
}

#[test]
fn slots_used_twice_or_out_of_range_are_told() {
    let mut block = Block::healthy();
    block.lv(
        &volume(3).to_string(),
        &[
            "MD_2",
            &removed_tag(&image(3), false),
            "PU_00000000-0000-0000-0000-000000000000",
        ],
    );
    has(&block.check(), "error: slot 2: volumes");
    has(&block.check(), "marked for removal and still there");
    for (slot, words) in [
        ("MD_0", "a reserved slot"),
        ("MD_1948", "the highest is 1947"),
    ] {
        let mut block = Block::healthy();
        block.lv(&volume(3).to_string(), &[INITIALIZING, slot]);
        has(&block.check(), words);
    }
}

#[test]
fn leftovers_are_told_with_what_they_may_hold() {
    let mut block = Block::healthy();
    block.lv(&volume(3).to_string(), &[INITIALIZING]);
    only(&block.check(), Warning, "half-made");
    let mut block = Block::healthy();
    block.lv(
        &volume(3).to_string(),
        &[
            "MD_3",
            &removed_tag(&image(3), true),
            "PU_00000000-0000-0000-0000-000000000000",
        ],
    );
    only(
        &block.check(),
        Warning,
        "marked for wiping and still there: it may hold its data",
    );
    let mut block = Block::healthy();
    block.lv(&volume(3).to_string(), &["MD_3"]);
    only(&block.check(), Error, "key IU_ is missing");
    let mut block = Block::healthy();
    block.lv("swap", &[]);
    only(&block.check(), Warning, "not of a storage domain");
}

#[test]
fn slots_of_others_are_told() {
    let change = |change: fn(&mut Block)| {
        let mut block = Block::healthy();
        change(&mut block);
        block.check()
    };
    only(
        &change(|block| {
            block.volumes.get_mut(&2).unwrap().domain = DomainId::from_bytes([7; 16]);
        }),
        Error,
        "its metadata are of domain 07070707",
    );
    only(
        &change(|block| block.volumes.get_mut(&2).unwrap().image = image(7)),
        Error,
        "its metadata are of image 07070707",
    );
    only(
        &change(|block| {
            block.facts.slots.insert(SlotNumber(2), Ok(vec![0; 512]));
        }),
        Error,
        "volume metadata is empty",
    );
    only(
        &change(|block| {
            let mut cleared = b"NONE=".to_vec();
            cleared.resize(512, b'#');
            block.facts.slots.insert(SlotNumber(2), Ok(cleared));
        }),
        Error,
        "volume metadata was cleared",
    );
    only(
        &change(|block| {
            block
                .facts
                .slots
                .insert(SlotNumber(2), Err("input/output error".to_owned()));
        }),
        Error,
        "input/output error",
    );
    only(
        &change(|block| {
            let bytes = block.volumes[&2]
                .encode_slot(SlotFormat::Converting)
                .unwrap();
            block.facts.slots.insert(SlotNumber(2), Ok(bytes.to_vec()));
        }),
        Warning,
        "a conversion to version 5 that was not finished",
    );
    only(
        &change(|block| {
            let bytes = block.volumes[&2].encode_slot(SlotFormat::V4).unwrap();
            block.facts.slots.insert(SlotNumber(2), Ok(bytes.to_vec()));
        }),
        Error,
        "its metadata are in format V4",
    );
    only(
        &change(|block| block.volumes.get_mut(&2).unwrap().legality = Legality::Illegal),
        Warning,
        "it is illegal",
    );
}

#[test]
fn a_stale_parent_tag_is_a_warning_and_the_slot_is_believed() {
    let mut block = Block::healthy();
    // A host merged 3 into 1: the slot of 2 says so, the tag does not.
    let mut facts = block.facts();
    let stale = facts.lvs.last_mut().unwrap();
    stale.tags[2] = format!("PU_{}", volume(3));
    only(
        &check::block(&facts),
        Warning,
        "its tag says parent 03030303",
    );
    block.volumes.get_mut(&2).unwrap().parent = volume(3);
    only(
        &block.check(),
        Error,
        "its parent 03030303-0303-0303-0303-030303030303 is not in the domain",
    );
}

#[test]
fn broken_chains_are_told() {
    let mut block = Block::healthy();
    block.volumes.get_mut(&1).unwrap().volume_type = VolumeType::Leaf;
    let report = block.check();
    has(&report, "it is marked as the leaf, and");
    has(&report, "it has 2 leaves");
    let mut block = Block::healthy();
    block.volumes.get_mut(&1).unwrap().parent = volume(2);
    has(&block.check(), "its chain goes round in a circle");
    // Only those in the circle are, not the ones on top of it.
    block.volumes.insert(3, volume_metadata(3, volume(2)));
    block.volumes.insert(4, volume_metadata(4, volume(4)));
    let round: Vec<String> = block
        .check()
        .findings
        .into_iter()
        .filter(|finding| finding.message.contains("in a circle"))
        .map(|finding| finding.subject)
        .collect();
    let expected = [1, 2, 4].map(|number| format!("volume {}", volume(number)));
    assert_eq!(round, expected);
    let mut block = Block::healthy();
    block.volumes.insert(3, volume_metadata(3, volume(1)));
    has(&block.check(), "of its image are both on top of it");
    let mut block = Block::healthy();
    let raw = block.volumes.get_mut(&1).unwrap();
    raw.format = VolumeFormat::Raw;
    raw.capacity_bytes = 2 << 30;
    only(
        &block.check(),
        Error,
        "it has 1073741824 bytes, its metadata say 2147483648",
    );
}

#[test]
fn the_newest_store_of_configurations_is_named_and_broken_ones_are_told() {
    let store = |number, updated, when: &str| VolumeMetadata {
        disk_type: DiskType::OvfStore,
        description: ovf::Description {
            updated,
            size_bytes: 1,
            last_updated: when.to_owned(),
            domains: vec![],
        }
        .emit(),
        volume_type: VolumeType::Shared,
        ..volume_metadata(number, VolumeId::BLANK)
    };
    let mut block = Block::healthy();
    block
        .volumes
        .insert(3, store(3, true, "Tue Sep 21 14:01:02 UTC 2021"));
    block
        .volumes
        .insert(4, store(4, true, "Tue Sep 21 15:01:02 UTC 2021"));
    let report = block.check();
    assert_eq!(
        (report.findings.len(), report.ovf_store),
        (0, Some(volume(4)))
    );
    block.volumes.insert(3, store(3, false, ""));
    block.volumes.insert(4, store(4, false, ""));
    only(
        &block.check(),
        Warning,
        "no store of configurations is whole",
    );
}
