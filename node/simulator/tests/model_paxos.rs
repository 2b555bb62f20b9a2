//! Every interleaving of a few hosts on one resource: the real cores, walked
//! through by stateright.
//!
//! A host is a core and its requests. A request takes effect and is told in
//! two steps, at any time; a write may be told as failed whether it took
//! effect or not, as often as the model allows. Time is each host's own: it
//! only moves when a host has nothing else to do, to its next deadline, so no
//! two hosts' clocks agree on anything. A host may die at any moment, with
//! what it had in flight; from then on the others see it dead.
#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;

use disk_format::{
    Generation, Geometry, HostBitmap, HostId, Leader, LockspaceName, ResourceName, delta, paxos,
};
use lease::code::Code;
use lease::resource::{
    Acquire, AcquireOptions, Effect, Held, Input, Observed, Operation, Owners, Place, Release,
    ReleaseOptions, Target, Us,
};
use lease::{IoId, IoOutcome, Monotonic, Now};
use stateright::{Checker, Model, Property};

const GEOMETRY: Geometry = Geometry::Sector512Align1M;
const SECTOR: usize = 512;
/// When all clocks begin: long after everybody was last seen.
const DAWN: u64 = 10_000_000_000_000;

/// What a host does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wish {
    Exclusive,
    Shared,
    /// Gives back what it holds, if anything.
    GiveBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Op {
    None,
    Acquire(Acquire),
    Release(Release),
}

impl Op {
    fn get(&mut self) -> Option<&mut dyn Operation> {
        match self {
            Self::None => None,
            Self::Acquire(op) => Some(op),
            Self::Release(op) => Some(op),
        }
    }

    fn look(&self) -> Option<&dyn Operation> {
        match self {
            Self::None => None,
            Self::Acquire(op) => Some(op),
            Self::Release(op) => Some(op),
        }
    }
}

/// A request in flight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    io: IoId,
    sector: usize,
    /// Bytes to read, or to write.
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    /// So many sectors.
    Read(usize),
    /// A host's record in the lockspace.
    ReadHost(u16),
    /// A read that has taken effect.
    Seen(Vec<u8>),
    Write(Vec<u8>),
    /// A write that has taken effect.
    Written,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Host {
    now: u64,
    op: Op,
    told: bool,
    wish: usize,
    flights: Vec<Flight>,
    held: Option<Held2>,
    alive: bool,
    ios: u32,
}

/// What is held, hashable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held2(Held);

impl std::hash::Hash for Held2 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.leader.encode().hash(state);
        self.0.dblock.encode().hash(state);
        self.0.shared.hash(state);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// Leader, request, hosts.
    disk: Vec<Vec<u8>>,
    hosts: Vec<Host>,
    /// Owner of each version ever committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// Versions granted exclusively.
    granted: Vec<u64>,
    failures_left: u8,
    deaths_left: u8,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// A request takes effect.
    Effect(usize, usize),
    /// It is told.
    Tell(usize, usize),
    /// A request is told as failed, having taken effect or not.
    Fail(usize, usize),
    /// A host's time moves to its deadline.
    Wait(usize),
    /// A host does what it wants next.
    Next(usize),
    /// A host dies.
    Die(usize),
}

/// A small world.
struct Paxos {
    wishes: Vec<Vec<Wish>>,
    failures: u8,
    deaths: u8,
    /// Most requests of one host: ballots could be lost for ever.
    ios_max: u32,
    /// What must be possible.
    goal: fn(&World) -> bool,
}

struct View<'a>(&'a [bool]);

impl Owners for View<'_> {
    fn observed(&self, _: &LockspaceName, host: HostId) -> Option<Observed> {
        let alive = *self.0.get(host.index())?;
        let live = if alive { DAWN } else { 1 };
        Some(Observed {
            owner_id: u64::from(host.get()),
            generation: Generation(1),
            timestamp: 1,
            io_timeout_s: 1,
            first_check: Some(Monotonic(1)),
            last_check: Some(Monotonic(DAWN)),
            last_asked: Some(Monotonic(DAWN)),
            last_live: Some(Monotonic(live)),
            damaged: false,
        })
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        true
    }
}

fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("a name")
}

fn target() -> Target {
    Target {
        lockspace: lockspace(),
        resource: ResourceName::new("R").expect("a name"),
        geometry: GEOMETRY,
        disks: 1,
    }
}

fn host_id(index: usize) -> HostId {
    HostId::from_index(index).expect("a host id")
}

fn us(index: usize) -> Us {
    Us {
        host_id: host_id(index),
        generation: Generation(1),
        io_timeout_s: 1,
        fire_timeout_s: 8,
    }
}

/// A host's record: its clock moves as long as it lives.
fn delta_record(index: usize, alive: bool) -> Vec<u8> {
    let leader = Leader {
        owner_id: u64::from(host_id(index).get()),
        owner_generation: 1,
        timestamp: if alive { 2 } else { 1 },
        ..delta::initial(&lockspace(), GEOMETRY, 1)
    }
    .sealed();
    let mut sector = vec![0; SECTOR];
    delta::encode_sector(&leader, &HostBitmap::EMPTY, &mut sector);
    sector
}

impl Paxos {
    fn initial(&self) -> World {
        let hosts = self.wishes.len();
        let name = target().resource;
        let count = u32::try_from(hosts).expect("few");
        let leader = paxos::initial(lockspace().field(), name.field(), GEOMETRY, count);
        let mut area = vec![0; (hosts + 2) * SECTOR];
        paxos::fill_initial(&leader, GEOMETRY, 0, &mut area);
        let host = Host {
            now: DAWN,
            op: Op::None,
            told: false,
            wish: 0,
            flights: Vec::new(),
            held: None,
            alive: true,
            ios: 0,
        };
        World {
            disk: area.chunks(SECTOR).map(trimmed).collect(),
            hosts: vec![host; hosts],
            committed: BTreeMap::new(),
            granted: Vec::new(),
            failures_left: self.failures,
            deaths_left: self.deaths,
            broken: None,
        }
    }
}

/// Without the zeros at the end.
fn trimmed(sector: &[u8]) -> Vec<u8> {
    let length = sector.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    sector[..length].to_vec()
}

impl World {
    /// Gives a host's operation an input, and takes its requests and result.
    fn input(&mut self, index: usize, input: Input<'_>) {
        let alive: Vec<bool> = self.hosts.iter().map(|host| host.alive).collect();
        let host = &mut self.hosts[index];
        let now = Now {
            monotonic: Monotonic(host.now),
            boottime: Monotonic(host.now),
        };
        let Some(op) = host.op.get() else {
            return;
        };
        op.handle(now, input, &View(&alive));
        let mut asked = Vec::new();
        while let Some(effect) = op.next_effect() {
            asked.push(effect);
        }
        let outcome = op.result().filter(|_| !host.told).cloned();
        let drained = op.is_drained();
        for effect in asked {
            host.ios += 1;
            let flight = flight(effect);
            let doubtful = host.flights.iter().any(|other| {
                flight.is_write() && other.is_write() && other.sector == flight.sector
            });
            if doubtful {
                self.broken.get_or_insert("a write follows one in flight to the same sector");
            }
            host.flights.push(flight);
        }
        if let Some(outcome) = outcome {
            host.told = true;
            if outcome.code == Code::OK && matches!(host.op, Op::Acquire(_)) {
                let held = outcome.held.expect("success means something is held");
                self.grant(index, held);
            }
        }
        let host = &mut self.hosts[index];
        if drained && host.told {
            host.op = Op::None;
            // What it still asked for was a read whose answer nobody needs.
            host.flights.retain(Flight::is_write);
        }
    }

