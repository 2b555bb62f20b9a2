//! What the storage daemon and the programs it works with find when they start.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use control::config::Storage;
use linux::error::chain;
use linux::mount::{self, ApiFileSystem, Flags};

use super::sequence::Outcome;
use super::steps::{self, Context};

/// The storage section of the configuration, as JSON.
pub const SETTINGS: &str = "/run/holdfast/storage.json";

/// Links and mount points of pools and domains.
const RHEV: ApiFileSystem = ApiFileSystem {
    fs_type: "tmpfs",
    target: "/rhev",
    flags: Flags::NOSUID.union(Flags::NODEV),
    options: "mode=0755,size=16M",
};

/// Directories that LVM, multipathd, iscsid and the lease daemon's clients want.
const DIRECTORIES: [&str; 7] = [
    "/run/lock/iscsi",
    "/run/lock/lvm",
    "/run/lvm",
    "/run/multipath",
    "/run/sanlock",
    "/run/vdsm/storage",
    "/var/lib/iscsi",
];

/// Modules that nothing loads by itself: device mapper's control node and
/// iSCSI's transport are asked for only by programs that find them there.
const MODULES: [&str; 3] = ["dm_mod", "dm_multipath", "iscsi_tcp"];

/// The phase `storage-files`.
pub(super) async fn run(context: &Rc<Context>) -> Outcome {
    let storage = context
        .facts
        .borrow()
        .loaded
        .as_ref()
        .and_then(|loaded| loaded.config.as_ref()?.storage.clone());
    let Some(storage) = storage else {
        return Outcome::Skipped("the configuration has no storage".to_owned());
    };
    steps::load_modules(context, &MODULES).await;
    prepare(&storage).map_or_else(Outcome::Failed, |()| Outcome::Done)
}

fn prepare(storage: &Storage) -> Result<(), String> {
    let mounted = mount::list().map_err(|error| chain(&error))?;
    if !mounted
        .iter()
        .any(|mount| mount.target == Path::new(RHEV.target))
    {
        mount::mount_api(&RHEV).map_err(|error| chain(&error))?;
    }
    for directory in DIRECTORIES {
        fs::create_dir_all(directory).map_err(|error| format!("{directory}: {error}"))?;
    }
    write(Path::new(SETTINGS), storage).map_err(|error| format!("{SETTINGS}: {error}"))
}

/// Writes it for root alone, since it may hold passwords, and in one step.
fn write(path: &Path, storage: &Storage) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec(storage)?)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn settings_are_for_root_alone_and_read_back_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/storage.json");
        let text = "version = 1\n[storage]\npool = \"0f8a2f43-4ca6-4e2d-9a4b-5b3f0a1b2c3d\"\nhost_id = 3\n";
        let storage = control::config::parse(text).unwrap().storage.unwrap();
        write(&path, &storage).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let back: Storage = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(back, storage);
    }
}
