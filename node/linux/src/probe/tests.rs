use std::io::Write;
use std::process::Command;

use proptest::prelude::*;

use super::content::{Kind, identify};
use super::*;

const DISK_LEN: u64 = 8 << 20;

/// A directory that looks like `/sys` and `/dev` to the scan.
struct Machine {
    dir: tempfile::TempDir,
    places: Places,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let places = Places {
            sys_class_block: dir.path().join("class"),
            dev: dir.path().join("dev"),
        };
        for made in ["class", "dev", "devices"] {
            fs::create_dir(dir.path().join(made)).expect("directory");
        }
        Self { dir, places }
    }

    fn node(&self, name: &str) -> PathBuf {
        self.places.dev.join(name)
    }

    /// `path` is the device's place below `/sys/devices`: `vda` or `vda/vda1`.
    fn add(&self, path: &str, partition: Option<u32>, content: &[u8]) {
        let name = path.rsplit('/').next().expect("name");
        let device = self.dir.path().join("devices").join(path);
        fs::create_dir_all(&device).expect("directory");
        fs::write(device.join("size"), format!("{}\n", content.len() / 512)).expect("size");
        if let Some(number) = partition {
            fs::write(device.join("partition"), format!("{number}\n")).expect("number");
        }
        std::os::unix::fs::symlink(&device, self.places.sys_class_block.join(name)).expect("link");
        fs::write(self.node(name), content).expect("node");
    }
}

/// Runs a tool of the host on a file of `len` bytes and returns what it wrote.
fn made_by(package: &str, len: u64, program: &str, arguments: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    file.as_file().set_len(len).expect("length");
    let output = Command::new(program)
        .args(arguments)
        .arg(file.path())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; install it with: apt-get install --yes {package}")
        });
    assert!(output.status.success(), "{program}: {output:?}");
    fs::read(file.path()).expect("read")
}

const UUID: &str = "7b2ff7b4-2f34-4a58-9d5c-000102030405";

#[test]
fn ext_file_systems_made_by_the_original_tool() {
    for (version, kind) in [
        ("ext2", Kind::Ext2),
        ("ext3", Kind::Ext3),
        ("ext4", Kind::Ext4),
    ] {
        let arguments = [
            "-q",
            "-F",
            "-t",
            version,
            "-U",
            UUID,
            "-L",
            "holdfast-state",
        ];
        let bytes = made_by("e2fsprogs", DISK_LEN, "mkfs.ext4", &arguments);
        let content = identify(&bytes).expect("recognised");
        assert_eq!(content.kind, kind);
        assert_eq!(content.label.as_deref(), Some("holdfast-state"));
        assert_eq!(content.uuid.as_deref(), Some(UUID));
    }
}

#[test]
fn swap_made_by_the_original_tool() {
    let bytes = made_by(
        "util-linux",
        1 << 20,
        "mkswap",
        &["-U", UUID, "-L", "swapper"],
    );
    let content = identify(&bytes).expect("recognised");
    assert_eq!(content.kind, Kind::Swap);
    assert_eq!(content.label.as_deref(), Some("swapper"));
    assert_eq!(content.uuid.as_deref(), Some(UUID));
}

#[test]
fn erofs_made_by_the_original_tool() {
    let home = tempfile::tempdir().expect("tempdir");
    fs::write(home.path().join("file"), "x").expect("file");
    let image = home.path().join("image");
    let source = home.path().join("source");
    fs::create_dir(&source).expect("directory");
    let output = Command::new("mkfs.erofs")
        .args(["-U", UUID])
        .args([&image, &source])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| {
            panic!("mkfs.erofs: {error}; install it with: apt-get install --yes erofs-utils")
        });
    assert!(output.status.success(), "{output:?}");
    let mut bytes = fs::read(image).expect("read");
    let content = identify(&bytes).expect("recognised");
    assert_eq!((content.kind, content.label), (Kind::Erofs, None));
    assert_eq!(content.uuid.as_deref(), Some(UUID));
    // Older versions of the tool cannot set a label.
    bytes[1024 + 64..1024 + 67].copy_from_slice(b"abc");
    assert_eq!(
        identify(&bytes).expect("again").label.as_deref(),
        Some("abc")
    );
}

