//! What a worker can be told to do.

use std::path::PathBuf;

use control::config::{GivingBack, Manager, Thin};
use control::storage::Connection;
use control::storage::ovf::OvfRequest;
use control::storage::request::{LeaseRequest, NewDomain, VolumeName, VolumeRequest};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// What every worker has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Roots of the file system.
    pub layout: Layout,
    /// Below which everything is written, for tests; a node's own places if absent.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// Name of this host in its leases.
    pub host_name: String,
    /// This host's number in the pool; 0: in no pool.
    pub host_id: u16,
    /// Seconds of every domain's lockspace.
    pub io_timeout_s: u32,
    /// What managers manage: whether a writer without the pool's role may take
    /// domains' own leases for its commits.
    #[serde(default)]
    pub manager: Manager,
    /// How thin volumes grow.
    #[serde(default)]
    pub thin: Thin,
    /// How room is given back.
    #[serde(default)]
    pub giving_back: GivingBack,
    /// Block devices LVM may look at besides those found through multipath, for
    /// machines without it. Empty on a node.
    #[serde(default)]
    pub devices: Vec<PathBuf>,
}

/// Where a domain is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Its UUID.
    pub domain: String,
    /// What carries it.
    pub carrier: Carrier,
}

/// What carries a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// A volume group with the domain's UUID as its name.
    Block,
    /// A directory named by the UUID below this one, on storage others share.
    File {
        /// Where the file system is mounted.
        mount: PathBuf,
    },
    /// The same, on a disk of this host alone.
    Local {
        /// The link VDSM makes to the directory.
        mount: PathBuf,
    },
}

/// The pool, as far as work needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolContext {
    /// UUID.
    pub pool: String,
    /// What people call it; for a new one.
    #[serde(default)]
    pub name: String,
    /// This host's number in it.
    pub host_id: u16,
    /// Its master.
    pub master: Place,
    /// The master's version that is expected; the one found when absent.
    pub master_version: Option<i64>,
    /// What its managers manage.
    pub manager: Manager,
    /// All of its domains that are connected, the master included.
    pub domains: Vec<Place>,
}

