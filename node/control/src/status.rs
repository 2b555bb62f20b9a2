//! The status snapshot: what `nodectl status --json` prints is exactly this.
//! Ages and durations are milliseconds; an absent value is not known.

use serde::{Deserialize, Serialize};

/// Everything the supervisor knows, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Version of the image (`VERSION+commit`).
    pub version: String,
    /// Host name in force.
    pub hostname: String,
    /// Kernel's boot id.
    pub boot_id: String,
    /// Milliseconds since the kernel started (boot-time clock).
    pub uptime_ms: u64,
    /// One word: `booting`, `ready`, `degraded` or `shutting-down`.
    pub phase: String,
    /// Resident memory of the supervisor itself in KiB (VmRSS).
    pub resident_kib: Option<u64>,
    /// The configuration in force.
    pub config: ConfigReport,
    /// The boot's phases in order.
    pub boot: Vec<PhaseReport>,
    /// Child processes in the order of their table.
    pub children: Vec<ChildReport>,
    /// The management network.
    pub network: NetworkReport,
    /// The watchdog.
    pub watchdog: WatchdogReport,
    /// The lockspace, once `leased` has answered.
    pub lockspace: Option<LockspaceReport>,
}

/// Where the configuration came from, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigReport {
    /// `fw_cfg`, `url http://…`, `volume /dev/…`, `state`, or absent.
    pub source: Option<String>,
    /// Every mistake found, `line N: …`; empty when valid.
    pub mistakes: Vec<String>,
}

/// How one boot phase went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseReport {
    /// Name of the phase.
    pub name: String,
    /// Names of the phases it needs.
    pub needs: Vec<String>,
    /// Deadline in milliseconds.
    pub deadline_ms: u64,
    /// `stay-up`, `continue` or `reboot`.
    pub on_failure: String,
    /// Where it stands.
    pub state: PhaseState,
    /// Start, milliseconds since the kernel started.
    pub started_ms: Option<u64>,
    /// Duration so far, or in all when ended.
    pub took_ms: Option<u64>,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
}

/// State of a boot phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseState {
    /// Not begun.
    #[default]
    Waiting,
    /// Under way.
    Running,
    /// Ended well.
    Done,
    /// Ended badly, or its deadline passed.
    Failed,
    /// Not wanted by the configuration, or something it needs failed.
    Skipped,
}

/// One child process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChildReport {
    /// Name in the table.
    pub name: String,
    /// `waiting`, `starting`, `ready`, `backing-off`, `stopping`, `stopped`.
    pub state: String,
    /// Process id while it runs.
    pub pid: Option<u32>,
    /// Starts after the first.
    pub restarts: u32,
    /// Milliseconds since its last start.
    pub age_ms: Option<u64>,
    /// How it last ended (`exit 1`, `signal 9`).
    pub last_exit: Option<String>,
    /// Resident memory in KiB (VmRSS).
    pub resident_kib: Option<u64>,
}

/// The management network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkReport {
    /// `unconfigured`, `waiting-for-link`, `configuring`, `ready`, `gateway-unreachable`, `restored`, `failed`.
    pub state: String,
    /// Bridge name.
    pub bridge: Option<String>,
    /// Addresses on the bridge, `a.b.c.d/len`.
    pub addresses: Vec<String>,
    /// Default gateways on the bridge.
    pub gateways: Vec<String>,
    /// Name servers in force.
    pub dns: Vec<String>,
    /// Links from uplink to bridge.
    pub links: Vec<LinkReport>,
    /// Whether the gateway answered, when one is configured.
    pub gateway_reachable: Option<bool>,
    /// Why the state is what it is (a missing card, a restored set…).
    pub reason: Option<String>,
    /// Milliseconds from the kernel's start until the bridge had its address.
    pub address_at_ms: Option<u64>,
}

/// One network link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkReport {
    /// Interface name.
    pub name: String,
    /// `nic`, `bond`, `vlan`, `bridge`.
    pub kind: String,
    /// MAC address in force.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub carrier: bool,
    /// Name of the master it is enslaved to.
    pub master: Option<String>,
}

