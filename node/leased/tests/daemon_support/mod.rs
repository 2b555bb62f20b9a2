//! A daemon of its own in its own run directory, and a client that says what
//! it likes, byte for byte.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use disk_format::NameField;
use rustix::process::{Pid, Signal, kill_process};
use sanlock_wire::{
    AcquireFlags, AddFlags, Disk, DiskPath, HEADER_BYTES, Header, Host, Lockspace, Options,
    Release, RemoveFlags, Reply, ReplyBody, ReplyShape, Request, Resource, ResourceFlags,
    StateDecoder, StateRecord, Target, WriteFlags, parse_name,
};
use tempfile::TempDir;

/// Every wait for a condition ends in failure after this.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `probe` gives something.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A directory for disks, where direct I/O works.
pub fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for disks")
}

/// A file of so many MiB, all zeros.
pub fn file(dir: &TempDir, name: &str, mib: u64) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path)
        .and_then(|file| file.set_len(mib << 20))
        .expect("a file");
    path
}

pub fn name(text: &str) -> NameField {
    parse_name(text.as_bytes()).expect("a name")
}

pub fn disk(path: &Path, offset: u64) -> Disk {
    use std::os::unix::ffi::OsStrExt;
    Disk {
        path: DiskPath::new(path.as_os_str().as_bytes()).expect("a path"),
        offset,
    }
}

/// Lockspace LS at the start of a file.
pub fn lockspace(path: &Path, host_id: u64) -> Lockspace {
    Lockspace {
        name: name("LS"),
        host_id,
        flags: 0,
        disk: disk(path, 0),
    }
}

/// Resource R<n> of LS, in the n-th MiB of the same file.
pub fn resource(path: &Path, number: u64) -> Resource {
    Resource {
        lockspace_name: name("LS"),
        name: name(&format!("R{number}")),
        disks: vec![disk(path, number << 20)],
        ..Resource::default()
    }
}

pub fn shared(path: &Path, number: u64) -> Resource {
    Resource {
        flags: ResourceFlags::SHARED.0,
        ..resource(path, number)
    }
}

/// A running daemon. Killed when dropped.
pub struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    /// Starts one as host `host`, and waits until it accepts connections.
    pub fn start(host: &str) -> Self {
        Self::start_with(host, &["-w", "0", "-o", "1"])
    }

    pub fn start_with(host: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let child = spawn(dir.path(), host, arguments);
        let daemon = Self { child, dir };
        daemon.until_accepts();
        daemon
    }

    /// Starts one that changes to a user who may do nothing.
    pub fn start_as_nobody(host: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let child = sanlock(dir.path())
            .env("SANLOCK_PRIVILEGED", "1")
            .args(["daemon", "-D", "-w", "0", "-o", "1", "-e", host])
            .args(["-U", "nobody", "-G", "nogroup"])
            .stderr(log_in(dir.path()))
            .spawn()
            .expect("starts");
        let daemon = Self { child, dir };
        daemon.until_accepts();
        daemon
    }

    /// Starts one as a node does, with LS of `disk` always joined as host 1.
    pub fn start_node(host: &str, disk: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let child = Command::new(env!("CARGO_BIN_EXE_leased"))
            .args(["run", "--no-watchdog", "--no-realtime", "--io-timeout", "1"])
            .args(["--lockspace", &format!("LS:1:{}:0", disk.display())])
            .args(["--host-name", host, "--sanlock-dir"])
            .arg(dir.path())
            .arg("--socket")
            .arg(dir.path().join("status"))
            .stderr(log_in(dir.path()))
            .spawn()
            .expect("starts");
        let daemon = Self { child, dir };
        daemon.until_accepts();
        daemon
    }

    /// The same directory, another process: after [`Self::kill`].
    pub fn restart(&mut self, host: &str) {
        self.child = spawn(self.dir.path(), host, &["-w", "0", "-o", "1"]);
        self.until_accepts();
    }

    pub fn until_accepts(&self) {
        wait_for("accepts connections", || {
            UnixStream::connect(self.socket()).ok()
        });
    }

    pub fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sanlock.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn until_logged(&self, part: &str) {
        wait_for(&format!("log says {part:?}"), || {
            self.log().contains(part).then_some(())
        });
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.socket()).expect("connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Client { stream }
    }

    /// A request on a connection of its own.
    pub fn ask(&self, request: &Request) -> Reply {
        self.connect().ask(request)
    }

    /// A connection that stands for this process.
    pub fn register(&self) -> Client {
        let mut client = self.connect();
        client.send(&Request::Register);
        client
    }

    pub fn add(&self, lockspace: &Lockspace) -> i32 {
        self.ask(&Request::AddLockspace {
            lockspace: lockspace.clone(),
            io_timeout_s: 1,
            flags: AddFlags::NONE,
        })
        .result
    }

    pub fn rem(&self, lockspace: &Lockspace) -> i32 {
        self.ask(&Request::RemLockspace {
            lockspace: lockspace.clone(),
            flags: RemoveFlags::NONE,
        })
        .result
    }

    /// Writes LS and R1 to R<resources>.
    pub fn init(&self, path: &Path, resources: u64) {
        let written = self.ask(&Request::WriteLockspace {
            lockspace: lockspace(path, 0),
            max_hosts: 0,
            io_timeout_s: 1,
        });
        assert_eq!(written.result, 0);
        for number in 1..=resources {
            let written = self.ask(&Request::WriteResource {
                resource: resource(path, number),
                max_hosts: 0,
                num_hosts: 0,
                flags: WriteFlags::NONE,
            });
            assert_eq!(written.result, 0);
        }
    }

    pub fn hosts(&self, lockspace: &Lockspace) -> Result<Vec<Host>, i32> {
        let reply = self.ask(&Request::GetHosts {
            lockspace: lockspace.clone(),
        });
        match reply.body {
            ReplyBody::Hosts(hosts) if reply.result == 0 => Ok(hosts),
            _ => Err(reply.result),
        }
    }

    /// The status stream.
    pub fn status(&self, detail: u32) -> Vec<StateRecord> {
        let mut client = self.connect();
        client.send(&Request::Status { detail });
        client.header();
        client.records()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, signal).expect("signalled");
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ends");
    }

    pub fn end(&mut self) -> ExitStatus {
        wait_for("the daemon ends", || self.has_ended())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program under the name by which it is the original.
pub fn sanlock(run_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leased"));
    command
        .arg0("sanlock")
        .env("SANLOCK_RUN_DIR", run_dir)
        .env("SANLOCK_PRIVILEGED", "0");
    command
}

fn log_in(run_dir: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(run_dir.join("log"))
        .expect("a log")
}

pub fn spawn(run_dir: &Path, host: &str, arguments: &[&str]) -> Child {
    sanlock(run_dir)
        .args([
            "daemon", "-D", "-l", "0", "-h", "0", "-U", "root", "-G", "root",
        ])
        .args(["-e", host])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_in(run_dir))
        .spawn()
        .expect("starts")
}

