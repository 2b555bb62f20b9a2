//! What must hold for any bytes of a storage domain, one function a format.

use std::collections::BTreeMap;

use disk_format::vdsm::check::{self, Areas, BlockFacts, FileFacts, LeaseLeader, LvFacts};
use disk_format::vdsm::lvm::label::{Area, newest, read_device};
use disk_format::vdsm::lvm::{Vg, linear_table, report};
use disk_format::vdsm::mailbox::{CHECKSUM_OFFSET, MAILBOX_BYTES, Mailbox, Message, SLOTS, Seal};
use disk_format::vdsm::task::{Files, Task};
use disk_format::vdsm::xlease::{INDEX_BYTES, Index, Record};
use disk_format::vdsm::{
    DomainId, DomainMetadata, SlotFormat, SlotNumber, TaskId, VolumeId, VolumeMetadata, ovf, tag,
};

use super::Body;

/// All of them, by the name of the format.
pub const BODIES: [(&str, Body); 10] = [
    ("vdsm_volume", vdsm_volume),
    ("vdsm_domain", vdsm_domain),
    ("vdsm_tags", vdsm_tags),
    ("vdsm_task", vdsm_task),
    ("vdsm_text", vdsm_text),
    ("vdsm_device", vdsm_device),
    ("vdsm_report", vdsm_report),
    ("vdsm_mailbox", vdsm_mailbox),
    ("vdsm_index", vdsm_index),
    ("vdsm_check", vdsm_check),
];

const DOMAIN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";

fn domain() -> DomainId {
    DOMAIN.parse().expect("an id")
}

/// Metadata of a volume: every value is in the bytes, and comes back.
pub fn vdsm_volume(bytes: &[u8]) {
    let Ok(volume) = VolumeMetadata::decode_meta(bytes) else {
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    for part in [
        volume.domain.to_string(),
        volume.image.to_string(),
        volume.parent.to_string(),
        volume.description.clone(),
        volume.disk_type.to_string(),
        volume.legality.to_string(),
    ] {
        assert!(text.contains(&part), "{part:?} comes from the bytes");
    }
    assert!(volume.generation <= 999);
    for format in [SlotFormat::V4, SlotFormat::Converting, SlotFormat::V5] {
        let Ok(slot) = volume.encode_slot(format) else {
            continue;
        };
        let mut again = VolumeMetadata::decode_slot(&slot).expect("what was encoded");
        assert_eq!(SlotFormat::detect(&slot), Some(format));
        if format != SlotFormat::V5 {
            again.sequence = volume.sequence;
        }
        assert_eq!(again, volume);
    }
    if let Ok(store) = ovf::Description::parse(&volume.description) {
        assert_eq!(ovf::Description::parse(&store.emit()), Ok(store));
    }
}

/// Metadata of a domain as lines: what is accepted comes back from lines and
/// from tags.
pub fn vdsm_domain(bytes: &[u8]) {
    let Ok(metadata) = DomainMetadata::from_lines(bytes) else {
        return;
    };
    let again = DomainMetadata::from_lines(&metadata.to_lines());
    // A value may have held a lone carriage return, which ends a line.
    if metadata.iter().all(|(_, value)| !value.contains('\r')) {
        assert_eq!(again.as_ref(), Ok(&metadata));
    }
    if let Ok(tags) = metadata.to_vg_tags() {
        let again = DomainMetadata::from_vg_tags(tags.iter().map(String::as_str));
        assert_eq!(again, Ok(metadata.clone()));
    }
    for result in [
        metadata.pool_keys().err(),
        metadata.pv_mapping().err(),
        metadata.block_bytes().err(),
    ] {
        drop(result);
    }
}

/// Tags of a VG, one a line.
pub fn vdsm_tags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let encoded = tag::encode(line);
        assert_eq!(tag::decode(&encoded).as_deref(), Ok(line));
        if let Ok(decoded) = tag::decode(line) {
            assert_eq!(tag::decode(&tag::encode(&decoded)), Ok(decoded));
        }
    }
    if let Ok(metadata) = DomainMetadata::from_vg_tags(text.lines()) {
        vdsm_domain(&metadata.to_lines());
    }
}

/// The files of a task, all of the same content.
pub fn vdsm_task(bytes: &[u8]) {
    let id: TaskId = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8"
        .parse()
        .expect("an id");
    let files: Files = ["task", "job.0", "recover.0", "recover.1"]
        .iter()
        .map(|part| (format!("{id}.{part}"), bytes.to_vec()))
        .collect();
    if let Ok(task) = Task::from_files(id, &files)
        && let Ok(files) = task.to_files()
    {
        assert_eq!(Task::from_files(id, &files), Ok(task));
    }
}

