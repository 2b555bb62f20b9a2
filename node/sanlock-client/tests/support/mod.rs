//! Lease daemons of a test's own: ours or the original, each with a directory
//! of its own and no watchdog, so that any number of "hosts" live on one machine.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use sanlock_client::{Client, Lockspace};

/// Every wait for a condition ends in failure after this: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// Of one call.
pub const CALL: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Seconds a test's host may take for one I/O: a busy machine must not lose
/// leases, whose holder is the test itself.
pub const IO_TIMEOUT_S: u32 = 3;

/// Whose daemon a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Original,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Ours, Self::Original];
}

/// Waits until `probe` gives something.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::park_timeout(LOOK);
    }
}

/// A program of the workspace, built beside the test's own.
pub fn built(package: &str, binary: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test's program");
    let dir = test
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "deps"))
        .and_then(Path::parent)
        .expect("the folder of a profile");
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", package, "--bin", binary])
        .args(["--profile", profile, "--target-dir"])
        .arg(dir.parent().expect("the target folder"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "building {package}: {built}");
    dir.join(binary)
}

fn leased() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("leased", "leased"))
}

/// A directory where direct I/O works.
pub fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for disks")
}

/// A file of so many MiB, all zeros.
pub fn file(path: &Path, mib: u64) {
    File::create(path)
        .and_then(|file| file.set_len(mib << 20))
        .expect("a file");
}

/// A running daemon.
pub struct Host {
    pub kind: Kind,
    child: Child,
    dir: tempfile::TempDir,
}

impl Host {
    pub fn start(kind: Kind, name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = match kind {
            Kind::Original => {
                let path = PathBuf::from("/usr/sbin/sanlock");
                assert!(
                    path.exists(),
                    "sanlock is missing; install it with: apt-get install -y sanlock"
                );
                path
            }
            Kind::Ours => {
                let link = dir.path().join("sanlock");
                std::os::unix::fs::symlink(leased(), &link).expect("a link");
                link
            }
        };
        let log = File::create(dir.path().join("log")).expect("a log");
        let child = Command::new(program)
            .args(["daemon", "-D", "-w", "0", "-l", "0", "-h", "0"])
            .args(["-U", "root", "-G", "root", "-e", name])
            .env("SANLOCK_RUN_DIR", dir.path())
            .env("SANLOCK_PRIVILEGED", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            // It may kill its own process group, which must not be the test's.
            .process_group(0)
            .spawn()
            .expect("the daemon starts");
        let host = Self { kind, child, dir };
        let client = host.client();
        until("the daemon answers", || {
            client.lockspaces(Duration::from_secs(5)).ok()
        });
        host
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sanlock.sock")
    }

    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn join(&self, space: &Lockspace) {
        self.client()
            .add_lockspace(space, IO_TIMEOUT_S, DEADLINE)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("signalled");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {:?}:\n{}", self.kind, self.log());
        }
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process_group(group.expect("a pid"), Signal::KILL).ok();
        self.child.wait().ok();
    }
}
