//! Paxos leases: one area a resource, holding what all hosts agree on and what
//! each of them proposes.
//!
//! ```text
//! sector 0        leader record: who owns the lease, in which version
//! sector 1        request record: somebody wants the lease
//! sector 1 + N    host N: dblock at 0..56, mode block at 128..144
//! sector 2002     lease value block, a whole sector of the owner's data
//! ```

use crate::checksum::{DBLOCK_COVERED_BYTES, dblock_checksum};
use crate::delta;
use crate::error::{Record, RecordError};
use crate::geometry::Geometry;
use crate::id::{HostId, LockspaceName, NameField, ResourceName};
use crate::leader::{Leader, MAJOR_VERSION_MASK};
use crate::wire::{Reader, Writer, chunk_at, put_at};

/// Magic number of a paxos lease.
pub const MAGIC: u32 = 0x0615_2010;
/// Magic number of a paxos lease that was cleared: there is none any more.
pub const MAGIC_CLEARED: u32 = 0x1128_2016;
/// Version written; minor versions are ignored on reading.
pub const VERSION: u32 = 0x0006_0004;
/// Bit of the leader's `flags`: the owner is about to turn its exclusive lease
/// into a shared one, so others should try again soon.
pub const SHORT_HOLD: u32 = 0x1;

/// Sector of the leader record.
pub const LEADER_SECTOR: u32 = 0;
/// Sector of the request record.
pub const REQUEST_SECTOR: u32 = 1;
/// Sector of the lease value block, in whatever geometry; see [`lvb_allowed`].
pub const LVB_SECTOR: u32 = 2002;
/// Where in a host's sector the mode block starts, in bytes.
pub const MODE_OFFSET: usize = 128;
/// Sectors before the first host's.
const HEAD_SECTORS: u32 = 2;

/// What of a host's sector carries meaning, in bytes.
pub const HOST_RECORD_BYTES: usize = MODE_OFFSET + MODE_BLOCK_BYTES;
/// Size of a dblock on disk, in bytes.
pub const DBLOCK_BYTES: usize = 56;
/// Size of a mode block on disk, in bytes.
pub const MODE_BLOCK_BYTES: usize = 16;
/// Size of a request record on disk, in bytes.
pub const REQUEST_BYTES: usize = 24;

const _: () = assert!(DBLOCK_BYTES <= MODE_OFFSET);
const _: () = assert!(HOST_RECORD_BYTES <= 512);

/// Sector of a host in a resource area: host id + 1.
#[must_use]
pub fn host_sector(host: HostId) -> u32 {
    u32::from(host.get()) + 1
}

/// Whether the lease value block lies inside the area. In the other
/// geometries its sector belongs to a neighbour: it must not be touched.
#[must_use]
pub const fn lvb_allowed(geometry: Geometry) -> bool {
    LVB_SECTOR < geometry.sectors()
}

/// Sectors a ballot reads from the area's start: those of leader, request and
/// `num_hosts` hosts, rounded up to a power of two, within the area.
#[must_use]
pub fn ballot_sectors(num_hosts: u64, geometry: Geometry) -> u32 {
    let most = geometry.sectors();
    u32::try_from(num_hosts)
        .ok()
        .and_then(|hosts| hosts.checked_add(HEAD_SECTORS))
        .and_then(u32::checked_next_power_of_two)
        .map_or(most, |sectors| sectors.min(most))
}

/// How many hosts a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hosts {
    /// Hosts that may use it: those whose sectors a ballot looks at.
    pub num: u16,
    /// Step from one of a host's ballot numbers to its next.
    pub max: u16,
}

/// The numbers of hosts a leader states, if they are possible in this
/// geometry. The original believes any; a lease with impossible ones would
/// make it read beyond its buffer.
///
/// # Errors
/// [`RecordError::NumHosts`] or [`RecordError::MaxHosts`].
pub fn hosts(leader: &Leader, geometry: Geometry) -> Result<Hosts, RecordError> {
    let largest = geometry.max_hosts();
    let within = |found: u64| {
        u16::try_from(found)
            .ok()
            .filter(|count| (1..=largest).contains(count))
    };
    let num = within(leader.num_hosts).ok_or(RecordError::NumHosts {
        found: leader.num_hosts,
        needed: 1,
        largest,
    })?;
    let max = within(leader.max_hosts).ok_or(RecordError::MaxHosts {
        found: leader.max_hosts,
        largest,
    })?;
    Ok(Hosts { num, max })
}

