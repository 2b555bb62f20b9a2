//! `nodectl lease` against the lease daemon itself: one lease's life as an
//! operator sees it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use control::lease::{LeaseReport, OwnerReport};

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
const OFFSET: &str = "1048576";

/// A daemon of our own with a disk of its own.
struct Bench {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

/// The daemon's program, built beside ours.
fn leased() -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_nodectl"));
    let dir = ours.parent().expect("a folder with programs");
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "leased", "--bin", "leased"])
        .args(["--profile", profile, "--target-dir"])
        .arg(dir.parent().expect("the target folder"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "building leased: {built}");
    dir.join("leased")
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        File::create(dir.path().join("disk"))
            .and_then(|disk| disk.set_len(16 << 20))
            .expect("a disk");
        // Called so, it is the daemon that any host may run.
        let program = dir.path().join("sanlock");
        std::os::unix::fs::symlink(leased(), &program).expect("a link");
        let daemon = Command::new(&program)
            .args(["daemon", "-D", "-w", "0", "-l", "0", "-h", "0"])
            .args(["-U", "root", "-G", "root", "-e", "here"])
            .env("SANLOCK_RUN_DIR", dir.path())
            .env("SANLOCK_PRIVILEGED", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let bench = Self { dir, daemon };
        bench.until("the daemon answers", || {
            bench.run("lease status").status.success().then_some(())
        });
        bench
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodectl"));
        let disk = self.dir.path().join("disk");
        let words = line.split(' ').map(|word| match word {
            "DISK" => disk.as_os_str().to_owned(),
            word => word.into(),
        });
        command.args(words).env("SANLOCK_RUN_DIR", self.dir.path());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("nodectl runs")
    }

    /// Expects exit status 0; gives what it printed.
    fn done(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Expects exit status 1; gives what it said.
    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    fn report(&self) -> LeaseReport {
        serde_json::from_str(&self.done("lease status --json")).expect("a report")
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}"
            );
            std::thread::park_timeout(LOOK);
        }
    }
}

#[test]
fn a_lease_is_made_held_shown_and_given_back() {
    let bench = Bench::new();
    bench.done("lockspace init LS --path DISK --io-timeout 1");
    let joined = bench.done("lease join LS --host-id 1 --path DISK --io-timeout 1");
    assert_eq!(joined, "joined LS as host 1\n");
    let again = bench.refused("lease join LS --host-id 1 --path DISK --io-timeout 1");
    assert!(again.contains("(-17)"), "{again}");

    let place = format!("LS:vm1 --path DISK --offset {OFFSET}");
    bench.done(&format!("lease create {place} --num-hosts 8"));
    let kept = bench.refused(&format!("lease create {place}"));
    assert!(kept.contains("--force LS:vm1"), "{kept}");
    assert_eq!(bench.done(&format!("lease owners {place}")), "free\n");

    // The command ends with its input.
    let mut holder = bench
        .command(&format!("lease run {place} -- cat"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("nodectl runs");
    let pid = i32::try_from(holder.id()).expect("a process id");
    let held = bench.until("the lease is held", || {
        let report = bench.report();
        let found = report.resources.into_iter().find(|r| r.state == "held");
        found.filter(|held| held.pids == [pid])
    });
    assert_eq!((held.lockspace.as_str(), held.name.as_str()), ("LS", "vm1"));
    assert_eq!((held.shared, held.lver), (false, Some(1)));
    let owners: Vec<OwnerReport> =
        serde_json::from_str(&bench.done(&format!("lease owners {place} --json"))).expect("owners");
    assert_eq!(owners.len(), 1);
    assert_eq!((owners[0].host_id, owners[0].generation), (1, 1));
    let shown = bench.done("lease status");
    assert!(shown.contains("LS:vm1"), "{shown}");
    assert!(shown.contains("held, LS as host 1"), "{shown}");
    assert_eq!(bench.done("lease waits"), "nobody waits for a lease\n");

    let second = bench.refused(&format!("lease run {place} -- true"));
    assert!(second.contains("(-17)"), "{second}");
    let busy = bench.refused("lease leave LS");
    assert!(busy.contains("(-16)"), "{busy}");
    bench.done(&format!("lease convert LS:vm1 --pid {pid} --shared"));
    assert!(bench.report().resources.iter().any(|lease| lease.shared));

    drop(holder.stdin.take());
    assert!(holder.wait().expect("it ends").success());
    bench.until("the lease is given back", || {
        bench.report().resources.is_empty().then_some(())
    });
    assert_eq!(bench.done("lease leave LS"), "left LS\n");
    let gone = bench.refused("lease leave LS");
    assert!(gone.contains("not joined"), "{gone}");
}

#[test]
fn mistakes_name_the_word_and_say_what_is_allowed() {
    let bench = Bench::new();
    let cases = [
        ("lease create vm1 --path DISK --offset 0", "LOCKSPACE:NAME"),
        ("lease join LS --host-id 2001 --path DISK", "2001"),
        ("lease release LS:vm1 --pid 0", "0"),
        ("lease convert LS:vm1 --pid 1", "--shared"),
    ];
    for (line, expected) in cases {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{line}: {said}");
    }
    let stranger = bench.refused("lease release LS:vm1 --pid 1");
    assert!(stranger.contains("(-3)"), "{stranger}");
}

#[test]
fn without_a_daemon_the_next_step_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_nodectl"))
        .args(["lease", "status"])
        .env("SANLOCK_RUN_DIR", dir.path())
        .output()
        .expect("nodectl runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no lease daemon listens on"), "{said}");
    assert!(said.contains("SANLOCK_RUN_DIR"), "{said}");
}
