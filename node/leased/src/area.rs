//! A lockspace area on a device: initialise it, look at it. For tools; the
//! daemon's own renewal path goes through workers instead.
//!
//! All of these block for as long as the device likes.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use disk_format::{Content, Geometry, GeometryError, HostId, LockspaceName, RecordError, delta};
use lease::init::{Holder, InitPlan, InitRefusal, Survey, confirm_dead, plan_init};
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError, OpenError};

/// Bytes moved by one call.
const CHUNK: usize = 1 << 20;

/// Why an area was not read or not made.
#[derive(Debug, thiserror::Error)]
pub enum AreaError {
    /// The device cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The area would reach beyond the device.
    #[error("{}: {size} bytes: an area at offset {offset} needs {needed}; enlarge the device or choose another offset or geometry", .path.display())]
    TooSmall {
        /// Device.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Start of the area.
        offset: u64,
        /// Bytes needed in all.
        needed: u64,
    },
    /// The offset is not a multiple of the align size.
    #[error("offset {offset}: must be a multiple of the align size, {align_size}")]
    Offset {
        /// Given.
        offset: u64,
        /// Align size in bytes.
        align_size: u32,
    },
    /// Sizes that do not go together.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A sector size below the device's.
    #[error("sector size {wanted}: {} has sectors of {device} bytes; give --sector-size {device} or none", .path.display())]
    SectorSize {
        /// Device.
        path: PathBuf,
        /// Asked for.
        wanted: u32,
        /// The device's.
        device: u32,
    },
    /// An I/O timeout out of range.
    #[error("io_timeout 0: allowed are 1 to 255 seconds")]
    IoTimeout,
    /// A read or write failed.
    #[error("{}: {operation} at byte {offset}: {source}; look in the kernel log for the device", .path.display())]
    Io {
        /// Device.
        path: PathBuf,
        /// `read` or `write`.
        operation: &'static str,
        /// Where.
        offset: u64,
        /// What happened, already part of the message.
        source: IoError,
    },
    /// What is there is not to be destroyed.
    #[error("{}: {refusal}", .path.display())]
    Refused {
        /// Device.
        path: PathBuf,
        /// Why.
        refusal: Box<InitRefusal>,
    },
    /// There is no lockspace to look at.
    #[error("{}: offset {offset} holds {content}, not a lockspace; initialise one with: nodectl lockspace init NAME --path {}{}", .path.display(), .path.display(), offset_argument(*.offset))]
    NoLockspace {
        /// Device.
        path: PathBuf,
        /// Start of the area.
        offset: u64,
        /// What is there.
        content: Box<Content>,
    },
    /// A lockspace this code cannot read.
    #[error("{}: lockspace at offset {offset}: {error}; it was made by another version, or is damaged", .path.display())]
    Record {
        /// Device.
        path: PathBuf,
        /// Start of the area.
        offset: u64,
        /// What is wrong, already part of the message.
        error: Box<RecordError>,
    },
}

/// ` --offset N` unless it is 0, which need not be said.
fn offset_argument(offset: u64) -> String {
    if offset == 0 {
        String::new()
    } else {
        format!(" --offset {offset}")
    }
}

/// What to initialise.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Device or file; it must exist and be large enough.
    pub path: PathBuf,
    /// Byte offset of the area, a multiple of the align size.
    pub offset: u64,
    /// Name of the lockspace.
    pub name: LockspaceName,
    /// 512 or 4096; `None`: the device's logical sector size, 512 for a file.
    pub sector_size: Option<u32>,
    /// Bytes; `None`: 1 MiB with 512-byte sectors, 8 MiB with 4096.
    pub align_size: Option<u32>,
    /// Seconds, 1–255; stored until a host acquires with its own.
    pub io_timeout_s: u8,
    /// The name that allows existing content to be destroyed (see [`lease::init`]).
    pub force: Option<LockspaceName>,
    /// The watchdogs' fire timeout in this cluster, seconds (60 unless changed everywhere).
    pub fire_timeout_s: u32,
}

impl InitOptions {
    /// The usual options: area at offset 0, sizes from the device, nothing destroyed.
    #[must_use]
    pub fn new(path: &Path, name: LockspaceName) -> Self {
        Self {
            path: path.to_path_buf(),
            offset: 0,
            name,
            sector_size: None,
            align_size: None,
            io_timeout_s: 10,
            force: None,
            fire_timeout_s: 60,
        }
    }
}

