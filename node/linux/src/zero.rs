//! Zeroing and discarding parts of a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Setter};

use crate::disk::AlignedBuffer;

const BLKDISCARD: Opcode = 0x1277;
const BLKZEROOUT: Opcode = 0x127F;

/// Written at once where the device cannot zero by itself.
const WRITE_BYTES: usize = 1 << 20;

/// A block device (or a regular file in its place) opened to lose its content.
#[derive(Debug)]
pub struct Eraser {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    by_writing: bool,
    zeros: Option<AlignedBuffer>,
}

impl Eraser {
    /// Opens `path` for direct writing, exclusively: a device that a guest or a
    /// file system still uses is refused.
    ///
    /// # Errors
    /// The kernel's answer; `ResourceBusy` when it is in use.
    pub fn open(path: &Path) -> io::Result<Self> {
        let is_device =
            std::os::unix::fs::FileTypeExt::is_block_device(&std::fs::metadata(path)?.file_type());
        let mut flags = OFlags::DIRECT | OFlags::CLOEXEC;
        if is_device {
            flags |= OFlags::EXCL;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        let size_bytes = rustix::fs::seek(&file, SeekFrom::End(0))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            size_bytes,
            by_writing: !is_device,
            zeros: None,
        })
    }

    /// What is erased.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the device when it was opened.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes `length` bytes from `offset` (both multiples of the sector size)
    /// read as zeros: by the array where it can, by writing where it cannot.
    /// Durable only after [`Self::flush`].
    ///
    /// # Errors
    /// The kernel's answer; some of the bytes may be zeros.
    pub fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if !self.by_writing {
            // SAFETY: BLKZEROOUT reads exactly two u64 (start, length) and changes
            // no memory of this process.
            let done = unsafe {
                ioctl::ioctl(
                    self.file.as_fd(),
                    Setter::<BLKZEROOUT, [u64; 2]>::new([offset, length]),
                )
            };
            match done {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => self.by_writing = true,
                Err(error) => return Err(error.into()),
            }
        }
        self.write_zeros(offset, length)
    }

    /// Tells the device that `length` bytes from `offset` are not needed. What
    /// they read as afterwards is up to the device: this is no way to erase.
    ///
    /// # Errors
    /// `Unsupported` when the device cannot, or the kernel's answer.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        // SAFETY: BLKDISCARD reads exactly two u64 (start, length) and changes no
        // memory of this process.
        unsafe {
            ioctl::ioctl(
                self.file.as_fd(),
                Setter::<BLKDISCARD, [u64; 2]>::new([offset, length]),
            )
        }
        .map_err(io::Error::from)
    }

    /// Waits until everything is on stable storage.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn write_zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let zeros = self
            .zeros
            .get_or_insert_with(|| AlignedBuffer::new(WRITE_BYTES));
        let mut done = 0;
        while done < length {
            let step = usize::try_from(length - done)
                .unwrap_or(usize::MAX)
                .min(WRITE_BYTES);
            match rustix::io::pwrite(&self.file, &zeros[..step], offset + done) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += crate::disk::advance(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::loop_device::{LoopDevice, Options};

    const MIB: u64 = 1 << 20;

    fn dirty(path: &Path) -> File {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        file.write_all_at(&vec![0xa5; 8 << 20], 0).unwrap();
        file.sync_all().unwrap();
        file
    }

    #[test]
    fn exactly_the_range_asked_for_becomes_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = dirty(&path);
        let device = LoopDevice::attach(
            &path,
            &Options {
                block_size: 4096,
                read_only: false,
                direct_io: true,
                auto_clear: true,
            },
        )
        .unwrap();
        for target in [device.path(), path.as_path()] {
            let mut eraser = Eraser::open(target).unwrap();
            assert_eq!(eraser.size_bytes(), 8 * MIB);
            eraser.zero(MIB, 3 * MIB).unwrap();
            eraser.flush().unwrap();
            let mut back = vec![1; 8 << 20];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back[..1 << 20].iter().all(|&byte| byte == 0xa5));
            assert!(back[1 << 20..4 << 20].iter().all(|&byte| byte == 0));
            assert!(back[4 << 20..].iter().all(|&byte| byte == 0xa5));
            file.write_all_at(&vec![0xa5; 8 << 20], 0).unwrap();
        }
    }
}
