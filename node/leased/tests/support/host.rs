//! A daemon as a cluster sees it: the original sanlock or ours under its
//! name, each with a run directory and a process group of its own, so that
//! any number of "hosts" live on one machine.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::client::{
    Connection, HostEntry, Reply, Resource, Space, command, host_entries, host_event, space, text,
    u32_at, u64_at, with_disk,
};
use super::{DEADLINE, Loop, command as tool, file, wait_for};

/// How often the making of an area is asked for.
const INITIALISE_TRIES: u32 = 3;

/// Whose daemon a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Original,
    Ours,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Original => "original",
            Self::Ours => "ours",
        })
    }
}

/// The pairs of hosts that share a lockspace. Original with original judges
/// the tests themselves.
pub const PAIRS: &[(Kind, Kind)] = &[
    (Kind::Ours, Kind::Original),
    (Kind::Original, Kind::Ours),
    (Kind::Ours, Kind::Ours),
    (Kind::Original, Kind::Original),
];

/// Runs a test's body for every pair on every storage, all at the same time:
/// most of their time is spent waiting.
pub fn every_setting(body: impl Fn((Kind, Kind), Storage) + Sync) {
    let settings = PAIRS
        .iter()
        .flat_map(|pair| Storage::ALL.map(|storage| (*pair, storage)));
    std::thread::scope(|scope| {
        let body = &body;
        let runs: Vec<_> = settings
            .map(|(pair, storage)| {
                let name = format!("{} and {} on {storage:?}", pair.0, pair.1);
                let run = std::thread::Builder::new()
                    .name(name.clone())
                    .spawn_scoped(scope, move || body(pair, storage));
                (name, run.expect("a thread"))
            })
            .collect();
        let failed: Vec<_> = runs
            .into_iter()
            .filter_map(|(name, run)| run.join().is_err().then_some(name))
            .collect();
        assert!(failed.is_empty(), "failed with {failed:?}");
    });
}

/// A running daemon.
#[derive(Debug)]
pub struct Host {
    pub kind: Kind,
    pub name: String,
    child: Child,
    dir: Arc<TempDir>,
}

impl Host {
    /// Without a watchdog, as tests of the original start it.
    pub fn start(kind: Kind, name: &str) -> Self {
        Self::start_with(kind, name, &["-w", "0"])
    }

    pub fn start_with(kind: Kind, name: &str, options: &[&str]) -> Self {
        // Socket paths are short; build directories may not be.
        let dir = tempfile::tempdir().expect("a directory");
        Self::start_in(Arc::new(dir), kind, name, options)
    }

    /// In a run directory that an earlier daemon may have left.
    pub fn start_in(dir: Arc<TempDir>, kind: Kind, name: &str, options: &[&str]) -> Self {
        let command = daemon(kind, dir.path(), name, options);
        Self::spawned(command, dir, kind, name)
    }

