//! Hosts, the disks of one resource, one lockspace and a clock, in memory.
//!
//! Stories drive each host's operation step by step: [`World::step`] does one
//! I/O of one host, at once and whole; a test that wants a write to be late,
//! lost or told as failed takes it with [`World::take`] and does it later, or
//! not at all.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use disk_format::{
    Dblock, Generation, Geometry, HostBitmap, HostId, Leader, LockspaceName, ModeBlock,
    ResourceName, delta, paxos,
};
use lease::resource::{
    Acquire, AcquireOptions, Convert, ConvertOptions, Effect, Held, Input, Observed, Operation,
    Outcome, Owners, Place, Release, ReleaseOptions, Target, Us,
};
use lease::{Code, IoId, IoOutcome, Monotonic, Now};

pub const S: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;
pub const EIO: i32 = 5;
/// T and W of every story that does not say otherwise.
pub const T: u8 = 2;
pub const W: u32 = 60;

pub fn id(number: u64) -> HostId {
    HostId::new(number).expect("valid")
}

pub fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("valid")
}

/// What our monitoring knows: filled by [`World::look`].
#[derive(Debug, Clone, Default)]
pub struct Monitor {
    pub joined: bool,
    pub seen: BTreeMap<HostId, Observed>,
}

impl Owners for Monitor {
    fn observed(&self, _: &LockspaceName, host: HostId) -> Option<Observed> {
        self.seen.get(&host).copied()
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        self.joined
    }
}

/// One I/O that reached a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub host: usize,
    pub write: bool,
    pub place: Place,
    pub offset: u64,
    pub bytes: u32,
}

pub struct Host {
    pub us: Us,
    pub op: Option<Box<dyn Operation>>,
    pub queue: VecDeque<Effect>,
    pub monitor: Monitor,
}

pub struct World {
    pub now: u64,
    pub geometry: Geometry,
    pub target: Target,
    pub disks: Vec<Vec<u8>>,
    pub deltas: BTreeMap<HostId, Vec<u8>>,
    pub hosts: Vec<Host>,
    pub done: RefCell<Vec<Done>>,
}

impl World {
    /// A freshly initialised resource for `num_hosts` hosts on one disk.
    pub fn new(geometry: Geometry, num_hosts: u32) -> Self {
        Self::named(geometry, num_hosts, "R1", 1)
    }

    pub fn named(geometry: Geometry, num_hosts: u32, name: &str, disks: u8) -> Self {
        let resource = ResourceName::new(name).expect("valid");
        let size = usize::try_from(geometry.align_size()).expect("fits");
        let mut area = vec![0; size];
        let leader = paxos::initial(lockspace().field(), resource.field(), geometry, num_hosts);
        paxos::fill_initial(&leader, geometry, 0, &mut area);
        Self {
            now: 2419 * S,
            geometry,
            target: Target {
                lockspace: lockspace(),
                resource,
                geometry,
                disks,
            },
            disks: vec![area; usize::from(disks)],
            deltas: BTreeMap::new(),
            hosts: Vec::new(),
            done: RefCell::default(),
        }
    }

    /// Host ids 1 to `count`, generation 1, each with a delta lease.
    pub fn with_hosts(mut self, count: u64) -> Self {
        for number in 1..=count {
            self.join(number, 1);
        }
        self.look();
        self
    }

    pub fn join(&mut self, number: u64, generation: u64) -> usize {
        self.hosts.push(Host {
            us: Us {
                host_id: id(number),
                generation: Generation(generation),
                io_timeout_s: T,
                fire_timeout_s: W,
            },
            op: None,
            queue: VecDeque::new(),
            monitor: Monitor {
                joined: true,
                ..Monitor::default()
            },
        });
        self.renew(number, generation);
        self.hosts.len() - 1
    }

    fn set_delta(&mut self, number: u64, generation: u64, timestamp: u64) {
        let record = Leader {
            owner_id: number,
            owner_generation: generation,
            timestamp,
            ..delta::initial(&lockspace(), self.target.geometry, T)
        };
        let mut sector = vec![0; self.target.geometry.sector_bytes()];
        delta::encode_sector(&record.sealed(), &HostBitmap::EMPTY, &mut sector);
        self.deltas.insert(id(number), sector);
    }

    /// A renewal of a host's delta lease.
    pub fn renew(&mut self, number: u64, generation: u64) {
        self.set_delta(number, generation, self.now / S);
    }

    pub fn free_delta(&mut self, number: u64, generation: u64) {
        self.set_delta(number, generation, 0);
    }

    /// Every host's monitoring reads the whole lockspace.
    pub fn look(&mut self) {
        for host in 0..self.hosts.len() {
            self.look_of(host);
        }
    }

