//! The five valid pairs of sector size and align size.

use crate::error::RecordError;

/// Largest host id in any geometry.
pub const HOSTS_MAX: u16 = 2000;
/// Bits of a leader's `flags` that give the align size.
pub const ALIGN_FLAGS: u32 = 0xf0;

/// Sector size and align size of an area. Nothing but these pairs exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Geometry {
    /// 512-byte sectors, 1 MiB, 2000 hosts.
    Sector512Align1M,
    /// 4096-byte sectors, 1 MiB, 250 hosts.
    Sector4096Align1M,
    /// 4096-byte sectors, 2 MiB, 500 hosts.
    Sector4096Align2M,
    /// 4096-byte sectors, 4 MiB, 1000 hosts.
    Sector4096Align4M,
    /// 4096-byte sectors, 8 MiB, 2000 hosts.
    Sector4096Align8M,
}

/// A pair of sizes that is no geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "sector size {sector_size} with align size {align_size}: allowed are 512/1M, 4096/1M, 4096/2M, 4096/4M, 4096/8M"
)]
pub struct GeometryError {
    /// Sector size in bytes.
    pub sector_size: u32,
    /// Align size in bytes.
    pub align_size: u32,
}

const MIB: u32 = 1 << 20;

impl Geometry {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Sector512Align1M,
        Self::Sector4096Align1M,
        Self::Sector4096Align2M,
        Self::Sector4096Align4M,
        Self::Sector4096Align8M,
    ];

    /// The geometry with these sizes in bytes.
    ///
    /// # Errors
    /// When the pair is not one of the five.
    pub fn new(sector_size: u32, align_size: u32) -> Result<Self, GeometryError> {
        Self::ALL
            .into_iter()
            .find(|geometry| {
                geometry.sector_size() == sector_size && geometry.align_size() == align_size
            })
            .ok_or(GeometryError {
                sector_size,
                align_size,
            })
    }

    /// What a new area gets on a device with this logical sector size in bytes.
    #[must_use]
    pub fn default_for(logical_sector_size: u32) -> Option<Self> {
        match logical_sector_size {
            512 => Some(Self::Sector512Align1M),
            4096 => Some(Self::Sector4096Align8M),
            _ => None,
        }
    }

    /// The geometry a leader record states. A record without align flag is
    /// old and means 1 MiB or 8 MiB by its sector size.
    ///
    /// # Errors
    /// [`RecordError::SectorSize`] or [`RecordError::Geometry`].
    pub fn from_leader(sector_size: u32, flags: u32) -> Result<Self, RecordError> {
        if sector_size != 512 && sector_size != 4096 {
            return Err(RecordError::SectorSize { found: sector_size });
        }
        let align = flags & ALIGN_FLAGS;
        if align == 0 {
            return Self::default_for(sector_size)
                .ok_or(RecordError::SectorSize { found: sector_size });
        }
        Self::ALL
            .into_iter()
            .find(|geometry| {
                geometry.sector_size() == sector_size && geometry.align_flag() == align
            })
            .ok_or(RecordError::Geometry { sector_size, flags })
    }

    /// Sector size in bytes.
    #[must_use]
    pub const fn sector_size(self) -> u32 {
        match self {
            Self::Sector512Align1M => 512,
            Self::Sector4096Align1M
            | Self::Sector4096Align2M
            | Self::Sector4096Align4M
            | Self::Sector4096Align8M => 4096,
        }
    }

    /// Size of an area in bytes.
    #[must_use]
    pub const fn align_size(self) -> u32 {
        match self {
            Self::Sector512Align1M | Self::Sector4096Align1M => MIB,
            Self::Sector4096Align2M => 2 * MIB,
            Self::Sector4096Align4M => 4 * MIB,
            Self::Sector4096Align8M => 8 * MIB,
        }
    }

    /// Sector size in bytes, for lengths in memory.
    #[must_use]
    pub const fn sector_bytes(self) -> usize {
        match self {
            Self::Sector512Align1M => 512,
            Self::Sector4096Align1M
            | Self::Sector4096Align2M
            | Self::Sector4096Align4M
            | Self::Sector4096Align8M => 4096,
        }
    }

    /// Size of an area in bytes, for lengths in memory.
    #[must_use]
    pub const fn area_bytes(self) -> usize {
        const MIB: usize = 1 << 20;
        match self {
            Self::Sector512Align1M | Self::Sector4096Align1M => MIB,
            Self::Sector4096Align2M => 2 * MIB,
            Self::Sector4096Align4M => 4 * MIB,
            Self::Sector4096Align8M => 8 * MIB,
        }
    }

    /// Number of sectors in an area.
    #[must_use]
    pub const fn sectors(self) -> u32 {
        self.align_size() / self.sector_size()
    }

    /// Number of hosts, which is the largest host id.
    #[must_use]
    pub const fn max_hosts(self) -> u16 {
        match self {
            Self::Sector512Align1M | Self::Sector4096Align8M => HOSTS_MAX,
            Self::Sector4096Align1M => 250,
            Self::Sector4096Align2M => 500,
            Self::Sector4096Align4M => 1000,
        }
    }

    /// Bit of the leader's `flags`.
    #[must_use]
    pub const fn align_flag(self) -> u32 {
        match self {
            Self::Sector512Align1M | Self::Sector4096Align1M => 0x10,
            Self::Sector4096Align2M => 0x20,
            Self::Sector4096Align4M => 0x40,
            Self::Sector4096Align8M => 0x80,
        }
    }
}

// Every host's sector lies inside its area, also behind leader and request.
const _: () = {
    let mut index = 0;
    while index < Geometry::ALL.len() {
        #[expect(
            clippy::indexing_slicing,
            reason = "evaluated at compile time, bounded by the loop"
        )]
        let geometry = Geometry::ALL[index];
        let used = (geometry.max_hosts() as u32 + 2) * geometry.sector_size();
        assert!(used <= geometry.align_size());
        index += 1;
    }
};
