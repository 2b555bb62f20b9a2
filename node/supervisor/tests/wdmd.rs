//! wdmd's socket over a fake device: hostile clients, the original `sanlock`
//! daemon, and the original `wdmd -d`.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test panic as the test does"
)]
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use control::wdmd::{Command as Wdmd, MESSAGE_BYTES, Message};
use supervisor::watchdog::guard::Device;
use supervisor::watchdog::stand_alone::StandAlone;

const INSTALL: &str = "apt-get install --yes sanlock util-linux";

#[derive(Debug, Default)]
struct Seen {
    pets: AtomicU32,
    disarmed: AtomicBool,
}

#[derive(Debug)]
struct Fake(Arc<Seen>);

impl Device for Fake {
    fn path(&self) -> &Path {
        Path::new("/dev/watchdog-fake")
    }
    fn identity(&self) -> &'static str {
        "fake"
    }
    fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        Ok(seconds)
    }
    fn timeout(&self) -> io::Result<u32> {
        Ok(60)
    }
    fn pet(&self) -> io::Result<()> {
        self.0.pets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn disarm(self: Box<Self>) -> io::Result<()> {
        self.0.disarmed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

struct Server {
    folder: tempfile::TempDir,
    server: StandAlone,
    seen: Arc<Seen>,
}

fn server(fire_timeout_s: u32) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Seen::default());
    let device = Box::new(Fake(seen.clone()));
    let server = StandAlone::start(
        &folder.path().join("wdmd.sock"),
        Some(device),
        fire_timeout_s,
    )
    .unwrap();
    Server {
        folder,
        server,
        seen,
    }
}

