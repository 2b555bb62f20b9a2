//! Every interleaving of two machines that contend for one host id: the real
//! cores, walked through by stateright.
//!
//! Time is common, and moves on once everybody has done what is due, so the
//! delays are explicit, and few: a machine may freeze and thaw at any moment,
//! a request may hang and take effect at any later moment, a request may be
//! told as failed whether it took effect or not. How many of each is the
//! model's size. A machine counts as a holder from the moment its core says so
//! until its watchdog resets it, which is as late as it may be: exactly W
//! after the registered expiry. A machine that was reset may boot again.
#![allow(missing_docs, reason = "tests")]

#[path = "walk/by_text.rs"]
mod by_text;
#[path = "walk/explore.rs"]
mod explore;

use by_text::ByText;
use disk_format::{Geometry, HostBitmap, HostId, HostName, LockspaceName, delta};
use explore::{Judged, SOUND, explore};
use lease::{Config, DeltaLease, Effect, Input, IoId, IoOutcome, Monotonic, Now, Record, State};
use stateright::{Model, Property};

const GEOMETRY: Geometry = Geometry::Sector512Align1M;
const S: u64 = 1_000_000_000;
/// T, seconds.
const T: u8 = 1;
/// W, seconds.
const W: u32 = 2;
/// When time begins, ns.
const DAWN: u64 = 100 * S;

type Core = ByText<DeltaLease>;

#[derive(Debug, Clone, PartialEq, Hash)]
struct Flight {
    io: IoId,
    not_after: u64,
    what: What,
    /// It takes effect who knows when.
    hangs: bool,
}

#[derive(Debug, Clone, PartialEq, Hash)]
enum What {
    Read,
    Seen(Box<Record>),
    Write(Box<Record>),
    Written,
    TooLate,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct Machine {
    core: Option<Core>,
    flights: Vec<Flight>,
    frozen: bool,
    /// Registered with the watchdog, seconds.
    expire_s: Option<u64>,
    /// The watchdog's answer is due.
    registering: bool,
    holds: bool,
    generation: u64,
    starts_left: u8,
    doubt: bool,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct World {
    now: u64,
    disk: Box<Record>,
    machines: Vec<Machine>,
    freezes_left: u8,
    hangs_left: u8,
    failures_left: u8,
    /// Highest generation held.
    highest: u64,
    take_overs: u8,
    broken: Option<&'static str>,
}

impl Judged for World {
    fn broken(&self) -> Option<&'static str> {
        self.broken
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// A request takes effect.
    Effect(usize, usize),
    /// It is told.
    Tell(usize, usize),
    /// It is told as failed.
    Fail(usize, usize),
    /// It will take effect later.
    Hang(usize, usize),
    /// The watchdog answers.
    Answer(usize),
    /// A deadline has come.
    Tick(usize),
    /// An attempt begins.
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    /// Nobody has anything to do: time moves on.
    Wait,
}

/// A small world.
struct Lockspace {
    machines: usize,
    freezes: u8,
    hangs: u8,
    failures: u8,
    /// Attempts of each machine, boots included.
    starts: u8,
    /// Seconds.
    horizon_s: u64,
    goal: fn(&World) -> bool,
}

fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("a name")
}

fn core(index: usize, doubt: bool) -> Core {
    let name = ["a", "b", "c"][index];
    let mut lease = DeltaLease::new(Config {
        lockspace: lockspace(),
        host_id: HostId::new(1).expect("a host id"),
        host_name: HostName::new(name).expect("a name"),
        io_timeout_s: T,
        fire_timeout_s: W,
        watchdog: true,
    });
    if doubt {
        lease.assume_uncertain();
    }
    ByText(lease)
}

impl World {
    fn clock(&self) -> Now {
        Now {
            monotonic: Monotonic(self.now),
            boottime: Monotonic(self.now),
        }
    }

    fn input(&mut self, index: usize, input: Input<'_>) {
        let clock = self.clock();
        let machine = &mut self.machines[index];
        let Some(ByText(lease)) = machine.core.as_mut() else {
            return;
        };
        lease.handle(clock, input);
        while lease.next_note().is_some() {}
        while let Some(effect) = lease.next_effect() {
            let (io, not_after, what) = match effect {
                Effect::ReadOwn(io) | Effect::ReadArea(io) => (io, u64::MAX, What::Read),
                Effect::Write {
                    io,
                    not_after,
                    record,
                } => (io, not_after.0, What::Write(Box::new(record))),
                Effect::WatchdogRegister { expire_s, .. } => {
                    machine.expire_s = Some(expire_s);
                    machine.registering = true;
                    continue;
                }
                Effect::WatchdogUpdate { expire_s, .. } => {
                    machine.expire_s = Some(expire_s);
                    continue;
                }
                Effect::WatchdogClear => {
                    machine.expire_s = None;
                    machine.holds = false;
                    continue;
                }
            };
            machine.flights.push(Flight {
                io,
                not_after,
                what,
                hangs: false,
            });
        }
        let status = lease.status();
        let holds = matches!(status.state, State::Held | State::Failing);
        if holds && !machine.holds {
            machine.holds = true;
            machine.doubt = false;
            machine.generation = status.generation.map_or(0, |generation| generation.0);
            self.on_held(index);
        }
    }

