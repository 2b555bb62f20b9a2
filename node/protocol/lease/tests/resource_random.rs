//! Hosts, faults and interleavings drawn from a seed: never two owners of one
//! lease, versions only rise, and when the faults end everybody gets it once.
//!
//! Faults: writes told as failed that landed or did not, I/Os that take longer
//! than their time-out and then land, readings that saw some sectors earlier
//! than others, hosts cut off from the disk until their watchdog has reset
//! them. A host counts as a holder from its acquire's success to the start of
//! its release, or until that reset. A failure prints its seed and its log;
//! `LEASE_SEED=n` repeats it.

mod resource_world;

use std::collections::BTreeSet;

use disk_format::Generation;
use disk_format::Geometry::Sector512Align1M as SMALL;
use lease::resource::{
    Acquire, AcquireOptions, Convert, ConvertOptions, Effect, Held, Input, Operation, Outcome,
    Release, ReleaseOptions,
};
use lease::{Code, IoOutcome};
use resource_world::{EIO, MS, S, T, W, World};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How often what goes wrong, in percent; drawn per run.
#[derive(Debug, Clone, Copy)]
struct Swarm {
    slow: u64,
    fail: u64,
    lie: u64,
    cut: u64,
    shared: u64,
}

struct Flight {
    effect: Effect,
    lands: Option<u64>,
    told: u64,
    ok: bool,
    seen: Option<Vec<u8>>,
    landed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Idle,
    Acquiring,
    Holding,
    Releasing,
    /// With what counts as held meanwhile.
    Converting,
}

struct Machine {
    flights: Vec<Flight>,
    doing: Doing,
    held: Option<Held>,
    /// Whether the operation's result was taken in.
    ended: bool,
    /// What the checker counts: exclusive or not.
    counts: Option<bool>,
    next: u64,
    renewed: u64,
    next_renewal: u64,
    cut: Option<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    exclusive: u32,
    shared: u32,
    refused: u32,
    others: u32,
    converted: u32,
    take_overs: u32,
    late: u32,
    resets: u32,
}

