//! What goes into a drive and what comes out of it.

use crate::size::Policy;

/// How a drive is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Chunk and utilization.
    pub policy: Policy,
    /// Ask earlier and for more when the guest writes fast.
    pub predict: bool,
    /// What a full volume was measured to need, in bytes; 0 where it was not.
    pub measured_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::DEFAULT,
            predict: true,
            measured_bytes: 0,
        }
    }
}

/// Where a drive stands, in the words of the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No threshold in QEMU.
    Unset,
    /// QEMU will tell.
    Set,
    /// More space is being asked for.
    Exceeded,
    /// Nothing is watched: at its largest, or stopped for an improbable offset.
    Disabled,
}

/// Names a step, so that an answer that comes too late is not taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Which of the volumes of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The one the guest writes to.
    Source,
    /// The one it is being copied to.
    Replica,
    /// The source as the host sees it to which the guest migrates.
    Destination,
}

/// What QEMU reports of a drive, and how large the device below is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// V: what the guest sees. 0 is no answer.
    pub capacity_bytes: u64,
    /// A: the highest offset written to the device.
    pub allocation_bytes: u64,
    /// P: the size of the device, read after the allocation.
    pub physical_bytes: u64,
    /// How much the guest has written in all, where that is known.
    pub written_bytes: Option<u64>,
}

/// How a request for more space ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendOutcome {
    /// Answered: the volume should be large enough. The refresh tells.
    Done,
    /// Answered with no (size 0 in the mailbox).
    Refused,
    /// It could not be asked for.
    Failed,
}

/// How a refresh of the mapping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// The size of the device as this host now maps it.
    Done {
        /// In bytes.
        size_bytes: u64,
    },
    /// It failed and may succeed another time.
    Failed,
    /// It can never succeed (a destination that does not know how).
    Impossible,
}

/// How setting a threshold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThresholdOutcome {
    /// QEMU will tell.
    Set,
    /// It said no, or nothing.
    Failed,
    /// This QEMU has no thresholds: the drive is polled from now on.
    Unsupported,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The time has come, or nothing.
    Tick,
    /// QEMU: a write passed the threshold.
    Threshold,
    /// QEMU: the guest was stopped, a write failed for lack of space.
    NoSpace,
    /// Answer to [`Effect::QueryStats`].
    Sampled {
        /// Of the question.
        ticket: Ticket,
        /// `None` where QEMU could not be asked.
        sample: Option<Sample>,
    },
    /// Answer to [`Effect::Extend`].
    Extended {
        /// Of the request.
        ticket: Ticket,
        /// How it ended.
        outcome: ExtendOutcome,
    },
    /// Answer to [`Effect::Refresh`].
    Refreshed {
        /// Of the request.
        ticket: Ticket,
        /// How it ended.
        outcome: RefreshOutcome,
    },
    /// Answer to [`Effect::SetThreshold`].
    ThresholdSet {
        /// Of the request.
        ticket: Ticket,
        /// How it ended.
        outcome: ThresholdOutcome,
    },
    /// The disk was given another capacity.
    Resized,
    /// QEMU uses another node for the same volume, or another QEMU does.
    Moved,
    /// The drive is being copied to another thin volume, or no longer.
    Replicating(bool),
    /// The guest is leaving for another host, or has stayed.
    Migrating(bool),
    /// The guest runs (again), whoever continued it.
    Running,
}

/// Why the guest shall stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// Reported as EOTHER: neither lack of space nor an error of the storage.
    Other,
}

/// What shall be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Ask QEMU, then read the device's size.
    QueryStats {
        /// For the answer.
        ticket: Ticket,
    },
    /// Have the volume made at least this large.
    Extend {
        /// For the answer.
        ticket: Ticket,
        /// Which volume.
        target: Target,
        /// An absolute size in bytes, a whole number of mebibytes.
        to_bytes: u64,
    },
    /// Map what the volume now has.
    Refresh {
        /// For the answer.
        ticket: Ticket,
        /// Which volume.
        target: Target,
        /// The size it should have.
        to_bytes: u64,
    },
    /// Have QEMU tell at this write offset.
    SetThreshold {
        /// For the answer.
        ticket: Ticket,
        /// In bytes, never 0.
        at_bytes: u64,
    },
    /// The guest has space again on this drive; [`crate::Guest`] decides.
    Resume,
    /// Stop the guest.
    Pause {
        /// What to report.
        reason: PauseReason,
    },
    /// Something worth a line in the log.
    Tell(Notice),
}

/// A change worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The guest stopped for lack of space.
    NoSpace,
    /// More space is there.
    Extended {
        /// Size of the device.
        size_bytes: u64,
        /// From noticing to having it.
        took_ms: u64,
    },
    /// The request was refused or failed; it is made again.
    Refused {
        /// What was asked for.
        wanted_bytes: u64,
        /// How often in a row.
        attempts: u32,
    },
    /// No answer to the request; it is made again.
    Unanswered {
        /// How often in a row.
        attempts: u32,
    },
    /// After the refresh the device is smaller than what was answered.
    TooSmall {
        /// What was asked for.
        wanted_bytes: u64,
        /// What there is.
        size_bytes: u64,
    },
    /// Full at its largest: the guest stays stopped until the disk is resized or
    /// somebody makes the volume larger.
    AtMaximum {
        /// M.
        maximum_bytes: u64,
    },
    /// A highest offset that no sound image can have: the guest is stopped.
    Improbable {
        /// A.
        allocation_bytes: u64,
        /// The most it may be.
        probable_bytes: u64,
    },
    /// The guest lacks space although the volume has room: look at the array.
    NoSpaceElsewhere {
        /// How often in a row.
        times: u32,
    },
    /// QEMU reported a capacity or size of 0, which is ignored.
    EmptySample,
    /// QEMU has no thresholds; the drive is polled.
    Polling,
    /// The destination of the migration cannot refresh: no extends until it ends.
    ExtendsOff,
}

impl Status {
    /// Whether nothing is to be done and nothing is wrong: the guest has room, and
    /// more will be asked for in time.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let watched = match self.state {
            State::Set => true,
            State::Unset => self.polling,
            State::Exceeded | State::Disabled => false,
        };
        watched && !self.starving && self.attempts == 0 && self.fruitless <= 1
    }
}

/// What is known of a drive, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// V; 0 before the first sample.
    pub capacity_bytes: u64,
    /// P.
    pub physical_bytes: u64,
    /// A.
    pub allocation_bytes: u64,
    /// What is being asked for.
    pub wanted_bytes: Option<u64>,
    /// Where QEMU will tell.
    pub threshold_bytes: Option<u64>,
    /// The guest is stopped for lack of space on it.
    pub starving: bool,
    /// Looked at from time to time, for want of thresholds.
    pub polling: bool,
    /// Failures in a row.
    pub attempts: u32,
    /// How often in a row the guest lacked space although there was room.
    pub fruitless: u32,
    /// Successful extends since the start.
    pub extends: u64,
    /// How fast the guest writes to new space.
    pub rate_bytes_per_s: u64,
    /// How long an extend is expected to take.
    pub round_trip_ms: u64,
}
