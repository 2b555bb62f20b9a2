//! Why a record on disk is not what it should be.

use std::fmt;

use crate::id::NameField;

/// The kinds of records that carry a magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Leader record of a delta lease.
    Delta,
    /// Leader record of a paxos lease.
    Paxos,
    /// Request record of a paxos lease.
    Request,
    /// Header of a resource index.
    Index,
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Delta => "lockspace record",
            Self::Paxos => "resource record",
            Self::Request => "request record",
            Self::Index => "resource index",
        })
    }
}

/// A record that does not verify, in the order in which the checks are made.
/// [`RecordError::code`] gives the number the original tool reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The magic number is another: nothing was initialised here.
    #[error("magic number {found:#010x}: a {record} has {expected:#010x}")]
    Magic {
        /// What it should be.
        record: Record,
        /// What is on disk.
        found: u32,
        /// What should be.
        expected: u32,
    },
    /// The major version is another.
    #[error("{record} format version {found:#010x}: supported is major version {supported:#010x}")]
    Version {
        /// What it is.
        record: Record,
        /// What is on disk.
        found: u32,
        /// The major version known here.
        supported: u32,
    },
    /// The sector size is neither 512 nor 4096.
    #[error("sector size {found}: allowed are 512 and 4096")]
    SectorSize {
        /// What is on disk.
        found: u32,
    },
    /// Sector size and align flags do not go together.
    #[error("sector size {sector_size} with flags {flags:#x}: no such geometry")]
    Geometry {
        /// Sector size on disk.
        sector_size: u32,
        /// Flags on disk.
        flags: u32,
    },
    /// The record belongs to another lockspace.
    #[error("lockspace name {found}: expected {expected}")]
    Lockspace {
        /// What is on disk.
        found: NameField,
        /// What should be.
        expected: NameField,
    },
    /// The record belongs to another resource.
    #[error("resource name {found}: expected {expected}")]
    Resource {
        /// What is on disk.
        found: NameField,
        /// What should be.
        expected: NameField,
    },
    /// The number of hosts on disk excludes a host, or is impossible.
    #[error("num_hosts {found}: needed are {needed} to {largest}")]
    NumHosts {
        /// What is on disk.
        found: u64,
        /// Least number that would do.
        needed: u16,
        /// The geometry's largest.
        largest: u16,
    },
    /// The largest host id on disk, by which ballots are numbered, is
    /// impossible.
    #[error("max_hosts {found}: allowed are 1 to {largest}")]
    MaxHosts {
        /// What is on disk.
        found: u64,
        /// The geometry's largest.
        largest: u16,
    },
    /// The index belongs to another lockspace.
    #[error("index of lockspace {found}: expected {expected}")]
    IndexLockspace {
        /// What is on disk.
        found: NameField,
        /// What should be.
        expected: NameField,
    },
    /// The index says it lies elsewhere.
    #[error("index offset {found}: it was read at {expected}")]
    IndexOffset {
        /// What is on disk, in bytes.
        found: u64,
        /// Where it was read, in bytes.
        expected: u64,
    },
    /// There are fewer bytes than the record has.
    #[error("{bytes} bytes: the record ends at byte {needed}")]
    Truncated {
        /// Bytes given.
        bytes: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The checksum of a dblock does not match its bytes.
    #[error("dblock checksum {found:#010x}: the bytes give {computed:#010x}")]
    DblockChecksum {
        /// What is on disk.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The checksum does not match the bytes.
    #[error("checksum {found:#010x}: the bytes give {computed:#010x}")]
    Checksum {
        /// What is on disk.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
}

impl RecordError {
    /// The original tool's error number.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Magic { record, .. } => match record {
                Record::Delta | Record::Paxos => -223,
                Record::Request => -270,
                Record::Index => -274,
            },
            Self::Version { record, .. } => match record {
                Record::Delta | Record::Paxos => -224,
                Record::Request => -271,
                Record::Index => -275,
            },
            Self::Truncated { .. } => -90,
            Self::DblockChecksum { .. } => -214,
            Self::SectorSize { .. } => -225,
            Self::Lockspace { .. } => -226,
            Self::Resource { .. } => -227,
            Self::NumHosts { .. } | Self::MaxHosts { .. } => -228,
            Self::Checksum { .. } => -229,
            Self::Geometry { .. } => -230,
            Self::IndexLockspace { .. } => -276,
            Self::IndexOffset { .. } => -277,
        }
    }
}
