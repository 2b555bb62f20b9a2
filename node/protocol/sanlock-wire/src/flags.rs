//! Flag words and small numbers of commands and structs.

use disk_format::Geometry;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident { $($(#[$flag_doc:meta])* $flag:ident = $value:literal;)* })*) => {$(
        $(#[$doc])*
        ///
        /// Unknown bits are kept and mean nothing.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// No flag.
            pub const NONE: Self = Self(0);
            $($(#[$flag_doc])* pub const $flag: Self = Self($value);)*

            /// Whether every flag of `other` is set.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// With the flags of `other` too.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// With the flags of `other` if `condition`.
            #[must_use]
            pub const fn with_if(self, other: Self, condition: bool) -> Self {
                if condition { self.with(other) } else { self }
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }
    )*};
}

flags! {
    /// Flags of `ADD_LOCKSPACE`.
    AddFlags {
        /// Answer at once, join later.
        ASYNC = 0x1;
    }
    /// Flags of `REM_LOCKSPACE`.
    RemoveFlags {
        /// Answer at once, leave later.
        ASYNC = 0x1;
        /// Only if nobody uses the lockspace.
        UNUSED = 0x2;
    }
    /// Flags of `INQ_LOCKSPACE`.
    InquireFlags {
        /// Wait while it is being added or removed.
        WAIT = 0x1;
    }
    /// Flags of `ACQUIRE`.
    AcquireFlags {
        /// Read the lock value block.
        LVB = 0x1;
        /// Adopt an orphan lease if there is one.
        ORPHAN = 0x2;
        /// Only adopt an orphan lease.
        ORPHAN_ONLY = 0x4;
        /// Do not wait for an owner that may be dead.
        OWNER_NOWAIT = 0x8;
        /// Wait in line while another host holds the lease, for as long as the
        /// client lives; the original ignores it.
        WAIT = 0x1000_0000;
    }
    /// Flags of `CONVERT`.
    ConvertFlags {
        /// Do not wait for an owner that may be dead.
        OWNER_NOWAIT = 0x8;
    }
    /// Flags of `RELEASE`.
    ReleaseFlags {
        /// Every lease of the process.
        ALL = 0x1;
        /// Give the resource another name on disk.
        RENAME = 0x2;
        /// Orphan leases.
        ORPHAN = 0x4;
    }
    /// Flags of `RESTRICT`.
    RestrictFlags {
        /// Ignore every later message of this connection.
        ALL = 0x1;
        /// Never send SIGKILL.
        SIGKILL = 0x2;
        /// Never send SIGTERM.
        SIGTERM = 0x4;
    }
    /// Flags of `REQUEST`.
    RequestFlags {
        /// The version after the present one.
        NEXT_LVER = 0x1;
    }
    /// Flags of `KILLPATH`.
    KillpathFlags {
        /// Append the process id to the arguments.
        PID = 0x1;
    }
    /// Flags of `WRITE_RESOURCE`.
    WriteFlags {
        /// Write a cleared resource.
        CLEAR = 0x1;
    }
    /// Flags of `SET_EVENT`.
    EventFlags {
        /// The host's present generation, if none is given.
        CUR_GENERATION = 0x1;
        /// Take the host's bit back.
        CLEAR_HOSTID = 0x2;
        /// Take the event back.
        CLEAR_EVENT = 0x4;
        /// Replace another event that is still on its way.
        REPLACE_EVENT = 0x8;
        /// Every host.
        ALL_HOSTS = 0x10;
    }
    /// Flags of the resource index commands.
    RindexFlags {
        /// The lockspace need not be joined.
        NO_LOCKSPACE = 0x1;
        /// `UPDATE_RINDEX`: put the entry in.
        ADD = 0x1_0000;
        /// `UPDATE_RINDEX`: take the entry out.
        REMOVE = 0x2_0000;
    }
    /// `flags` of a [`crate::Resource`]; the geometry bits are
    /// [`geometry_of`]'s.
    ResourceFlags {
        /// `lver` must be the one on disk.
        LVER = 0x1;
        /// `data32` is the new number of hosts.
        NUM_HOSTS = 0x2;
        /// Shared.
        SHARED = 0x4;
        /// Becomes an orphan when its process ends.
        PERSISTENT = 0x8;
    }
    /// `flags` of a [`crate::Lockspace`] in replies; the geometry bits are
    /// [`geometry_of`]'s.
    LockspaceFlags {
        /// Being added.
        ADD = 0x1;
        /// Being removed.
        REM = 0x2;
    }
}

/// How hard a `REQUEST` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForceMode {
    /// 0: the request is taken back.
    None,
    /// 1: the owner is killed.
    Force,
    /// 2: the owner is asked to end.
    Graceful,
    /// Anything else; stored, means nothing.
    Other(u32),
}

impl ForceMode {
    /// From the wire.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Force,
            2 => Self::Graceful,
            other => Self::Other(other),
        }
    }

    /// On the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Force => 1,
            Self::Graceful => 2,
            Self::Other(other) => other,
        }
    }
}

