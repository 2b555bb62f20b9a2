//! Where storage meets the file system of the host.
//!
//! Every path a function uses comes from a [`Layout`], so that tests run in a
//! directory of their own.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The roots below which everything lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Mount points, links of pools and domains: `/rhev/data-center`.
    pub rhev: PathBuf,
    /// Links of prepared volumes: `/run/vdsm/storage`.
    pub run: PathBuf,
    /// Device nodes: `/dev`.
    pub dev: PathBuf,
    /// What the kernel tells: `/sys`.
    pub sys: PathBuf,
    /// Configuration, locks and backups of LVM commands: `/run/holdfast/lvm`.
    pub lvm: PathBuf,
    /// The socket of the lease daemon.
    pub sanlock: PathBuf,
}

impl Default for Layout {
    /// The paths of a node, those of a VDSM host.
    fn default() -> Self {
        Self {
            rhev: "/rhev/data-center".into(),
            run: "/run/vdsm/storage".into(),
            dev: "/dev".into(),
            sys: "/sys".into(),
            lvm: "/run/holdfast/lvm".into(),
            sanlock: "/run/sanlock/sanlock.sock".into(),
        }
    }
}

impl Layout {
    /// Everything below `folder`, devices and `/sys` excepted.
    #[must_use]
    pub fn under(folder: &Path) -> Self {
        Self {
            rhev: folder.join("rhev"),
            run: folder.join("run"),
            lvm: folder.join("lvm"),
            sanlock: folder.join("sanlock.sock"),
            ..Self::default()
        }
    }

    /// Where file systems are mounted: `…/mnt`.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.rhev.join("mnt")
    }

    /// The directory of a block domain: `…/mnt/blockSD/<domain>`.
    #[must_use]
    pub fn block_domain(&self, domain: impl Display) -> PathBuf {
        self.mounts().join("blockSD").join(domain.to_string())
    }

    /// The directory of a pool: `…/<pool>`.
    #[must_use]
    pub fn pool(&self, pool: impl Display) -> PathBuf {
        self.rhev.join(pool.to_string())
    }

    /// The links of a domain's prepared volumes.
    #[must_use]
    pub fn prepared(&self, domain: impl Display) -> PathBuf {
        self.run.join(domain.to_string())
    }

    /// The device node of a logical volume: `/dev/<vg>/<lv>`.
    #[must_use]
    pub fn logical_volume(&self, group: impl Display, volume: impl Display) -> PathBuf {
        self.dev.join(group.to_string()).join(volume.to_string())
    }

    /// A device-mapper node by its map's name: `/dev/mapper/<name>`.
    #[must_use]
    pub fn mapper(&self, name: &str) -> PathBuf {
        self.dev.join("mapper").join(name)
    }
}
