//! Connections to storage, and the LUNs of a host.

use serde::{Deserialize, Serialize};

/// A secret: never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Name and password of one direction of CHAP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chap {
    /// User.
    pub user: String,
    /// Password.
    pub password: Secret,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Connection {
    /// An iSCSI target over its portals.
    Iscsi {
        /// `address` or `address:port` each.
        portals: Vec<String>,
        /// Target name; every target the portals offer when absent.
        #[serde(default)]
        target: Option<String>,
        /// We prove ourselves to the target.
        #[serde(default)]
        chap: Option<Chap>,
        /// The target proves itself to us.
        #[serde(default)]
        mutual_chap: Option<Chap>,
        /// Named interface record.
        #[serde(default)]
        interface: Option<String>,
    },
    /// An NFS export.
    Nfs {
        /// `server:/path`.
        export: String,
        /// `auto`, `3`, `4`, `4.0`, `4.1`, `4.2`.
        #[serde(default)]
        version: Option<String>,
        /// Tenths of a second.
        #[serde(default)]
        timeo: Option<u32>,
        /// Times.
        #[serde(default)]
        retrans: Option<u32>,
        /// Further mount options.
        #[serde(default)]
        options: Vec<String>,
        /// Wait for ever for a server that is gone, instead of failing.
        #[serde(default)]
        hard: bool,
    },
    /// Any file system the kernel can mount.
    Posix {
        /// What is mounted.
        spec: String,
        /// Type of file system.
        vfs_type: String,
        /// Mount options.
        #[serde(default)]
        options: Vec<String>,
    },
    /// A directory of this host.
    Local {
        /// Absolute path.
        path: String,
    },
    /// A Gluster volume.
    Gluster {
        /// `server:volume`.
        volume: String,
        /// Further mount options.
        #[serde(default)]
        options: Vec<String>,
    },
}

/// One LUN of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lun {
    /// Number in the table, from 1.
    pub number: u32,
    /// Map name (WWID).
    pub wwid: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// `free`, `used`.
    pub status: String,
    /// What is on it, when used.
    pub used_by: Option<String>,
    /// Paths that work.
    pub paths_active: u32,
    /// Paths in all.
    pub paths: u32,
}
