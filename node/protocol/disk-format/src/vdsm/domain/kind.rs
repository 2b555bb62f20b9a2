//! Words for what a domain is.

use std::fmt;
use std::str::FromStr;

use crate::vdsm::error::FormatError;
use crate::vdsm::volume::words;

words! { DomainType, "domain type", "NFS, FCP, ISCSI, LOCALFS, CIFS, POSIXFS, GLUSTERFS or UNKNOWN", "How the domain is reached.",
    Unknown = "UNKNOWN", "Not known.";
    Nfs = "NFS", "An NFS export.";
    Fcp = "FCP", "LUNs of Fibre Channel (or any other SCSI).";
    Iscsi = "ISCSI", "LUNs of iSCSI.";
    LocalFs = "LOCALFS", "A directory of one host.";
    Cifs = "CIFS", "An SMB share.";
    PosixFs = "POSIXFS", "Any mountable file system.";
    GlusterFs = "GLUSTERFS", "A Gluster volume.";
}
words! { DomainClass, "domain class", "Data, Iso or Backup", "What the domain is for.",
    Data = "Data", "Disks.";
    Iso = "Iso", "ISO and floppy images.";
    Backup = "Backup", "Exported guests.";
}
words! { DomainRole, "domain role", "Regular or Master", "Whether it carries the pool's metadata.",
    Regular = "Regular", "It does not.";
    Master = "Master", "It does.";
}

impl DomainType {
    /// The number used by managers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Nfs => 1,
            Self::Fcp => 2,
            Self::Iscsi => 3,
            Self::LocalFs => 4,
            Self::Cifs => 5,
            Self::PosixFs => 6,
            Self::GlusterFs => 7,
        }
    }

    /// Whether it is made of LUNs.
    #[must_use]
    pub const fn is_block(self) -> bool {
        matches!(self, Self::Fcp | Self::Iscsi)
    }
}

impl DomainClass {
    /// The number used by managers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Iso => 2,
            Self::Backup => 3,
        }
    }
}
