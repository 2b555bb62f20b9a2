//! Which block size a file system's direct I/O has, and whether it has any.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use control::storage::{Failure, FailureKind};
use linux::disk::AlignedBuffer;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::direct::failed;
use crate::job::Result;

/// What begins the name of a probe's file.
pub const PROBE_PREFIX: &str = ".prob-";

/// A file that older releases left at the root of a mount. Never a domain.
pub const DIRECT_IO_TEST: &str = "__DIRECT_IO_TEST__";

/// Finds the block size by trying, below the root of a mount: 512 or 4096.
///
/// # Errors
///
/// `Unsupported` when the file system has no direct I/O; I/O.
pub fn block_size(mount: &Path) -> Result<u32> {
    let path = mount.join(format!("{PROBE_PREFIX}{}", crate::random::uuid()?));
    let answer = probe(&path);
    // It may have been made even when the answer is an error.
    let removed = fs::remove_file(&path);
    match answer {
        Ok(Some(size)) => {
            removed.map_err(|e| failed("remove", &path, &e))?;
            // No rule at all, as NFS has none, is treated as the smallest sector.
            Ok(if size == 1 { 512 } else { size })
        }
        Ok(None) => Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "{}: direct I/O of 1, 512 and 4096 bytes all refused; use a file system with direct I/O",
                mount.display()
            ),
        )),
        Err(error) => Err(failed("probe the block size with", &path, &error)),
    }
}

fn probe(path: &Path) -> io::Result<Option<u32>> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(
            (OFlags::DIRECT | OFlags::DSYNC | OFlags::SYNC | OFlags::CLOEXEC)
                .bits()
                .cast_signed(),
        )
        .open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            return Ok(None);
        }
        other => other?,
    };
    let buffer = AlignedBuffer::new(4096);
    for size in [1_u32, 512, 4096] {
        let bytes = buffer
            .get(..usize::try_from(size).unwrap_or(4096))
            .unwrap_or_default();
        match rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, bytes, 0)) {
            Ok(_) => return Ok(Some(size)),
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_finds_a_size_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DIRECT_IO_TEST), [0; 512]).unwrap();
        let size = block_size(dir.path()).unwrap();
        assert!(size == 512 || size == 4096, "{size}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn directory_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let failure = block_size(&dir.path().join("none")).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound);
    }
}
