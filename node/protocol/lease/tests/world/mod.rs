//! Hosts, one shared disk, watchdogs and a clock, all simulated.
//!
//! Fault model: every read and write goes through a rule (set by the test)
//! that says when it begins, when it takes effect on the disk, when its
//! outcome is told, and whether it is told as a success. So a write may land
//! long after it was given up, or be told as failed although it landed. A
//! machine may freeze between any two steps, be killed, lose power, sleep.
//! What cannot happen, and what the protocol relies on: one sector is written
//! whole or not at all; and a machine's end drops those of its writes that
//! have hung longer than T (the kernel ends a process only when its I/O has
//! come back, and a reset cuts the cable).
//!
//! The checker runs after every step: no two machines hold the same host id,
//! where a machine holds from its registration with the watchdog until it is
//! cleared or has fired, at the last moment it may.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

use disk_format::{
    Generation, Geometry, HostBitmap, HostId, HostName, Leader, LockspaceName, delta,
};
use lease::hosts::{Hosts, Names, Viewpoint};
use lease::{
    Config, DeltaLease, Effect, Input, IoId, IoOutcome, Monotonic, Note, Now, Record, State, Status,
};

pub const S: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;
const RECORDS: usize = 4;
pub const EIO: i32 = 5;

/// Where and what a rule decides about.
#[derive(Debug, Clone, Copy)]
pub struct Io {
    pub machine: usize,
    pub write: bool,
    pub now: u64,
}

/// What becomes of a read or write, in ns of world time.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    /// When the kernel gets it.
    pub begins: u64,
    /// When it takes effect; `None`: never.
    pub lands: Option<u64>,
    /// When its outcome is told; `None`: never.
    pub told: Option<u64>,
    /// What is told.
    pub ok: bool,
}

impl Fate {
    pub fn prompt(now: u64) -> Self {
        Self {
            begins: now + MS,
            lands: Some(now + 5 * MS),
            told: Some(now + 10 * MS),
            ok: true,
        }
    }

    pub fn late(now: u64, by: u64) -> Self {
        Self {
            begins: now,
            lands: Some(now + by),
            told: Some(now + by + MS),
            ok: true,
        }
    }

    pub fn failed(now: u64) -> Self {
        Self {
            begins: now,
            lands: None,
            told: Some(now + 10 * MS),
            ok: false,
        }
    }
}

type Rule = Box<dyn FnMut(Io) -> Fate>;

#[derive(Debug)]
struct Flight {
    io: IoId,
    submitted: u64,
    fate: Fate,
    begun: bool,
    not_after: Monotonic,
    write: Option<Record>,
    area: bool,
    /// What a read saw, once it has taken effect.
    seen: Option<Vec<u8>>,
    landed: bool,
    started: bool,
}

#[derive(Debug)]
pub struct Machine {
    pub name: &'static str,
    pub config: Config,
    /// World time at which its clocks were 0.
    booted: u64,
    /// How long it has slept: boot-time minus monotonic.
    slept: u64,
    pub lease: Option<DeltaLease>,
    pub hosts: Hosts,
    frozen_until: u64,
    flights: Vec<Flight>,
    /// World time at which the watchdog resets the machine, at the latest.
    pub reset_at: Option<u64>,
    /// Answers to the watchdog's registration still to be given.
    answer: Option<(u64, bool)>,
    pub watchdog_works: bool,
    pub notes: Vec<(u64, Note)>,
    pub resets: u32,
    /// When to boot again after a reset.
    pub boot_at: Option<u64>,
    pub reboot_after: Option<u64>,
}

pub struct World {
    pub now: u64,
    pub disk: Vec<Record>,
    pub machines: Vec<Machine>,
    pub rule: Rule,
    pub log: Vec<String>,
    t: u8,
    fire_timeout_s: u32,
}

pub fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("valid")
}

fn hosts(config: &Config) -> Hosts {
    let view = Viewpoint {
        lockspace: config.lockspace,
        geometry: Geometry::Sector512Align1M,
        host_id: config.host_id,
        io_timeout_s: config.io_timeout_s,
        fire_timeout_s: config.fire_timeout_s,
        bitmap_s: 0,
    };
    Hosts::new(view, &Names::default())
}