/// One volume to be made larger, absolutely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendItem {
    /// The volume; its domain a UUID.
    pub volume: VolumeName,
    /// Bytes at least.
    pub size_bytes: u64,
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    // --- Connections: one worker each; LUNs: the scan worker ---
    /// `Answer::Connection`: make it, or find that it is made.
    Connect {
        /// What.
        connection: Connection,
    },
    /// Drop it.
    Disconnect {
        /// What.
        connection: Connection,
        /// Those that stay: what they share with it does too.
        #[serde(default)]
        others: Vec<Connection>,
    },
    /// `Answer::Connection`: whether it is still there, and well.
    LookAt {
        /// At what.
        connection: Connection,
    },
    /// `Answer::Targets`.
    Discover {
        /// The portal.
        connection: Connection,
    },
    /// `Answer::Luns`.
    Luns {
        /// Look for new ones first.
        rescan: bool,
    },
    /// Look for new and grown LUNs.
    Rescan,
    /// Take down volumes that are active and not prepared.
    Tidy,
    /// `Answer::Done`: takes the master's file system away that a writer left on
    /// this host when it ended. No writer may have the role meanwhile.
    TakeMastersAway,
    /// `Answer::Paths`: how many paths each LUN has.
    Paths,
    /// Takes away what this host has mapped of block domains that it does not use,
    /// so that their LUNs can go.
    TakeDown {
        /// Their UUIDs.
        domains: Vec<String>,
    },
    // --- Domains: one worker each ---
    /// `Answer::Domains`: those on LUNs (no mount) or below a mount point.
    Find {
        /// Mount point or linked directory.
        mount: Option<PathBuf>,
        /// Whether it is a disk of this host alone.
        local: bool,
    },
    /// `Answer::Made`: a new domain, in no pool.
    Create {
        /// What.
        new: NewDomain,
        /// Mount point, for one of files.
        mount: Option<PathBuf>,
        /// Whether it is a disk of this host alone.
        local: bool,
        /// What the connection is, for the TYPE and REMOTE_PATH of its metadata.
        connection: Option<Connection>,
    },
    /// `Answer::Domain`: everything known of it, with findings.
    Look {
        /// Which.
        place: Place,
    },
    /// `Answer::Domain`: the monitor's cheap look, with delay and space.
    Check {
        /// Which.
        place: Place,
        /// Also what costs more (every 300 s).
        thorough: bool,
    },
    /// Joins the domain's lockspace; returns at once, `Done` when held or under way.
    JoinHostId {
        /// Which.
        place: Place,
    },
    /// Leaves it.
    LeaveHostId {
        /// Which.
        place: Place,
    },
    /// Destroys a domain that is in no pool.
    RemoveDomain {
        /// Which.
        place: Place,
    },
    /// Everything of [`VolumeRequest`] but watches. Those that change metadata go
    /// to the writer, the others to the domain's worker.
    Volume {
        /// Domain of the volume (of the source, for copies).
        place: Place,
        /// Domain of the target, for copies.
        target: Option<Place>,
        /// What.
        request: VolumeRequest,
    },
    /// External leases.
    Lease {
        /// Domain.
        place: Place,
        /// What.
        request: LeaseRequest,
    },
    /// Configurations of guests.
    Ovf {
        /// Domain.
        place: Place,
        /// What.
        request: OvfRequest,
    },
    // --- The pool ---
    /// `Answer::Pool`: makes a pool of unattached domains, the first the master.
    CreatePool {
        /// The new pool; its domains are all of it.
        pool: PoolContext,
    },
    /// `Answer::Pool`: checks the master, makes the links.
    ConnectPool {
        /// Which.
        pool: PoolContext,
    },
    /// Removes the links.
    DisconnectPool {
        /// Which.
        pool: PoolContext,
    },
    /// `Answer::Spm`: who has the role, by the lease on disk.
    SpmState {
        /// Which.
        pool: PoolContext,
    },
    /// Takes the master's place although the old master cannot be read.
    Reconstruct {
        /// The pool, its master being the new one.
        pool: PoolContext,
    },
    // --- The writer (holds SDM, or takes it for each commit) ---
    /// `Answer::Spm`: takes the role (§3.4).
    StartSpm {
        /// Which.
        pool: PoolContext,
    },
    /// Gives it back.
    StopSpm,
    /// `Answer::Done`: tells how far the manager is with what the one before left,
    /// until that is in order. Cancelled, it leaves the rest to the next manager.
    FollowRecovery,
    /// Attaches a domain to the pool.
    Attach {
        /// Pool.
        pool: PoolContext,
        /// Domain.
        place: Place,
    },
    /// Detaches it.
    Detach {
        /// Pool.
        pool: PoolContext,
        /// Domain.
        place: Place,
        /// Although the pool cannot be asked.
        force: bool,
    },
    /// Changes its status in the pool.
    SetStatus {
        /// Pool.
        pool: PoolContext,
        /// Domain.
        place: Place,
        /// Active or attached.
        active: bool,
    },
    /// Makes another domain the master.
    MigrateMaster {
        /// Pool.
        pool: PoolContext,
        /// New master.
        target: Place,
    },
    /// Converts a domain to a newer version.
    Upgrade {
        /// Which.
        place: Place,
        /// 4 or 5.
        version: u8,
    },
    /// Converts domains of the pool to a newer version, one after the other.
    UpgradePool {
        /// Which, the master first.
        places: Vec<Place>,
        /// 4 or 5.
        version: u8,
    },
    /// Adds LUNs to a block domain.
    ExtendDomain {
        /// Which.
        place: Place,
        /// Map names or paths.
        luns: Vec<String>,
        /// Take LUNs that carry something else.
        force: bool,
    },
    /// Uses what a grown LUN has more.
    Grow {
        /// Which.
        place: Place,
        /// Map name or path.
        lun: String,
    },
    /// Takes a LUN out.
    Reduce {
        /// Which.
        place: Place,
        /// Map name or path.
        lun: String,
    },
    /// Makes volumes of one domain larger in one commit.
    Extend {
        /// Domain.
        place: Place,
        /// Volumes.
        items: Vec<ExtendItem>,
    },
    // --- Mail: one process of its own ---
    /// Sends this host's requests to the pool's manager from now on; again when
    /// the master has changed.
    StartMail {
        /// Pool.
        pool: PoolContext,
    },
    /// Sends none any more.
    StopMail,
    /// Makes volumes larger by asking the pool's manager, on another host.
    MailExtend {
        /// Domain.
        place: Place,
        /// Volumes.
        items: Vec<ExtendItem>,
    },
    /// Loads the present size of an active volume on this host.
    Refresh {
        /// Domain.
        place: Place,
        /// Volume.
        volume: VolumeName,
    },
}