struct Sim {
    world: World,
    hosts: u32,
    machines: Vec<Machine>,
    random: Random,
    swarm: Swarm,
    log: Vec<String>,
    last_lver: u64,
    lvers: BTreeSet<u64>,
    last_owner: Option<usize>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.below(3);
        // A large lease now and then, whose first reading may be short.
        let hosts = match random.chance(15) {
            true => 100,
            false => u32::try_from(count).expect("small"),
        };
        let disks = if random.chance(15) { 3 } else { 1 };
        let world = World::named(SMALL, hosts, "R1", disks).with_hosts(count);
        // A third of the time a fault does not occur at all.
        let mut draw = |limit: u64| random.below(limit * 3 / 2).saturating_sub(limit / 2);
        let swarm = Swarm {
            slow: draw(8),
            fail: draw(8),
            lie: draw(8),
            cut: draw(6),
            shared: draw(100),
        };
        let machines = (0..count)
            .map(|_| Machine {
                flights: Vec::new(),
                doing: Doing::Idle,
                held: None,
                ended: false,
                counts: None,
                next: world.now + random.below(2000) * MS,
                renewed: world.now,
                next_renewal: world.now + random.below(4) * S,
                cut: None,
            })
            .collect();
        Self {
            world,
            hosts,
            machines,
            random,
            swarm,
            log: vec![format!(
                "seed {seed}, {count} hosts, {disks} disks, {swarm:?}"
            )],
            last_lver: 0,
            lvers: BTreeSet::new(),
            last_owner: None,
        }
    }

    fn note(&mut self, host: usize, text: impl std::fmt::Display) {
        let at = self.world.now / MS;
        let host = self.world.hosts[host].us.host_id;
        self.log.push(format!("{at} ms: host {host}: {text}"));
    }

    fn check(&self, holds: bool, text: &str) {
        assert!(holds, "{text}\n{}", self.log.join("\n"));
    }

    /// Hands effects to the disk, with a fate each.
    fn submit(&mut self, host: usize) {
        let now = self.world.now;
        while let Some(effect) = self.world.hosts[host].queue.pop_front() {
            let took = self.random.below(30) * MS;
            let mut flight = Flight {
                effect,
                lands: Some(now + self.random.below(20) * MS),
                told: now + 20 * MS + took,
                ok: true,
                seen: None,
                landed: false,
            };
            if self.machines[host].cut.is_some() {
                flight.lands = self.random.chance(30).then_some(now + took);
                flight.told = u64::MAX;
            } else if self.random.chance(self.swarm.slow) {
                let lands = now + self.random.below(3000 * u64::from(T)) * MS;
                flight.lands = self.random.chance(80).then_some(lands);
                flight.ok = flight.lands.is_some();
                flight.told = lands + took;
            } else if self.random.chance(self.swarm.fail) {
                flight.lands = None;
                flight.ok = false;
            } else if self.random.chance(self.swarm.lie) {
                flight.ok = false;
            }
            self.machines[host].flights.push(flight);
        }
    }

    fn input(&mut self, host: usize, input: Input<'_>) {
        self.world.input(host, input);
        self.submit(host);
        self.look_at_result(host);
    }

    fn begin(&mut self, host: usize, doing: Doing, op: impl Operation + 'static) {
        self.machines[host].doing = doing;
        self.machines[host].ended = false;
        // Readings given up by the last operation; it left nothing else.
        let left = std::mem::take(&mut self.machines[host].flights);
        let reads = left
            .iter()
            .all(|flight| matches!(flight.effect, Effect::Read { .. }));
        self.check(reads, "a drained operation has no write in flight");
        self.world.begin(host, op);
        self.submit(host);
    }

    fn count(&mut self, host: usize, exclusive: bool) {
        for other in 0..self.machines.len() {
            let counts = self.machines[other].counts;
            let conflict = counts.is_some_and(|other| exclusive || other);
            self.check(other == host || !conflict, "two owners");
        }
        self.machines[host].counts = Some(exclusive);
    }

    fn look_at_result(&mut self, host: usize) {
        let Some(op) = &self.world.hosts[host].op else {
            return;
        };
        let Some(outcome) = op.result().cloned() else {
            return;
        };
        let drained = op.is_drained();
        let now = self.world.now;
        match self.machines[host].doing {
            Doing::Acquiring | Doing::Converting => {
                if !std::mem::replace(&mut self.machines[host].ended, true) {
                    self.on_result(host, &outcome);
                }
                if !drained {
                    return;
                }
                self.world.hosts[host].op = None;
                let machine = &mut self.machines[host];
                machine.doing = if machine.held.is_some() {
                    Doing::Holding
                } else {
                    Doing::Idle
                };
                machine.next = now + self.random.below(400) * MS;
            }
            Doing::Releasing => {
                if drained {
                    self.world.hosts[host].op = None;
                    self.machines[host].doing = Doing::Idle;
                    self.machines[host].next = now + self.random.below(400) * MS;
                }
            }
            Doing::Idle | Doing::Holding => {}
        }
    }

    fn on_result(&mut self, host: usize, outcome: &Outcome) {
        self.note(host, outcome.code);
        if let Some(held) = outcome.held {
            self.count(host, !held.shared);
        }
        let before = std::mem::replace(&mut self.machines[host].held, outcome.held);
        if outcome.code == Code::OK && before.is_none_or(|before| before.shared) {
            let lver = outcome.held.map_or(0, |held| held.lver());
            let new = self.lvers.insert(lver);
            self.check(new, "no version is owned twice");
            // A shared holder may hear of its success later than the next one.
            let rises = lver > self.last_lver || outcome.held.is_some_and(|held| held.shared);
            self.check(rises, "versions rise");
            self.last_lver = self.last_lver.max(lver);
            self.last_owner = Some(host);
        }
    }

    fn act(&mut self, host: usize, seen: &mut Seen) {
        let (us, target) = (self.world.hosts[host].us, self.world.target);
        let seed = self.random.next();
        match self.machines[host].doing {
            Doing::Idle => {
                let shared = self.random.chance(self.swarm.shared);
                let options = AcquireOptions {
                    shared,
                    no_wait: self.random.chance(30),
                    expected_hosts: Some(self.hosts),
                    expected_mbal: self.random.chance(50).then_some(1),
                    ..AcquireOptions::default()
                };
                self.note(host, format_args!("acquires, shared {shared}"));
                self.begin(
                    host,
                    Doing::Acquiring,
                    Acquire::new(us, target, options, seed),
                );
            }
            Doing::Holding => {
                let Some(held) = self.machines[host].held else {
                    return;
                };
                if self.random.chance(25) {
                    let options = ConvertOptions {
                        shared: !held.shared,
                        no_wait: self.random.chance(50),
                        ..ConvertOptions::default()
                    };
                    self.note(host, format_args!("converts, shared {}", !held.shared));
                    // Whoever goes shared has stopped writing.
                    self.machines[host].counts = Some(false);
                    seen.converted += 1;
                    let op = Convert::new(us, target, &held, options, seed);
                    self.begin(host, Doing::Converting, op);
                } else {
                    self.note(host, "releases");
                    self.machines[host].counts = None;
                    self.machines[host].held = None;
                    let op = Release::new(us, target, &held, ReleaseOptions::default());
                    self.begin(host, Doing::Releasing, op);
                }
            }
            Doing::Acquiring | Doing::Converting | Doing::Releasing => {
                if self.random.chance(10) && self.machines[host].doing == Doing::Acquiring {
                    self.note(host, "gives up");
                    self.input(host, Input::Cancel);
                }
                self.machines[host].next = self.world.now + S;
            }
        }
    }

    fn renew(&mut self, host: usize) {
        let now = self.world.now;
        let us = self.world.hosts[host].us;
        if self.machines[host].cut.is_some() {
            self.machines[host].next_renewal = u64::MAX;
            return;
        }
        self.world
            .renew(u64::from(us.host_id.get()), us.generation.0);
        self.machines[host].renewed = now;
        self.machines[host].next_renewal = now + 2 * u64::from(T) * S;
        self.world.look_of(host);
        let waits = self.world.hosts[host].op.is_some();
        if waits && self.random.chance(50) {
            self.input(host, Input::OwnerChanged);
        }
        if self.random.chance(self.swarm.cut) {
            // The watchdog resets it, at the latest moment it may.
            let reset = now + (8 * u64::from(T) + u64::from(W)) * S;
            self.machines[host].cut = Some(reset);
            self.note(host, "cut off");
        }
    }

    fn reset(&mut self, host: usize, seen: &mut Seen) {
        self.note(host, "reset, comes back");
        seen.resets += 1;
        let us = &mut self.world.hosts[host].us;
        us.generation = Generation(us.generation.0 + 1);
        self.world.hosts[host].op = None;
        self.world.hosts[host].queue.clear();
        let machine = &mut self.machines[host];
        machine.flights.clear();
        machine.cut = None;
        machine.counts = None;
        machine.held = None;
        machine.doing = Doing::Idle;
        machine.next = self.world.now + S;
        machine.next_renewal = self.world.now;
    }

    fn next_event(&self) -> u64 {
        let mut next = u64::MAX;
        for (host, machine) in self.machines.iter().enumerate() {
            next = next
                .min(machine.next_renewal)
                .min(machine.cut.unwrap_or(u64::MAX));
            if machine.cut.is_none() {
                next = next.min(machine.next);
            }
            for flight in &machine.flights {
                let lands = flight.lands.filter(|_| !flight.landed);
                next = next.min(flight.told).min(lands.unwrap_or(u64::MAX));
            }
            let op = self.world.hosts[host].op.as_ref();
            if let Some(due) = op.and_then(|op| op.deadline()) {
                next = next.min(due.0);
            }
        }
        next.max(self.world.now)
    }

    fn step(&mut self, seen: &mut Seen) {
        self.world.now = self.next_event();
        let now = self.world.now;
        for host in 0..self.machines.len() {
            if self.machines[host].cut.is_some_and(|reset| reset <= now) {
                self.reset(host, seen);
            }
            for index in 0..self.machines[host].flights.len() {
                let flight = &self.machines[host].flights[index];
                if flight.landed || flight.lands.is_none_or(|lands| lands > now) {
                    continue;
                }
                let effect = flight.effect.clone();
                let bytes = self.world.land(host, &effect);
                let flight = &mut self.machines[host].flights[index];
                flight.seen = bytes;
                flight.landed = true;
            }
            while let Some(index) = self.machines[host]
                .flights
                .iter()
                .position(|flight| flight.told <= now)
            {
                let flight = self.machines[host].flights.remove(index);
                self.tell(host, flight, seen);
            }
            let op = self.world.hosts[host].op.as_ref();
            if op
                .and_then(|op| op.deadline())
                .is_some_and(|due| due.0 <= now)
            {
                self.input(host, Input::Tick);
            }
            if self.machines[host].next_renewal <= now {
                self.renew(host);
            }
            if self.machines[host].next <= now && self.machines[host].cut.is_none() {
                self.act(host, seen);
            }
        }
    }

    fn tell(&mut self, host: usize, flight: Flight, seen: &mut Seen) {
        if self.world.hosts[host].op.is_none() {
            return;
        }
        let io = flight.effect.io();
        if !flight.ok {
            return self.input(host, Input::Io(io, IoOutcome::Failed(EIO)));
        }
        if let Effect::Write { not_after, .. } = flight.effect
            && self.world.now > not_after.0
        {
            seen.late += 1;
        }
        match flight.seen {
            Some(mut bytes) => {
                // Sector by sector, now or earlier.
                if bytes.len() > 512 {
                    let later = self.world.land(host, &flight.effect).unwrap_or_default();
                    for (now, new) in bytes.chunks_mut(512).zip(later.chunks(512)) {
                        if self.random.chance(50) {
                            now.copy_from_slice(new);
                        }
                    }
                }
                self.input(host, Input::Io(io, IoOutcome::Read(&bytes)));
            }
            None => self.input(host, Input::Io(io, IoOutcome::Written)),
        }
    }
}

