//! One run: faults, then calm, then progress is required.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::seen::Seen;
use super::world::World;
use crate::clock::S;
use crate::judge::Violation;
use crate::trace::Trace;

/// More events than this in one run are a livelock.
const EVENTS_MAX: u64 = 2_000_000;
/// After the last fault every host gets what it wants within this, s: a dead
/// SPM's lease (140), the longest step (900) and the pauses after failed
/// starts (120) of one that was at it, and requests that wait for their next
/// turn.
const CALM_S: u64 = 1_600;

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
    let outcome = catch_unwind(AssertUnwindSafe(|| drive(&mut world)));
    let panicked = outcome.err().map(|panic| Violation {
        promise: "a core keeps its own invariants",
        what: panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default(),
    });
    let violation = world.violation.take().or(panicked);
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
    let end = world.swarm.faulty;
    let mut looked = 0;
    let mut events = 0;
    while world.violation.is_none() && world.step(end) {
        events += 1;
        if events > EVENTS_MAX {
            let what = format!("at {} s", world.now / S);
            return world.object("the world moves on", what);
        }
        if world.now >= looked + 10 * S {
            looked = world.now;
            world.judge_waiting();
        }
    }
    if world.violation.is_some() {
        return;
    }
    world.calm_down();
    let calm_end = world.now + CALM_S * S;
    let mut looked = world.now;
    while world.violation.is_none() {
        if world.now >= looked + S {
            looked = world.now;
            world.judge_waiting();
            if world.probe() {
                break;
            }
        }
        events += 1;
        if events > EVENTS_MAX {
            let what = format!("at {} s", world.now / S);
            return world.object("the world moves on", what);
        }
        if !world.step(calm_end) {
            let what = format!("{CALM_S} s after the last fault");
            return world.object("without faults everybody soon gets more", what);
        }
    }
}
