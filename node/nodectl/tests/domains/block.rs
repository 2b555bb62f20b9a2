//! Block domains: physical volumes built from the sample text, and by LVM.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk_format::vdsm::domain::{Backing, NewDomain, TAG_READY};
use disk_format::vdsm::lvm::Vg;
use disk_format::vdsm::lvm::label::lvm_checksum;
use disk_format::vdsm::{
    DomainClass, DomainMetadata, DomainType, DomainVersion, PvMapping, SlotFormat, SlotNumber,
    VolumeId, VolumeTags, xlease,
};

use crate::common::Node;
use crate::sample::{DOMAIN, IMAGE, VOLUME, golden, lease, leases, text, volume};
use crate::{findings, has, inspect, shown};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const EXTENT: u64 = 128 * MIB;
const PE_START: u64 = 129 * MIB;
/// Metadata areas of a disk of 100 GiB, as LVM places them.
const AREAS: [u64; 2] = [4096, 100 * GIB - EXTENT];
const AREA_BYTES: [u64; 2] = [129 * MIB - 4096, EXTENT];
/// Where a text is in its area.
const TEXT_AT: u64 = 1024;

fn disk(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opened")
}

fn metadata(vg: &str, pvs: &[(String, u64)]) -> DomainMetadata {
    let pvs = pvs
        .iter()
        .map(|(uuid, extents)| PvMapping {
            device: "36001405".to_owned(),
            uuid: uuid.clone(),
            start: 0,
            extents: *extents,
            offset: 0,
        })
        .collect();
    DomainMetadata::new(&NewDomain {
        id: DOMAIN.parse().expect("an id"),
        version: DomainVersion::V5,
        kind: DomainType::Fcp,
        class: DomainClass::Data,
        description: "data one".to_owned(),
        backing: Backing::Block {
            vg_uuid: vg.to_owned(),
            pvs,
        },
        block_bytes: 512,
        alignment_bytes: 1 << 20,
    })
    .expect("metadata")
}

/// The areas of a domain that begins at `start` of a disk, special volumes at
/// their usual extents.
fn fill(disk: &File, start: u64) {
    let at = |extent: u64, offset: u64, bytes: &[u8]| {
        disk.write_all_at(bytes, start + extent * EXTENT + offset)
            .expect("written");
    };
    let (ids, sdm) = leases();
    at(1, 0, &ids);
    at(4, MIB, &sdm);
    at(4, SlotNumber(1).lease_offset(MIB), &lease(VOLUME));
    let index = xlease::Index::empty(&DOMAIN.parse().expect("an id"), 1);
    at(20, MIB, index.bytes());
    let slot = volume(VolumeId::BLANK)
        .encode_slot(SlotFormat::V5)
        .expect("a slot");
    at(0, SlotNumber(1).offset(DomainVersion::V5), &slot);
}

