//! Connections to storage, and the LUNs of a host.

use serde::{Deserialize, Serialize};

use super::remote;

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
        /// Interface record to log in by: `name`, or `name=device` to bind a record
        /// of that name to a network device. The kernel's choice when absent.
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
    /// Fibre Channel, SAS and other SCSI disks that are there without logging in.
    Fc {},
}

impl Connection {
    /// The same with what it is to in its one spelling.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        match &mut self {
            Self::Nfs { export: remote, .. }
            | Self::Posix { spec: remote, .. }
            | Self::Local { path: remote }
            | Self::Gluster { volume: remote, .. } => *remote = remote::normalized(remote),
            Self::Iscsi { .. } | Self::Fc {} => {}
        }
        self
    }

    /// Its id: the same for the same storage, whatever the options and however it is
    /// spelled; without secrets. Another interface is another way, and so another
    /// connection.
    pub fn id(&self) -> String {
        match self {
            Self::Iscsi {
                target,
                portals,
                interface,
                ..
            } => {
                let what = target.clone().unwrap_or_else(|| portals.join(","));
                let name = interface.as_deref().and_then(|text| text.split('=').next());
                let way = name.map_or_else(String::new, |name| format!("@{name}"));
                format!("iscsi:{what}{way}")
            }
            Self::Fc {} => self.kind().to_owned(),
            _ => format!("{}:{}", self.kind(), remote::normalized(&self.target())),
        }
    }

    /// `iscsi`, `nfs`, `posix`, `local`, `gluster` or `fc`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Iscsi { .. } => "iscsi",
            Self::Nfs { .. } => "nfs",
            Self::Posix { .. } => "posix",
            Self::Local { .. } => "local",
            Self::Gluster { .. } => "gluster",
            Self::Fc {} => "fc",
        }
    }

    /// What it is to, in a few words, without secrets.
    pub fn target(&self) -> String {
        match self {
            Self::Iscsi {
                target, portals, ..
            } => target
                .clone()
                .unwrap_or_else(|| format!("every target of {}", portals.join(", "))),
            Self::Nfs { export, .. } => export.clone(),
            Self::Posix { spec, .. } => spec.clone(),
            Self::Local { path } => path.clone(),
            Self::Gluster { volume, .. } => volume.clone(),
            Self::Fc {} => "SCSI disks of this host".to_owned(),
        }
    }

    /// Whether it gives LUNs; the others give a directory.
    pub fn is_block(&self) -> bool {
        matches!(self, Self::Iscsi { .. } | Self::Fc {})
    }
}

/// One LUN of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lun {
    /// Number in the table, from 1.
    pub number: u32,
    /// World-wide name, also the name of its multipath map.
    pub wwid: String,
    /// Device to use: the multipath map; a bare disk where there is no map.
    pub device: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Serial number; empty when it has none.
    pub serial: String,
    /// Bytes of a logical sector.
    pub logical_block_bytes: u32,
    /// Bytes of a physical sector.
    pub physical_block_bytes: u32,
    /// Largest discard in bytes; 0 when it cannot discard.
    pub discard_max_bytes: u64,
    /// Whether something is on it.
    pub status: LunStatus,
    /// What is on it, when used, in a few words.
    pub used_by: Option<String>,
    /// Every signature found, strongest first.
    pub signatures: Vec<Signature>,
    /// Who has it open on this host: mount points, names of maps above it.
    pub in_use_by: Vec<String>,
    /// Paths that work.
    pub paths_active: u32,
    /// Paths in all.
    pub paths: u32,
    /// The paths one by one.
    pub path_list: Vec<LunPath>,
    /// iSCSI sessions it comes over: `target portal`.
    pub sessions: Vec<String>,
    /// False for a bare disk: no multipath map has been made for it.
    pub multipath: bool,
    /// Why it could not be read.
    pub fault: Option<String>,
}

/// Whether a LUN can be taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LunStatus {
    /// It was read, nothing is on it and nobody has it open.
    Free,
    /// Something is on it, or has it open.
    Used,
    /// It could not be read.
    #[default]
    Unknown,
}

impl std::fmt::Display for LunStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Free => "free",
            Self::Used => "used",
            Self::Unknown => "unknown",
        })
    }
}

/// One path to a LUN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LunPath {
    /// The kernel's name of the disk, such as `sdb`.
    pub device: String,
    /// Device number, `major:minor`.
    pub number: String,
    /// Host, channel, target, LUN.
    pub address: String,
    /// `active` or `failed` in the map; `bare` outside one.
    pub state: String,
}

