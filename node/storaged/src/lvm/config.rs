//! The configuration LVM commands run with.

use std::fs;

use control::storage::{Failure, FailureKind};

use super::Change;
use crate::job::Result;
use crate::layout::Layout;

/// What this host's commands share: no other file of LVM's configuration is read.
/// No copies of metadata are kept: they would be in memory here, up to 50 of a
/// megabyte for each group, and each group's ring has its last commits anyway.
fn local(layout: &Layout) -> String {
    let folder = layout.lvm.display();
    format!(
        "# written by storaged\n\
         devices {{\n\thints=\"none\"\n\tscan_lvs=0\n\tuse_devicesfile=0\n\
         \tmultipath_wwids_file=\"\"\n}}\n\
         global {{\n\tlocking_dir=\"{folder}/lock\"\n\tnotify_dbus=0\n}}\n\
         backup {{\n\tbackup=0\n\tarchive=0\n}}\n"
    )
}

/// Makes the directory that `LVM_SYSTEM_DIR` names.
pub(super) fn prepare(layout: &Layout) -> Result<()> {
    let path = layout.lvm.join("lvm.conf");
    let wanted = local(layout);
    if fs::read_to_string(&path).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let failed = |error: std::io::Error| {
        Failure::new(FailureKind::Io, format!("{}: {error}", path.display()))
    };
    // Programs that are root read it: nobody else may write it.
    let _own = crate::identity::own();
    for folder in ["lock", "commit"] {
        fs::create_dir_all(layout.lvm.join(folder)).map_err(failed)?;
    }
    // Another process may be doing the same: the name appears complete.
    let new = layout.lvm.join(format!("lvm.conf.{}", std::process::id()));
    fs::write(&new, wanted).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)
}

/// The `--config` text (§1.7).
pub(super) fn line(change: Option<&Change<'_>>) -> String {
    let polld = u8::from(!change.is_some_and(Change::is_of_moves));
    format!(
        "devices {{  preferred_names=[\"^/dev/mapper/\"]  ignore_suspended_devices=1  \
         write_cache_state=0  disable_after_error_count=3    hints=\"none\"  \
         obtain_device_list_from_udev=0 }} \
         global {{  prioritise_write_locks=1  wait_for_locks=1  use_lvmpolld={polld} }} \
         backup {{  retain_min=50  retain_days=0 }}"
    )
}