/// Writes what LVM writes: a label, and two areas, in use or not.
fn physical_volume(path: &Path, uuid: &str, vg_text: Option<&str>) {
    let disk = File::create(path).expect("made");
    disk.set_len(100 * GIB).expect("sized");
    let mut label = [0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    let mut place = 32;
    let mut put = |bytes: &[u8]| {
        label[place..place + bytes.len()].copy_from_slice(bytes);
        place += bytes.len();
    };
    put(uuid.replace('-', "").as_bytes());
    let words = [
        100 * GIB,
        PE_START,
        0,
        0,
        0,
        AREAS[0],
        AREA_BYTES[0],
        AREAS[1],
        AREA_BYTES[1],
        0,
        0,
    ];
    for word in words {
        put(&word.to_le_bytes());
    }
    let sum = lvm_checksum(&[&label[20..]]);
    label[16..20].copy_from_slice(&sum.to_le_bytes());
    disk.write_all_at(&label, 512).expect("written");
    for (area, bytes) in AREAS.into_iter().zip(AREA_BYTES) {
        write_area(&disk, area, bytes, vg_text);
    }
}

fn write_area(disk: &File, area: u64, bytes: u64, vg_text: Option<&str>) {
    let mut header = [0; 512];
    header[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    header[20] = 1;
    header[24..32].copy_from_slice(&area.to_le_bytes());
    header[32..40].copy_from_slice(&bytes.to_le_bytes());
    if let Some(text) = vg_text {
        let length = u64::try_from(text.len()).expect("small");
        header[40..48].copy_from_slice(&TEXT_AT.to_le_bytes());
        header[48..56].copy_from_slice(&length.to_le_bytes());
        header[56..60].copy_from_slice(&lvm_checksum(&[text.as_bytes()]).to_le_bytes());
        disk.write_all_at(text.as_bytes(), area + TEXT_AT)
            .expect("written");
    } else {
        header[60] = 1;
    }
    let sum = lvm_checksum(&[&header[4..]]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    disk.write_all_at(&header, area).expect("written");
}

/// The sample's group with metadata that match its physical volumes.
fn sample_text() -> (String, Vg) {
    let sample = String::from_utf8(golden("vdsm-lvm/vg-metadata-text.txt")).expect("text");
    let vg = Vg::parse(sample.as_bytes()).expect("a group");
    let pvs: Vec<(String, u64)> = vg
        .pvs
        .values()
        .map(|pv| (pv.uuid.clone(), pv.pe_count))
        .collect();
    let mut tags = metadata(&vg.uuid, &pvs).to_vg_tags().expect("tags");
    tags.insert(TAG_READY.to_owned());
    let quoted: Vec<String> = tags.iter().map(|tag| format!("\"{tag}\"")).collect();
    let lines: Vec<String> = sample
        .lines()
        .map(|line| {
            if line.starts_with("\ttags = ") {
                format!("\ttags = [{}]", quoted.join(", "))
            } else {
                line.to_owned()
            }
        })
        .collect();
    (lines.join("\n") + "\n", vg)
}

/// Two disks of a healthy domain.
fn sample(node: &Node, change: impl Fn(String) -> String) -> [PathBuf; 2] {
    let (text, vg) = sample_text();
    let text = change(text);
    let paths = [node.path("first"), node.path("second")];
    physical_volume(&paths[0], &vg.pvs["pv0"].uuid, Some(&text));
    physical_volume(&paths[1], &vg.pvs["pv1"].uuid, None);
    fill(&disk(&paths[0]), PE_START);
    paths
}

#[test]
fn a_healthy_block_domain_is_shown_and_not_touched() {
    let node = Node::new();
    let [first, second] = sample(&node, |text| text);
    let changed = || {
        [&first, &second].map(|path| {
            let about = fs::metadata(path).expect("there");
            about.modified().expect("a time")
        })
    };
    let before = changed();
    let (status, found) = inspect(&node, &[&second, &first]);
    assert_eq!((status, findings(&found)), (0, vec![]));
    let [domain] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (domain.name.as_str(), domain.kind.as_str()),
        (DOMAIN, "block")
    );
    let group = domain.group.as_ref().expect("a group");
    assert_eq!(
        (group.seqno, group.extents, group.free_extents),
        (13, 1594, 1518)
    );
    let [volume] = domain.volumes.as_slice() else {
        panic!("{domain:?}");
    };
    assert_eq!((volume.id.as_str(), volume.slot), (VOLUME, Some(1)));
    assert_eq!(
        (volume.size_bytes, volume.capacity_bytes),
        (5 * GIB, Some(10 * GIB))
    );
    let ran = shown(&node, &[&first, &second]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.contains(VOLUME), "{}", ran.out);
    assert_eq!(changed(), before);
}

#[test]
fn a_disk_that_was_not_given_is_missed() {
    let node = Node::new();
    let [first, second] = sample(&node, |text| text);
    let (status, found) = inspect(&node, &[&first]);
    assert_eq!(status, 1);
    has(
        &found,
        "error: volume group: physical volume rh1Qh0-yXFq-MbWX-xJxs-MiYj-Frk6-Ef4l9P is missing",
    );
    let ran = shown(&node, &[&second]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.err.contains("without metadata; give the one"),
        "{}",
        ran.err
    );
    let plain = node.file("plain", [0; 8192]);
    let ran = shown(&node, &[&first, &second, &plain]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.err.contains("plain: not an LVM physical volume"),
        "{}",
        ran.err
    );
}

#[test]
fn foreign_and_half_made_groups_are_told_apart() {
    let node = Node::new();
    let [first, second] = sample(&node, |text| text.replace("RHAT_storage_domain", "mine"));
    let (status, found) = inspect(&node, &[&first, &second]);
    assert_eq!((status, found[0].state.as_str()), (1, "foreign"));
    assert_eq!(findings(&found).len(), 1);
    assert_eq!(found[0].volumes, []);
    let [first, second] = sample(&node, |text| {
        text.replace("RHAT_storage_domain", "RHAT_storage_domain_UNREADY")
    });
    let (status, found) = inspect(&node, &[&first, &second]);
    assert_eq!((status, found[0].state.as_str()), (1, "unready"));
    has(&found, "half-made: it still has the tag");
}

#[test]
fn damage_in_every_area_is_told() {
    let node = Node::new();
    let damage = |change: &dyn Fn(&File)| {
        let [first, second] = sample(&node, |text| text);
        change(&disk(&first));
        let (status, found) = inspect(&node, &[&first, &second]);
        (status, found)
    };
    let at = |extent: u64, offset: u64| PE_START + extent * EXTENT + offset;
    let write = |disk: &File, offset: u64, bytes: &[u8]| {
        disk.write_all_at(bytes, offset).expect("written");
    };
    let slot = SlotNumber(1).offset(DomainVersion::V5);
    let cases: [(u64, &[u8], &str); 9] = [
        (at(0, slot), &[0; 512], "volume metadata is empty"),
        (at(0, slot), b"CAX", "key CAP is missing"),
        (at(1, 0), &[0; 512], "ids: no host leases there"),
        (at(4, MIB), &[0; 512], "lease SDM was never made"),
        (
            at(4, SlotNumber(1).lease_offset(MIB)),
            &[0; 512],
            "its lease was never made",
        ),
        (at(20, MIB + 70), b"u", "update state: rebuild it"),
        (
            at(2, 7 * 4096),
            &[b'x'; 64],
            "mailbox of host 7: it has mail and no checksum",
        ),
        (
            AREAS[0] + TEXT_AT + 50,
            b"?",
            "metadata area at 4096: LVM metadata: checksum",
        ),
        (AREAS[1] + 30, b"?", "header of a metadata area: checksum"),
    ];
    for (offset, bytes, words) in cases {
        let (status, found) = damage(&|disk| write(disk, offset, bytes));
        assert_eq!(status, 1, "{words}");
        has(&found, words);
        assert_eq!(findings(&found).len(), 1, "{:?}", findings(&found));
    }
    let (status, found) = damage(&|disk| {
        let newer = sample_text().0.replace("seqno = 13", "seqno = 14");
        write_area(disk, AREAS[1], AREA_BYTES[1], Some(&newer));
    });
    assert_eq!(
        (status, found[0].group.as_ref().map(|group| group.seqno)),
        (1, Some(14))
    );
    has(
        &found,
        "commit 13, the newest is 14: a writer stopped between the areas",
    );
}

#[test]
fn a_group_without_one_whole_copy_of_its_metadata_is_an_error() {
    let node = Node::new();
    let [first, second] = sample(&node, |text| text);
    let disk = disk(&first);
    for area in AREAS {
        disk.write_all_at(b"?", area + TEXT_AT + 50)
            .expect("written");
    }
    let ran = shown(&node, &[&first, &second]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("no other area"), "{}", ran.err);
    disk.write_all_at(b"?", 512 + 40).expect("written");
    let ran = shown(&node, &[&first]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("LVM label: checksum"), "{}", ran.err);
}

/// Loop devices of the test, given back at its end.
struct Loops(Vec<String>);

impl Loops {
    fn of(paths: &[PathBuf]) -> Self {
        let mut loops = Self(Vec::new());
        for path in paths {
            let device = run("losetup", &["--find", "--show", text(path)]);
            loops.0.push(device.trim().to_owned());
        }
        loops
    }

    fn lvm(&self, words: &[&str]) -> String {
        let devices = self.0.join(",");
        let config = "devices { hints=\"none\" obtain_device_list_from_udev=0 } backup { backup=0 archive=0 }";
        let (command, rest) = words.split_first().expect("a command");
        let start = [
            command,
            "--driverloaded",
            "n",
            "--devices",
            &devices,
            "--config",
            config,
        ];
        run("lvm", &[&start, rest].concat())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            run("losetup", &["--detach", device]);
        }
    }
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; as root: apt-get install lvm2 mount"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{program} {words:?}: {out}{err}");
    out
}

