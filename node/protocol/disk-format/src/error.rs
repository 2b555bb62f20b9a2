//! Why a record on disk is not what it should be.

use crate::id::NameField;

/// A record that does not verify, in the order in which the checks are made.
/// [`RecordError::code`] gives the number the original tool reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The magic number is another: nothing was initialised here.
    #[error("magic number {found:#010x}: a lockspace record has {expected:#010x}")]
    Magic {
        /// What is on disk.
        found: u32,
        /// What should be.
        expected: u32,
    },
    /// The major version is another.
    #[error("format version {found:#010x}: supported is major version {supported:#010x}")]
    Version {
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
            Self::Magic { .. } => -223,
            Self::Version { .. } => -224,
            Self::SectorSize { .. } => -225,
            Self::Lockspace { .. } => -226,
            Self::Checksum { .. } => -229,
            Self::Geometry { .. } => -230,
        }
    }
}
