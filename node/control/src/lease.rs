//! What the lease daemon tells of itself: the answer to its socket's command
//! 1000, and what `nodectl lease status --json` prints. Ages and durations are
//! milliseconds; an absent value is not known.

use serde::{Deserialize, Serialize};

use crate::status::HostReport;

/// Number of the command on sanlock's socket that is answered by a
/// [`LeaseReport`] as JSON until the end of the connection; the original's
/// numbers end below 100.
pub const REPORT_COMMAND: u32 = 1000;

/// Everything the lease daemon knows, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseReport {
    /// The daemon itself.
    pub daemon: DaemonReport,
    /// Lockspaces by name.
    pub lockspaces: Vec<SpaceReport>,
    /// Leases held, being acquired or released, and orphans, by lockspace and
    /// name.
    pub resources: Vec<ResourceReport>,
    /// Who waits for whom.
    pub waits: Vec<WaitReport>,
    /// Registered processes, by process id.
    pub clients: Vec<ClientReport>,
}

/// The daemon itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonReport {
    /// Its version.
    pub version: String,
    /// Its unique host name.
    pub host_name: String,
    /// Its process id.
    pub pid: u32,
    /// Since it started.
    pub uptime_ms: u64,
    /// Resident memory in KiB (VmRSS).
    pub resident_kib: Option<u64>,
    /// How reads and writes reach the kernel: `io_uring` or `threads`.
    pub io: String,
    /// Connections open now.
    pub connections: u64,
    /// Requests answered since the start.
    pub requests: u64,
    /// Messages that were not understood, and connections refused or closed
    /// for what they sent, since the start.
    pub refused: u64,
    /// Reads and writes under way.
    pub io_in_flight: u64,
}

/// One lockspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceReport {
    /// Its name.
    pub name: String,
    /// Our host id.
    pub host_id: u64,
    /// Device or file.
    pub path: String,
    /// Byte offset of the area.
    pub offset: u64,
    /// `joining`, `held`, `failing` (no renewal for 6 × io_timeout), `lost`,
    /// `leaving`.
    pub state: String,
    /// Our generation, once held.
    pub generation: Option<u64>,
    /// Seconds.
    pub io_timeout_s: u32,
    /// Sector size in bytes, once discovered.
    pub sector_size: Option<u32>,
    /// Area size in bytes, once discovered.
    pub align_size: Option<u32>,
    /// Since the last successful renewal began.
    pub last_renewal_age_ms: Option<u64>,
    /// Until the lease counts as lost; negative: past.
    pub expires_in_ms: Option<i64>,
    /// Successful renewals since it was joined.
    pub renewals: u64,
    /// Failed or timed-out attempts since it was joined.
    pub renewal_failures: u64,
    /// Duration of the last renewal's read.
    pub read_ms: Option<u64>,
    /// Duration of the last renewal's write.
    pub write_ms: Option<u64>,
    /// Longest read and write among the renewals remembered.
    pub slowest_ms: Option<u64>,
    /// Processes with leases in it.
    pub users: u64,
    /// Processes being killed because it was lost or is being left.
    pub killing: u64,
    /// Why it is not held, or what went wrong last.
    pub reason: Option<String>,
    /// What we believe of every host seen, by host id.
    pub hosts: Vec<HostReport>,
}

/// One lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceReport {
    /// Its lockspace.
    pub lockspace: String,
    /// Its name.
    pub name: String,
    /// `PATH:OFFSET` of each disk.
    pub disks: Vec<String>,
    /// `held`, `acquiring`, `releasing` or `orphan`.
    pub state: String,
    /// Shared rather than exclusive.
    pub shared: bool,
    /// Its version, once known.
    pub lver: Option<u64>,
    /// Processes that hold it or ask for it.
    pub pids: Vec<i32>,
    /// Since it got into this state.
    pub age_ms: u64,
    /// Rounds of the ballot that was needed to get it.
    pub ballots: u32,
    /// Reads and writes done for it.
    pub ios: u64,
}

/// Somebody who waits for a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitReport {
    /// The lease's lockspace.
    pub lockspace: String,
    /// The lease.
    pub resource: String,
    /// The process that waits.
    pub pid: i32,
    /// Since when.
    pub age_ms: u64,
    /// What for: `owner` (a host that may be dead), `ballot` (another host
    /// asks at the same time), `process` (one of this host), `disk`.
    pub waits_for: String,
    /// Host id of the owner.
    pub owner_host_id: Option<u64>,
    /// Its generation.
    pub owner_generation: Option<u64>,
    /// Process of this host that holds it.
    pub owner_pid: Option<i32>,
    /// Until the wait ends at the latest, when that is known.
    pub at_most_ms: Option<u64>,
}

/// A registered process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientReport {
    /// Its process id.
    pub pid: i32,
    /// The name it gave itself.
    pub name: String,
    /// Leases it holds.
    pub leases: u64,
    /// Signals sent so far because a lockspace was lost or is being left.
    pub kills: u32,
    /// Its command for that purpose, when it has one.
    pub killpath: Option<String>,
}

/// A host that holds a lease, by what is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnerReport {
    /// Its host id.
    pub host_id: u64,
    /// The generation it holds the lease with.
    pub generation: u64,
    /// Its clock when it took an exclusive lease, in seconds; 0 when shared.
    pub timestamp: u64,
    /// Whether the lease is held shared.
    pub shared: bool,
    /// `live`, `fail`, `dead`, `free` or `unknown`, where our daemon has joined
    /// the lockspace and has seen that generation.
    pub state: Option<String>,
}
