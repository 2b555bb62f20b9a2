//! A storage daemon in a directory of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Every wait for a condition ends in failure after this: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(240);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `probe` gives something.
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// A directory where direct I/O works.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// The daemon, built beside the test's own program.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = Path::new(env!("CARGO_BIN_EXE_nodectl"));
        let folder = own.parent().expect("the folder of a profile");
        let profile = match folder.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "storaged",
                "--bin",
                "storaged",
            ])
            .args(["--profile", profile, "--target-dir"])
            .arg(folder.parent().expect("the target folder"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "building storaged: {built}");
        folder.join("storaged")
    })
}

/// What a run of nodectl left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    dir: TempDir,
    /// The lease daemon's socket, where there is one.
    leases: Option<PathBuf>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let config = json!({
            "pool": null, "host_id": 0, "spm": "manual", "manager": "pool",
            "io_timeout_s": 2, "initiator_name": null, "connections": [],
        });
        Self::start_in(directory(), &config)
    }

    pub(crate) fn start_in(dir: TempDir, config: &Value) -> Self {
        Self::start_at(dir, config, None)
    }

    pub(crate) fn start_at(dir: TempDir, config: &Value, leases: Option<&Path>) -> Self {
        std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
        let leases = leases.map(Path::to_owned);
        let child = spawn(dir.path(), leases.as_deref());
        let daemon = Self { child, dir, leases };
        daemon.answers();
        daemon
    }

    fn answers(&self) {
        until("the daemon answers", || {
            (self.run(["storage", "status"]).status == 0).then_some(())
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("storaged.sock")
    }

    /// Ends it as the supervisor does. Whether it ended in order.
    pub(crate) fn stop(&mut self) -> bool {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process"), Signal::TERM).expect("it runs");
        let status = until("the daemon ends", || {
            self.child.try_wait().expect("our child")
        });
        status.success() && !self.socket().exists()
    }

    /// Ends it as nothing else does.
    pub(crate) fn crash_and_restart(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("our child");
        self.child = spawn(self.dir.path(), self.leases.as_deref());
        self.answers();
    }

    pub(crate) fn restart(&mut self) {
        assert!(self.stop(), "it ends in order");
        self.child = spawn(self.dir.path(), self.leases.as_deref());
        self.answers();
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_nodectl"))
            .args(arguments)
            .env("HOLDFAST_STORAGED_SOCKET", self.socket())
            .stdin(Stdio::null())
            .output()
            .expect("nodectl runs");
        Ran {
            status: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Runs it and wants it done; its data.
    pub(crate) fn done<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.status, 0, "{ran:?}\n{}", self.log());
        for line in ran.out.lines() {
            // Ids and paths are never cut.
            let long = line.chars().count() > 80 && line.contains(' ') && !line.contains('/');
            assert!(!long, "wider than a serial console: {line}");
        }
        ran.out
    }

    /// The same with `--json`.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let mut all: Vec<_> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        all.push("--json".into());
        let ran = self.run(all);
        assert_eq!(ran.status, 0, "{ran:?}\n{}", self.log());
        assert_eq!(ran.out.lines().count(), 1, "one line: {ran:?}");
        serde_json::from_str(&ran.out).expect("JSON")
    }

    /// A directory of this daemon's.
    pub(crate) fn folder_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new one.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder_of(name);
        std::fs::create_dir(&folder).expect("a directory");
        folder
    }

    /// Connects a new directory and makes a domain in it; its id.
    pub(crate) fn domain(&self, name: &str, folder: &str) -> String {
        self.domain_of(name, folder, "5")
    }

    /// The same, of a version.
    pub(crate) fn domain_of(&self, name: &str, folder: &str, version: &str) -> String {
        let data = self.folder(folder);
        let path = data.to_str().expect("text");
        let made = self.json(["storage", "connect", "local", path]);
        let connection = made["connection"]["id"].as_str().expect("an id");
        let order = ["domain", "create", name, "--connection", connection];
        let made = self.json(order.into_iter().chain(["--format", version]));
        made["made"]["id"].as_str().expect("an id").to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}

fn spawn(dir: &Path, leases: Option<&Path>) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log");
    Command::new(program())
        .args(["run", "--host-name", "node1"])
        .arg("--config")
        .arg(dir.join("config.json"))
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--socket")
        .arg(dir.join("storaged.sock"))
        .arg("--state")
        .arg(dir.join("state"))
        .args(leases.map(|_| "--sanlock"))
        .args(leases)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the daemon starts")
}
