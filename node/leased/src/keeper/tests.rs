//! The keeper on real files, with a wdmd of a few lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use control::wdmd::{Command as Wdmd, MESSAGE_BYTES, Message};
use lease::hosts::{Belief, Hosts, Names, Notice, Viewpoint};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

use super::*;
use crate::area::{self, InitOptions};

const FIRST: SpaceId = SpaceId(1);
const SECOND: SpaceId = SpaceId(2);

/// Beside the build: direct I/O must work there.
fn disk_dir() -> TempDir {
    let program = std::env::current_exe().expect("known");
    tempfile::tempdir_in(program.parent().expect("a folder")).expect("a directory")
}

fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("valid")
}

fn disk(dir: &TempDir, name: &str) -> PathBuf {
    disk_of(dir, name, Geometry::Sector512Align1M)
}

fn disk_of(dir: &TempDir, name: &str, geometry: Geometry) -> PathBuf {
    let path = dir.path().join(name);
    let file = File::create(&path).expect("a file");
    file.set_len(geometry.align_size().into()).expect("a size");
    let made = InitOptions {
        io_timeout_s: 1,
        sector_size: Some(geometry.sector_size()),
        align_size: Some(geometry.align_size()),
        ..InitOptions::new(&path, lockspace())
    };
    area::init(&made, &mut |_| ()).expect("made");
    path
}

fn join(id: SpaceId, path: &Path, host_id: u64, host_name: &str) -> Join {
    Join {
        id,
        name: lockspace(),
        host_id: HostId::new(host_id).expect("valid"),
        host_name: HostName::new(host_name).expect("valid"),
        path: path.to_path_buf(),
        offset: 0,
        io_timeout_s: 1,
        fire_timeout_s: 5,
        read_extend_s: None,
        watchdog: None,
        persistent: false,
    }
}

fn settings(backend: Backend) -> Settings {
    Settings {
        realtime: false,
        backend,
        ..Settings::default()
    }
}

/// A keeper whose owner observes every reading.
struct Owner {
    keeper: Keeper,
    hosts: BTreeMap<SpaceId, Hosts>,
    notices: Vec<(SpaceId, Notice)>,
    seen: Vec<(SpaceId, &'static str, Code)>,
    device: Option<Arc<BlockDevice>>,
    recycles: bool,
    areas: usize,
    shortest: usize,
    kept: Vec<AlignedBuffer>,
}

impl Owner {
    fn new() -> Self {
        Self::with(Backend::Auto)
    }

    fn with(backend: Backend) -> Self {
        Self::of(Keeper::start(settings(backend)).expect("starts"))
    }

    fn of(keeper: Keeper) -> Self {
        Self {
            keeper,
            hosts: BTreeMap::new(),
            notices: Vec::new(),
            seen: Vec::new(),
            device: None,
            recycles: true,
            areas: 0,
            shortest: Hosts::PART_BYTES,
            kept: Vec::new(),
        }
    }

    fn join(&mut self, join: Join) {
        self.hosts.remove(&join.id);
        self.keeper.join(join);
    }

    fn take(&mut self, id: SpaceId, event: Event) {
        let (name, code) = match event {
            Event::Joined { device, .. } => {
                self.device = Some(device);
                ("joined", Code::OK)
            }
            Event::JoinFailed { code, reason } => {
                assert!(!reason.is_empty());
                ("failed", code)
            }
            Event::Area {
                geometry,
                part,
                buffer,
                asked,
                read_at,
            } => {
                let join = self.keeper.joined(id).expect("not forgotten");
                let view = Viewpoint {
                    lockspace: join.name,
                    geometry,
                    host_id: join.host_id,
                    io_timeout_s: join.io_timeout_s,
                    fire_timeout_s: join.fire_timeout_s,
                    bitmap_s: 6,
                };
                let hosts = self
                    .hosts
                    .entry(id)
                    .or_insert_with(|| Hosts::new(view, &Names::default()));
                let changes = hosts.observe(asked, read_at.boottime, part, &buffer);
                self.notices
                    .extend(changes.notices.into_iter().map(|notice| (id, notice)));
                self.areas += 1;
                self.shortest = self.shortest.min(buffer.len());
                if self.recycles {
                    self.keeper.recycle(buffer);
                } else {
                    self.kept.push(buffer);
                }
                return;
            }
            Event::Renewed(_) => ("renewed", Code::OK),
            Event::RenewalFailed { code, .. } => ("renewal failed", code),
            Event::Failing => ("failing", Code::OK),
            Event::Lost { code, .. } => ("lost", code),
            Event::Left { code } => ("left", code),
        };
        self.seen.push((id, name, code));
    }

