//! Connections with the real programs: open-iscsi against tgt, and the kernel's
//! own file systems, in namespaces of their own.
//!
//! The build machine's kernel has no iSCSI, so sessions exist in QEMU scenarios
//! only. What runs in user space does here: discovery, CHAP both ways, records.
//! In place of iscsid a thread answers iscsiadm's requests.

#![expect(clippy::unwrap_used, reason = "a failed helper fails the test")]

mod filesystems;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::storage::FailureKind;
use control::storage::connection::{Chap, Connection, Secret};
use storaged::connect::{self, Health, Places};
use storaged::job::Context;

/// Set in the process that runs inside its namespaces.
const INSIDE: &str = "HOLDFAST_TEST_INSIDE";

const TARGET: &str = "iqn.2026-11.example.holdfast:one";
const USER_SECRET: &str = "p#ss=word \"1\" of us";
const TARGET_SECRET: &str = "t'is the target's";

/// Runs this test again in namespaces of its own. True inside.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap_or_else(|error| panic!("unshare: {error}; apt-get install -y util-linux"));
    assert!(
        status.success(),
        "inside its namespaces the test failed ({status}); this needs root"
    );
    false
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; apt-get install -y open-iscsi tgt iproute2 e2fsprogs")
        });
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Repeats `attempt` until it holds.
fn until(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !attempt() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
        std::thread::yield_now();
    }
}

/// The target daemon with one target behind two portals.
struct Target(Child);

impl Target {
    fn start() -> Self {
        run("ip", &["link", "set", "lo", "up"]);
        fs::create_dir_all("/run/tgtd").unwrap();
        let daemon = Command::new("tgtd")
            .args([
                "-f",
                "--iscsi",
                "portal=127.0.0.1:3260,portal=127.0.0.2:3260",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("tgtd: {error}; apt-get install -y tgt"));
        let started = Self(daemon);
        until("tgtd answers", || {
            Command::new("tgtadm")
                .args(["--lld", "iscsi", "--op", "show", "--mode", "target"])
                .output()
                .is_ok_and(|output| output.status.success())
        });
        admin("new target", &["--tid", "1", "-T", TARGET]);
        admin("bind target", &["--tid", "1", "-I", "ALL"]);
        started
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn admin(what: &str, more: &[&str]) {
    let (op, mode) = what.split_once(' ').unwrap();
    let mut arguments = vec!["--lld", "iscsi", "--op", op, "--mode", mode];
    arguments.extend(more);
    run("tgtadm", &arguments);
}

/// What stands for iscsid.
#[derive(Default)]
struct Initiator {
    /// How logins end.
    login: AtomicU32,
    /// Every argument of every program that asked: they wait for the answer, so
    /// none is missed.
    arguments: Mutex<BTreeSet<String>>,
}

impl Initiator {
    /// Answers iscsiadm: the initiator's name, and how a login ended.
    fn start() -> Arc<Self> {
        const LOGIN: u32 = 1;
        let address = SocketAddr::from_abstract_name("ISCSIADM_ABSTRACT_NAMESPACE").unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let initiator = Arc::new(Self::default());
        let answering = Arc::clone(&initiator);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                answering.note_who_asks(&stream);
                let error = match u32::from_ne_bytes(request) {
                    LOGIN => answering.login.load(Ordering::SeqCst),
                    _ => 0,
                };
                let mut answer = vec![0; 16 << 10];
                answer[..4].copy_from_slice(&request);
                answer[4..8].copy_from_slice(&error.to_ne_bytes());
                let name = b"iqn.2026-11.example.holdfast:initiator";
                answer[8..8 + name.len()].copy_from_slice(name);
                // The asker closes when it has read as much as it wants.
                stream.write_all(&answer).ok();
            }
        });
        initiator
    }

    fn note_who_asks(&self, stream: &UnixStream) {
        let asker = rustix::net::sockopt::socket_peercred(stream).unwrap().pid;
        let path = format!("/proc/{}/cmdline", asker.as_raw_nonzero());
        let bytes = fs::read(path).unwrap();
        let words = bytes.split(|byte| *byte == 0);
        let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
        self.arguments.lock().unwrap().extend(words);
    }

    /// The arguments since the last time.
    fn arguments(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.arguments.lock().unwrap())
    }
}

