//! Where a lease stands and why, in types an operator and a test both read.

use disk_format::{Generation, HostId, NameField, RecordError};

use crate::code::Code;
use crate::time::Monotonic;

/// Where our own lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not begun, or an attempt failed: [`crate::Input::Start`] begins anew.
    Waiting,
    /// Reading, watching another's record, or verifying our own.
    Acquiring,
    /// Another host renews a lease on our host id.
    Busy,
    /// Held and renewed.
    Held,
    /// Held, but not renewed for 6T.
    Failing,
    /// Lost for good: the watchdog will reset this machine.
    Lost,
    /// Released on request.
    Released,
}

/// Why an attempt to acquire ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Our host id's record is not one of this lockspace.
    #[error("record of our host id: {0}")]
    Record(#[from] RecordError),
    /// A read failed.
    #[error("reading our host id's record: error {0}")]
    ReadFailed(i32),
    /// A read took longer than the I/O timeout.
    #[error("reading our host id's record took longer than the io_timeout of {0} s")]
    ReadTimeout(u8),
    /// The write failed; it may have landed all the same.
    #[error("writing our host id's record: error {0}")]
    WriteFailed(i32),
    /// The write took longer than the I/O timeout; it may still land.
    #[error("writing our host id's record took longer than the io_timeout of {0} s")]
    WriteTimeout(u8),
    /// The machine stood still between reading and writing.
    #[error("this machine stood still between reading and writing its record")]
    Stalled,
    /// The watchdog did not take our registration.
    #[error("the watchdog did not register the lease")]
    Watchdog,
}

impl Failure {
    /// What a client that asked to join is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Record(error) => Code(error.code()),
            Self::ReadFailed(error) | Self::WriteFailed(error) => io_code(*error),
            Self::ReadTimeout(_) | Self::WriteTimeout(_) => Code::AIO_TIMEOUT,
            Self::Stalled => Code::ERROR,
            Self::Watchdog => Code::WD_ERROR,
        }
    }
}

/// The number for a failed read or write: the kernel's, negative.
fn io_code(error: i32) -> Code {
    match error {
        1.. => Code(-error),
        _ => Code::EMSGSIZE,
    }
}

/// Why a held lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// No renewal for 8T.
    #[error("not renewed for {0} s")]
    Expired(u64),
    /// Somebody else's name, id or generation is in our record (-260).
    #[error(
        "our record was taken over by \"{name}\" (host id {owner_id}, generation {generation})"
    )]
    Owner {
        /// Name on disk.
        name: NameField,
        /// Host id on disk.
        owner_id: u64,
        /// Generation on disk.
        generation: Generation,
    },
    /// Our record is not what we last wrote (-261).
    #[error("our record was changed by somebody else")]
    Changed,
    /// Our record is damaged (-223 … -229).
    #[error("our record is damaged: {0}")]
    Damaged(#[from] RecordError),
}

impl Loss {
    /// The original's number for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Expired(_) => Code::AIO_TIMEOUT,
            Self::Owner { .. } => Code::RENEW_OWNER,
            Self::Changed => Code::RENEW_DIFF,
            Self::Damaged(error) => Code(error.code()),
        }
    }
}

/// Why a renewal attempt did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RenewalFailure {
    /// Reading failed.
    #[error("reading the area: error {0}")]
    ReadFailed(i32),
    /// Reading takes longer than T; it may still end well.
    #[error("reading the area takes longer than the io_timeout")]
    ReadTimeout,
    /// Reading took longer than T and its extension (T unless set), and was given up.
    #[error("reading the area took longer than the io_timeout and its extension, and was given up")]
    ReadAbandoned,
    /// Earlier requests have not come back, none could be made.
    #[error("earlier requests are still in flight")]
    NotStarted,
    /// Writing failed; it may have landed all the same.
    #[error("writing our record: error {0}")]
    WriteFailed(i32),
}

impl RenewalFailure {
    /// The original's number for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ReadFailed(error) | Self::WriteFailed(error) => io_code(*error),
            Self::ReadTimeout | Self::ReadAbandoned => Code::AIO_TIMEOUT,
            Self::NotStarted => Code::EAGAIN,
        }
    }
}

/// A renewal that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// When its timestamp was made.
    pub submitted: Monotonic,
    /// The timestamp on disk, seconds of the monotonic clock.
    pub timestamp_s: u64,
    /// How long reading took, milliseconds.
    pub read_ms: u64,
    /// How long writing took, milliseconds.
    pub write_ms: u64,
}

/// Who has the record we would like to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// Its unique name.
    pub name: NameField,
    /// Its generation.
    pub generation: Generation,
    /// When its record last changed before our eyes, or we first looked.
    pub seen: Monotonic,
    /// Whether it changed since the first look: it is alive.
    pub renewed: bool,
    /// When it is surely dead, if it does not change any more.
    pub dead_at: Monotonic,
}

/// Everything about our own lease at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// Generation, while held or lost.
    pub generation: Option<Generation>,
    /// When the last successful renewal was submitted, while held or lost.
    pub last_renewal: Option<Monotonic>,
    /// When it counts as lost, while held.
    pub expires: Option<Monotonic>,
    /// Successful renewals since it was acquired.
    pub renewals: u64,
    /// Failed or timed-out renewal attempts since it was acquired.
    pub renewal_failures: u64,
    /// The latest that succeeded.
    pub latest_renewal: Option<Renewal>,
    /// When the latest attempt began, to acquire or to renew.
    pub last_attempt: Option<Monotonic>,
    /// Who has our host id.
    pub rival: Option<Rival>,
    /// Why the last attempt to acquire ended, while waiting.
    pub failure: Option<Failure>,
    /// Why it was lost.
    pub loss: Option<Loss>,
    /// What went wrong with the latest renewal, until one succeeds.
    pub trouble: Option<RenewalFailure>,
    /// The watchdog's connection was lost while held.
    pub watchdog_gone: bool,
}

/// What takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stalled {
    /// Reading the area.
    Read,
    /// Writing our record.
    Write,
}

/// A transition worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Another host's record is being watched.
    Watching(Rival),
    /// Its record changed: it is alive.
    Busy(Rival),
    /// An attempt to acquire ended.
    Failed(Failure),
    /// Acquired.
    Acquired {
        /// Our host id.
        host_id: HostId,
        /// Our generation.
        generation: Generation,
    },
    /// A renewal attempt failed.
    RenewalFailed(RenewalFailure),
    /// A renewal's read or write has been under way for half the io_timeout.
    Stalling {
        /// What it does.
        what: Stalled,
        /// Milliseconds so far.
        age_ms: u64,
    },
    /// Not renewed for 6T.
    Failing {
        /// Milliseconds since the last successful renewal.
        age_ms: u64,
    },
    /// Renewed again after failures.
    Recovered {
        /// Milliseconds between the two successful renewals.
        gap_ms: u64,
    },
    /// Lost for good.
    Lost(Loss),
    /// The watchdog's connection broke while the lease was held.
    WatchdogGone,
    /// Released; `clean` when the record on disk says so too.
    Released {
        /// Whether the record was freed.
        clean: bool,
    },
}
