//! Users of a lockspace that ends, and what hosts tell each other: signals,
//! killpath, grace, restrictions, requests, events (spec §5, §6.4, §6.6).

mod daemon_support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use control::lease::LeaseReport;
use daemon_support::{Client, DEADLINE, Daemon, disk_dir, file, lockspace, resource, wait_for};
use sanlock_wire::{
    ConfigAction, DiskPath, EventFlags, EventMessage, ForceMode, HostEvent, KillpathFlags,
    RemoveFlags, ReplyBody, Request, RequestFlags, RestrictFlags, Target,
};

/// Tells [`client_process`] what to be.
const PART: &str = "LEASED_TEST_CLIENT";

/// Not a test: the process that holds a lease, and may be killed for it.
#[test]
fn client_process() {
    let Ok(part) = env::var(PART) else { return };
    let words: Vec<&str> = part.split('|').collect();
    let [socket, disk, number, restrict, killpath] = words.as_slice() else {
        panic!("five words: {part}");
    };
    let stream = std::os::unix::net::UnixStream::connect(socket).expect("connects");
    let mut client = Client { stream };
    client.send(&Request::Register);
    if !killpath.is_empty() {
        let reply = client.ask(&Request::Killpath {
            target: Target::ThisConnection,
            flags: KillpathFlags::PID,
            path: DiskPath::new(killpath.as_bytes()).expect("a path"),
            arguments: b"one two\\ words".as_slice().into(),
        });
        assert_eq!(reply.result, 0);
    }
    let flags = RestrictFlags(restrict.parse().expect("a number"));
    assert_eq!(client.ask(&Request::Restrict { flags }).result, 0);
    let lease = resource(Path::new(disk), number.parse().expect("a number"));
    println!("acquired {}", client.acquire(std::slice::from_ref(&lease)));
    // Until told to release, or the parent ends, or somebody kills this.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a pipe");
    if line.starts_with("release") {
        println!("released {}", client.release(&[lease]));
        std::io::stdin().read_to_string(&mut line).expect("a pipe");
    }
}

/// A process with a lease.
struct User {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

struct Part<'a> {
    restrict: RestrictFlags,
    killpath: Option<&'a Path>,
    deaf: bool,
}

const PLAIN: Part<'_> = Part {
    restrict: RestrictFlags::NONE,
    killpath: None,
    deaf: false,
};

impl User {
    fn start(daemon: &Daemon, disk: &Path, number: u64, part: &Part<'_>) -> Self {
        let words = [
            daemon.socket().display().to_string(),
            disk.display().to_string(),
            number.to_string(),
            part.restrict.0.to_string(),
            part.killpath
                .map_or(String::new(), |path| path.display().to_string()),
        ];
        // A signal that is ignored stays ignored in the program that follows.
        let trap = if part.deaf { "trap '' TERM; " } else { "" };
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("{trap}exec \"$0\" \"$@\"")])
            .arg(env::current_exe().expect("this program"))
            .args(["--exact", "client_process", "--nocapture"])
            .env(PART, words.join("|"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut user = Self { child, output };
        user.until_says("acquired 0");
        user
    }

    fn until_says(&mut self, what: &str) {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            let length = self.output.read_line(&mut line).expect("a line");
            assert!(length > 0, "ended without saying {what:?}");
        }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// The signal that ended it.
    fn end(&mut self) -> Option<i32> {
        wait_for("the user ends", || self.child.try_wait().expect("a child")).signal()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A daemon that has joined LS as host 1, with two leases.
fn joined(path: &Path) -> Daemon {
    joined_with(path, &["-w", "0"])
}

fn joined_with(path: &Path, arguments: &[&str]) -> Daemon {
    let daemon = Daemon::start_with("hostA", arguments);
    daemon.init(path, 2);
    assert_eq!(daemon.add(&lockspace(path, 1)), 0);
    daemon
}

/// Makes the delta lease of host 1 somebody else's.
fn spoil(path: &Path) {
    let disk = fs::File::options().write(true).open(path).expect("a disk");
    disk.write_all_at(&[0; 4], 0).expect("written");
    disk.sync_all().expect("synced");
}

#[test]
fn removing_a_lockspace_kills_its_users_at_once() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let mut user = User::start(&daemon, &path, 1, &PLAIN);
    let unused = daemon.ask(&Request::RemLockspace {
        lockspace: lockspace(&path, 1),
        flags: RemoveFlags::UNUSED,
    });
    assert_eq!(unused.result, -16);
    assert_eq!(daemon.rem(&lockspace(&path, 1)), 0);
    assert_eq!(user.end(), Some(9));
    // It can be added again, and the lease taken.
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let _next = User::start(&daemon, &path, 1, &PLAIN);
}

#[test]
fn restrictions_turn_one_signal_into_the_other() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let part = Part {
        restrict: RestrictFlags::SIGKILL,
        ..PLAIN
    };
    let mut user = User::start(&daemon, &path, 1, &part);
    assert_eq!(daemon.rem(&lockspace(&path, 1)), 0);
    assert_eq!(user.end(), Some(15));
}

