//! What `storaged` can be asked: one JSON document a line, each answered by one
//! [`Reply`](super::Reply). A key nobody knows is refused, not passed over.

use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::ovf::OvfRequest;

/// Longest request line, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Connections, domains, workers, watches: answered from memory.
    Status,
    /// The LUN table of this host.
    Luns {
        /// Look for new ones first.
        #[serde(default)]
        rescan: bool,
    },
    /// Ask an iSCSI portal for its targets.
    Discover {
        /// An iSCSI connection; its target is not looked at.
        connection: Connection,
    },
    /// Make a connection and keep it.
    Connect {
        /// The connection.
        connection: Connection,
    },
    /// Drop a connection that was asked for.
    Disconnect {
        /// Its id, as status shows it.
        connection: String,
    },
    /// Look for new LUNs and grown ones, and for domains on what is connected.
    Rescan,
    /// Domains.
    Domain(DomainRequest),
    /// Volumes and images.
    Volume(VolumeRequest),
    /// External leases of a domain.
    Lease(LeaseRequest),
    /// Configurations of guests in a domain's OVF stores.
    Ovf(OvfRequest),
    /// The pool.
    Pool(PoolRequest),
    /// The pool manager's role.
    Spm(SpmRequest),
    /// Long work.
    Task(TaskRequest),
}

/// Where a new domain shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NewPlace {
    /// A volume group over these LUNs.
    Block {
        /// Map names (WWIDs) or device paths.
        luns: Vec<String>,
    },
    /// A directory on a connection to a file system.
    File {
        /// Id of the connection.
        connection: String,
    },
}

/// What a domain holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Disks.
    #[default]
    Data,
    /// Installation images.
    Iso,
    /// Export of the old kind.
    Export,
}

/// A domain to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    /// Its UUID; one is made when absent.
    #[serde(default)]
    pub id: Option<String>,
    /// What people call it.
    pub name: String,
    /// Where.
    pub place: NewPlace,
    /// What it holds.
    #[serde(default)]
    pub class: Class,
    /// Version, 5 when absent.
    #[serde(default)]
    pub version: Option<u8>,
    /// Bytes of a sector, 512 or 4096; found out when absent.
    #[serde(default)]
    pub block_size: Option<u32>,
    /// MiB of a lease: 1, 2, 4 or 8; the smallest for 250 hosts when absent.
    #[serde(default)]
    pub alignment_mib: Option<u32>,
    /// Take LUNs that carry something else.
    #[serde(default)]
    pub force: bool,
}

/// About domains. `domain` is a UUID, or a name if only one domain has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DomainRequest {
    /// Make one; a long task.
    Create(NewDomain),
    /// Those found on what is connected.
    List,
    /// Everything known of one.
    Show {
        /// Which.
        domain: String,
    },
    /// Put it into the pool.
    Attach {
        /// Which.
        domain: String,
    },
    /// Take it out of the pool.
    Detach {
        /// Which.
        domain: String,
        /// Although the pool's manager cannot be asked.
        #[serde(default)]
        force: bool,
    },
    /// Use it.
    Activate {
        /// Which.
        domain: String,
    },
    /// Stop using it.
    Deactivate {
        /// Which.
        domain: String,
    },
    /// Make this domain the master while the old one can be read.
    MigrateMaster {
        /// The new master.
        domain: String,
    },
    /// Make this domain the master although the old one cannot be read.
    Reconstruct {
        /// The new master.
        domain: String,
    },
    /// Convert to a newer version.
    Upgrade {
        /// Which.
        domain: String,
        /// 4 or 5.
        version: u8,
    },
    /// Add LUNs to a block domain.
    Extend {
        /// Which.
        domain: String,
        /// Map names (WWIDs) or device paths.
        luns: Vec<String>,
        /// Take LUNs that carry something else.
        #[serde(default)]
        force: bool,
    },
    /// Use what a grown LUN has more.
    Grow {
        /// Which.
        domain: String,
        /// Map name (WWID) or device path.
        lun: String,
    },
    /// Move everything off a LUN and take it out of the domain.
    Reduce {
        /// Which.
        domain: String,
        /// Map name (WWID) or device path.
        lun: String,
    },
    /// Destroy a domain that is in no pool.
    Remove {
        /// Which.
        domain: String,
    },
}

/// A volume's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeName {
    /// Domain: a UUID, or a name if only one domain has it.
    pub domain: String,
    /// UUID of its image.
    pub image: String,
    /// Its UUID.
    pub volume: String,
}

/// How a volume's bytes are to be understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// As they are.
    #[default]
    Raw,
    /// QCOW2.
    Cow,
}

