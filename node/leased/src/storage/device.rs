//! A device for one command: every failure as the number clients know.

use disk_format::Geometry;
use lease::code::Code;
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError, OpenError};
use sanlock_wire::Disk;

/// File too large.
const EFBIG: i32 = 27;
/// Bytes written by one call.
const CHUNK: usize = 1 << 20;

/// An open device or file.
#[derive(Debug)]
pub(crate) struct Device(BlockDevice);

impl Device {
    /// Opens a device for resources: the kernel's own error number.
    pub(crate) fn open(disk: &Disk, access: Access) -> Result<Self, Code> {
        if disk.path.is_empty() {
            return Err(Code::ENOENT);
        }
        BlockDevice::open(disk.path.as_path(), access)
            .map(Self)
            .map_err(|error| open_code(&error))
    }

    /// Opens a device for a lockspace, where every failure has one number.
    pub(crate) fn open_lockspace(disk: &Disk, access: Access) -> Result<Self, Code> {
        Self::open(disk, access).map_err(|_| Code::ENODEV)
    }

    /// The geometry a new area gets when none is asked for.
    pub(crate) fn default_geometry(&self) -> Geometry {
        self.0
            .sector_size()
            .and_then(Geometry::default_for)
            .unwrap_or(Geometry::Sector512Align1M)
    }

    /// Whether sectors of this size can be read and written here.
    pub(crate) fn check_sector(&self, sector_size: u32) -> Result<(), Code> {
        match self.0.sector_size() {
            Some(own) if own > sector_size => Err(Code::EINVAL),
            _ => Ok(()),
        }
    }

    /// Reads `bytes` bytes, a whole number of sectors, at `offset`.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> Result<AlignedBuffer, Code> {
        self.check_offset(offset)?;
        let mut buffer = AlignedBuffer::new(bytes);
        self.0
            .read_at(&mut buffer, offset)
            .map_err(|error| io_code(&error))?;
        Ok(buffer)
    }

    /// Writes `buffer`, a whole number of sectors, at `offset`.
    pub(crate) fn write(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), Code> {
        self.check_offset(offset)?;
        self.0
            .write_at(buffer, offset)
            .map_err(|error| io_code(&error))
    }

    /// Writes a whole area. `fill` makes the part that starts at a sector; with
    /// `committed` false its first sector must not look valid.
    ///
    /// An area of one write is written at once, unless `in_two_steps`. A
    /// larger one is first written without validity, then its first sector
    /// again: an interruption leaves nothing that could be taken for an area.
    pub(crate) fn write_area(
        &self,
        offset: u64,
        geometry: Geometry,
        in_two_steps: bool,
        fill: &dyn Fn(u32, bool, &mut [u8]),
    ) -> Result<(), Code> {
        let area = geometry.area_bytes();
        let sector = u64::from(geometry.sector_size());
        if !offset.is_multiple_of(sector) {
            return Err(Code::EINVAL);
        }
        self.check_sector(geometry.sector_size())?;
        let end = offset
            .checked_add(u64::from(geometry.align_size()))
            .ok_or(Code::errno(EFBIG))?;
        // A file grows; a device does not, and is not written in part.
        if self.0.sector_size().is_some() && end > self.0.size() {
            return Err(Code::ENOSPC);
        }
        let at_once = area <= CHUNK && !in_two_steps;
        let mut part = AlignedBuffer::new(area.min(CHUNK));
        let mut place = offset;
        for first_sector in (0..geometry.sectors()).step_by(part.len() / geometry.sector_bytes()) {
            fill(first_sector, at_once, &mut part);
            self.write(place, &part)?;
            place += u64::try_from(part.len()).unwrap_or(u64::MAX);
        }
        if !at_once {
            let mut first = AlignedBuffer::new(geometry.sector_bytes());
            fill(0, true, &mut first);
            self.write(offset, &first)?;
        }
        Ok(())
    }

    /// The disk's own rule; files accept more than devices do, so it is asked
    /// of both.
    fn check_offset(&self, offset: u64) -> Result<(), Code> {
        let sector = u64::from(self.0.sector_size().unwrap_or(512));
        if offset.is_multiple_of(sector) {
            Ok(())
        } else {
            Err(Code::EINVAL)
        }
    }
}

pub(super) fn open_code(error: &OpenError) -> Code {
    const EACCES: i32 = 13;
    const EISDIR: i32 = 21;
    match error {
        OpenError::Missing { .. } => Code::ENOENT,
        OpenError::WrongKind { path } if path.is_dir() => Code::errno(EISDIR),
        OpenError::WrongKind { .. }
        | OpenError::NoDirectIo { .. }
        | OpenError::SectorSize { .. } => Code::EINVAL,
        OpenError::ReadOnly { .. } => Code::errno(EACCES),
        OpenError::Other { source, .. } => source.raw_os_error().map_or(Code::EIO, Code::errno),
    }
}

fn io_code(error: &IoError) -> Code {
    match error {
        IoError::Os(number) => Code::errno(*number),
        IoError::Short(_) => Code::EMSGSIZE,
        IoError::Expired => Code::AIO_TIMEOUT,
    }
}