/// What `SET_CONFIG` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigAction {
    /// 1: the lockspace is used from outside.
    Used,
    /// 2: no longer.
    Unused,
    /// 4: orphans count as use.
    UsedByOrphans,
    /// 8: no longer.
    UnusedByOrphans,
    /// Anything else: refused.
    Other(u32),
}

impl ConfigAction {
    /// From the wire.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Used,
            2 => Self::Unused,
            4 => Self::UsedByOrphans,
            8 => Self::UnusedByOrphans,
            other => Self::Other(other),
        }
    }

    /// On the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Used => 1,
            Self::Unused => 2,
            Self::UsedByOrphans => 4,
            Self::UnusedByOrphans => 8,
            Self::Other(other) => other,
        }
    }
}

/// What is believed of a host: the low four bits of [`crate::Host::flags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HostState {
    /// 1: not watched for long enough.
    Unknown = 1,
    /// 2: its lease is free.
    Free = 2,
    /// 3: renewing.
    Live = 3,
    /// 4: too long without a renewal, its watchdog may not have fired.
    Fail = 4,
    /// 5: surely dead.
    Dead = 5,
}

impl HostState {
    /// From a host's flags.
    #[must_use]
    pub fn from_flags(flags: u32) -> Option<Self> {
        match flags & 0xf {
            1 => Some(Self::Unknown),
            2 => Some(Self::Free),
            3 => Some(Self::Live),
            4 => Some(Self::Fail),
            5 => Some(Self::Dead),
            _ => None,
        }
    }

    /// As a host's flags.
    #[must_use]
    pub const fn flags(self) -> u32 {
        match self {
            Self::Unknown => 1,
            Self::Free => 2,
            Self::Live => 3,
            Self::Fail => 4,
            Self::Dead => 5,
        }
    }
}

const ALIGN_BITS: u32 = 0xf0;
const SECTOR_512: u32 = 0x100;
const SECTOR_4096: u32 = 0x200;

/// Geometry bits that are no geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("geometry flags {0:#x}: allowed are none, or one align and one sector flag that fit")]
pub struct GeometryError(pub u32);

/// The sector size and the align size that the `flags` of a resource, lockspace
/// or index state, each by itself. Of several sizes stated the smallest counts.
#[must_use]
pub fn sizes_of(flags: u32) -> (Option<u32>, Option<u32>) {
    let stated = |bits: u32, of: fn(Geometry) -> u32| {
        Geometry::ALL
            .into_iter()
            .filter(|&geometry| flags & bits & geometry_flags(geometry) != 0)
            .map(of)
            .min()
    };
    (
        stated(SECTOR_512 | SECTOR_4096, Geometry::sector_size),
        stated(ALIGN_BITS, Geometry::align_size),
    )
}

/// The geometry that the `flags` of a resource, lockspace or index ask for;
/// `None` when they leave it to the disk.
///
/// # Errors
/// When only one of sector and align size is given, or they do not fit.
pub fn geometry_of(flags: u32) -> Result<Option<Geometry>, GeometryError> {
    let (sector, align) = match sizes_of(flags) {
        (None, None) => return Ok(None),
        sizes => sizes,
    };
    Geometry::ALL
        .into_iter()
        .find(|geometry| {
            Some(geometry.sector_size()) == sector && Some(geometry.align_size()) == align
        })
        .map(Some)
        .ok_or(GeometryError(
            flags & (ALIGN_BITS | SECTOR_512 | SECTOR_4096),
        ))
}

/// Flags with their geometry bits replaced by those of a geometry.
#[must_use]
pub const fn with_geometry(flags: u32, geometry: Geometry) -> u32 {
    flags & !(ALIGN_BITS | SECTOR_512 | SECTOR_4096) | geometry_flags(geometry)
}

/// The `flags` bits of a geometry.
#[must_use]
pub const fn geometry_flags(geometry: Geometry) -> u32 {
    let sector = if geometry.sector_size() == 512 {
        SECTOR_512
    } else {
        SECTOR_4096
    };
    geometry.align_flag() | sector
}