    fn grant(&mut self, index: usize, held: Held) {
        let others = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(number, host)| *number != index && host.alive)
            .filter_map(|(_, host)| host.held.as_ref());
        for other in others {
            if !(other.0.shared && held.shared) {
                self.broken.get_or_insert("two holders");
            }
        }
        if !held.shared {
            if self.granted.contains(&held.lver()) {
                self.broken.get_or_insert("a version is granted twice");
            }
            self.granted.push(held.lver());
            self.granted.sort_unstable();
        }
        self.hosts[index].held = Some(Held2(held));
    }

    fn land(&mut self, sector: usize, bytes: &[u8]) {
        if sector == 0 {
            let leader = paxos::leader(&padded(bytes)).expect("whole");
            let owner = (leader.owner_id, leader.owner_generation);
            if *self.committed.entry(leader.lver).or_insert(owner) != owner {
                self.broken.get_or_insert("a version has two owners");
            }
        }
        self.disk[sector] = trimmed(bytes);
    }

    /// The request of a host takes effect.
    fn effect(&mut self, index: usize, number: usize) {
        let flight = self.hosts[index].flights[number].clone();
        let after = match flight.what {
            What::Read(sectors) => What::Seen(
                (flight.sector..flight.sector + sectors)
                    .flat_map(|sector| {
                        self.disk.get(sector).map_or_else(|| vec![0; SECTOR], |bytes| padded(bytes))
                    })
                    .collect(),
            ),
            What::ReadHost(host) => {
                let owner = usize::from(host) - 1;
                What::Seen(delta_record(owner, self.hosts[owner].alive))
            }
            What::Write(bytes) => {
                self.land(flight.sector, &bytes);
                What::Written
            }
            done @ (What::Seen(_) | What::Written) => done,
        };
        self.hosts[index].flights[number].what = after;
    }

    fn tell(&mut self, index: usize, number: usize, fails: bool) {
        let flight = self.hosts[index].flights.remove(number);
        let outcome = match &flight.what {
            _ if fails => IoOutcome::Failed(5),
            What::Seen(bytes) => IoOutcome::Read(bytes),
            _ => IoOutcome::Written,
        };
        self.input(index, Input::Io(flight.io, outcome));
    }

    fn next(&mut self, index: usize, wish: Wish) {
        let host = &mut self.hosts[index];
        host.wish += 1;
        host.told = false;
        let acquire = |shared| {
            let options = AcquireOptions {
                shared,
                expected_hosts: Some(2),
                ..AcquireOptions::default()
            };
            let seed = u64::try_from(index).expect("few");
            Op::Acquire(Acquire::new(us(index), target(), options, seed))
        };
        host.op = match wish {
            Wish::Exclusive => acquire(false),
            Wish::Shared => acquire(true),
            Wish::GiveBack => match host.held.take() {
                Some(held) => Op::Release(Release::new(
                    us(index),
                    target(),
                    &held.0,
                    ReleaseOptions::default(),
                )),
                None => Op::None,
            },
        };
        self.input(index, Input::Start);
    }
}

impl Flight {
    fn is_write(&self) -> bool {
        matches!(self.what, What::Write(_) | What::Written)
    }

    fn is_over(&self) -> bool {
        matches!(self.what, What::Seen(_) | What::Written)
    }
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut sector = bytes.to_vec();
    sector.resize(SECTOR, 0);
    sector
}

fn flight(effect: Effect) -> Flight {
    let sector = |offset: u64| usize::try_from(offset).expect("small") / SECTOR;
    match effect {
        Effect::Read {
            io,
            place: Place::Disk(_),
            offset,
            bytes,
        } => Flight {
            io,
            sector: sector(offset),
            what: What::Read(usize::try_from(bytes).expect("small") / SECTOR),
        },
        Effect::Read {
            io,
            place: Place::OwnerDelta { host_id, .. },
            ..
        } => Flight {
            io,
            sector: usize::MAX,
            what: What::ReadHost(host_id.get()),
        },
        Effect::Write {
            io,
            offset,
            content,
            ..
        } => Flight {
            io,
            sector: sector(offset),
            what: What::Write(content.as_slice().to_vec()),
        },
    }
}

