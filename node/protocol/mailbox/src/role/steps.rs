//! The steps to service and back, and how long each may take.

/// Names one step under way; its outcome carries the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u64);

/// One step. All can be done again, and succeed when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Look whether the master is the pool's, and be a member of its lockspace.
    JoinLockspace,
    /// Register at the lease daemon and take the `SDM` lease.
    TakeLease,
    /// Look at the master again, and write into it who manages the pool.
    WriteRole,
    /// Make domains that still say they are the master regular ones.
    DemoteFormer,
    /// Upgrade the domains, if that was asked for.
    UpgradeDomains,
    /// Unmount what a writer that was killed left, check and mount the master
    /// file system; never format it. Make its directories.
    MountMaster,
    /// Remove volumes that nobody finished. Nobody makes any yet.
    ClearHalfMade,
    /// Prepare the mailboxes, start the SPM's side.
    StartMail,
    /// Let requests that change metadata in.
    AllowWrites,
    /// Take up what the SPM before left: persisted tasks, removals; not waited
    /// for.
    RecoverTasks,
    /// Refuse requests that change metadata, wait for those under way. Undone
    /// when they do not end: then the SPM goes on, unless it must end.
    ForbidWrites,
    /// End what [`Self::RecoverTasks`] began.
    EndRecovery,
    /// Let the SPM's side of the mailbox answer for what is under way, and end.
    StopMail,
    /// Make another domain the master. Undone: the old one is it as before.
    MoveMaster,
    /// Unmount the master file system.
    UnmountMaster,
    /// Write into the master that nobody manages the pool.
    ClearRole,
    /// Release the lease.
    ReleaseLease,
}

impl Step {
    /// To service, in this order.
    pub const START: [Self; 9] = [
        Self::JoinLockspace,
        Self::TakeLease,
        Self::WriteRole,
        Self::DemoteFormer,
        Self::UpgradeDomains,
        Self::MountMaster,
        Self::ClearHalfMade,
        Self::StartMail,
        Self::AllowWrites,
    ];

    /// And back. Nothing writes any more, and the file system is unmounted,
    /// before the lease is released.
    pub const STOP: [Self; 6] = [
        Self::ForbidWrites,
        Self::EndRecovery,
        Self::StopMail,
        Self::UnmountMaster,
        Self::ClearRole,
        Self::ReleaseLease,
    ];

    /// To another master.
    pub const MOVE: [Self; 6] = [
        Self::ForbidWrites,
        Self::EndRecovery,
        Self::StopMail,
        Self::MoveMaster,
        Self::StartMail,
        Self::AllowWrites,
    ];

    /// How long it may take, ms, where an I/O of the leases may take
    /// `io_timeout_s`. Then its outcome is unknown. What does a step gives up
    /// before.
    #[must_use]
    pub const fn limit_ms(self, io_timeout_s: u32) -> u64 {
        let seconds = match self {
            // Up to the death of another host.
            Self::JoinLockspace | Self::TakeLease => {
                let death = 12 * io_timeout_s as u64 + 60;
                (if death < 180 { 180 } else { death }) + 20
            }
            Self::DemoteFormer | Self::UpgradeDomains => 600,
            Self::MoveMaster => 900,
            Self::MountMaster | Self::ClearHalfMade => 300,
            Self::WriteRole | Self::EndRecovery => 120,
            Self::AllowWrites => 10,
            Self::ForbidWrites | Self::StopMail | Self::ReleaseLease => 90,
            Self::StartMail | Self::RecoverTasks | Self::UnmountMaster | Self::ClearRole => 60,
        };
        seconds * 1000
    }

    /// Whether the lease may be held once this step has begun.
    #[must_use]
    pub const fn may_hold(self) -> bool {
        !matches!(self, Self::JoinLockspace)
    }
}

/// How a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepFailed {
    /// Nothing of it is under way any more; the way back puts right what it
    /// may have left.
    Undone,
    /// May still be under way.
    Unknown,
}
