//! A few hosts with the real core each, one lease and the master's metadata.

use mailbox::Monotonic;
use mailbox::role::{Effect, Input, LeaseView, Phase, Spm, Step, StepFailed, StepId};

use super::by_text::ByText;
use super::explore::Judged;

pub(crate) const S: u64 = 1_000_000_000;
/// An I/O of the leases.
pub(crate) const IO_S: u32 = 10;
/// After the last renewal the lease is lost.
pub(crate) const LOST: u64 = 8 * IO_S as u64 * S;
/// After the last renewal others may take it.
pub(crate) const FREE: u64 = 14 * IO_S as u64 * S;
/// A writer that is told to end does so within this.
pub(crate) const DYING: u64 = IO_S as u64 * S;

/// The step under way.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(crate) struct Doing {
    pub(crate) id: StepId,
    pub(crate) step: Step,
    /// It has taken effect, and is not told yet.
    pub(crate) done: bool,
    /// It is never told; if it has no effect yet, it has it who knows when.
    pub(crate) hangs: bool,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Host {
    /// The writer's; none: there is no such process.
    pub(crate) core: Option<ByText<Spm>>,
    /// Which writer of this host it is.
    pub(crate) writer: u8,
    pub(crate) doing: Option<Doing>,
    /// A commit under way, and whether it hangs.
    pub(crate) commit: Option<bool>,
    pub(crate) mail: bool,
    pub(crate) mounted: bool,
    pub(crate) recovers: bool,
    /// The lease daemon is asked.
    pub(crate) asked: bool,
    /// It is told to end, since then.
    pub(crate) dying: Option<u64>,
    /// The last renewal, when there are no more.
    pub(crate) renewed: Option<u64>,
    /// Without power nothing starts any more.
    pub(crate) off: bool,
    pub(crate) starts_left: u8,
    pub(crate) stops_left: u8,
}

/// How the core is broken.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(crate) enum Flaw {
    None,
    /// It is not told that the lease is lost.
    NotToldOfLoss,
    /// What it does not know about taking the lease counts as not taken.
    ForgetsALease,
    /// Its order to end the writer is lost.
    NeverKills,
    /// It believes that it has the lease before it is taken.
    ServesTooSoon,
}

/// What is left to happen.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(crate) struct Left {
    pub(crate) crashes: u8,
    pub(crate) powers: u8,
    pub(crate) cuts: u8,
    pub(crate) hangs: u8,
    pub(crate) failures: u8,
    pub(crate) mutes: u8,
    pub(crate) commits: u8,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct World {
    pub(crate) now: u64,
    /// Host and writer that hold the lease on the disk.
    pub(crate) owner: Option<(usize, u8)>,
    /// Who the master's metadata say is the manager.
    pub(crate) record: Option<usize>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) left: Left,
    /// Commits that reached the disk.
    pub(crate) committed: u8,
    /// Leases taken from a host that was seen to be dead.
    pub(crate) taken_over: u8,
    pub(crate) broken: Option<&'static str>,
}

/// Whether what it does can be seen on the disk before it is told.
pub(crate) fn writes(step: Step) -> bool {
    matches!(
        step,
        Step::TakeLease | Step::WriteRole | Step::ClearRole | Step::ReleaseLease
    )
}

impl Judged for World {
    fn broken(&self) -> Option<&'static str> {
        self.broken
    }
}