#[test]
fn fat_label_is_the_one_in_the_root_directory() {
    for (len, bits) in [(1 << 20, "12"), (16 << 20, "16"), (64 << 20, "32")] {
        let arguments = ["-F", bits, "-i", "1234ABCD", "-n", "HOLDFAST"];
        let mut bytes = made_by("dosfstools", len, "mkfs.vfat", &arguments);
        let content = identify(&bytes).expect("recognised");
        assert_eq!(content.kind, Kind::Fat, "FAT{bits}");
        assert_eq!(content.uuid.as_deref(), Some("1234-ABCD"));
        assert_eq!(content.label.as_deref(), Some("HOLDFAST"));

        let directory = content::fat_root_directory(&bytes).expect("root directory");
        let offset = usize::try_from(directory.offset).expect("small");
        assert_eq!(bytes[offset..offset + 11], *b"HOLDFAST   ");
        bytes[offset..offset + 3].copy_from_slice(b"NEW");
        let machine = Machine::new();
        machine.add("sdz", None, &bytes);
        let device = examine(&machine.places, "sdz");
        assert_eq!(device.label(), Some("NEWDFAST"), "FAT{bits}");
        assert_eq!(device.table, None, "a boot sector is no partition table");
    }
}

#[test]
fn signatures_without_a_tool_here() {
    let at = |offset: usize, signature: &[u8]| {
        let mut bytes = vec![0; content::START_LEN];
        bytes[offset..offset + signature.len()].copy_from_slice(signature);
        bytes
    };
    let kind = |bytes: &[u8]| identify(bytes).map(|content| content.kind);
    assert_eq!(kind(&at(0, b"XFSB")), Some(Kind::Xfs));
    assert_eq!(kind(&at(0, b"hsqs")), Some(Kind::Squashfs));
    assert_eq!(kind(&at(65_536 + 64, b"_BHRfS_M")), Some(Kind::Btrfs));
    assert_eq!(
        kind(&at(4096, &[0xFC, 0x4E, 0x2B, 0xA9])),
        Some(Kind::MdRaid)
    );
    assert_eq!(kind(&at(3, b"NTFS    ")), Some(Kind::Ntfs));
    assert_eq!(kind(&at(0, &[0; 16])), None);

    let mut lvm = at(512, b"LABELONE");
    lvm[512 + 24..512 + 32].copy_from_slice(b"LVM2 001");
    lvm[512 + 32..512 + 64].copy_from_slice(b"abcdefghijklmnopqrstuvwxyz012345");
    let found = identify(&lvm).expect("recognised");
    assert_eq!(found.kind, Kind::LvmPv);
    assert_eq!(
        found.uuid.as_deref(),
        Some("abcdefghijklmnopqrstuvwxyz012345")
    );

    let mut luks = at(0, b"LUKS\xba\xbe\x00\x02");
    luks[24..28].copy_from_slice(b"safe");
    luks[168..204].copy_from_slice(UUID.as_bytes());
    let found = identify(&luks).expect("recognised");
    assert_eq!(
        (found.kind, found.label.as_deref()),
        (Kind::Luks, Some("safe"))
    );
    assert_eq!(found.uuid.as_deref(), Some(UUID));

    let mut iso = at(32_768, b"\x01CD001");
    iso[32_768 + 40..32_768 + 72].copy_from_slice(b"HOLDFAST                        ");
    let found = identify(&iso).expect("recognised");
    assert_eq!(found.label.as_deref(), Some("HOLDFAST"));

    let mut area = at(0, &[0x10, 0x20, 0x21, 0x12]);
    area[56..58].copy_from_slice(b"LS");
    let found = identify(&area).expect("recognised");
    assert_eq!(found.kind, Kind::SanlockLockspace);
    assert_eq!(found.label.as_deref(), Some("LS"));
    assert_eq!(found.kind.mount_type(), None);
}

#[test]
fn labels_cannot_carry_escape_sequences() {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(b"XFSB");
    bytes[108..114].copy_from_slice(b"\x1b[2Jab");
    let label = identify(&bytes).expect("recognised").label;
    assert_eq!(label.as_deref(), Some("?[2Jab"));
}