/// LVM's text: extents of a volume add up, and tables stay inside their disks.
pub fn vdsm_text(bytes: &[u8]) {
    let Ok(vg) = Vg::parse(bytes) else {
        return;
    };
    for (name, lv) in &vg.lvs {
        let Ok(table) = linear_table(&vg, name) else {
            continue;
        };
        let mut next = 0;
        for line in table {
            assert_eq!(line.start_sector, next, "without holes");
            next += line.sectors;
            let pv = vg.pvs.values().find(|pv| pv.uuid == line.pv_uuid);
            let pv = pv.expect("a known disk");
            let end = pv.pe_count.saturating_mul(vg.extent_sectors);
            let end = end.saturating_add(pv.pe_start_sectors);
            assert!(line.pv_sector + line.sectors <= end, "inside the disk");
        }
        assert_eq!(next, lv.extents() * vg.extent_sectors);
    }
    drop(check::block(&BlockFacts::of_vg(&vg, &[])));
    // What is read of it is small, whatever the text says; its disks are gone.
    let facts = BlockFacts::read(&vg, &[], |_, area| {
        assert!(area.bytes <= 16 << 20, "{area:?}");
        Err("gone".to_owned())
    });
    drop(check::block(&facts));
}

/// The start of a disk: nothing behind its end is read.
pub fn vdsm_device(bytes: &[u8]) {
    let read = |area: Area| {
        let start = usize::try_from(area.offset).map_err(|error| error.to_string())?;
        let length = usize::try_from(area.bytes).map_err(|error| error.to_string())?;
        let piece = start
            .checked_add(length)
            .and_then(|end| bytes.get(start..end));
        piece.map(<[u8]>::to_vec).ok_or("the end".to_owned())
    };
    if let Ok(device) = read_device(read) {
        assert_eq!(device.copies.len(), device.label.metadata.len());
        drop(newest([&device]).cloned());
    }
}

/// Reports of LVM: never more volumes than lines.
pub fn vdsm_report(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    if let Ok(report) = report::parse_lvs(&text) {
        assert!(report.lvs.len() <= lines);
    }
    if let Ok(report) = report::parse_pvs(&text) {
        assert!(report.pvs.len() + report.missing.len() <= lines);
    }
    if let Ok(report) = report::parse_vgs(&text) {
        assert!(report.vgs.len() <= lines);
    }
}

/// A mailbox, byte by byte.
pub fn vdsm_mailbox(bytes: &[u8]) {
    let mut block = bytes.to_vec();
    block.resize(MAILBOX_BYTES, 0);
    let mailbox = Mailbox::from_bytes(&block).expect("a whole mailbox");
    let mut sum = 0_u32;
    for &byte in &block[..CHECKSUM_OFFSET] {
        sum += u32::from(byte);
    }
    let stored = u32::from_le_bytes([block[4092], block[4093], block[4094], block[4095]]);
    let good = mailbox.verify() == Seal::Good;
    assert_eq!(good, stored == sum && sum != 0);
    for slot in 0..SLOTS {
        let part = &block[slot * 64..][..64];
        match mailbox.message(slot) {
            Message::Empty => assert_eq!(part[0], 0),
            Message::Clean => assert!(part.iter().all(|&byte| byte == 1)),
            message @ (Message::Extend(_) | Message::Unknown(_)) => {
                assert_eq!(message.encode(), part);
            }
        }
    }
}

/// The start of an index.
pub fn vdsm_index(bytes: &[u8]) {
    if !bytes.starts_with(&[0x12, 0x15, 0x20, 0x16]) {
        return;
    }
    let mut whole = bytes.to_vec();
    whole.resize(INDEX_BYTES, 0);
    let Ok(index) = Index::decode(&whole, &domain()) else {
        return;
    };
    assert_eq!(index.bytes(), whole);
    for (number, record) in index.records().enumerate() {
        let place = 512 + number * 64;
        assert_eq!(record.encode(), whole[place..place + 64]);
        if let Record::Lease { id, .. } = record {
            assert!(whole[place..].starts_with(id.to_string().as_bytes()));
        }
    }
}

/// A domain in which everything is these bytes: there are findings, no panic.
pub fn vdsm_check(bytes: &[u8]) {
    let read = || Some(Ok(bytes.to_vec()));
    let areas = Areas {
        index: read(),
        xleases_bytes: Some(1 << 30),
        inbox: read(),
        outbox: read(),
        ids: read(),
        sdm: read(),
        leaders: vec![LeaseLeader::of_volume(VolumeId::BLANK, Ok(bytes.to_vec()))],
    };
    let text = String::from_utf8_lossy(bytes);
    let mut tags: Vec<String> = text.lines().map(str::to_owned).collect();
    tags.push("RHAT_storage_domain".to_owned());
    let lv = LvFacts {
        name: "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f".to_owned(),
        tags: tags.clone(),
        size_bytes: 1 << 30,
        start: None,
    };
    let facts = BlockFacts {
        name: DOMAIN.to_owned(),
        tags,
        lvs: vec![lv],
        slots: BTreeMap::from([(SlotNumber(1), Ok(bytes.to_vec()))]),
        areas: areas.clone(),
        ..BlockFacts::default()
    };
    let report = check::block(&facts);
    assert!(!report.findings.is_empty());
    let facts = FileFacts {
        name: DOMAIN.to_owned(),
        metadata: read(),
        areas,
        ..FileFacts::default()
    };
    drop(check::file(&facts));
}