    fn take_all(&mut self) {
        while let Some((id, event)) = self.keeper.next_event() {
            self.take(id, event);
        }
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = now().boottime;
        loop {
            self.take_all();
            if condition(self) {
                return;
            }
            let age_ms = now().boottime.ms_since(start);
            assert!(age_ms < 180_000, "{what}: {:?}", self.seen);
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(&self.keeper, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&second)).ok();
        }
    }

    fn count(&self, id: SpaceId, name: &str) -> usize {
        let of = |seen: &&(SpaceId, &str, Code)| seen.0 == id && seen.1 == name;
        self.seen.iter().filter(of).count()
    }

    fn until_seen(&mut self, id: SpaceId, name: &'static str) -> Code {
        self.until(name, |owner| owner.count(id, name) > 0);
        let found = self.seen.iter().find(|seen| seen.0 == id && seen.1 == name);
        found.expect("just seen").2
    }

    fn belief(&self, id: SpaceId, of: u64) -> Belief {
        let of = HostId::new(of).expect("valid");
        match self.hosts.get(&id) {
            Some(hosts) => hosts.belief(of, now().boottime),
            None => Belief::Unknown,
        }
    }
}

/// Serves connections; passes every expiry on.
fn wdmd(socket: &Path) -> mpsc::Receiver<u64> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let (expiries, received) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = [0; MESSAGE_BYTES];
            while stream.read_exact(&mut bytes).is_ok() {
                let message = Message::decode(&bytes);
                if message.command == Wdmd::TestLive.to_wire() {
                    expiries.send(message.expire_time_s).ok();
                }
                let answered = [Wdmd::Status, Wdmd::OpenWatchdog].map(Wdmd::to_wire);
                if answered.contains(&message.command) {
                    let answer = Message {
                        fire_timeout_s: 5,
                        test_interval_s: 1,
                        ..message
                    };
                    stream.write_all(&answer.encode()).expect("answered");
                }
            }
        }
    });
    received
}

#[test]
fn two_lockspaces_are_joined_renewed_and_left_by_one_thread() {
    for backend in [Backend::Auto, Backend::Threads] {
        let dir = disk_dir();
        let (one, two) = (disk(&dir, "one"), disk(&dir, "two"));
        let mut owner = Owner::with(backend);
        owner.join(join(FIRST, &one, 1, "a"));
        owner.join(join(SECOND, &two, 2000, "a"));
        owner.until("both renew", |owner| {
            owner.count(FIRST, "renewed") > 1 && owner.count(SECOND, "renewed") > 1
        });
        assert_eq!(owner.belief(FIRST, 1), Belief::Live);
        assert_eq!(owner.belief(SECOND, 2000), Belief::Live);
        let status = owner.keeper.status(FIRST).expect("known");
        assert_eq!(status.lease.state, lease::State::Held);
        assert_eq!(status.geometry, Some(Geometry::Sector512Align1M));
        owner.keeper.leave(FIRST);
        assert_eq!(owner.until_seen(FIRST, "left"), Code::OK);
        assert!(owner.keeper.status(FIRST).is_none());
        let renewals = owner.count(SECOND, "renewed");
        owner.until("the other goes on", |owner| {
            owner.count(SECOND, "renewed") > renewals
        });
        owner.keeper.leave(SECOND);
        assert_eq!(owner.until_seen(SECOND, "left"), Code::OK);
        owner.keeper.end();
        for (path, host_id) in [(one, 1), (two, 2000)] {
            let found = area::inspect(&path, 0).expect("an area");
            let held = found
                .hosts
                .iter()
                .map(|host| (host.host_id.get(), host.timestamp));
            assert_eq!(held.collect::<Vec<_>>(), [(host_id, 0)]);
        }
    }
}

#[test]
fn an_area_of_8_mib_arrives_in_parts_and_its_last_host_is_seen() {
    let dir = disk_dir();
    let disk = disk_of(&dir, "disk", Geometry::Sector4096Align8M);
    let mut owner = Owner::new();
    owner.join(join(FIRST, &disk, 2000, "a"));
    owner.join(join(SECOND, &disk, 1, "b"));
    owner.until("they see each other", |owner| {
        owner.belief(FIRST, 1) == Belief::Live && owner.belief(SECOND, 2000) == Belief::Live
    });
    assert!(owner.hosts[&FIRST].is_complete());
}