fn run(seed: u64, seen: &mut Seen) {
    let mut sim = Sim::new(seed);
    let faults_end = sim.world.now + 200 * S;
    let mut last_owner = None;
    let mut codes = 0;
    while sim.world.now < faults_end {
        sim.step(seen);
        if sim.last_owner != last_owner {
            last_owner = sim.last_owner;
            seen.take_overs += 1;
        }
        codes += 1;
        assert!(codes < 1_000_000, "seed {seed} gets nowhere");
    }
    for line in &sim.log {
        seen.exclusive += u32::from(line.contains("acquires, shared false"));
        seen.shared += u32::from(line.contains("acquires, shared true"));
        seen.refused += u32::from(line.contains("-243") || line.contains("-11 "));
        seen.others += u32::from(line.contains("-245") || line.contains("-244"));
    }
    // A shared mark left on one disk of three stands in the way for good: safe,
    // and all that the format allows.
    if sim.world.target.disks > 1 {
        return;
    }
    // Without faults everybody gets it, one after the other, alone.
    sim.swarm = Swarm {
        slow: 0,
        fail: 0,
        lie: 0,
        cut: 0,
        shared: 0,
    };
    let calm = sim.world.now + 200 * S;
    for host in 0..sim.machines.len() {
        let before = sim.world.now.max(calm) + 100 * S;
        loop {
            for other in 0..sim.machines.len() {
                // Only this one acquires from here on.
                if other != host && sim.machines[other].doing == Doing::Idle {
                    sim.machines[other].next = u64::MAX;
                }
            }
            if sim.machines[host].next == u64::MAX {
                sim.machines[host].next = sim.world.now;
            }
            if sim.world.now > calm && sim.machines[host].counts == Some(true) {
                break;
            }
            sim.check(sim.world.now < before, "without faults everybody gets it");
            sim.step(seen);
        }
    }
}

#[test]
fn never_two_owners_and_everybody_in_the_end() {
    let mut seen = Seen::default();
    let seeds: Vec<u64> = match std::env::var("LEASE_SEED") {
        Ok(seed) => vec![seed.parse().expect("LEASE_SEED is a number")],
        Err(_) => {
            let count = std::env::var("LEASE_SEEDS")
                .map_or(300, |count| count.parse().expect("LEASE_SEEDS is a number"));
            (0..count).collect()
        }
    };
    let many = seeds.len() > 1;
    for seed in seeds {
        run(seed, &mut seen);
    }
    // A run in which nothing happened would prove nothing.
    let enough = seen.exclusive > 5000
        && seen.shared > 1000
        && seen.refused > 1000
        && seen.others > 100
        && seen.converted > 500
        && seen.take_overs > 1000
        && seen.late > 500
        && seen.resets > 100;
    assert!(!many || enough, "{seen:?}");
}
