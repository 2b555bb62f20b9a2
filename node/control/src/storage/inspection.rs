//! What `nodectl inspect` finds of a storage domain without any daemon.

use serde::{Deserialize, Serialize};

/// A storage domain, read from its disks or its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInspection {
    /// Name of the volume group or directory: the domain's id when all is well.
    pub name: String,
    /// Where it was read.
    pub places: Vec<String>,
    /// `block` or `file`.
    pub kind: String,
    /// `ready`, `unready` (half-made) or `foreign` (not a storage domain).
    pub state: String,
    /// Its metadata, when they can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataInspection>,
    /// Its volume group, for a block domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupInspection>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeInspection>,
    /// External leases.
    #[serde(default)]
    pub leases: Vec<LeaseInspection>,
    /// The volume with the newest whole store of configurations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovf_store: Option<String>,
    /// Persisted tasks that are not over.
    #[serde(default)]
    pub tasks: Vec<TaskInspection>,
    /// What is wrong, worst first.
    pub findings: Vec<FindingInspection>,
}

/// Metadata of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataInspection {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u8,
    /// How it is reached: `ISCSI`, `NFS`, …
    pub storage: String,
    /// `Data`, `Iso` or `Backup`.
    pub class: String,
    /// `Master` or `Regular`.
    pub role: String,
    /// Free text.
    pub description: String,
    /// Pools it is attached to.
    pub pools: Vec<String>,
    /// Of a master: grows with each change of master.
    pub master_version: Option<u64>,
    /// Bytes of a sector.
    pub block_bytes: Option<u32>,
    /// Bytes of a lease's area.
    pub alignment_bytes: Option<u32>,
}

/// A volume group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInspection {
    /// Number of the last commit.
    pub seqno: u64,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Extents.
    pub extents: u64,
    /// Extents that no volume uses.
    pub free_extents: u64,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInspection {
    /// Its id.
    pub id: String,
    /// Its image.
    pub image: String,
    /// Its metadata slot; none on file domains.
    pub slot: Option<u32>,
    /// Bytes it has on storage.
    pub size_bytes: u64,
    /// Bytes a guest sees; none when its metadata cannot be read, as is all that
    /// follows.
    pub capacity_bytes: Option<u64>,
    /// The volume below; none for a base.
    pub parent: Option<String>,
    /// `COW` or `RAW`.
    pub format: Option<String>,
    /// `LEAF`, `INTERNAL` or `SHARED`.
    pub volume_type: Option<String>,
    /// `LEGAL`, `ILLEGAL` or `FAKE`.
    pub legality: Option<String>,
    /// What the disk is for.
    pub disk_type: Option<String>,
    /// Free text.
    pub description: Option<String>,
}

/// An external lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInspection {
    /// Its id.
    pub id: String,
    /// Where it is in `xleases`, in bytes.
    pub offset: u64,
}

/// A persisted task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInspection {
    /// Its id.
    pub id: String,
    /// What it does.
    pub name: String,
    /// Where it is in its life.
    pub state: String,
}

/// Something that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingInspection {
    /// `error`, `warning` or `note`.
    pub grade: String,
    /// What it is about.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub advice: String,
}
