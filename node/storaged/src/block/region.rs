//! Reading and writing the bytes of a logical volume.
//!
//! Where the host has a device-mapper, a volume is a device. Where it has none,
//! its bytes are found on the physical volumes by the group's metadata: the
//! same bytes, read and written with the same direct I/O.

use std::path::PathBuf;
use std::sync::Arc;

use control::storage::{Failure, FailureKind};
use linux::disk::{Access, AlignedBuffer, BlockDevice};

use super::group::Group;
use crate::job::{Context, Result};
use crate::layout::Layout;

/// Bytes zeroed with one write.
const ZERO_BYTES: usize = 1 << 20;

/// How the bytes of logical volumes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By the device of the active volume.
    Mapped,
    /// By the physical volumes beneath it.
    Beneath,
}

/// A part of a volume that lies in one piece on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The device.
    pub device: PathBuf,
    /// Where it starts on the device, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Where a volume's bytes are, in order.
///
/// # Errors
/// `NotFound` when there is no such volume; `Unsupported` for one that is not
/// linear; `Io` when one of its devices is missing.
pub(super) fn pieces(
    reach: Reach,
    layout: &Layout,
    group: &Group,
    volume: &str,
) -> Result<Vec<Piece>> {
    let found = group.volume(volume).ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("domain {}: no logical volume {volume}", group.name),
        )
    })?;
    if reach == Reach::Mapped {
        return Ok(vec![Piece {
            device: layout.logical_volume(&group.name, volume),
            start: 0,
            length: found.extents() * group.extent_bytes,
        }]);
    }
    let mut pieces = Vec::new();
    for segment in &found.segments {
        let (physical, first) = segment.linear.as_ref().ok_or_else(|| {
            Failure::new(
                FailureKind::Unsupported,
                format!("domain {}: volume {volume} is not linear", group.name),
            )
        })?;
        let physical = group.physical(physical).ok_or_else(|| {
            Failure::new(
                FailureKind::Damaged,
                format!(
                    "domain {}: volume {volume} is on {physical}, which is not in the group",
                    group.name
                ),
            )
        })?;
        let device = physical.device.clone().ok_or_else(|| {
            Failure::new(
                FailureKind::Io,
                format!(
                    "domain {}: device of physical volume {} is missing",
                    group.name, physical.uuid
                ),
            )
        })?;
        pieces.push(Piece {
            device,
            start: physical.start_bytes + first * group.extent_bytes,
            length: segment.count * group.extent_bytes,
        });
    }
    Ok(pieces)
}

/// An open volume.
#[derive(Debug)]
pub struct Region {
    parts: Vec<(Arc<BlockDevice>, Piece)>,
}

impl Region {
    /// Opens the pieces of a volume.
    ///
    /// # Errors
    /// A device cannot be opened.
    pub fn open(pieces: Vec<Piece>, access: Access) -> Result<Self> {
        let mut parts: Vec<(Arc<BlockDevice>, Piece)> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let open = parts.iter().find(|(_, other)| other.device == piece.device);
            let device = match open {
                Some((device, _)) => Arc::clone(device),
                None => Arc::new(
                    BlockDevice::open(&piece.device, access)
                        .map_err(|error| Failure::new(FailureKind::Io, error.to_string()))?,
                ),
            };
            parts.push((device, piece));
        }
        Ok(Self { parts })
    }

    /// Bytes of the volume.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.parts.iter().map(|(_, piece)| piece.length).sum()
    }

    /// Reads `length` bytes from `offset`; both multiples of the sector size.
    ///
    /// # Errors
    /// Beyond the end; the kernel's error.
    pub fn read(&self, offset: u64, length: usize) -> Result<AlignedBuffer> {
        let mut buffer = AlignedBuffer::new(length);
        self.each(offset, length, |device, at, range| {
            let part = buffer.get_mut(range).unwrap_or_default();
            device.read_at(part, at)
        })?;
        Ok(buffer)
    }

    /// Writes `bytes` at `offset`; both multiples of the sector size. Durable on
    /// return; one write where the bytes lie in one piece.
    ///
    /// # Errors
    /// Beyond the end; the kernel's error, after which the bytes may be there
    /// all the same.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut buffer = AlignedBuffer::new(bytes.len());
        buffer.copy_from_slice(bytes);
        self.each(offset, bytes.len(), |device, at, range| {
            device.write_at(buffer.get(range).unwrap_or_default(), at)
        })
    }

    /// Writes zeros over `length` bytes from `offset`.
    ///
    /// # Errors
    /// As [`Self::write`]; `Cancelled` between two writes.
    pub fn zero(&self, context: &Context, offset: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            context.go_on()?;
            let left = usize::try_from(length - done).unwrap_or(usize::MAX);
            let now = left.min(ZERO_BYTES);
            self.write(offset + done, &AlignedBuffer::new(now))?;
            done += bytes_u64(now);
        }
        Ok(())
    }

    fn each(
        &self,
        offset: u64,
        length: usize,
        mut io: impl FnMut(
            &BlockDevice,
            u64,
            std::ops::Range<usize>,
        ) -> std::result::Result<(), linux::disk::IoError>,
    ) -> Result<()> {
        let total = self.length();
        let end = offset.checked_add(bytes_u64(length));
        if end.is_none_or(|end| end > total) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("{length} bytes at {offset}: the volume has {total}"),
            ));
        }
        let mut begins = 0;
        let mut done = 0;
        for (device, piece) in &self.parts {
            let at = offset + bytes_u64(done);
            if done < length && at < begins + piece.length {
                let inside = at - begins;
                let room = usize::try_from(piece.length - inside).unwrap_or(usize::MAX);
                let now = room.min(length - done);
                io(device, piece.start + inside, done..done + now).map_err(|error| {
                    Failure::new(
                        FailureKind::Io,
                        format!(
                            "{}: {now} bytes at {}: {error}",
                            piece.device.display(),
                            piece.start + inside
                        ),
                    )
                })?;
                done += now;
            }
            begins += piece.length;
        }
        Ok(())
    }
}

/// usize is 64 bits wide on every machine this runs on.
fn bytes_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
