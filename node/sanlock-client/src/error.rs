//! Why there is no answer, or a refusal.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use lease::code::Code;
use sanlock_wire::{Command, ReplyError, TextError};

/// What a call may end in. [`Error::Silent`] and [`Error::Closed`] leave open
/// whether an order was carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("no lease daemon listens on {path}; start leased, or name its directory with SANLOCK_RUN_DIR", path = .path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not for this user.
    #[error("no permission for {path}; run this as root", path = .path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// No whole answer before the deadline.
    #[error("lease daemon did not answer {what} within {} ms", .after.as_millis())]
    Silent {
        /// What was asked.
        what: Command,
        /// How long it was waited for.
        after: Duration,
    },
    /// It hung up instead of answering.
    #[error("lease daemon closed the connection without an answer to {what}")]
    Closed {
        /// What was asked.
        what: Command,
    },
    /// The socket failed in another way.
    #[error("asking the lease daemon for {what}: {source}")]
    Socket {
        /// What was asked.
        what: Command,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The answer makes no sense.
    #[error("lease daemon's answer to {what}: {source}")]
    Garbled {
        /// What was asked.
        what: Command,
        /// What is wrong with it.
        source: ReplyError,
    },
    /// The answer is one to something else.
    #[error("lease daemon's answer to {what} holds something else")]
    Other {
        /// What was asked.
        what: Command,
    },
    /// It refused.
    #[error("lease daemon refuses {what}: {} ({})", .code.text(), .code.0)]
    Refused {
        /// What was asked.
        what: Command,
        /// Its number.
        code: Code,
    },
    /// A name or path that no request can carry.
    #[error("lease daemon cannot be asked: {0}")]
    Text(#[from] TextError),
    /// A name that no record can hold.
    #[error("lease daemon cannot be asked: {0}")]
    Name(#[from] disk_format::NameError),
}

impl Error {
    /// The daemon's number, when it refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether an order may have been carried out all the same.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Silent { .. } | Self::Closed { .. } | Self::Socket { .. } | Self::Garbled { .. }
        )
    }

    /// Whether the daemon itself is gone or silent, whatever was asked.
    #[must_use]
    pub fn is_daemon_gone(&self) -> bool {
        matches!(
            self,
            Self::Absent { .. } | Self::Silent { .. } | Self::Closed { .. } | Self::Socket { .. }
        )
    }

    pub(crate) fn socket(what: Command, after: Duration, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent { what, after },
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                Self::Closed { what }
            }
            _ => Self::Socket { what, source },
        }
    }
}