impl World {
    pub fn new(t: u8, fire_timeout_s: u32) -> Self {
        let mut bytes = vec![0; RECORDS * delta::RECORD_BYTES];
        delta::fill_initial(
            &lockspace(),
            Geometry::Sector512Align1M,
            t,
            0,
            true,
            &mut bytes,
        );
        let disk = bytes
            .chunks_exact(delta::RECORD_BYTES)
            .map(|record| record.try_into().expect("512"))
            .collect();
        Self {
            // Not 0, so that clocks differ from world time.
            now: 1000 * S,
            disk,
            machines: Vec::new(),
            rule: Box::new(|io| Fate::prompt(io.now)),
            log: Vec::new(),
            t,
            fire_timeout_s,
        }
    }

    /// A machine that is off.
    pub fn add(&mut self, name: &'static str, host_id: u64) -> usize {
        let config = Config {
            lockspace: lockspace(),
            host_id: HostId::new(host_id).expect("valid"),
            host_name: HostName::new(name).expect("valid"),
            io_timeout_s: self.t,
            fire_timeout_s: self.fire_timeout_s,
            watchdog: true,
        };
        self.machines.push(Machine {
            hosts: hosts(&config),
            name,
            config,
            booted: 0,
            slept: 0,
            lease: None,
            frozen_until: 0,
            flights: Vec::new(),
            reset_at: None,
            answer: None,
            watchdog_works: true,
            notes: Vec::new(),
            resets: 0,
            boot_at: None,
            reboot_after: None,
        });
        self.machines.len() - 1
    }

    /// Powers a machine on and begins to acquire.
    pub fn boot(&mut self, machine: usize) {
        let now = self.now;
        let it = &mut self.machines[machine];
        it.booted = now - 3 * S;
        it.slept = 0;
        it.frozen_until = 0;
        self.start_process(machine);
    }

    /// A new process on a running machine.
    pub fn start_process(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        it.lease = Some(DeltaLease::new(it.config));
        it.hosts = hosts(&it.config);
        self.input(machine, Input::Start(Geometry::Sector512Align1M));
    }

    /// Ends the process; the watchdog's registration stays.
    pub fn kill(&mut self, machine: usize) {
        self.end_flights(machine);
        self.machines[machine].lease = None;
        self.machines[machine].answer = None;
        self.say(machine, "killed");
    }

    /// Ends everything at once.
    pub fn cut_power(&mut self, machine: usize) {
        self.kill(machine);
        self.machines[machine].reset_at = None;
        self.say(machine, "power cut");
    }

    /// Nothing of the machine runs for a while, then everything goes on.
    pub fn freeze(&mut self, machine: usize, duration: u64) {
        let it = &mut self.machines[machine];
        it.frozen_until = it.frozen_until.max(self.now + duration);
        self.say(machine, "frozen");
    }

    /// Suspends: like a freeze in which the monotonic clock stands still. The
    /// hardware watchdog goes on counting; where it does not, suspending a
    /// holder is beyond what this protocol can make safe.
    pub fn suspend(&mut self, machine: usize, duration: u64) {
        self.freeze(machine, duration);
        self.machines[machine].slept += duration;
    }

    fn end_flights(&mut self, machine: usize) {
        let flights = std::mem::take(&mut self.machines[machine].flights);
        for flight in flights {
            let hung = self.now - flight.submitted > u64::from(self.t) * S;
            if let (Some(record), true, false, false) = (
                flight.write,
                flight.begun && flight.started,
                flight.landed,
                hung,
            ) {
                self.land(machine, &record);
            }
        }
    }

    fn land(&mut self, machine: usize, record: &Record) {
        let index = self.machines[machine].config.host_id.index();
        self.disk[index] = *record;
    }

    pub fn say(&mut self, machine: usize, what: &str) {
        let line = format!(
            "{:>10.3} {:>6} {what}",
            self.now as f64 / 1e9,
            self.machines[machine].name
        );
        self.log.push(line);
    }

    pub fn clock(&self, machine: usize) -> Now {
        let it = &self.machines[machine];
        let boottime = self.now - it.booted;
        Now {
            monotonic: Monotonic(boottime.saturating_sub(it.slept)),
            boottime: Monotonic(boottime),
        }
    }

    pub fn status(&self, machine: usize) -> Option<Status> {
        self.machines[machine]
            .lease
            .as_ref()
            .map(DeltaLease::status)
    }

    pub fn is(&self, machine: usize, state: State) -> bool {
        self.status(machine)
            .is_some_and(|status| status.state == state)
    }

    pub fn generation(&self, machine: usize) -> Option<u64> {
        self.status(machine)?
            .generation
            .map(|Generation(number)| number)
    }

    pub fn record(&self, host_id: usize) -> Leader {
        delta::leader(&self.disk[host_id - 1]).expect("512 bytes")
    }