/// The machine as iscsiadm needs it, and where its data base is: Debian 12 and
/// 13 differ.
fn initiator() -> Places {
    for folder in ["/run", "/etc/iscsi", "/var/lib/iscsi", "/sys/class"] {
        if folder != "/sys/class" {
            // Debian 12 has no /var/lib/iscsi.
            fs::create_dir_all(folder).unwrap();
        }
        run("mount", &["-t", "tmpfs", "tmpfs", folder]);
    }
    let transport = Path::new("/sys/class/iscsi_transport/tcp");
    fs::create_dir_all(transport).unwrap();
    fs::write(transport.join("handle"), "1").unwrap();
    fs::write(transport.join("caps"), "0x39").unwrap();
    fs::create_dir_all("/run/lock").unwrap();
    fs::write("/etc/iscsi/iscsid.conf", "node.startup = automatic\n").unwrap();
    let places = Places {
        initiator_name: "/etc/iscsi/initiatorname.iscsi".into(),
        ..Places::under(Path::new("/run/holdfast"))
    };
    connect::prepare(
        &places,
        10,
        Some("iqn.2026-11.example.holdfast:initiator"),
        "node",
    )
    .unwrap();
    run("iscsiadm", &["-m", "iface", "-I", "probe", "-o", "new"]);
    let db = ["/etc/iscsi", "/var/lib/iscsi"]
        .into_iter()
        .find(|db| Path::new(db).join("ifaces/probe").is_file())
        .expect("iscsiadm keeps its data base in one of two places");
    Places {
        iscsi_db: db.into(),
        ..places
    }
}

fn chap(user: &str, password: &str) -> Chap {
    Chap {
        user: user.into(),
        password: Secret(password.into()),
    }
}

fn iscsi(portals: &[&str], chap: Option<Chap>, mutual_chap: Option<Chap>) -> Connection {
    Connection::Iscsi {
        portals: portals.iter().map(|&portal| portal.to_owned()).collect(),
        target: Some(TARGET.into()),
        chap,
        mutual_chap,
        interface: None,
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return files;
    };
    for entry in entries.flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn iscsi_is_discovered_and_its_records_are_kept_with_the_real_programs() {
    if !inside("iscsi_is_discovered_and_its_records_are_kept_with_the_real_programs") {
        return;
    }
    let places = initiator();
    let _target = Target::start();
    let initiator = Initiator::start();
    let context = Context::quiet();
    discovery(&context, &places, &initiator);
    records(&context, &places, &initiator);
}

fn discovery(context: &Context, places: &Places, initiator: &Initiator) {
    // One portal of three is dead.
    let open = iscsi(&["127.0.0.1", "127.0.0.2:3260", "127.0.0.9"], None, None);
    let found = connect::discover(context, places, &open).unwrap();
    let portals: Vec<&str> = found.iter().map(|found| found.portal.as_str()).collect();
    assert_eq!(portals, ["127.0.0.1:3260,1", "127.0.0.2:3260,1"]);
    assert!(found.iter().all(|found| found.target == TARGET));
    let dead = connect::discover(context, places, &iscsi(&["127.0.0.9"], None, None));
    let dead = dead.unwrap_err();
    assert_eq!(dead.kind, FailureKind::Timeout, "{dead}");
    assert!(
        dead.message
            .starts_with("portal 127.0.0.9:3260: the portal does not answer")
    );

    admin("new account", &["--user", "us", "--password", USER_SECRET]);
    admin("bind account", &["--user", "us"]);
    let unnamed = connect::discover(context, places, &open).unwrap_err();
    assert_eq!(unnamed.kind, FailureKind::Denied, "{unnamed}");
    let wrong = iscsi(&["127.0.0.1"], Some(chap("us", "wrong password")), None);
    let wrong = connect::discover(context, places, &wrong).unwrap_err();
    assert_eq!(wrong.kind, FailureKind::Denied, "{wrong}");
    assert!(!wrong.message.contains("wrong password\""), "{wrong}");
    let ours = iscsi(&["127.0.0.1"], Some(chap("us", USER_SECRET)), None);
    assert!(
        !connect::discover(context, places, &ours)
            .unwrap()
            .is_empty()
    );

    admin(
        "new account",
        &["--user", "them", "--password", TARGET_SECRET],
    );
    admin("bind account", &["--user", "them", "--outgoing"]);
    let both = |secret: &str| {
        iscsi(
            &["127.0.0.1"],
            Some(chap("us", USER_SECRET)),
            Some(chap("them", secret)),
        )
    };
    initiator.arguments();
    let found = connect::discover(context, places, &both(TARGET_SECRET));
    assert!(!found.unwrap().is_empty());
    let arguments = initiator.arguments();
    assert!(
        arguments.contains("discoverydb"),
        "the programs are watched"
    );
    for secret in [USER_SECRET, TARGET_SECRET] {
        assert!(!arguments.iter().any(|argument| argument.contains(secret)));
    }
    let imposter = connect::discover(context, places, &both("another secret")).unwrap_err();
    assert_eq!(imposter.kind, FailureKind::Denied, "{imposter}");
    assert!(imposter.message.contains("the target did not prove itself"));

    // Neither nodes that would be started at boot nor secrets stay behind.
    for file in files_below(&places.iscsi_db) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("auth.password"), "{}", file.display());
        assert!(!file.starts_with(places.iscsi_db.join("nodes")));
    }
}

