//! Delta leases: one sector a host, and the lockspace area made of them.

use crate::bitmap::{BITMAP_BYTES, HostBitmap};
use crate::error::{Record, RecordError};
use crate::geometry::Geometry;
use crate::id::{LockspaceName, NameField};
use crate::leader::{LEADER_BYTES, Leader, MAJOR_VERSION_MASK};

/// Magic number of a delta lease.
pub const MAGIC: u32 = 0x1221_2010;
/// Version written; minor versions are ignored on reading.
pub const VERSION: u32 = 0x0003_0004;
/// What of a delta lease's sector carries meaning, in bytes: leader record,
/// padding, bitmap. The rest of a 4096-byte sector is zero.
pub const RECORD_BYTES: usize = 512;
/// Where in its sector the bitmap starts, in bytes.
pub const BITMAP_OFFSET: usize = 256;
/// Bytes to read at an area's start to learn its geometry.
pub const PROBE_BYTES: usize = 4096;

const _: () = assert!(LEADER_BYTES <= BITMAP_OFFSET);
const _: () = assert!(BITMAP_OFFSET + BITMAP_BYTES == RECORD_BYTES);

/// Reads the leader record at the start of a sector without judging it.
/// `None` when there are fewer than 200 bytes.
#[must_use]
pub fn leader(sector: &[u8]) -> Option<Leader> {
    sector.first_chunk().map(Leader::decode)
}

/// Reads the bitmap of a sector. `None` when the sector is too short.
#[must_use]
pub fn bitmap(sector: &[u8]) -> Option<HostBitmap> {
    sector
        .get(BITMAP_OFFSET..)?
        .first_chunk()
        .copied()
        .map(HostBitmap)
}

/// Checks a delta lease of a lockspace; the order of the checks is the
/// original's, so that the first error is the same.
///
/// # Errors
/// The first check that fails: magic, major version, lockspace name, checksum.
pub fn verify(leader: &Leader, lockspace: &LockspaceName) -> Result<(), RecordError> {
    verify_kind(leader)?;
    if !leader.space_name.same_name(lockspace.field()) {
        return Err(RecordError::Lockspace {
            found: leader.space_name,
            expected: *lockspace.field(),
        });
    }
    verify_checksum(leader)
}

/// Checks that this is a delta lease this code can read, of whatever
/// lockspace.
///
/// # Errors
/// Magic or major version.
pub fn verify_kind(leader: &Leader) -> Result<(), RecordError> {
    if leader.magic != MAGIC {
        return Err(RecordError::Magic {
            record: Record::Delta,
            found: leader.magic,
            expected: MAGIC,
        });
    }
    let supported = VERSION & MAJOR_VERSION_MASK;
    if leader.version & MAJOR_VERSION_MASK != supported {
        return Err(RecordError::Version {
            record: Record::Delta,
            found: leader.version,
            supported,
        });
    }
    Ok(())
}

/// Checks the checksum alone.
///
/// # Errors
/// [`RecordError::Checksum`].
pub fn verify_checksum(leader: &Leader) -> Result<(), RecordError> {
    let computed = leader.computed_checksum();
    if leader.checksum == computed {
        Ok(())
    } else {
        Err(RecordError::Checksum {
            found: leader.checksum,
            computed,
        })
    }
}

/// The geometry stated by the record of host 1, given the first bytes of an
/// area.
///
/// # Errors
/// Magic, version, sector size, or a pair that is no geometry.
pub fn discover(area_start: &[u8]) -> Result<Geometry, RecordError> {
    let leader = leader(area_start).ok_or(RecordError::Magic {
        record: Record::Delta,
        found: 0,
        expected: MAGIC,
    })?;
    verify_kind(&leader)?;
    Geometry::from_leader(leader.sector_size, leader.flags)
}

