//! The resource index: names and places of the resources of a lockspace.
//!
//! ```text
//! index offset            header in sector 0, then 64 bytes an entry, packed
//!            + align      an ordinary resource, `rindex_lease`: who may change the index
//!            + (2+i)align resource of entry i
//! ```

use crate::error::{Record, RecordError};
use crate::geometry::Geometry;
use crate::id::{LockspaceName, NameField};
use crate::leader::MAJOR_VERSION_MASK;
use crate::wire::{Reader, Writer, chunk_at, put_at};

/// Magic number of an index's header.
pub const MAGIC: u32 = 0x0104_2018;
/// Version written; minor versions are ignored on reading.
pub const VERSION: u32 = 0x0001_0002;
/// Size of the header on disk, in bytes.
pub const HEADER_BYTES: usize = 80;
/// Size of an entry on disk, in bytes.
pub const ENTRY_BYTES: usize = 64;
/// Entries of a new index unless another number is asked for.
pub const RESOURCES_DEFAULT: u32 = 4096;
/// Name of the resource that protects the index.
pub const LEASE_NAME: &str = "rindex_lease";

const _: () = assert!(HEADER_BYTES <= 512);

/// The header, field by field as on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What kind of record this is.
    pub magic: u32,
    /// Major version in the upper half.
    pub version: u32,
    /// Align size: 1, 2, 4 or 8 (MiB).
    pub flags: u32,
    /// Sector size in bytes.
    pub sector_size: u32,
    /// Number of entries; 0 = as many as the geometry has.
    pub max_resources: u32,
    /// Unused.
    pub unused: u32,
    /// Where on the device the index starts, in bytes.
    pub rx_offset: u64,
    /// Lockspace of all its resources.
    pub lockspace_name: NameField,
}

impl Header {
    /// The header of a new index. `max_resources` 0 means
    /// [`RESOURCES_DEFAULT`]; more than the geometry has is cut.
    #[must_use]
    pub fn initial(
        lockspace: &NameField,
        geometry: Geometry,
        max_resources: u32,
        rx_offset: u64,
    ) -> Self {
        let wanted = if max_resources == 0 {
            RESOURCES_DEFAULT
        } else {
            max_resources
        };
        Self {
            magic: MAGIC,
            version: VERSION,
            flags: geometry.align_size() >> 20,
            sector_size: geometry.sector_size(),
            max_resources: wanted.min(entries_max(geometry)),
            unused: 0,
            rx_offset,
            lockspace_name: lockspace.cleaned(),
        }
    }

    /// Reads the header at the start of an index without judging it.
    ///
    /// # Errors
    /// [`RecordError::Truncated`] when there are fewer than 80 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; HEADER_BYTES] = chunk_at(sector, 0)?;
        let mut from = Reader(bytes);
        Ok(Self {
            magic: from.u32(),
            version: from.u32(),
            flags: from.u32(),
            sector_size: from.u32(),
            max_resources: from.u32(),
            unused: from.u32(),
            rx_offset: from.u64(),
            lockspace_name: NameField(from.bytes()),
        })
    }

    /// Writes the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut to = Writer(&mut bytes);
        to.u32(self.magic);
        to.u32(self.version);
        to.u32(self.flags);
        to.u32(self.sector_size);
        to.u32(self.max_resources);
        to.u32(self.unused);
        to.u64(self.rx_offset);
        to.bytes(&self.lockspace_name.0);
        bytes
    }

    /// Checks the header of an index read at byte `offset`; the order of the
    /// checks is the original's.
    ///
    /// # Errors
    /// The first check that fails: magic, major version, lockspace, offset.
    pub fn verify(&self, lockspace: &LockspaceName, offset: u64) -> Result<(), RecordError> {
        self.verify_kind()?;
        if !self.lockspace_name.same_name(lockspace.field()) {
            return Err(RecordError::IndexLockspace {
                found: self.lockspace_name,
                expected: *lockspace.field(),
            });
        }
        if self.rx_offset != offset {
            return Err(RecordError::IndexOffset {
                found: self.rx_offset,
                expected: offset,
            });
        }
        Ok(())
    }

    /// Checks that this is an index this code can read, wherever it lies.
    ///
    /// # Errors
    /// Magic or major version.
    pub fn verify_kind(&self) -> Result<(), RecordError> {
        if self.magic != MAGIC {
            return Err(RecordError::Magic {
                record: Record::Index,
                found: self.magic,
                expected: MAGIC,
            });
        }
        let supported = VERSION & MAJOR_VERSION_MASK;
        if self.version & MAJOR_VERSION_MASK != supported {
            return Err(RecordError::Version {
                record: Record::Index,
                found: self.version,
                supported,
            });
        }
        Ok(())
    }

    /// The geometry the header states.
    ///
    /// # Errors
    /// [`RecordError::SectorSize`] or [`RecordError::Geometry`].
    pub fn geometry(&self) -> Result<Geometry, RecordError> {
        if self.sector_size != 512 && self.sector_size != 4096 {
            return Err(RecordError::SectorSize {
                found: self.sector_size,
            });
        }
        Geometry::ALL
            .into_iter()
            .find(|geometry| {
                geometry.sector_size() == self.sector_size
                    && geometry.align_size() >> 20 == self.flags
            })
            .ok_or(RecordError::Geometry {
                sector_size: self.sector_size,
                flags: self.flags,
            })
    }

    /// Number of entries that may be used: what the header says, within what
    /// the geometry has.
    #[must_use]
    pub fn entries(&self, geometry: Geometry) -> u32 {
        let most = entries_max(geometry);
        if self.max_resources == 0 {
            most
        } else {
            self.max_resources.min(most)
        }
    }
}

