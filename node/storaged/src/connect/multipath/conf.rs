//! `multipath.conf`, and the list of local disks that multipath keeps off (VDSM
//! storage specification §8.4).
//!
//! The first line of the file tells its revision. `# VDSM PRIVATE` on the second
//! makes it the administrator's: it is never written to.

use std::collections::BTreeSet;
use std::path::Path;

use linux::blkdev;
use linux::scsi;

use crate::connect::{self, Places, file};
use crate::job::Result;

/// First line of the file.
pub const REVISION: &str = "# VDSM REVISION 2.2";

/// Second line of a file that belongs to the administrator.
pub const PRIVATE: &str = "# VDSM PRIVATE";

/// Seconds between two looks at a path.
const POLLING_INTERVAL_S: u32 = 5;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The administrator's: left as it is.
    Private,
    /// Nothing to change.
    Same,
    /// Written anew.
    Changed,
}

/// How often a LUN without paths is looked at before its I/O fails: eight times
/// the I/O timeout, when the lease on it would be lost anyway.
#[must_use]
pub fn no_path_retry(io_timeout_s: u32) -> u32 {
    io_timeout_s
        .saturating_mul(8)
        .div_ceil(POLLING_INTERVAL_S)
        .max(1)
}

/// The file for an I/O timeout.
///
/// Single-path LUNs get a map, too (`find_multipaths`): a second path may come
/// while the first is in use.
#[must_use]
pub fn render(io_timeout_s: u32) -> String {
    let retry = no_path_retry(io_timeout_s);
    format!(
        "{REVISION}\n\
         \n\
         # Written when storage is prepared. To keep changes of your own, make the\n\
         # second line \"{PRIVATE}\".\n\
         \n\
         defaults {{\n\
         \x20   polling_interval     {POLLING_INTERVAL_S}\n\
         \x20   # {retry} looks at a LUN without paths, then its I/O fails: 8 x {io_timeout_s} s.\n\
         \x20   no_path_retry        {retry}\n\
         \x20   user_friendly_names  no\n\
         \x20   find_multipaths      greedy\n\
         \x20   flush_on_last_del    always\n\
         \x20   fast_io_fail_tmo     5\n\
         \x20   dev_loss_tmo         30\n\
         \x20   max_fds              4096\n\
         }}\n\
         \n\
         blacklist {{\n\
         \x20   protocol \"(scsi:adt|scsi:sbp)\"\n\
         \x20   devnode \"^(rbd)[0-9]*\"\n\
         }}\n\
         \n\
         # Also for arrays that multipath has settings of its own for.\n\
         overrides {{\n\
         \x20   no_path_retry        {retry}\n\
         }}\n"
    )
}

/// Writes the file, unless it is the administrator's or says the same.
///
/// # Errors
///
/// When it cannot be read or written.
pub fn write(places: &Places, io_timeout_s: u32) -> Result<Written> {
    let written = replace(&places.multipath_conf, &render(io_timeout_s))?;
    if written == Written::Private {
        tracing::warn!(file = %places.multipath_conf.display(), "multipath configuration is the administrator's");
    }
    Ok(written)
}

/// Writes the list of local disks: those that carry what is mounted on this host
/// and is no multipath map. multipathd would take them otherwise.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_local_disks(places: &Places) -> Result<Written> {
    let path = places.multipath_dir.join("conf.d/vdsm_blacklist.conf");
    replace(&path, &render_local_disks(&local_disks(places)))
}

fn render_local_disks(wwids: &BTreeSet<String>) -> String {
    let mut text =
        format!("{REVISION}\n\n# Disks of this host that are no shared storage.\n\nblacklist {{\n");
    for wwid in wwids {
        // An extended regular expression for multipath: the name itself, and all of it.
        let pattern: String = wwid
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() || "_-:=,".contains(letter) {
                    letter.to_string()
                } else {
                    ".".to_owned()
                }
            })
            .collect();
        text += &format!("    wwid \"^{pattern}$\"\n");
    }
    text + "}\n"
}

/// World-wide names of the disks below what is mounted.
fn local_disks(places: &Places) -> BTreeSet<String> {
    let blocks = blkdev::list(&places.sys);
    let mounted: BTreeSet<String> = linux::mount::list()
        .unwrap_or_default()
        .into_iter()
        .map(|mount| mount.device)
        .collect();
    let mut wwids = BTreeSet::new();
    for block in &blocks {
        let identity = scsi::identity(&places.sys, &block.name);
        let Some(identity) = identity.filter(|_| block.map.is_none()) else {
            continue;
        };
        let stack = blkdev::stack(&places.sys, &block.name);
        let in_multipath = stack.iter().any(|name| {
            blocks
                .iter()
                .any(|block| block.name == *name && block.multipath_wwid().is_some())
        });
        let holds_mount = stack
            .iter()
            .filter_map(|name| blkdev::number(&places.sys, name))
            .any(|number| mounted.contains(&number));
        if holds_mount && !in_multipath {
            wwids.extend(connect::wwid(places, block, &identity));
        }
    }
    wwids
}