impl Server {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("wdmd.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }
}

fn wait_for(what: &str, seconds: u64, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !met() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn status(stream: &mut UnixStream) -> Message {
    stream
        .write_all(&Message::new(Wdmd::Status).encode())
        .unwrap();
    let mut bytes = [0; MESSAGE_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    Message::decode(&bytes)
}

fn live(stream: &mut UnixStream, expire_time_s: u64) {
    let message = Message {
        expire_time_s,
        ..Message::new(Wdmd::TestLive)
    };
    stream.write_all(&message.encode()).unwrap();
}

fn monotonic_s() -> u64 {
    linux::system::monotonic().as_secs()
}

#[test]
fn garbage_silence_and_half_messages_hold_up_nobody() {
    let server = server(60);
    let silent = server.connect();
    let mut half = server.connect();
    half.write_all(&[1; MESSAGE_BYTES - 1]).unwrap();
    let mut garbage = server.connect();
    garbage.write_all(&[0xff; MESSAGE_BYTES * 10]).unwrap();
    // One that asks and never reads: its answers fill its buffer and no more.
    let mut deaf = server.connect();
    deaf.set_nonblocking(true).unwrap();
    while deaf
        .write_all(&Message::new(Wdmd::DumpDebug).encode())
        .is_ok()
    {}
    let mut honest = server.connect();
    let answer = status(&mut honest);
    assert_eq!((answer.fire_timeout_s, answer.test_interval_s), (60, 10));
    drop((silent, half, garbage, deaf));
    assert_eq!(status(&mut honest).fire_timeout_s, 60);
    assert_eq!(server.server.report().state, "armed");
}

#[test]
fn pets_stop_near_an_expiry_come_back_with_a_renewal_and_end_with_a_crash() {
    // 9 s: checked every second.
    let server = server(9);
    wait_for("first pets", 60, || {
        server.seen.pets.load(Ordering::SeqCst) >= 2
    });
    let mut client = server.connect();
    live(&mut client, monotonic_s() + 1);
    wait_for("withheld", 60, || {
        server.server.report().state == "withheld"
    });
    let before = server.seen.pets.load(Ordering::SeqCst);
    live(&mut client, monotonic_s() + 10_000);
    wait_for("armed again", 60, || {
        server.server.report().state == "armed" && server.seen.pets.load(Ordering::SeqCst) > before
    });
    live(&mut client, monotonic_s() + 2);
    drop(client);
    wait_for("withheld for good", 60, || {
        let report = server.server.report();
        report.state == "withheld" && report.clients.iter().any(|client| !client.connected)
    });
    assert!(!server.seen.disarmed.load(Ordering::SeqCst));
}

/// The daemon insists on raising its limits, which containers without
/// CAP_SYS_RESOURCE refuse. What it locks in memory is no matter here, so the
/// library made here tells it that it succeeded.
fn unlimited(folder: &Path) -> PathBuf {
    let source = folder.join("unlimited.c");
    let library = folder.join("unlimited.so");
    let text = "int setrlimit(int r, const void *l) { return 0; }\n\
                int setrlimit64(int r, const void *l) { return 0; }\n";
    std::fs::write(&source, text).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap_or_else(|error| panic!("cc: {error}; apt-get install --yes gcc"));
    assert!(made.success(), "cc: {made}");
    library
}

/// The original daemon in a mount namespace of its own, where `/run/wdmd` is ours.
struct Sanlock {
    daemon: Child,
    run: PathBuf,
}

impl Sanlock {
    fn start(server: &Server) -> Self {
        let run = server.folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/wdmd && mount --bind \"$1\" /run/wdmd && \
                      LD_PRELOAD=\"$2\" exec sanlock daemon -D -w 1 -h 0 -l 0 -U root -G root -e node-original";
        let daemon = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(server.folder.path())
            .arg(unlimited(server.folder.path()))
            .env("SANLOCK_RUN_DIR", &run)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("unshare: {error}; {INSTALL}"));
        let socket = run.join("sanlock.sock");
        let mut sanlock = Self { daemon, run };
        wait_for(
            &format!("sanlock's socket (is it installed? {INSTALL})"),
            60,
            || {
                let ended = sanlock.daemon.try_wait().unwrap();
                assert!(
                    ended.is_none(),
                    "sanlock ended with {ended:?}; run as root, and: {INSTALL}"
                );
                socket.exists()
            },
        );
        sanlock
    }

    fn client(&self, action: &str, lockspace: &str) {
        let output = Command::new("sanlock")
            .args(["client", action, "-s", lockspace])
            .env("SANLOCK_RUN_DIR", &self.run)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "sanlock client {action}: {output:?}"
        );
    }
}

impl Drop for Sanlock {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

#[test]
fn the_original_sanlock_registers_renews_and_leaves() {
    let server = server(60);
    let area = server.folder.path().join("area");
    std::fs::write(&area, vec![0; 1 << 20]).unwrap();
    let sanlock = Sanlock::start(&server);
    let lockspace = format!("LS:1:{}:0", area.display());
    sanlock.client("init", &lockspace);
    sanlock.client("add_lockspace", &lockspace);
    let registered = || {
        let clients = server.server.report().clients;
        clients
            .into_iter()
            .find(|client| client.name == "sanlock_LS:1")
    };
    let mut first = None;
    wait_for("registration", 60, || {
        first = registered().and_then(|client| client.expires_in_ms);
        first.is_some()
    });
    let pid = registered().unwrap().pid;
    assert_eq!(pid, sanlock.daemon.id(), "the daemon's own process id");
    assert!(first.unwrap() <= 80_000, "8 × io_timeout at most");
    // Renewals come every 20 s: what is left grows again.
    let mut lowest = i64::MAX;
    wait_for("a renewal", 90, || {
        let left = registered().and_then(|client| client.expires_in_ms);
        let left = left.unwrap();
        let renewed = left > lowest.saturating_add(5_000);
        lowest = lowest.min(left);
        renewed
    });
    sanlock.client("rem_lockspace", &lockspace);
    wait_for("a clean leave", 60, || registered().is_none());
    let report = server.server.report();
    assert_eq!((report.state.as_str(), report.clients.len()), ("armed", 0));

    // Again, and this time it is killed: what it registered stays.
    sanlock.client("add_lockspace", &lockspace);
    wait_for("registration", 60, || {
        registered().is_some_and(|client| client.expires_in_ms.is_some())
    });
    drop(sanlock);
    wait_for("its connection to end", 60, || {
        registered().is_some_and(|client| !client.connected && client.expires_in_ms.is_some())
    });
}

#[test]
fn the_originals_debug_dump_ends_and_names_clients() {
    let server = server(60);
    let mut client = server.connect();
    let name = Message {
        name: b"sanlock_LS:7".to_vec(),
        ..Message::new(Wdmd::Register)
    };
    client.write_all(&name.encode()).unwrap();
    assert_eq!(status(&mut client).fire_timeout_s, 60);
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/wdmd && mount --bind \"$1\" /run/wdmd && exec wdmd -d";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(server.folder.path())
        .output()
        .unwrap_or_else(|error| panic!("unshare: {error}; {INSTALL}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("sanlock_LS:7"),
        "wdmd -d (as root; {INSTALL}): {output:?}"
    );
}