/// Reads the leader record at the start of a sector without judging it.
///
/// # Errors
/// [`RecordError::Truncated`] when there are fewer than 200 bytes.
pub fn leader(sector: &[u8]) -> Result<Leader, RecordError> {
    chunk_at(sector, 0).map(Leader::decode)
}

/// Checks the leader of a resource; the order of the checks is the original's,
/// so that the first error is the same.
///
/// # Errors
/// The first check that fails: magic (also when cleared), major version,
/// lockspace name, resource name, room for `own`, checksum.
pub fn verify(
    leader: &Leader,
    lockspace: &LockspaceName,
    resource: &ResourceName,
    own: HostId,
) -> Result<(), RecordError> {
    verify_kind(leader)?;
    if !leader.space_name.same_name(lockspace.field()) {
        return Err(RecordError::Lockspace {
            found: leader.space_name,
            expected: *lockspace.field(),
        });
    }
    if !leader.resource_name.same_name(resource.field()) {
        return Err(RecordError::Resource {
            found: leader.resource_name,
            expected: *resource.field(),
        });
    }
    if leader.num_hosts < u64::from(own.get()) {
        return Err(RecordError::NumHosts {
            found: leader.num_hosts,
            needed: own.get(),
            largest: crate::geometry::HOSTS_MAX,
        });
    }
    delta::verify_checksum(leader)
}

/// Checks that this is a paxos lease this code can read, of whatever resource.
///
/// # Errors
/// Magic or major version.
pub fn verify_kind(leader: &Leader) -> Result<(), RecordError> {
    if leader.magic != MAGIC {
        return Err(RecordError::Magic {
            record: Record::Paxos,
            found: leader.magic,
            expected: MAGIC,
        });
    }
    let supported = VERSION & MAJOR_VERSION_MASK;
    if leader.version & MAJOR_VERSION_MASK != supported {
        return Err(RecordError::Version {
            record: Record::Paxos,
            found: leader.version,
            supported,
        });
    }
    Ok(())
}

/// The leader a freshly initialised resource has. `num_hosts` 0 or more than
/// the geometry has means all of them. The names may be empty, as the original
/// allows.
#[must_use]
pub fn initial(
    lockspace: &NameField,
    resource: &NameField,
    geometry: Geometry,
    num_hosts: u32,
) -> Leader {
    let max_hosts = u32::from(geometry.max_hosts());
    let num_hosts = if num_hosts == 0 {
        max_hosts
    } else {
        num_hosts.min(max_hosts)
    };
    Leader {
        magic: MAGIC,
        version: VERSION,
        flags: geometry.align_flag(),
        sector_size: geometry.sector_size(),
        num_hosts: u64::from(num_hosts),
        max_hosts: u64::from(max_hosts),
        owner_id: 0,
        owner_generation: 0,
        lver: 0,
        space_name: lockspace.cleaned(),
        resource_name: resource.cleaned(),
        timestamp: 0,
        unused1: 0,
        checksum: 0,
        unused2: 0,
        io_timeout: 0,
        write_id: 0,
        write_generation: 0,
        write_timestamp: 0,
    }
    .sealed()
}

/// The leader of a resource that is no more. `monotonic_s` is the writer's
/// clock, for people to look at.
#[must_use]
pub fn cleared(
    lockspace: &NameField,
    resource: &NameField,
    geometry: Geometry,
    num_hosts: u32,
    monotonic_s: u64,
) -> Leader {
    Leader {
        magic: MAGIC_CLEARED,
        write_timestamp: monotonic_s,
        ..initial(lockspace, resource, geometry, num_hosts)
    }
    .sealed()
}

/// Fills the part of a freshly initialised (or cleared) area that starts at
/// sector `first_sector`; `part` is a whole number of sectors.
pub fn fill_initial(leader: &Leader, geometry: Geometry, first_sector: u32, part: &mut [u8]) {
    part.fill(0);
    let sector_size = geometry.sector_bytes();
    let mut sectors = part.chunks_mut(sector_size);
    if first_sector == LEADER_SECTOR
        && let Some(sector) = sectors.next()
    {
        put_at(sector, 0, &leader.encode());
    }
    if first_sector <= REQUEST_SECTOR
        && let Some(sector) = sectors.next()
    {
        put_at(sector, 0, &RequestRecord::NONE.encode());
    }
}