#[test]
fn a_host_that_appears_far_behind_all_others_is_seen_before_it_could_be_missed() {
    let dir = disk_dir();
    let disk = disk(&dir, "disk");
    let mut owner = Owner::new();
    owner.join(join(FIRST, &disk, 1, "a"));
    owner.until("reads the first hosts only", |owner| {
        owner.shortest < Hosts::PART_BYTES
    });
    owner.join(join(SECOND, &disk, 2000, "b"));
    owner.until_seen(SECOND, "joined");
    let since = now().boottime;
    owner.until("seen", |owner| owner.belief(FIRST, 2000) == Belief::Live);
    let took_ms = now().boottime.ms_since(since);
    assert!(took_ms < 30_000, "{took_ms}");
    // From now on readings reach that far.
    owner.shortest = Hosts::PART_BYTES;
    let areas = owner.areas;
    owner.until("more readings", |owner| owner.areas > areas + 8);
    assert_eq!(owner.shortest, Hosts::PART_BYTES);
}

#[test]
fn what_cannot_be_joined_ends_with_the_originals_number() {
    let dir = disk_dir();
    let disk = disk(&dir, "disk");
    let zeros = dir.path().join("zeros");
    let file = File::create(&zeros).expect("a file");
    file.set_len(1 << 20).expect("a size");
    let small = disk_of(&dir, "small", Geometry::Sector4096Align1M);
    let of = |path: &Path| join(FIRST, path, 1, "a");
    let cases = [
        (of(&dir.path().join("none")), -19),
        (of(dir.path()), -19),
        (of(&zeros), -223),
        (join(FIRST, &small, 251, "a"), -231),
        (
            Join {
                name: LockspaceName::new("OTHER").expect("valid"),
                ..of(&disk)
            },
            -226,
        ),
        (
            Join {
                watchdog: Some(dir.path().join("nobody")),
                ..of(&disk)
            },
            -203,
        ),
    ];
    let mut owner = Owner::new();
    for (number, (join, code)) in (1..).zip(cases) {
        let id = SpaceId(number);
        let path = join.path.clone();
        owner.join(Join { id, ..join });
        assert_eq!(owner.until_seen(id, "failed"), Code(code), "{path:?}");
        assert!(owner.keeper.status(id).is_none());
    }
    let found = area::inspect(&disk, 0).expect("an area");
    assert!(found.hosts.is_empty(), "nothing was written");
}

#[test]
fn a_host_id_in_use_is_refused_as_soon_as_its_holder_is_seen_to_live() {
    let dir = disk_dir();
    let disk = disk(&dir, "disk");
    let mut owner = Owner::new();
    owner.join(join(FIRST, &disk, 1, "a"));
    owner.until_seen(FIRST, "joined");
    let began = now().boottime;
    owner.join(Join {
        fire_timeout_s: 60,
        ..join(SECOND, &disk, 1, "b")
    });
    assert_eq!(owner.until_seen(SECOND, "failed"), Code::HOSTID_BUSY);
    assert!(
        now().boottime.ms_since(began) < 60_000,
        "not as long as it takes to be surely dead"
    );
    let renewals = owner.count(FIRST, "renewed");
    owner.until("the holder goes on", |owner| {
        owner.count(FIRST, "renewed") > renewals
    });
}

#[test]
fn a_join_given_up_says_so_and_leaves_no_claim() {
    let dir = disk_dir();
    let disk = disk(&dir, "disk");
    let mut owner = Owner::new();
    owner.join(join(FIRST, &disk, 1, "a"));
    owner.until("it has begun", |owner| {
        owner.keeper.status(FIRST).is_some_and(|status| {
            status.lease.state == lease::State::Acquiring && status.lease.last_attempt.is_some()
        })
    });
    owner.keeper.leave(FIRST);
    assert_eq!(owner.until_seen(FIRST, "failed"), Code::ERROR);
    // And the way is free for the next one.
    owner.join(join(SECOND, &disk, 1, "b"));
    owner.until_seen(SECOND, "joined");
}

#[test]
fn bits_and_events_reach_the_other_host_once() {
    let dir = disk_dir();
    let disk = disk(&dir, "disk");
    let mut owner = Owner::new();
    owner.join(join(FIRST, &disk, 1, "a"));
    owner.join(join(SECOND, &disk, 2, "b"));
    owner.until_seen(FIRST, "joined");
    owner.until_seen(SECOND, "joined");
    let mut bitmap = disk_format::HostBitmap::EMPTY;
    bitmap.insert(HostId::new(2).expect("valid"));
    let extras = disk_format::HostExtras {
        generation: 1,
        event: 0x13,
        data: 0x23,
    };
    owner.keeper.notify(FIRST, bitmap, extras);
    owner.until("it is told", |owner| owner.notices.len() > 1);
    let renewals = owner.count(FIRST, "renewed");
    owner.until("two renewals later", |owner| {
        owner.count(FIRST, "renewed") > renewals + 2
    });
    let from = HostId::new(1).expect("valid");
    let event = Notice::Event {
        from,
        from_generation: Generation(1),
        extras,
    };
    let of_event = owner.notices.iter().filter(|(_, notice)| *notice == event);
    assert_eq!(of_event.count(), 1);
    assert!(owner.notices.contains(&(SECOND, Notice::Request { from })));
    assert!(owner.notices.iter().all(|(id, _)| *id == SECOND));
}