fn records(context: &Context, places: &Places, initiator: &Initiator) {
    let connection = iscsi(
        &["127.0.0.1", "127.0.0.2"],
        Some(chap("us", USER_SECRET)),
        Some(chap("them", TARGET_SECRET)),
    );
    assert_eq!(
        connect::check(context, places, &connection).unwrap(),
        Health::Absent
    );
    for (status, kind) in [(24, FailureKind::Denied), (8, FailureKind::Timeout)] {
        initiator.login.store(status, Ordering::SeqCst);
        let failure = connect::connect(context, places, &connection).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(TARGET), "{failure}");
    }
    // 15: the session exists.
    for status in [15, 0] {
        initiator.login.store(status, Ordering::SeqCst);
        let made = connect::connect(context, places, &connection).unwrap();
        assert_eq!(made.warnings, Vec::<String>::new());
        let arguments = initiator.arguments();
        assert!(arguments.contains("--login"));
        assert!(
            !arguments
                .iter()
                .any(|argument| argument.contains(USER_SECRET))
        );
    }
    let nodes: Vec<PathBuf> = files_below(&places.iscsi_db.join("nodes"));
    assert_eq!(nodes.len(), 2);
    for node in &nodes {
        assert_eq!(
            fs::metadata(node).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    // The original reads what we wrote.
    let shown = run(
        "iscsiadm",
        &["-m", "node", "-T", TARGET, "-p", "127.0.0.2:3260", "-S"],
    );
    for line in [
        "node.startup = manual".to_owned(),
        "node.session.auth.authmethod = CHAP".to_owned(),
        "node.session.auth.username = us".to_owned(),
        format!("node.session.auth.password = {USER_SECRET}"),
        "node.session.auth.username_in = them".to_owned(),
        format!("node.session.auth.password_in = {TARGET_SECRET}"),
        "node.conn[0].address = 127.0.0.2".to_owned(),
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} in {shown}"
        );
    }
    let bound = Connection::Iscsi {
        portals: vec!["127.0.0.1".into()],
        target: Some(TARGET.into()),
        chap: Some(chap("us", USER_SECRET)),
        mutual_chap: Some(chap("them", TARGET_SECRET)),
        interface: Some("second=lo".into()),
    };
    connect::connect(context, places, &bound).unwrap();
    let shown = run("iscsiadm", &["-m", "iface", "-I", "second"]);
    assert!(shown.contains("iface.net_ifacename = lo"), "{shown}");
    assert_eq!(
        fs::read_to_string("/proc/sys/net/ipv4/conf/lo/rp_filter")
            .unwrap()
            .trim(),
        "2"
    );
    // What another connection wants stays.
    connect::disconnect(context, places, &connection, std::slice::from_ref(&bound)).unwrap();
    let left = files_below(&places.iscsi_db.join("nodes"));
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].ends_with("second"));
    connect::disconnect(context, places, &bound, &[]).unwrap();
    assert_eq!(
        files_below(&places.iscsi_db.join("nodes")),
        Vec::<PathBuf>::new()
    );
    connect::disconnect(context, places, &bound, &[]).unwrap();
    every_target(context, places);
}

