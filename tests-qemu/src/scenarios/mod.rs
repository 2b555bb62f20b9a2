//! The scenarios, one file each with its story, and the runner that gives each
//! its directory and as many seats for machines as it needs.

mod bad_config;
mod cluster;
mod damage;
mod disk_boot;
mod guest;
mod hot_network;
mod lease_takeover;
mod lun_faults;
mod no_root;
mod power_cut;
mod pxe;
mod same_host_id;
pub(crate) mod storage;
mod storage_block;
mod storage_domains;
mod storage_faults;
mod storage_nfs;
mod vlan;
mod volumes;
mod watchdogs;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::evidence;
use crate::line::lock;
use crate::screen::clock;

/// Machines under power at once: two cores emulate two of them at a useful pace.
const SEATS: u8 = 2;

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Name, also of its directory.
    pub name: &'static str,
    /// The promise it checks.
    pub promise: &'static str,
    /// Machines under power at once, 1 or 2.
    pub seats: u8,
    run: fn(&Context<'_>) -> Result<()>,
}

/// Every scenario, the longest first so that short ones fill the gaps.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "cluster",
        promise: "two nodes share a lockspace; power cut, return and lost LUN show at the promised times",
        seats: 2,
        run: cluster::run,
    },
    Scenario {
        name: "lease-takeover",
        promise: "a lease held by a dead node's process goes to another node, not too soon; a holder that loses its LUN is stopped, its node reset",
        seats: 2,
        run: lease_takeover::run,
    },
    Scenario {
        name: "storage-block",
        promise: "two nodes share a pool on iSCSI: paths come and go, wiped bytes are gone, a fast guest outruns neither manager nor, whichever way it dies, its successor",
        seats: 2,
        run: storage_block::run,
    },
    Scenario {
        name: "same-host-id",
        promise: "of two nodes with one host id exactly one gets it, the other names the holder",
        seats: 2,
        run: same_host_id::run,
    },
    Scenario {
        name: "vlan",
        promise: "two nodes reach each other over a bond of two cables, a VLAN on it and the bridge; LACP agrees",
        seats: 2,
        run: vlan::run,
    },
    Scenario {
        name: "storage-domains",
        promise: "with a manager per domain two nodes change different domains at once, the same one after the other",
        seats: 2,
        run: storage_domains::run,
    },
    Scenario {
        name: "lun-faults",
        promise: "a missing, small, foreign, read-only, slow or failing LUN has the right outcome, nothing is overwritten",
        seats: 1,
        run: lun_faults::run,
    },
    Scenario {
        name: "damage",
        promise: "a stuck journald changes nothing; a killed leased, a hanging or crashing PID 1 end in a reset",
        seats: 1,
        run: damage::run,
    },
    Scenario {
        name: "power-cut",
        promise: "whenever the power goes, both readers can read the area",
        seats: 1,
        run: power_cut::run,
    },
    Scenario {
        name: "storage-faults",
        promise: "a master whose LUN fails costs the role and nothing else, both come back; a domain grows with its LUN and by another",
        seats: 1,
        run: storage_faults::run,
    },
    Scenario {
        name: "storage-nfs",
        promise: "a silent NFS server holds up neither the daemon nor another domain, a full one leaves nothing half made; the domain comes back by itself",
        seats: 1,
        run: storage_nfs::run,
    },
    Scenario {
        name: "disk-boot",
        promise: "Ctrl-Alt-Del and the power button release the lease; nothing ever writes to the root",
        seats: 1,
        run: disk_boot::run,
    },
    Scenario {
        name: "volumes",
        promise: "a configuration on a volume is found in the promised order; the state volume is left clean",
        seats: 1,
        run: volumes::run,
    },
    Scenario {
        name: "watchdogs",
        promise: "no lease without a watchdog, or without the configured one, unless the configuration allows it",
        seats: 1,
        run: watchdogs::run,
    },
    Scenario {
        name: "pxe",
        promise: "a node without any disk boots over the network with its root in the initrd",
        seats: 1,
        run: pxe::run,
    },
    Scenario {
        name: "hot-network",
        promise: "links that come and go, and a card that comes late, end in a working bridge",
        seats: 1,
        run: hot_network::run,
    },
    Scenario {
        name: "bad-config",
        promise: "a node with a bad configuration stays up and says every mistake with its line",
        seats: 1,
        run: bad_config::run,
    },
    Scenario {
        name: "no-root",
        promise: "an initrd that finds no root says what it looked for and found, then reboots",
        seats: 1,
        run: no_root::run,
    },
];

