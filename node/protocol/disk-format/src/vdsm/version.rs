//! Versions of the domain format.

use std::fmt;
use std::str::FromStr;

use super::error::FormatError;

/// A version of the domain format. There is no 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainVersion {
    /// File only, historic.
    V0,
    /// Block metadata in VG tags, historic.
    V2,
    /// Sanlock, Unicode descriptions.
    V3,
    /// External leases.
    V4,
    /// Capacity in bytes, larger metadata slots, 4096-byte sectors.
    V5,
}

impl DomainVersion {
    /// All, oldest first.
    pub const ALL: [Self; 5] = [Self::V0, Self::V2, Self::V3, Self::V4, Self::V5];
    /// What new domains get.
    pub const NEWEST: Self = Self::V5;

    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V0 => 0,
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }

    /// The version of a number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| u64::from(version.number()) == number)
    }

    /// The versions this one may be upgraded to in one step, never backwards.
    #[must_use]
    pub const fn upgrades(self) -> &'static [Self] {
        match self {
            Self::V0 | Self::V2 => &[Self::V3],
            Self::V3 => &[Self::V4, Self::V5],
            Self::V4 => &[Self::V5],
            Self::V5 => &[],
        }
    }

    /// Whether this node can use a domain of this version (3 and later).
    #[must_use]
    pub fn is_supported(self) -> bool {
        self >= Self::V3
    }

    /// Whether the domain has an `xleases` volume.
    #[must_use]
    pub fn has_external_leases(self) -> bool {
        self >= Self::V4
    }
}

impl fmt::Display for DomainVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.number())
    }
}

impl FromStr for DomainVersion {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "0" => Ok(Self::V0),
            "2" => Ok(Self::V2),
            "3" => Ok(Self::V3),
            "4" => Ok(Self::V4),
            "5" => Ok(Self::V5),
            _ => Err(FormatError::value(
                "domain version",
                text,
                "0, 2, 3, 4 or 5",
            )),
        }
    }
}
