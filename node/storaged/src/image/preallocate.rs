//! RAW files of the right length, with all their room if asked for.

use std::fs::File;
use std::path::Path;

use control::storage::FailureKind;
use linux::disk::AlignedBuffer;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::file::failed;
use crate::job::{Context, Result};

/// Asked for at once: between two steps progress is told and a cancel heard.
const STEP_BYTES: u64 = 1 << 30;
/// Written at once where the file system cannot allocate.
const WRITE_BYTES: usize = 1 << 20;

/// Makes the empty file `path` `length` bytes long. `allocate`: with room for all
/// of them, by the file system if it can, by writing zeros if not.
///
/// # Errors
///
/// `NoSpace`, `Cancelled`, I/O.
pub(super) fn raw_file(context: &Context, path: &Path, length: u64, allocate: bool) -> Result<()> {
    let fail = |e| failed("allocate", path, &e);
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail)?;
    if allocate {
        extend_allocated(context, path, &file, 0, length)?;
    } else {
        file.set_len(length).map_err(fail)?;
    }
    file.sync_all().map_err(fail)
}

/// Allocates what a RAW file has more from `from` to `to`.
///
/// # Errors
///
/// As [`raw_file`].
pub(super) fn extend_allocated(
    context: &Context,
    path: &Path,
    file: &File,
    from: u64,
    to: u64,
) -> Result<()> {
    let mut at = from;
    while at < to {
        context.go_on()?;
        context.tell(at, to, "allocate");
        let step = STEP_BYTES.min(to - at);
        match rustix::fs::fallocate(file, FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return write_zeros(context, path, at, to);
            }
            Err(error) => return Err(failed("allocate", path, &error.into())),
        }
    }
    context.tell(to, to, "allocate");
    Ok(())
}

fn write_zeros(context: &Context, path: &Path, from: u64, to: u64) -> Result<()> {
    let fail = |e: Errno| failed("write zeros to", path, &e.into());
    let open = |flags| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    // Past the cache where it can be: gigabytes of zeros would push out all else.
    let aligned = from.is_multiple_of(4096) && to.is_multiple_of(4096);
    let direct = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::DIRECT;
    let file = match open(direct) {
        Ok(file) if aligned => file,
        _ => open(OFlags::WRONLY | OFlags::CLOEXEC).map_err(fail)?,
    };
    let zeros = AlignedBuffer::new(WRITE_BYTES);
    let mut at = from;
    while at < to {
        context.go_on()?;
        let step = usize::try_from(to - at)
            .unwrap_or(usize::MAX)
            .min(WRITE_BYTES);
        match rustix::io::pwrite(&file, zeros.get(..step).unwrap_or_default(), at) {
            Ok(0) => {
                return Err(control::storage::Failure::new(
                    FailureKind::NoSpace,
                    format!("write zeros to {}: nothing written", path.display()),
                ));
            }
            Ok(count) => at += u64::try_from(count).unwrap_or(u64::MAX),
            Err(Errno::INTR) => {}
            Err(error) => return Err(fail(error)),
        }
        context.tell(at, to, "write zeros");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    #[test]
    fn both_ways_to_allocate_take_the_room_and_tell_progress() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let sink = Arc::clone(&told);
        let context = Context::new(
            Arc::new(move |progress, _| {
                sink.fetch_max(progress.done, Ordering::Relaxed);
            }),
            Arc::default(),
        );
        let length = 5 * 1024 * 1024 + 512;
        let a = dir.path().join("a");
        File::create(&a).unwrap();
        raw_file(&context, &a, length, true).unwrap();
        let b = dir.path().join("b");
        File::create(&b).unwrap();
        write_zeros(&context, &b, 0, length).unwrap();
        for path in [a, b] {
            let status = std::fs::metadata(&path).unwrap();
            assert_eq!(status.len(), length);
            assert!(status.blocks() * 512 >= length, "{}", path.display());
        }
        assert_eq!(told.load(Ordering::Relaxed), length);
    }

    #[test]
    fn cancel_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        File::create(&path).unwrap();
        let cancelled = Arc::new(AtomicBool::new(true));
        let context = Context::new(Arc::new(|_, _| {}), cancelled);
        let failure = raw_file(&context, &path, 4096, true).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Cancelled);
    }
}