/// A disk with two partitions, written by an independent GPT implementation.
fn gpt_disk() -> Vec<u8> {
    gpt_disk_with(gpt::disk::LogicalBlockSize::Lb512)
}

fn gpt_disk_with(block_size: gpt::disk::LogicalBlockSize) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(&vec![0; usize::try_from(DISK_LEN).expect("small")])
        .expect("length");
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(block_size)
        .create(file.path())
        .expect("GPT");
    let kind = gpt::partition_types::LINUX_FS;
    for name in ["holdfast-root", "holdfast-state"] {
        disk.add_partition(name, 1 << 20, kind.clone(), 0, None)
            .expect("partition");
    }
    disk.write().expect("written");
    let mbr = gpt::mbr::ProtectiveMBR::with_lb_size(0xFFFF);
    mbr.overwrite_lba0(file.as_file_mut())
        .expect("protective MBR");
    fs::read(file.path()).expect("read")
}

fn uuids(disk: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs::write(file.path(), disk).expect("write");
    let disk = gpt::GptConfig::new().open(file.path()).expect("GPT");
    disk.partitions()
        .values()
        .map(|partition| partition.part_guid.to_string())
        .collect()
}

fn machine_with(disk: &[u8]) -> Machine {
    let machine = Machine::new();
    machine.add("vda", None, disk);
    let arguments = ["-q", "-F", "-L", "data"];
    let state = made_by("e2fsprogs", 1 << 20, "mkfs.ext4", &arguments);
    machine.add("vda/vda1", Some(1), &[0; 4096]);
    machine.add("vda/vda2", Some(2), &state);
    machine
}

#[test]
fn partitions_get_their_names_from_the_disks_table() {
    let disk = gpt_disk();
    let machine = machine_with(&disk);
    let devices = scan(&machine.places).expect("scan");
    let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["vda", "vda1", "vda2"]);
    assert_eq!(devices[0].table, Some("gpt"));
    assert_eq!(devices[0].fault, None);
    assert_eq!(devices[1].partition_uuid(), Some(uuids(&disk)[0].as_str()));
    assert_eq!(devices[2].partition_uuid(), Some(uuids(&disk)[1].as_str()));
    assert!(devices[1].is_labelled("holdfast-root"));
    assert!(
        devices[2].is_labelled("holdfast-state"),
        "by partition name"
    );
    assert!(devices[2].is_labelled("data"), "by file system label");
    assert!(!devices[2].is_labelled("dat"));
    let disk_of = devices[2]
        .partition
        .as_ref()
        .map(|found| found.disk.as_str());
    assert_eq!(disk_of, Some("vda"));
}

#[test]
fn table_of_a_disk_with_4096_byte_sectors_is_found_where_it_is() {
    let machine = machine_with(&gpt_disk_with(gpt::disk::LogicalBlockSize::Lb4096));
    assert_eq!(examine(&machine.places, "vda").table, None, "read with 512");
    let queue = machine.dir.path().join("devices/vda/queue");
    fs::create_dir(&queue).expect("directory");
    fs::write(queue.join("logical_block_size"), "4096\n").expect("write");
    assert_eq!(examine(&machine.places, "vda").table, Some("gpt"));
    assert_eq!(
        examine(&machine.places, "vda1").partition_name(),
        Some("holdfast-root")
    );
}

#[test]
fn damaged_primary_table_is_replaced_by_the_backup() {
    let mut disk = gpt_disk();
    let expected = uuids(&disk);
    disk[512 + 60] ^= 1;
    let machine = machine_with(&disk);
    let device = examine(&machine.places, "vda1");
    assert_eq!(device.partition_uuid(), Some(expected[0].as_str()));

    let last = disk.len() - 512;
    disk[last] ^= 1;
    let machine = machine_with(&disk);
    let device = examine(&machine.places, "vda");
    let fault = device.fault.expect("no usable table left");
    assert_eq!(fault, "partition table: header checksum does not match");
    assert_eq!(examine(&machine.places, "vda1").partition_uuid(), None);
}

