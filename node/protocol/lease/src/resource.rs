//! Leases on resources: Disk Paxos over shared sectors, as pure state machines.
//!
//! What it is: one machine for each operation ([`Acquire`], [`Release`],
//! [`Convert`], [`Erase`], [`Request`], [`Examine`]), all driven the same way
//! ([`Operation`]): hand in what happened, do the [`Effect`]s, come back at the
//! deadline. What it is not: it keeps no list of who holds what, does no I/O
//! and knows no clock.
//!
//! ```text
//!            free, or ours            written         no higher ballot    written
//! Initial ─────────────────▶ Phase 1 ────────▶ read ─────────────────▶ Phase 2 ─▶ read ─▶ Commit ─▶ held
//!  ▲  │ another's               ▲                 │ lost                           │ lost
//!  │  ▼                         └──── look again ◀┴────────── Backoff ◀────────────┘
//!  │ Owner ─── alive ──▶ refused
//!  │  │ unknown: wait for its death, or for news of it
//!  └──┘
//! ```
//!
//! Invariants (`tests/resource_*.rs` tell each as a story; seeds look for a
//! counter-example in `tests/resource_random.rs`):
//! - two hosts never own one version of a lease;
//! - a value, once accepted in a ballot, is never replaced by another in the
//!   same ballot, and a ballot number is never used twice;
//! - while the outcome of a write is unknown nothing is written that would make
//!   the late write dangerous: not to the same sector, and no RELEASED mark;
//!   the operation has told its result but [`Operation::is_drained`] is false;
//! - nobody's sector is written but our own, the leader's after winning, the
//!   request's, the lease value block's while we own it, and that of a dead
//!   shared holder.
//!
//! An operation that is not drained may still change the disk: start no other
//! one on the resource, keep renewing the lockspace, and count it as a user of
//! the lockspace when deciding whether the watchdog may be called off.
//!
//! Where this is stricter than the original, on the same format:
//! - a write that took too long may land after others have gone on, and throw
//!   the leader back to an older version. Blocks never go back: a ballot that
//!   meets a newer block than the leader allows decides that block's version
//!   again (to the same value) and so mends the leader; a version once given up
//!   is stepped over and never granted twice;
//! - a value once accepted stays in our block through later ballots of its
//!   version, and the mark of having let go through the first phase of the next;
//! - what a failed operation may have left behind is undone until the disk
//!   answers, and a shared holder's mark is put back before the leader is freed;
//! - nobody is dead before a reading, begun after the bound, found nothing new.
//!
//! On several disks every decision needs a majority; a shared mark that could
//! not be removed from one of them keeps others from exclusive use until its
//! host acquires or releases again. That is safe, and all the format allows.

mod acquire;
mod ballot;
mod convert;
mod desk;
mod first;
mod freeing;
mod owner;
mod owners;
mod release;
mod request;
mod scan;
mod sharing;

use std::sync::Arc;

use disk_format::{
    Dblock, Generation, Geometry, HostId, Leader, LockspaceName, ModeBlock, ResourceName,
    leader::LEADER_BYTES, paxos,
};

use crate::code::Code;
use crate::time::{Monotonic, Now};
use crate::{IoId, IoOutcome};

pub use acquire::{Acquire, AcquireOptions, Waiting};
pub use convert::{Convert, ConvertOptions};
pub use owners::{Observed, Owners};
pub use release::{Erase, Release, ReleaseOptions};
pub use request::{Examine, Request, RequestOptions};

/// Most disks a lease can be on.
pub const DISKS_MAX: u8 = 4;

/// Ourselves, in one lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Us {
    /// Our host id.
    pub host_id: HostId,
    /// Our generation of it.
    pub generation: Generation,
    /// T, seconds, 1–255: an I/O that takes longer has timed out.
    pub io_timeout_s: u8,
    /// The watchdogs' fire timeout, seconds; equal on all hosts.
    pub fire_timeout_s: u32,
}

/// Which lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its lockspace.
    pub lockspace: LockspaceName,
    /// Its name.
    pub resource: ResourceName,
    /// The lockspace's geometry; the resource's own is found on disk.
    pub geometry: Geometry,
    /// On how many disks it is, 1–[`DISKS_MAX`].
    pub disks: u8,
}

/// Where an I/O goes; offsets count from the start of that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The resource's area on its disk of this index.
    Disk(u8),
    /// A host's sector in a lockspace area; offset 0 is its first byte.
    OwnerDelta {
        /// The lockspace.
        lockspace: LockspaceName,
        /// The host.
        host_id: HostId,
    },
}

/// What of a sector is not zero.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SectorBytes {
    /// A record: at most [`LEADER_BYTES`].
    Record {
        /// How many of `bytes` count.
        len: u8,
        /// The bytes.
        bytes: [u8; LEADER_BYTES],
    },
    /// A lease value block.
    Lvb(Arc<[u8]>),
}

const _: () = assert!(LEADER_BYTES <= 255 && paxos::HOST_RECORD_BYTES <= LEADER_BYTES);

impl SectorBytes {
    /// Nothing but zeros.
    pub const ZERO: Self = Self::Record {
        len: 0,
        bytes: [0; LEADER_BYTES],
    };