/// What one host proposes in a ballot, or proposed in an earlier one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Dblock {
    /// Highest ballot the host has started.
    pub mbal: u64,
    /// Ballot in which it accepted a value; 0 = none.
    pub bal: u64,
    /// The value: proposed owner's host id; 0 = none.
    pub inp: u64,
    /// The value: its generation.
    pub inp2: u64,
    /// The value: its timestamp.
    pub inp3: u64,
    /// Version of the lease the ballot is about.
    pub lver: u64,
    /// As stored; [`Dblock::computed_checksum`] is what it should be.
    pub checksum: u32,
    /// [`Dblock::RELEASED`].
    pub flags: u32,
}

impl Dblock {
    /// The host has released the lease, whatever the leader says. Not covered
    /// by the checksum.
    pub const RELEASED: u32 = 0x1;

    /// Reads the block at the start of a host's sector; every bit pattern is
    /// some block.
    ///
    /// # Errors
    /// [`RecordError::Truncated`] when there are fewer than 56 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; DBLOCK_BYTES] = chunk_at(sector, 0)?;
        let mut from = Reader(bytes);
        Ok(Self {
            mbal: from.u64(),
            bal: from.u64(),
            inp: from.u64(),
            inp2: from.u64(),
            inp3: from.u64(),
            lver: from.u64(),
            checksum: from.u32(),
            flags: from.u32(),
        })
    }

    /// Writes the fields, the checksum as it stands in the field.
    #[must_use]
    pub fn encode(&self) -> [u8; DBLOCK_BYTES] {
        let mut bytes = [0; DBLOCK_BYTES];
        let mut to = Writer(&mut bytes);
        to.u64(self.mbal);
        to.u64(self.bal);
        to.u64(self.inp);
        to.u64(self.inp2);
        to.u64(self.inp3);
        to.u64(self.lver);
        to.u32(self.checksum);
        to.u32(self.flags);
        bytes
    }

    /// The checksum its bytes should carry.
    #[must_use]
    pub fn computed_checksum(&self) -> u32 {
        let bytes = self.encode();
        dblock_checksum(bytes.get(..DBLOCK_COVERED_BYTES).unwrap_or(&bytes))
    }

    /// The same block with the right checksum: the last step before a write.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.checksum = self.computed_checksum();
        self
    }

    /// Whether nothing was ever written here; such a block needs no checksum.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checksum == 0 && self.mbal == 0 && self.bal == 0 && self.inp == 0 && self.lver == 0
    }

    /// Whether the host has given the lease up.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.flags & Self::RELEASED != 0
    }

    /// Checks the checksum; an empty block is right.
    ///
    /// # Errors
    /// [`RecordError::DblockChecksum`].
    pub fn verify(&self) -> Result<(), RecordError> {
        if self.is_empty() {
            return Ok(());
        }
        let computed = self.computed_checksum();
        if self.checksum == computed {
            Ok(())
        } else {
            Err(RecordError::DblockChecksum {
                found: self.checksum,
                computed,
            })
        }
    }
}

/// Whether a host holds the lease shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ModeBlock {
    /// [`ModeBlock::SHARED`].
    pub flags: u32,
    /// Generation of the host holding it shared.
    pub generation: u64,
}

impl ModeBlock {
    /// The host holds the lease shared.
    pub const SHARED: u32 = 0x1;
    /// Not shared.
    pub const NONE: Self = Self {
        flags: 0,
        generation: 0,
    };

    /// Held shared by the host in this generation.
    #[must_use]
    pub const fn shared(generation: u64) -> Self {
        Self {
            flags: Self::SHARED,
            generation,
        }
    }

    /// Reads the block of a host's sector. The four bytes of padding, in which
    /// the original leaves whatever its stack held, are ignored.
    ///
    /// # Errors
    /// [`RecordError::Truncated`] when there are fewer than 144 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; MODE_BLOCK_BYTES] = chunk_at(sector, MODE_OFFSET)?;
        let mut from = Reader(bytes);
        let flags = from.u32();
        from.u32();
        Ok(Self {
            flags,
            generation: from.u64(),
        })
    }

    /// Writes the fields, the padding zero.
    #[must_use]
    pub fn encode(&self) -> [u8; MODE_BLOCK_BYTES] {
        let mut bytes = [0; MODE_BLOCK_BYTES];
        let mut to = Writer(&mut bytes);
        to.u32(self.flags);
        to.u32(0);
        to.u64(self.generation);
        bytes
    }

    /// Whether the lease is held shared.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.flags & Self::SHARED != 0
    }
}

