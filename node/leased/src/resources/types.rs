//! What goes into the leases and what comes out.

use std::sync::Arc;

pub use crate::keeper::SpaceId;
use disk_format::{Generation, Geometry, HostId, LockspaceName, NameField};
use lease::code::Code;
use lease::resource::SectorBytes;
use lease::{IoOutcome, Monotonic};
use sanlock_wire::{
    AcquireFlags, ConvertFlags, Disk, Release, ReplyBody, RequestFlags, Resource, RestrictFlags,
};

/// A connection that stands for a process; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Who gets the answer to a command; the caller's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo(pub u64);

/// Names one read or write; its outcome carries the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoToken(pub u64);

/// The process leases are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its connection.
    pub client: ClientId,
    /// Its id, for signals.
    pub pid: i32,
    /// What it must not be sent; copied to its leases.
    pub restricted: RestrictFlags,
}

/// How long to stand in line for leases that others on this host have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// On the boot-time clock; `None`: as long as the client lives.
    pub until: Option<Monotonic>,
}

/// A lockspace that has been joined.
#[derive(Debug, Clone)]
pub struct SpaceView {
    /// Its number.
    pub id: SpaceId,
    /// Its name.
    pub name: LockspaceName,
    /// Our host id.
    pub host_id: HostId,
    /// The generation of our delta lease.
    pub generation: Generation,
    /// Its geometry; the first guess for its resources.
    pub geometry: Geometry,
    /// T, seconds.
    pub io_timeout_s: u8,
    /// The watchdogs' fire timeout, seconds.
    pub fire_timeout_s: u32,
    /// First byte of its area on its disk.
    pub offset: u64,
}

/// Why a lockspace ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is being left in order; our delta lease is good until all users are
    /// gone, so their leases may still be released on disk.
    Leaving,
    /// The delta lease is lost or in doubt: nothing may be written any more.
    Lost,
}

/// An operation on disk: reads and writes that belong together. Never used
/// twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// Time has passed. Always harmless.
    Tick,
    /// `ACQUIRE`.
    Acquire {
        /// Who gets the answer.
        reply: ReplyTo,
        /// For whom.
        process: Process,
        /// Flags of the command.
        flags: AcquireFlags,
        /// What, in the order in which the first failure counts.
        resources: Vec<Resource>,
        /// Whether to stand in line; `None` is the original's behaviour.
        patience: Option<Patience>,
    },
    /// `RELEASE`.
    Release {
        /// Who gets the answer.
        reply: ReplyTo,
        /// Whose leases.
        client: ClientId,
        /// Which.
        what: &'a Release,
    },
    /// `CONVERT`.
    Convert {
        /// Who gets the answer.
        reply: ReplyTo,
        /// Whose lease.
        client: ClientId,
        /// Flags of the command.
        flags: ConvertFlags,
        /// Which; its `SHARED` flag says what it shall be.
        resource: &'a Resource,
    },
    /// `INQUIRE`.
    Inquire {
        /// Who gets the answer.
        reply: ReplyTo,
        /// Whose leases.
        client: ClientId,
    },
    /// `REQUEST`.
    Request {
        /// Who gets the answer.
        reply: ReplyTo,
        /// Flags of the command.
        flags: RequestFlags,
        /// What to do to the owner, as on disk.
        force_mode: u32,
        /// Which, with its disks.
        resource: &'a Resource,
    },
    /// `EXAMINE_LOCKSPACE`, `EXAMINE_RESOURCE`, or a host set our bit.
    Examine {
        /// Who gets the answer, which is given at once.
        reply: Option<ReplyTo>,
        /// The lockspace.
        lockspace: NameField,
        /// One resource, or all held there.
        resource: Option<NameField>,
    },
    /// `SET_LVB`.
    SetLvb {
        /// Who gets the answer.
        reply: ReplyTo,
        /// Which.
        resource: &'a Resource,
        /// The value's first bytes; the rest stays.
        value: &'a [u8],
    },
    /// `GET_LVB`.
    GetLvb {
        /// Who gets the answer.
        reply: ReplyTo,
        /// Which.
        resource: &'a Resource,
        /// How many bytes; 0: the sector.
        wanted: u32,
    },
    /// A registered connection is no more.
    ClientGone(ClientId),
    /// A lockspace has been joined.
    SpaceJoined(SpaceView),
    /// Our delta lease counts until then, on the boot-time clock; no write of
    /// ours may begin later.
    SpaceRenewed(LockspaceName, Monotonic),
    /// A lockspace ends: no more leases are given out there.
    SpaceDying(LockspaceName, Ending),
    /// A lockspace has ended; whatever is left there is forgotten.
    SpaceGone(LockspaceName),
    /// Something new is known of the hosts of a lockspace.
    HostsChanged(LockspaceName),
    /// A read or write ended.
    Io(IoToken, IoOutcome<'a>),
}

