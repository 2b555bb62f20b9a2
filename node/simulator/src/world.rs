//! Everything at one moment, and what happens next.

mod daemon;
mod io;
mod operations;
mod trouble;
mod users;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lease::State;

use crate::clock::{Clock, MS, S};
use crate::disk::{Area, Disk};
use crate::flight::{Flight, Stage};
use crate::judge::Judge;
use crate::machine::{Machine, Who, config};
use crate::random::Random;
use crate::seen::{Seen, Sight};
use crate::swarm::{Faults, Swarm};
use crate::trace::Trace;
use crate::watchdog::Watchdog;

/// What may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// The kernel gets the request in that slot.
    Begin(usize, u64),
    /// A part of it takes effect.
    Part(usize, u64, bool),
    /// It is told.
    Tell(usize, u64, bool),
    /// A core's deadline.
    Wake(usize),
    /// The watchdog service answers a registration.
    Answer(usize, u64, bool),
    /// The watchdog fires.
    Fire(usize),
    /// The freeze ends.
    Thaw(usize),
    /// The machine gets power.
    Boot(usize),
    /// The daemon starts.
    Start(usize),
    /// The users of a lost lease are dead.
    UsersDie(usize, u64),
    /// The daemon asks for a lease anew.
    Rejoin(usize, u64),
    /// A machine's users do something.
    Client(usize),
    /// The renewals call nobody any more.
    Quiet(usize),
    /// Something goes wrong with a machine.
    Trouble,
}

type Due = Reverse<(u64, u32, u64, Event)>;

/// Requests that wait while this lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stall {
    until: u64,
    machine: Option<usize>,
    area: Option<Area>,
    sector: Option<u32>,
    /// They fail when it ends, having taken effect or not.
    fails: bool,
}

/// The whole simulated world.
#[derive(Debug)]
pub struct World {
    /// World time, ns.
    pub now: u64,
    /// The mix.
    pub swarm: Swarm,
    /// The machines.
    pub machines: Vec<Machine>,
    /// The disk.
    pub disk: Disk,
    /// The checkers.
    pub judge: Judge,
    /// What happened at all.
    pub seen: Seen,
    /// The trace.
    pub trace: Trace,
    random: Random,
    faults: Faults,
    calm: bool,
    retired: bool,
    queue: BinaryHeap<Due>,
    serial: u64,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    stalls: Vec<Stall>,
}

/// World time at which every run begins: not 0, so that no clock agrees with it.
const DAWN: u64 = 1000 * S;

