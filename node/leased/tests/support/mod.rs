//! Real processes, real devices: a `leased` with its own directory, a wdmd of
//! a few lines, loop devices, the original tool.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

pub mod client;
pub mod guest;
pub mod host;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use control::request::LeasedReply;
use control::status::{LockspaceReport, LockspaceState};
use control::wdmd::{self, MESSAGE_BYTES, Message};
use disk_format::LockspaceName;
use leased::area::{self, InitOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Every wait for a condition ends in failure after this.
pub const DEADLINE: Duration = Duration::from_secs(180);

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
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// A directory for disks: direct I/O must work there, so it is beside the
/// build, not in a memory file system.
pub fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for disks")
}

/// Runs a tool; a missing one fails with what installs it.
pub fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = command(package, program)
        .args(arguments)
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

pub fn command(package: &str, program: &str) -> Command {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| {
        panic!("{program} is missing; install it with: apt-get install -y {package}")
    }))
}

/// The original tool.
pub fn sanlock(arguments: &[&str]) -> String {
    run("sanlock", "sanlock", arguments)
}

/// A file of so many MiB, all zeros.
pub fn file(dir: &TempDir, name: &str, mib: u64) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path)
        .and_then(|file| file.set_len(mib << 20))
        .expect("a file");
    path
}

/// A file with an area at offset 0, io_timeout 1.
pub fn area(dir: &TempDir, name: &str, lockspace: &str) -> PathBuf {
    let path = file(dir, name, 1);
    init(&path, lockspace);
    path
}

pub fn init(path: &Path, lockspace: &str) {
    let options = InitOptions {
        io_timeout_s: 1,
        ..InitOptions::new(path, LockspaceName::new(lockspace).expect("valid"))
    };
    area::init(&options, &mut |_| ()).expect("initialised");
}

/// A loop device over a file; detached at the end.
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn attach(file: &Path, sector_size: u32, read_only: bool) -> Self {
        let (size, path) = (sector_size.to_string(), file.display().to_string());
        let mut arguments = vec!["--find", "--show", "--sector-size", &size];
        if read_only {
            arguments.push("--read-only");
        }
        arguments.push(&path);
        Self(run("mount", "losetup", &arguments).trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        command("mount", "losetup")
            .arg("--detach")
            .arg(&self.0)
            .status()
            .ok();
    }
}

/// What wdmd knows of one connection.
#[derive(Debug, Clone, Default)]
pub struct Client {
    pub name: String,
    pub renewal_s: u64,
    pub expire_s: u64,
    pub refcount: bool,
    pub connected: bool,
    pub commands: Vec<u32>,
}

/// wdmd's side of the socket, without a device.
pub struct Wdmd {
    pub socket: PathBuf,
    pub clients: Arc<Mutex<Vec<Client>>>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Wdmd {
    /// `knows_open`: whether command 7 is answered, as newer versions do.
    pub fn start(
        dir: &TempDir,
        fire_timeout_s: u32,
        test_interval_s: u32,
        knows_open: bool,
    ) -> Self {
        let socket = dir.path().join("wdmd.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let clients = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&clients);
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&streams);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let copy = stream.try_clone().expect("a copy");
                kept.lock().expect("streams").push(copy);
                let all = Arc::clone(&all);
                let index = {
                    let mut all = all.lock().expect("clients");
                    all.push(Client {
                        connected: true,
                        ..Client::default()
                    });
                    all.len() - 1
                };
                thread::spawn(move || {
                    converse(
                        stream,
                        &all,
                        index,
                        fire_timeout_s,
                        test_interval_s,
                        knows_open,
                    )
                });
            }
        });
        Self {
            socket,
            clients,
            streams,
        }
    }

    /// Ends every connection, as its own death would.
    pub fn hang_up(&self) {
        for stream in self.streams.lock().expect("streams").drain(..) {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }

    pub fn last(&self) -> Client {
        self.clients
            .lock()
            .expect("clients")
            .last()
            .cloned()
            .unwrap_or_default()
    }
}

fn converse(
    mut stream: UnixStream,
    clients: &Mutex<Vec<Client>>,
    index: usize,
    fire_timeout_s: u32,
    test_interval_s: u32,
    knows_open: bool,
) {
    let mut bytes = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut bytes).is_ok() {
        let message = Message::decode(&bytes);
        let mut answer = None;
        {
            let mut clients = clients.lock().expect("clients");
            let client = &mut clients[index];
            client.commands.push(message.command);
            match wdmd::Command::from_wire(message.command) {
                Ok(wdmd::Command::Register) => {
                    client.name = String::from_utf8_lossy(&message.name).into_owned()
                }
                Ok(wdmd::Command::RefcountSet) => client.refcount = true,
                Ok(wdmd::Command::RefcountClear) => client.refcount = false,
                Ok(wdmd::Command::TestLive) => {
                    client.renewal_s = message.renewal_time_s;
                    client.expire_s = message.expire_time_s;
                }
                Ok(wdmd::Command::Status) => {
                    answer = Some(Message {
                        fire_timeout_s,
                        test_interval_s,
                        ..message
                    })
                }
                Ok(wdmd::Command::OpenWatchdog) if knows_open => {
                    answer = Some(Message {
                        fire_timeout_s,
                        ..message
                    })
                }
                _ => {}
            }
        }
        if let Some(answer) = answer {
            stream.write_all(&answer.encode()).ok();
        }
    }
    clients.lock().expect("clients")[index].connected = false;
}

