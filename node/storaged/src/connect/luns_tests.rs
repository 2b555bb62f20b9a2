use super::*;
use std::fs;

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn scsi_disk(sys: &Path, name: &str, minor: u32, address: &str, state: &str) {
    let unit = format!("devices/{address}");
    put(sys, &format!("{unit}/type"), "0\n");
    put(sys, &format!("{unit}/vendor"), "IET     \n");
    put(sys, &format!("{unit}/model"), "VIRTUAL-DISK\n");
    put(sys, &format!("{unit}/state"), state);
    put(sys, &format!("{unit}/wwid"), "naa.6001405\n");
    put(sys, &format!("block/{name}/dev"), &format!("8:{minor}\n"));
    put(sys, &format!("block/{name}/size"), "16384\n");
    std::os::unix::fs::symlink(sys.join(&unit), sys.join(format!("block/{name}/device"))).unwrap();
}

fn map(sys: &Path, number: u32, wwid: &str, slaves: &[&str]) {
    let block = format!("block/dm-{number}");
    put(sys, &format!("{block}/dev"), &format!("253:{number}\n"));
    put(sys, &format!("{block}/size"), "16384\n");
    put(sys, &format!("{block}/queue/logical_block_size"), "512\n");
    put(sys, &format!("{block}/dm/name"), wwid);
    put(sys, &format!("{block}/dm/uuid"), &format!("mpath-{wwid}"));
    for slave in slaves {
        put(sys, &format!("{block}/slaves/{slave}/x"), "");
        put(sys, &format!("block/{slave}/holders/dm-{number}/x"), "");
    }
}

/// A LUN on two paths, one on a bare disk, a CD, and a logical volume on the first.
fn host(folder: &Path) -> Places {
    let sys = folder.join("sys");
    scsi_disk(&sys, "sda", 0, "0:0:0:0", "running");
    put(
        folder,
        "udev/b8:0",
        "E:ID_VENDOR=x\nE:ID_SERIAL=35000c500\n",
    );
    scsi_disk(&sys, "sdb", 16, "2:0:0:1", "running");
    scsi_disk(&sys, "sdc", 32, "3:0:0:1", "offline");
    put(&sys, "block/vda/dev", "254:0");
    put(&sys, "block/vda/size", "100");
    map(&sys, 0, "36001405", &["sdb", "sdc"]);
    put(&sys, "block/dm-1/dev", "253:1");
    put(&sys, "block/dm-1/size", "8");
    put(&sys, "block/dm-1/dm/name", "vg-lv");
    put(&sys, "block/dm-1/dm/uuid", "LVM-abc");
    put(&sys, "block/dm-0/holders/dm-1/x", "");
    let session = "class/iscsi_session/session1";
    put(&sys, &format!("{session}/targetname"), "iqn.a:one");
    put(
        &sys,
        &format!("{session}/device/target2:0:0/2:0:0:1/block/sdb/x"),
        "",
    );
    put(
        &sys,
        "class/iscsi_connection/connection1:0/persistent_address",
        "10.0.0.1",
    );
    put(
        &sys,
        "class/iscsi_connection/connection1:0/persistent_port",
        "3260",
    );
    Places {
        sys,
        proc: folder.join("proc"),
        udev: folder.join("udev"),
        dev: folder.join("dev"),
        ..Places::under(folder)
    }
}

#[test]
fn rows_are_maps_and_bare_disks_with_their_paths_and_users() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    let inventory = Inventory::read(&places);
    let luns = table(&places, &inventory, &multipath::PathStates::new());
    let rows: Vec<(u32, &str, bool, u32, u32)> = luns
        .iter()
        .map(|lun| {
            (
                lun.number,
                lun.wwid.as_str(),
                lun.multipath,
                lun.paths_active,
                lun.paths,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [(1, "35000c500", false, 0, 1), (2, "36001405", true, 1, 2)],
        "the disk that is no path of a map is listed by itself"
    );
    let lun = &luns[1];
    assert!(lun.device.ends_with("dev/mapper/36001405"));
    assert_eq!(
        (lun.vendor.as_str(), lun.product.as_str()),
        ("IET", "VIRTUAL-DISK")
    );
    assert_eq!(lun.in_use_by, ["vg-lv"]);
    assert_eq!(lun.sessions, ["iqn.a:one 10.0.0.1:3260"]);
    assert_eq!(lun.path_list[1].state, "failed");
    assert_eq!(lun.path_list[0].address, "2:0:0:1");
}

#[test]
fn the_map_knows_better_than_the_disk_which_path_works() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    let inventory = Inventory::read(&places);
    let states = [("8:16".to_owned(), false), ("8:32".to_owned(), false)];
    let states = [("36001405".to_owned(), states.into())].into();
    let luns = table(&places, &inventory, &states);
    assert_eq!(luns[1].paths_active, 0);
    assert_eq!(luns[1].fault.as_deref(), Some("no path works"));
    assert_eq!(luns[1].status, LunStatus::Unknown);
}

