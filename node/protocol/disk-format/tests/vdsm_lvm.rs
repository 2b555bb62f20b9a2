//! LVM's metadata on a device, as the real LVM wrote them: two devices of 1 GiB
//! with areas of 1 MiB at both ends, in use on the first only, after so many
//! commits that the text of the last one wraps around. `golden/lvm-ring` has
//! the pieces that are not zero, named by their offset.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use disk_format::vdsm::FormatError;
use disk_format::vdsm::lvm::label::{Area, lvm_checksum, newest, read_device};
use disk_format::vdsm::lvm::{Device, Vg, linear_table};
use proptest::prelude::*;

#[derive(Clone)]
struct Disk(BTreeMap<u64, Vec<u8>>);

impl Disk {
    fn open(name: &str) -> Self {
        let folder = format!(
            "{}/tests/golden/lvm-ring/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let pieces = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let offset = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                (offset, std::fs::read(&path).unwrap())
            })
            .collect();
        Self(pieces)
    }

    /// Zeros where there is no piece.
    fn read(&self, area: Area) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(area.bytes).unwrap()];
        for (offset, piece) in &self.0 {
            for (place, byte) in (*offset..).zip(piece) {
                if (area.offset..area.offset + area.bytes).contains(&place) {
                    bytes[usize::try_from(place - area.offset).unwrap()] = *byte;
                }
            }
        }
        bytes
    }

    fn device(&self) -> Result<Device, FormatError> {
        read_device(|area| Ok(self.read(area)))
    }

    fn flip(&mut self, offset: u64) {
        let (start, piece) = self.0.range_mut(..=offset).next_back().unwrap();
        piece[usize::try_from(offset - start).unwrap()] ^= 0x10;
    }
}

const FIRST_HEADER: u64 = 4096;
const FIRST_TEXT: u64 = 4096 + 1_042_944;
const SECOND_HEADER: u64 = 1_072_693_248;
const SECOND_TEXT: u64 = 1_072_693_248 + 1_042_944;

#[test]
fn a_text_that_wraps_around_is_read_from_both_areas() {
    let (first, second) = (Disk::open("first"), Disk::open("second"));
    let devices = [first.device().unwrap(), second.device().unwrap()];
    for copy in &devices[0].copies {
        let vg = copy.vg.as_ref().unwrap().as_ref().unwrap();
        assert!(!copy.ignored);
        assert_eq!(vg.lvs.len(), 3);
    }
    for copy in &devices[1].copies {
        assert!(copy.ignored);
        assert_eq!(copy.vg, Ok(None));
    }
    let vg = newest(&devices).unwrap();
    assert_eq!(vg.name, "8adbc85e-e554-4ae0-b318-8a5465fe5fe1");
    let known: Vec<&str> = vg.pvs.values().map(|pv| pv.uuid.as_str()).collect();
    for device in &devices {
        assert!(known.contains(&device.label.uuid.as_str()));
        assert_eq!(device.label.device_bytes, 1 << 30);
    }
    // 10 extents on the first device and 5 on the second.
    let table = linear_table(vg, "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f").unwrap();
    let [near, far] = table.as_slice() else {
        panic!("{table:?}");
    };
    let extent = vg.extent_sectors;
    assert_eq!((near.start_sector, near.sectors), (0, 10 * extent));
    assert_eq!((far.start_sector, far.sectors), (10 * extent, 5 * extent));
    assert_eq!(near.pv_uuid, devices[0].label.uuid);
    assert_eq!(far.pv_uuid, devices[1].label.uuid);
    assert_eq!((near.pv_sector, far.pv_sector), (2048 + extent, 2048));
    assert!(linear_table(vg, "nothing").is_err());
}

