//! Words about storage that programs share: `storaged`'s socket, its workers,
//! `nodectl`.

use std::fmt;

use serde::{Deserialize, Serialize};

pub mod connection;
pub mod health;
pub mod inspection;
pub mod ovf;
pub mod remote;
pub mod report;
pub mod request;

pub use connection::{Connection, Lun};
pub use report::{Answer, Reply};
pub use request::{Format, Request, VolumeName};

/// Where `storaged` listens.
pub const STORAGED_SOCKET: &str = "/run/holdfast/storaged.sock";

/// What sort of failure it was, for programs to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request itself is wrong: a word, a size, a combination.
    BadRequest,
    /// Named something that is not there.
    NotFound,
    /// Would make something that is there already.
    Exists,
    /// In use by something that has to end first.
    InUse,
    /// Not allowed in the present state (not the SPM, not attached, wrong role).
    WrongState,
    /// The lease that guards the change is not held, or cannot be proved held.
    LeaseNotHeld,
    /// What is on the storage belongs to somebody else: never written to.
    Foreign,
    /// What is on the storage is broken: checksum, half-made, contradictory.
    Damaged,
    /// Known, and not supported here (version, sector size, missing client).
    Unsupported,
    /// Not enough free extents, blocks or slots.
    NoSpace,
    /// Storage did not answer in time: the outcome is unknown, not failed.
    Timeout,
    /// Storage answered with an error.
    Io,
    /// Refused by credentials or permissions.
    Denied,
    /// Cancelled by request.
    Cancelled,
    /// A program or the kernel failed in another way.
    Failed,
}

/// A failure that an operator can act on: names the noun, the value, the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort it is.
    pub kind: FailureKind,
    /// One line, outermost context first.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The same failure, with what was being done put before its message. What
    /// both name is named once.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        let what = what.to_string();
        let rest = match self.message.split_once(": ") {
            Some((noun, rest)) if what.ends_with(noun) => rest,
            _ => &self.message,
        };
        self.message = format!("{what}: {rest}");
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
