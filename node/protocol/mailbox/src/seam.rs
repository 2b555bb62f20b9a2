//! What the mailbox cores are told, and what they ask for; the same words on
//! both sides, so that one driver serves both.

use disk_format::vdsm::DomainId;
use disk_format::vdsm::mailbox::Extend;

/// Names one read or write; its outcome carries the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// Names one request of a local caller; its answer carries the same. The
/// caller chooses it, and does not use it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one batch of extends; its results carry the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// The two mailbox volumes of the master domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volume {
    /// Hosts write, the SPM reads.
    Inbox,
    /// The SPM writes, hosts read.
    Outbox,
}

/// How a read or write ended.
#[derive(Debug, Clone, Copy)]
pub enum IoOutcome<'a> {
    /// A read is done; exactly as many bytes as were asked for.
    Read(&'a [u8]),
    /// A write is done and durable.
    Written,
    /// The kernel's error number. A failed write may have changed the disk.
    Failed(i32),
    /// Given up by the driver: a write may have landed, or land any time later.
    Unknown,
}

/// All extends of one domain that were pending together: one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its name.
    pub id: BatchId,
    /// The domain of all of them.
    pub domain: DomainId,
    /// One for each volume, at most [`crate::timings::BATCH_MAX`], in the order
    /// in which they were asked for.
    pub extends: Vec<Extend>,
    /// Somebody's guest stands still until it is done.
    pub urgent: bool,
}

/// What became of one extend of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Committed {
    /// The volume is at least so large, and the metadata on the disk says so.
    Done,
    /// Surely not done: no space, no such volume.
    Refused,
    /// The writer died or was given up: may be done, or not.
    Unknown,
}

/// What became of a caller's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The volume is at least so large. Refresh the mapping before use.
    Done,
    /// Tried and refused [`crate::timings::REFUSALS_MAX`] times.
    Refused,
    /// Nobody answered for [`crate::timings::GIVE_UP_MS`]: no SPM, or no
    /// storage. It may still be done later.
    Unanswered,
    /// There are too many requests already; ask again later.
    Full,
    /// The mailbox was stopped, or the SPM's lease was lost. It may still be
    /// done later.
    Stopped,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read from a mailbox volume; answered by an [`IoOutcome`].
    Read {
        /// Its name.
        io: IoId,
        /// Which volume.
        volume: Volume,
        /// Where, bytes; a multiple of 4096.
        offset: u64,
        /// How much, bytes; a multiple of 4096.
        length: usize,
    },
    /// Write to a mailbox volume; answered by an [`IoOutcome`].
    Write {
        /// Its name.
        io: IoId,
        /// Which volume.
        volume: Volume,
        /// Where, bytes; a multiple of 4096.
        offset: u64,
        /// What; a multiple of 4096 bytes.
        bytes: Vec<u8>,
    },
    /// Extend, in one commit; answered by [`crate::manager::Input::Committed`].
    /// Only a [`crate::Manager`] asks for it.
    Extend(Batch),
    /// A caller's request has ended. Every request gets exactly one of these.
    Completed {
        /// Which.
        request: RequestId,
        /// How.
        outcome: Outcome,
    },
    /// Nothing will follow.
    Stopped,
}

/// A line for the log. Each kind comes at most once for each change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The mailbox works.
    Running,
    /// Reads or writes fail; told at the first one of a row.
    IoFailing {
        /// Which volume.
        volume: Volume,
        /// Whether it was a write.
        write: bool,
        /// The kernel's error number; `None` when the outcome is unknown.
        errno: Option<i32>,
    },
    /// Reads and writes work again.
    IoWorks {
        /// Which volume.
        volume: Volume,
        /// Whether it was a write.
        write: bool,
        /// How many had failed.
        failures: u32,
    },
    /// The answer in this slot is for another request, or for an older one; ignored.
    StaleReply {
        /// Which slot.
        slot: usize,
    },
    /// The SPM answered with size 0, or with less than was asked for.
    Refused {
        /// What was asked for.
        extend: Extend,
        /// The size of the answer, MiB.
        answer_mib: u32,
        /// How many times so far.
        times: u32,
    },
    /// No answer in time: sent again in another slot.
    SentAgain {
        /// What was asked for.
        extend: Extend,
        /// How long it had waited, ms.
        waited_ms: u64,
    },
    /// A host's mailbox has a wrong checksum; treated as unchanged.
    BadChecksum {
        /// Whose.
        host: u16,
    },
    /// Something in a host's mailbox that is no message this SPM knows.
    NotUnderstood {
        /// Whose.
        host: u16,
        /// Which slot.
        slot: usize,
        /// How it begins.
        head: [u8; 5],
    },
    /// The outcome of a commit is unknown; it is done again.
    CommitUnknown {
        /// How many extends it has.
        extends: usize,
    },
}
