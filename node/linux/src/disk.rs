//! Block devices and files used as such: direct, synchronous I/O.
//!
//! What it is: opening with an error an operator can act on, sizes, aligned
//! buffers, whole-sector reads and writes that wait; [`crate::ring`] has those
//! that do not. What it is not: no idea of what the sectors mean.

mod buffer;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use buffer::AlignedBuffer;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};

use crate::identity::as_owner_if_refused;

/// `f_type` of tmpfs (statfs(2)).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What a device is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only; works on a read-only device.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// Why a device cannot be used. Each message ends with the next step.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing has this name.
    #[error("{}: no such device or file; check the path, and that the LUN is presented and its paths are up", .path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Neither block device nor regular file.
    #[error("{}: neither a block device nor a regular file; give the path of one", .path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("{}: read-only; make the LUN, its mapping or the file system writable for this host", .path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
    },
    /// The file system has no direct I/O.
    #[error("{}: its file system does not support direct I/O; use a block device or another file system", .path.display())]
    NoDirectIo {
        /// The path.
        path: PathBuf,
    },
    /// Its logical sector size is neither 512 nor 4096.
    #[error("{}: logical sector size {size}; supported are 512 and 4096", .path.display())]
    SectorSize {
        /// The path.
        path: PathBuf,
        /// What the kernel says, in bytes.
        size: u32,
    },
    /// Anything else the kernel said.
    #[error("{}: cannot be opened: {source}; look in the kernel log for the device", .path.display())]
    Other {
        /// The path.
        path: PathBuf,
        /// The kernel's answer, already part of the message.
        source: io::Error,
    },
}

/// Why a read or write did not happen, or may not have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The kernel's error. A failed write may still have changed the disk.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// Fewer bytes than asked for: the end of the device.
    #[error("end of device after {0} bytes")]
    Short(usize),
    /// The request's latest start had passed; nothing was done.
    #[error("not started in time, not done")]
    Expired,
}

impl From<rustix::io::Errno> for IoError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Os(error.raw_os_error())
    }
}

/// An open block device, or a regular file used as one.
#[derive(Debug)]
pub struct BlockDevice {
    file: OwnedFd,
    path: PathBuf,
    sector_size: Option<u32>,
    size: u64,
    in_memory: bool,
}

impl BlockDevice {
    /// Opens with `O_DIRECT | O_SYNC`. May block for as long as the device
    /// likes; call it where that does no harm. A file whose server refuses root
    /// is opened as its owner.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        use rustix::io::Errno;
        let mode = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let named = || path.to_path_buf();
        let other = |error: Errno| OpenError::Other {
            path: named(),
            source: error.into(),
        };
        // Asked first, so that a directory or a FIFO is named as such instead
        // of failing, or blocking, in its own way.
        let kind = match as_owner_if_refused(path, || rustix::fs::stat(path)) {
            Ok(stat) => (FileType::from_raw_mode(stat.st_mode), stat.st_rdev),
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(OpenError::Missing { path: named() }),
            Err(error) => return Err(other(error)),
        };
        if !matches!(kind.0, FileType::BlockDevice | FileType::RegularFile) {
            return Err(OpenError::WrongKind { path: named() });
        }
        if access == Access::ReadWrite
            && kind.0 == FileType::BlockDevice
            && marked_read_only(kind.1)
        {
            return Err(OpenError::ReadOnly { path: named() });
        }
        let flags = mode | OFlags::DIRECT | OFlags::SYNC | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = as_owner_if_refused(path, || rustix::fs::open(path, flags, Mode::empty()));
        let file = file.map_err(|error| match error {
            Errno::NOENT | Errno::NXIO | Errno::NODEV => OpenError::Missing { path: named() },
            Errno::ROFS | Errno::ACCESS | Errno::PERM if access == Access::ReadWrite => {
                OpenError::ReadOnly { path: named() }
            }
            Errno::INVAL => OpenError::NoDirectIo { path: named() },
            error => other(error),
        })?;
        let sector_size = match kind.0 {
            FileType::BlockDevice => match rustix::fs::ioctl_blksszget(&file).map_err(other)? {
                size @ (512 | 4096) => Some(size),
                size => {
                    return Err(OpenError::SectorSize {
                        path: named(),
                        size,
                    });
                }
            },
            _ => None,
        };
        let size = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(other)?;
        let in_memory = kind.0 == FileType::RegularFile
            && rustix::fs::fstatfs(&file).is_ok_and(|system| system.f_type == TMPFS_MAGIC);
        Ok(Self {
            file,
            path: named(),
            sector_size,
            size,
            in_memory,
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Logical sector size in bytes, 512 or 4096; `None` for a regular file,
    /// which has none of its own.
    #[must_use]
    pub fn sector_size(&self) -> Option<u32> {
        self.sector_size
    }

    /// Whether it is a file on a memory file system, whose I/O never waits.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `into` completely from `offset`. Buffer, length and offset must
    /// be multiples of the sector size ([`AlignedBuffer`] is).
    ///
    /// # Errors
    /// The kernel's error, or the end of the device.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> Result<(), IoError> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.file, rest, offset + advance(done)) {
                Ok(0) => return Err(IoError::Short(done)),
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes all of `from` at `offset`, durable on return. Buffer, length
    /// and offset as for [`Self::read_at`].
    ///
    /// # Errors
    /// The kernel's error, or the end of the device; the disk may have
    /// changed all the same.
    pub fn write_at(&self, from: &[u8], offset: u64) -> Result<(), IoError> {
        let mut done = 0;
        while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(&self.file, rest, offset + advance(done)) {
                Ok(0) => return Err(IoError::Short(done)),
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for BlockDevice {
    /// For questions about the open file, `fstat` for example.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// usize is 64 bits wide on every machine this runs on.
pub(crate) fn advance(done: usize) -> u64 {
    u64::try_from(done).unwrap_or(u64::MAX)
}

/// What the kernel says about a block device's write protection; opening it
/// for writing succeeds all the same on some kernels, and the first write
/// would fail.
fn marked_read_only(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"))
        .is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_be_unusable_has_its_own_message() {
        let dir = tempfile::tempdir().unwrap();
        let missing = BlockDevice::open(&dir.path().join("none"), Access::ReadWrite).unwrap_err();
        assert!(matches!(missing, OpenError::Missing { .. }));
        assert!(
            missing
                .to_string()
                .contains("no such device or file; check"),
            "{missing}"
        );
        let wrong = BlockDevice::open(dir.path(), Access::ReadWrite).unwrap_err();
        assert!(matches!(wrong, OpenError::WrongKind { .. }));
    }

    #[test]
    fn what_is_written_is_read_back_and_the_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::File::create(&path).unwrap().set_len(16384).unwrap();
        let device = BlockDevice::open(&path, Access::ReadWrite).unwrap();
        assert_eq!((device.size(), device.sector_size()), (16384, None));
        let mut buffer = AlignedBuffer::new(4096);
        buffer.fill(0xa5);
        device.write_at(&buffer, 8192).unwrap();
        let mut back = AlignedBuffer::new(8192);
        device.read_at(&mut back, 4096).unwrap();
        assert!(back[..4096].iter().all(|&byte| byte == 0));
        assert!(back[4096..].iter().all(|&byte| byte == 0xa5));
        assert_eq!(device.read_at(&mut back, 12288), Err(IoError::Short(4096)));
    }
}