/// A connection.
pub struct Client {
    pub stream: UnixStream,
}

impl Client {
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    pub fn send(&mut self, request: &Request) {
        self.raw(&request.encode());
    }

    pub fn header(&mut self) -> Header {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).expect("a header");
        Header::decode(&bytes)
    }

    pub fn reply(&mut self) -> Reply {
        let header = self.header();
        let payload = match ReplyShape::of(&header).expect("a reply") {
            ReplyShape::Bytes(length) => {
                let mut payload = vec![0; length];
                self.stream.read_exact(&mut payload).expect("a payload");
                payload
            }
            _ => Vec::new(),
        };
        Reply::decode(&header, &payload).expect("a reply")
    }

    pub fn ask(&mut self, request: &Request) -> Reply {
        self.send(request);
        self.reply()
    }

    /// State records up to the end of the stream.
    pub fn records(&mut self) -> Vec<StateRecord> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).expect("a stream");
        let mut decoder = StateDecoder::new();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some(record) = decoder.next(&mut rest).expect("a record") {
            records.push(record);
        }
        records
    }

    /// Whether the daemon has closed this connection, without a byte more.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0))
    }

    /// Nothing comes, and the connection stays, as far as can be seen by the
    /// time another one was served.
    pub fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("set");
        let nothing = self
            .stream
            .read(&mut [0; 1])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).expect("set");
        nothing
    }

    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("shut down");
    }

    pub fn acquire(&mut self, resources: &[Resource]) -> i32 {
        self.acquire_with(resources, AcquireFlags::NONE)
    }

    pub fn acquire_with(&mut self, resources: &[Resource], flags: AcquireFlags) -> i32 {
        self.ask(&acquire(Target::ThisConnection, resources, flags))
            .result
    }

    pub fn release(&mut self, resources: &[Resource]) -> i32 {
        self.ask(&Request::Release {
            target: Target::ThisConnection,
            release: Release::Resources(resources.to_vec()),
        })
        .result
    }

    pub fn inquire(&mut self) -> String {
        match self
            .ask(&Request::Inquire {
                target: Target::ThisConnection,
            })
            .body
        {
            ReplyBody::Inquiry { text, .. } => String::from_utf8(text).expect("text"),
            _ => String::new(),
        }
    }
}

pub fn acquire(target: Target, resources: &[Resource], flags: AcquireFlags) -> Request {
    Request::Acquire {
        target,
        flags,
        resources: resources.to_vec(),
        options: Options {
            owner_name: name("test"),
            ..Options::default()
        },
    }
}
