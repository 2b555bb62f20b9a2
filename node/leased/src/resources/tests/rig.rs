//! Hosts in memory that share a disk.
//!
//! Every read and write is done at once and whole, unless the story holds it
//! back: then it lands, fails or vanishes when the story says so.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use disk_format::{
    Generation, Geometry, HostBitmap, HostId, Leader, LockspaceName, NameField, RequestRecord,
    ResourceName, delta, paxos,
};
use lease::code::Code;
use lease::resource::{Observed, Owners};
use lease::{IoOutcome, Monotonic, Now};
use sanlock_wire::{
    AcquireFlags, ConvertFlags, Disk, DiskPath, Release, ReplyBody, RequestFlags, Resource,
    ResourceFlags, RestrictFlags,
};

use super::super::{
    ClientId, Device, DiskIo, Effect, Ending, Input, IoToken, Patience, Process, ReplyTo,
    Resources, Settings, Signal, SpaceId, SpaceView,
};

pub(super) const S: u64 = 1_000_000_000;
/// T and W of every story.
pub(super) const T: u8 = 2;
pub(super) const W: u32 = 60;
pub(super) const MIB: u64 = 1 << 20;
const SPACE: &str = "space";

pub(super) fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").unwrap()
}

pub(super) fn host(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

/// Files by path, in sectors; what was never written is zero.
#[derive(Debug, Default)]
pub(super) struct Storage {
    sectors: BTreeMap<(String, u64), Vec<u8>>,
    sector: usize,
}

impl Storage {
    pub(super) fn read(&self, path: &str, offset: u64, bytes: u32) -> Vec<u8> {
        let size = u64::try_from(self.sector).unwrap();
        let mut all = vec![0; usize::try_from(bytes).unwrap()];
        assert!(offset.is_multiple_of(size) && all.len().is_multiple_of(self.sector));
        let first = offset / size;
        let last = first + u64::from(bytes) / size;
        let range = (path.to_string(), first)..(path.to_string(), last);
        for ((_, index), sector) in self.sectors.range(range) {
            let at = usize::try_from((index - first) * size).unwrap();
            all[at..at + self.sector].copy_from_slice(sector);
        }
        all
    }

    pub(super) fn write(&mut self, path: &str, offset: u64, content: &[u8]) {
        let size = u64::try_from(self.sector).unwrap();
        assert!(offset.is_multiple_of(size) && content.len() <= self.sector);
        let mut sector = vec![0; self.sector];
        sector[..content.len()].copy_from_slice(content);
        self.sectors
            .insert((path.to_string(), offset / size), sector);
    }
}

/// A read or write that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) token: IoToken,
    pub(super) path: String,
    pub(super) io: DiskIo,
}

impl Asked {
    pub(super) fn is_write(&self) -> bool {
        matches!(self.io, DiskIo::Write { .. })
    }