#[test]
fn damaged_entries_are_noticed() {
    let mut disk = gpt_disk();
    let header = table::GptHeader::parse(&disk[512..1024], 1).expect("header");
    let entries = header.parse_entries(&disk[1024..]).expect("entries");
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].last_block - entries[0].first_block, 2047);
    disk[1024 + 60] ^= 1;
    let fault = header.parse_entries(&disk[1024..]).expect_err("damaged");
    assert_eq!(fault, GptFault::EntriesChecksum);
    let fault = header.parse_entries(&disk[1024..2048]).expect_err("cut");
    assert_eq!(fault, GptFault::Truncated);
    let moved = table::GptHeader::parse(&disk[512..1024], 2).expect_err("not its place");
    assert_eq!(moved, GptFault::WrongBlock(1));
}

#[test]
fn mbr_partitions_have_the_kernels_names() {
    let mut sector = vec![0; 4096];
    sector[440..444].copy_from_slice(&0x0123_abcd_u32.to_le_bytes());
    sector[446 + 16..446 + 32]
        .copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    sector[510..512].copy_from_slice(&[0x55, 0xAA]);
    let machine = machine_with(&sector);
    let device = examine(&machine.places, "vda2");
    assert_eq!(device.partition_uuid(), Some("0123abcd-02"));
    assert_eq!(examine(&machine.places, "vda").table, Some("mbr"));
    sector[446] = 0x33;
    assert_eq!(table::parse_mbr(&sector), None, "boot code, no table");
}

#[test]
fn unreadable_and_uninteresting_devices() {
    let machine = Machine::new();
    machine.add("sda", None, &[0; 512]);
    machine.add("sda10", None, &[0; 512]);
    machine.add("sda9", None, &[0; 512]);
    machine.add("ram0", None, &[0; 512]);
    machine.add("fd0", None, &[0; 512]);
    machine.add("loop0", None, &[]);
    assert_eq!(
        names(&machine.places).expect("names"),
        ["sda", "sda9", "sda10"]
    );
    fs::remove_file(machine.node("sda")).expect("remove");
    let device = examine(&machine.places, "sda");
    assert!(device.fault.expect("fault").contains("No such file"));
}

/// A few valid starts, damaged at random places: deeper than random bytes get.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let starts: Vec<Vec<u8>> = vec![
        gpt_disk()[..content::START_LEN].to_vec(),
        made_by("dosfstools", 1 << 20, "mkfs.vfat", &[])[..8192].to_vec(),
        made_by("dosfstools", 64 << 20, "mkfs.vfat", &["-F", "32"])[..8192].to_vec(),
        made_by("e2fsprogs", DISK_LEN, "mkfs.ext4", &["-q", "-F"])[..8192].to_vec(),
    ];
    let damage = proptest::collection::vec((0usize..2048, any::<u8>()), 0..6);
    (proptest::sample::select(starts), damage, 0usize..8192).prop_map(|(mut bytes, damage, len)| {
        for (offset, value) in damage {
            bytes[offset] = value;
        }
        bytes.truncate(len);
        bytes
    })
}

fn parse_everything(bytes: &[u8]) {
    let found = identify(bytes);
    let labels = found.iter().filter_map(|content| content.label.as_deref());
    for label in labels {
        assert!(!label.chars().any(char::is_control));
    }
    if let Some(directory) = content::fat_root_directory(bytes) {
        assert!(directory.len <= 16 * 1024);
    }
    if let Some(label) = content::fat_directory_label(bytes) {
        assert!(!label.is_empty());
    }
    if table::parse_mbr(bytes).is_some() {
        assert!(!table::claims_gpt(bytes));
    }
    for (at, block) in bytes.chunks(512).enumerate().take(3) {
        let at = u64::try_from(at).expect("small");
        if let Ok(header) = table::GptHeader::parse(block, at) {
            assert!(header.entries_len() <= 4 << 20);
            header.parse_entries(bytes).ok();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2200)) {
        parse_everything(&bytes);
    }

    #[test]
    fn damaged_devices_get_an_answer(bytes in damaged()) {
        parse_everything(&bytes);
    }
}