#[test]
fn users_of_a_lost_lockspace_are_asked_and_after_the_grace_killed() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined_with(&path, &["-w", "0", "-g", "1"]);
    let mut hearing = User::start(&daemon, &path, 1, &PLAIN);
    let part = Part {
        deaf: true,
        ..PLAIN
    };
    let mut deaf = User::start(&daemon, &path, 2, &part);
    spoil(&path);
    assert_eq!(hearing.end(), Some(15));
    assert_eq!(deaf.end(), Some(9));
    wait_for("the lockspace is forgotten", || {
        let inquired = daemon.ask(&Request::InqLockspace {
            lockspace: lockspace(&path, 1),
            flags: sanlock_wire::InquireFlags::NONE,
        });
        (inquired.result == -2).then_some(())
    });
    assert!(daemon.log().contains("lockspace lost: -223"));
}

#[test]
fn killpath_runs_once_with_its_arguments_and_who_releases_survives() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let (script, said) = (dir.path().join("killpath"), dir.path().join("said"));
    let text = format!(
        "#!/bin/sh\nfor word in \"$@\"; do echo \"$word\"; done >> {}\n",
        said.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    let part = Part {
        killpath: Some(&script),
        ..PLAIN
    };
    let mut user = User::start(&daemon, &path, 1, &part);
    spoil(&path);
    let words = format!("one\ntwo words\n{}\n", user.pid());
    wait_for("killpath has run", || {
        fs::read_to_string(&said).ok().filter(|said| *said == words)
    });
    // What it is for: the user releases in its own way.
    let input = user.child.stdin.as_mut().expect("a pipe");
    std::io::Write::write_all(input, b"release\n").expect("told");
    user.until_says("released");
    wait_for("the lockspace is forgotten", || {
        daemon.log().contains("s1 lockspace ended").then_some(())
    });
    assert_eq!(user.child.try_wait().expect("a child"), None, "it lives");
    assert_eq!(fs::read_to_string(&said).expect("said"), words, "once");
}

#[test]
fn a_killpath_that_is_not_there_is_made_up_for_by_a_signal() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let part = Part {
        killpath: Some(&dir.path().join("none")),
        ..PLAIN
    };
    let mut user = User::start(&daemon, &path, 1, &part);
    spoil(&path);
    assert_eq!(user.end(), Some(15));
}

#[test]
fn forced_shutdown_kills_leaves_and_says_when() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let mut daemon = joined(&path);
    let mut user = User::start(&daemon, &path, 1, &PLAIN);
    let mut asking = daemon.connect();
    asking.send(&Request::ShutdownWait { force: true });
    assert_eq!(user.end(), Some(9));
    assert_eq!(asking.reply().result, 0);
    assert_eq!(daemon.end().code(), Some(0));
    // The delta lease was given back: timestamp 0.
    let mut timestamp = [0; 8];
    let disk = fs::File::open(&path).expect("a disk");
    disk.read_exact_at(&mut timestamp, 152).expect("read");
    assert_eq!(timestamp, [0; 8]);
}