    pub(super) fn offset(&self) -> u64 {
        match self.io {
            DiskIo::Read { offset, .. } | DiskIo::Write { offset, .. } => offset,
        }
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct Monitor {
    pub(super) seen: BTreeMap<HostId, Observed>,
}

impl Owners for Monitor {
    fn observed(&self, _: &LockspaceName, host: HostId) -> Option<Observed> {
        self.seen.get(&host).copied()
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        true
    }
}

pub(super) type Rule = fn(&Asked) -> bool;

/// One host.
pub(super) struct Node {
    pub(super) number: u64,
    pub(super) geometry: Geometry,
    pub(super) leases: Resources,
    pub(super) storage: Rc<RefCell<Storage>>,
    pub(super) monitor: Monitor,
    pub(super) now: u64,
    /// What is held back.
    pub(super) hold: Option<Rule>,
    pub(super) held: VecDeque<Asked>,
    pub(super) done: Vec<Asked>,
    pub(super) replies: BTreeMap<ReplyTo, (Code, ReplyBody)>,
    pub(super) signals: Vec<(i32, Signal)>,
    pub(super) killpaths: Vec<(i32, Signal)>,
    pub(super) marked: Vec<HostId>,
    pub(super) log: Vec<String>,
    next_reply: u64,
}

pub(super) fn node() -> Node {
    Node::new(1, Geometry::Sector512Align1M, Rc::default())
}

impl Node {
    pub(super) fn new(number: u64, geometry: Geometry, storage: Rc<RefCell<Storage>>) -> Self {
        storage.borrow_mut().sector = geometry.sector_bytes();
        let mut node = Self {
            number,
            geometry,
            leases: Resources::new(Settings::default()),
            storage,
            monitor: Monitor::default(),
            now: 1000 * S,
            hold: None,
            held: VecDeque::new(),
            done: Vec::new(),
            replies: BTreeMap::new(),
            signals: Vec::new(),
            killpaths: Vec::new(),
            marked: Vec::new(),
            log: Vec::new(),
            next_reply: 0,
        };
        node.join(1);
        node
    }

    /// Another host of the same disk.
    pub(super) fn peer(&self, number: u64) -> Self {
        let mut peer = Self::new(number, self.geometry, Rc::clone(&self.storage));
        peer.now = self.now;
        peer
    }

    pub(super) fn join(&mut self, generation: u64) {
        let view = SpaceView {
            id: SpaceId(u32::try_from(generation).unwrap()),
            name: lockspace(),
            host_id: host(self.number),
            generation: Generation(generation),
            geometry: self.geometry,
            io_timeout_s: T,
            fire_timeout_s: W,
            offset: 0,
        };
        self.delta(self.number, generation, self.now / S);
        self.input(Input::SpaceJoined(view));
    }

    /// Writes a host's delta record and lets this host see it.
    pub(super) fn delta(&mut self, number: u64, generation: u64, timestamp: u64) {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        let leader = Leader {
            owner_id: number,
            owner_generation: generation,
            timestamp,
            ..delta::initial(&lockspace(), self.geometry, T)
        };
        delta::encode_sector(
            &leader.sealed(),
            &HostBitmap::EMPTY,
            &mut sector[..delta::RECORD_BYTES],
        );
        let offset = (number - 1) * u64::from(self.geometry.sector_size());
        self.storage.borrow_mut().write(SPACE, offset, &sector);
    }

    /// A look at another host that changed just now, or not.
    pub(super) fn see(&mut self, number: u64, generation: u64, timestamp: u64, live: u64) {
        let seen = Observed {
            owner_id: number,
            generation: Generation(generation),
            timestamp,
            io_timeout_s: T,
            first_check: Some(Monotonic(S)),
            last_check: Some(Monotonic(self.now)),
            last_asked: Some(Monotonic(self.now)),
            last_live: Some(Monotonic(live)),
            damaged: false,
        };
        self.monitor.seen.insert(host(number), seen);
        self.input(Input::HostsChanged(lockspace()));
    }

    /// Initialises a resource named `R<index>` at its place on file `disk`.
    pub(super) fn init(&self, index: u64) {
        self.init_as(index, self.geometry, 8);
    }

    pub(super) fn init_as(&self, index: u64, geometry: Geometry, num_hosts: u32) {
        let name = ResourceName::new(&format!("R{index}")).unwrap();
        let leader = paxos::initial(lockspace().field(), name.field(), geometry, num_hosts);
        let at = index * 8 * MIB;
        let mut storage = self.storage.borrow_mut();
        storage.write("disk", at, &leader.encode());
        let sector = u64::from(geometry.sector_size());
        storage.write("disk", at + sector, &RequestRecord::NONE.encode());
    }

    pub(super) fn leader(&self, index: u64) -> Leader {
        let size = self.geometry.sector_size();
        let sector = self.storage.borrow().read("disk", index * 8 * MIB, size);
        paxos::leader(&sector).unwrap()
    }

    pub(super) fn sector(&self, index: u64, number: u32) -> Vec<u8> {
        let size = self.geometry.sector_size();
        let at = index * 8 * MIB + u64::from(number) * u64::from(size);
        self.storage.borrow().read("disk", at, size)
    }

    pub(super) fn put_request(&self, index: u64, record: RequestRecord) {
        let at = index * 8 * MIB + u64::from(self.geometry.sector_size());
        self.storage
            .borrow_mut()
            .write("disk", at, &record.encode());
    }

    fn now(&self) -> Now {
        Now {
            monotonic: Monotonic(self.now),
            boottime: Monotonic(self.now),
        }
    }

    /// Hands something in and does everything that follows at once.
    pub(super) fn input(&mut self, input: Input<'_>) {
        self.leases.handle(self.now(), input, &self.monitor);
        self.run();
    }

    fn run(&mut self) {
        let mut asked = VecDeque::new();
        loop {
            while let Some(effect) = self.leases.next_effect() {
                self.effect(effect, &mut asked);
            }
            let Some(io) = asked.pop_front() else {
                return;
            };
            if self.hold.is_some_and(|hold| hold(&io)) {
                self.held.push_back(io);
            } else {
                self.carry_out(&io);
            }
        }
    }

    fn effect(&mut self, effect: Effect, asked: &mut VecDeque<Asked>) {
        match effect {
            Effect::Submit {
                token, device, io, ..
            } => {
                let path = match device {
                    Device::Disk(handle) => {
                        String::from_utf8(handle.disk().path.as_bytes().to_vec()).unwrap()
                    }
                    Device::Space(_) => SPACE.to_string(),
                };
                asked.push_back(Asked { token, path, io });
            }
            Effect::Reply { to, result, body } => {
                let before = self.replies.insert(to, (result, body));
                assert!(before.is_none(), "one answer for a command");
            }
            Effect::Signal { pid, signal, .. } => self.signals.push((pid, signal)),
            Effect::RunKillpath { pid, otherwise, .. } => self.killpaths.push((pid, otherwise)),
            Effect::MarkHost { host_id, .. } => self.marked.push(host_id),
            Effect::OperationEnded(_) => {}
            Effect::Log(line) => self.log.push(line.text),
        }
    }

    /// Does a read or write and tells so, without what follows.
    fn carry_out(&mut self, asked: &Asked) {
        self.done.push(asked.clone());
        match &asked.io {
            DiskIo::Read { offset, bytes } => {
                let content = self.storage.borrow().read(&asked.path, *offset, *bytes);
                let outcome = IoOutcome::Read(&content);
                self.leases
                    .handle(self.now(), Input::Io(asked.token, outcome), &self.monitor);
            }
            DiskIo::Write {
                offset, content, ..
            } => {
                self.storage
                    .borrow_mut()
                    .write(&asked.path, *offset, content.as_slice());
                let outcome = IoOutcome::Written;
                self.leases
                    .handle(self.now(), Input::Io(asked.token, outcome), &self.monitor);
            }
        }
    }

    /// Lets everything held back happen, in order.
    pub(super) fn land_all(&mut self) {
        self.hold = None;
        while let Some(asked) = self.held.pop_front() {
            self.carry_out(&asked);
            self.run();
        }
    }

    /// Lets one thing held back happen.
    pub(super) fn land(&mut self, index: usize) {
        if let Some(asked) = self.held.remove(index) {
            self.carry_out(&asked);
            self.run();
        }
    }

    /// Tells of one thing held back that it failed, although it may have
    /// happened.
    pub(super) fn fail(&mut self, index: usize, happened: bool) {
        let Some(asked) = self.held.remove(index) else {
            return;
        };
        if let DiskIo::Write {
            offset, content, ..
        } = &asked.io
            && happened
        {
            let mut storage = self.storage.borrow_mut();
            storage.write(&asked.path, *offset, content.as_slice());
        }
        self.input(Input::Io(asked.token, IoOutcome::Failed(5)));
    }

    /// Tells of the first thing held back that it failed.
    pub(super) fn fail_first(&mut self, number: i32) {
        let asked = self.held.pop_front().unwrap();
        self.input(Input::Io(asked.token, IoOutcome::Failed(number)));
    }

    /// Lets time pass, with every deadline on the way.
    pub(super) fn pass(&mut self, seconds: u64) {
        let until = self.now + seconds * S;
        for _ in 0..10_000 {
            match self.leases.deadline() {
                Some(due) if due.0 <= until => {
                    self.now = self.now.max(due.0);
                    self.input(Input::Tick);
                }
                _ => break,
            }
        }
        self.now = until;
        self.input(Input::Tick);
    }

    fn new_reply(&mut self) -> ReplyTo {
        self.next_reply += 1;
        ReplyTo(self.next_reply)
    }

    pub(super) fn acquire(&mut self, client: u64, names: &[&str]) -> ReplyTo {
        self.acquire_with(client, names, AcquireFlags::NONE)
    }

    pub(super) fn acquire_with(
        &mut self,
        client: u64,
        names: &[&str],
        flags: AcquireFlags,
    ) -> ReplyTo {
        self.acquire_as(process(client), names, flags, None)
    }

    pub(super) fn acquire_in_line(&mut self, client: u64, names: &[&str], seconds: u64) -> ReplyTo {
        let patience = Patience {
            until: Some(Monotonic(self.now + seconds * S)),
        };
        self.acquire_as(process(client), names, AcquireFlags::NONE, Some(patience))
    }

    pub(super) fn acquire_as(
        &mut self,
        process: Process,
        names: &[&str],
        flags: AcquireFlags,
        patience: Option<Patience>,
    ) -> ReplyTo {
        let reply = self.new_reply();
        self.input(Input::Acquire {
            reply,
            process,
            flags,
            resources: names.iter().map(|name| resource(name)).collect(),
            patience,
        });
        reply
    }

    pub(super) fn release(&mut self, client: u64, names: &[&str]) -> ReplyTo {
        self.release_what(
            client,
            &Release::Resources(names.iter().map(|name| resource(name)).collect()),
        )
    }

    pub(super) fn release_what(&mut self, client: u64, what: &Release) -> ReplyTo {
        let reply = self.new_reply();
        let client = ClientId(client);
        self.input(Input::Release {
            reply,
            client,
            what,
        });
        reply
    }

    pub(super) fn convert(&mut self, client: u64, name: &str) -> ReplyTo {
        let reply = self.new_reply();
        self.input(Input::Convert {
            reply,
            client: ClientId(client),
            flags: ConvertFlags::NONE,
            resource: &resource(name),
        });
        reply
    }

    pub(super) fn request(&mut self, name: &str, force_mode: u32) -> ReplyTo {
        let reply = self.new_reply();
        self.input(Input::Request {
            reply,
            flags: RequestFlags::NEXT_LVER,
            force_mode,
            resource: &resource(name),
        });
        reply
    }

    pub(super) fn examine(&mut self) {
        self.input(Input::Examine {
            reply: None,
            lockspace: *lockspace().field(),
            resource: None,
        });
    }

    pub(super) fn set_lvb(&mut self, name: &str, value: &[u8]) -> Code {
        let reply = self.new_reply();
        self.input(Input::SetLvb {
            reply,
            resource: &resource(name),
            value,
        });
        self.code(reply)
    }

    pub(super) fn get_lvb(&mut self, name: &str, wanted: u32) -> Result<Vec<u8>, Code> {
        let reply = self.new_reply();
        self.input(Input::GetLvb {
            reply,
            resource: &resource(name),
            wanted,
        });
        match self.replies.get(&reply).cloned() {
            Some((Code::OK, ReplyBody::Lvb(bytes))) => Ok(bytes),
            Some((code, _)) => Err(code),
            None => panic!("answered at once"),
        }
    }

    pub(super) fn inquire(&mut self, client: u64) -> String {
        let reply = self.new_reply();
        let client = ClientId(client);
        self.input(Input::Inquire { reply, client });
        match self.replies.get(&reply) {
            Some((Code::OK, ReplyBody::Inquiry { text, .. })) => {
                String::from_utf8(text.clone()).unwrap()
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(super) fn gone(&mut self, client: u64) {
        self.input(Input::ClientGone(ClientId(client)));
    }

    pub(super) fn dying(&mut self, ending: Ending) {
        self.input(Input::SpaceDying(lockspace(), ending));
    }

    /// The answer, which must have been given.
    pub(super) fn code(&self, reply: ReplyTo) -> Code {
        self.answer(reply)
            .unwrap_or_else(|| panic!("no answer; log: {:?}", self.log))
    }

    pub(super) fn answer(&self, reply: ReplyTo) -> Option<Code> {
        self.replies.get(&reply).map(|(code, _)| *code)
    }

    /// How many reads and writes were done since the last call.
    pub(super) fn ios(&mut self) -> usize {
        std::mem::take(&mut self.done).len()
    }

    pub(super) fn lists(&self) -> Vec<String> {
        self.leases
            .status()
            .iter()
            .map(|one| format!("{} {} {}", one.list.name(), one.resource, one.pid))
            .collect()
    }
}

pub(super) fn process(client: u64) -> Process {
    Process {
        client: ClientId(client),
        pid: i32::try_from(client).unwrap() + 1000,
        restricted: RestrictFlags::NONE,
    }
}

/// `R<index>`, then `:SH` shared, `:P` persistent, `@<lver>` only so, in that
/// order; on file `disk` at `index` × 8 MiB.
pub(super) fn resource(text: &str) -> Resource {
    let (text, lver) = match text.split_once('@') {
        Some((text, lver)) => (text, lver.parse().ok()),
        None => (text, None),
    };
    let mut words = text.split(':');
    let name = words.next().unwrap();
    let mut flags = ResourceFlags::NONE.with_if(ResourceFlags::LVER, lver.is_some());
    for word in words {
        flags = flags.with(match word {
            "SH" => ResourceFlags::SHARED,
            "P" => ResourceFlags::PERSISTENT,
            other => panic!("{other}"),
        });
    }
    let index: u64 = name.trim_start_matches('R').parse().unwrap_or(0);
    Resource {
        lockspace_name: *lockspace().field(),
        name: NameField::from_bytes(name.as_bytes()),
        lver: lver.unwrap_or(0),
        flags: flags.0,
        disks: vec![Disk {
            path: DiskPath::new(b"disk").unwrap(),
            offset: index * 8 * MIB,
        }],
        ..Resource::default()
    }
}
