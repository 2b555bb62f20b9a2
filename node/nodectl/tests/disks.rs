//! `lockspace` and `inspect` on files, some of them made by the original tools.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Node, Ran, sanlock};
use control::disk::{AreaReport, DiskReport};
use control::status::HostState;
use disk_format::{HostName, delta};

const MIB: u64 = 1 << 20;

fn file_of(node: &Node, name: &str, mib: u64) -> PathBuf {
    let path = node.file(name, "");
    let file = OpenOptions::new().write(true).open(&path).expect("opened");
    file.set_len(mib * MIB).expect("sized");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(bytes, offset).expect("written");
}

/// Gives host `id` a lease, as an acquire would.
fn hold(path: &Path, area: u64, id: u64, name: &str, timestamp: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opened");
    let at = area + (id - 1) * 512;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, at).expect("read");
    let mut leader = delta::leader(&sector).expect("a record");
    leader.owner_id = id;
    leader.owner_generation = 3;
    leader.resource_name = *HostName::new(name).expect("a name").field();
    leader.timestamp = timestamp;
    sector[..200].copy_from_slice(&leader.sealed().encode());
    file.write_all_at(&sector, at).expect("written");
}

fn init(node: &Node, path: &Path, more: &[&str]) -> Ran {
    node.run(
        ["lockspace", "init", "LS", "--path", text(path)]
            .iter()
            .chain(more),
    )
}

