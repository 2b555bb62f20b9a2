//! Small metadata files on file systems that other hosts write too: always past
//! this host's cache, and replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use linux::disk::AlignedBuffer;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::job::Result;

/// User and group that every file of a domain belongs to.
pub const OWNER: u32 = 36;

/// No metadata file is larger; a larger one is not what it says it is.
const METADATA_BYTES_MAX: u64 = 1 << 20;

/// Turns the kernel's answer about `path` into a failure.
pub(crate) fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => FailureKind::NotFound,
        Some(Errno::EXIST | Errno::NOTEMPTY) => FailureKind::Exists,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => FailureKind::NoSpace,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => FailureKind::Denied,
        Some(Errno::BUSY | Errno::TXTBSY | Errno::WOULDBLOCK) => FailureKind::InUse,
        Some(Errno::TIMEDOUT) => FailureKind::Timeout,
        _ => FailureKind::Io,
    };
    Failure::new(kind, format!("{doing} {}: {error}", path.display()))
}

/// Whether the file behind a handle is gone at the server: the name has to be
/// looked up again.
fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

/// Does it again once when the first answer is ESTALE.
fn retry_stale<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match attempt() {
        Err(error) if is_stale(&error) => attempt(),
        other => other,
    }
}

/// Reads all of `path` past the cache. NUL bytes at its end are left out: older
/// writers padded to whole blocks.
///
/// # Errors
///
/// I/O; `Damaged` when it is larger than any metadata file.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut content = retry_stale(|| read_once(path)).map_err(|e| failed("read", path, &e))?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > METADATA_BYTES_MAX {
        return Err(Failure::new(
            FailureKind::Damaged,
            format!(
                "read {}: more than {METADATA_BYTES_MAX} bytes, no metadata file has so many",
                path.display()
            ),
        ));
    }
    let length = content.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
    content.truncate(length);
    Ok(content)
}

fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    // Asked first: a directory or a FIFO is named as such, and keeps nobody waiting.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let file = open_direct(path, OFlags::RDONLY)?;
    let mut content = Vec::new();
    let mut buffer = AlignedBuffer::new(64 << 10);
    let mut at = 0;
    loop {
        let count = match rustix::io::pread(&file, &mut buffer[..], at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        content.extend_from_slice(buffer.get(..count).unwrap_or_default());
        at += u64::try_from(count).unwrap_or(u64::MAX);
        // A count that is no whole block is the end; reading on from an
        // unaligned place would be an error.
        if count % 512 != 0 || at > METADATA_BYTES_MAX {
            break;
        }
    }
    Ok(content)
}

/// Opens with direct I/O, retried once when stale.
fn open_direct(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = rustix::fs::open(
        path,
        flags | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )?;
    Ok(File::from(file))
}

/// `<path>.new`: where the next content of `path` is written.
#[must_use]
pub fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Replaces the content of `path` as a whole: a reader sees the old or the new.
/// The new content is on stable storage before it takes the name.
///
/// # Errors
///
/// I/O. The old content is still there, or (outcome unknown) the new.
pub fn replace_file(path: &Path, content: &[u8], mode: u32, block_size: u32) -> Result<()> {
    let new = new_name(path);
    let replaced = retry_stale(|| write_new(&new, content, mode, block_size))
        .map_err(|e| failed("write", &new, &e))
        .and_then(|()| {
            retry_stale(|| fs::rename(&new, path)).map_err(|e| failed("rename to", path, &e))
        });
    if let Err(failure) = replaced {
        // On a full file system every byte counts.
        fs::remove_file(&new).ok();
        return Err(failure);
    }
    sync_parent(path);
    Ok(())
}

/// Writes a file that may be there from an attempt that never ended.
pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32, block_size: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags((OFlags::DIRECT | OFlags::CLOEXEC).bits().cast_signed())
        .open(path)?;
    settle(&file, mode)?;
    // Direct writes are whole blocks; what is too much is cut off again before
    // anybody reads the file under its real name.
    let block = usize::try_from(block_size.max(512)).unwrap_or(4096);
    let padded = content.len().next_multiple_of(block);
    let mut buffer = AlignedBuffer::new(padded);
    buffer
        .get_mut(..content.len())
        .unwrap_or_default()
        .copy_from_slice(content);
    let mut done = 0;
    while done < padded {
        let at = u64::try_from(done).unwrap_or(u64::MAX);
        match rustix::io::pwrite(&file, buffer.get(done..).unwrap_or_default(), at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(u64::try_from(content.len()).unwrap_or(u64::MAX))?;
    file.sync_all()
}

/// Gives a file its mode, whatever the umask, and its owner.
fn settle(file: &File, mode: u32) -> io::Result<()> {
    let now = file.metadata()?;
    if now.mode() & 0o7777 != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    if now.uid() != OWNER || now.gid() != OWNER {
        match rustix::fs::fchown(file, Some(Uid::from_raw(OWNER)), Some(Gid::from_raw(OWNER))) {
            // An export that owns everything itself decides who owns it.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes an empty file of `length` bytes (a hole) that must not be there.
///
/// # Errors
///
/// `Exists`; I/O.
pub(super) fn make_file(path: &Path, mode: u32, length: u64) -> Result<()> {
    let make = || {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        settle(&file, mode)?;
        if length > 0 {
            file.set_len(length)?;
        }
        file.sync_all()
    };
    retry_stale(make).map_err(|e| failed("make", path, &e))?;
    sync_parent(path);
    Ok(())
}

/// Makes a directory. One that is there is left as it is, and `false`.
///
/// # Errors
///
/// I/O.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<bool> {
    match retry_stale(|| fs::create_dir(path)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(false);
        }
        Err(error) => return Err(failed("make directory", path, &error)),
    }
    let settled = File::open(path).and_then(|directory| settle(&directory, mode));
    settled.map_err(|e| failed("set mode and owner of", path, &e))?;
    sync_parent(path);
    Ok(true)
}

/// Removes a file. Already gone is success.
///
/// # Errors
///
/// I/O.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match retry_stale(|| fs::remove_file(path)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path, &error)),
    }
}

