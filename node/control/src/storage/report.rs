//! What `storaged` answers. These types are what `--json` prints: durations are
//! milliseconds, sizes bytes, an absent value is not known.

use serde::{Deserialize, Serialize};

use super::connection::Lun;
use super::health::{DomainStats, LunPaths};
use super::ovf::OvfReport;
use super::{Failure, Format, VolumeName};

/// One line of answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Answered.
    Answer(Box<Answer>),
    /// Long work has begun.
    Accepted {
        /// Its task.
        task: String,
    },
    /// Refused, or failed.
    Failure(Failure),
}

/// What work results in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done, and nothing to show.
    Done {
        /// What was done.
        message: String,
    },
    /// Something new has this id.
    Made {
        /// What it is: `domain`, `pool`, `volume`…
        what: String,
        /// Its UUID.
        id: String,
    },
    /// A new volume.
    MadeVolume(VolumeName),
    /// Everything at a glance.
    Status(StorageReport),
    /// LUNs of this host.
    Luns(Vec<Lun>),
    /// Paths of every LUN of this host.
    Paths(Vec<LunPaths>),
    /// iSCSI targets of a portal: target name and portal each.
    Targets(Vec<TargetReport>),
    /// A connection.
    Connection(ConnectionReport),
    /// Domains.
    Domains(Vec<DomainReport>),
    /// A domain.
    Domain(DomainReport),
    /// Volumes.
    Volumes(Vec<VolumeReport>),
    /// A volume.
    Volume(VolumeReport),
    /// Bitmaps of a volume.
    Bitmaps(Vec<BitmapReport>),
    /// An image that is usable now.
    Prepared(PreparedReport),
    /// External leases.
    Leases(Vec<LeaseReport>),
    /// A lease.
    Lease(LeaseReport),
    /// The guests in a domain's OVF store.
    OvfStore(OvfReport),
    /// The configuration of a guest, as it is.
    Ovf {
        /// UUID of the guest.
        guest: String,
        /// The document.
        content: String,
    },
    /// The pool.
    Pool(PoolReport),
    /// The manager's role.
    Spm(SpmReport),
    /// Tasks.
    Tasks(Vec<TaskReport>),
    /// A task.
    Task(TaskReport),
}

/// Everything at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageReport {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since it started.
    pub uptime_ms: u64,
    /// Its resident memory.
    pub resident_kib: Option<u64>,
    /// Connections.
    pub connections: Vec<ConnectionReport>,
    /// Why the paths of LUNs are not known.
    pub paths_reason: Option<String>,
    /// Domains on what is connected.
    pub domains: Vec<DomainReport>,
    /// The pool, when this host is in one.
    pub pool: Option<PoolReport>,
    /// The manager's role in it.
    pub spm: Option<SpmReport>,
    /// Tasks that have not ended.
    pub tasks_running: u64,
    /// Worker processes.
    pub workers: Vec<WorkerReport>,
    /// Workers given up that the kernel has not let go yet (state D).
    pub leftovers: Vec<WorkerReport>,
    /// Watched guests.
    pub watches: Vec<WatchReport>,
}

/// An iSCSI target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// `address:port,group`.
    pub portal: String,
    /// Target name (IQN).
    pub target: String,
}

/// One connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionReport {
    /// Its id, made from what it is.
    pub id: String,
    /// `iscsi`, `nfs`, `posix`, `local`, `gluster`, `multipath`.
    pub kind: String,
    /// What it is to, in a few words, without secrets.
    pub target: String,
    /// `connecting`, `connected`, `broken`, `disconnecting`.
    pub state: String,
    /// Directory it is mounted on, for file systems.
    pub path: Option<String>,
    /// What keeps it: `configuration`, `request`, `domain <uuid>`.
    pub users: Vec<String>,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// iSCSI sessions that it has or wants: `target portal`.
    pub sessions: Vec<String>,
    /// The LUNs that come over it, looked at every 10 s.
    pub luns: Vec<LunPaths>,
}

