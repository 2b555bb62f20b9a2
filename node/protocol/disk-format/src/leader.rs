//! The leader record, 200 bytes, shared by delta leases and paxos leases.

use crate::checksum::{LEADER_COVERED_BYTES, leader_checksum};
use crate::id::NameField;
use crate::wire::{Reader, Writer};

/// Size on disk, in bytes.
pub const LEADER_BYTES: usize = 200;
/// Upper half of `version`: records with another major version are not read.
pub const MAJOR_VERSION_MASK: u32 = 0xffff_0000;

/// A leader record, field by field as on disk. Decoding is total and keeps
/// every bit; whether the record may be believed is for `verify` of its kind
/// ([`crate::delta::verify`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leader {
    /// What kind of record this is.
    pub magic: u32,
    /// Major version in the upper half.
    pub version: u32,
    /// Align flag, and for paxos leases more.
    pub flags: u32,
    /// Sector size in bytes.
    pub sector_size: u32,
    /// Hosts usable on a paxos lease; 0 in a delta lease.
    pub num_hosts: u64,
    /// Largest host id of a paxos lease; 1 in a delta lease.
    pub max_hosts: u64,
    /// Host id of the owner; 0 = never acquired.
    pub owner_id: u64,
    /// Generation of the owner.
    pub owner_generation: u64,
    /// Lease version; 0 in a delta lease.
    pub lver: u64,
    /// Lockspace name.
    pub space_name: NameField,
    /// Resource name; in a delta lease the unique name of the host.
    pub resource_name: NameField,
    /// Owner's monotonic clock in seconds; 0 = free.
    pub timestamp: u64,
    /// Unused, covered by the checksum.
    pub unused1: u64,
    /// As stored; [`Leader::computed_checksum`] is what it should be.
    pub checksum: u32,
    /// Unused.
    pub unused2: u16,
    /// Holder's I/O timeout in seconds (delta lease).
    pub io_timeout: u16,
    /// Writer's host id; in a delta lease the event's destination generation.
    pub write_id: u64,
    /// Writer's generation; in a delta lease the event number.
    pub write_generation: u64,
    /// Writer's monotonic clock in seconds; in a delta lease the event's data.
    pub write_timestamp: u64,
}

impl Leader {
    /// Reads the fields; every bit pattern is some record.
    #[must_use]
    pub fn decode(bytes: &[u8; LEADER_BYTES]) -> Self {
        let mut from = Reader(bytes);
        Self {
            magic: from.u32(),
            version: from.u32(),
            flags: from.u32(),
            sector_size: from.u32(),
            num_hosts: from.u64(),
            max_hosts: from.u64(),
            owner_id: from.u64(),
            owner_generation: from.u64(),
            lver: from.u64(),
            space_name: NameField(from.bytes()),
            resource_name: NameField(from.bytes()),
            timestamp: from.u64(),
            unused1: from.u64(),
            checksum: from.u32(),
            unused2: from.u16(),
            io_timeout: from.u16(),
            write_id: from.u64(),
            write_generation: from.u64(),
            write_timestamp: from.u64(),
        }
    }

    /// Writes the fields, the checksum as it stands in the field.
    #[must_use]
    pub fn encode(&self) -> [u8; LEADER_BYTES] {
        let mut bytes = [0; LEADER_BYTES];
        let mut to = Writer(&mut bytes);
        to.u32(self.magic);
        to.u32(self.version);
        to.u32(self.flags);
        to.u32(self.sector_size);
        to.u64(self.num_hosts);
        to.u64(self.max_hosts);
        to.u64(self.owner_id);
        to.u64(self.owner_generation);
        to.u64(self.lver);
        to.bytes(&self.space_name.0);
        to.bytes(&self.resource_name.0);
        to.u64(self.timestamp);
        to.u64(self.unused1);
        to.u32(self.checksum);
        to.u16(self.unused2);
        to.u16(self.io_timeout);
        to.u64(self.write_id);
        to.u64(self.write_generation);
        to.u64(self.write_timestamp);
        bytes
    }

    /// The checksum its bytes should carry.
    #[must_use]
    pub fn computed_checksum(&self) -> u32 {
        let bytes = self.encode();
        leader_checksum(bytes.get(..LEADER_COVERED_BYTES).unwrap_or(&bytes))
    }

    /// The same record with the right checksum: the last step before a write.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.checksum = self.computed_checksum();
        self
    }
}