#[test]
fn used_from_outside_a_lockspace_does_not_end() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let set = |action| {
        daemon
            .ask(&Request::SetConfig {
                lockspace: lockspace(&path, 1),
                action,
            })
            .result
    };
    assert_eq!(set(ConfigAction::Used), 0);
    assert_eq!(set(ConfigAction::Other(3)), -22);
    let mut removing = daemon.connect();
    removing.send(&Request::RemLockspace {
        lockspace: lockspace(&path, 1),
        flags: RemoveFlags::NONE,
    });
    let mut user = daemon.register();
    wait_for("it is being removed", || {
        (user.acquire(&[resource(&path, 1)]) == -28).then_some(())
    });
    assert!(removing.is_silent());
    assert_eq!(set(ConfigAction::Unused), 0);
    assert_eq!(removing.reply().result, 0);
}

#[test]
fn a_node_serves_leases_of_its_own_lockspace_and_ends_in_order() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    Daemon::start("maker").init(&path, 2);
    let mut node = Daemon::start_node("hostA", &path);
    let space = lockspace(&path, 1);
    wait_for("joined", || node.hosts(&space).ok());
    assert_eq!((node.add(&space), node.rem(&space)), (-17, -16));
    let mut user = User::start(&node, &path, 1, &PLAIN);
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(user.end(), Some(9));
    assert_eq!(node.end().code(), Some(0));
    // Nothing is held any more: others have it at once.
    let second = Daemon::start("hostB");
    assert_eq!(second.add(&lockspace(&path, 2)), 0);
    let mut client = second.register();
    assert_eq!(client.acquire(&[resource(&path, 1)]), 0);
}

#[test]
fn without_privileges_it_still_ends_what_roots_processes_hold() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let open_to_all = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    };
    open_to_all(dir.path(), 0o755);
    let path = file(&dir, "disk", 3);
    open_to_all(&path, 0o666);
    let daemon = Daemon::start_as_nobody("hostA");
    // It answers once it is what it will be; connecting works before.
    let text = daemon.status(1)[0].text.clone();
    let ids = |pid: u32, key: &str| -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("runs");
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.expect("a line")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let nobody = fs::metadata(daemon.socket()).expect("a socket");
    let uid = std::os::unix::fs::MetadataExt::uid(&nobody).to_string();
    assert_ne!(uid, "0");
    assert_eq!(ids(daemon.pid(), "Uid:"), vec![uid; 4]);
    assert!(!ids(daemon.pid(), "Gid:").contains(&"0".to_owned()));
    assert!(!ids(daemon.pid(), "Groups:").contains(&"0".to_owned()));
    let helper = text
        .split(' ')
        .find_map(|key| key.strip_prefix("helper_pid="));
    let helper: u32 = helper.expect("a pid").parse().expect("a number");
    assert_eq!(ids(helper, "Uid:"), vec!["0"; 4]);
    assert_eq!(ids(helper, "Groups:"), Vec::<String>::new());
    daemon.init(&path, 1);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let mut user = User::start(&daemon, &path, 1, &PLAIN);
    assert_eq!(daemon.rem(&lockspace(&path, 1)), 0);
    assert_eq!(user.end(), Some(9));
}

#[test]
fn a_helper_that_dies_is_replaced() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let helper = || -> u32 {
        let text = daemon.status(1)[0].text.clone();
        let pid = text
            .split(' ')
            .find_map(|key| key.strip_prefix("helper_pid="));
        pid.expect("a pid").parse().expect("a number")
    };
    let first = helper();
    linux::process::kill(first).expect("killed");
    wait_for("another helper", || {
        let now = fs::read_to_string(format!("/proc/{}/comm", helper())).ok()?;
        (helper() != first && now == "sanlock-helper\n").then_some(())
    });
    let mut user = User::start(&daemon, &path, 1, &PLAIN);
    assert_eq!(daemon.rem(&lockspace(&path, 1)), 0);
    assert_eq!(user.end(), Some(9));
}

/// Two daemons on one disk, as hosts 1 and 2.
fn two(path: &Path) -> (Daemon, Daemon) {
    let first = joined(path);
    let second = Daemon::start("hostB");
    assert_eq!(second.add(&lockspace(path, 2)), 0);
    (first, second)
}