    /// In the mount namespace of another process.
    pub fn start_beside(pid: u32, kind: Kind, name: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = daemon(kind, dir.path(), name, options);
        let mut command = tool("util-linux", "nsenter");
        command
            .args(["--mount", "--target", &pid.to_string(), "--"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            );
        logged(&mut command, dir.path());
        Self::spawned(command, Arc::new(dir), kind, name)
    }

    fn spawned(mut command: Command, dir: Arc<TempDir>, kind: Kind, name: &str) -> Self {
        let child = command.spawn().expect("starts");
        let host = Self {
            kind,
            name: name.to_owned(),
            child,
            dir,
        };
        wait_for(&format!("{kind} {name} answers"), || {
            let mut connection = Connection::open(host.run_dir()).ok()?;
            connection.send(command::VERSION, 0, 0, 0, &[]);
            connection.try_reply().ok()
        });
        host
    }

    pub fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.run_dir().join("log")).unwrap_or_default()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.run_dir()).expect("connects")
    }

    /// A connection that holds leases for this process.
    pub fn registered(&self) -> Connection {
        let mut connection = self.connect();
        connection.register();
        connection
    }

    /// One command on a connection of its own.
    pub fn call(&self, command: u32, flags: u32, data: u32, data2: u32, payload: &[u8]) -> Reply {
        self.connect().call(command, flags, data, data2, payload)
    }

    pub fn join(&self, lockspace: &Space, host_id: u64, io_timeout_s: u32) -> i32 {
        let payload = space(lockspace, host_id);
        self.call(command::ADD_LOCKSPACE, 0, io_timeout_s, 0, &payload)
            .result
    }

    pub fn leave(&self, lockspace: &Space, host_id: u64) -> i32 {
        let payload = space(lockspace, host_id);
        self.call(command::REM_LOCKSPACE, 0, 0, 0, &payload).result
    }

    pub fn inq_lockspace(&self, lockspace: &Space, host_id: u64) -> i32 {
        let payload = space(lockspace, host_id);
        self.call(command::INQ_LOCKSPACE, 0, 0, 0, &payload).result
    }

    pub fn init_space(&self, lockspace: &Space, io_timeout_s: u32) {
        let payload = space(lockspace, 0);
        let result = self.initialise(command::WRITE_LOCKSPACE, io_timeout_s, &payload);
        assert_eq!(result, 0, "{} initialises {lockspace:?}", self.kind);
    }

    pub fn init_resource(&self, resource: &Resource) {
        let result = self.initialise(command::WRITE_RESOURCE, 0, &with_disk(resource));
        assert_eq!(result, 0, "{} initialises {resource:?}", self.kind);
    }

    /// The original has been seen to forget a command that came right after
    /// another; making an area twice does no harm.
    fn initialise(&self, command: u32, data2: u32, payload: &[u8]) -> i32 {
        for _ in 0..INITIALISE_TRIES {
            let mut connection = self.connect();
            connection
                .stream()
                .set_read_timeout(Some(DEADLINE / INITIALISE_TRIES))
                .expect("set");
            connection.send(command, 0, 0, data2, payload);
            if let Ok(reply) = connection.try_reply() {
                return reply.result;
            }
            assert_eq!(self.kind, Kind::Original, "ours forgot a command");
        }
        panic!("{} does not answer; its log:\n{}", self.kind, self.log())
    }

    /// The version a resource has on the disk.
    pub fn lver(&self, resource: &Resource) -> u64 {
        let reply = self.call(command::READ_RESOURCE, 0, 0, 0, &with_disk(resource));
        assert_eq!(reply.result, 0, "{} reads {resource:?}", self.kind);
        u64_at(&reply.body, 96)
    }

    /// Who holds a resource according to the disk, and whether shared.
    pub fn owners(&self, resource: &Resource) -> (Vec<HostEntry>, bool) {
        let payload = with_disk(resource);
        let reply = self.call(command::READ_RESOURCE_OWNERS, 0, 0, 0, &payload);
        assert_eq!(reply.result, 0, "{} reads {resource:?}", self.kind);
        let shared = u32_at(&reply.body, 120) & super::client::flag::SHARED != 0;
        let entries = host_entries(&reply.body[128..]);
        assert_eq!(entries.len(), reply.data2 as usize, "owners counted");
        (entries, shared)
    }

    /// Their host ids.
    pub fn owner_ids(&self, resource: &Resource) -> Vec<u64> {
        let (entries, _) = self.owners(resource);
        entries.iter().map(|entry| entry.host_id).collect()
    }

    pub fn hosts(&self, lockspace: &Space, host_id: u64) -> Result<Vec<HostEntry>, i32> {
        let payload = space(lockspace, host_id);
        let reply = self.call(command::GET_HOSTS, 0, 0, 0, &payload);
        if reply.result < 0 {
            return Err(reply.result);
        }
        Ok(host_entries(&reply.body))
    }

    /// What this host thinks of another.
    pub fn state_of(&self, lockspace: &Space, host_id: u64) -> Option<HostEntry> {
        self.hosts(lockspace, host_id).ok()?.first().copied()
    }

    /// Waits until this host thinks so of another.
    pub fn until_state(&self, lockspace: &Space, host_id: u64, state: u32) -> HostEntry {
        let what = format!("{} sees host {host_id} in state {state}", self.kind);
        wait_for(&what, || {
            self.state_of(lockspace, host_id)
                .filter(|entry| entry.state() == state)
        })
    }

    pub fn request(&self, resource: &Resource, mode: u32, flags: u32) -> i32 {
        let payload = with_disk(resource);
        self.call(command::REQUEST, flags, mode, 0, &payload).result
    }

    pub fn set_event(
        &self,
        lockspace: &Space,
        to: (u64, u64),
        event: u64,
        data: u64,
        flags: u32,
    ) -> i32 {
        let mut payload = space(lockspace, 0);
        payload.extend(host_event(to.0, to.1, event, data));
        self.call(command::SET_EVENT, flags, 0, 0, &payload).result
    }

    /// A connection that gets the lockspace's events.
    pub fn events(&self, lockspace: &Space) -> Connection {
        let mut connection = self.connect();
        let mut payload = space(lockspace, 0);
        payload.extend_from_slice(&[0; 32]);
        let reply = connection.call(command::REG_EVENT, 0, 0, 0, &payload);
        assert_eq!(reply.result, 0, "{} registers for events", self.kind);
        connection
    }

    /// The texts of STATUS, one a record: type, name, text.
    pub fn status(&self) -> Vec<(u32, String, String)> {
        use std::io::Read as _;
        let mut connection = self.connect();
        connection.send(command::STATUS, 0, 0, 0, &[]);
        let mut bytes = Vec::new();
        connection
            .stream()
            .read_to_end(&mut bytes)
            .expect("a status");
        let mut rest = &bytes[32..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let kind = u32_at(rest, 0);
            let (name, length) = (text(&rest[24..72]), u32_at(rest, 72) as usize);
            records.push((kind, name, text(&rest[80..80 + length])));
            let tail = match kind {
                3 => 1104,
                4 => 128 + 1040 * u32_at(&rest[80 + length..], 124) as usize,
                _ => 0,
            };
            rest = &rest[80 + length + tail..];
        }
        records
    }

    /// The original's own command line against this host.
    pub fn client(&self, arguments: &[&str]) -> Output {
        tool("sanlock", "sanlock")
            .arg("client")
            .args(arguments)
            .env("SANLOCK_RUN_DIR", self.run_dir())
            .output()
            .expect("runs")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ours").is_none()
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self) -> ExitStatus {
        self.child.wait().expect("ends")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("signalled");
    }

    /// SIGKILL; its helper ends when it finds itself alone. The directory, so
    /// that another may start in it.
    pub fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().expect("killed");
        self.child.wait().expect("ends");
        Arc::clone(&self.dir)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} {}:\n{}", self.kind, self.name, self.log());
        }
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process_group(group.expect("a pid"), Signal::KILL).ok();
        self.child.wait().ok();
    }
}

