//! The master's file system that a writer left mounted on this host when it was
//! killed. The role may be another host's by now, so nothing of it may reach the
//! storage any more: not what the kernel would write back later, and not what
//! unmounting writes. Its device is made to fail first.

use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::DomainId;
use linux::dm::{CONTROL, Control, Name};

use crate::command::Run;
use crate::domain::Special;
use crate::job::{Context, Result};
use crate::layout::Layout;

/// Takes away every master that is mounted on this host, below `layout`; how many
/// there were. To be called when no writer of this host has the role.
///
/// # Errors
/// `InUse` for one that stays; the others are gone.
pub fn take_all_away(layout: &Layout, context: &Context) -> Result<usize> {
    let folder = layout.block_domain("");
    let mut gone = 0;
    let mut failed = None;
    for target in targets()? {
        let Ok(below) = target.strip_prefix(&folder) else {
            continue;
        };
        let id = below.parent().and_then(Path::to_str).map(str::parse);
        let (Some(Ok(id)), true) = (id, below.ends_with(Special::Master.name())) else {
            continue;
        };
        match take_away(context, &target, id) {
            Ok(()) => gone += 1,
            Err(failure) => failed = Some(failure),
        }
    }
    failed.map_or(Ok(gone), Err)
}

/// Takes away the master of the domain `id` if it is mounted on `dir`.
///
/// # Errors
/// `InUse` when it stays.
pub fn take_away(context: &Context, dir: &Path, id: DomainId) -> Result<()> {
    if !targets()?.iter().any(|target| target == dir) {
        return Ok(());
    }
    tracing::warn!(domain = %id, "the master's file system was left mounted; it is taken away");
    let map = Name::of_volume(&id.to_string(), Special::Master.name());
    // Without device-mapper there are no maps: file systems are on disks, in tests.
    let Some((control, map)) = Control::open(Path::new(CONTROL)).ok().zip(map) else {
        return unmount(dir, id);
    };
    if control.status(&map).is_err() {
        return unmount(dir, id);
    }
    control.fail(&map).map_err(|error| stays(id, &error))?;
    unmount(dir, id)?;
    let removed = Run::new("dmsetup")
        .args(["remove", "--retry", map.as_str()])
        .succeed(context);
    removed.map(drop).map_err(|error| stays(id, &error))
}

/// Where something is mounted.
fn targets() -> Result<Vec<PathBuf>> {
    let mounts = linux::mount::list()
        .map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))?;
    Ok(mounts.into_iter().map(|mount| mount.target).collect())
}

fn unmount(dir: &Path, id: DomainId) -> Result<()> {
    linux::mount::unmount(dir).map_err(|error| stays(id, &error))
}

fn stays(id: DomainId, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::InUse,
        format!("domain {id}: a former manager's file system stays on this host: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_below_a_folder_of_our_own() {
        let folder = tempfile::tempdir().expect("a directory");
        let layout = Layout::under(folder.path());
        let context = Context::quiet();
        assert_eq!(take_all_away(&layout, &context), Ok(0));
        assert_eq!(take_away(&context, folder.path(), DomainId::BLANK), Ok(()));
    }
}