/// What the holder of a delta lease tells the hosts of its bitmap: an event,
/// stored where a paxos leader names its writer. All zero: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostExtras {
    /// Generation the event is meant for.
    pub generation: u64,
    /// Number of the event; 0 = none.
    pub event: u64,
    /// Data that goes with it.
    pub data: u64,
}

impl HostExtras {
    /// Nothing to tell.
    pub const NONE: Self = Self {
        generation: 0,
        event: 0,
        data: 0,
    };

    /// What a delta lease's record says.
    #[must_use]
    pub fn of(leader: &Leader) -> Self {
        Self {
            generation: leader.write_id,
            event: leader.write_generation,
            data: leader.write_timestamp,
        }
    }

    /// The record saying this. These fields are outside the checksum.
    #[must_use]
    pub fn stored_in(self, leader: Leader) -> Leader {
        Leader {
            write_id: self.generation,
            write_generation: self.event,
            write_timestamp: self.data,
            ..leader
        }
    }
}

/// The record every host has after initialisation.
#[must_use]
pub fn initial(lockspace: &LockspaceName, geometry: Geometry, io_timeout_s: u8) -> Leader {
    initial_named(lockspace.field(), geometry, u16::from(io_timeout_s))
}

/// The same with whatever name (even none) and timeout the original accepts.
#[must_use]
pub fn initial_named(lockspace: &NameField, geometry: Geometry, io_timeout_s: u16) -> Leader {
    Leader {
        magic: MAGIC,
        version: VERSION,
        flags: geometry.align_flag(),
        sector_size: geometry.sector_size(),
        num_hosts: 0,
        max_hosts: 1,
        owner_id: 0,
        owner_generation: 0,
        lver: 0,
        space_name: lockspace.cleaned(),
        resource_name: NameField::EMPTY,
        timestamp: 0,
        unused1: 0,
        checksum: 0,
        unused2: 0,
        io_timeout: io_timeout_s,
        write_id: 0,
        write_generation: 0,
        write_timestamp: 0,
    }
    .sealed()
}

/// Fills a whole sector: record, bitmap, zeros. `sector` has the geometry's
/// sector size; bytes that do not fit a shorter one are left out.
pub fn encode_sector(leader: &Leader, bitmap: &HostBitmap, sector: &mut [u8]) {
    sector.fill(0);
    if let Some(place) = sector.first_chunk_mut() {
        *place = leader.encode();
    }
    if let Some(place) = sector
        .get_mut(BITMAP_OFFSET..)
        .and_then(|rest| rest.first_chunk_mut())
    {
        *place = bitmap.0;
    }
}

/// Fills the part of a freshly initialised area that starts at sector
/// `first_sector`; `part` is a whole number of sectors. With `committed`
/// false the very first record has magic 0: that is how an area is first
/// written as a whole, so that it counts only once its first sector has been
/// written again (spec §2.9).
pub fn fill_initial(
    lockspace: &LockspaceName,
    geometry: Geometry,
    io_timeout_s: u8,
    first_sector: usize,
    committed: bool,
    part: &mut [u8],
) {
    let record = initial(lockspace, geometry, io_timeout_s);
    fill_with(&record, geometry, first_sector, committed, part);
}

/// [`fill_initial`] with a record of [`initial_named`].
pub fn fill_with(
    record: &Leader,
    geometry: Geometry,
    first_sector: usize,
    committed: bool,
    part: &mut [u8],
) {
    let sector_size = geometry.sector_bytes();
    for (number, sector) in part.chunks_mut(sector_size).enumerate() {
        let index = first_sector.saturating_add(number);
        if index >= usize::from(geometry.max_hosts()) {
            sector.fill(0);
        } else if index == 0 && !committed {
            let uncommitted = Leader {
                magic: 0,
                ..*record
            };
            encode_sector(&uncommitted, &HostBitmap::EMPTY, sector);
        } else {
            encode_sector(record, &HostBitmap::EMPTY, sector);
        }
    }
}