/// The command line of a daemon.
pub fn daemon(kind: Kind, run_dir: &Path, name: &str, options: &[&str]) -> Command {
    let program = match kind {
        Kind::Original => tool("sanlock", "sanlock"),
        Kind::Ours => Command::new(ours(run_dir)),
    };
    let mut command = program;
    command
        .args(["daemon", "-D", "-l", "0", "-h", "0", "-U", "root"])
        .args(["-G", "root", "-e", name])
        .args(options)
        .env("SANLOCK_RUN_DIR", run_dir)
        .env("SANLOCK_PRIVILEGED", "0");
    logged(&mut command, run_dir);
    command
}

/// What it says goes to a file of its run directory.
fn logged(command: &mut Command, run_dir: &Path) {
    let log = File::options()
        .append(true)
        .create(true)
        .open(run_dir.join("log"))
        .expect("a log");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a copy"))
        .stderr(log)
        // It may kill its own process group, which must not be the test's.
        .process_group(0);
}

/// Our binary under the original's name.
pub fn ours(run_dir: &Path) -> PathBuf {
    let link = run_dir.join("sanlock");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_leased"), &link).expect("a link");
    }
    link
}

/// What a cluster's leases are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A plain file: 512-byte sectors, areas of 1 MiB.
    File,
    /// A loop device with 4096-byte sectors, areas of 8 MiB.
    Loop4096,
}

impl Storage {
    pub const ALL: [Self; 2] = [Self::File, Self::Loop4096];

    pub fn align(self) -> u64 {
        match self {
            Self::File => 1 << 20,
            Self::Loop4096 => 8 << 20,
        }
    }

    pub fn sector(self) -> u64 {
        match self {
            Self::File => 512,
            Self::Loop4096 => 4096,
        }
    }
}

/// Shared storage with lockspace LS at 0 and resources behind it.
pub struct Disk {
    pub path: PathBuf,
    pub storage: Storage,
    _device: Option<Loop>,
    _dir: TempDir,
}