    pub fn overwrite(&mut self, host_id: usize, leader: &Leader) {
        delta::encode_sector(leader, &HostBitmap::EMPTY, &mut self.disk[host_id - 1]);
    }

    pub fn input(&mut self, machine: usize, input: Input<'_>) {
        let clock = self.clock(machine);
        let Some(lease) = self.machines[machine].lease.as_mut() else {
            return;
        };
        lease.handle(clock, input);
        self.drain(machine);
    }

    fn drain(&mut self, machine: usize) {
        let now = self.now;
        loop {
            let it = &mut self.machines[machine];
            let Some(lease) = it.lease.as_mut() else {
                return;
            };
            while let Some(note) = lease.next_note() {
                it.notes.push((now, note));
                self.log.push(format!(
                    "{:>10.3} {:>6} {note:?}",
                    now as f64 / 1e9,
                    it.name
                ));
            }
            let Some(effect) = lease.next_effect() else {
                return;
            };
            let fate = |rule: &mut Rule, write| {
                rule(Io {
                    machine,
                    write,
                    now,
                })
            };
            match effect {
                Effect::ReadOwn(io) | Effect::ReadArea(io) => {
                    let fate = fate(&mut self.rule, false);
                    let area = matches!(effect, Effect::ReadArea(_));
                    it.flights
                        .push(Flight::new(io, now, fate, Monotonic(u64::MAX), None, area));
                }
                Effect::Write {
                    io,
                    not_after,
                    record,
                } => {
                    let fate = fate(&mut self.rule, true);
                    it.flights
                        .push(Flight::new(io, now, fate, not_after, Some(record), false));
                }
                Effect::WatchdogRegister { expire_s, .. } => {
                    if it.watchdog_works {
                        it.set_expiry(expire_s, self.fire_timeout_s);
                    }
                    it.answer = Some((now + 20 * MS, it.watchdog_works));
                }
                Effect::WatchdogUpdate { expire_s, .. } => {
                    it.set_expiry(expire_s, self.fire_timeout_s)
                }
                Effect::WatchdogClear => it.reset_at = None,
            }
        }
    }

    /// Moves to the next moment at which anything happens, at most to `limit`.
    pub fn step(&mut self, limit: u64) {
        let next = self
            .machines
            .iter()
            .enumerate()
            .filter_map(|(index, it)| it.next_event(index, self))
            .min();
        self.now = next.unwrap_or(limit).clamp(self.now, limit);
        for machine in 0..self.machines.len() {
            self.step_machine(machine);
        }
        self.check();
    }

    fn step_machine(&mut self, machine: usize) {
        let now = self.now;
        if self.machines[machine].reset_at.is_some_and(|at| at <= now) {
            self.kill(machine);
            let it = &mut self.machines[machine];
            it.reset_at = None;
            it.resets += 1;
            it.boot_at = it.reboot_after.map(|after| now + after);
            self.say(machine, "reset by its watchdog");
        }
        if self.machines[machine].boot_at.is_some_and(|at| at <= now) {
            self.machines[machine].boot_at = None;
            self.boot(machine);
        }
        self.move_flights(machine);
        if self.machines[machine].frozen_until > now {
            return;
        }
        self.tell(machine);
        if let Some((_, registered)) = self.machines[machine].answer.take_if(|(at, _)| *at <= now) {
            self.input(machine, Input::WatchdogRegistered(registered));
        }
        let due = self.machines[machine]
            .lease
            .as_ref()
            .and_then(DeltaLease::deadline);
        if due.is_some_and(|due| due <= self.clock(machine).boottime) {
            self.input(machine, Input::Tick);
        }
        let it = &self.machines[machine];
        let idle = it.flights.is_empty()
            && it
                .lease
                .as_ref()
                .is_some_and(|lease| lease.status().state == State::Waiting);
        if idle {
            self.input(machine, Input::Start(Geometry::Sector512Align1M));
        }
    }

    /// Begins and lands what is due, on the disk's side.
    fn move_flights(&mut self, machine: usize) {
        let now = self.now;
        let clock = self.clock(machine).boottime;
        let it = &mut self.machines[machine];
        let frozen = it.frozen_until > now;
        let own = it.config.host_id.index();
        for flight in &mut it.flights {
            if !flight.begun && flight.fate.begins <= now && !frozen {
                flight.begun = true;
                flight.started = clock <= flight.not_after;
            }
            if flight.begun
                && flight.started
                && !flight.landed
                && flight.fate.lands.is_some_and(|at| at <= now)
            {
                flight.landed = true;
                match &flight.write {
                    Some(record) => self.disk[own] = *record,
                    None => flight.seen = Some(self.disk.concat()),
                }
            }
        }
    }