#[test]
fn an_owner_that_keeps_every_buffer_and_takes_no_events_harms_no_renewal() {
    let dir = disk_dir();
    let disk = disk(&dir, "disk");
    let mut owner = Owner::new();
    owner.recycles = false;
    // Every reading is of the whole area.
    owner.join(join(FIRST, &disk, 2000, "a"));
    owner.until("renewed often", |owner| owner.count(FIRST, "renewed") > 12);
    assert!(
        owner.areas < 12,
        "{} readings were handed over",
        owner.areas
    );
    assert_eq!(owner.count(FIRST, "renewal failed"), 0);
    // Given back, they are used again.
    owner.recycles = true;
    for buffer in std::mem::take(&mut owner.kept) {
        owner.keeper.recycle(buffer);
    }
    let areas = owner.areas;
    owner.until("readings come again", |owner| owner.areas > areas + 1);
}

#[test]
fn a_lost_lease_keeps_its_expiry_until_it_is_abandoned() {
    let dir = disk_dir();
    let sockets = tempfile::tempdir().expect("a directory");
    let disk = disk(&dir, "disk");
    let socket = sockets.path().join("wdmd");
    let expiries = wdmd(&socket);
    let mut owner = Owner::new();
    owner.join(Join {
        watchdog: Some(socket),
        ..join(FIRST, &disk, 1, "a")
    });
    owner.until_seen(FIRST, "renewed");
    // Reads end early from here on.
    let file = File::options().write(true).open(&disk).expect("a file");
    file.set_len(0).expect("a size");
    owner.until_seen(FIRST, "renewal failed");
    owner.until_seen(FIRST, "failing");
    assert_eq!(owner.until_seen(FIRST, "lost"), Code::AIO_TIMEOUT);
    assert!(expiries.try_iter().last().is_some_and(|expiry| expiry > 0));
    owner.keeper.abandon(FIRST);
    assert_eq!(owner.until_seen(FIRST, "left"), Code::OK);
    assert_eq!(expiries.recv().ok(), Some(0));
    let size = file.metadata().expect("a size").len();
    assert_eq!(size, 0, "nothing is written");
}

#[test]
fn the_keeper_allocates_nothing_while_it_renews_fails_and_loses_leases() {
    let dir = disk_dir();
    let sockets = tempfile::tempdir().expect("a directory");
    let (one, two) = (disk(&dir, "one"), disk(&dir, "two"));
    let socket = sockets.path().join("wdmd");
    let _expiries = wdmd(&socket);
    let (keeper, mut worker) = Keeper::assemble(settings(Backend::Auto)).expect("made");
    // The owner has a thread of its own: its allocations do not count.
    let joins = [
        Join {
            watchdog: Some(socket),
            ..join(FIRST, &one, 7, "a")
        },
        join(SECOND, &two, 7, "a"),
    ];
    let counts = Arc::new([const { AtomicUsize::new(0) }; 4]);
    let of_owner = Arc::clone(&counts);
    let (end, ended) = mpsc::channel::<()>();
    let owner = thread::spawn(move || {
        let mut owner = Owner::of(keeper);
        joins.into_iter().for_each(|join| owner.join(join));
        owner.until("told to end", |owner| {
            for (count, (id, name)) in of_owner.iter().zip(COUNTED) {
                count.store(owner.count(id, name), Ordering::Relaxed);
            }
            ended.try_recv().is_ok()
        });
    });
    let mut turn_until = |index: usize, count| {
        while counts[index].load(Ordering::Relaxed) < count {
            worker.turn();
            worker.wait();
        }
    };
    turn_until(0, 2);
    turn_until(1, 2);
    let allocated = allocation_counter::measure(|| {
        turn_until(0, 5);
        turn_until(1, 5);
    });
    assert_eq!(allocated.count_total, 0, "renewing: {allocated:?}");
    // Reads end early from here on.
    let file = File::options().write(true).open(&one).expect("a file");
    file.set_len(0).expect("a size");
    let allocated = allocation_counter::measure(|| {
        turn_until(2, 1);
        turn_until(3, 1);
    });
    assert_eq!(allocated.count_total, 0, "failing: {allocated:?}");
    end.send(()).expect("the owner runs");
    owner.join().expect("ended");
}

const COUNTED: [(SpaceId, &str); 4] = [
    (FIRST, "renewed"),
    (SECOND, "renewed"),
    (FIRST, "failing"),
    (FIRST, "lost"),
];
