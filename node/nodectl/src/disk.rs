//! Reading a disk or image file without ever writing to it: directly, past the
//! page cache, since another host may have written since this one looked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError, OpenError};

/// What every direct read is a multiple of, in bytes.
const BLOCK: usize = 4096;

/// An open disk.
#[derive(Debug)]
pub(crate) enum Disk {
    /// Read directly.
    Direct(BlockDevice),
    /// A file on a file system without direct I/O.
    Cached {
        /// The file.
        file: File,
        /// Its size in bytes.
        size: u64,
    },
}

impl Disk {
    /// Opens read-only.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match BlockDevice::open(path, Access::Read) {
            Ok(device) => Ok(Self::Direct(device)),
            Err(OpenError::NoDirectIo { .. }) => {
                let file = File::open(path)
                    .with_context(|| format!("{}: cannot be opened", path.display()))?;
                let size = file.metadata().context("size")?.len();
                Ok(Self::Cached { file, size })
            }
            // Its text holds its source already.
            Err(error) => Err(anyhow!("{error}")),
        }
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Direct(device) => device.size(),
            Self::Cached { size, .. } => *size,
        }
    }

    /// Logical sector size in bytes; `None` for a file.
    pub(crate) fn sector_size(&self) -> Option<u32> {
        match self {
            Self::Direct(device) => device.sector_size(),
            Self::Cached { .. } => None,
        }
    }

    /// Reads up to `length` bytes from `offset`, fewer at the end of the disk.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(left);
        if length == 0 {
            return Ok(Vec::new());
        }
        match self {
            Self::Direct(device) => read_direct(device, offset, length),
            Self::Cached { file, .. } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)
                    .with_context(|| format!("read at byte {offset}"))?;
                Ok(bytes)
            }
        }
    }
}

fn read_direct(device: &BlockDevice, offset: u64, length: usize) -> Result<Vec<u8>> {
    let block = u64::try_from(BLOCK)?;
    let ahead = usize::try_from(offset % block)?;
    let mut buffer = AlignedBuffer::new((ahead + length).next_multiple_of(BLOCK));
    match device.read_at(&mut buffer, offset - offset % block) {
        Ok(()) => {}
        // The size of a file, or of a disk with small sectors, may end within a block.
        Err(IoError::Short(done)) if done >= ahead + length => {}
        Err(error) => return Err(error).with_context(|| format!("read at byte {offset}")),
    }
    Ok(buffer
        .get(ahead..ahead + length)
        .unwrap_or_default()
        .to_vec())
}
