//! SCSI disks and the adapters they come by, as sysfs shows them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::blkdev::{attribute, names};

/// Who a disk says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Host, channel, target and LUN: `2:0:0:1`.
    pub address: String,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// World-wide name as multipath writes it: kind of the name, then the name.
    pub wwid: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// `running`, `offline`, `transport-offline`, `blocked`…
    pub state: String,
}

/// How an adapter reaches its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Fibre Channel.
    FibreChannel,
    /// Serial attached SCSI.
    Sas,
    /// iSCSI, whose sessions are scanned by iscsiadm.
    Iscsi,
    /// Anything else: local controllers, virtual machines.
    Other,
}

/// One adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The kernel's name: `host3`.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// How it reaches its disks.
    pub transport: Transport,
}

/// Who the disk called `name` says it is; `None` for what is no SCSI disk.
#[must_use]
pub fn identity(sys: &Path, name: &str) -> Option<Identity> {
    let device = sys.join("block").join(name).join("device");
    // Type 0 is a disk; 5 would be a CD drive.
    if attribute(&device, "type").as_deref() != Some("0") {
        return None;
    }
    let address = fs::canonicalize(&device).ok()?;
    let address = address.file_name()?.to_str()?.to_owned();
    Some(Identity {
        address,
        vendor: attribute(&device, "vendor").unwrap_or_default(),
        product: attribute(&device, "model").unwrap_or_default(),
        wwid: attribute(&device, "wwid").and_then(|text| wwid(&text)),
        serial: fs::read(device.join("vpd_pg80"))
            .ok()
            .and_then(|page| serial(&page)),
        state: attribute(&device, "state").unwrap_or_default(),
    })
}

/// The kernel's spelling of a world-wide name in that of udev and multipath.
fn wwid(text: &str) -> Option<String> {
    for (prefix, kind) in [("naa.", "3"), ("eui.", "2"), ("t10.", "1")] {
        if let Some(name) = text.strip_prefix(prefix) {
            let words: Vec<&str> = name.split_whitespace().collect();
            let name = words.join("_");
            return (!name.is_empty()).then(|| format!("{kind}{name}"));
        }
    }
    None
}

/// Unit serial number page: four bytes of header, the last two its length.
fn serial(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = String::from_utf8_lossy(page.get(4..)?.get(..length)?).into_owned();
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The adapters of this host, by name.
#[must_use]
pub fn hosts(sys: &Path) -> Vec<Host> {
    names(&sys.join("class/scsi_host"))
        .into_iter()
        .map(|name| {
            let is = |class: &str| sys.join("class").join(class).join(&name).exists();
            let transport = if is("fc_host") {
                Transport::FibreChannel
            } else if is("sas_host") {
                Transport::Sas
            } else if is("iscsi_host") {
                Transport::Iscsi
            } else {
                Transport::Other
            };
            let folder = sys.join("class/scsi_host").join(&name);
            Host {
                driver: attribute(&folder, "proc_name").unwrap_or_default(),
                transport,
                name,
            }
        })
        .collect()
}

/// Looks for new disks on every channel, target and LUN of an adapter. Waits
/// for the fabric.
///
/// # Errors
/// The kernel's answer.
pub fn scan(sys: &Path, host: &str) -> io::Result<()> {
    put(sys.join("class/scsi_host").join(host).join("scan"), "- - -")
}

/// Asks a disk for its size again. Waits for the disk.
///
/// # Errors
/// The kernel's answer.
pub fn reread_size(sys: &Path, disk: &str) -> io::Result<()> {
    put(sys.join("block").join(disk).join("device/rescan"), "1")
}

/// Writes to a file of sysfs that is there; never makes one.
fn put(path: PathBuf, text: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_disk_is_told_by_its_pages() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        let unit = "devices/host2/target2:0:0/2:0:0:1";
        file(sys, &format!("{unit}/type"), b"0\n");
        file(sys, &format!("{unit}/vendor"), b"IET     \n");
        file(sys, &format!("{unit}/model"), b"VIRTUAL-DISK    \n");
        file(sys, &format!("{unit}/state"), b"running\n");
        file(
            sys,
            &format!("{unit}/wwid"),
            b"naa.60000000000000000e00000000010001\n",
        );
        file(
            sys,
            &format!("{unit}/vpd_pg80"),
            b"\0\x80\0\x0abeaf11\0\0\0\0",
        );
        fs::create_dir_all(sys.join("block/sdb")).unwrap();
        std::os::unix::fs::symlink(sys.join(unit), sys.join("block/sdb/device")).unwrap();
        assert_eq!(
            identity(sys, "sdb").unwrap(),
            Identity {
                address: "2:0:0:1".into(),
                vendor: "IET".into(),
                product: "VIRTUAL-DISK".into(),
                wwid: Some("360000000000000000e00000000010001".into()),
                serial: Some("beaf11".into()),
                state: "running".into(),
            }
        );
        file(sys, "block/sr0/device/type", b"5\n");
        assert_eq!(identity(sys, "sr0"), None);
        assert_eq!(identity(sys, "vda"), None);
    }

    #[test]
    fn names_and_serials_that_are_none_are_left_out() {
        assert_eq!(
            wwid("t10.IET     00010001        ").unwrap(),
            "1IET_00010001"
        );
        assert_eq!(wwid("eui.0123456789abcdef").unwrap(), "20123456789abcdef");
        assert_eq!(wwid("naa."), None);
        assert_eq!(wwid("garbage"), None);
        assert_eq!(serial(b"\0\x80\0\xffshort"), None);
        assert_eq!(serial(b""), None);
    }

    #[test]
    fn adapters_are_scanned_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        file(sys, "class/scsi_host/host0/proc_name", b"qla2xxx\n");
        file(sys, "class/scsi_host/host0/scan", b"");
        file(sys, "class/fc_host/host0/port_state", b"Online\n");
        file(sys, "class/scsi_host/host1/proc_name", b"iscsi_tcp\n");
        file(sys, "class/iscsi_host/host1/x", b"");
        let found = hosts(sys);
        assert_eq!(found[0].transport, Transport::FibreChannel);
        assert_eq!(found[1].transport, Transport::Iscsi);
        scan(sys, "host0").unwrap();
        assert_eq!(
            fs::read(sys.join("class/scsi_host/host0/scan")).unwrap(),
            b"- - -"
        );
        assert!(scan(sys, "host9").is_err());
        assert!(reread_size(sys, "sdz").is_err());
    }
}