    /// One host's monitoring reads the whole lockspace.
    pub fn look_of(&mut self, host: usize) {
        let now = Monotonic(self.now);
        {
            let host = &mut self.hosts[host];
            for (number, sector) in &self.deltas {
                let record = delta::leader(sector).expect("long enough");
                let seen = host.monitor.seen.entry(*number).or_insert(Observed {
                    owner_id: 0,
                    generation: Generation(0),
                    timestamp: 0,
                    io_timeout_s: 0,
                    first_check: Some(now),
                    last_check: None,
                    last_asked: None,
                    last_live: None,
                    damaged: false,
                });
                seen.last_check = Some(now);
                seen.last_asked = Some(now);
                let new = (
                    record.owner_id,
                    Generation(record.owner_generation),
                    record.timestamp,
                );
                if new != (seen.owner_id, seen.generation, seen.timestamp) {
                    (seen.owner_id, seen.generation, seen.timestamp) = new;
                    seen.io_timeout_s = T;
                    seen.last_live = Some(now);
                }
            }
        }
    }

    pub fn clock(&self) -> Now {
        Now {
            monotonic: Monotonic(self.now),
            boottime: Monotonic(self.now),
        }
    }

    pub fn input(&mut self, host: usize, input: Input<'_>) {
        let now = self.clock();
        let host = &mut self.hosts[host];
        let op = host.op.as_mut().expect("an operation runs");
        op.handle(now, input, &host.monitor);
        while let Some(effect) = op.next_effect() {
            host.queue.push_back(effect);
        }
    }

    pub fn begin(&mut self, host: usize, op: impl Operation + 'static) {
        self.hosts[host].queue.clear();
        self.hosts[host].op = Some(Box::new(op));
        self.input(host, Input::Start);
    }

    pub fn acquire(&mut self, host: usize, options: AcquireOptions) {
        let seed = 77 + u64::try_from(host).expect("small");
        let op = Acquire::new(self.hosts[host].us, self.target, options, seed);
        self.begin(host, op);
    }

    pub fn release(&mut self, host: usize, held: &Held, options: ReleaseOptions) {
        let op = Release::new(self.hosts[host].us, self.target, held, options);
        self.begin(host, op);
    }

    pub fn convert(&mut self, host: usize, held: &Held, options: ConvertOptions) {
        let op = Convert::new(self.hosts[host].us, self.target, held, options, 5);
        self.begin(host, op);
    }

    /// Takes a host's next I/O out of its queue.
    pub fn take(&mut self, host: usize) -> Effect {
        self.hosts[host]
            .queue
            .pop_front()
            .expect("an I/O is asked for")
    }

    pub fn has_io(&self, host: usize) -> bool {
        !self.hosts[host].queue.is_empty()
    }

    /// Lets an I/O take effect; gives what a read saw.
    pub fn land(&mut self, host: usize, effect: &Effect) -> Option<Vec<u8>> {
        let (write, place, offset, bytes) = match *effect {
            Effect::Read {
                place,
                offset,
                bytes,
                ..
            } => (false, place, offset, bytes),
            Effect::Write {
                place,
                offset,
                sector,
                ..
            } => (true, place, offset, sector),
        };
        self.done.borrow_mut().push(Done {
            host,
            write,
            place,
            offset,
            bytes,
        });
        let start = usize::try_from(offset).expect("fits");
        let end = start + usize::try_from(bytes).expect("fits");
        let device = match place {
            Place::Disk(disk) => &mut self.disks[usize::from(disk)],
            Place::OwnerDelta { host_id, .. } => self
                .deltas
                .get_mut(&host_id)
                .expect("a sector for every host"),
        };
        // A lease value block may lie outside; the device goes on there.
        if device.len() < end {
            device.resize(end, 0);
        }
        match effect {
            Effect::Read { .. } => Some(device[start..end].to_vec()),
            Effect::Write { content, .. } => {
                content.fill(&mut device[start..end]);
                None
            }
        }
    }

    pub fn told(&mut self, host: usize, io: IoId, seen: Option<&[u8]>) {
        let outcome = seen.map_or(IoOutcome::Written, IoOutcome::Read);
        self.input(host, Input::Io(io, outcome));
    }

    pub fn fail(&mut self, host: usize, effect: &Effect) {
        self.input(host, Input::Io(effect.io(), IoOutcome::Failed(EIO)));
    }

    /// Does a host's next I/O.
    pub fn step(&mut self, host: usize) -> Effect {
        let effect = self.take(host);
        self.finish(host, &effect);
        effect
    }

