//! One run: faults, then calm, then progress is required.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lease::State;

use crate::clock::S;
use crate::judge::Violation;
use crate::seen::Seen;
use crate::trace::Trace;
use crate::world::World;

/// More events than this in one run are a livelock.
const EVENTS_MAX: u64 = 3_000_000;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The broken promise.
    pub violation: Option<Violation>,
    /// What happened.
    pub seen: Seen,
    /// The trace, if it was kept.
    pub lines: Vec<String>,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, keep_trace: bool) -> Report {
    let trace = if keep_trace {
        Trace::kept()
    } else {
        Trace::default()
    };
    let mut world = World::new(seed, trace);
    let swarm = format!("{:?}", world.swarm);
    // A core that finds its own invariant broken panics, which on a real
    // machine ends the daemon; here it ends the run.
    let outcome = catch_unwind(AssertUnwindSafe(|| drive(&mut world)));
    let panicked = outcome.err().map(|panic| Violation {
        promise: "a core keeps its own invariants",
        what: panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default(),
    });
    let violation = world.judge.violation.take().or(panicked);
    let mut lines = world.trace.into_lines();
    if keep_trace {
        lines.insert(0, swarm);
    }
    Report {
        seed,
        violation,
        seen: world.seen,
        lines,
    }
}

fn drive(world: &mut World) {
    world.begin();
    let faults_end = world.now + world.swarm.faulty;
    let mut events = 0;
    while world.judge.violation.is_none() && world.step(faults_end) {
        events += 1;
        if events > EVENTS_MAX {
            let text = format!("at {} s", world.now / S);
            return world.judge.object("the world moves on", text);
        }
    }
    if world.judge.violation.is_some() {
        return;
    }
    world.calm_down();
    // Every doomed machine resets, every dead host is waited for, by the
    // slowest clock, and a loser of a race tries again.
    let bound = (4 * world.swarm.bound_s() + 120) * S;
    let calm_end = world.now + bound;
    let mut looked = 0;
    while world.judge.violation.is_none() {
        if world.now >= looked + S {
            looked = world.now;
            if every_host_id_is_held(world) && every_resource_was_granted(world) {
                break;
            }
        }
        if !world.step(calm_end) {
            let text = format!("{} s after the last fault", bound / S);
            return world.judge.object(
                if every_host_id_is_held(world) {
                    "without faults every host soon gets every resource"
                } else {
                    "without faults every host id is soon held"
                },
                text,
            );
        }
    }
    if world.judge.violation.is_none() {
        finish(world);
    }
}

/// Everybody leaves; what stays is what the next ones find.
fn finish(world: &mut World) {
    world.retire();
    let limit = world.now + (4 * world.swarm.bound_s() + 60) * S;
    while world.judge.violation.is_none() {
        if world.is_idle() {
            return world.judge.on_idle(&world.disk);
        }
        if !world.step(limit) {
            let text = format!(
                "{} s after the last request",
                (4 * world.swarm.bound_s() + 60)
            );
            return world.judge.object("everything comes to an end", text);
        }
    }
}

fn every_host_id_is_held(world: &World) -> bool {
    let ids = world.swarm.host_ids.iter().copied().max().unwrap_or(0);
    (1..=ids).all(|id| {
        world.machines.iter().any(|machine| {
            machine.config.host_id.get() == id && machine.state() == Some(State::Held)
        })
    })
}

/// Every machine that holds its host id was granted every resource since.
fn every_resource_was_granted(world: &World) -> bool {
    // A lease on several disks may be left without a majority, for which the
    // original has no remedy either.
    world.swarm.disks > 1
        || world
            .machines
            .iter()
            .filter(|machine| machine.state() == Some(State::Held))
            .all(|machine| machine.progress.iter().all(|granted| *granted))
}
