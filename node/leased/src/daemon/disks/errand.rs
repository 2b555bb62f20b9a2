//! What must not be done on the loop's thread: asking a path what it names.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use linux::disk::{Access, BlockDevice, OpenError};
use rustix::io::Errno;

/// What an open file is, as far as a path can be compared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    special: u64,
}

/// A file that was opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(super) device: Arc<BlockDevice>,
    pub(super) identity: Identity,
    /// Asking the path what it names cannot hang.
    pub(super) local: bool,
}

/// Something that must not be done on the loop's thread.
#[derive(Debug, Clone)]
pub(crate) enum Errand {
    /// Open the path.
    Open(Arc<[u8]>),
    /// See whether the path still names this.
    Compare(Arc<[u8]>, Identity),
}

/// What came of an errand.
#[derive(Debug)]
pub(crate) enum Found {
    /// Of [`Errand::Open`]: the file, or the kernel's error number.
    Opened(Arc<[u8]>, Result<Opened, i32>),
    /// Of [`Errand::Compare`].
    Compared(Arc<[u8]>, bool),
}

impl Errand {
    /// The path it is about.
    pub(crate) fn path(&self) -> &Arc<[u8]> {
        match self {
            Self::Open(path) | Self::Compare(path, _) => path,
        }
    }

    /// Does it; may block for as long as the device likes.
    pub(crate) fn run(self) -> Found {
        match self {
            Self::Open(path) => {
                let found = open(&path);
                Found::Opened(path, found)
            }
            Self::Compare(path, identity) => {
                let same = identity_at(&path) == Some(identity);
                Found::Compared(path, same)
            }
        }
    }
}

fn open(path: &[u8]) -> Result<Opened, i32> {
    let path = Path::new(OsStr::from_bytes(path));
    let device = BlockDevice::open(path, Access::ReadWrite).map_err(|error| number_of(&error))?;
    let stat = rustix::fs::fstat(&device).map_err(|error| error.raw_os_error())?;
    let special =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice;
    Ok(Opened {
        identity: identity_of(&stat),
        // A device's node is in a file system in memory.
        local: special || is_local(&device),
        device: Arc::new(device),
    })
}

fn number_of(error: &OpenError) -> i32 {
    match error {
        OpenError::Missing { .. } => Errno::NOENT,
        OpenError::ReadOnly { .. } => Errno::ROFS,
        OpenError::WrongKind { path } if path.is_dir() => Errno::ISDIR,
        OpenError::WrongKind { .. }
        | OpenError::NoDirectIo { .. }
        | OpenError::SectorSize { .. } => Errno::INVAL,
        OpenError::Other { source, .. } => {
            return source.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        }
    }
    .raw_os_error()
}

/// Whether a file's file system answers without asking anybody else.
fn is_local(file: impl AsFd) -> bool {
    /// Magic numbers of ext4, XFS, Btrfs and tmpfs, as in `statfs(2)`.
    const LOCAL: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
    rustix::fs::fstatfs(file).is_ok_and(|about| LOCAL.contains(&about.f_type))
}

/// What a path names now.
pub(super) fn identity_at(path: &[u8]) -> Option<Identity> {
    let stat = rustix::fs::stat(Path::new(OsStr::from_bytes(path))).ok()?;
    Some(identity_of(&stat))
}

fn identity_of(stat: &rustix::fs::Stat) -> Identity {
    Identity {
        device: stat.st_dev,
        inode: stat.st_ino,
        special: stat.st_rdev,
    }
}