fn replace(path: &Path, text: &str) -> Result<Written> {
    let present = file::read(path)?;
    if let Some(present) = &present {
        if present.lines().nth(1).map(str::trim) == Some(PRIVATE) {
            return Ok(Written::Private);
        }
        if present == text {
            return Ok(Written::Same);
        }
    }
    file::write(path, None, 0o644, text)?;
    Ok(Written::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn queueing_ends_when_the_lease_does() {
        assert_eq!(no_path_retry(10), 16);
        assert_eq!(no_path_retry(15), 24);
        assert_eq!(no_path_retry(11), 18, "rounded up: 88 s");
        assert_eq!(no_path_retry(0), 1);
    }

    #[test]
    fn the_file_has_what_vdsm_writes() {
        let text = render(10);
        assert!(text.starts_with("# VDSM REVISION 2.2\n\n"));
        let settings: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("    ") && !line.contains('#'))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            settings,
            [
                "polling_interval 5",
                "no_path_retry 16",
                "user_friendly_names no",
                "find_multipaths greedy",
                "flush_on_last_del always",
                "fast_io_fail_tmo 5",
                "dev_loss_tmo 30",
                "max_fds 4096",
                "protocol \"(scsi:adt|scsi:sbp)\"",
                "devnode \"^(rbd)[0-9]*\"",
                "no_path_retry 16",
            ]
        );
    }

    #[test]
    fn a_private_file_is_left_alone_and_ours_follows_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::under(folder.path());
        assert_eq!(write(&places, 10).unwrap(), Written::Changed);
        assert_eq!(write(&places, 10).unwrap(), Written::Same);
        assert_eq!(write(&places, 20).unwrap(), Written::Changed);
        let private = format!("{REVISION}\n{PRIVATE}\n");
        fs::write(&places.multipath_conf, &private).unwrap();
        assert_eq!(write(&places, 20).unwrap(), Written::Private);
        assert_eq!(fs::read_to_string(&places.multipath_conf).unwrap(), private);
        // The mark counts on the second line only.
        fs::write(&places.multipath_conf, format!("x\ny\n{PRIVATE}\n")).unwrap();
        assert_eq!(write(&places, 20).unwrap(), Written::Changed);
    }

    #[test]
    fn local_disks_are_listed_by_name_and_in_order() {
        let wwids = ["3600508", "0QEMU (QEMU)_1"].map(str::to_owned).into();
        let text = render_local_disks(&wwids);
        assert!(
            text.ends_with(
                "blacklist {\n    wwid \"^0QEMU..QEMU._1$\"\n    wwid \"^3600508$\"\n}\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_disk_below_a_mount_is_local_unless_it_is_a_path_of_a_map() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let places = Places {
            sys: root.join("sys"),
            udev: root.join("udev"),
            ..Places::under(root)
        };
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        // What is mounted as the root of the machine the test runs on.
        let mounts = linux::mount::list().unwrap();
        let number = mounts[0].device.clone();
        for (disk, minor) in [("sda", "8:0"), ("sdb", "8:16"), ("sdc", "8:32")] {
            put(&format!("sys/devices/{disk}/type"), "0");
            put(&format!("sys/block/{disk}/dev"), minor);
            put(&format!("sys/block/{disk}/size"), "8");
            std::os::unix::fs::symlink(
                root.join("sys/devices").join(disk),
                root.join("sys/block").join(disk).join("device"),
            )
            .unwrap();
            put(
                &format!("udev/b{minor}"),
                &format!("S:x\nE:ID_SERIAL=3{disk}\n"),
            );
        }
        put("sys/block/sda/sda1/partition", "1");
        put("sys/class/block/sda1/dev", &number);
        put("sys/block/sdb/holders/dm-0/x", "");
        put("sys/block/dm-0/dev", &number);
        put("sys/block/dm-0/size", "8");
        put("sys/block/dm-0/dm/name", "3sdb");
        put("sys/block/dm-0/dm/uuid", "mpath-3sdb");
        let local: Vec<String> = local_disks(&places).into_iter().collect();
        assert_eq!(local, ["3sda"]);
    }
}