#[test]
fn another_hosts_request_reaches_the_holder() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let (first, second) = two(&path);
    for (number, mode, signal) in [(1, ForceMode::Force, 9), (2, ForceMode::Graceful, 15)] {
        let mut user = User::start(&first, &path, number, &PLAIN);
        let asked = second.ask(&Request::Request {
            resource: resource(&path, number),
            force_mode: mode,
            flags: RequestFlags::NEXT_LVER,
        });
        assert_eq!(asked.result, 0);
        if number == 2 {
            // Within the time in which a host's repeated call counts as one it
            // takes an examination on the spot.
            let examined = first.ask(&Request::ExamineLockspace {
                lockspace: lockspace(&path, 1),
            });
            assert_eq!(examined.result, 0);
        }
        assert_eq!(user.end(), Some(signal));
        let mut next = second.register();
        wait_for("the other host gets it", || {
            (next.acquire(&[resource(&path, number)]) == 0).then_some(())
        });
    }
}

#[test]
fn an_event_is_delivered_once() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let (first, second) = two(&path);
    let mut listener = first.connect();
    let registered = listener.ask(&Request::RegEvent {
        lockspace: lockspace(&path, 1),
    });
    assert_eq!(registered.result, 0);
    let set = |event, flags| {
        second
            .ask(&Request::SetEvent {
                lockspace: lockspace(&path, 2),
                event: HostEvent {
                    host_id: 1,
                    generation: 1,
                    event,
                    data: 0x23,
                },
                flags,
            })
            .result
    };
    let next = |listener: &mut Client| {
        let mut bytes = [0; EventMessage::BYTES];
        listener
            .stream
            .set_read_timeout(Some(DEADLINE))
            .expect("set");
        listener.stream.read_exact(&mut bytes).expect("an event");
        let message = EventMessage::decode(&bytes).expect("an event");
        assert_eq!((message.from_host_id, message.from_generation), (2, 1));
        assert_eq!((message.event.host_id, message.event.data), (1, 0x23));
        message.event.event
    };
    assert_eq!(set(0x13, EventFlags::NONE), 0);
    assert_eq!(next(&mut listener), 0x13);
    // The bit stays set for 6 s; the sender renews every 2.
    assert_eq!(set(0x14, EventFlags::NONE), -16);
    let renewed = || Some(first.hosts(&lockspace(&path, 2)).ok()?.first()?.timestamp);
    let before = wait_for("the sender is seen", renewed);
    wait_for("the sender renews twice", || {
        (renewed()? >= before + 4).then_some(())
    });
    assert_eq!(set(0x15, EventFlags::REPLACE_EVENT), 0);
    assert_eq!(next(&mut listener), 0x15, "not 0x13 again");
    // The end of it.
    listener.raw(&EventMessage::END);
    let ended = first.ask(&Request::EndEvent {
        lockspace: lockspace(&path, 1),
    });
    assert_eq!(ended.result, 0);
    assert!(listener.is_closed());
}

#[test]
fn metrics_tell_of_lockspaces_leases_and_clients() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = joined(&path);
    let user = User::start(&daemon, &path, 1, &PLAIN);
    let report = || -> LeaseReport {
        let ReplyBody::Metrics(json) = daemon.ask(&Request::Metrics).body else {
            panic!("no metrics");
        };
        serde_json::from_slice(&json).expect("a report")
    };
    let renewed = wait_for("renewals", || {
        Some(report()).filter(|report| report.lockspaces[0].renewals > 1)
    });
    let space = &renewed.lockspaces[0];
    assert_eq!((space.name.as_str(), space.state.as_str()), ("LS", "held"));
    assert_eq!((space.users, space.hosts.len()), (1, 1));
    assert!(space.expires_in_ms > Some(0));
    let lease = &renewed.resources[0];
    assert_eq!((lease.name.as_str(), lease.state.as_str()), ("R1", "held"));
    assert_eq!(lease.pids, [user.pid()]);
    assert_eq!(renewed.clients[0].pid, user.pid());
    assert_eq!(renewed.clients[0].leases, 1);
}