/// A lockspace name that is one.
pub fn name(text: &str) -> LockspaceName {
    LockspaceName::new(text).expect("valid")
}

/// A disk or file to write to behind everybody's back.
pub fn writable(path: &Path) -> fs::File {
    fs::File::options()
        .write(true)
        .open(path)
        .expect("writable")
}

/// How to start a `leased`.
#[derive(Clone)]
pub struct Setup {
    pub lockspace: String,
    pub host_id: u32,
    pub path: PathBuf,
    pub offset: u64,
    pub name: &'static str,
    pub io_timeout_s: u32,
    pub fire_timeout_s: u32,
    pub watchdog: Option<PathBuf>,
}

impl Setup {
    /// Host `name` with `host_id` in lockspace LS, io_timeout 1, no watchdog.
    pub fn new(path: &Path, name: &'static str, host_id: u32) -> Self {
        Self {
            lockspace: "LS".to_owned(),
            host_id,
            path: path.to_path_buf(),
            offset: 0,
            name,
            io_timeout_s: 1,
            fire_timeout_s: 60,
            watchdog: None,
        }
    }

    /// The same with its expiries registered at `wdmd`.
    pub fn watched_by(mut self, wdmd: &Wdmd) -> Self {
        self.watchdog = Some(wdmd.socket.clone());
        self
    }

    pub fn start(&self) -> Leased {
        // Socket paths are short; build directories may not be.
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("leased.sock");
        let log = dir.path().join("log");
        let path = self.path.display();
        let mut command = Command::new(env!("CARGO_BIN_EXE_leased"));
        command
            .args([
                "run",
                "--lockspace",
                &format!("{}:{}:{path}:{}", self.lockspace, self.host_id, self.offset),
            ])
            .args(["--io-timeout", &self.io_timeout_s.to_string()])
            .args(["--fire-timeout", &self.fire_timeout_s.to_string()])
            .args(["--host-name", self.name])
            .arg("--socket")
            .arg(&socket)
            .stderr(File::create(&log).expect("a log"));
        match &self.watchdog {
            Some(socket) => command.arg("--watchdog-socket").arg(socket),
            None => command.arg("--no-watchdog"),
        };
        let child = command.stdin(Stdio::null()).spawn().expect("leased starts");
        Leased {
            child,
            socket,
            log,
            _dir: dir,
        }
    }
}

/// A thread of a running `leased`.
#[derive(Debug)]
pub struct Thread {
    pub name: String,
    /// As proc(5) has it: `T` is stopped.
    pub state: char,
    /// Real-time priority; 0 is ordinary.
    pub priority: u32,
    /// Scheduling policy; 2 is round robin.
    pub policy: u32,
}

/// A running `leased`.
pub struct Leased {
    child: Child,
    pub socket: PathBuf,
    log: PathBuf,
    _dir: TempDir,
}

impl Leased {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The status, if it answers.
    pub fn try_status(&self) -> Option<LockspaceReport> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        stream.write_all(b"{\"request\":\"status\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        match serde_json::from_str(&line).ok()? {
            LeasedReply::Status { mut lockspaces } => lockspaces.pop(),
            LeasedReply::Error { .. } => None,
        }
    }

    /// Waits until the status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&LockspaceReport) -> bool) -> LockspaceReport {
        let start = Instant::now();
        loop {
            let status = self.try_status();
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            assert!(
                start.elapsed() < DEADLINE,
                "not within {DEADLINE:?}: {what}: {status:?}\n{}",
                self.log()
            );
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub fn until_state(&self, state: LockspaceState) -> LockspaceReport {
        self.until(&format!("{state:?}"), |status| status.state == state)
    }

    pub fn until_reason(&self, part: &str) -> LockspaceReport {
        self.until(part, |status| {
            status
                .reason
                .as_ref()
                .is_some_and(|reason| reason.contains(part))
        })
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, signal).expect("signalled");
    }

    /// Stops the whole process between two system calls; what was under way
    /// on the disk has ended when this returns.
    pub fn stop_in_its_tracks(&self) {
        self.signal(Signal::STOP);
        wait_for("every thread has stopped", || {
            self.threads()
                .iter()
                .all(|thread| thread.state == 'T')
                .then_some(())
        });
    }

    /// Its threads as the kernel shows them.
    pub fn threads(&self) -> Vec<Thread> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        tasks
            .filter_map(|task| {
                let text = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
                let fields: Vec<&str> = rest.split(' ').collect();
                // proc(5) counts from 1, with the state as number 3.
                let field = |number: usize| fields[number - 3].parse().expect("a number");
                Some(Thread {
                    name: name.to_owned(),
                    state: rest.chars().next()?,
                    priority: field(40),
                    policy: field(41),
                })
            })
            .collect()
    }

    /// A line of its status, in KiB.
    pub fn kib(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap_or_else(|| panic!("no {key} in\n{text}"))
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("ends");
        (status, self.log())
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ends");
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