impl World {
    /// The world of a seed, everything off.
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let swarm = Swarm::draw(&mut random);
        let mut disk = Disk::new(swarm.sector_size, swarm.resources, swarm.disks);
        io::format(&mut disk, &swarm);
        let machines = (0..swarm.host_ids.len())
            .map(|number| machine(&swarm, number))
            .collect::<Vec<_>>();
        let judge = Judge::new(&swarm);
        Self {
            now: DAWN,
            faults: swarm.faults,
            swarm,
            machines,
            disk,
            judge,
            seen: Seen::default(),
            trace,
            random,
            calm: false,
            retired: false,
            queue: BinaryHeap::new(),
            serial: 0,
            flights: Vec::new(),
            free: Vec::new(),
            stalls: Vec::new(),
        }
    }

    /// Powers the machines on, within a few seconds of each other, and lets
    /// faults begin.
    pub fn begin(&mut self) {
        for number in 0..self.machines.len() {
            let delay = self.random.below(10) * S + self.random.below(1000) * MS;
            self.machines[number].starting = true;
            self.at(self.now + delay, Event::Boot(number));
            self.at(self.now + delay, Event::Client(number));
        }
        self.at(self.now + S, Event::Trouble);
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        let tie = u32::try_from(self.random.bits() >> 32).unwrap_or(0);
        self.serial += 1;
        self.queue
            .push(Reverse((time.max(self.now), tie, self.serial, event)));
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn say(&mut self, machine: usize, kind: &str, what: std::fmt::Arguments<'_>) {
        let who = self.machines[machine].who();
        self.trace.line(self.now, who, kind, what);
    }

    /// The next event; `false` when there is none before `limit`, which is
    /// then the time.
    pub fn step(&mut self, limit: u64) -> bool {
        match self.queue.peek() {
            Some(Reverse((time, ..))) if *time < limit => {}
            _ => {
                self.now = self.now.max(limit);
                return false;
            }
        }
        let Some(Reverse((time, _, _, event))) = self.queue.pop() else {
            return false;
        };
        self.now = time;
        self.seen.count(Sight::Events);
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(slot, serial) => self.on_begin(slot, serial),
            Event::Part(slot, serial, first) => self.on_part(slot, serial, first),
            Event::Tell(slot, serial, again) => self.on_tell(slot, serial, again),
            Event::Wake(machine) => self.on_wake(machine),
            Event::Answer(machine, membership, registered) => {
                self.on_answer(machine, membership, registered);
            }
            Event::Fire(machine) => self.on_fire(machine),
            Event::Thaw(machine) => self.on_thaw(machine),
            Event::Boot(machine) => self.boot(machine),
            Event::Start(machine) => self.start(machine),
            Event::UsersDie(machine, membership) => self.on_users_dead(machine, membership),
            Event::Rejoin(machine, process) => self.on_rejoin(machine, process),
            Event::Client(machine) => self.on_client(machine),
            Event::Quiet(machine) => self.notify(machine, None),
            Event::Trouble => self.on_trouble(),
        }
    }

    /// Faults and troubles stop: whatever hangs, goes on.
    pub fn calm_down(&mut self) {
        self.calm = true;
        self.faults = Faults::default();
        self.trace.line(
            self.now,
            Who('-', 0),
            "calm",
            format_args!("no more faults"),
        );
        for stall in &mut self.stalls {
            stall.until = stall.until.min(self.now + S);
        }
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            if let Some((until, since)) = machine.frozen {
                machine.frozen = Some((until.min(self.now + S), since));
                self.at(self.now + S, Event::Thaw(number));
            }
            let machine = &mut self.machines[number];
            machine.daemon_frozen_until = machine.daemon_frozen_until.min(self.now + S);
            if !machine.on && !machine.starting {
                machine.starting = true;
                self.at(self.now + 5 * S, Event::Boot(number));
            }
        }
        // What is lost or hangs comes back now.
        for slot in 0..self.flights.len() {
            let Some(flight) = &mut self.flights[slot] else {
                continue;
            };
            let serial = flight.serial;
            flight.fate.twice = false;
            match flight.stage {
                Stage::Begun | Stage::Half => {
                    if flight.fate.lands.is_some_and(|lands| lands > self.now + S) {
                        flight.fate.lands = None;
                        flight.fate.ok = false;
                    }
                    if flight.fate.lands.is_none() {
                        flight.stage = Stage::Over;
                        self.at(self.now + S, Event::Tell(slot, serial, false));
                    } else {
                        flight.fate.told_after.get_or_insert(S);
                    }
                }
                Stage::Over | Stage::Refused => {
                    self.at(self.now + S, Event::Tell(slot, serial, false));
                }
                Stage::Asked => {
                    flight.fate.told_after.get_or_insert(S);
                    let soon = self.now + S;
                    flight.fate.lands = flight.fate.lands.map(|lands| lands.min(soon));
                }
            }
        }
    }

    /// Everybody gives back what it has, and asks for nothing more.
    pub fn retire(&mut self) {
        self.retired = true;
        for machine in 0..self.machines.len() {
            self.release(machine);
        }
    }

    /// Whether nothing is in flight and nobody has anything to give back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let settled = |machine: &Machine| {
            matches!(
                machine.state(),
                None | Some(State::Released | State::Lost | State::Waiting)
            )
        };
        self.flights.iter().all(Option::is_none) && self.machines.iter().all(settled)
    }

    /// Whether faults have stopped.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.calm
    }
}

fn machine(swarm: &Swarm, number: usize) -> Machine {
    let letter = char::from(b'A' + u8::try_from(number).unwrap_or(0));
    let clock = Clock {
        booted: DAWN,
        offset: 0,
        rate_ppm: swarm.rates_ppm[number],
        slept: 0,
    };
    Machine {
        letter,
        config: config(
            letter,
            swarm.host_ids[number],
            swarm.io_timeouts_s[number],
            swarm.fire_timeout_s,
        ),
        latency: swarm.latencies[number],
        boots: 0,
        on: false,
        clock,
        watchdog: Watchdog::new(swarm.fire_timeout_s, 0),
        fire_at: None,
        frozen: None,
        sleeps: false,
        daemon_frozen_until: 0,
        stale: None,
        process: None,
        doubt: false,
        tenures: Vec::new(),
        holders: Vec::new(),
        progress: vec![false; swarm.resources],
        wake_at: None,
        starting: false,
    }
}
