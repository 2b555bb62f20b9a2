//! The index of external leases, in the `xleases` volume.
//!
//! ```text
//! | 0: unused | 1: index             | 2: unused | 3: lease of record 0 | 4: …   in alignment units
//!               |
//!               +-- 512 bytes metadata, then 3960 records of 64 bytes
//! ```
//!
//! Where a lease is follows from the number of its record; the offset stored in
//! the record is for people. Changing the index is planned here
//! ([`Index::add`] and so on give [`Step`]s in the order in which they have to
//! be done) and done by whoever has the volume and the lease daemon.
//!
//! Invariants: a step that writes the index writes whole blocks of the domain;
//! a lease's record appears only after its resource was written, and goes
//! before its resource is cleared.

mod plan;
mod record;

pub use plan::{Location, Step, XleaseError};
pub use record::Record;

use super::error::{FormatError, decimal};
use super::uuid::{DomainId, LeaseId};
use crate::geometry::Geometry;
use crate::id::NameField;
use record::field;

/// Bytes of the index.
pub const INDEX_BYTES: usize = 62 * 4096;
/// Bytes of the metadata before the records.
pub const METADATA_BYTES: usize = 512;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 64;
/// Records of the index.
pub const RECORDS: usize = (INDEX_BYTES - METADATA_BYTES) / RECORD_BYTES;
/// Alignment units before the lease of record 0.
pub const RESERVED_UNITS: u64 = 3;

const _: () = assert!(RECORDS == 3960);

const NOUN: &str = "index of external leases";
const MAGIC: [u8; 4] = [0x12, 0x15, 0x20, 0x16];
const VERSION: &[u8; 4] = b"0001";
const STATE_OFFSET: usize = 70;
const MTIME_RANGE: std::ops::Range<usize> = 59..69;
const LOCKSPACE_RANGE: std::ops::Range<usize> = 10..58;

/// Where the index is in the `xleases` volume, in bytes.
#[must_use]
pub fn index_offset(geometry: Geometry) -> u64 {
    u64::from(geometry.align_size())
}

/// Where the lease of a record is in the `xleases` volume, in bytes.
#[must_use]
pub fn lease_offset(geometry: Geometry, record: usize) -> u64 {
    let number = u64::try_from(record).unwrap_or(u64::MAX);
    number
        .saturating_add(RESERVED_UNITS)
        .saturating_mul(u64::from(geometry.align_size()))
}

/// Records whose leases fit in a volume of so many bytes.
#[must_use]
pub fn records_in(geometry: Geometry, volume_bytes: u64) -> usize {
    let units = volume_bytes / u64::from(geometry.align_size());
    usize::try_from(units.saturating_sub(RESERVED_UNITS)).map_or(RECORDS, |n| n.min(RECORDS))
}