/// Fills a host's sector: dblock, mode block, zeros. Records that do not fit a
/// shorter one are left out.
pub fn encode_host_sector(dblock: &Dblock, mode: &ModeBlock, sector: &mut [u8]) {
    sector.fill(0);
    put_at(sector, 0, &dblock.encode());
    put_at(sector, MODE_OFFSET, &mode.encode());
}

/// Somebody wants the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestRecord {
    /// What kind of record this is.
    pub magic: u32,
    /// Major version in the upper half.
    pub version: u32,
    /// Version of the lease wanted; 0 = no request.
    pub lver: u64,
    /// What to do to the owner: [`RequestRecord::FORCE`],
    /// [`RequestRecord::GRACEFUL`], 0 = nothing.
    pub force_mode: u32,
}

impl RequestRecord {
    /// Magic number of a request record.
    pub const MAGIC: u32 = 0x0829_2011;
    /// Version written; minor versions are ignored on reading.
    pub const VERSION: u32 = 0x0001_0001;
    /// Kill the owner.
    pub const FORCE: u32 = 1;
    /// Ask the owner to stop, by its killpath program or SIGTERM.
    pub const GRACEFUL: u32 = 2;
    /// No request, as after initialisation.
    pub const NONE: Self = Self::new(0, 0);

    /// A request for version `lver`.
    #[must_use]
    pub const fn new(lver: u64, force_mode: u32) -> Self {
        Self {
            magic: Self::MAGIC,
            version: Self::VERSION,
            lver,
            force_mode,
        }
    }

    /// Reads the record at the start of sector 1 without judging it.
    ///
    /// # Errors
    /// [`RecordError::Truncated`] when there are fewer than 24 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; REQUEST_BYTES] = chunk_at(sector, 0)?;
        let mut from = Reader(bytes);
        Ok(Self {
            magic: from.u32(),
            version: from.u32(),
            lver: from.u64(),
            force_mode: from.u32(),
        })
    }

    /// Writes the fields, the padding zero.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let mut to = Writer(&mut bytes);
        to.u32(self.magic);
        to.u32(self.version);
        to.u64(self.lver);
        to.u32(self.force_mode);
        bytes
    }

    /// Checks magic and major version.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self) -> Result<(), RecordError> {
        if self.magic != Self::MAGIC {
            return Err(RecordError::Magic {
                record: Record::Request,
                found: self.magic,
                expected: Self::MAGIC,
            });
        }
        let supported = Self::VERSION & MAJOR_VERSION_MASK;
        if self.version & MAJOR_VERSION_MASK != supported {
            return Err(RecordError::Version {
                record: Record::Request,
                found: self.version,
                supported,
            });
        }
        Ok(())
    }
}

/// The first bytes of a resource area, as read from disk: whose sector is
/// where, with every access checked against what was read.
#[derive(Debug, Clone, Copy)]
pub struct Area<'a> {
    bytes: &'a [u8],
    geometry: Geometry,
}

impl<'a> Area<'a> {
    /// `bytes` start at the area's first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8], geometry: Geometry) -> Self {
        Self { bytes, geometry }
    }

    /// One sector.
    ///
    /// # Errors
    /// [`RecordError::Truncated`] when it was not read as a whole.
    pub fn sector(&self, number: u32) -> Result<&'a [u8], RecordError> {
        let size = self.geometry.sector_bytes();
        let start = usize::try_from(number)
            .unwrap_or(usize::MAX)
            .saturating_mul(size);
        let end = start.saturating_add(size);
        self.bytes.get(start..end).ok_or(RecordError::Truncated {
            bytes: self.bytes.len(),
            needed: end,
        })
    }

    /// The leader record, not judged.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn leader(&self) -> Result<Leader, RecordError> {
        leader(self.sector(LEADER_SECTOR)?)
    }

    /// The request record, not judged.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn request(&self) -> Result<RequestRecord, RecordError> {
        RequestRecord::decode(self.sector(REQUEST_SECTOR)?)
    }

    /// A host's dblock, not judged, and its mode block.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn host(&self, host: HostId) -> Result<(Dblock, ModeBlock), RecordError> {
        let sector = self.sector(host_sector(host))?;
        Ok((Dblock::decode(sector)?, ModeBlock::decode(sector)?))
    }
}