/// A volume to be made; a snapshot and a thin clone are volumes with a parent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVolume {
    /// Domain: a UUID, or a name if only one domain has it.
    pub domain: String,
    /// UUID of its image; a new image when absent.
    #[serde(default)]
    pub image: Option<String>,
    /// Its UUID; one is made when absent.
    #[serde(default)]
    pub volume: Option<String>,
    /// Image of its parent, when another than its own (a template's).
    #[serde(default)]
    pub parent_image: Option<String>,
    /// Its parent.
    #[serde(default)]
    pub parent: Option<String>,
    /// What the guest sees, bytes; the parent's when 0.
    #[serde(default)]
    pub capacity_bytes: u64,
    /// Bytes to begin with, for a thin volume on block storage.
    #[serde(default)]
    pub initial_bytes: Option<u64>,
    /// RAW or QCOW2.
    #[serde(default)]
    pub format: Format,
    /// All bytes allocated from the start.
    #[serde(default)]
    pub preallocated: bool,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// DISKTYPE: `DATA` when absent.
    #[serde(default)]
    pub disk_type: Option<String>,
}

/// Where a copy goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyTarget {
    /// Domain: a UUID, or a name if only one domain has it.
    pub domain: String,
    /// UUID of the new image; made when absent.
    #[serde(default)]
    pub image: Option<String>,
    /// UUID of the new volume; made when absent.
    #[serde(default)]
    pub volume: Option<String>,
    /// Its format; the source's when absent.
    #[serde(default)]
    pub format: Option<Format>,
    /// All bytes allocated from the start.
    #[serde(default)]
    pub preallocated: bool,
    /// Copy the source's bitmaps, too (QCOW2, domains from version 4 on).
    #[serde(default)]
    pub bitmaps: bool,
    /// MiB a second at most; as fast as it goes when absent.
    #[serde(default)]
    pub mib_per_s: Option<u32>,
}

/// A change of a volume's bitmaps, by which backups know what changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BitmapChange {
    /// A new one, which notes all writes from now on.
    Add {
        /// Its name, 1 to 1023 bytes.
        name: String,
        /// Bytes that one bit stands for: a power of two from 512 to 2^31;
        /// QEMU's choice when absent.
        #[serde(default)]
        granularity_bytes: Option<u32>,
        /// Notes nothing yet.
        #[serde(default)]
        disabled: bool,
    },
    /// One goes.
    Remove {
        /// Its name.
        name: String,
    },
    /// All go.
    Clear,
}

/// What happens to a guest whose drives are watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum GuestChange {
    /// It leaves for another host, which has to map what its volumes become
    /// before this one writes there.
    Migrating {
        /// Socket on this host at which that host's storage daemon answers;
        /// without it nothing is extended until the migration ends.
        #[serde(default)]
        destination: Option<String>,
    },
    /// It has stayed, or is gone.
    Stayed,
    /// It is not to be continued for now, although it may have room.
    Hold,
    /// It may be continued again.
    Release,
    /// A disk of it was given another capacity.
    Resized {
        /// QEMU's name of its node.
        node: String,
    },
    /// A drive is being copied to another thin volume, which is extended first.
    Replicating {
        /// QEMU's name of its node.
        node: String,
        /// The copy.
        replica: VolumeName,
    },
    /// The copying has ended.
    Replicated {
        /// QEMU's name of its node.
        node: String,
    },
}

/// A drive of a guest, to be watched and extended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedDrive {
    /// QEMU's name of the node whose threshold is set.
    pub node: String,
    /// The volume behind it.
    pub volume: VolumeName,
}