/// What a scenario is given.
#[derive(Debug)]
pub struct Context<'a> {
    /// The image as shipped.
    pub release: &'a image::Artifacts,
    /// The image with a root shell.
    pub debug: &'a image::Artifacts,
    /// Its own empty directory.
    pub directory: PathBuf,
    name: &'static str,
    began: Instant,
}

impl Context<'_> {
    /// Tells what happened, for whoever watches the run.
    pub fn say(&self, text: &str) {
        println!("[{}] {}: {text}", clock(self.began.elapsed()), self.name);
    }
}

/// How a scenario went.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario.
    pub scenario: Scenario,
    /// How long it took.
    pub took: Duration,
    /// What broke, with its evidence.
    pub failure: Option<String>,
}

/// Runs `scenarios`, side by side as seats allow; outcomes in order of their ends.
#[must_use]
pub fn run(
    scenarios: &[Scenario],
    release: &image::Artifacts,
    debug: &image::Artifacts,
) -> Vec<Outcome> {
    let queue = Mutex::new((scenarios.iter().copied().collect::<VecDeque<_>>(), SEATS));
    let freed = Condvar::new();
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SEATS {
            scope.spawn(|| {
                while let Some(scenario) = take(&queue, &freed) {
                    let outcome = run_one(scenario, release, debug);
                    lock(&outcomes).push(outcome);
                    lock(&queue).1 += scenario.seats;
                    freed.notify_all();
                }
            });
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The next scenario for which there are seats; nothing once all are taken.
fn take(queue: &Mutex<(VecDeque<Scenario>, u8)>, freed: &Condvar) -> Option<Scenario> {
    let mut state = lock(queue);
    loop {
        if state.0.is_empty() {
            return None;
        }
        let seats = state.1;
        if let Some(at) = state.0.iter().position(|scenario| scenario.seats <= seats) {
            state.1 -= state.0[at].seats;
            return state.0.remove(at);
        }
        state = freed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

fn run_one(scenario: Scenario, release: &image::Artifacts, debug: &image::Artifacts) -> Outcome {
    let began = Instant::now();
    println!("scenario {}: {}", scenario.name, scenario.promise);
    let result = evidence::directory(scenario.name).and_then(|directory| {
        let context = Context {
            release,
            debug,
            directory,
            name: scenario.name,
            began,
        };
        (scenario.run)(&context)
            .map_err(|error| anyhow!("{error:#}\n{}", evidence::collect(&context.directory)))
    });
    let took = began.elapsed();
    let failure = result
        .context(scenario.name)
        .err()
        .map(|error| format!("{error:#}"));
    match &failure {
        None => println!("scenario {}: passed after {}", scenario.name, clock(took)),
        Some(why) => println!(
            "scenario {}: FAILED after {}\n{why}",
            scenario.name,
            clock(took)
        ),
    }
    Outcome {
        scenario,
        took,
        failure,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_fits_the_seats() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(
            ALL.iter()
                .all(|scenario| (1..=SEATS).contains(&scenario.seats))
        );
    }

    #[test]
    fn a_scenario_waits_for_its_seats_and_smaller_ones_go_first() {
        let scenario = |name, seats| Scenario {
            name,
            promise: "",
            seats,
            run: |_| Ok(()),
        };
        let queue = Mutex::new((
            VecDeque::from([scenario("pair", 2), scenario("single", 1)]),
            1,
        ));
        let freed = Condvar::new();
        assert_eq!(take(&queue, &freed).unwrap().name, "single");
        lock(&queue).1 = 2;
        assert_eq!(take(&queue, &freed).unwrap().name, "pair");
        assert!(take(&queue, &freed).is_none());
    }
}