impl Model for Paxos {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.initial()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        for (index, host) in state.hosts.iter().enumerate() {
            if !host.alive {
                continue;
            }
            for (number, flight) in host.flights.iter().enumerate() {
                actions.push(if flight.is_over() {
                    Action::Tell(index, number)
                } else {
                    Action::Effect(index, number)
                });
                // Only of a write is it of interest whether it took effect.
                if state.failures_left > 0 && flight.is_write() {
                    actions.push(Action::Fail(index, number));
                }
            }
            let idle = host.flights.is_empty();
            match host.op.look() {
                None => {
                    if host.wish < self.wishes[index].len() {
                        actions.push(Action::Next(index));
                    }
                }
                Some(op) => {
                    if idle && op.deadline().is_some() {
                        actions.push(Action::Wait(index));
                    }
                }
            }
            if state.deaths_left > 0 {
                actions.push(Action::Die(index));
            }
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
            Action::Wait(index) => {
                let due = state.hosts[index].op.look()?.deadline()?;
                let host = &mut state.hosts[index];
                host.now = host.now.max(due.0);
                state.input(index, Input::Tick);
            }
            Action::Next(index) => {
                let wish = *self.wishes[index].get(state.hosts[index].wish)?;
                state.next(index, wish);
            }
            Action::Die(index) => {
                state.deaths_left -= 1;
                let host = &mut state.hosts[index];
                host.alive = false;
                host.op = Op::None;
                host.flights.clear();
                host.held = None;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is broken", |_, state: &World| {
                state.broken.is_none()
            }),
            Property::sometimes("what is wanted is possible", |model: &Self, state| {
                (model.goal)(state)
            }),
        ]
    }

    fn within_boundary(&self, state: &World) -> bool {
        state.hosts.iter().all(|host| host.ios <= self.ios_max)
    }
}

fn explore(model: Paxos, states: usize) {
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
    assert_eq!(checker.unique_state_count(), states, "states");
}

use Wish::{Exclusive, GiveBack, Shared};

#[test]
fn two_hosts_take_turns() {
    let model = Paxos {
        wishes: vec![vec![Exclusive, GiveBack], vec![Exclusive, GiveBack]],
        failures: 0,
        deaths: 0,
        ios_max: 12,
        goal: |state| state.granted.len() == 2,
    };
    explore(model, 0);
}

#[test]
fn two_hosts_contend_and_a_write_is_in_doubt() {
    let model = Paxos {
        wishes: vec![vec![Exclusive], vec![Exclusive]],
        failures: 1,
        deaths: 0,
        ios_max: 12,
        goal: |state| state.failures_left == 0 && state.granted.len() == 1,
    };
    explore(model, 0);
}

#[test]
fn a_host_takes_over_from_a_dead_one() {
    let model = Paxos {
        wishes: vec![vec![Exclusive], vec![Exclusive]],
        failures: 0,
        deaths: 1,
        ios_max: 16,
        goal: |state| state.deaths_left == 0 && state.granted.len() == 2,
    };
    explore(model, 0);
}

#[test]
fn a_shared_holder_keeps_an_exclusive_one_out() {
    let model = Paxos {
        wishes: vec![vec![Shared, GiveBack], vec![Exclusive]],
        failures: 0,
        deaths: 0,
        ios_max: 14,
        goal: |state| state.hosts[0].wish == 2 && state.granted.len() == 1,
    };
    explore(model, 0);
}

#[test]
fn two_hosts_share() {
    let model = Paxos {
        wishes: vec![vec![Shared], vec![Shared]],
        failures: 0,
        deaths: 0,
        ios_max: 16,
        goal: |state| state.hosts.iter().all(|host| host.held.is_some()),
    };
    explore(model, 0);
}

#[test]
fn three_hosts_contend() {
    let model = Paxos {
        wishes: vec![vec![Exclusive], vec![Exclusive], vec![Exclusive]],
        failures: 0,
        deaths: 0,
        ios_max: 7,
        goal: |state| state.granted.len() == 1,
    };
    explore(model, 0);
}