/// One domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainReport {
    /// UUID.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `block` or `file`.
    pub kind: String,
    /// TYPE of its metadata: `ISCSI`, `FCP`, `NFS`, `POSIXFS`, `LOCALFS`…
    pub storage_type: String,
    /// `data`, `iso`, `backup`.
    pub class: String,
    /// 0, 2–5.
    pub version: u8,
    /// `master` or `regular`.
    pub role: String,
    /// Pool it is attached to.
    pub pool: Option<String>,
    /// Its master version, at a master.
    pub master_version: Option<i64>,
    /// `unattached`, `attached`, `active`, `foreign` (of another pool).
    pub state: String,
    /// Directory of a file domain, volume group of a block domain.
    pub path: String,
    /// Connection it was found on; of several that carry a block domain, the first.
    pub connection: Option<String>,
    /// Connections that its LUNs come over.
    pub connections: Vec<String>,
    /// Map names of the LUNs of a block domain.
    pub luns: Vec<String>,
    /// LUNs of it that this host lacks, or that it sees smaller than they are.
    pub missing_luns: Vec<String>,
    /// The paths of these LUNs, as far as they are known.
    pub lun_paths: Vec<LunPaths>,
    /// Bytes of a sector.
    pub block_size: u32,
    /// Bytes of a lease.
    pub alignment: u32,
    /// Bytes in all.
    pub size_bytes: Option<u64>,
    /// Bytes free.
    pub free_bytes: Option<u64>,
    /// What managers poll, of a domain that is watched.
    pub stats: Option<DomainStats>,
    /// Why it may stop to work although its last check went well.
    pub degraded: Option<String>,
    /// Whether the last check went well.
    pub valid: Option<bool>,
    /// Since the last check ended.
    pub last_check_age_ms: Option<u64>,
    /// How long its read took, in microseconds.
    pub read_delay_us: Option<u64>,
    /// Whether this host's id in it is held: `no`, `joining`, `held`, `failed`.
    pub host_id: String,
    /// What is wrong with it, as far as a look at it tells.
    pub findings: Vec<String>,
    /// Why it is not valid.
    pub reason: Option<String>,
    /// What an ISO domain (media) or an export domain (configurations of guests)
    /// holds; told of one domain that is asked for, at most 10,000.
    pub held: Vec<HeldFile>,
}

/// A file that a domain holds beside volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldFile {
    /// Its name; of a medium the path below the directory for media.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// One volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeReport {
    /// Domain.
    pub domain: String,
    /// Image.
    pub image: String,
    /// UUID.
    pub volume: String,
    /// Parent; absent at a base.
    pub parent: Option<String>,
    /// RAW or QCOW2.
    pub format: Format,
    /// `sparse` or `preallocated`.
    pub allocation: String,
    /// `leaf`, `internal`, `shared`.
    pub volume_type: String,
    /// `legal`, `illegal`, `fake`.
    pub legality: String,
    /// `ready`, `initializing`, `removed`, `removed-zero`, `broken`.
    pub state: String,
    /// What the guest sees.
    pub capacity_bytes: u64,
    /// Room it takes: size of the LV, or allocated bytes of the file.
    pub size_bytes: u64,
    /// DISKTYPE.
    pub disk_type: String,
    /// Free text.
    pub description: String,
    /// Seconds since 1970.
    pub created_s: u64,
    /// Generation.
    pub generation: Option<u32>,
    /// Sequence.
    pub sequence: Option<u32>,
    /// Metadata slot, on block storage.
    pub slot: Option<u32>,
    /// Path while prepared.
    pub path: Option<String>,
    /// What is wrong with it.
    pub reason: Option<String>,
}

/// An image that is usable now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedReport {
    /// Path of the leaf.
    pub path: String,
    /// From base to leaf.
    pub chain: Vec<PreparedVolume>,
}

/// One volume of a prepared chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedVolume {
    /// UUID.
    pub volume: String,
    /// Path.
    pub path: String,
    /// Where its lease is.
    pub lease_path: String,
    /// At which byte.
    pub lease_offset: u64,
}

/// A lease and who holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseReport {
    /// Name of the resource.
    pub lease: String,
    /// Volume or file.
    pub path: String,
    /// Byte.
    pub offset: u64,
    /// Host ids that hold it, as far as known.
    pub owners: Vec<u32>,
    /// What is wrong with it.
    pub reason: Option<String>,
}