#[test]
fn a_damaged_area_is_told_and_the_other_one_is_believed() {
    let good = Disk::open("first");
    let seqno = newest(&[good.device().unwrap()]).unwrap().seqno;
    for (damage, copy) in [
        (FIRST_HEADER + 30, 0),
        (FIRST_TEXT + 40, 0),
        (FIRST_HEADER + 512 + 10, 0),
        (SECOND_HEADER, 1),
        (SECOND_TEXT, 1),
    ] {
        let mut disk = good.clone();
        disk.flip(damage);
        let device = disk.device().unwrap();
        let error = device.copies[copy].vg.as_ref().unwrap_err();
        assert!(matches!(error, FormatError::Checksum { .. }), "{error}");
        assert_eq!(newest([&device]).unwrap().seqno, seqno);
        disk.flip(FIRST_TEXT + 1);
        disk.flip(SECOND_TEXT + 1);
        assert_eq!(newest([&disk.device().unwrap()]), None);
    }
    let mut unlabelled = good;
    unlabelled.flip(512 + 40);
    assert!(unlabelled.device().is_err());
}

#[test]
fn the_highest_commit_wins_when_a_writer_stopped_between_the_areas() {
    let disk = Disk::open("first");
    let mut old = disk.clone();
    // The same text with another number, sealed, in the first area's place.
    let area = Area {
        offset: SECOND_TEXT,
        bytes: 2206,
    };
    let text = String::from_utf8(disk.read(area)).unwrap();
    let at = text.find("seqno = ").unwrap() + 8;
    let mut changed = text.into_bytes();
    changed[at] = b'1';
    let checksum = lvm_checksum(&[&changed]);
    old.0.insert(SECOND_TEXT, changed);
    let header = old.0.get_mut(&SECOND_HEADER).unwrap();
    header[56..60].copy_from_slice(&checksum.to_le_bytes());
    let sum = lvm_checksum(&[&header[4..512]]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    let device = old.device().unwrap();
    let numbers: Vec<u64> = device
        .copies
        .iter()
        .map(|copy| copy.vg.as_ref().unwrap().as_ref().unwrap().seqno)
        .collect();
    assert!(numbers[1] < numbers[0], "{numbers:?}");
    assert_eq!(newest([&device]).unwrap().seqno, numbers[0]);
}

fn text() -> Vec<u8> {
    let path = format!(
        "{}/tests/golden/vdsm-lvm/vg-metadata-text.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(path).unwrap()
}

#[test]
fn a_broken_text_is_refused_with_the_line() {
    let whole = String::from_utf8(text()).unwrap();
    let broken = whole.replace("extent_count = 40", "extent_count = ");
    let error = Vg::parse(broken.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("line "), "{error}");
    let hole = whole.replace("start_extent = 0", "start_extent = 1");
    let error = Vg::parse(hole.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("starts at extent 1, expected 0"), "{error}");
    let deep = "a {".repeat(100_000);
    assert!(Vg::parse(deep.as_bytes()).is_err());
    let escaped = whole.replace("\"vm\"", r#""v\"m\\""#);
    assert!(Vg::parse(escaped.as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn no_damage_makes_the_text_parser_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = text();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Ok(vg) = Vg::parse(&bytes) {
            for lv in vg.lvs.keys() {
                drop(std::hint::black_box(linear_table(&vg, lv)));
            }
        }
    }

    #[test]
    fn no_damage_makes_the_device_reader_panic(
        edits in proptest::collection::vec((0u64..4608, any::<u8>()), 1..8), reseal in any::<bool>(),
    ) {
        let mut disk = Disk::open("first");
        for (offset, byte) in edits {
            let (start, piece) = disk.0.range_mut(..=offset).next_back().unwrap();
            if let Some(place) = piece.get_mut(usize::try_from(offset - start).unwrap()) {
                *place = byte;
            }
        }
        if reseal {
            // Wrong values behind right checksums.
            let label = disk.0.get_mut(&0).unwrap();
            let sum = lvm_checksum(&[&label[532..1024]]);
            label[528..532].copy_from_slice(&sum.to_le_bytes());
            let header = disk.0.get_mut(&FIRST_HEADER).unwrap();
            let sum = lvm_checksum(&[&header[4..512]]);
            header[..4].copy_from_slice(&sum.to_le_bytes());
        }
        let read = read_device(|area| {
            if area.bytes > 2 << 20 {
                return Err("too much".to_owned());
            }
            Ok(disk.read(Area { offset: area.offset.min(1 << 40), ..area }))
        });
        if let Ok(device) = read {
            std::hint::black_box(newest([&device]));
        }
    }
}