impl World {
    pub(crate) fn object(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    pub(crate) fn holds(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        host.core.is_some() && self.owner == Some((index, host.writer))
    }

    /// What the host's lease daemon says.
    pub(crate) fn view(&self, index: usize) -> LeaseView {
        let fresh = self.hosts[index]
            .renewed
            .is_none_or(|at| self.now < at + LOST);
        if fresh && self.holds(index) {
            LeaseView::Held
        } else {
            LeaseView::NotHeld
        }
    }

    pub(crate) fn permits(&self, index: usize) -> bool {
        let core = self.hosts[index].core.as_ref();
        core.is_some_and(|core| core.0.permits())
    }

    /// Asked right before every write.
    pub(crate) fn checks(&self, index: usize) -> bool {
        self.permits(index) && self.view(index) == LeaseView::Held
    }

    pub(crate) fn can_take(&self) -> bool {
        match self.owner {
            None => true,
            Some((owner, _)) => self.hosts[owner]
                .renewed
                .is_some_and(|at| self.now >= at + FREE),
        }
    }

    pub(crate) fn tell(&mut self, index: usize, input: Input, flaw: Flaw) {
        let now = Monotonic(self.now);
        let host = &mut self.hosts[index];
        let Some(ByText(core)) = host.core.as_mut() else {
            return;
        };
        let input = match (flaw, input) {
            (Flaw::NotToldOfLoss, Input::Lease(LeaseView::NotHeld)) => {
                Input::Lease(LeaseView::Held)
            }
            (Flaw::ForgetsALease, Input::Failed(id, StepFailed::Unknown))
                if core.step() == Some(Step::TakeLease) =>
            {
                Input::Failed(id, StepFailed::Undone)
            }
            (_, input) => input,
        };
        core.handle(now, input);
        let mut begun = None;
        let mut settled = None;
        while let Some(effect) = core.next_effect() {
            match effect {
                // Beside everything else, and never waited for.
                Effect::Do(_, Step::RecoverTasks) => host.recovers = true,
                Effect::Do(id, step) => begun = Some((id, step)),
                Effect::AskLease => host.asked = true,
                Effect::DropMail => host.mail = false,
                Effect::KillWriter(_) if flaw == Flaw::NeverKills => {}
                Effect::KillWriter(_) => {
                    host.dying.get_or_insert(now.0);
                }
                Effect::Settled(phase) => settled = Some(phase),
                Effect::Refused(_) => {}
            }
        }
        if let Some((id, step)) = begun {
            let hangs = false;
            let done = flaw == Flaw::ServesTooSoon && step == Step::TakeLease;
            host.doing = Some(Doing {
                id,
                step,
                done,
                hangs,
            });
            let quiet = !host.mail && !host.mounted && !host.recovers && host.commit.is_none();
            if step == Step::ReleaseLease && !quiet {
                self.object("the lease is released last");
            }
        }
        match settled {
            Some(Phase::Free) if self.holds(index) => {
                self.object("a role is free only when its lease is");
            }
            Some(Phase::Serving) if self.record != Some(index) && self.holds(index) => {
                self.object("the master says who its manager is");
            }
            _ => {}
        }
        let allowed = (0..self.hosts.len()).filter(|host| self.permits(*host));
        if allowed.count() > 1 {
            self.object("two writers are allowed");
        }
    }

    /// A step's effect.
    pub(crate) fn effect(&mut self, index: usize) {
        let Some(Doing { step, .. }) = self.hosts[index].doing else {
            return;
        };
        match step {
            Step::TakeLease => {
                self.taken_over += u8::from(self.owner.is_some());
                self.owner = Some((index, self.hosts[index].writer));
            }
            Step::WriteRole | Step::ClearRole => {
                if !self.holds(index) {
                    self.object("the role is written only under the lease");
                }
                self.record = (step == Step::WriteRole).then_some(index);
            }
            Step::ReleaseLease if self.holds(index) => self.owner = None,
            Step::MountMaster => self.hosts[index].mounted = true,
            Step::UnmountMaster => self.hosts[index].mounted = false,
            Step::StartMail => self.hosts[index].mail = true,
            Step::StopMail => self.hosts[index].mail = false,
            Step::EndRecovery => self.hosts[index].recovers = false,
            _ => {}
        }
        if let Some(doing) = &mut self.hosts[index].doing {
            doing.done = true;
        }
    }

    /// Whether the step's effect is possible now.
    pub(crate) fn is_possible(&self, index: usize, step: Step) -> bool {
        let host = &self.hosts[index];
        match step {
            Step::TakeLease => host.renewed.is_none() && self.can_take(),
            Step::JoinLockspace | Step::ReleaseLease => host.renewed.is_none(),
            Step::WriteRole | Step::ClearRole => self.checks(index),
            // It waits for what is under way.
            Step::ForbidWrites => host.commit.is_none(),
            _ => true,
        }
    }

    pub(crate) fn end(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.core = None;
        host.doing = None;
        host.commit = None;
        host.mail = false;
        // The daemon takes it away.
        host.mounted = false;
        host.recovers = false;
        host.asked = false;
        host.dying = None;
    }

    /// When the next thing happens by itself.
    pub(crate) fn next_moment(&self) -> Option<u64> {
        let cores = self.hosts.iter().filter_map(|host| {
            let deadline = host.core.as_ref()?.0.deadline()?;
            Some(deadline.0)
        });
        let leases = self.hosts.iter().filter_map(|host| host.renewed);
        let leases = leases.flat_map(|at| [at + LOST, at + FREE]);
        let ends = self.hosts.iter().filter_map(|host| host.dying);
        cores
            .chain(leases)
            .chain(ends.map(|at| at + DYING))
            .filter(|at| *at > self.now)
            .min()
    }
}
