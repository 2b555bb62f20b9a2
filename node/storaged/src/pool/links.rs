//! The links of a pool: one for each domain, and `mastersd`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{DomainId, PoolId};

use crate::job::Result;
use crate::layout::Layout;

/// Name of the link to the master.
const MASTER: &str = "mastersd";

/// Makes the links right: those of `domains` (their roots) and of the master
/// among them; all others go. A link is never absent while it is changed.
///
/// # Errors
/// The directory cannot be written.
pub fn rebuild(
    layout: &Layout,
    pool: PoolId,
    master: DomainId,
    domains: &BTreeMap<DomainId, PathBuf>,
) -> Result<()> {
    let dir = layout.pool(pool);
    std::fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
    let mut wanted: BTreeMap<String, &Path> = domains
        .iter()
        .map(|(id, root)| (id.to_string(), root.as_path()))
        .collect();
    if let Some(root) = domains.get(&master) {
        wanted.insert(MASTER.to_owned(), root);
    }
    for (name, target) in &wanted {
        point(&dir, name, target)?;
    }
    for entry in std::fs::read_dir(&dir).map_err(|error| failed(&dir, &error))? {
        let entry = entry.map_err(|error| failed(&dir, &error))?;
        let stale = entry
            .file_name()
            .to_str()
            .is_none_or(|name| !wanted.contains_key(name));
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if stale && link {
            unlink(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the links of a pool, and its directory if nothing else is there.
///
/// # Errors
/// The directory cannot be written.
pub fn remove(layout: &Layout, pool: PoolId) -> Result<()> {
    let dir = layout.pool(pool);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&dir, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed(&dir, &error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            unlink(&entry.path())?;
        }
    }
    match std::fs::remove_dir(&dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(failed(&dir, &error)),
    }
}

fn point(dir: &Path, name: &str, target: &Path) -> Result<()> {
    let link = dir.join(name);
    if std::fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let new = dir.join(format!("{name}.new"));
    unlink(&new)?;
    symlink(target, &new).map_err(|error| failed(&new, &error))?;
    std::fs::rename(&new, &link).map_err(|error| failed(&link, &error))
}

fn unlink(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Failed, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_the_domains_and_the_master() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::under(dir.path());
        let pool = PoolId::from_bytes([9; 16]);
        let ids = [DomainId::from_bytes([1; 16]), DomainId::from_bytes([2; 16])];
        let mut roots: BTreeMap<_, _> = ids
            .iter()
            .map(|id| (*id, dir.path().join(format!("root-{id}"))))
            .collect();
        rebuild(&layout, pool, ids[0], &roots).expect("made");
        let read = |name: &str| std::fs::read_link(layout.pool(pool).join(name)).ok();
        assert_eq!(read("mastersd").as_ref(), roots.get(&ids[0]));
        assert_eq!(read(&ids[1].to_string()).as_ref(), roots.get(&ids[1]));

        roots.remove(&ids[0]);
        rebuild(&layout, pool, ids[1], &roots).expect("made again");
        assert_eq!(read("mastersd").as_ref(), roots.get(&ids[1]));
        assert_eq!(read(&ids[0].to_string()), None);

        remove(&layout, pool).expect("removed");
        remove(&layout, pool).expect("gone already");
        assert!(!layout.pool(pool).exists());
    }
}
