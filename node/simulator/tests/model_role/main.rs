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

#[path = "../walk/by_text.rs"]
mod by_text;
#[path = "../walk/explore.rs"]
mod explore;
mod world;

use by_text::ByText;
use explore::{SOUND, explore};
use mailbox::role::{Config, Input, Phase, Spm, Step, StepFailed};
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{DYING, Doing, Flaw, Host, IO_S, Left, S, World, writes};

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
        let Some(ByText(core)) = &host.core else {
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
                    host.core = Some(ByText(Spm::new()));
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
            Property::always(SOUND, |_, world: &World| world.broken.is_none()),
            Property::sometimes("what is wanted is possible", |model: &Self, world| {
                (model.goal)(world)
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now <= self.horizon_s * S
    }
}

/// What is found with a broken core.
fn found(model: Pool) -> Option<&'static str> {
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let path = checker.discovery(SOUND)?;
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