    /// Tells outcomes that are due.
    fn tell(&mut self, machine: usize) {
        loop {
            let now = self.now;
            let it = &mut self.machines[machine];
            let Some(index) = it.flights.iter().position(|flight| flight.is_told(now)) else {
                return;
            };
            let flight = it.flights.remove(index);
            let clock = self.clock(machine);
            let own = self.machines[machine].config.host_id.index() * delta::RECORD_BYTES;
            let outcome = match (&flight.seen, flight.started, flight.fate.ok) {
                (_, false, _) => IoOutcome::NotStarted,
                (_, _, false) => IoOutcome::Failed(EIO),
                (Some(bytes), _, _) => IoOutcome::Read(&bytes[own..]),
                (None, _, _) => IoOutcome::Written,
            };
            if let (IoOutcome::Read(_), Some(bytes), true) = (outcome, &flight.seen, flight.area) {
                let hosts = &mut self.machines[machine].hosts;
                hosts.observe(clock.boottime, clock.boottime, 0, bytes);
            }
            if let Some(lease) = self.machines[machine].lease.as_mut() {
                lease.handle(clock, Input::Io(flight.io, outcome));
            }
            self.drain(machine);
        }
    }

    /// Runs for so many seconds.
    pub fn run(&mut self, seconds: u64) {
        let end = self.now + seconds * S;
        while self.now < end {
            self.step(end);
        }
    }

    /// Runs until the condition holds; returns the seconds it took (rounded
    /// down). Fails the test after `limit_s`.
    pub fn until(
        &mut self,
        limit_s: u64,
        what: &str,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> u64 {
        let start = self.now;
        let end = start + limit_s * S;
        while !condition(self) {
            assert!(
                self.now < end,
                "after {limit_s} s still not: {what}\n{}",
                self.log.join("\n")
            );
            self.step(end);
        }
        (self.now - start) / S
    }

    fn check(&self) {
        for (index, one) in self.machines.iter().enumerate() {
            if one.config.watchdog && self.is(index, State::Held) {
                assert!(
                    one.reset_at.is_some(),
                    "{} holds without a watchdog\n{}",
                    one.name,
                    self.log.join("\n")
                );
            }
            for other in &self.machines[index + 1..] {
                let both = one.reset_at.is_some()
                    && other.reset_at.is_some()
                    && one.config.host_id == other.config.host_id;
                assert!(
                    !both,
                    "{} and {} both hold\n{}",
                    one.name,
                    other.name,
                    self.log.join("\n")
                );
            }
        }
    }
}

impl Machine {
    fn set_expiry(&mut self, expire_s: u64, fire_timeout_s: u32) {
        // Its monotonic clock in world time, sleep included.
        let at = self.booted + self.slept + (expire_s + u64::from(fire_timeout_s)) * S;
        self.reset_at = Some(at);
    }

    fn next_event(&self, index: usize, world: &World) -> Option<u64> {
        let running = |at: u64| at.max(self.frozen_until);
        let flights = self.flights.iter().flat_map(|flight| {
            [
                (!flight.begun).then(|| running(flight.fate.begins)),
                flight
                    .fate
                    .lands
                    .filter(|_| flight.begun && flight.started && !flight.landed),
                flight.told_at().map(running),
            ]
        });
        let deadline = self
            .lease
            .as_ref()
            .and_then(DeltaLease::deadline)
            .map(|due| {
                let clock = world.clock(index).boottime.0;
                running(world.now + due.0.saturating_sub(clock))
            });
        let answer = self.answer.map(|(at, _)| running(at));
        flights
            .chain([deadline, answer, self.reset_at, self.boot_at])
            .flatten()
            .min()
    }
}

impl Flight {
    fn new(
        io: IoId,
        submitted: u64,
        fate: Fate,
        not_after: Monotonic,
        write: Option<Record>,
        area: bool,
    ) -> Self {
        Self {
            io,
            submitted,
            fate,
            begun: false,
            not_after,
            write,
            area,
            seen: None,
            landed: false,
            started: false,
        }
    }

    fn told_at(&self) -> Option<u64> {
        match (self.begun, self.started) {
            (false, _) => None,
            (true, false) => Some(self.fate.begins),
            (true, true) if self.fate.ok && !self.landed => None,
            (true, true) => self.fate.told,
        }
    }

    fn is_told(&self, now: u64) -> bool {
        self.told_at().is_some_and(|at| at <= now)
    }
}