    /// Does an I/O and tells its outcome.
    pub fn finish(&mut self, host: usize, effect: &Effect) {
        let seen = self.land(host, effect);
        self.told(host, effect.io(), seen.as_deref());
    }

    /// Steps until the next I/O is this kind of write.
    pub fn step_to(&mut self, host: usize, wanted: Next) {
        for _ in 0..100 {
            let next = self.hosts[host].queue.front().expect("an I/O is asked for");
            if self.kind(host, next) == wanted {
                return;
            }
            self.step(host);
        }
        panic!("no {wanted:?} within 100 steps");
    }

    pub fn kind(&self, host: usize, effect: &Effect) -> Next {
        let sector = u64::from(self.geometry.sector_size());
        let own = u64::from(paxos::host_sector(self.hosts[host].us.host_id)) * sector;
        match effect {
            Effect::Read { .. } => Next::Read,
            Effect::Write { offset: 0, .. } => Next::WriteLeader,
            Effect::Write {
                offset, content, ..
            } if *offset == own => {
                let mut bytes = [0; 512];
                content.fill(&mut bytes);
                let dblock = Dblock::decode(&bytes).expect("long enough");
                if dblock.bal == 0 {
                    Next::WritePhase1
                } else if dblock.is_released() {
                    Next::WriteReleased
                } else {
                    Next::WritePhase2
                }
            }
            Effect::Write { .. } => Next::WriteOther,
        }
    }

    /// Lets time pass to the operation's own deadline if nothing is to do.
    pub fn wait(&mut self, host: usize) {
        let op = self.hosts[host].op.as_ref().expect("an operation runs");
        let due = op.deadline().expect("it waits for something");
        self.now = self.now.max(due.0);
        self.input(host, Input::Tick);
    }

    /// Runs one host's operation to its result, all else standing still.
    pub fn run(&mut self, host: usize) -> Outcome {
        for _ in 0..1000 {
            if let Some(outcome) = self.result(host) {
                return outcome;
            }
            if self.has_io(host) {
                self.step(host);
            } else {
                self.wait(host);
            }
        }
        panic!("no result within 1000 steps");
    }

    /// Runs one host's operation until it can no longer change the disk.
    pub fn drain(&mut self, host: usize) -> Outcome {
        for _ in 0..1000 {
            if self.op(host).is_drained() {
                return self.result(host).expect("drained means ended");
            }
            if self.has_io(host) {
                self.step(host);
            } else {
                self.wait(host);
            }
        }
        panic!("not drained within 1000 steps");
    }

    pub fn op(&self, host: usize) -> &dyn Operation {
        self.hosts[host].op.as_deref().expect("an operation runs")
    }

    pub fn result(&self, host: usize) -> Option<Outcome> {
        self.op(host).result().cloned()
    }

    pub fn code(&self, host: usize) -> Option<Code> {
        self.result(host).map(|outcome| outcome.code)
    }

    /// Acquires and asserts success.
    pub fn hold(&mut self, host: usize, shared: bool) -> Held {
        self.acquire(host, options(shared));
        let outcome = self.drain(host);
        assert_eq!(outcome.code, Code::OK);
        outcome.held.expect("held after success")
    }

    pub fn leader(&self) -> Leader {
        paxos::leader(&self.disks[0]).expect("long enough")
    }

    pub fn own(&self, number: u64) -> (Dblock, ModeBlock) {
        paxos::Area::new(&self.disks[0], self.geometry)
            .host(id(number))
            .expect("inside the area")
    }

    /// The I/Os since the last call, as the specification writes them.
    pub fn ios(&self) -> Vec<String> {
        let sector = u64::from(self.geometry.sector_size());
        let area = u64::from(self.geometry.align_size());
        self.done
            .borrow_mut()
            .drain(..)
            .map(|io| {
                let kind = if io.write { "W" } else { "R" };
                let size = match u64::from(io.bytes) {
                    bytes if bytes == area => "area".to_owned(),
                    bytes if bytes == sector => "1".to_owned(),
                    bytes => (bytes / sector).to_string(),
                };
                match io.place {
                    Place::OwnerDelta { host_id, .. } => format!("{kind} {size} delta {host_id}"),
                    Place::Disk(0) => format!("{kind} {size} @{}", io.offset / sector),
                    Place::Disk(disk) => {
                        format!("{kind} {size} @{} disk {disk}", io.offset / sector)
                    }
                }
            })
            .collect()
    }
}

/// What an I/O is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Read,
    WritePhase1,
    WritePhase2,
    WriteReleased,
    WriteLeader,
    WriteOther,
}

pub fn options(shared: bool) -> AcquireOptions {
    AcquireOptions {
        shared,
        ..AcquireOptions::default()
    }
}