/// About volumes and images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum VolumeRequest {
    /// Make one; a long task.
    Create(NewVolume),
    /// All of a domain, or of one image.
    List {
        /// Domain.
        domain: String,
        /// Only those of this image.
        #[serde(default)]
        image: Option<String>,
    },
    /// One.
    Show {
        /// Which.
        volume: VolumeName,
    },
    /// Give the guest more, or the volume more room.
    Extend {
        /// Which.
        volume: VolumeName,
        /// New capacity in bytes.
        #[serde(default)]
        capacity_bytes: Option<u64>,
        /// Room at least, in bytes (block storage; absolute, repeating it is safe).
        #[serde(default)]
        size_bytes: Option<u64>,
    },
    /// Give back room that is not used (block storage, QCOW2, not in use).
    Shrink {
        /// Which.
        volume: VolumeName,
    },
    /// Delete one that has no children.
    Delete {
        /// Which.
        volume: VolumeName,
        /// Zero it before its room is given back.
        #[serde(default)]
        wipe: bool,
        /// Discard it, too.
        #[serde(default)]
        discard: bool,
    },
    /// Delete an image with all its volumes.
    DeleteImage {
        /// Domain.
        domain: String,
        /// Image.
        image: String,
        /// Zero before room is given back.
        #[serde(default)]
        wipe: bool,
        /// Discard it, too.
        #[serde(default)]
        discard: bool,
    },
    /// Make an image's chain usable on this host.
    Prepare {
        /// Domain.
        domain: String,
        /// Image.
        image: String,
        /// Leaf; the image's own when absent.
        #[serde(default)]
        leaf: Option<String>,
        /// Although a volume of it is illegal.
        #[serde(default)]
        allow_illegal: bool,
    },
    /// The opposite.
    Teardown {
        /// Domain.
        domain: String,
        /// Image.
        image: String,
    },
    /// Copy what a guest sees of a volume to a new image; a long task.
    Copy {
        /// From.
        source: VolumeName,
        /// To.
        target: CopyTarget,
    },
    /// Copy what a guest sees of a volume to a new template; a long task.
    Template {
        /// From.
        source: VolumeName,
        /// To.
        target: CopyTarget,
    },
    /// A new leaf on top of an image's present one.
    Snapshot {
        /// Domain.
        domain: String,
        /// Image.
        image: String,
        /// UUID of the new leaf; made when absent.
        #[serde(default)]
        volume: Option<String>,
    },
    /// Merge a volume into its parent, while no guest uses it; a long task.
    Merge {
        /// The upper one, which goes.
        volume: VolumeName,
        /// Zero it before its room is given back.
        #[serde(default)]
        wipe: bool,
        /// Discard it, too.
        #[serde(default)]
        discard: bool,
    },
    /// The bitmaps of a QCOW2 volume.
    Bitmaps {
        /// Which.
        volume: VolumeName,
    },
    /// Change them, while no guest uses the volume.
    Bitmap {
        /// Which.
        volume: VolumeName,
        /// How.
        change: BitmapChange,
    },
    /// Map what a volume has become, on this host.
    Refresh {
        /// Which.
        volume: VolumeName,
    },
    /// Change what is written about a volume.
    Set {
        /// Which.
        volume: VolumeName,
        /// May be used or not.
        #[serde(default)]
        legal: Option<bool>,
        /// Free text.
        #[serde(default)]
        description: Option<String>,
    },
    /// Who holds the volume's lease.
    LeaseShow {
        /// Which.
        volume: VolumeName,
    },
    /// Watch a guest's drives and extend them in time.
    Watch {
        /// QMP socket of the guest.
        qmp: String,
        /// Its drives.
        drives: Vec<WatchedDrive>,
    },
    /// End it.
    Unwatch {
        /// QMP socket of the guest.
        qmp: String,
    },
    /// What happens to a guest that is watched.
    Guest {
        /// QMP socket of the guest.
        qmp: String,
        /// What.
        change: GuestChange,
    },
}

/// About external leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LeaseRequest {
    /// New lease.
    Add {
        /// Domain.
        domain: String,
        /// UUID.
        lease: String,
    },
    /// All of a domain.
    List {
        /// Domain.
        domain: String,
    },
    /// Where one is and who holds it.
    Show {
        /// Domain.
        domain: String,
        /// UUID.
        lease: String,
    },
    /// Remove one.
    Remove {
        /// Domain.
        domain: String,
        /// UUID.
        lease: String,
    },
    /// Make index and leases agree again.
    Rebuild {
        /// Domain.
        domain: String,
    },
}

/// About the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PoolRequest {
    /// Make a pool of these domains; the first is the master.
    Create {
        /// UUID; made when absent.
        #[serde(default)]
        pool: Option<String>,
        /// What people call it.
        #[serde(default)]
        name: String,
        /// Its domains.
        domains: Vec<String>,
    },
    /// Be a host of the pool.
    Connect {
        /// UUID.
        pool: String,
        /// Number of this host, 1–250.
        host_id: u16,
        /// Its master; looked for when absent.
        #[serde(default)]
        master: Option<String>,
    },
    /// Be no host of it any more.
    Disconnect,
    /// What is known of it.
    Show,
    /// Read it again from its master.
    Refresh,
    /// Convert all of its active domains to a newer version; a long task.
    Upgrade {
        /// 4 or 5.
        version: u8,
    },
}

/// About the manager's role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SpmRequest {
    /// Who has it.
    Status,
    /// Take it.
    Start,
    /// Give it back.
    Stop,
    /// Give it to another host.
    Move {
        /// Its number.
        host_id: u16,
    },
}

/// About long work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TaskRequest {
    /// All that are known.
    List,
    /// One.
    Show {
        /// Its id.
        task: String,
    },
    /// One, as soon as it differs from what is known, or after a while.
    Watch {
        /// Its id.
        task: String,
        /// Number of the last report seen.
        #[serde(default)]
        seen: u64,
        /// Longest wait in milliseconds, at most 60000.
        wait_ms: u64,
    },
    /// End it as soon as it may be ended.
    Cancel {
        /// Its id.
        task: String,
    },
    /// Forget one that has ended.
    Forget {
        /// Its id.
        task: String,
    },
}
