//! The shared disk, and what may happen to a request on its way there and back.
//!
//! # Fault model
//!
//! **The only promise**: one sector is read and written whole. Nothing is
//! promised about the order of two requests in flight at once, not even of one
//! machine's.
//!
//! A request goes through these moments, each drawn from the seed:
//!
//! ```text
//!  asked for ──▶ begins ──▶ first part ──▶ second part ──▶ told ──▶ told again
//!  (the core)    (kernel)   (multi-sector requests only: each part   (rarely)
//!                            sees or changes the disk at its own time)
//! ```
//!
//! | what | how it shows |
//! |---|---|
//! | slow | every moment may be late, up to several T |
//! | torn | a multi-sector request takes effect in two parts at two times, in either order; at a machine's end perhaps only one of them |
//! | late write | lands long after the core gave it up, or after its process ended |
//! | failed | told as failed, never took effect |
//! | lying failure | told as failed, took effect all the same |
//! | lost completion | took effect or not, never told while faults last |
//! | duplicated completion | told twice |
//! | read error | a read told as failed |
//! | stall | requests of one machine, to one area, to one sector, or all of these wait until the stall ends, then go on in any order; or all fail |
//! | slow path | one machine's requests are slower than everybody else's |
//! | frozen machine | between any two moments on the machine's side (asked, begins, told); the disk's side goes on |
//! | frozen daemon | the same, while the rest of the machine runs on |
//! | suspend | a freeze after which the two clocks have jumped apart |
//! | stale clock | after a freeze the daemon acts upon a time read before it, though never upon an I/O with a time read before its completion |
//! | killed daemon | its requests stay in flight, its users run on, its registration with the watchdog stays |
//! | power cut, watchdog's reset | see below |
//! | clocks | every machine counts from elsewhere and at its own rate |
//! | stuck user | does not die when it is killed |
//!
//! # What cannot happen
//!
//! The protocol rests on these, so they are part of the model:
//! - data once written is read back as written (no bit rot, no stale read, no
//!   write to another address);
//! - the watchdog fires (see [`crate::watchdog`]), and clocks differ by less
//!   than its test interval over `8T + W`;
//! - a request begins only if the check against its `not_after` was passed:
//!   the time between that check and the kernel is counted as the disk's;
//! - machines that contend for one host id have the same T: a claim may land a
//!   T after its reading, and the other waits 2T by the record it found, which
//!   tells neither's;
//! - a write that frees a host id does not hang for `8T + W` and then land: it
//!   would free the next holder's record (the original's limit, too);
//! - a daemon or machine that ends while a claim on its host id is in doubt
//!   remembers the doubt: a record does not tell a claim from a renewal, so a
//!   claim that lands late, on top of a newer holder's record, is taken by its machine's
//!   next boot for its own lease (the format's limit, shared with the
//!   original);
//! - what a machine had in flight when it was reset or lost its power lands
//!   within [`LINGER_MS`] or never: a cut cable delivers nothing, and no
//!   machine boots and joins in less.

use disk_format::Geometry;

/// How long after a machine's end a request of its may still land, ms.
pub const LINGER_MS: u64 = 2000;

/// Sectors of an area that are kept; what lies above reads as zero, except
/// [`LVB_SECTOR`].
pub const SECTORS: u32 = 16;
/// The one far sector of a resource.
pub const LVB_SECTOR: u32 = 2002;

/// Which area of the shared disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The lockspace: one sector for each host id.
    Lockspace,
    /// The resource of that number, on that one of its disks.
    Resource(usize, u8),
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The area.
    pub area: Area,
    /// First sector.
    pub sector: u32,
    /// How many.
    pub sectors: u32,
}

/// What the disk holds: pristine, whatever happens to requests.
#[derive(Debug, Clone)]
pub struct Disk {
    sector_size: usize,
    lockspace: Vec<u8>,
    /// Each on its disks, with one sector more at the end, for the LVB.
    resources: Vec<Vec<Vec<u8>>>,
}

impl Disk {
    /// Zeros.
    #[must_use]
    pub fn new(sector_size: usize, resources: usize, disks: u8) -> Self {
        let low = usize::try_from(SECTORS).unwrap_or(0) * sector_size;
        Self {
            sector_size,
            lockspace: vec![0; low],
            resources: vec![vec![vec![0; low + sector_size]; usize::from(disks)]; resources],
        }
    }

    /// Bytes in a sector.
    #[must_use]
    pub fn sector_size(&self) -> usize {
        self.sector_size
    }

    /// The geometry of everything on it: the one with 4096-byte sectors that
    /// has room for a lease value block, or the one with 512-byte sectors.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        if self.sector_size == 4096 {
            Geometry::Sector4096Align8M
        } else {
            Geometry::Sector512Align1M
        }
    }

    /// On how many disks each resource is.
    #[must_use]
    pub fn disks(&self) -> u8 {
        let disks = self.resources.first().map_or(0, Vec::len);
        u8::try_from(disks).unwrap_or(0)
    }

    /// How many resources there are.
    #[must_use]
    pub fn resources(&self) -> usize {
        self.resources.len()
    }

    fn area(&self, area: Area) -> &[u8] {
        match area {
            Area::Lockspace => &self.lockspace,
            Area::Resource(number, disk) => &self.resources[number][usize::from(disk)],
        }
    }

    fn place(&self, sector: u32) -> Option<usize> {
        let slot = match sector {
            0..SECTORS => sector,
            LVB_SECTOR => SECTORS,
            _ => return None,
        };
        Some(usize::try_from(slot).ok()? * self.sector_size)
    }

    /// One sector; `None` if it is not kept.
    #[must_use]
    pub fn sector(&self, area: Area, sector: u32) -> Option<&[u8]> {
        let start = self.place(sector)?;
        self.area(area).get(start..start + self.sector_size)
    }

    /// Reads some sectors into the same place of `into`, which is as long as
    /// the whole request; what is not kept is zero.
    pub fn read(&self, spot: Spot, part: std::ops::Range<u32>, into: &mut [u8]) {
        if spot.sector + part.end <= SECTORS {
            let whole = self.range(spot.sector + part.start, part.end - part.start);
            let here = self.range(part.start, part.end - part.start);
            if let (Some(from), Some(to)) = (self.area(spot.area).get(whole), into.get_mut(here)) {
                to.copy_from_slice(from);
                return;
            }
        }
        for number in part {
            let here = self.range(number, 1);
            if let (Some(from), Some(to)) = (
                self.sector(spot.area, spot.sector + number),
                into.get_mut(here),
            ) {
                to.copy_from_slice(from);
            }
        }
    }

    fn range(&self, sector: u32, sectors: u32) -> std::ops::Range<usize> {
        let start = usize::try_from(sector).unwrap_or(usize::MAX / 8192) * self.sector_size;
        start..start + usize::try_from(sectors).unwrap_or(0) * self.sector_size
    }

    /// Writes one sector: `bytes`, and zeros behind them. `false` if the
    /// sector is not one that is kept.
    pub fn write(&mut self, area: Area, sector: u32, bytes: &[u8]) -> bool {
        let size = self.sector_size;
        let Some(start) = self.place(sector) else {
            return false;
        };
        let area = match area {
            Area::Lockspace => &mut self.lockspace,
            Area::Resource(number, disk) => &mut self.resources[number][usize::from(disk)],
        };
        let Some(sector) = area.get_mut(start..start + size) else {
            return false;
        };
        let length = bytes.len().min(size);
        sector[..length].copy_from_slice(&bytes[..length]);
        sector[length..].fill(0);
        true
    }
}