/// How far an initialisation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Looking at what is there.
    Reading {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Making sure that hosts with a lease are dead.
    Watching {
        /// The hosts.
        holders: Vec<Holder>,
        /// Seconds left.
        left_s: u64,
    },
    /// Writing.
    Writing {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// Initialises a lockspace area; reports progress at least once a second or
/// once a MiB. An interruption at any moment leaves no valid lockspace behind
/// unless the whole of it is there.
///
/// # Errors
/// See [`AreaError`]; after [`AreaError::Refused`] nothing was written.
pub fn init(
    options: &InitOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Geometry, AreaError> {
    if options.io_timeout_s == 0 {
        return Err(AreaError::IoTimeout);
    }
    let device = BlockDevice::open(&options.path, Access::ReadWrite)?;
    let geometry = wanted_geometry(&device, options)?;
    let align_size = geometry.align_size();
    if !options.offset.is_multiple_of(u64::from(align_size)) {
        return Err(AreaError::Offset {
            offset: options.offset,
            align_size,
        });
    }
    check_size(&device, options.offset, geometry)?;

    let refused = |refusal| AreaError::Refused {
        path: options.path.clone(),
        refusal: Box::new(refusal),
    };
    let extent = extent_to_survey(&device, options.offset, geometry)?;
    let before = survey(&device, options.offset, extent, progress)?;
    let plan = plan_init(
        &before,
        &options.name,
        options.force.as_ref(),
        options.fire_timeout_s,
    )
    .map_err(refused)?;
    if let InitPlan::WatchThenWrite { holders, watch_s } = plan {
        watch(&holders, watch_s, progress);
        let after = survey(&device, options.offset, extent, progress)?;
        confirm_dead(&before, &after).map_err(refused)?;
    }
    write_area(&device, options, geometry, progress)?;
    Ok(geometry)
}

fn wanted_geometry(device: &BlockDevice, options: &InitOptions) -> Result<Geometry, AreaError> {
    let sector_size = options.sector_size.or(device.sector_size()).unwrap_or(512);
    if let Some(own) = device.sector_size().filter(|&own| sector_size < own) {
        return Err(AreaError::SectorSize {
            path: options.path.clone(),
            wanted: sector_size,
            device: own,
        });
    }
    Ok(
        match (options.align_size, Geometry::default_for(sector_size)) {
            (None, Some(geometry)) => geometry,
            (align_size, _) => Geometry::new(sector_size, align_size.unwrap_or(1 << 20))?,
        },
    )
}

fn check_size(device: &BlockDevice, offset: u64, geometry: Geometry) -> Result<(), AreaError> {
    let needed = offset.saturating_add(u64::from(geometry.align_size()));
    if device.size() < needed {
        return Err(AreaError::TooSmall {
            path: device.path().to_path_buf(),
            size: device.size(),
            offset,
            needed,
        });
    }
    Ok(())
}

/// Bytes to look at: the new area, and the whole of a larger lockspace that
/// begins at the same place, whose hosts would lose their leases just so.
fn extent_to_survey(
    device: &BlockDevice,
    offset: u64,
    geometry: Geometry,
) -> Result<u64, AreaError> {
    let mut probe = AlignedBuffer::new(delta::PROBE_BYTES);
    read(device, &mut probe, offset)?;
    let existing = delta::discover(&probe).map_or(0, Geometry::align_size);
    let whole_chunks = device.size().saturating_sub(offset) / chunk_bytes() * chunk_bytes();
    Ok(u64::from(existing.max(geometry.align_size())).min(whole_chunks))
}

fn survey(
    device: &BlockDevice,
    offset: u64,
    total: u64,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Survey, AreaError> {
    let mut found = Survey::default();
    let mut chunk = AlignedBuffer::new(CHUNK);
    let mut done = 0;
    while done < total {
        progress(&Progress::Reading { done, total });
        read(device, &mut chunk, offset + done)?;
        found.feed(done, &chunk);
        done += chunk_bytes();
    }
    Ok(found)
}

fn watch(holders: &[Holder], watch_s: u64, progress: &mut dyn FnMut(&Progress)) {
    let end_ns = linux::clock::boottime_ns().saturating_add(watch_s.saturating_mul(1_000_000_000));
    loop {
        let left_ns = end_ns.saturating_sub(linux::clock::boottime_ns());
        if left_ns == 0 {
            return;
        }
        progress(&Progress::Watching {
            holders: holders.to_vec(),
            left_s: left_ns.div_ceil(1_000_000_000),
        });
        thread::sleep(Duration::from_nanos(left_ns.min(1_000_000_000)));
    }
}

fn write_area(
    device: &BlockDevice,
    options: &InitOptions,
    geometry: Geometry,
    progress: &mut dyn FnMut(&Progress),
) -> Result<(), AreaError> {
    let total = u64::from(geometry.align_size());
    let sector_size = sector_bytes(geometry);
    let mut chunk = AlignedBuffer::new(CHUNK);
    let mut done = 0;
    let mut sector = 0;
    while done < total {
        progress(&Progress::Writing { done, total });
        delta::fill_initial(
            &options.name,
            geometry,
            options.io_timeout_s,
            sector,
            false,
            &mut chunk,
        );
        write(device, &chunk, options.offset + done)?;
        done += chunk_bytes();
        sector += CHUNK / sector_size;
    }
    // The commit: until this write the first record has no magic number.
    let first = &mut chunk[..sector_size];
    delta::fill_initial(
        &options.name,
        geometry,
        options.io_timeout_s,
        0,
        true,
        first,
    );
    write(device, first, options.offset)?;
    progress(&Progress::Writing { done: total, total });
    Ok(())
}

/// What one host's record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// Host id, from the sector's place.
    pub host_id: HostId,
    /// Host id in the record (0 = never acquired).
    pub owner_id: u64,
    /// Unique name of the host that has or had it.
    pub name: String,
    /// Generation.
    pub generation: u64,
    /// The host's clock at its last renewal, seconds; 0 = free.
    pub timestamp: u64,
    /// Its I/O timeout, seconds.
    pub io_timeout_s: u16,
    /// Hosts it wants to notify.
    pub notifies: Vec<HostId>,
    /// What is wrong with the record, if anything.
    pub damage: Option<RecordError>,
}

/// A lockspace area as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Device or file.
    pub path: PathBuf,
    /// Byte offset of the area.
    pub offset: u64,
    /// Name of the lockspace.
    pub lockspace: String,
    /// Its sizes.
    pub geometry: Geometry,
    /// Every record that was ever acquired, or is damaged, by ascending host id.
    pub hosts: Vec<HostRecord>,
}

/// Reads a lockspace area; never writes, and opens the device read-only.
///
/// # Errors
/// See [`AreaError`]. A damaged record is no error, it is part of the result.
pub fn inspect(path: &Path, offset: u64) -> Result<Inspection, AreaError> {
    let device = BlockDevice::open(path, Access::Read)?;
    let mut probe = AlignedBuffer::new(delta::PROBE_BYTES);
    let needed = offset.saturating_add(u64::from(Geometry::Sector512Align1M.align_size()));
    if device.size() < needed {
        return Err(AreaError::TooSmall {
            path: path.to_path_buf(),
            size: device.size(),
            offset,
            needed,
        });
    }
    read(&device, &mut probe, offset)?;
    let geometry = delta::discover(&probe).map_err(|error| match error {
        RecordError::Magic { .. } => AreaError::NoLockspace {
            path: path.to_path_buf(),
            offset,
            content: Box::new(Content::of(&probe)),
        },
        error => AreaError::Record {
            path: path.to_path_buf(),
            offset,
            error: Box::new(error),
        },
    })?;
    check_size(&device, offset, geometry)?;
    let Some(first) = delta::leader(&probe) else {
        unreachable!("the probe is longer than a record")
    };
    let sector_size = sector_bytes(geometry);
    let mut hosts = Vec::new();
    let mut chunk = AlignedBuffer::new(CHUNK);
    let mut done = 0;
    let mut index = 0;
    while done < u64::from(geometry.align_size()) {
        read(&device, &mut chunk, offset + done)?;
        for sector in chunk.chunks_exact(sector_size) {
            if let Some(host_id) = HostId::from_index(index).filter(|id| id.fits(geometry).is_ok())
            {
                hosts.extend(host_record(host_id, sector, &first));
            }
            index += 1;
        }
        done += chunk_bytes();
    }
    Ok(Inspection {
        path: path.to_path_buf(),
        offset,
        lockspace: first.space_name.to_string(),
        geometry,
        hosts,
    })
}

/// The record in a sector, unless it is in order and was never acquired.
fn host_record(host_id: HostId, sector: &[u8], first: &disk_format::Leader) -> Option<HostRecord> {
    let leader = delta::leader(sector)?;
    let same_lockspace = if leader.space_name.same_name(&first.space_name) {
        Ok(())
    } else {
        Err(RecordError::Lockspace {
            found: leader.space_name,
            expected: first.space_name,
        })
    };
    let damage = delta::verify_kind(&leader)
        .and(same_lockspace)
        .and_then(|()| delta::verify_checksum(&leader))
        .err();
    if damage.is_none() && leader.owner_id == 0 && leader.owner_generation == 0 {
        return None;
    }
    let bitmap = delta::bitmap(sector)?;
    Some(HostRecord {
        host_id,
        owner_id: leader.owner_id,
        name: leader.resource_name.to_string(),
        generation: leader.owner_generation,
        timestamp: leader.timestamp,
        io_timeout_s: leader.io_timeout,
        notifies: (0..2000)
            .filter_map(HostId::from_index)
            .filter(|&host| bitmap.contains(host))
            .collect(),
        damage,
    })
}

fn read(device: &BlockDevice, into: &mut [u8], offset: u64) -> Result<(), AreaError> {
    device
        .read_at(into, offset)
        .map_err(|source| AreaError::Io {
            path: device.path().to_path_buf(),
            operation: "read",
            offset,
            source,
        })
}

fn write(device: &BlockDevice, from: &[u8], offset: u64) -> Result<(), AreaError> {
    device
        .write_at(from, offset)
        .map_err(|source| AreaError::Io {
            path: device.path().to_path_buf(),
            operation: "write",
            offset,
            source,
        })
}

fn chunk_bytes() -> u64 {
    u64::try_from(CHUNK).unwrap_or(u64::MAX)
}

fn sector_bytes(geometry: Geometry) -> usize {
    // 512 or 4096.
    usize::try_from(geometry.sector_size()).unwrap_or(4096)
}
