//! Metadata slots of block volumes: where they are, which is free.

use std::collections::BTreeSet;
use std::fmt;

use super::version::DomainVersion;

/// Bytes of a slot that are used, in every version.
pub const SLOT_BYTES: usize = 512;
/// Where the slots of version 5 begin, in bytes.
pub const V5_BASE_BYTES: u64 = 1 << 20;
/// From one slot to the next in version 5, in bytes.
pub const V5_STRIDE_BYTES: u64 = 8192;
/// Alignment units before the first volume's lease.
pub const LEASES_RESERVED: u32 = 100;
/// Slots of the `leases` volume.
pub const LEASE_SLOTS: u32 = 2048;
/// The highest slot that has a lease: the limit on volumes in practice.
pub const HIGHEST: SlotNumber = SlotNumber(LEASE_SLOTS - 1 - LEASES_RESERVED);
/// Size of the `metadata` volume, in bytes.
pub const METADATA_LV_BYTES: u64 = 128 << 20;

/// Number of a metadata slot (the number of an `MD_` tag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNumber(pub u32);

impl SlotNumber {
    /// The first slot that volumes may use.
    #[must_use]
    pub fn first(version: DomainVersion) -> Self {
        if version >= DomainVersion::V5 {
            Self(1)
        } else {
            Self(4)
        }
    }

    /// The highest slot that fits in a `metadata` volume of this many bytes.
    #[must_use]
    pub fn highest_by_size(version: DomainVersion, bytes: u64) -> Option<Self> {
        let slots = if version >= DomainVersion::V5 {
            bytes.checked_sub(V5_BASE_BYTES)? / V5_STRIDE_BYTES
        } else {
            bytes / 512
        };
        u32::try_from(slots.checked_sub(1)?).ok().map(Self)
    }

    /// Offset of the slot in the `metadata` volume, in bytes.
    #[must_use]
    pub fn offset(self, version: DomainVersion) -> u64 {
        let number = u64::from(self.0);
        if version >= DomainVersion::V5 {
            V5_BASE_BYTES + number * V5_STRIDE_BYTES
        } else {
            number * 512
        }
    }

    /// Offset of the volume's lease in the `leases` volume, in bytes.
    #[must_use]
    pub fn lease_offset(self, alignment_bytes: u64) -> u64 {
        (u64::from(LEASES_RESERVED) + u64::from(self.0)).saturating_mul(alignment_bytes)
    }

    /// Whether volumes may use it: not reserved, and with a lease.
    #[must_use]
    pub fn is_usable(self, version: DomainVersion) -> bool {
        (Self::first(version)..=HIGHEST).contains(&self)
    }

    /// The lowest slot that nobody uses. `used` are the slots of all LVs' tags,
    /// those marked for removal included. `None`: all are used.
    #[must_use]
    pub fn lowest_free(version: DomainVersion, used: &BTreeSet<Self>) -> Option<Self> {
        (Self::first(version).0..=HIGHEST.0)
            .map(Self)
            .find(|slot| !used.contains(slot))
    }

    /// How many slots volumes may use.
    #[must_use]
    pub fn usable_count(version: DomainVersion) -> u32 {
        HIGHEST.0 - Self::first(version).0 + 1
    }
}

impl fmt::Display for SlotNumber {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DomainVersion::{V3, V4, V5};

    #[test]
    fn offsets_are_those_of_the_original() {
        assert_eq!(SlotNumber(4).offset(V4), 2048);
        assert_eq!(SlotNumber(100).offset(V3), 51_200);
        assert_eq!(SlotNumber(1).offset(V5), 1_056_768);
        assert_eq!(SlotNumber(100).offset(V5), 1_867_776);
        assert_eq!(SlotNumber(1).lease_offset(1 << 20), 101 << 20);
        assert_eq!(
            SlotNumber::highest_by_size(V4, METADATA_LV_BYTES),
            Some(SlotNumber(262_143))
        );
        assert_eq!(
            SlotNumber::highest_by_size(V5, METADATA_LV_BYTES),
            Some(SlotNumber(16_255))
        );
        assert_eq!(SlotNumber::highest_by_size(V5, 0), None);
        assert_eq!(HIGHEST, SlotNumber(1947));
    }

    #[test]
    fn the_lowest_free_slot_fills_holes_first() {
        let used = |slots: &[u32]| slots.iter().copied().map(SlotNumber).collect();
        assert_eq!(SlotNumber::lowest_free(V5, &used(&[])), Some(SlotNumber(1)));
        assert_eq!(
            SlotNumber::lowest_free(V4, &used(&[1, 4, 5, 7])),
            Some(SlotNumber(6))
        );
        let all: BTreeSet<_> = (1..=1947).map(SlotNumber).collect();
        assert_eq!(SlotNumber::lowest_free(V5, &all), None);
    }
}
