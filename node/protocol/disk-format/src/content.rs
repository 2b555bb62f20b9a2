//! What a piece of disk holds, as far as it can be told from its bytes.

use std::fmt;

use crate::delta;
use crate::geometry::Geometry;
use crate::id::NameField;
use crate::{paxos, rindex};

/// What was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros.
    Zeros,
    /// A delta lease: the start of a lockspace area, or a host's sector in it.
    DeltaLease {
        /// Name of the lockspace.
        lockspace: NameField,
        /// Its geometry, if the record states a valid one.
        geometry: Option<Geometry>,
        /// Whether the checksum is right.
        intact: bool,
    },
    /// A paxos resource.
    PaxosResource {
        /// Name of its lockspace.
        lockspace: NameField,
        /// Name of the resource.
        resource: NameField,
    },
    /// A paxos resource that was cleared.
    ClearedResource {
        /// Name of its lockspace.
        lockspace: NameField,
        /// Name of the resource.
        resource: NameField,
    },
    /// The header of a resource index.
    ResourceIndex {
        /// Name of its lockspace.
        lockspace: NameField,
    },
    /// Something with a well-known signature.
    Known(&'static str),
    /// Something else.
    Unknown,
}

impl Content {
    /// Judges the first bytes of an area (at best 4096 or more; a single
    /// sector will do).
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.iter().all(|&byte| byte == 0) {
            return Self::Zeros;
        }
        let Some(leader) = delta::leader(bytes) else {
            return Self::Unknown;
        };
        match leader.magic {
            delta::MAGIC => Self::DeltaLease {
                lockspace: leader.space_name,
                geometry: Geometry::from_leader(leader.sector_size, leader.flags).ok(),
                intact: delta::verify_kind(&leader).is_ok()
                    && delta::verify_checksum(&leader).is_ok(),
            },
            paxos::MAGIC => Self::PaxosResource {
                lockspace: leader.space_name,
                resource: leader.resource_name,
            },
            paxos::MAGIC_CLEARED => Self::ClearedResource {
                lockspace: leader.space_name,
                resource: leader.resource_name,
            },
            rindex::MAGIC => {
                let header = rindex::Header::decode(bytes);
                Self::ResourceIndex {
                    lockspace: header.map_or(NameField::EMPTY, |header| header.lockspace_name),
                }
            }
            _ => known_signature(bytes).map_or(Self::Unknown, Self::Known),
        }
    }
}

/// Signatures worth naming to an operator about to lose the data behind them.
fn known_signature(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(usize, &[u8], &str); 8] = [
        (512, b"LABELONE", "an LVM physical volume"),
        (0, b"LABELONE", "an LVM physical volume"),
        (512, b"EFI PART", "a GPT partition table"),
        (0, b"XFSB", "an XFS file system"),
        (1080, &[0x53, 0xef], "an ext2/3/4 file system"),
        (0, b"QFI\xfb", "a qcow2 image"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (510, &[0x55, 0xaa], "a boot sector or partition table"),
    ];
    SIGNATURES
        .into_iter()
        .find_map(|(offset, signature, name)| {
            bytes.get(offset..)?.starts_with(signature).then_some(name)
        })
}

impl fmt::Display for Content {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => write!(out, "zeros"),
            Self::DeltaLease {
                lockspace,
                intact: true,
                ..
            } => write!(out, "lockspace \"{lockspace}\""),
            Self::DeltaLease {
                lockspace,
                intact: false,
                ..
            } => write!(out, "damaged lockspace \"{lockspace}\""),
            Self::PaxosResource {
                lockspace,
                resource,
            } => {
                write!(
                    out,
                    "resource lease \"{resource}\" of lockspace \"{lockspace}\""
                )
            }
            Self::ClearedResource {
                lockspace,
                resource,
            } => {
                write!(
                    out,
                    "cleared resource lease \"{resource}\" of lockspace \"{lockspace}\""
                )
            }
            Self::ResourceIndex { lockspace } => {
                write!(out, "resource index of lockspace \"{lockspace}\"")
            }
            Self::Known(name) => write!(out, "{name}"),
            Self::Unknown => write!(out, "data of an unknown kind"),
        }
    }
}