/// Renames, retried once when stale.
///
/// # Errors
///
/// I/O.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    retry_stale(|| fs::rename(from, to))
        .map_err(|e| failed(&format!("rename to {} from", to.display()), from, &e))?;
    sync_parent(to);
    Ok(())
}

/// Gives a file a second name. One that is there already is success when it is
/// the same file.
///
/// # Errors
///
/// `Exists` for another file of that name; I/O.
pub(super) fn link(from: &Path, to: &Path) -> Result<()> {
    match retry_stale(|| fs::hard_link(from, to)) {
        Ok(()) => {
            sync_parent(to);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let same = match (fs::metadata(from), fs::metadata(to)) {
                (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
                _ => false,
            };
            if same {
                return Ok(());
            }
            Err(failed("link", to, &error))
        }
        Err(error) => Err(failed("link", to, &error)),
    }
}

/// Whether `path` is a directory itself: what a link leads to is not the domain's.
pub(super) fn is_own_directory(path: &Path) -> bool {
    retry_stale(|| fs::symlink_metadata(path)).is_ok_and(|about| about.is_dir())
}

/// Names in a directory that are text, in order. A missing directory is empty.
///
/// # Errors
///
/// I/O.
pub(super) fn names(directory: &Path) -> Result<Vec<String>> {
    let list = retry_stale(|| -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    });
    match list {
        Ok(mut names) => {
            names.sort_unstable();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("list", directory, &error)),
    }
}

/// Puts the names of a directory on stable storage, where the file system has
/// such a thing. A failure is no reason to fail: the server decides when.
fn sync_parent(path: &Path) {
    if let Some(parent) = path.parent()
        && let Ok(directory) = File::open(parent)
        && let Err(error) = directory.sync_all()
    {
        tracing::debug!(path = %parent.display(), %error, "directory not synced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_is_whole_unpadded_and_owned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata");
        for content in [&b"A=1\nB=2\n"[..], &[b'x'; 512][..], &[b'y'; 5000][..], b""] {
            replace_file(&path, content, 0o644, 4096).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(read_file(&path).unwrap(), content);
            let status = fs::metadata(&path).unwrap();
            assert_eq!(status.mode() & 0o7777, 0o644);
            assert_eq!((status.uid(), status.gid()), (OWNER, OWNER));
            assert!(!new_name(&path).exists());
        }
    }

    #[test]
    fn what_could_not_replace_a_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata");
        fs::create_dir(&path).unwrap();
        replace_file(&path, b"A=1\n", 0o644, 512).unwrap_err();
        assert!(path.is_dir());
        assert!(!new_name(&path).exists());
    }

    #[test]
    fn padding_of_older_writers_is_not_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata");
        fs::write(&path, b"A=1\nEOF\n\0\0\0\0\0\0\0").unwrap();
        assert_eq!(read_file(&path).unwrap(), b"A=1\nEOF\n");
    }

    #[test]
    fn stale_handle_is_looked_up_again_once_and_only_once() {
        let mut calls = 0;
        let answer = retry_stale(|| {
            calls += 1;
            if calls == 1 {
                return Err(io::Error::from(Errno::STALE));
            }
            Ok(calls)
        });
        assert_eq!(answer.unwrap(), 2);
        let mut calls = 0;
        let answer: io::Result<()> = retry_stale(|| {
            calls += 1;
            Err(io::Error::from(Errno::STALE))
        });
        assert!(is_stale(&answer.unwrap_err()));
        assert_eq!(calls, 2);
    }

    #[test]
    fn second_link_of_the_same_file_is_success_of_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (
            dir.path().join("a"),
            dir.path().join("b"),
            dir.path().join("c"),
        );
        make_file(&a, 0o660, 0).unwrap();
        make_file(&c, 0o660, 10).unwrap();
        link(&a, &b).unwrap();
        link(&a, &b).unwrap();
        assert_eq!(link(&a, &c).unwrap_err().kind, FailureKind::Exists);
        assert_eq!(
            make_file(&a, 0o660, 0).unwrap_err().kind,
            FailureKind::Exists
        );
    }
}
