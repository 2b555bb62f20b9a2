//! The directory of links that block domains have beside file domains' mounts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::uuid::DomainId;
use disk_format::vdsm::version::DomainVersion;

use crate::job::Result;
use crate::layout::Layout;

/// Makes `…/blockSD/<domain>/{dom_md/<special>, images}`; what is right stays.
pub(super) fn make(layout: &Layout, id: DomainId, version: DomainVersion) -> Result<()> {
    let root = layout.block_domain(id);
    let dom_md = root.join("dom_md");
    for folder in [&dom_md, &root.join("images")] {
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    }
    for special in SpecialLv::ALL {
        // The master is a mount point, made by who mounts it.
        if special == SpecialLv::Master || !special.is_in(version) {
            continue;
        }
        let target = layout.logical_volume(id, special.name());
        let link = dom_md.join(special.name());
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            continue;
        }
        let new = dom_md.join(format!("{}.{}", special.name(), std::process::id()));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&new, &error)),
            Ok(()) | Err(_) => {}
        }
        symlink(&target, &new).map_err(|error| failed(&new, &error))?;
        fs::rename(&new, &link).map_err(|error| failed(&link, &error))?;
    }
    Ok(())
}

/// Removes the links of a domain that goes; best effort, they mean nothing.
pub(super) fn remove(layout: &Layout, id: DomainId) {
    let root = layout.block_domain(id);
    let dom_md = root.join("dom_md");
    for special in SpecialLv::ALL {
        let link = dom_md.join(special.name());
        if fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink())
            && let Err(error) = fs::remove_file(&link)
        {
            tracing::debug!(link = %link.display(), %error, "link not removed");
        }
    }
    // Only when nothing else is left in them.
    for folder in [dom_md, root.join("images"), root.join("master"), root] {
        if let Err(error) = fs::remove_dir(&folder)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::debug!(folder = %folder.display(), %error, "directory not removed");
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("{}: {error}", path.display()))
}