/// The watchdog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchdogReport {
    /// `absent`, `armed`, `withheld` (no longer petted: a reset is coming).
    pub state: String,
    /// Device path.
    pub device: Option<String>,
    /// Name the driver gives itself.
    pub identity: Option<String>,
    /// Seconds from the last pet to the reset.
    pub fire_timeout_s: Option<u32>,
    /// Milliseconds since the last pet.
    pub last_pet_age_ms: Option<u64>,
    /// Registered expiries.
    pub clients: Vec<WatchdogClient>,
    /// Why it is absent or withheld.
    pub reason: Option<String>,
}

/// One connection registered over wdmd's socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchdogClient {
    /// Registered name, e.g. `sanlock_LS:1`.
    pub name: String,
    /// Peer's process id.
    pub pid: u32,
    /// Milliseconds until expiry (negative: past); absent when disabled.
    pub expires_in_ms: Option<i64>,
    /// Whether its connection is still open.
    pub connected: bool,
}

/// One lockspace as its lease daemon sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockspaceReport {
    /// Lockspace name.
    pub name: String,
    /// Path of the device or file.
    pub path: String,
    /// Byte offset of the area.
    pub offset: u64,
    /// Sector size in bytes, once discovered.
    pub sector_size: Option<u32>,
    /// Area size in bytes, once discovered.
    pub align_size: Option<u32>,
    /// Our host id.
    pub host_id: u32,
    /// Our unique host name.
    pub host_name: String,
    /// Where we stand.
    pub state: LockspaceState,
    /// Our generation while held.
    pub generation: Option<u64>,
    /// Seconds.
    pub io_timeout_s: u32,
    /// Milliseconds since the last successful renewal began.
    pub last_renewal_age_ms: Option<u64>,
    /// Milliseconds until the lease counts as lost, while held.
    pub expires_in_ms: Option<i64>,
    /// Successful renewals since the lease was acquired.
    pub renewals: u64,
    /// Failed or timed-out renewal attempts since the lease was acquired.
    pub renewal_failures: u64,
    /// Why it is not held, or what went wrong last; ends with the next step.
    pub reason: Option<String>,
    /// What we believe of every host seen (ascending host id; free ones never seen held are left out).
    pub hosts: Vec<HostReport>,
}

/// Where our own lease stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockspaceState {
    /// Waiting for the device, or retrying after an error named in `reason`.
    #[default]
    Waiting,
    /// Somebody else's record is being watched, or our write is being verified.
    Acquiring,
    /// Another live host holds our host id.
    Busy,
    /// Held and renewed.
    Held,
    /// Held, but renewals have failed for 6 × io_timeout.
    Failing,
    /// Lost: the watchdog will reset this machine.
    Lost,
    /// Released on request.
    Released,
}

impl LockspaceState {
    /// The word people and JSON use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Acquiring => "acquiring",
            Self::Busy => "busy",
            Self::Held => "held",
            Self::Failing => "failing",
            Self::Lost => "lost",
            Self::Released => "released",
        }
    }
}

/// What we believe of another host (sanlock specification §3.6).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReport {
    /// Host id.
    pub host_id: u32,
    /// Unique host name from its record.
    pub name: String,
    /// Generation.
    pub generation: u64,
    /// Timestamp in its record (the owner's clock, seconds).
    pub timestamp: u64,
    /// Belief.
    pub state: HostState,
    /// Milliseconds since its record last changed before our eyes.
    pub last_change_age_ms: Option<u64>,
    /// Seconds, from its record.
    pub io_timeout_s: u32,
}

/// Belief about a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// Not seen changing since we first looked.
    #[default]
    Unknown,
    /// Lease free.
    Free,
    /// Renewing.
    Live,
    /// No renewal for 8 × its io_timeout.
    Fail,
    /// No renewal for 8 × its io_timeout + watchdog time: others may take its leases.
    Dead,
}

impl HostState {
    /// The word people and JSON use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Free => "free",
            Self::Live => "live",
            Self::Fail => "fail",
            Self::Dead => "dead",
        }
    }
}