fn show(node: &Node, path: &Path) -> AreaReport {
    let ran = node.run(["lockspace", "show", text(path), "--json"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("JSON")
}

fn inspect(node: &Node, path: &Path) -> DiskReport {
    let ran = node.run(["inspect", text(path), "--json"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("JSON")
}

#[test]
fn an_area_made_here_is_byte_for_byte_the_originals() {
    let node = Node::new();
    let (ours, theirs) = (file_of(&node, "ours", 1), file_of(&node, "theirs", 1));
    let ran = init(&node, &ours, &["--io-timeout", "10"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert!(
        ran.out
            .contains("2000 hosts, sectors of 512 bytes, area of 1 MiB, io timeout 10 s"),
        "{}",
        ran.out
    );
    sanlock(["direct", "init", "-s", &format!("LS:0:{}:0", text(&theirs))]);
    assert!(std::fs::read(ours).expect("read") == std::fs::read(theirs).expect("read"));
}

#[test]
fn an_area_made_by_the_original_is_shown() {
    let node = Node::new();
    let path = file_of(&node, "disk", 4);
    sanlock([
        "direct",
        "init",
        "-s",
        &format!("LS:0:{}:1048576", text(&path)),
    ]);
    hold(&path, MIB, 1, "node1", 12_345);
    hold(&path, MIB, 2000, "node2000", 0);
    let ran = node.run([
        "lockspace",
        "show",
        text(&path),
        "--offset",
        "1048576",
        "--json",
    ]);
    let area: AreaReport = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        (
            area.name.as_str(),
            area.sector_size,
            area.align_size,
            area.max_hosts
        ),
        ("LS", 512, 1 << 20, 2000)
    );
    let hosts: Vec<_> = area
        .hosts
        .iter()
        .map(|host| (host.host_id, host.name.as_str(), host.state))
        .collect();
    assert_eq!(
        hosts,
        [
            (1, "node1", HostState::Unknown),
            (2000, "node2000", HostState::Free)
        ]
    );
    assert_eq!(area.damage, Vec::<String>::new());

    let ran = node.run(["lockspace", "show", text(&path)]);
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (1, ""),
        "nothing at offset 0"
    );
    assert!(
        ran.err.contains("holds zeros, not a lockspace"),
        "{}",
        ran.err
    );

    // Half a step on, the second host's record looks like a first one.
    let ran = node.run([
        "lockspace",
        "show",
        text(&path),
        "--offset",
        &((1 << 20) + 512).to_string(),
    ]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    assert!(
        ran.err.contains("offset 1049088: must be a multiple of"),
        "{}",
        ran.err
    );
}

#[test]
fn what_may_be_somebodys_is_not_overwritten() {
    let node = Node::new();
    let path = file_of(&node, "disk", 2);
    write_at(&path, 700_000, b"something of value");
    let before = std::fs::read(&path).expect("read");
    let ran = init(&node, &path, &[]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("--force LS") && ran.err.contains("nothing was written"),
        "{}",
        ran.err
    );
    assert!(std::fs::read(&path).expect("read") == before);
    assert_eq!(init(&node, &path, &["--force", "other"]).status, 1);
    assert!(std::fs::read(&path).expect("read") == before);
    assert_eq!(init(&node, &path, &["--force", "LS"]).status, 0);
    assert_eq!(show(&node, &path).name, "LS");
}

#[test]
fn impossible_areas_are_refused_with_their_limits() {
    let node = Node::new();
    let path = file_of(&node, "disk", 1);
    for (more, message) in [
        (&["--offset", "512"][..], "multiple of"),
        (&["--offset", "1048576"], "needs 2097152"),
        (&["--align-size", "8M"], "512/1M"),
        (&["--align-size", "3M"], "must be 1M, 2M, 4M or 8M"),
        (&["--sector-size", "1000"], "4096/8M"),
        (&["--io-timeout", "0"], "0 is not in 1..=255"),
    ] {
        let ran = init(&node, &path, more);
        assert_eq!(ran.status, 2, "{more:?}");
        assert!(ran.err.contains(message), "{more:?}: {}", ran.err);
    }
    let ran = node.run(["lockspace", "init", "a:b", "--path", text(&path)]);
    assert!(ran.status == 2 && ran.err.contains("colon"), "{}", ran.err);
    let ran = node.run(["lockspace", "init", "LS", "--path", "/nonexistent"]);
    assert!(
        ran.status == 2 && ran.err.contains("check the path"),
        "{}",
        ran.err
    );
}

#[test]
fn every_damaged_record_is_named() {
    let node = Node::new();
    let path = file_of(&node, "disk", 1);
    assert_eq!(init(&node, &path, &[]).status, 0);
    hold(&path, 0, 2, "node2", 77);
    write_at(&path, 512 + 160, b"\x01");
    write_at(&path, 4 * 512, &[0xff; 512]);
    let area = show(&node, &path);
    assert_eq!(area.damage.len(), 2, "{:#?}", area.damage);
    assert!(
        area.damage[0].starts_with("record of host 2: checksum"),
        "{:?}",
        area.damage
    );
    assert!(
        area.damage[1].starts_with("record of host 5: magic number"),
        "{:?}",
        area.damage
    );
    assert_eq!(
        area.hosts[0].name, "node2",
        "a damaged record is shown as far as it can be"
    );
    let ran = node.run(["lockspace", "show", text(&path)]);
    assert!(
        ran.out
            .contains("!! record of host 5: magic number 0xffffffff"),
        "{}",
        ran.out
    );
}

#[test]
fn inspect_finds_lockspaces_and_resources_wherever_they_begin() {
    let node = Node::new();
    let path = file_of(&node, "disk", 24);
    sanlock(["direct", "init", "-s", &format!("LS:0:{}:0", text(&path))]);
    sanlock([
        "direct",
        "init",
        "-r",
        &format!("LS:SDM:{}:1048576", text(&path)),
    ]);
    let big = [
        "--offset",
        "8388608",
        "--sector-size",
        "4096",
        "--align-size",
        "8M",
    ];
    assert_eq!(init(&node, &path, &big).status, 0);
    hold(&path, 0, 7, "node7", 9);
    let before = std::fs::read(&path).expect("read");
    let report = inspect(&node, &path);
    let areas: Vec<_> = report
        .areas
        .iter()
        .map(|area| (area.offset, area.align_size, area.hosts.len()))
        .collect();
    assert_eq!(areas, [(0, 1 << 20, 1), (8 * MIB, 8 << 20, 0)]);
    let kinds: Vec<_> = report
        .contents
        .iter()
        .map(|content| (content.offset, content.kind.as_str()))
        .collect();
    assert_eq!(kinds, [(MIB, "resource lease \"SDM\" of lockspace \"LS\"")]);
    assert_eq!(report.faults, Vec::<String>::new());
    let ran = node.run(["inspect", text(&path)]);
    assert!(
        ran.out
            .contains("  7           3  unknown          9        10 s  node7\n"),
        "{}",
        ran.out
    );
    assert!(
        std::fs::read(&path).expect("read") == before,
        "inspect writes nothing"
    );
}

#[test]
fn an_area_whose_first_record_is_lost_is_still_told() {
    let node = Node::new();
    for (name, sector) in [("small", 512), ("large", 4096)] {
        let path = file_of(&node, name, 8);
        assert_eq!(
            init(&node, &path, &["--sector-size", &sector.to_string()]).status,
            0
        );
        write_at(&path, 0, &[0; 4]);
        let report = inspect(&node, &path);
        assert!(report.areas.is_empty(), "{:?}", report.areas);
        let [fault] = report.faults.as_slice() else {
            panic!("{:?}", report.faults)
        };
        assert!(
            fault.starts_with("offset 0: lockspace \"LS\" without a valid first record"),
            "{fault}"
        );
    }
}

/// Runs a tool that makes file systems or partition tables.
fn tool(package: &str, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} cannot be run ({error}); install it: apt-get install --yes {package}")
        });
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A disk with an ext4 file system and a lockspace in GPT partitions.
fn partitioned(node: &Node) -> PathBuf {
    let path = file_of(node, "disk", 16);
    let inner = file_of(node, "inner", 4);
    tool(
        "e2fsprogs",
        "/sbin/mkfs.ext4",
        &["-q", "-L", "holdfast-state", text(&inner)],
    );
    let size = 512;
    let mut disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("opened");
    let mbr =
        gpt::mbr::ProtectiveMBR::with_lb_size(u32::try_from(16 * MIB / size - 1).expect("small"));
    mbr.overwrite_lba0(&mut disk).expect("written");
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .create_from_device(disk, None)
        .expect("table");
    table
        .add_partition(
            "state",
            4 * MIB,
            gpt::partition_types::LINUX_FS,
            0,
            Some(2048),
        )
        .expect("partition");
    table
        .add_partition("leases", MIB, gpt::partition_types::LINUX_FS, 0, Some(2048))
        .expect("partition");
    table.write().expect("written");
    let state = std::fs::read(inner).expect("read");
    write_at(&path, MIB, &state);
    path
}

#[test]
fn inspect_shows_the_table_and_what_fills_it() {
    let node = Node::new();
    let path = partitioned(&node);
    let leases = inspect(&node, &path).partitions[1].offset;
    assert_eq!(
        init(&node, &path, &["--offset", &leases.to_string()]).status,
        0
    );
    let report = inspect(&node, &path);
    assert_eq!(
        (report.table.as_deref(), report.faults.as_slice()),
        (Some("gpt"), &[][..])
    );
    let names: Vec<_> = report
        .partitions
        .iter()
        .map(|part| (part.number, part.name.as_str(), part.offset))
        .collect();
    assert_eq!(names, [(1, "state", MIB), (2, "leases", 5 * MIB)]);
    let content = &report.contents[0];
    assert_eq!(
        (
            content.partition,
            content.kind.as_str(),
            content.label.as_deref()
        ),
        (Some(1), "ext4", Some("holdfast-state"))
    );
    assert_eq!(report.areas[0].offset, 5 * MIB);
}

#[test]
fn a_damaged_table_is_read_from_its_backup_and_said_to_be_damaged() {
    let node = Node::new();
    let path = partitioned(&node);
    // A reserved byte, always zero in a sound header.
    write_at(&path, 512 + 20, b"\xff");
    let report = inspect(&node, &path);
    assert_eq!(report.partitions.len(), 2);
    assert_eq!(
        report.faults,
        ["partition table: header checksum does not match; shown is its backup"]
    );

    write_at(&path, 16 * MIB - 512 + 20, b"\xff");
    let report = inspect(&node, &path);
    assert_eq!((report.table, report.partitions.len()), (None, 0));
    assert!(
        report.faults[0].contains("header checksum does not match"),
        "{:?}",
        report.faults
    );
    assert_eq!(report.contents.len(), 0);
}

#[test]
fn small_odd_and_absent_disks_are_answered() {
    let node = Node::new();
    let report = inspect(&node, &node.file("tiny", "hello"));
    assert_eq!(
        (report.size, report.contents.len(), report.areas.len()),
        (5, 0, 0)
    );
    assert_eq!(
        inspect(&node, &node.file("empty", "")).faults,
        Vec::<String>::new()
    );
    let ran = node.run(["inspect", "/nonexistent"]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    assert!(
        ran.err.contains("no such device or file; check the path"),
        "{}",
        ran.err
    );
    let ran = node.run(["inspect", "/dev/null"]);
    assert!(
        ran.status == 2
            && ran
                .err
                .contains("neither a block device nor a regular file"),
        "{}",
        ran.err
    );
}