/// The pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolReport {
    /// UUID.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// This host's number.
    pub host_id: u16,
    /// Its master domain.
    pub master: Option<String>,
    /// The master's version.
    pub master_version: Option<i64>,
    /// Its domains and their status (`active`, `attached`).
    pub domains: Vec<PoolDomain>,
    /// `connected`, `connecting`, `wrong-master`…
    pub state: String,
    /// `pool` (one manager) or `domain` (a manager a domain).
    pub manager: String,
    /// Why it is not connected.
    pub reason: Option<String>,
}

/// A domain of the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolDomain {
    /// UUID.
    pub id: String,
    /// `active` or `attached`.
    pub status: String,
}

/// The manager's role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpmReport {
    /// `free`, `starting`, `here`, `elsewhere`, `stopping`, `unknown`, `none` (managers per domain).
    pub state: String,
    /// Who has it.
    pub host_id: Option<u32>,
    /// Version of its lease.
    pub lver: Option<i64>,
    /// `manual` or `auto`.
    pub mode: String,
    /// Process that holds the lease, on this host.
    pub writer_pid: Option<u32>,
    /// Since the role is here.
    pub since_ms: Option<u64>,
    /// Volumes that its commits have made larger since the role is here: asked for
    /// by mail, or by guests of this host.
    pub extends: u64,
    /// Hosts seen alive in the master's lockspace, this one included.
    pub live_hosts: Vec<u16>,
    /// Why it ended last, or what hinders it.
    pub reason: Option<String>,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Not begun.
    #[default]
    Queued,
    /// Under way.
    Running,
    /// Asked to end.
    Cancelling,
    /// Under way: what a manager before left is undone and finished.
    Recovering,
    /// Ended well.
    Done,
    /// Ended badly.
    Failed,
    /// Ended by request.
    Cancelled,
    /// Ended with the daemon that did it; its failure tells what to do.
    Interrupted,
}

impl TaskState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn ended(self) -> bool {
        matches!(
            self,
            Self::Done | Self::Failed | Self::Cancelled | Self::Interrupted
        )
    }

    /// The word people and JSON use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Recovering => "recovering",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Long work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskReport {
    /// Its id.
    pub id: String,
    /// What it does, in a few words.
    pub what: String,
    /// Domain it works on.
    pub domain: Option<String>,
    /// Where it is.
    pub state: TaskState,
    /// Present step.
    pub step: String,
    /// Bytes or steps done.
    pub done: u64,
    /// Bytes or steps in all; 0: not known.
    pub total: u64,
    /// Since it was asked for.
    pub age_ms: u64,
    /// How long it took, once ended.
    pub took_ms: Option<u64>,
    /// Grows with each change.
    pub number: u64,
    /// What came of it.
    pub result: Option<Box<Answer>>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What is to be done should the daemon end before it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub if_interrupted: String,
}

/// A worker process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// What it works on: `domain <uuid>`, `connection <id>`, `scan`, `task <id>`, `writer`.
    pub key: String,
    /// Process id.
    pub pid: u32,
    /// Since it started, or since it was given up.
    pub age_ms: u64,
    /// Work under way.
    pub work: Option<String>,
    /// How long already.
    pub work_ms: Option<u64>,
    /// Work that waits.
    pub queued: u64,
    /// `idle`, `busy`, `open` (circuit open: requests are refused at once), `given-up`.
    pub state: String,
}

/// A watched guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchReport {
    /// Its QMP socket.
    pub qmp: String,
    /// Its drives.
    pub drives: Vec<WatchedDriveReport>,
    /// What is told of it: that it migrates, is held, copies a drive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<String>,
    /// Why it is not watched at the moment.
    pub reason: Option<String>,
}

/// A watched drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchedDriveReport {
    /// QEMU's name of its node.
    pub node: String,
    /// Volume.
    pub volume: String,
    /// `unset`, `set`, `exceeded`, `disabled`.
    pub state: String,
    /// Extends so far.
    pub extends: u64,
    /// Size now.
    pub size_bytes: Option<u64>,
    /// What went wrong last.
    pub reason: Option<String>,
}

/// A bitmap of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BitmapReport {
    /// Its name.
    pub name: String,
    /// Bytes that one bit stands for.
    pub granularity_bytes: u64,
    /// Whether it notes writes.
    pub enabled: bool,
    /// It was open when its writer ended: what it says is not complete, and it can
    /// only be removed.
    pub broken: bool,
}
