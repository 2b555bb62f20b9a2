//! The steps to service and back, and how long each may take.

/// Names one step under way; its outcome carries the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u64);

/// One step. All can be done again, and succeed when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Be a member of the master domain's lockspace.
    JoinLockspace,
    /// Start the writer, which registers and takes the `SDM` lease.
    TakeLease,
    /// Upgrade the domains, if that was asked for.
    UpgradeDomains,
    /// Check and mount the master file system; never format it. Nothing to do
    /// on file domains.
    MountMaster,
    /// Make the directories of the master file system, load persisted tasks.
    LoadTasks,
    /// Let requests that change metadata in.
    AllowWrites,
    /// Prepare the mailboxes, start the SPM's side.
    StartMail,
    /// Take up persisted tasks again; not waited for.
    RecoverTasks,
    /// Give up an upgrade under way.
    CancelUpgrade,
    /// Refuse requests that change metadata, end those under way.
    ForbidWrites,
    /// Let the SPM's side of the mailbox answer for what is under way, and end.
    StopMail,
    /// Unmount the master file system.
    UnmountMaster,
    /// Release the lease; the writer ends.
    ReleaseLease,
    /// After the writer was killed: unmount what it left mounted.
    CleanUp,
}

impl Step {
    /// To service, in this order.
    pub const START: [Self; 7] = [
        Self::JoinLockspace,
        Self::TakeLease,
        Self::UpgradeDomains,
        Self::MountMaster,
        Self::LoadTasks,
        Self::AllowWrites,
        Self::StartMail,
    ];

    /// And back. The file system is unmounted, and nothing writes any more,
    /// before the lease is released.
    pub const STOP: [Self; 5] = [
        Self::CancelUpgrade,
        Self::ForbidWrites,
        Self::StopMail,
        Self::UnmountMaster,
        Self::ReleaseLease,
    ];

    /// How long it may take, ms. Then its outcome is unknown.
    #[must_use]
    pub const fn limit_ms(self) -> u64 {
        match self {
            Self::JoinLockspace => 180_000,
            Self::UpgradeDomains => 600_000,
            Self::MountMaster => 300_000,
            Self::AllowWrites | Self::CancelUpgrade => 10_000,
            Self::TakeLease
            | Self::LoadTasks
            | Self::StartMail
            | Self::RecoverTasks
            | Self::ForbidWrites
            | Self::StopMail
            | Self::UnmountMaster
            | Self::ReleaseLease
            | Self::CleanUp => 60_000,
        }
    }

    /// Whether the lease may be held once this step has begun.
    #[must_use]
    pub const fn may_hold(self) -> bool {
        !matches!(self, Self::JoinLockspace | Self::CleanUp)
    }
}

/// How a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepFailed {
    /// Surely not done, nothing is left of it.
    Undone,
    /// May be done in part, or still be under way.
    Unknown,
}