/// A file or device named by a client. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskHandle {
    pub(super) disks: Arc<[Disk]>,
    pub(super) index: u8,
}

impl DiskHandle {
    /// Path, and the first byte of the area (which [`DiskIo`] has counted in).
    #[must_use]
    pub fn disk(&self) -> &Disk {
        static NONE: std::sync::LazyLock<Disk> = std::sync::LazyLock::new(Disk::default);
        self.disks.get(usize::from(self.index)).unwrap_or(&NONE)
    }
}

/// Where to read or write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A file or device named by a client.
    Disk(DiskHandle),
    /// The device of a lockspace.
    Space(SpaceId),
}

/// What to read or write. Offsets are from the start of the device.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be one more allocation for every write"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskIo {
    /// Read so many bytes.
    Read {
        /// First byte.
        offset: u64,
        /// How many: whole sectors.
        bytes: u32,
    },
    /// Write one sector.
    Write {
        /// First byte.
        offset: u64,
        /// What of the sector is not zero.
        content: SectorBytes,
        /// Size of the sector in bytes.
        bytes: u32,
        /// Do not begin later, on the boot-time clock: answer
        /// [`IoOutcome::NotStarted`].
        not_after: Monotonic,
    },
}

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The operator must act.
    Error,
    /// Something did not work, and will be tried again or is given up.
    Warning,
    /// Ordinary contention; left out with `quiet_fail`.
    Contention,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The lockspace, if any.
    pub space: Option<SpaceId>,
    /// The resource's number, if any.
    pub resource: Option<u32>,
    /// What.
    pub text: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read or write; answered by [`Input::Io`], whatever happens. A file that
    /// cannot be opened is a failure with the number that `open` gave.
    Submit {
        /// For what: all of one operation go to the same open file.
        operation: OperationId,
        /// Its name.
        token: IoToken,
        /// Where.
        device: Device,
        /// What.
        io: DiskIo,
    },
    /// An operation submits nothing any more.
    OperationEnded(OperationId),
    /// Answer a command.
    Reply {
        /// Who gets it.
        to: ReplyTo,
        /// The result.
        result: Code,
        /// What it carries.
        body: ReplyBody,
    },
    /// Send a signal.
    Signal {
        /// Whose connection the process has.
        client: ClientId,
        /// To whom.
        pid: i32,
        /// Which.
        signal: Signal,
    },
    /// Run the client's killpath program, without its pid as argument; if it
    /// has none, send the signal.
    RunKillpath {
        /// Whose.
        client: ClientId,
        /// The process.
        pid: i32,
        /// What to send if there is no program.
        otherwise: Signal,
    },
    /// Tell a host by our renewals that there is a request for it.
    MarkHost {
        /// The lockspace.
        space: SpaceId,
        /// The host.
        host_id: HostId,
    },
    /// Log a line.
    Log(Line),
}

/// What the leases are told at their start.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often a shared acquire tries again.
    pub shared_retries: u32,
    /// Allow lock value blocks where their sector lies in a neighbour's area.
    pub unsafe_lvb: bool,
    /// From what the pauses between ballots are made.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shared_retries: 8,
            unsafe_lvb: false,
            seed: 0,
        }
    }
}
