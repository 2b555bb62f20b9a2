//! How a LUN is reached: what a domain's metadata call it by, and whether its
//! storage has to be logged in to.

use std::path::Path;

use linux::blkdev;
use linux::scsi::{self, Transport};

use super::{Places, iscsi};

/// Whether the disks below a device, a multipath map or a disk, come by iSCSI: by a
/// session, or by an adapter that speaks it itself. One path of several is enough,
/// for that one needs a login.
#[must_use]
pub fn is_iscsi(places: &Places, device: &Path) -> bool {
    let real = std::fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let Some(name) = real.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let blocks = blkdev::list(&places.sys);
    let named = |block: &&blkdev::Block| {
        block.name == name || block.map.as_ref().is_some_and(|map| map.name == name)
    };
    let Some(block) = blocks.iter().find(named) else {
        return false;
    };
    let disks = if block.slaves.is_empty() {
        vec![block.name.clone()]
    } else {
        block.slaves.clone()
    };
    let sessions = iscsi::session::list(&places.sys);
    let hosts = scsi::hosts(&places.sys);
    disks.iter().any(|disk| {
        let by_session = || sessions.iter().any(|session| session.disks.contains(disk));
        let by_adapter = || {
            let identity = scsi::identity(&places.sys, disk)?;
            let number = identity.address.split(':').next()?.to_owned();
            let adapter = format!("host{number}");
            let host = hosts.iter().find(|host| host.name == adapter)?;
            Some(host.transport == Transport::Iscsi)
        };
        by_session() || by_adapter().unwrap_or(false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_lun_is_iscsi_when_a_path_of_its_own_is_whatever_else_is_connected() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        let put = |path: &str, text: &str| {
            let path = sys.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        // sda and sdb by Fibre Channel, sdc by a session, sdd by an iSCSI adapter.
        for (disk, host, number) in [
            ("sda", 0, "8:0"),
            ("sdb", 1, "8:16"),
            ("sdc", 2, "8:32"),
            ("sdd", 3, "8:48"),
        ] {
            let unit = format!("devices/host{host}/target{host}:0:0/{host}:0:0:1");
            put(&format!("{unit}/type"), "0");
            put(&format!("block/{disk}/dev"), number);
            put(&format!("block/{disk}/size"), "200");
            std::os::unix::fs::symlink(sys.join(&unit), sys.join(format!("block/{disk}/device")))
                .unwrap();
            put(&format!("class/scsi_host/host{host}/proc_name"), "x");
        }
        put("class/fc_host/host0/x", "");
        put("class/fc_host/host1/x", "");
        put("class/iscsi_host/host3/x", "");
        let session = "class/iscsi_session/session1";
        put(&format!("{session}/targetname"), "iqn.2026-11.test:one");
        put(
            &format!("{session}/device/target2:0:0/2:0:0:1/block/sdc/x"),
            "",
        );
        let connection = "class/iscsi_connection/connection1:0";
        put(&format!("{connection}/persistent_address"), "10.0.0.1");
        put(&format!("{connection}/persistent_port"), "3260");
        for (map, slaves) in [
            ("dm-0", &["sda", "sdb"][..]),
            ("dm-1", &["sdc"]),
            ("dm-2", &["sda", "sdc"]),
            ("dm-3", &["sdd"]),
        ] {
            put(&format!("block/{map}/dev"), "253:0");
            put(&format!("block/{map}/size"), "200");
            put(&format!("block/{map}/dm/name"), &format!("3600{map}"));
            put(&format!("block/{map}/dm/uuid"), &format!("mpath-3600{map}"));
            for slave in slaves {
                put(&format!("block/{map}/slaves/{slave}/x"), "");
            }
        }
        let places = Places {
            sys: sys.to_path_buf(),
            ..Places::default()
        };
        for (device, is) in [
            ("/dev/mapper/3600dm-0", false),
            ("/dev/mapper/3600dm-1", true),
            ("/dev/mapper/3600dm-2", true),
            ("/dev/mapper/3600dm-3", true),
            ("/dev/sda", false),
            ("/dev/sdc", true),
            ("/dev/loop77", false),
        ] {
            assert_eq!(is_iscsi(&places, Path::new(device)), is, "{device}");
        }
    }
}