#[test]
fn a_lun_is_free_only_when_read_empty_and_closed() {
    let mut lun = Lun::default();
    finish(&mut lun, vec![Signature::Unrecognized]);
    assert_eq!(
        (lun.status, lun.used_by.as_deref()),
        (LunStatus::Free, None)
    );
    let domain = Signature::StorageDomain {
        domain: "d".into(),
        pool: Some("p".into()),
    };
    finish(&mut lun, vec![domain]);
    assert_eq!(lun.status, LunStatus::Used);
    assert_eq!(lun.used_by.as_deref(), Some("storage domain d of pool p"));
    let mut open = Lun {
        in_use_by: vec!["/data".into()],
        ..Lun::default()
    };
    finish(&mut open, Vec::new());
    assert_eq!(open.used_by.as_deref(), Some("open: /data"));
}

#[test]
fn what_is_used_is_refused_unless_another_path_stays() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    let failure = refuse_used(&places, &["sdb", "sdc"]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InUse);
    assert!(failure.message.contains("dm-0 by vg-lv"), "{failure}");
    assert!(refuse_used(&places, &["sdb"]).is_ok(), "sdc stays");
    assert!(refuse_used(&places, &["sda"]).is_ok(), "nobody uses it");
}

#[test]
fn every_lun_is_answered_and_faults_stay_with_their_own() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let disk = folder.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let mut devices: Vec<_> = (0..40).map(|index| (index, disk.clone())).collect();
    devices.push((40, folder.path().join("missing")));
    let read = read_all(devices);
    assert_eq!(read.len(), 41);
    assert!(read[&3].as_ref().unwrap().signatures.is_empty());
    assert!(read[&40].as_ref().unwrap_err().contains("no such device"));
}

#[test]
fn disks_of_one_name_are_one_row_before_and_while_their_map_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    let rows = || -> Vec<(String, bool, u32, Vec<String>)> {
        let inventory = Inventory::read(&places);
        table(&places, &inventory, &multipath::PathStates::new())
            .into_iter()
            .map(|lun| {
                let states = lun.path_list.into_iter().map(|path| path.state).collect();
                (lun.device, lun.multipath, lun.paths_active, states)
            })
            .collect()
    };
    // A third path, not in the map yet.
    scsi_disk(&places.sys, "sdd", 48, "4:0:0:1", "running");
    assert_eq!(rows().len(), 2);
    let (device, multipath, active, states) = rows().remove(1);
    assert!(device.ends_with("mapper/36001405") && multipath);
    assert_eq!(
        (active, states.join(" ").as_str()),
        (1, "active failed bare")
    );
    // No map at all: a disk that works stands for the others.
    fs::remove_dir_all(places.sys.join("block/dm-0")).unwrap();
    let (device, multipath, active, states) = rows().remove(1);
    assert!(device.ends_with("dev/sdb") && !multipath, "{device}");
    assert_eq!((active, states.join(" ").as_str()), (0, "bare failed bare"));
}

