//! Tables computed from metadata of the real `lvm`, and when they are loaded.

use std::path::Path;
use std::process::Command;

use linux::dm::{Map, TargetLine};

use super::*;
use crate::authority::Unattached;
use crate::lvm::Change;
use crate::lvm::loops::{GIB, Loops};

fn line(start_sector: u64, sectors: u64, parameters: &str) -> TargetLine {
    TargetLine {
        start_sector,
        sectors,
        kind: "linear".into(),
        parameters: parameters.into(),
    }
}

fn map() -> Map {
    Map {
        name: "vg-lv".into(),
        uuid: "LVM-x".into(),
        device: (253, 7),
        open_count: 1,
        targets: 1,
        read_only: false,
        suspended: false,
        has_table: true,
        has_inactive_table: false,
    }
}

#[test]
fn a_table_that_goes_on_is_loaded_however_its_lines_are_cut() {
    let loaded = [line(0, 100, "8:0 50"), line(100, 20, "8:16 7")];
    for wanted in [
        // Longer last line; another segment; both; lines put together or cut.
        vec![line(0, 100, "8:0 50"), line(100, 60, "8:16 7")],
        vec![
            line(0, 100, "8:0 50"),
            line(100, 20, "8:16 7"),
            line(120, 8, "8:0 900"),
        ],
        vec![
            line(0, 30, "8:0 50"),
            line(30, 70, "8:0 80"),
            line(100, 90, "8:16 7"),
        ],
    ] {
        assert_eq!(
            plan(&map(), "LVM-x", &loaded, &wanted),
            Ok(Plan::Load(wanted.clone()))
        );
    }
    assert_eq!(
        plan(&map(), "LVM-x", &loaded, &loaded.clone()),
        Ok(Plan::Nothing)
    );
}

#[test]
fn a_table_that_moves_or_takes_away_a_sector_is_left_to_lvm() {
    let loaded = [line(0, 100, "8:0 50"), line(100, 20, "8:16 7")];
    for wanted in [
        vec![line(0, 100, "8:0 50")],
        vec![line(0, 119, "8:0 50")],
        vec![line(0, 100, "8:0 51"), line(100, 60, "8:16 7")],
        vec![line(0, 100, "8:0 50"), line(100, 60, "8:32 7")],
        vec![line(0, 100, "8:0 50"), line(100, 19, "8:16 7")],
        vec![line(0, 100, "8:0 50"), line(101, 60, "8:16 7")],
        vec![],
    ] {
        assert!(
            plan(&map(), "LVM-x", &loaded, &wanted).is_err(),
            "{wanted:?}"
        );
    }
}

#[test]
fn a_map_that_is_not_ours_or_not_at_rest_is_left_to_lvm() {
    let wanted = [line(0, 200, "8:0 50")];
    let loaded = [line(0, 100, "8:0 50")];
    let refused = |map: &Map, loaded: &[TargetLine]| {
        plan(map, "LVM-x", loaded, &wanted).expect_err("left to lvm")
    };
    assert!(plan(&map(), "LVM-x", &loaded, &wanted).is_ok());
    assert!(plan(&map(), "LVM-y", &loaded, &wanted).is_err());
    for map in [
        Map {
            suspended: true,
            ..map()
        },
        Map {
            has_inactive_table: true,
            ..map()
        },
        Map {
            has_table: false,
            ..map()
        },
        Map {
            read_only: true,
            ..map()
        },
    ] {
        refused(&map, &loaded);
    }
    for odd in [
        TargetLine {
            kind: "striped".into(),
            ..line(0, 100, "2 128 8:0 50 8:16 50")
        },
        line(0, 100, "8:0"),
        line(0, 100, "8:0 50 1"),
        line(0, 100, "sda 50"),
        line(8, 100, "8:0 50"),
        line(0, u64::MAX, "8:0 50"),
        line(0, 0, "8:0 50"),
    ] {
        refused(&map(), &[odd]);
    }
}

/// Two LUNs, a volume extended around another one: the table has a line for each
/// segment that `lvs` reports, in sectors, where `lvs` says it is.
#[test]
fn table_is_where_lvm_says_the_segments_are() {
    const DOMAIN: &str = "5f35c5f1-6c1e-4ca1-8ae2-2f9b30a5bd8c";
    let loops = Loops::new(&[12 * GIB, 12 * GIB]);
    let lvm = loops.lvm();
    let devices = loops.paths();
    let first = devices.first().expect("two devices");
    let ready = ["RHAT_storage_domain".to_owned()];
    let volume = |name| Change::CreateVolume {
        name,
        mib: 2048,
        tags: &[],
        device: None,
    };
    let extend = |mib| Change::ExtendVolume {
        name: "one",
        mib,
        map: false,
    };
    for change in [
        Change::CreatePhysical {
            devices: &devices,
            force: false,
        },
        Change::UseMetadataAreas { device: first },
        Change::CreateGroup {
            devices: &devices,
            tags: &ready,
        },
        volume("one"),
        volume("two"),
        extend(3 * 1024),
        extend(14 * 1024),
    ] {
        let authority = Unattached {
            domain: DOMAIN.to_owned(),
        };
        lvm.change(&Context::quiet(), &authority, DOMAIN, &change)
            .expect("lvm changes the group");
    }
    let found = crate::block::find(&lvm).expect("domains");
    let group = &found.first().expect("the domain").group;
    let volume = group.volume("one").expect("the volume");
    let lines = wanted(group, volume, device_number).expect("a table");
    assert!(lines.len() >= 3, "{lines:?}");
    assert_eq!(lines, reported(&loops, DOMAIN));
    let sectors: u64 = lines.iter().map(|line| line.sectors).sum();
    assert_eq!(sectors, 14 << 21);
    assert!(uuid(group, volume).starts_with("LVM-"));
    assert_eq!(uuid(group, volume).len(), 4 + 64);
}

/// What `lvs` reports of volume `one`, as lines of a table.
fn reported(loops: &Loops, domain: &str) -> Vec<TargetLine> {
    let devices: Vec<String> = loops
        .paths()
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let output = Command::new("lvm")
        .args(["lvs", "--noheadings", "--units", "s", "--nosuffix"])
        .args(["--devices", &devices.join(",")])
        .args(["-o", "seg_start,seg_size,devices", "--separator", "|"])
        .args(["--sort", "seg_start", &format!("{domain}/one")])
        .output()
        .expect("lvm (apt-get install lvm2)");
    let text = String::from_utf8(output.stdout).expect("text");
    let number = |text: &str| text.trim().parse::<u64>().expect("a number");
    let lines = text.lines().map(|row| {
        let fields: Vec<&str> = row.split('|').collect();
        let (device, extent) = fields[2].trim_end_matches(')').split_once('(').expect("PV");
        let (major, minor) = device_number(Path::new(device)).expect("a device");
        // Extents of 128 MiB from 129 MiB on.
        let sector = number(extent) * (128 << 11) + (129 << 11);
        line(
            number(fields[0]),
            number(fields[1]),
            &format!("{major}:{minor} {sector}"),
        )
    });
    lines.collect()
}