/// Number of entries an index can have at most.
#[must_use]
pub const fn entries_max(geometry: Geometry) -> u32 {
    match geometry.align_size() >> 20 {
        1 => 16_000,
        2 => 32_000,
        4 => 64_000,
        _ => 128_000,
    }
}

// The last entry lies inside the area.
const _: () = {
    let mut index = 0;
    while index < Geometry::ALL.len() {
        #[expect(
            clippy::indexing_slicing,
            reason = "evaluated at compile time, bounded by the loop"
        )]
        let geometry = Geometry::ALL[index];
        assert!(geometry.sector_size() + entries_max(geometry) * 64 <= geometry.align_size());
        index += 1;
    }
};

/// Where in an index entry `number` starts, in bytes from the index's start.
#[must_use]
pub fn entry_offset(geometry: Geometry, number: u32) -> u64 {
    u64::from(geometry.sector_size()) + 64 * u64::from(number)
}

/// Where on the device the resource of entry `number` lies, in bytes. `None`
/// beyond the largest offset there is.
#[must_use]
pub fn resource_offset(rx_offset: u64, geometry: Geometry, number: u32) -> Option<u64> {
    (u64::from(number) + 2)
        .checked_mul(u64::from(geometry.align_size()))?
        .checked_add(rx_offset)
}

/// The entry whose resource lies at `offset`, if that is a place of one.
#[must_use]
pub fn entry_at(rx_offset: u64, geometry: Geometry, offset: u64) -> Option<u32> {
    let align = u64::from(geometry.align_size());
    let distance = offset.checked_sub(rx_offset)?;
    if !distance.is_multiple_of(align) {
        return None;
    }
    u32::try_from((distance / align).checked_sub(2)?)
        .ok()
        .filter(|&number| number < entries_max(geometry))
}

/// One entry, field by field as on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where on the device the resource starts, in bytes.
    pub res_offset: u64,
    /// Unused so far.
    pub flags: u32,
    /// Unused.
    pub unused: u32,
    /// Name of the resource.
    pub name: NameField,
}

impl Entry {
    /// An entry nobody uses.
    pub const FREE: Self = Self {
        res_offset: 0,
        flags: 0,
        unused: 0,
        name: NameField::EMPTY,
    };

    /// The entry of a resource.
    #[must_use]
    pub fn new(name: &NameField, res_offset: u64) -> Self {
        Self {
            res_offset,
            name: name.cleaned(),
            ..Self::FREE
        }
    }

    /// Whether nobody uses it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.res_offset == 0 && self.name.is_empty()
    }

    /// Reads the entry at the start of a slice.
    ///
    /// # Errors
    /// [`RecordError::Truncated`] when there are fewer than 64 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; ENTRY_BYTES] = chunk_at(bytes, 0)?;
        let mut from = Reader(bytes);
        Ok(Self {
            res_offset: from.u64(),
            flags: from.u32(),
            unused: from.u32(),
            name: NameField(from.bytes()),
        })
    }

    /// Writes the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let mut to = Writer(&mut bytes);
        to.u64(self.res_offset);
        to.u32(self.flags);
        to.u32(self.unused);
        to.bytes(&self.name.0);
        bytes
    }
}

/// Reads entry `number` of an index given from its first byte.
///
/// # Errors
/// [`RecordError::Truncated`] when it was not read as a whole.
pub fn entry(index: &[u8], geometry: Geometry, number: u32) -> Result<Entry, RecordError> {
    let start = usize::try_from(entry_offset(geometry, number)).unwrap_or(usize::MAX);
    chunk_at::<ENTRY_BYTES>(index, start).and_then(|bytes| Entry::decode(bytes))
}

/// Writes entry `number` into an index given from its first byte; an entry
/// beyond its end is left out.
pub fn put_entry(index: &mut [u8], geometry: Geometry, number: u32, entry: &Entry) {
    let start = usize::try_from(entry_offset(geometry, number)).unwrap_or(usize::MAX);
    put_at(index, start, &entry.encode());
}