impl Work {
    /// A few words for status and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Disconnect { .. } => "disconnect",
            Self::LookAt { .. } => "look at connection",
            Self::Discover { .. } => "discover",
            Self::Luns { .. } => "list LUNs",
            Self::Rescan => "rescan",
            Self::TakeMastersAway => "take masters away",
            Self::Tidy => "take down unused volumes",
            Self::Paths => "count paths",
            Self::TakeDown { .. } => "take down domains",
            Self::Find { .. } => "look for domains",
            Self::Create { .. } => "create domain",
            Self::Look { .. } => "look at domain",
            Self::Check { .. } => "check domain",
            Self::JoinHostId { .. } => "join lockspace",
            Self::LeaveHostId { .. } => "leave lockspace",
            Self::RemoveDomain { .. } => "remove domain",
            Self::Volume { request, .. } => match request {
                VolumeRequest::Create(_) => "create volume",
                VolumeRequest::List { .. } => "list volumes",
                VolumeRequest::Show { .. } => "show volume",
                VolumeRequest::Extend { .. } => "extend volume",
                VolumeRequest::Shrink { .. } => "shrink volume",
                VolumeRequest::Delete { .. } => "delete volume",
                VolumeRequest::DeleteImage { .. } => "delete image",
                VolumeRequest::Prepare { .. } => "prepare image",
                VolumeRequest::Teardown { .. } => "tear down image",
                VolumeRequest::Copy { .. } => "copy volume",
                VolumeRequest::Template { .. } => "make template",
                VolumeRequest::Snapshot { .. } => "snapshot",
                VolumeRequest::Merge { .. } => "merge volume",
                VolumeRequest::Set { .. } => "change volume",
                VolumeRequest::LeaseShow { .. } => "show volume lease",
                VolumeRequest::Bitmaps { .. } => "list bitmaps",
                VolumeRequest::Bitmap { .. } => "change bitmaps",
                VolumeRequest::Refresh { .. } => "refresh volume",
                VolumeRequest::Guest { .. } => "tell of guest",
                VolumeRequest::Watch { .. } => "watch drives",
                VolumeRequest::Unwatch { .. } => "end watch",
            },
            Self::Lease { request, .. } => match request {
                LeaseRequest::Add { .. } => "add lease",
                LeaseRequest::List { .. } => "list leases",
                LeaseRequest::Show { .. } => "show lease",
                LeaseRequest::Remove { .. } => "remove lease",
                LeaseRequest::Rebuild { .. } => "rebuild leases",
            },
            Self::Ovf { request, .. } => match request {
                OvfRequest::List { .. } => "list configurations",
                OvfRequest::Show { .. } => "show configuration",
                OvfRequest::Save { .. } => "save configuration",
                OvfRequest::Remove { .. } => "remove configuration",
            },
            Self::CreatePool { .. } => "create pool",
            Self::ConnectPool { .. } => "connect pool",
            Self::DisconnectPool { .. } => "disconnect pool",
            Self::SpmState { .. } => "read manager's lease",
            Self::Reconstruct { .. } => "reconstruct master",
            Self::StartSpm { .. } => "start manager",
            Self::StopSpm => "stop manager",
            Self::FollowRecovery => "recover",
            Self::Attach { .. } => "attach domain",
            Self::Detach { .. } => "detach domain",
            Self::SetStatus { .. } => "set domain status",
            Self::MigrateMaster { .. } => "migrate master",
            Self::Upgrade { .. } => "upgrade domain",
            Self::UpgradePool { .. } => "upgrade pool",
            Self::ExtendDomain { .. } => "extend domain",
            Self::Grow { .. } => "grow LUN",
            Self::Reduce { .. } => "reduce domain",
            Self::Extend { .. } => "extend volumes",
            Self::StartMail { .. } => "start mail",
            Self::StopMail => "stop mail",
            Self::MailExtend { .. } => "extend volumes by mail",
            Self::Refresh { .. } => "refresh volume",
        }
    }
}