#[test]
fn a_domain_made_by_the_real_lvm_is_read_from_its_image_files() {
    let node = Node::new();
    let paths = [node.path("first"), node.path("second")];
    for path in &paths {
        let file = File::create(path).expect("made");
        file.set_len(8 * GIB).expect("sized");
    }
    let loops = Loops::of(&paths);
    let [first, second] = loops.0.as_slice() else {
        panic!("{:?}", loops.0);
    };
    let create = [
        "pvcreate",
        "--metadatasize",
        "128m",
        "--metadatacopies",
        "2",
        "--metadataignore",
        "y",
    ];
    loops.lvm(&[&create[..], &[first, second]].concat());
    loops.lvm(&["pvchange", "--metadataignore", "n", first]);
    let create = [
        "vgcreate",
        "--setautoactivation",
        "n",
        "--physicalextentsize",
        "128m",
    ];
    loops.lvm(&[&create[..], &["--addtag", TAG_READY, DOMAIN, first, second]].concat());
    let volume = |name: &str, size: &str, more: &[&str]| {
        let words = ["lvcreate", "-an", "-Zn", "-Wn", "-n", name, "-L", size];
        loops.lvm(&[&words[..], more, &[DOMAIN, first]].concat());
    };
    for (name, size) in [
        ("metadata", "128m"),
        ("ids", "8m"),
        ("inbox", "16m"),
        ("outbox", "16m"),
        ("leases", "2g"),
        ("xleases", "1g"),
        ("master", "1g"),
    ] {
        volume(name, size, &[]);
    }
    let tags = VolumeTags {
        slot: SlotNumber(1),
        image: IMAGE.parse().expect("an id"),
        parent: VolumeId::BLANK,
    };
    let words: Vec<String> = tags
        .encode()
        .iter()
        .map(|tag| format!("--addtag={tag}"))
        .collect();
    volume(
        VOLUME,
        "1g",
        &words.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    // A second segment on the other disk.
    let name = format!("{DOMAIN}/{VOLUME}");
    loops.lvm(&["lvextend", "-L", "2g", &name, second]);
    let report = loops.lvm(&["pvs", "--noheadings", "-o", "uuid,pe_count,vg_uuid"]);
    let rows: Vec<Vec<&str>> = report
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let pvs: Vec<(String, u64)> = rows
        .iter()
        .map(|row| (row[0].to_owned(), row[1].parse().expect("a number")))
        .collect();
    let metadata = metadata(rows[0][2], &pvs);
    let tags = metadata.to_vg_tags().expect("tags");
    let words: Vec<String> = tags.iter().map(|tag| format!("--addtag={tag}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    loops.lvm(&[&["vgchange"], &words[..], &[DOMAIN]].concat());
    drop(loops);
    fill(&disk(&paths[0]), PE_START);

    let (status, found) = inspect(&node, &[&paths[0], &paths[1]]);
    assert_eq!((status, findings(&found)), (0, vec![]));
    let [domain] = found.as_slice() else {
        panic!("{found:?}");
    };
    let about = domain.metadata.as_ref().expect("metadata");
    assert_eq!((about.id.as_str(), about.version), (DOMAIN, 5));
    let group = domain.group.as_ref().expect("a group");
    assert_eq!(group.extents - group.free_extents, 36 + 16);
    assert_eq!(domain.volumes[0].size_bytes, 2 * GIB);
    assert_eq!(domain.volumes[0].capacity_bytes, Some(10 * GIB));
}

#[test]
fn texts_of_groups_that_cannot_be_are_told_by_their_place() {
    /// Changes one line of the text.
    fn line(text: &str, from: &str, to: &str) -> String {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    }
    /// A section of the text by its name, without what follows it.
    fn section(text: &str, name: &str) -> String {
        let start = text.find(name).expect("a section");
        let mut depth = 0;
        let mut end = start;
        for letter in text[start..].chars() {
            end += letter.len_utf8();
            match letter {
                '{' => depth += 1,
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                _ => {}
            }
        }
        text[start..end].to_owned()
    }
    let healthy = sample_text().0;
    let twice = |name: &str| {
        let part = section(&healthy, name);
        healthy.replacen(&part, &format!("{part}\n{part}"), 1)
    };
    let cases = [
        (
            line(&healthy, "extent_count = ", "extent_count = -"),
            "0 or more",
        ),
        (
            line(&healthy, "start_extent = 0", "start_extent = -7"),
            "0 or more",
        ),
        (
            line(
                &healthy,
                "start_extent = 0",
                "start_extent = 99999999999999999999",
            ),
            "line ",
        ),
        (line(&healthy, "seqno = 13", "seqno = {"), "line "),
        (
            line(&healthy, "extent_size = 262144", "extent_size = 0"),
            "extent_size",
        ),
        (
            line(
                &healthy,
                "segment_count = 1",
                "segment_count = 9223372036854775807",
            ),
            "segment_count",
        ),
        (twice("\n\t\tids {"), "ids"),
        (twice("\n\t\tpv0 {"), "pv0"),
        (healthy.replace("{", "{ {"), "line "),
        (
            healthy.replacen("contents", &"x{".repeat(100_000), 1),
            "line ",
        ),
    ];
    for (text, words) in cases {
        let node = Node::new();
        let [first, second] = sample(&node, |_| text.clone());
        let ran = shown(&node, &[&first, &second]);
        assert_eq!(ran.status, 2, "{words}: {ran:?}");
        assert!(ran.err.contains(words), "{words}: {ran:?}");
        assert!(ran.err.contains("first"), "which disk: {ran:?}");
        assert!(ran.err.len() < 1000, "{} bytes", ran.err.len());
    }
    // What can be read and cannot be true is judged.
    let judged = [
        (
            healthy.replace(&section(&healthy, "physical_volumes {"), ""),
            "does not name it",
        ),
        (
            line(
                &healthy,
                "extent_size = 262144",
                "extent_size = 9223372036854775807",
            ),
            "extents of",
        ),
        (
            healthy.replace("pe_start = 264192", "pe_start = 9223372036854775807"),
            "cannot be read",
        ),
        (healthy.replace("\"pv0\", ", "\"pv9\", "), "not known"),
    ];
    for (text, words) in judged {
        let node = Node::new();
        let [first, second] = sample(&node, |_| text.clone());
        let ran = shown(&node, &[&first, &second]);
        assert_ne!(ran.status, 0, "{words}: {ran:?}");
        let said = format!("{}{}", ran.out, ran.err);
        let said: Vec<&str> = said.split_whitespace().collect();
        assert!(said.join(" ").contains(words), "{words}: {ran:?}");
    }
}
