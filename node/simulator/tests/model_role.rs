//! Every interleaving of a few hosts that become the pool's manager, cease to be
//! it, die, and lose their lease: the real core of the role, walked through by
//! stateright.
//!
//! The lease is a model with the timing of the real ones: a host that does not
//! renew has lost it after 8 I/O timeouts, and others may take it after 14. A
//! writer that is gone gives it back at once, as long as its host renews. The
//! lease daemon of a host that lost the lease says so when it is asked, and does
//! nothing else: the core must be enough. Writes reach the storage whoever holds
//! the lease, as late as their process lives.
//!
//! Time is common. It passes only where something waits for it: a lease that is
//! not renewed, a step or a commit that hangs, a writer that is told to end (which
//! takes an I/O timeout at most). How many of each there are is the model's size.
//! The last tests break the core's inputs and effects, and must be caught.
#![allow(missing_docs, reason = "tests")]

use std::hash::{Hash, Hasher};

use mailbox::Monotonic;
use mailbox::role::{Config, Effect, Input, LeaseView, Phase, Spm, Step, StepFailed, StepId};
use stateright::{Checker, HasDiscoveries, Model, Property};

const S: u64 = 1_000_000_000;
/// An I/O of the leases.
const IO_S: u32 = 10;
/// After the last renewal the lease is lost.
const LOST: u64 = 8 * IO_S as u64 * S;
/// After the last renewal others may take it.
const FREE: u64 = 14 * IO_S as u64 * S;
/// A writer that is told to end does so within this.
const DYING: u64 = IO_S as u64 * S;

#[derive(Debug, Clone)]
struct Core(Spm);

impl Hash for Core {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Every field takes part in its Debug text.
        format!("{:?}", self.0).hash(state);
    }
}

impl PartialEq for Core {
    fn eq(&self, other: &Self) -> bool {
        format!("{:?}", self.0) == format!("{:?}", other.0)
    }
}

