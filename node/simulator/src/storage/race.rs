//! How long requests take: our hosts and SPM, and the small models of the
//! original's, in the same healthy world and in simulated time (so that it is
//! the protocol that is compared, not this machine).

use mailbox::Outcome;

use super::machine::AnyManager;
use super::swarm::Swarm;
use super::world::World;
use crate::clock::{MS, S};
use crate::random::Random;
use crate::trace::Trace;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Race {
    /// Requests that were done by mail.
    pub requests: usize,
    /// Half of them took at most so long, ms.
    pub p50_ms: u64,
    /// All but a hundredth, ms; in a storm, all of them.
    pub p99_ms: u64,
    /// Commits they took.
    pub commits: u64,
}

/// Hosts that each ask every 5 s on average, for a minute. A commit takes
/// exactly `commit_ms`.
#[must_use]
pub fn steady(hosts: usize, original: bool, commit_ms: u64) -> Race {
    // The first one is the SPM, whose own requests need no mail.
    let swarm = Swarm::healthy(hosts.max(2), original, commit_ms * MS, 5 * S);
    let mut world = ready(swarm);
    let begun = world.now;
    run(&mut world, begun + 60 * S);
    world.calm = true;
    let end = world.now + 200 * S;
    run(&mut world, end);
    result(&world, begun, 99)
}

/// Every host asks for its own volume at the same moment.
#[must_use]
pub fn storm(hosts: usize, original: bool, commit_ms: u64) -> Race {
    let swarm = Swarm::healthy(hosts, original, commit_ms * MS, u64::MAX / 4);
    let mut world = ready(swarm);
    let begun = world.now;
    for machine in 0..hosts {
        world.ask(machine, 0, 0, true, 1, false);
    }
    run(&mut world, begun + 400 * S);
    result(&world, begun, 100)
}

/// A world that has an SPM.
fn ready(swarm: Swarm) -> World {
    let mut world = World::of(swarm, Random::new(1), Trace::default());
    world.begin_quietly();
    let serves = |world: &World| {
        world.machines.iter().any(|machine| match &machine.manager {
            Some(AnyManager::Ours(_, manager)) => manager.is_running(),
            Some(AnyManager::Original(..)) => true,
            None => false,
        })
    };
    while !serves(&world) && world.step(200 * S) {}
    let settled = world.now + 10 * S;
    run(&mut world, settled);
    world
}

fn run(world: &mut World, end: u64) {
    while world.violation.is_none() && world.step(end) {}
    assert!(world.violation.is_none(), "{:?}", world.violation);
}

fn result(world: &World, begun: u64, high: usize) -> Race {
    let mut took: Vec<u64> = world
        .requests
        .iter()
        .filter(|request| {
            request.asked >= begun && request.by_mail && request.outcome == Some(Outcome::Done)
        })
        .map(|request| (request.answered - request.asked) / MS)
        .collect();
    took.sort_unstable();
    let at = |share: usize| {
        let index = (took.len() * share / 100).min(took.len().saturating_sub(1));
        took.get(index).copied().unwrap_or(0)
    };
    Race {
        requests: took.len(),
        p50_ms: at(50),
        p99_ms: at(high),
        commits: world.disk.metadata.iter().map(|one| one.sequence).sum(),
    }
}