/// Connections to whatever the portals offer.
fn every_target(context: &Context, places: &Places) {
    let every = |portals: &[&str]| Connection::Iscsi {
        portals: portals.iter().map(|&portal| portal.to_owned()).collect(),
        target: None,
        chap: Some(chap("us", USER_SECRET)),
        mutual_chap: Some(chap("them", TARGET_SECRET)),
        interface: None,
    };
    let both = every(&["127.0.0.1", "127.0.0.2"]);
    let sessions = [
        format!("{TARGET} 127.0.0.1:3260"),
        format!("{TARGET} 127.0.0.2:3260"),
    ];
    let made = connect::connect(context, places, &both).unwrap();
    assert_eq!(made.warnings, Vec::<String>::new());
    assert_eq!(made.sessions, sessions);
    // A target that is offered no more is not missed for ever.
    let memory = places.state.join(format!("{}.sessions", both.id()));
    let gone =
        r#",{"target":"iqn.2026-11.test:gone","portal":"127.0.0.1:3260","interface":"default"}]"#;
    let text = fs::read_to_string(&memory).unwrap().replace(']', gone);
    fs::write(&memory, &text).unwrap();
    assert_eq!(
        connect::connect(context, places, &both).unwrap().sessions,
        sessions
    );
    assert!(!fs::read_to_string(&memory).unwrap().contains("gone"));
    connect::disconnect(context, places, &both, &[]).unwrap();

    // A portal that does not answer is told, although another one does, and what it
    // alone may know of is not forgotten.
    let one_dead = every(&["127.0.0.1", "127.0.0.9"]);
    let memory = places.state.join(format!("{}.sessions", one_dead.id()));
    let text = text.replace("127.0.0.2:3260", "127.0.0.1:3260");
    fs::write(&memory, text).unwrap();
    let made = connect::connect(context, places, &one_dead).unwrap();
    assert!(
        made.warnings[0].starts_with("portal 127.0.0.9:3260: "),
        "{made:?}"
    );
    assert!(made.sessions.iter().any(|session| session.contains("gone")));
    connect::disconnect(context, places, &one_dead, &[]).unwrap();
    assert_eq!(
        files_below(&places.iscsi_db.join("nodes")),
        Vec::<PathBuf>::new()
    );
    // Wrong secrets: nothing is left of the attempt but what disconnecting takes.
    let mut wrong = every(&["127.0.0.1"]);
    if let Connection::Iscsi { chap: ours, .. } = &mut wrong {
        *ours = Some(chap("us", "not the secret"));
    }
    let refused = connect::connect(context, places, &wrong).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Denied, "{refused}");
    assert!(!refused.message.contains("not the secret"), "{refused}");
}

#[test]
fn file_systems_are_mounted_adopted_and_left() {
    if !inside("file_systems_are_mounted_adopted_and_left") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let places = Places::under(home.path());
    let context = Context::quiet();
    filesystems::memory_file_system(&context, &places);
    filesystems::disk_file_system(&context, &places, home.path());
    filesystems::local_directory(&context, &places, home.path());
    filesystems::what_cannot_be_mounted(&context, &places);
}

#[test]
fn multipath_itself_reads_what_we_write_for_it() {
    if !inside("multipath_itself_reads_what_we_write_for_it") {
        return;
    }
    // Its configuration's place is fixed: /etc is covered by a copy of what it needs.
    let libraries = fs::read("/etc/ld.so.cache").unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", "/etc"]);
    fs::write("/etc/ld.so.cache", libraries).unwrap();
    let places = Places {
        multipath_conf: "/etc/multipath.conf".into(),
        multipath_dir: "/etc/multipath".into(),
        ..Places::under(Path::new("/etc/holdfast"))
    };
    connect::prepare(&places, 15, None, "node").unwrap();
    let local = places.multipath_dir.join("conf.d/vdsm_blacklist.conf");
    let text = fs::read_to_string(&local).unwrap();
    let listed = text.replace("blacklist {", "blacklist {\n    wwid \"^3600508$\"");
    fs::write(&local, listed).unwrap();
    let output = Command::new("multipath")
        .arg("-t")
        .output()
        .unwrap_or_else(|error| panic!("multipath: {error}; apt-get install -y multipath-tools"));
    let shown = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap() + &shown;
    let complaints: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("/etc/multipath"))
        .filter(|line| !line.trim().starts_with(['b', 'w', 'p']))
        // A word that multipath knows since 0.10; Debian 12 has 0.9.
        .filter(|line| !line.contains("invalid value for flush_on_last_del: \"always\""))
        .collect();
    assert_eq!(complaints, Vec::<&str>::new());
    let section = |name: &str| {
        let from = shown.find(&format!("\n{name} {{")).unwrap_or(0);
        shown[from..].split("\n}").next().unwrap().to_owned()
    };
    let defaults = section("defaults");
    for setting in [
        "polling_interval 5",
        "no_path_retry 24",
        "user_friendly_names \"no\"",
        "find_multipaths \"greedy\"",
        "fast_io_fail_tmo 5",
        "dev_loss_tmo 30",
        "max_fds 4096",
    ] {
        assert!(defaults.contains(setting), "{setting} in {defaults}");
    }
    assert!(section("overrides").contains("no_path_retry 24"));
    let blacklist = section("blacklist");
    for entry in ["^3600508$", "^(rbd)[0-9]*", "(scsi:adt|scsi:sbp)"] {
        assert!(blacklist.contains(entry), "{entry} in {blacklist}");
    }
}
