//! The structs that payloads are made of.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use disk_format::NameField;

use crate::flags::{HostState, LockspaceFlags, ResourceFlags};
use crate::text::TextError;
use crate::wire::{Put, Reader};

/// Longest path in bytes, without its NUL.
pub const PATH_MAX: usize = 1023;
/// Most disks of a resource.
pub const DISKS_MAX: usize = 4;
/// Size of a disk in bytes.
pub const DISK_BYTES: usize = 1040;
/// Size of a resource in bytes, without its disks.
pub const RESOURCE_BYTES: usize = 128;
/// Size of a lockspace in bytes.
pub const LOCKSPACE_BYTES: usize = 1104;
/// Size of acquire options in bytes.
pub const OPTIONS_BYTES: usize = 56;
/// Size of a resource index in bytes.
pub const RINDEX_BYTES: usize = 1104;
/// Size of an index entry in bytes.
pub const RENTRY_BYTES: usize = 64;
pub(crate) const HOST_BYTES: usize = 32;
pub(crate) const HOST_EVENT_BYTES: usize = 32;

/// Path of a device or file: at most 1023 bytes, without NUL; may be empty.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskPath(Box<[u8]>);

impl DiskPath {
    /// Checks a path.
    ///
    /// # Errors
    /// When it is longer than 1023 bytes or contains a NUL.
    pub fn new(path: &[u8]) -> Result<Self, TextError> {
        if path.len() > PATH_MAX {
            return Err(TextError::PathLength(path.len()));
        }
        if path.contains(&0) {
            return Err(TextError::Nul);
        }
        Ok(Self(path.into()))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the operating system takes it.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for DiskPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\"", self.0.escape_ascii())
    }
}

/// Where an area lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Disk {
    /// Device or file.
    pub path: DiskPath,
    /// First byte of the area.
    pub offset: u64,
}

impl Disk {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let path = reader.text(PATH_MAX + 1);
        // A path without NUL loses its last byte, as in the original.
        let path = path.get(..PATH_MAX).unwrap_or(path);
        let disk = Self {
            path: DiskPath(path.into()),
            offset: reader.u64(),
        };
        reader.slice(8);
        disk
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_text(self.path.as_bytes(), PATH_MAX + 1);
        out.put_u64(self.offset);
        out.put_u64(0);
    }
}

/// A resource and its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Lockspace it belongs to.
    pub lockspace_name: NameField,
    /// Its name.
    pub name: NameField,
    /// Lease version; means something with [`ResourceFlags::LVER`].
    pub lver: u64,
    /// Unused.
    pub data64: u64,
    /// New number of hosts, with [`ResourceFlags::NUM_HOSTS`].
    pub data32: u32,
    /// [`ResourceFlags`] and geometry bits ([`crate::geometry_of`]).
    pub flags: u32,
    /// At most [`DISKS_MAX`]. Empty where no disks travel with the resource.
    pub disks: Vec<Disk>,
}

impl Default for Resource {
    fn default() -> Self {
        Self {
            lockspace_name: NameField::EMPTY,
            name: NameField::EMPTY,
            lver: 0,
            data64: 0,
            data32: 0,
            flags: 0,
            disks: Vec::new(),
        }
    }
}

impl Resource {
    /// Whether these flags are all set.
    #[must_use]
    pub fn has(&self, flags: ResourceFlags) -> bool {
        ResourceFlags(self.flags).has(flags)
    }

    /// The fields, and how many disks are said to follow.
    pub(crate) fn read(reader: &mut Reader<'_>) -> (Self, u32) {
        let resource = Self {
            lockspace_name: reader.name(),
            name: reader.name(),
            lver: reader.u64(),
            data64: reader.u64(),
            data32: reader.u32(),
            flags: {
                reader.slice(4);
                reader.u32()
            },
            disks: Vec::new(),
        };
        (resource, reader.u32())
    }

    /// The fields and as many disks as said and there are.
    pub(crate) fn read_with_disks(reader: &mut Reader<'_>) -> Self {
        let (mut resource, count) = Self::read(reader);
        let count = usize::try_from(count).unwrap_or(DISKS_MAX).min(DISKS_MAX);
        resource.disks = (0..count).map(|_| Disk::read(reader)).collect();
        resource
    }

    /// The 128 bytes; `num_disks` says how many disks it has even where they
    /// do not follow.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_name(&self.lockspace_name);
        out.put_name(&self.name);
        out.put_u64(self.lver);
        out.put_u64(self.data64);
        out.put_u32(self.data32);
        out.put_u32(0);
        out.put_u32(self.flags);
        out.put_u32(u32::try_from(self.disks.len()).unwrap_or(u32::MAX));
    }

    pub(crate) fn put_with_disks(&self, out: &mut Vec<u8>) {
        self.put(out);
        for disk in &self.disks {
            disk.put(out);
        }
    }
}

