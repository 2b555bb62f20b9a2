//! Small files of the host: read whole, written whole.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::io_failure;
use crate::job::Result;

/// Largest file read.
const BYTES_MAX: u64 = 1 << 20;

/// Keeps the temporary files of one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Makes a directory and what is above it; one that is there stays as it is.
pub(super) fn folder(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| io_failure(format_args!("directory {}", path.display()), &error))
}

/// The text of a file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    let failure =
        |error: &std::io::Error| io_failure(format_args!("file {}", path.display()), error);
    match fs::metadata(path) {
        Ok(found) if found.len() > BYTES_MAX => {
            return Err(failure(&std::io::ErrorKind::FileTooLarge.into()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failure(&error)),
    }
    let bytes = fs::read(path).map_err(|error| failure(&error))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Replaces a file as a whole, through a temporary one in `beside` (its own
/// directory when absent), which has to be on the same file system. A symbolic
/// link is followed, even to where nothing is yet.
pub(super) fn write(path: &Path, beside: Option<&Path>, mode: u32, text: &str) -> Result<()> {
    let target = followed(path);
    let failure =
        |error: std::io::Error| io_failure(format_args!("write file {}", target.display()), &error);
    let own = target.parent().unwrap_or(Path::new("/"));
    folder(own, 0o755)?;
    let temporary = beside.unwrap_or(own).join(format!(
        ".new-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    ));
    // Left over by a process of that number that was killed.
    fs::remove_file(&temporary).ok();
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, &target));
    written.map_err(|error| {
        fs::remove_file(&temporary).ok();
        failure(error)
    })
}

/// Where a path leads to, in the end; at most eight links.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let Ok(link) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("/")).join(link);
    }
    path
}

/// A file name that stands for `id`: readable, and short enough for any `id`.
pub(super) fn short_name(id: &str) -> String {
    const READABLE_BYTES: usize = 160;
    let name = super::mount_point::name(id);
    if name.len() <= READABLE_BYTES {
        return name;
    }
    // FNV-1a: only tells apart the ids of one host.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let start: String = name.chars().take(READABLE_BYTES / 4).collect();
    format!("{start}-{hash:016x}")
}

/// Waits for its turn among the processes of this host that work on what `name`
/// names; the turn ends when the file is dropped, or its process dies.
pub(super) fn lock(state: &Path, name: &str) -> Result<fs::File> {
    folder(state, 0o700)?;
    let path = state.join(format!("{}.lock", short_name(name)));
    let failure =
        |error: std::io::Error| io_failure(format_args!("lock {}", path.display()), &error);
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failure)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| failure(error.into()))?;
    Ok(file)
}