    fn on_held(&mut self, index: usize) {
        let generation = self.machines[index].generation;
        let others = self.machines.iter().enumerate();
        if others
            .filter(|(number, _)| *number != index)
            .any(|(_, other)| other.holds)
        {
            self.broken.get_or_insert("two holders");
        }
        if self.highest > 0 {
            self.take_overs += 1;
        }
        self.highest = self.highest.max(generation);
    }

    fn tell(&mut self, index: usize, number: usize, fails: bool) {
        let flight = self.machines[index].flights.remove(number);
        let outcome = match &flight.what {
            What::TooLate => IoOutcome::NotStarted,
            _ if fails => IoOutcome::Failed(5),
            What::Seen(record) => IoOutcome::Read(&record[..]),
            What::Read | What::Write(_) | What::Written => IoOutcome::Written,
        };
        self.input(index, Input::Io(flight.io, outcome));
    }

    fn effect(&mut self, index: usize, number: usize) {
        let (now, disk) = (self.now, self.disk.clone());
        let flight = &mut self.machines[index].flights[number];
        flight.what = match std::mem::replace(&mut flight.what, What::Read) {
            What::Read => What::Seen(disk),
            // A request that hangs had begun when it was asked for.
            What::Write(_) if now > flight.not_after && !flight.hangs => What::TooLate,
            What::Write(record) => {
                self.disk = record;
                What::Written
            }
            done @ (What::Seen(_) | What::Written | What::TooLate) => done,
        };
        flight.hangs = false;
    }

    fn reset(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let doubt = machine
            .core
            .as_ref()
            .is_some_and(|core| core.0.is_uncertain());
        // What was in flight is cut off with the machine.
        *machine = Machine {
            core: None,
            flights: Vec::new(),
            frozen: false,
            expire_s: None,
            registering: false,
            holds: false,
            generation: 0,
            starts_left: machine.starts_left,
            doubt: machine.doubt || doubt,
        };
    }

    fn fires_at(machine: &Machine) -> Option<u64> {
        machine
            .expire_s
            .map(|expire_s| (expire_s + u64::from(W)) * S)
    }

    /// When the next thing happens by itself.
    fn next_moment(&self) -> Option<u64> {
        let deadlines = self
            .machines
            .iter()
            .filter(|machine| !machine.frozen)
            .filter_map(|machine| machine.core.as_ref()?.0.deadline())
            .map(|deadline| deadline.0);
        let fires = self.machines.iter().filter_map(Self::fires_at);
        deadlines.chain(fires).min()
    }
}

impl Machine {
    fn wants_start(&self) -> bool {
        let waiting = self
            .core
            .as_ref()
            .is_none_or(|core| core.0.status().state == State::Waiting);
        // While something of ours may still land, it could land on top of the
        // next claim.
        let writing = self
            .flights
            .iter()
            .any(|flight| matches!(flight.what, What::Write(_) | What::Written | What::TooLate));
        waiting && self.starts_left > 0 && !writing
    }