    fn record(record: &[u8]) -> Self {
        let mut bytes = [0; LEADER_BYTES];
        let len = record.len().min(LEADER_BYTES);
        for (to, from) in bytes.iter_mut().zip(record) {
            *to = *from;
        }
        Self::Record {
            len: u8::try_from(len).unwrap_or(u8::MAX),
            bytes,
        }
    }

    fn leader(leader: &Leader) -> Self {
        Self::record(&leader.encode())
    }

    fn host(dblock: &Dblock, mode: &ModeBlock) -> Self {
        let mut bytes = [0; paxos::HOST_RECORD_BYTES];
        paxos::encode_host_sector(dblock, mode, &mut bytes);
        Self::record(&bytes)
    }

    /// The bytes; the rest of the sector is zero.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Record { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Lvb(bytes) => bytes,
        }
    }

    /// Fills a whole sector: the bytes, then zeros.
    pub fn fill(&self, sector: &mut [u8]) {
        let bytes = self.as_slice();
        for (to, from) in sector.iter_mut().zip(bytes) {
            *to = *from;
        }
        if let Some(rest) = sector.get_mut(bytes.len()..) {
            rest.fill(0);
        }
    }
}

/// What to do.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost an allocation a write"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Read.
    Read {
        /// Its name.
        io: IoId,
        /// Where.
        place: Place,
        /// From which byte of the place.
        offset: u64,
        /// How many bytes: whole sectors.
        bytes: u32,
    },
    /// Write one sector, unless boot-time has passed `not_after` when the write
    /// would begin: then answer [`IoOutcome::NotStarted`].
    Write {
        /// Its name.
        io: IoId,
        /// Where.
        place: Place,
        /// At which byte of the place.
        offset: u64,
        /// Size of the sector, bytes: 512 or 4096.
        sector: u32,
        /// Latest start.
        not_after: Monotonic,
        /// Its content.
        content: SectorBytes,
    },
}

impl Effect {
    /// The name its outcome carries.
    #[must_use]
    pub fn io(&self) -> IoId {
        match self {
            Self::Read { io, .. } | Self::Write { io, .. } => *io,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Begin.
    Start,
    /// Time has passed. Always harmless.
    Tick,
    /// A read or write ended: a read with all the bytes asked for. Outcomes of
    /// I/Os given up are ignored, those of writes are waited for.
    Io(IoId, IoOutcome<'a>),
    /// The host we wait for was seen to change, or its lease to be freed.
    OwnerChanged,
    /// Nobody wants the result any more: give up as soon as it is safe, and put
    /// back what was done.
    Cancel,
    /// Our lockspace is lost: start no more I/O at all. Drained once what is in
    /// flight has ended.
    Abandon,
}

/// What we know of a lease that we hold; the caller keeps it from acquire to
/// release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// The leader record as we wrote it, or as another host wrote it for us.
    pub leader: Leader,
    /// Our ballot block as we last wrote it.
    pub dblock: Dblock,
    /// Held shared, not exclusively.
    pub shared: bool,
    /// The resource's own geometry.
    pub geometry: Geometry,
}

impl Held {
    /// The version of the lease held.
    #[must_use]
    pub fn lver(&self) -> u64 {
        self.leader.lver
    }

    /// Hosts that may use the lease: what [`AcquireOptions::expected_hosts`]
    /// of the next acquire may say.
    #[must_use]
    pub fn num_hosts(&self) -> u32 {
        u32::try_from(self.leader.num_hosts).unwrap_or(0)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// For the client.
    pub code: Code,
    /// What is held now: after a successful acquire, and after a convert
    /// whatever its result.
    pub held: Option<Held>,
    /// The lease value block, a whole sector, if it was asked for and read.
    pub lvb: Option<Arc<[u8]>>,
    /// Whom to notify in our delta lease (a request was written).
    pub notify: Option<HostId>,
    /// The request record found by [`Examine`].
    pub request: Option<disk_format::RequestRecord>,
    /// The leader last seen, for people to look at.
    pub seen: Option<Leader>,
}

impl Outcome {
    fn new(code: Code) -> Self {
        Self {
            code,
            held: None,
            lvb: None,
            notify: None,
            request: None,
            seen: None,
        }
    }
}

/// What every operation has.
///
/// After every [`Self::handle`], drain [`Self::next_effect`], and call again at
/// [`Self::deadline`] at the latest. The first call hands in [`Input::Start`].
pub trait Operation: std::fmt::Debug {
    /// Takes in what happened at `now`.
    fn handle(&mut self, now: Now, input: Input<'_>, owners: &dyn Owners);

    /// The next thing to do, in order; `None` when there is no more.
    fn next_effect(&mut self) -> Option<Effect>;

    /// When, on the boot-time clock, to call [`Self::handle`] with
    /// [`Input::Tick`] at the latest; `None`: only when something happens.
    fn deadline(&self) -> Option<Monotonic>;

    /// How it ended, once it has; it may go on to clean up after itself.
    fn result(&self) -> Option<&Outcome>;

    /// Whether it has ended and can no longer change the disk.
    fn is_drained(&self) -> bool;

    /// Writes whose outcome is not known.
    fn writes_in_flight(&self) -> usize;

    /// For whom it waits, if it waits for a host's death.
    fn waiting(&self) -> Option<Waiting> {
        None
    }
}
