//! With the real program on loop devices.

use std::cell::Cell;
use std::os::fd::BorrowedFd;

use super::loops::{GIB, Loops};
use super::*;
use crate::authority::Unattached;

const GROUP: &str = "11111111-2222-4333-8444-555555555501";

fn mine() -> Unattached {
    Unattached {
        domain: GROUP.to_owned(),
    }
}

fn make_group(lvm: &Lvm, devices: &[PathBuf]) {
    let context = Context::quiet();
    for change in [
        Change::CreatePhysical {
            devices,
            force: false,
        },
        Change::UseMetadataAreas {
            device: &devices[0],
        },
        Change::CreateGroup {
            devices,
            tags: &["RHAT_storage_domain_UNREADY".to_owned()],
        },
    ] {
        lvm.change(&context, &mine(), GROUP, &change).unwrap();
    }
}

/// Allows so many changes and no more.
struct Allowance(Cell<u32>);

impl Authority for Allowance {
    fn check(&self, domain: &str) -> std::result::Result<(), Failure> {
        assert_eq!(domain, GROUP);
        match self.0.get() {
            0 => Err(Failure::new(FailureKind::LeaseNotHeld, "lease gone")),
            left => {
                self.0.set(left - 1);
                Ok(())
            }
        }
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn a_group_has_the_geometry_of_a_domain() {
    let loops = Loops::new(&[100 * GIB, 100 * GIB]);
    let lvm = loops.lvm();
    make_group(&lvm, &loops.paths());
    let context = Context::quiet();
    let groups = lvm
        .report(&context, Scope::All, Report::Groups, &[GROUP])
        .unwrap();
    for line in groups.lines() {
        let fields: Vec<_> = line.trim().split('|').collect();
        assert_eq!(fields[1], GROUP);
        // The extents of the specification's sample of the same size.
        assert_eq!(fields[5..8], ["134217728", "1594", "1594"]);
        assert_eq!(fields[8], "RHAT_storage_domain_UNREADY");
        assert_eq!(fields[9], "134217728");
    }
    let devices = lvm
        .report(&context, Scope::All, Report::PhysicalVolumes, &[])
        .unwrap();
    let mut used: Vec<_> = devices
        .lines()
        .map(|line| line.trim().rsplit('|').next().unwrap().to_owned())
        .collect();
    used.sort();
    assert_eq!(used, ["0", "2"]);
    lvm.check(&context, GROUP).unwrap();
}

#[test]
fn nothing_is_written_without_the_lease_and_each_command_asks() {
    let loops = Loops::new(&[20 * GIB]);
    let lvm = loops.lvm();
    make_group(&lvm, &loops.paths());
    let context = Context::quiet();
    let once = Allowance(Cell::new(1));
    let create = |name| {
        let change = Change::CreateVolume {
            name,
            mib: 128,
            tags: &[],
            device: None,
        };
        lvm.change(&context, &once, GROUP, &change)
    };
    create("one").unwrap();
    let refused = create("two").unwrap_err();
    assert_eq!(refused.kind, FailureKind::LeaseNotHeld);
    let volumes = lvm
        .report(&context, Scope::All, Report::LogicalVolumes, &[GROUP])
        .unwrap();
    assert!(volumes.contains("|one|") && !volumes.contains("|two|"));
}

#[test]
fn refusals_are_told_apart() {
    let loops = Loops::new(&[10 * GIB]);
    let lvm = loops.lvm();
    make_group(&lvm, &loops.paths());
    let context = Context::quiet();
    let create = |name, mib| {
        let change = Change::CreateVolume {
            name,
            mib,
            tags: &[],
            device: None,
        };
        lvm.change(&context, &mine(), GROUP, &change)
            .map_err(|failure| failure.kind)
    };
    assert_eq!(create("big", 1 << 20).unwrap_err(), FailureKind::NoSpace);
    create("one", 128).unwrap();
    assert_eq!(create("one", 128).unwrap_err(), FailureKind::Exists);
    let extend = Change::ExtendVolume {
        name: "one",
        mib: 1 << 20,
        map: false,
    };
    let full = lvm.change(&context, &mine(), GROUP, &extend).unwrap_err();
    assert_eq!(full.kind, FailureKind::NoSpace, "{full}");
    let missing = Change::ReduceVolume {
        name: "two",
        mib: 128,
    };
    let missing = lvm.change(&context, &mine(), GROUP, &missing).unwrap_err();
    assert_eq!(missing.kind, FailureKind::NotFound, "{missing}");
    let other = lvm
        .report(&context, Scope::All, Report::Groups, &["no-such-group"])
        .unwrap_err();
    assert_eq!(other.kind, FailureKind::NotFound, "{other}");
    let unmapped = lvm
        .map(&context, Mapping::Activate, GROUP, &["one"])
        .unwrap_err();
    assert_eq!(unmapped.kind, FailureKind::Unsupported);
}

#[test]
fn a_stale_list_of_devices_is_rebuilt_and_the_command_repeated() {
    let loops = Loops::new(&[10 * GIB, 10 * GIB]);
    let lvm = loops.lvm();
    let paths = loops.paths();
    make_group(&lvm, &paths[..1]);
    lvm.learn(GROUP, vec![paths[1].clone()]);
    let context = Context::quiet();
    let report = lvm.report(&context, Scope::Group(GROUP), Report::Groups, &[GROUP]);
    assert!(report.unwrap().contains(GROUP));
    assert_eq!(lvm.devices_of(GROUP), None, "what was wrong is forgotten");
}

#[test]
fn the_configuration_is_that_of_the_specification() {
    expect_test::expect![[r#"devices {  preferred_names=["^/dev/mapper/"]  ignore_suspended_devices=1  write_cache_state=0  disable_after_error_count=3    hints="none"  obtain_device_list_from_udev=0 } global {  prioritise_write_locks=1  wait_for_locks=1  use_lvmpolld=1 } backup {  retain_min=50  retain_days=0 }"#]]
        .assert_eq(&config::line(None));
    let from = PathBuf::from("/dev/mapper/a");
    let moving = Change::MoveExtents {
        volume: "lv",
        from: &from,
    };
    for change in [moving, Change::AbortMoves] {
        assert!(config::line(Some(&change)).contains("use_lvmpolld=0"));
    }
}

#[test]
fn command_lines_are_those_of_the_specification() {
    let old = Abilities {
        device_mapper: true,
        fs_option: false,
    };
    let new = Abilities {
        fs_option: true,
        ..old
    };
    let text = |change: Change<'_>, able: &Abilities| {
        let words = change.words("vg", able);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        format!("{} {}", change.verb(), words.join(" "))
    };
    let device = PathBuf::from("/dev/mapper/a");
    let devices = std::slice::from_ref(&device);
    let tag = &["T".to_owned()][..];
    let lines = [
        text(
            Change::CreatePhysical {
                devices,
                force: true,
            },
            &old,
        ),
        text(Change::CreateGroup { devices, tags: tag }, &old),
        text(
            Change::CreateVolume {
                name: "lv",
                mib: 128,
                tags: tag,
                device: Some(&device),
            },
            &old,
        ),
        text(
            Change::ExtendVolume {
                name: "lv",
                mib: 256,
                map: false,
            },
            &old,
        ),
        text(
            Change::ReduceVolume {
                name: "lv",
                mib: 128,
            },
            &new,
        ),
        text(
            Change::TagVolumes {
                names: &["a", "b"],
                delete: tag,
                add: tag,
            },
            &old,
        ),
        text(Change::RemoveVolumes { names: &["a", "b"] }, &old),
    ];
    expect_test::expect![[r#"
        pvcreate -y -ff --metadatasize 128m --metadatacopies 2 --metadataignore y /dev/mapper/a
        vgcreate --setautoactivation n --physicalextentsize 128m --addtag T vg /dev/mapper/a
        lvcreate --autobackup n --contiguous n --size 128m --wipesignatures n --addtag T --name lv vg /dev/mapper/a
        lvextend --autobackup n --driverloaded n --size 256m vg/lv
        lvreduce --autobackup n --force --fs ignore --size 128m vg/lv
        lvchange --autobackup n --deltag T --addtag T vg/a vg/b
        lvremove --autobackup n -f vg/a vg/b
    "#]]
    .assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn versions_are_told_from_what_the_program_says() {
    let text = "  LVM version:     2.03.31(2) (2025-02-27)\n  Library version: 1.02.205\n";
    assert_eq!(parse_version(text), Some((2, 3, 31)));
    assert_eq!(parse_version("lvm2"), None);
}

#[test]
fn only_multipath_maps_are_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout {
        sys: folder.path().join("sys"),
        ..Layout::under(folder.path())
    };
    for (number, name, uuid) in [
        ("dm-0", "3600140b", "mpath-3600140b"),
        ("dm-1", "3600140b1", "part1-mpath-3600140b"),
        ("dm-2", "vg-lv", "LVM-xyz"),
        ("dm-3", "3600140a", "mpath-3600140a"),
    ] {
        let about = layout.sys.join("block").join(number).join("dm");
        std::fs::create_dir_all(&about).unwrap();
        std::fs::write(about.join("name"), format!("{name}\n")).unwrap();
        std::fs::write(about.join("uuid"), format!("{uuid}\n")).unwrap();
    }
    let list = Candidates::Multipath { also: Vec::new() }.list(&layout);
    assert_eq!(
        list.unwrap(),
        ["/dev/mapper/3600140a", "/dev/mapper/3600140b"].map(PathBuf::from)
    );
}