    fn is_due(&self, now: u64) -> bool {
        self.core
            .as_ref()
            .and_then(|core| core.0.deadline())
            .is_some_and(|deadline| deadline.0 <= now)
    }
}

impl Model for Lockspace {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let record = delta::initial(&lockspace(), GEOMETRY, T);
        let mut disk = Box::new([0; delta::RECORD_BYTES]);
        delta::encode_sector(&record, &HostBitmap::EMPTY, &mut disk[..]);
        let machine = Machine {
            core: None,
            flights: Vec::new(),
            frozen: false,
            expire_s: None,
            registering: false,
            holds: false,
            generation: 0,
            starts_left: self.starts,
            doubt: false,
        };
        vec![World {
            now: DAWN,
            disk,
            machines: vec![machine; self.machines],
            freezes_left: self.freezes,
            hangs_left: self.hangs,
            failures_left: self.failures,
            highest: 0,
            take_overs: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        let mut busy = false;
        for (index, machine) in state.machines.iter().enumerate() {
            for (number, flight) in machine.flights.iter().enumerate() {
                let over = matches!(flight.what, What::Seen(_) | What::Written | What::TooLate);
                if !over {
                    // The disk does not know that a machine is frozen; but a
                    // request that has not left it stays there.
                    if !machine.frozen || flight.hangs {
                        actions.push(Action::Effect(index, number));
                        busy |= !flight.hangs;
                    }
                    if !machine.frozen && !flight.hangs && state.hangs_left > 0 {
                        actions.push(Action::Hang(index, number));
                    }
                } else if !machine.frozen {
                    actions.push(Action::Tell(index, number));
                    busy = true;
                }
                if !machine.frozen && !flight.hangs && state.failures_left > 0 {
                    actions.push(Action::Fail(index, number));
                }
            }
            if machine.frozen {
                actions.push(Action::Thaw(index));
                continue;
            }
            if machine.registering {
                actions.push(Action::Answer(index));
                busy = true;
            }
            if machine.is_due(state.now) {
                actions.push(Action::Tick(index));
                busy = true;
            }
            if machine.wants_start() {
                actions.push(Action::Start(index));
                busy = true;
            }
            if state.freezes_left > 0 && machine.core.is_some() {
                actions.push(Action::Freeze(index));
            }
        }
        if !busy {
            actions.push(Action::Wait);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut state = last.clone();
        match action {
            Action::Effect(index, number) => state.effect(index, number),
            Action::Tell(index, number) => state.tell(index, number, false),
            Action::Fail(index, number) => {
                state.failures_left -= 1;
                state.tell(index, number, true);
            }
            Action::Hang(index, number) => {
                state.hangs_left -= 1;
                let now = state.now;
                let flight = &mut state.machines[index].flights[number];
                if now > flight.not_after {
                    return None;
                }
                flight.hangs = true;
            }
            Action::Answer(index) => {
                state.machines[index].registering = false;
                state.input(index, Input::WatchdogRegistered(true));
            }
            Action::Tick(index) => state.input(index, Input::Tick),
            Action::Start(index) => {
                let machine = &mut state.machines[index];
                machine.starts_left -= 1;
                if machine.core.is_none() {
                    machine.core = Some(core(index, machine.doubt));
                }
                state.input(index, Input::Start(GEOMETRY));
            }
            Action::Freeze(index) => {
                state.freezes_left -= 1;
                state.machines[index].frozen = true;
            }
            Action::Thaw(index) => state.machines[index].frozen = false,
            Action::Wait => {
                let next = state.next_moment()?;
                state.now = state.now.max(next);
                for index in 0..state.machines.len() {
                    let fires = World::fires_at(&state.machines[index]);
                    if fires.is_some_and(|at| at <= state.now) {
                        state.reset(index);
                    }
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SOUND, |_, state: &World| state.broken.is_none()),
            Property::sometimes("what is wanted is possible", |model: &Self, state| {
                (model.goal)(state)
            }),
        ]
    }

    fn within_boundary(&self, state: &World) -> bool {
        state.now <= DAWN + self.horizon_s * S
    }
}

#[test]
fn two_machines_claim_a_free_host_id_and_two_requests_hang() {
    let model = Lockspace {
        machines: 2,
        freezes: 0,
        hangs: 2,
        failures: 0,
        starts: 2,
        horizon_s: 8,
        goal: |state| state.highest > 0 && state.hangs_left == 0,
    };
    explore(model, 219_023);
}

#[test]
fn a_request_fails_and_another_hangs() {
    let model = Lockspace {
        machines: 2,
        freezes: 0,
        hangs: 1,
        failures: 1,
        starts: 2,
        horizon_s: 9,
        goal: |state| state.highest > 0 && state.hangs_left == 0 && state.failures_left == 0,
    };
    explore(model, 221_140);
}

#[test]
fn a_machine_freezes_and_the_other_takes_over() {
    let model = Lockspace {
        machines: 2,
        freezes: 1,
        hangs: 0,
        failures: 0,
        starts: 2,
        horizon_s: 26,
        goal: |state| state.take_overs > 0 && state.freezes_left == 0,
    };
    explore(model, 290_505);
}

#[test]
fn a_machine_freezes_while_a_request_hangs() {
    let model = Lockspace {
        machines: 2,
        freezes: 1,
        hangs: 1,
        failures: 0,
        starts: 1,
        horizon_s: 7,
        goal: |state| state.highest > 0 && state.freezes_left == 0 && state.hangs_left == 0,
    };
    explore(model, 219_179);
}

#[test]
fn three_machines_claim_a_free_host_id() {
    let model = Lockspace {
        machines: 3,
        freezes: 0,
        hangs: 0,
        failures: 0,
        starts: 1,
        horizon_s: 5,
        goal: |state| state.highest > 0,
    };
    explore(model, 2_473);
}