/// The index as it was read: any bytes that have the right magic, version and
/// lockspace; records that make no sense are kept as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Index {
    bytes: Vec<u8>,
    lockspace: DomainId,
    mtime_s: u64,
    updating: bool,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Index")
            .field("lockspace", &self.lockspace)
            .field("mtime_s", &self.mtime_s)
            .field("updating", &self.updating)
            .field("leases", &self.leases().count())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Reads the index of a domain. One in update state is read too: see
    /// [`Index::is_updating`].
    ///
    /// # Errors
    /// When magic, version, lockspace or time are not those of this domain's
    /// index.
    pub fn decode(bytes: &[u8], domain: &DomainId) -> Result<Self, FormatError> {
        let bytes = bytes.get(..INDEX_BYTES).ok_or(FormatError::Truncated {
            record: NOUN,
            bytes: bytes.len(),
            needed: INDEX_BYTES,
        })?;
        if !bytes.starts_with(&MAGIC) {
            let zeros = bytes.iter().all(|&byte| byte == 0);
            return Err(if zeros {
                FormatError::Empty { record: NOUN }
            } else {
                FormatError::syntax(NOUN, "the magic number is another")
            });
        }
        if bytes.get(5..9) != Some(VERSION) {
            let found = String::from_utf8_lossy(bytes.get(5..9).unwrap_or_default());
            return Err(FormatError::value("version of the index", &found, "0001"));
        }
        let name = NameField::from_bytes(bytes.get(LOCKSPACE_RANGE).unwrap_or_default());
        if name.bytes() != domain.to_string().as_bytes() {
            return Err(FormatError::syntax(
                NOUN,
                format!("it is of lockspace \"{name}\", expected {domain}"),
            ));
        }
        let mtime = bytes.get(MTIME_RANGE).unwrap_or_default();
        let mtime_s = decimal("time of the index", &String::from_utf8_lossy(mtime))?;
        let updating = match bytes.get(STATE_OFFSET) {
            Some(b'-') => false,
            Some(b'u') => true,
            other => {
                let found = other.map_or(0, |&byte| byte);
                return Err(FormatError::value(
                    "state of the index",
                    &format!("{found:#04x}"),
                    "- or u",
                ));
            }
        };
        Ok(Self {
            bytes: bytes.to_vec(),
            lockspace: *domain,
            mtime_s,
            updating,
        })
    }

    /// A new index without leases, in the state after [`Index::format`].
    #[must_use]
    pub fn empty(domain: &DomainId, mtime_s: u64) -> Self {
        let mut index = Self {
            bytes: metadata(domain, mtime_s, false),
            lockspace: *domain,
            mtime_s,
            updating: false,
        };
        while index.bytes.len() < INDEX_BYTES {
            index.bytes.extend_from_slice(&Record::Free.encode());
        }
        index
    }

    /// All bytes of the index.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The domain.
    #[must_use]
    pub fn lockspace(&self) -> DomainId {
        self.lockspace
    }

    /// When it was formatted or rebuilt, in seconds since 1970.
    #[must_use]
    pub fn mtime_s(&self) -> u64 {
        self.mtime_s
    }

    /// Whether its writer stopped half-way: unusable until rebuilt.
    #[must_use]
    pub fn is_updating(&self) -> bool {
        self.updating
    }

    /// A record; `None` from [`RECORDS`] on.
    #[must_use]
    pub fn record(&self, number: usize) -> Option<Record> {
        self.bytes
            .get(METADATA_BYTES..)?
            .as_chunks()
            .0
            .get(number)
            .map(Record::decode)
    }

    /// All records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.bytes
            .get(METADATA_BYTES..)
            .unwrap_or_default()
            .as_chunks()
            .0
            .iter()
            .map(Record::decode)
    }

    /// The leases that a lookup finds, with the numbers of their records.
    pub fn leases(&self) -> impl Iterator<Item = (usize, LeaseId)> + '_ {
        self.records()
            .enumerate()
            .filter_map(|(number, record)| match record {
                Record::Lease {
                    id,
                    updating: false,
                    ..
                } => Some((number, id)),
                Record::Lease { .. } | Record::Free | Record::Corrupt(_) => None,
            })
    }

    fn set(&mut self, number: usize, record: &Record) {
        let places = self
            .bytes
            .get_mut(METADATA_BYTES..)
            .map(|records| records.as_chunks_mut().0);
        if let Some(place) = places.and_then(|places| places.get_mut(number)) {
            *place = record.encode();
        }
    }

    fn set_metadata(&mut self, mtime_s: u64, updating: bool) {
        self.mtime_s = mtime_s;
        self.updating = updating;
        let metadata = metadata(&self.lockspace, mtime_s, updating);
        if let Some(place) = self.bytes.get_mut(..METADATA_BYTES) {
            place.copy_from_slice(&metadata);
        }
    }
}

fn metadata(domain: &DomainId, mtime_s: u64, updating: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INDEX_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(0);
    bytes.extend_from_slice(VERSION);
    bytes.push(0);
    bytes.extend_from_slice(&field(&domain.to_string()).0);
    bytes.push(0);
    // Ten digits are good until the year 2286.
    bytes.extend_from_slice(format!("{:010}", mtime_s.min(9_999_999_999)).as_bytes());
    bytes.push(0);
    bytes.push(if updating { b'u' } else { b'-' });
    bytes.resize(METADATA_BYTES - 1, 0);
    bytes.push(b'\n');
    bytes
}