/// A lockspace, and the host id to hold there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockspace {
    /// Its name.
    pub name: NameField,
    /// Host id; 0 where any will do.
    pub host_id: u64,
    /// [`LockspaceFlags`] in replies, and geometry bits ([`crate::geometry_of`]).
    pub flags: u32,
    /// Where its area lies.
    pub disk: Disk,
}

impl Default for Lockspace {
    fn default() -> Self {
        Self {
            name: NameField::EMPTY,
            host_id: 0,
            flags: 0,
            disk: Disk::default(),
        }
    }
}

impl Lockspace {
    /// Whether these flags are all set.
    #[must_use]
    pub fn has(&self, flags: LockspaceFlags) -> bool {
        LockspaceFlags(self.flags).has(flags)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            name: reader.name(),
            host_id: reader.u64(),
            flags: {
                let flags = reader.u32();
                reader.slice(4);
                flags
            },
            disk: Disk::read(reader),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_name(&self.name);
        out.put_u64(self.host_id);
        out.put_u32(self.flags);
        out.put_u32(0);
        self.disk.put(out);
    }
}

/// What `ACQUIRE` says of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Its name in status output.
    pub owner_name: NameField,
    /// Unused.
    pub flags: u32,
    /// Unused; no string follows.
    pub len: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            owner_name: NameField::EMPTY,
            flags: 0,
            len: 0,
        }
    }
}

impl Options {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            owner_name: reader.name(),
            flags: reader.u32(),
            len: reader.u32(),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_name(&self.owner_name);
        out.put_u32(self.flags);
        out.put_u32(self.len);
    }
}

/// A host of a lockspace, or an owner of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Host {
    /// Host id.
    pub host_id: u64,
    /// Its generation.
    pub generation: u64,
    /// Its last renewal, in its own monotonic seconds; 0 is free.
    pub timestamp: u64,
    /// Its I/O time-out in seconds.
    pub io_timeout: u32,
    /// Low four bits: [`HostState`].
    pub flags: u32,
}

impl Host {
    /// The state in its flags.
    #[must_use]
    pub fn state(&self) -> Option<HostState> {
        HostState::from_flags(self.flags)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            host_id: reader.u64(),
            generation: reader.u64(),
            timestamp: reader.u64(),
            io_timeout: reader.u32(),
            flags: reader.u32(),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.host_id);
        out.put_u64(self.generation);
        out.put_u64(self.timestamp);
        out.put_u32(self.io_timeout);
        out.put_u32(self.flags);
    }
}

/// An event for a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostEvent {
    /// Destination host id.
    pub host_id: u64,
    /// Destination generation.
    pub generation: u64,
    /// Number of the event; 0 is none.
    pub event: u64,
    /// Its data.
    pub data: u64,
}

impl HostEvent {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            host_id: reader.u64(),
            generation: reader.u64(),
            event: reader.u64(),
            data: reader.u64(),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.host_id);
        out.put_u64(self.generation);
        out.put_u64(self.event);
        out.put_u64(self.data);
    }
}

/// A resource index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rindex {
    /// Geometry bits ([`crate::geometry_of`]).
    pub flags: u32,
    /// Number of entries; 0 is the default.
    pub max_resources: u32,
    /// Lockspace it belongs to.
    pub lockspace_name: NameField,
    /// Where it lies.
    pub disk: Disk,
}

impl Default for Rindex {
    fn default() -> Self {
        Self {
            flags: 0,
            max_resources: 0,
            lockspace_name: NameField::EMPTY,
            disk: Disk::default(),
        }
    }
}

impl Rindex {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            flags: reader.u32(),
            max_resources: reader.u32(),
            lockspace_name: {
                reader.slice(8);
                reader.name()
            },
            disk: Disk::read(reader),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.flags);
        out.put_u32(self.max_resources);
        out.put_u64(0);
        out.put_name(&self.lockspace_name);
        self.disk.put(out);
    }
}

/// An entry of a resource index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rentry {
    /// Name of the resource; empty is none.
    pub name: NameField,
    /// Where the resource lies on the index's device; 0 is nowhere.
    pub offset: u64,
    /// Unused.
    pub flags: u32,
}

impl Default for Rentry {
    fn default() -> Self {
        Self {
            name: NameField::EMPTY,
            offset: 0,
            flags: 0,
        }
    }
}

impl Rentry {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let entry = Self {
            name: reader.name(),
            offset: reader.u64(),
            flags: reader.u32(),
        };
        reader.slice(4);
        entry
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_name(&self.name);
        out.put_u64(self.offset);
        out.put_u32(self.flags);
        out.put_u32(0);
    }
}
