//! Requests and replies on the control socket and on `leased`'s socket: one
//! JSON document a line each way, one request a connection or several in turn.

use serde::{Deserialize, Serialize};

use crate::status::{LockspaceReport, PhaseReport, Snapshot};

/// Longest request line accepted, in bytes.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// A request to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", from = "StrictRequest")]
pub enum Request {
    /// The whole snapshot.
    Status,
    /// The boot phases only.
    Boot,
    /// The last `lines` lines the supervisor and its children logged.
    Log {
        /// Number of lines, 1–10000.
        lines: u32,
    },
    /// Apply the network section of this configuration document now; the
    /// previous working set comes back if the gateway stays unreachable.
    NetApply {
        /// The document.
        toml: String,
    },
    /// Ordered power-off.
    Shutdown,
    /// Ordered reboot.
    Reboot,
}

/// The supervisor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To `Status`.
    Status(Box<Snapshot>),
    /// To `Boot`.
    Boot {
        /// The phases in order.
        phases: Vec<PhaseReport>,
    },
    /// To `Log`.
    Log {
        /// Oldest first.
        lines: Vec<String>,
    },
    /// Accepted.
    Done {
        /// What will happen, or did.
        message: String,
    },
    /// Refused or failed.
    Error {
        /// Why, ending with the next step.
        message: String,
    },
}

/// A request to `leased`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "request",
    rename_all = "kebab-case",
    from = "StrictLeasedRequest"
)]
pub enum LeasedRequest {
    /// Every lockspace.
    Status,
}

/// `leased`'s answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum LeasedReply {
    /// To `Status`.
    Status {
        /// One entry a lockspace.
        lockspaces: Vec<LockspaceReport>,
    },
    /// Refused or failed.
    Error {
        /// Why.
        message: String,
    },
}

/// [`Request`] as it is read. serde lets unknown keys pass beside a variant
/// without fields of its own, but not beside one with an empty set of them: a
/// client that asks for a reboot "at" some time must not get one now.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
enum StrictRequest {
    Status {},
    Boot {},
    Log { lines: u32 },
    NetApply { toml: String },
    Shutdown {},
    Reboot {},
}

impl From<StrictRequest> for Request {
    fn from(strict: StrictRequest) -> Self {
        match strict {
            StrictRequest::Status {} => Self::Status,
            StrictRequest::Boot {} => Self::Boot,
            StrictRequest::Log { lines } => Self::Log { lines },
            StrictRequest::NetApply { toml } => Self::NetApply { toml },
            StrictRequest::Shutdown {} => Self::Shutdown,
            StrictRequest::Reboot {} => Self::Reboot,
        }
    }
}

/// [`LeasedRequest`] as it is read.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
enum StrictLeasedRequest {
    Status {},
}

impl From<StrictLeasedRequest> for LeasedRequest {
    fn from(strict: StrictLeasedRequest) -> Self {
        match strict {
            StrictLeasedRequest::Status {} => Self::Status,
        }
    }
}