#[test]
fn disks_of_a_fabric_are_scanned_and_listed_without_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    let sys = &places.sys;
    put(sys, "class/scsi_host/host5/proc_name", "qla2xxx\n");
    put(sys, "class/scsi_host/host5/scan", "");
    put(sys, "class/fc_host/host5/port_state", "Online\n");
    scsi_disk(sys, "sde", 64, "5:0:0:3", "running");
    put(sys, "devices/5:0:0:3/wwid", "naa.6000fc\n");
    fs::remove_dir_all(sys.join("class/iscsi_session")).unwrap();
    for disk in ["0:0:0:0", "2:0:0:1", "3:0:0:1", "5:0:0:3"] {
        put(sys, &format!("devices/{disk}/rescan"), "");
    }
    let context = Context::quiet();
    let fc = control::storage::Connection::Fc {};
    super::super::connect(&context, &places, &fc).unwrap();
    let read = |path: &str| fs::read_to_string(sys.join(path)).unwrap();
    assert_eq!(read("class/scsi_host/host5/scan"), "- - -");
    assert_eq!(read("devices/5:0:0:3/rescan"), "1");
    let health = super::super::check(&context, &places, &fc).unwrap();
    assert_eq!(health, super::super::Health::Connected);
    let luns = luns(&context, &places).unwrap();
    let lun = luns.iter().find(|lun| lun.wwid == "36000fc").unwrap();
    assert_eq!(
        (lun.paths, lun.sessions.len(), lun.multipath),
        (1, 0, false)
    );
    assert_eq!(lun.path_list[0].address, "5:0:0:3");
    super::super::disconnect(&context, &places, &fc, &[]).unwrap();
}

#[test]
fn paths_are_counted_for_each_lun_and_those_without_a_map_are_no_active_ones() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    scsi_disk(&places.sys, "sdd", 48, "4:0:0:1", "running");
    let session = "class/iscsi_session/session2";
    put(&places.sys, &format!("{session}/targetname"), "iqn.a:one");
    let disk = "device/target6:0:0/6:0:0:2/block/sdf/x";
    put(&places.sys, &format!("{session}/{disk}"), "");
    let connection = "class/iscsi_connection/connection2:0";
    put(
        &places.sys,
        &format!("{connection}/persistent_address"),
        "10.0.0.2",
    );
    put(
        &places.sys,
        &format!("{connection}/persistent_port"),
        "3260",
    );
    scsi_disk(&places.sys, "sdf", 80, "6:0:0:2", "running");
    put(&places.sys, "devices/6:0:0:2/wwid", "naa.6007\n");
    let blocks = blkdev::list(&places.sys);
    let states = [("8:16".to_owned(), false), ("8:32".to_owned(), true)];
    let states = [("36001405".to_owned(), states.into())].into();
    let found = multipath::count(&places, &blocks, &states);
    assert_eq!(
        found.len(),
        2,
        "the local disk is nobody's business: {found:?}"
    );
    let lun = &found[0];
    assert!(lun.is("36001405"));
    // One more came that the map does not have yet.
    assert_eq!((lun.paths, lun.active, lun.failed), (3, 1, 1));
    assert_eq!(lun.sessions, ["iqn.a:one 10.0.0.1:3260"]);
    let new = &found[1];
    assert_eq!((new.wwid.as_str(), new.paths, new.active), ("36007", 1, 0));
    assert_eq!(new.map, None);
    assert_eq!(new.sessions, ["iqn.a:one 10.0.0.2:3260"]);
    // What the kernel's map does not tell is as the disks are.
    let found = multipath::count(&places, &blocks, &multipath::PathStates::new());
    assert_eq!((found[0].active, found[0].failed), (1, 1));
}

#[test]
fn a_lun_is_waited_for_until_its_map_is_there_and_has_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    let name = |lun: &str| vec![lun.to_owned()];
    let missing =
        |luns: &[String]| multipath::missing(&places, luns, &multipath::PathStates::new());
    put(folder.path(), "dev/mapper/36001405", "");
    assert_eq!(missing(&name("36001405")), Vec::<(String, String)>::new());
    let told = |luns: &[String]| missing(luns).remove(0).1;
    assert_eq!(
        told(&name("35000c500")),
        "1 path of it is there, but no multipath map yet"
    );
    assert_eq!(told(&name("3999")), "no disk of this host is that LUN");
    fs::remove_file(folder.path().join("dev/mapper/36001405")).unwrap();
    assert!(
        told(&name("36001405")).contains("has no name"),
        "udev is not through"
    );
    put(folder.path(), "dev/mapper/36001405", "");
    let states = [("8:16".to_owned(), false), ("8:32".to_owned(), false)];
    let states = [("36001405".to_owned(), states.into())].into();
    let found = multipath::missing(&places, &name("36001405"), &states);
    assert_eq!(found[0].1, "none of its 2 paths works");
}