/// What a signature on a LUN says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Signature {
    /// Volume group of a storage domain.
    StorageDomain {
        /// The domain's UUID.
        domain: String,
        /// Its pool, when the tags say.
        pool: Option<String>,
    },
    /// Another volume group.
    VolumeGroup {
        /// Its name.
        name: String,
    },
    /// A physical volume whose group cannot be told.
    PhysicalVolume {
        /// The physical volume's UUID.
        uuid: String,
    },
    /// A partition table.
    PartitionTable {
        /// `gpt` or `mbr`.
        table: String,
    },
    /// A file system, swap space or encrypted volume.
    Content {
        /// Its usual name.
        name: String,
        /// Label.
        label: Option<String>,
        /// UUID.
        uuid: Option<String>,
    },
    /// Leases of sanlock.
    Sanlock {
        /// `lockspace` or `resource`.
        area: String,
        /// Its name.
        name: String,
    },
    /// Member of a Linux software RAID.
    RaidMember,
    /// A multipath map claims the disk, although it is listed as a bare one.
    MultipathMember {
        /// The map's name.
        map: String,
    },
    /// Bytes that are not zero where signatures are, and that nobody knows.
    Unrecognized,
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StorageDomain { domain, pool } => {
                write!(f, "storage domain {domain}")?;
                pool.as_ref()
                    .map_or(Ok(()), |pool| write!(f, " of pool {pool}"))
            }
            Self::VolumeGroup { name } => write!(f, "volume group {name}"),
            Self::PhysicalVolume { uuid } => write!(f, "LVM physical volume {uuid}"),
            Self::PartitionTable { table } => write!(f, "{table} partition table"),
            Self::Content { name, label, uuid } => {
                f.write_str(name)?;
                match (label, uuid) {
                    (Some(label), _) => write!(f, " {label:?}"),
                    (None, Some(uuid)) => write!(f, " {uuid}"),
                    (None, None) => Ok(()),
                }
            }
            Self::Sanlock { area, name } => write!(f, "sanlock {area} {name:?}"),
            Self::RaidMember => f.write_str("member of a software RAID"),
            Self::MultipathMember { map } => write!(f, "path of multipath map {map}"),
            Self::Unrecognized => f.write_str("unrecognized data"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Connection {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn ids_tell_storage_apart_and_not_its_options() {
        for (text, id) in [
            (r#"{"type":"nfs","export":"s:/x"}"#, "nfs:s:/x"),
            (
                r#"{"type":"nfs","export":"s:/x","hard":true,"version":"4.2"}"#,
                "nfs:s:/x",
            ),
            (r#"{"type":"nfs","export":"s://x/"}"#, "nfs:s:/x"),
            (r#"{"type":"local","path":"/data"}"#, "local:/data"),
            (r#"{"type":"local","path":"/data/./"}"#, "local:/data"),
            (r#"{"type":"fc"}"#, "fc"),
            (r#"{"type":"iscsi","portals":["a","b"]}"#, "iscsi:a,b"),
            (
                r#"{"type":"iscsi","portals":["a"],"target":"iqn.x:y"}"#,
                "iscsi:iqn.x:y",
            ),
            (
                r#"{"type":"iscsi","portals":["a"],"target":"iqn.x:y","interface":"two=eth1"}"#,
                "iscsi:iqn.x:y@two",
            ),
        ] {
            assert_eq!(read(text).id(), id);
        }
    }

    #[test]
    fn connections_survive_the_way_and_unknown_keys_are_refused() {
        let text = r#"{"type":"iscsi","portals":["a"],"chap":{"user":"u","password":"hidden"}}"#;
        let connection = read(text);
        let again = serde_json::to_string(&connection).unwrap();
        assert_eq!(read(&again), connection);
        assert!(!format!("{connection:?}").contains("hidden"));
        assert!(!connection.id().contains("hidden"));
        for wrong in [
            r#"{"type":"fc","x":1}"#,
            r#"{"type":"nfs","export":"s:/x","timeout":3}"#,
            r#"{"type":"ftp"}"#,
        ] {
            assert!(
                serde_json::from_str::<Connection>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn signatures_say_whose_they_are() {
        let domain = Signature::StorageDomain {
            domain: "d".into(),
            pool: Some("p".into()),
        };
        assert_eq!(domain.to_string(), "storage domain d of pool p");
        let text = serde_json::to_string(&domain).unwrap();
        assert_eq!(text, r#"{"kind":"storage-domain","domain":"d","pool":"p"}"#);
        let lun: Lun = serde_json::from_str("{}").unwrap();
        assert_eq!(format!("[{:>8}]", lun.status), "[ unknown]");
    }
}
