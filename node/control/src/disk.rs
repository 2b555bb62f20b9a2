//! What is on a disk, in the words of the status snapshot, as far as a disk can
//! tell: `nodectl inspect --json` and `nodectl lockspace show --json`.

use serde::{Deserialize, Serialize};

use crate::status::HostReport;

/// One disk or image file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskReport {
    /// Path it was opened by.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes; absent for a file.
    pub sector_size: Option<u32>,
    /// `gpt` or `mbr`, where there is a partition table.
    pub table: Option<String>,
    /// Partitions by number.
    pub partitions: Vec<PartitionReport>,
    /// What was recognised, by offset.
    pub contents: Vec<ContentReport>,
    /// Lockspace areas by offset.
    pub areas: Vec<AreaReport>,
    /// Bytes from the start in which lockspaces and resources were looked for.
    pub searched: u64,
    /// What could not be read or is damaged.
    pub faults: Vec<String>,
}

/// One partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionReport {
    /// Number, from 1.
    pub number: u32,
    /// First byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// PARTUUID.
    pub uuid: String,
    /// Name, empty in an MBR.
    pub name: String,
}

/// Something recognised by its signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContentReport {
    /// Byte offset it begins at.
    pub offset: u64,
    /// Partition it fills, if any.
    pub partition: Option<u32>,
    /// What it is: `ext4`, `vfat`, `resource lease "x" of lockspace "y"`…
    pub kind: String,
    /// Label of a file system.
    pub label: Option<String>,
    /// UUID of a file system.
    pub uuid: Option<String>,
}

/// A lockspace area.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AreaReport {
    /// Lockspace name.
    pub name: String,
    /// Path of the device or file.
    pub path: String,
    /// Byte offset of the area.
    pub offset: u64,
    /// Sector size in bytes.
    pub sector_size: u32,
    /// Area size in bytes.
    pub align_size: u32,
    /// Largest host id.
    pub max_hosts: u32,
    /// Every host that ever held a lease, by host id. From one look at a disk a
    /// host is `free` or `unknown`: only watching tells whether it lives.
    pub hosts: Vec<HostReport>,
    /// What is wrong with which record.
    pub damage: Vec<String>,
}