impl Disk {
    /// With room for so many areas.
    pub fn new(storage: Storage, areas: u64) -> Self {
        let dir = super::disk_dir();
        let backing = file(&dir, "disk", areas * (storage.align() >> 20));
        let device = match storage {
            Storage::File => None,
            Storage::Loop4096 => Some(Loop::attach(&backing, 4096, false)),
        };
        Self {
            path: device.as_ref().map_or(backing, |device| device.0.clone()),
            storage,
            _device: device,
            _dir: dir,
        }
    }

    pub fn space(&self) -> Space {
        Space {
            name: "LS".to_owned(),
            path: self.path.clone(),
            offset: 0,
            flags: 0,
        }
    }

    /// Resource R`index`, 1 or more, in the area of that number.
    pub fn resource(&self, index: u64) -> Resource {
        Resource {
            lockspace: "LS".to_owned(),
            name: format!("R{index}"),
            path: self.path.clone(),
            offset: index * self.storage.align(),
            flags: 0,
            lver: 0,
            data32: 0,
        }
    }

    /// Bytes as they are on the disk.
    pub fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        // A device's cache may be older than what direct I/O wrote.
        let file = rustix::fs::open(
            &self.path,
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .expect("opens");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
        let mut file = File::from(file);
        file.seek(SeekFrom::Start(offset)).expect("seeks");
        let mut bytes = vec![0; usize::try_from(length).expect("small")];
        file.read_exact(&mut bytes).expect("reads");
        bytes
    }

    /// The timestamp in a host's record: when its last renewal was, by the
    /// clock all hosts of one machine share.
    pub fn renewed_at(&self, host_id: u64) -> u64 {
        u64_at(
            &self.bytes((host_id - 1) * self.storage.sector() + 152, 8),
            0,
        )
    }

    /// The generation in a host's record. A join whose write took too long is
    /// done again, so it need not be 1 at first.
    pub fn generation(&self, host_id: u64) -> u64 {
        u64_at(
            &self.bytes((host_id - 1) * self.storage.sector() + 40, 8),
            0,
        )
    }

    /// The sector of a resource in which a host writes.
    pub fn host_sector(&self, resource: &Resource, host_id: u64) -> Vec<u8> {
        let sector = self.storage.sector();
        self.bytes(resource.offset + (host_id + 1) * sector, sector)
    }
}

/// Two hosts in one lockspace: the first has host id 1, the second 2.
pub struct Cluster {
    pub first: Host,
    pub second: Host,
    pub disk: Disk,
    pub io_timeout_s: u32,
}

impl Cluster {
    /// Joined, each knowing of the other, with so many resources.
    pub fn start(kinds: (Kind, Kind), storage: Storage, resources: u64) -> Self {
        let cluster = Self::prepared(kinds, storage, resources, 1);
        cluster.join_both();
        cluster
    }

    /// Running, the disk initialised, nobody joined.
    pub fn prepared(
        kinds: (Kind, Kind),
        storage: Storage,
        resources: u64,
        io_timeout_s: u32,
    ) -> Self {
        let disk = Disk::new(storage, 1 + resources);
        let first = Host::start(kinds.0, "host-one");
        let second = Host::start(kinds.1, "host-two");
        first.init_space(&disk.space(), io_timeout_s);
        for index in 1..=resources {
            // Each makes half of what both use.
            let maker = if index % 2 == 1 { &first } else { &second };
            maker.init_resource(&disk.resource(index));
        }
        Self {
            first,
            second,
            disk,
            io_timeout_s,
        }
    }

    pub fn join_both(&self) {
        let space = self.disk.space();
        std::thread::scope(|scope| {
            for (host, host_id) in [(&self.first, 1), (&self.second, 2)] {
                let space = &space;
                scope.spawn(move || {
                    let result = host.join(space, host_id, self.io_timeout_s);
                    assert_eq!(result, 0, "{} joins\n{}", host.kind, host.log());
                });
            }
        });
        self.first
            .until_state(&space, 2, super::client::flag::HOST_LIVE);
        self.second
            .until_state(&space, 1, super::client::flag::HOST_LIVE);
    }

    /// How long after its last renewal a host counts as alive, in seconds.
    pub fn dead_after_s(&self) -> u64 {
        u64::from(8 * self.io_timeout_s + 60)
    }
}

/// Seconds of the clock that timestamps on the disk are from.
pub fn monotonic_s() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).expect("after boot")
}
