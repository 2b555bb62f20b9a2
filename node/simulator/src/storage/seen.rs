//! What happened at all in the runs.

/// Something worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Sight {
    /// Events.
    Events,
    /// A request was done through the mailbox, by an SPM of ours.
    Mailed,
    /// By one that follows the original's rules.
    MailedByOriginal,
    /// An original host's request was answered.
    OriginalAnswered,
    /// A request was done without mail.
    Local,
    /// A request was refused.
    Refused,
    /// Nobody answered in time.
    Unanswered,
    /// There were too many.
    Full,
    /// The mailbox was stopped before an answer.
    Stopped,
    /// A host became the SPM.
    Served,
    /// By itself, after another's lease had run out.
    TakenOver,
    /// A writer was killed.
    Killed,
    /// A lease was lost.
    LeaseLost,
    /// A commit carried more than one extend.
    Batched,
    /// A commit had no outcome.
    CommitUnknown,
    /// A write took effect after it had been given up.
    Late,
    /// A write took effect after its process had died.
    Posthumous,
    /// A write was called done and never done.
    Lost,
    /// A write was done in two parts.
    Torn,
    /// A mailbox had a wrong checksum.
    BadChecksum,
    /// Something was not a message.
    NotUnderstood,
    /// An answer was for something else.
    StaleReply,
    /// A request was sent again.
    SentAgain,
    /// The power failed.
    Power,
    /// The storage daemon was killed.
    DaemonKilled,
    /// A start ended without service.
    StartFailed,
    /// A domain's own lease was taken for a change.
    DomainTaken,
    /// It was busy.
    DomainBusy,
    /// A single change was made under a domain's own lease.
    Single,
    /// The connection of one was closed.
    HungUp,
}

/// All of them, with their words.
pub const SIGHTS: &[(Sight, &str)] = &[
    (Sight::Events, "events"),
    (Sight::Mailed, "requests done by mail"),
    (
        Sight::MailedByOriginal,
        "requests done by mail to the original",
    ),
    (Sight::OriginalAnswered, "original hosts' requests answered"),
    (Sight::Local, "requests done without mail"),
    (Sight::Refused, "requests refused"),
    (Sight::Unanswered, "requests unanswered"),
    (Sight::Full, "requests too many"),
    (Sight::Stopped, "requests stopped"),
    (Sight::Served, "hosts that became the SPM"),
    (Sight::TakenOver, "of them after a lease had run out"),
    (Sight::Killed, "writers killed"),
    (Sight::LeaseLost, "leases lost"),
    (Sight::Batched, "commits of several extends"),
    (Sight::CommitUnknown, "commits without an outcome"),
    (Sight::Late, "late writes"),
    (Sight::Posthumous, "writes of the dead"),
    (Sight::Lost, "writes lost"),
    (Sight::Torn, "writes torn"),
    (Sight::BadChecksum, "wrong checksums told"),
    (Sight::NotUnderstood, "garbage told"),
    (Sight::StaleReply, "stale replies told"),
    (Sight::SentAgain, "requests sent again"),
    (Sight::Power, "power failures"),
    (Sight::DaemonKilled, "daemons killed"),
    (Sight::StartFailed, "starts without service"),
    (Sight::DomainTaken, "domain leases taken"),
    (Sight::DomainBusy, "domain leases found busy"),
    (Sight::Single, "single changes made"),
    (Sight::HungUp, "connections of single changes closed"),
];

/// How often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen([u64; SIGHTS.len()]);

impl Default for Seen {
    fn default() -> Self {
        Self([0; SIGHTS.len()])
    }
}

impl Seen {
    /// Counts one more.
    pub fn note(&mut self, sight: Sight) {
        if let Some(count) = self.0.get_mut(sight as usize) {
            *count += 1;
        }
    }

    /// How often it was counted.
    #[must_use]
    pub fn of(&self, sight: Sight) -> u64 {
        self.0.get(sight as usize).copied().unwrap_or(0)
    }

    /// Adds what others have seen.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}
