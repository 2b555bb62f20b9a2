//! A few hosts, each a real core and its requests, and one resource.

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

use super::explore::Judged;

pub(crate) const GEOMETRY: Geometry = Geometry::Sector512Align1M;
pub(crate) const SECTOR: usize = 512;
/// When all clocks begin: long after everybody was last seen.
pub(crate) const DAWN: u64 = 10_000_000_000_000;

/// What a host does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wish {
    Exclusive,
    Shared,
    /// Gives back what it holds, if anything.
    GiveBack,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a handful of them, cloned with the state they are in"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    None,
    Acquire(Acquire),
    Release(Release),
}

impl Op {
    pub(crate) fn get(&mut self) -> Option<&mut dyn Operation> {
        match self {
            Self::None => None,
            Self::Acquire(op) => Some(op),
            Self::Release(op) => Some(op),
        }
    }

    pub(crate) fn look(&self) -> Option<&dyn Operation> {
        match self {
            Self::None => None,
            Self::Acquire(op) => Some(op),
            Self::Release(op) => Some(op),
        }
    }
}

/// A request in flight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub(crate) io: IoId,
    pub(crate) sector: usize,
    /// Bytes to read, or to write.
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum What {
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
pub(crate) struct Host {
    pub(crate) now: u64,
    pub(crate) op: Op,
    pub(crate) told: bool,
    pub(crate) wish: usize,
    pub(crate) flights: Vec<Flight>,
    pub(crate) held: Option<Held2>,
    pub(crate) alive: bool,
    pub(crate) ios: u32,
}

/// What is held, hashable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held2(pub(crate) Held);

impl std::hash::Hash for Held2 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.leader.encode().hash(state);
        self.0.dblock.encode().hash(state);
        self.0.shared.hash(state);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// Leader, request, hosts.
    pub(crate) disk: Vec<Vec<u8>>,
    pub(crate) hosts: Vec<Host>,
    /// Owner of each version ever committed.
    pub(crate) committed: BTreeMap<u64, (u64, u64)>,
    /// Versions granted exclusively.
    pub(crate) granted: Vec<u64>,
    pub(crate) failures_left: u8,
    pub(crate) deaths_left: u8,
    pub(crate) broken: Option<&'static str>,
}

impl Judged for World {
    fn broken(&self) -> Option<&'static str> {
        self.broken
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
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
pub(crate) struct Paxos {
    pub(crate) wishes: Vec<Vec<Wish>>,
    pub(crate) failures: u8,
    pub(crate) deaths: u8,
    /// Most requests of one host: ballots could be lost for ever.
    pub(crate) ios_max: u32,
    /// What must be possible.
    pub(crate) goal: fn(&World) -> bool,
}

pub(crate) struct View<'a>(&'a [bool]);

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

pub(crate) fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("a name")
}

pub(crate) fn target() -> Target {
    Target {
        lockspace: lockspace(),
        resource: ResourceName::new("R").expect("a name"),
        geometry: GEOMETRY,
        disks: 1,
    }
}

pub(crate) fn host_id(index: usize) -> HostId {
    HostId::from_index(index).expect("a host id")
}

pub(crate) fn us(index: usize) -> Us {
    Us {
        host_id: host_id(index),
        generation: Generation(1),
        io_timeout_s: 1,
        fire_timeout_s: 8,
    }
}

/// A host's record: its clock moves as long as it lives.
pub(crate) fn delta_record(index: usize, alive: bool) -> Vec<u8> {
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
    pub(crate) fn initial(&self) -> World {
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
pub(crate) fn trimmed(sector: &[u8]) -> Vec<u8> {
    let length = sector
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    sector[..length].to_vec()
}

impl World {
    /// Gives a host's operation an input, and takes its requests and result.
    pub(crate) fn input(&mut self, index: usize, input: Input<'_>) {
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
                self.broken
                    .get_or_insert("a write follows one in flight to the same sector");
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
    pub(crate) fn effect(&mut self, index: usize, number: usize) {
        let flight = self.hosts[index].flights[number].clone();
        let after = match flight.what {
            What::Read(sectors) => What::Seen(
                (flight.sector..flight.sector + sectors)
                    .flat_map(|sector| {
                        self.disk
                            .get(sector)
                            .map_or_else(|| vec![0; SECTOR], |bytes| padded(bytes))
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

    pub(crate) fn tell(&mut self, index: usize, number: usize, fails: bool) {
        let flight = self.hosts[index].flights.remove(number);
        let outcome = match &flight.what {
            _ if fails => IoOutcome::Failed(5),
            What::Seen(bytes) => IoOutcome::Read(bytes),
            _ => IoOutcome::Written,
        };
        self.input(index, Input::Io(flight.io, outcome));
    }

    pub(crate) fn next(&mut self, index: usize, wish: Wish) {
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
    pub(crate) fn is_write(&self) -> bool {
        matches!(self.what, What::Write(_) | What::Written)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.what, What::Seen(_) | What::Written)
    }
}

pub(crate) fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut sector = bytes.to_vec();
    sector.resize(SECTOR, 0);
    sector
}

pub(crate) fn flight(effect: Effect) -> Flight {
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