/// The step under way.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
struct Doing {
    id: StepId,
    step: Step,
    /// It has taken effect, and is not told yet.
    done: bool,
    /// It is never told; if it has no effect yet, it has it who knows when.
    hangs: bool,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct Host {
    /// The writer's; none: there is no such process.
    core: Option<Core>,
    /// Which writer of this host it is.
    writer: u8,
    doing: Option<Doing>,
    /// A commit under way, and whether it hangs.
    commit: Option<bool>,
    mail: bool,
    mounted: bool,
    recovers: bool,
    /// The lease daemon is asked.
    asked: bool,
    /// It is told to end, since then.
    dying: Option<u64>,
    /// The last renewal, when there are no more.
    renewed: Option<u64>,
    /// Without power nothing starts any more.
    off: bool,
    starts_left: u8,
    stops_left: u8,
}

/// How the core is broken.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
enum Flaw {
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
struct Left {
    crashes: u8,
    powers: u8,
    cuts: u8,
    hangs: u8,
    failures: u8,
    mutes: u8,
    commits: u8,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct World {
    now: u64,
    /// Host and writer that hold the lease on the disk.
    owner: Option<(usize, u8)>,
    /// Who the master's metadata say is the manager.
    record: Option<usize>,
    hosts: Vec<Host>,
    left: Left,
    /// Commits that reached the disk.
    committed: u8,
    /// Leases taken from a host that was seen to be dead.
    taken_over: u8,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start(usize),
    Stop(usize),
    /// The step under way takes effect.
    Take(usize),
    /// Its outcome is told.
    Tell(usize),
    Fail(usize, StepFailed),
    Hang(usize),
    /// The lease daemon answers.
    Answer(usize),
    Mute(usize),
    Commit(usize),
    Land(usize),
    HangCommit(usize),
    /// The commit's deadline is over.
    TellHang(usize),
    /// The writer dies by itself.
    Crash(usize),
    /// It has ended as it was told to.
    Gone(usize),
    /// Its lease daemon gives its lease back.
    Free(usize),
    Cut(usize),
    Power(usize),
    /// A deadline has come.
    Tick(usize),
    /// Nobody has anything to do: time moves on.
    Wait,
}

/// A small world.
struct Pool {
    hosts: usize,
    starts: u8,
    stops: u8,
    left: Left,
    horizon_s: u64,
    flaw: Flaw,
    goal: fn(&World) -> bool,
}

const NOTHING: Left = Left {
    crashes: 0,
    powers: 0,
    cuts: 0,
    hangs: 0,
    failures: 0,
    mutes: 0,
    commits: 0,
};

/// Whether what it does can be seen on the disk before it is told.
fn writes(step: Step) -> bool {
    matches!(
        step,
        Step::TakeLease | Step::WriteRole | Step::ClearRole | Step::ReleaseLease
    )
}

impl World {
    fn object(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    fn holds(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        host.core.is_some() && self.owner == Some((index, host.writer))
    }

    /// What the host's lease daemon says.
    fn view(&self, index: usize) -> LeaseView {
        let fresh = self.hosts[index]
            .renewed
            .is_none_or(|at| self.now < at + LOST);
        if fresh && self.holds(index) {
            LeaseView::Held
        } else {
            LeaseView::NotHeld
        }
    }

    fn permits(&self, index: usize) -> bool {
        let core = self.hosts[index].core.as_ref();
        core.is_some_and(|core| core.0.permits())
    }

    /// Asked right before every write.
    fn checks(&self, index: usize) -> bool {
        self.permits(index) && self.view(index) == LeaseView::Held
    }

    fn can_take(&self) -> bool {
        match self.owner {
            None => true,
            Some((owner, _)) => self.hosts[owner]
                .renewed
                .is_some_and(|at| self.now >= at + FREE),
        }
    }

    fn tell(&mut self, index: usize, input: Input, flaw: Flaw) {
        let now = Monotonic(self.now);
        let host = &mut self.hosts[index];
        let Some(Core(core)) = host.core.as_mut() else {
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
    fn effect(&mut self, index: usize) {
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
    fn is_possible(&self, index: usize, step: Step) -> bool {
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

    fn end(&mut self, index: usize) {
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
    fn next_moment(&self) -> Option<u64> {
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

impl Pool {
    fn actions_of(&self, world: &World, index: usize, actions: &mut Vec<Action>) -> bool {
        let host = &world.hosts[index];
        let left = &world.left;
        let mut busy = false;
        let held = world.owner.is_some_and(|(owner, _)| owner == index);
        if held && !world.holds(index) && host.renewed.is_none() {
            actions.push(Action::Free(index));
            busy = true;
        }
        let Some(Core(core)) = &host.core else {
            if host.starts_left > 0 && !host.off {
                actions.push(Action::Start(index));
            }
            return busy;
        };
        if let Some(at) = host.dying {
            actions.push(Action::Gone(index));
            busy |= world.now >= at + DYING;
        }
        if left.crashes > 0 && host.dying.is_none() {
            actions.push(Action::Crash(index));
        }
        if core.deadline().is_some_and(|due| due.0 <= world.now) {
            actions.push(Action::Tick(index));
            busy = true;
        }
        if host.dying.is_none() {
            if core.phase() == Phase::Free && host.starts_left > 0 && !host.off {
                actions.push(Action::Start(index));
            }
            let stops = matches!(core.phase(), Phase::Starting | Phase::Serving);
            if stops && host.stops_left > 0 {
                actions.push(Action::Stop(index));
            }
            let begins = core.phase() == Phase::Serving && host.commit.is_none();
            if begins && left.commits > 0 && world.checks(index) {
                actions.push(Action::Commit(index));
            }
            if host.asked {
                actions.push(Action::Answer(index));
                busy = true;
                if left.mutes > 0 {
                    actions.push(Action::Mute(index));
                }
            }
        }
        if let Some(hangs) = host.commit {
            actions.push(Action::Land(index));
            if hangs {
                actions.push(Action::TellHang(index));
            } else {
                busy = true;
                if left.hangs > 0 {
                    actions.push(Action::HangCommit(index));
                }
            }
        }
        if let Some(doing) = host.doing {
            busy |= self.step_actions(world, index, doing, actions);
        }
        busy
    }

    fn step_actions(
        &self,
        world: &World,
        index: usize,
        doing: Doing,
        actions: &mut Vec<Action>,
    ) -> bool {
        let possible = world.is_possible(index, doing.step);
        if doing.hangs {
            // What was begun lands, whatever anybody thinks by now.
            let begun = writes(doing.step) && doing.step != Step::TakeLease;
            if !doing.done && (begun || possible) {
                actions.push(Action::Take(index));
            }
            return false;
        }
        if writes(doing.step) && !doing.done && possible {
            actions.push(Action::Take(index));
        } else {
            actions.push(Action::Tell(index));
        }
        if world.left.failures > 0 {
            actions.push(Action::Fail(index, StepFailed::Unknown));
            if !doing.done {
                actions.push(Action::Fail(index, StepFailed::Undone));
            }
        }
        if world.left.hangs > 0 && (doing.done || possible) {
            actions.push(Action::Hang(index));
        }
        true
    }

    fn told(&self, world: &mut World, index: usize) {
        let Some(doing) = world.hosts[index].doing.take() else {
            return;
        };
        let possible = world.is_possible(index, doing.step);
        let input = if doing.done || (!writes(doing.step) && possible) {
            world.hosts[index].doing = Some(doing);
            if !doing.done {
                world.effect(index);
            }
            world.hosts[index].doing = None;
            Input::Done(doing.id)
        } else if doing.step == Step::ReleaseLease {
            Input::Failed(doing.id, StepFailed::Unknown)
        } else {
            Input::Failed(doing.id, StepFailed::Undone)
        };
        world.tell(index, input, self.flaw);
    }
}

impl Model for Pool {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let host = Host {
            core: None,
            writer: 0,
            doing: None,
            commit: None,
            mail: false,
            mounted: false,
            recovers: false,
            asked: false,
            dying: None,
            renewed: None,
            off: false,
            starts_left: self.starts,
            stops_left: self.stops,
        };
        vec![World {
            now: S,
            owner: None,
            record: None,
            hosts: vec![host; self.hosts],
            left: self.left,
            committed: 0,
            taken_over: 0,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let mut busy = false;
        let mut waits = false;
        for (index, host) in world.hosts.iter().enumerate() {
            busy |= self.actions_of(world, index, actions);
            let hangs = host.commit == Some(true) || host.doing.is_some_and(|doing| doing.hangs);
            waits |= host.dying.is_some() || host.renewed.is_some() || hangs;
            if host.renewed.is_none() {
                if world.left.cuts > 0 && host.core.is_some() {
                    actions.push(Action::Cut(index));
                }
                if world.left.powers > 0 && host.core.is_some() {
                    actions.push(Action::Power(index));
                }
            }
        }
        if !busy && waits {
            actions.push(Action::Wait);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Start(index) => {
                let host = &mut world.hosts[index];
                host.starts_left -= 1;
                if host.core.is_none() {
                    host.core = Some(Core(Spm::new()));
                    host.writer += 1;
                }
                let config = Config {
                    upgrade: false,
                    io_timeout_s: IO_S,
                };
                world.tell(index, Input::Start(config), self.flaw);
            }
            Action::Stop(index) => {
                world.hosts[index].stops_left -= 1;
                world.tell(index, Input::Stop, self.flaw);
            }
            Action::Take(index) => world.effect(index),
            Action::Tell(index) => self.told(&mut world, index),
            Action::Fail(index, failed) => {
                world.left.failures -= 1;
                let doing = world.hosts[index].doing.take()?;
                world.tell(index, Input::Failed(doing.id, failed), self.flaw);
            }
            Action::Hang(index) => {
                world.left.hangs -= 1;
                world.hosts[index].doing.as_mut()?.hangs = true;
            }
            Action::Answer(index) => {
                world.hosts[index].asked = false;
                let view = world.view(index);
                world.tell(index, Input::Lease(view), self.flaw);
            }
            Action::Mute(index) => {
                world.left.mutes -= 1;
                world.hosts[index].asked = false;
            }
            Action::Commit(index) => {
                world.left.commits -= 1;
                world.hosts[index].commit = Some(false);
            }
            Action::Land(index) => {
                world.hosts[index].commit = None;
                world.committed += 1;
                if !world.holds(index) {
                    world.object("metadata changes only under the lease");
                }
            }
            Action::HangCommit(index) => {
                world.left.hangs -= 1;
                world.hosts[index].commit = Some(true);
            }
            Action::TellHang(index) => world.tell(index, Input::CommitHangs, self.flaw),
            Action::Crash(index) => {
                world.left.crashes -= 1;
                world.end(index);
            }
            Action::Gone(index) => world.end(index),
            Action::Free(_) => world.owner = None,
            Action::Cut(index) => {
                world.left.cuts -= 1;
                world.hosts[index].renewed = Some(world.now);
            }
            Action::Power(index) => {
                world.left.powers -= 1;
                world.end(index);
                let host = &mut world.hosts[index];
                (host.renewed, host.off) = (Some(world.now), true);
            }
            Action::Tick(index) => world.tell(index, Input::Tick, self.flaw),
            Action::Wait => world.now = world.next_moment()?,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is broken", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::sometimes("what is wanted is possible", |model: &Self, world| {
                (model.goal)(world)
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now <= self.horizon_s * S
    }
}

fn explore(model: Pool, states: usize) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = std::time::Instant::now();
    let checker = model.checker().threads(threads).spawn_dfs().join();
    println!(
        "{} states, depth {}, {:?}",
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    if let Some(path) = checker.discovery("nothing is broken") {
        let broken = path.last_state().broken;
        let actions: Vec<_> = path.into_actions();
        panic!("{broken:?} after {actions:#?}");
    }
    checker.assert_properties();
    assert_eq!(
        checker.unique_state_count(),
        states,
        "the core or the model walk through other states than before: if that was meant, pin the new number"
    );
}

/// What is found with a broken core.
fn found(model: Pool) -> Option<&'static str> {
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let path = checker.discovery("nothing is broken")?;
    path.last_state().broken
}

fn crashes() -> Pool {
    Pool {
        hosts: 2,
        starts: 2,
        stops: 1,
        left: Left {
            crashes: 1,
            commits: 1,
            ..NOTHING
        },
        horizon_s: 10,
        flaw: Flaw::None,
        goal: |world| world.committed > 0 && world.record == Some(1) && world.left.crashes == 0,
    }
}

fn serves(world: &World, index: usize) -> bool {
    let core = world.hosts[index].core.as_ref();
    core.is_some_and(|core| core.0.phase() == Phase::Serving)
}

fn hangs() -> Pool {
    Pool {
        hosts: 2,
        starts: 1,
        stops: 1,
        left: Left {
            hangs: 1,
            ..NOTHING
        },
        horizon_s: 400,
        flaw: Flaw::None,
        goal: |world| world.left.hangs == 0 && serves(world, 1) && world.hosts[0].starts_left == 0,
    }
}

fn failures() -> Pool {
    Pool {
        left: Left {
            failures: 2,
            ..NOTHING
        },
        goal: |world| world.left.failures == 0 && serves(world, 1),
        ..hangs()
    }
}

/// A commit is under way, perhaps for long.
fn losses() -> Pool {
    Pool {
        hosts: 2,
        starts: 1,
        stops: 0,
        left: Left {
            cuts: 1,
            hangs: 1,
            commits: 1,
            ..NOTHING
        },
        horizon_s: 160,
        flaw: Flaw::None,
        goal: |world| world.taken_over > 0 && world.committed > 0 && serves(world, 1),
    }
}

/// And the lease daemon does not answer.
fn mute() -> Pool {
    Pool {
        left: Left {
            cuts: 1,
            mutes: 4,
            commits: 1,
            ..NOTHING
        },
        goal: |world| world.taken_over > 0 && world.left.mutes == 0,
        ..losses()
    }
}

#[test]
fn a_writer_dies_at_any_step() {
    explore(crashes(), 153_040);
}

#[test]
fn a_step_hangs() {
    explore(hangs(), 503_550);
}

#[test]
fn two_steps_fail() {
    explore(failures(), 142_465);
}

#[test]
fn a_host_loses_its_lease_in_a_commit_and_another_takes_over() {
    explore(losses(), 416_969);
}

#[test]
fn a_host_loses_its_lease_and_its_lease_daemon_is_mute() {
    explore(mute(), 35_297);
}

#[test]
fn three_hosts_and_the_power_fails() {
    let model = Pool {
        hosts: 3,
        starts: 1,
        stops: 0,
        left: Left {
            powers: 1,
            ..NOTHING
        },
        horizon_s: 200,
        flaw: Flaw::None,
        goal: |world| world.taken_over > 0,
    };
    explore(model, 7_530);
}

#[test]
fn a_broken_core_is_caught() {
    let late = Left {
        cuts: 1,
        hangs: 1,
        ..NOTHING
    };
    let late = Pool {
        left: late,
        ..losses()
    };
    let cases = [
        (mute(), Flaw::NotToldOfLoss, "two writers are allowed"),
        (
            failures(),
            Flaw::ForgetsALease,
            "a role is free only when its lease is",
        ),
        (
            late,
            Flaw::NeverKills,
            "the role is written only under the lease",
        ),
        (crashes(), Flaw::ServesTooSoon, "two writers are allowed"),
    ];
    for (model, flaw, promise) in cases {
        let model = Pool { flaw, ..model };
        assert_eq!(found(model), Some(promise), "{flaw:?}");
    }
}
