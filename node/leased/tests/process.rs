//! `leased` as a process, against files and a small wdmd.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use control::status::{HostState, LockspaceState};
use leased::area;
use rustix::process::Signal;
use support::{Setup, Wdmd, disk_dir, wait_for};

#[test]
fn of_two_with_the_same_host_id_exactly_one_holds_and_the_other_says_who() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let first = Setup::new(&disk, "node-a", 1).start();
    first.until_state(LockspaceState::Held);
    let second = Setup::new(&disk, "node-b", 1).start();
    let status = second.until_state(LockspaceState::Busy);
    let reason = status.reason.expect("says why");
    assert!(
        reason.starts_with("host id 1 is held by \"node-a\" (generation 1), seen renewing "),
        "{reason}"
    );
    assert!(
        reason.ends_with("give this node another host_id, or stop that host"),
        "{reason}"
    );
    assert!(
        status
            .hosts
            .iter()
            .any(|host| host.host_id == 1 && host.name == "node-a")
    );
    let status = first.until("renewed on", |status| status.renewals > 4);
    assert_eq!(status.state, LockspaceState::Held);
    // And when the first leaves in order, the second gets it at once.
    let (end, log) = first.stop();
    assert!(end.success(), "{log}");
    assert_eq!(second.until_state(LockspaceState::Held).generation, Some(2));
}

#[test]
fn two_hosts_see_each_other_live_then_fail_then_dead() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    // A short watchdog time keeps the test short; both have the same.
    let setup = |name, host_id| Setup {
        fire_timeout_s: 5,
        ..Setup::new(&disk, name, host_id)
    };
    let first = setup("node-a", 1).start();
    let second = setup("node-b", 2).start();
    let sees = |leased: &support::Leased, host_id: u32, state: HostState| {
        leased.until(&format!("host {host_id} {state:?}"), |status| {
            status
                .hosts
                .iter()
                .any(|host| host.host_id == host_id && host.state == state)
        })
    };
    sees(&first, 2, HostState::Live);
    sees(&second, 1, HostState::Live);
    second.kill();
    sees(&first, 2, HostState::Fail);
    sees(&first, 2, HostState::Dead);
    let again = setup("node-b", 2).start();
    assert_eq!(again.until_state(LockspaceState::Held).generation, Some(2));
    sees(&first, 2, HostState::Live);
}

#[test]
fn the_watchdog_is_registered_before_the_lease_counts_and_cleared_only_by_a_release() {
    for knows_open in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let disks = disk_dir();
        let disk = support::area(&disks, "disk", "LS");
        let wdmd = Wdmd::start(&dir, 60, 1, knows_open);
        let setup = Setup::new(&disk, "node-a", 7).watched_by(&wdmd);
        let leased = setup.start();
        let status = leased.until_state(LockspaceState::Held);
        let client = wdmd.last();
        assert_eq!(
            (client.name.as_str(), client.refcount),
            ("sanlock_LS:7", true)
        );
        assert_eq!(client.expire_s, client.renewal_s + 8);
        // Open, status; then register, hold the daemon, status, expiry, status.
        assert_eq!(
            client.commands.get(..7),
            Some([7, 5, 1, 2, 5, 4, 5].as_slice())
        );
        assert!(status.expires_in_ms.is_some_and(|left| left > 0));
        let later = wait_for("the expiry moves", || {
            Some(wdmd.last()).filter(|now| now.expire_s > client.expire_s + 2)
        });
        assert_eq!(later.expire_s, later.renewal_s + 8);
        let (end, log) = leased.stop();
        assert!(end.success(), "{log}");
        let client = wait_for("it closes", || {
            Some(wdmd.last()).filter(|client| !client.connected)
        });
        assert_eq!((client.expire_s, client.refcount), (0, false));

        // Killed, the expiry stays: that is what resets the machine.
        let leased = setup.start();
        leased.until_state(LockspaceState::Held);
        leased.kill();
        let client = wait_for("it closes", || {
            Some(wdmd.last()).filter(|client| !client.connected)
        });
        assert!(client.expire_s > 0 && client.refcount);
    }
}

#[test]
fn a_watchdog_that_hangs_up_on_a_holder_is_an_alarm_and_no_reason_to_register_anew() {
    let dir = tempfile::tempdir().unwrap();
    let disks = disk_dir();
    let disk = support::area(&disks, "disk", "LS");
    let wdmd = Wdmd::start(&dir, 60, 1, true);
    let leased = Setup::new(&disk, "node-a", 1).watched_by(&wdmd).start();
    let held = leased.until("renewed", |status| status.renewals >= 1);
    wdmd.hang_up();
    leased.until_reason("the watchdog's connection broke while the lease was held");
    let later = leased.until("renewed all the same", |status| {
        status.renewals >= held.renewals + 2
    });
    assert_eq!(later.state, LockspaceState::Held);
    // A new registration would hide from a new wdmd that the old one may fire.
    assert_eq!(wdmd.clients.lock().unwrap().len(), 1);
    assert!(wdmd.last().expire_s > 0);
    let (end, log) = leased.stop();
    assert!(end.success() && log.contains("watchdog"), "{log}");
}

#[test]
fn without_a_usable_watchdog_nothing_is_written_and_the_reason_says_what_to_do() {
    let disks = disk_dir();
    let disk = support::area(&disks, "disk", "LS");
    let before = fs::read(&disk).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let setup = |socket: &Path| Setup {
        watchdog: Some(socket.to_path_buf()),
        ..Setup::new(&disk, "node-a", 1)
    };
    let none = setup(&dir.path().join("nobody")).start();
    none.until_reason("start the supervisor's watchdog or wdmd");
    for (fire_timeout_s, test_interval_s, part) in [
        (0, 1, "no device is armed"),
        (30, 1, "fire timeout 30 s, configured 60 s"),
        (
            60,
            10,
            "checks every 10 s, which an io_timeout of 1 s cannot satisfy",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let wdmd = Wdmd::start(&dir, fire_timeout_s, test_interval_s, true);
        let leased = setup(&wdmd.socket).start();
        let status = leased.until_reason(part);
        assert_eq!(status.state, LockspaceState::Waiting);
        let (end, log) = leased.stop();
        assert!(end.success(), "{log}");
    }
    assert!(fs::read(&disk).unwrap() == before);
    // And it is retried: the watchdog may come later.
    let wdmd = Wdmd::start(&dir, 60, 1, true);
    fs::rename(&wdmd.socket, dir.path().join("nobody")).unwrap();
    none.until_state(LockspaceState::Held);
}

#[test]
fn a_killed_process_comes_back_with_a_higher_generation() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    for generation in 1..4 {
        let leased = Setup::new(&disk, "node-a", 1).start();
        assert_eq!(
            leased.until_state(LockspaceState::Held).generation,
            Some(generation)
        );
        leased.kill();
    }
}

#[test]
fn a_stopped_holder_that_goes_on_after_8t_has_lost_and_exits_without_clearing_its_expiry() {
    let dir = tempfile::tempdir().unwrap();
    let disks = disk_dir();
    let disk = support::area(&disks, "disk", "LS");
    let wdmd = Wdmd::start(&dir, 60, 1, true);
    let leased = Setup::new(&disk, "node-a", 1).watched_by(&wdmd).start();
    let status = leased.until_state(LockspaceState::Held);
    leased.signal(Signal::STOP);
    let expire_s = wdmd.last().expire_s;
    wait_for("the expiry passes", || {
        (linux::clock::monotonic_ns() / 1_000_000_000 > expire_s + 1).then_some(())
    });
    leased.signal(Signal::CONT);
    let lost = leased.until_state(LockspaceState::Lost);
    assert_eq!(lost.generation, status.generation);
    let reason = lost.reason.unwrap();
    assert_eq!(
        reason,
        "not renewed for 8 s; the watchdog will reset this machine"
    );
    let (end, log) = leased.stop();
    assert_eq!(end.code(), Some(1), "{log}");
    assert!(wdmd.last().expire_s > 0, "a lost lease is never taken back");
    // Nothing on disk says that it is free.
    let found = area::inspect(&disk, 0).unwrap();
    assert_ne!(found.hosts[0].timestamp, 0);
}

#[test]
fn another_host_takes_over_from_a_dead_one_with_short_timeouts() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let setup = |name| Setup {
        fire_timeout_s: 4,
        ..Setup::new(&disk, name, 1)
    };
    let first = setup("node-a").start();
    first.until_state(LockspaceState::Held);
    first.kill();
    let second = setup("node-b").start();
    let status = second.until_reason("left held by \"node-a\"");
    assert_eq!(status.state, LockspaceState::Acquiring);
    assert_eq!(second.until_state(LockspaceState::Held).generation, Some(2));
}

#[test]
fn its_memory_is_locked_and_small_and_whoever_renews_has_real_time_priority() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let leased = Setup::new(&disk, "node-a", 1).start();
    leased.until_state(LockspaceState::Held);
    let (resident, locked) = (leased.kib("VmRSS"), leased.kib("VmLck"));
    // Of what is resident only what the kernel shares out is not locked.
    assert!(
        locked > 0 && locked >= resident / 2,
        "{locked} of {resident} KiB"
    );
    assert_eq!(leased.kib("VmSwap"), 0);
    // The rest is the program itself, whose size depends on how it was built.
    let anonymous = leased.kib("RssAnon");
    assert!(anonymous < 6 << 10, "{anonymous} KiB");
    let round_robin = 2;
    for thread in leased.threads() {
        // The kernel's own, for requests it cannot start at once.
        if thread.name.starts_with("iou-") {
            continue;
        }
        let renews = thread.name == "keeper";
        // Reset-on-fork is a flag of its own; what the rest does may wait.
        let (policy, priority) = if renews { (round_robin, 60) } else { (0, 0) };
        assert_eq!(
            (thread.policy, thread.priority),
            (policy, priority),
            "{thread:?}"
        );
    }
    let names: Vec<String> = leased
        .threads()
        .into_iter()
        .map(|thread| thread.name)
        .collect();
    for name in ["keeper", "buffers", "journal"] {
        assert!(
            names.iter().any(|found| found == name),
            "{name} in {names:?}"
        );
    }
}

#[test]
fn readiness_is_told_and_a_rude_client_holds_nobody_up() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let status_socket = sockets.path().join("leased");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_leased"))
        .args([
            "run",
            "--lockspace",
            &format!("LS:1:{}:0", disk.display()),
            "--host-name",
            "a",
            "--no-watchdog",
        ])
        .arg("--socket")
        .arg(&status_socket)
        .env("NOTIFY_SOCKET", &path)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut message = [0; 64];
    let length = notify.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");

    // Half a request, nonsense, and too many connections.
    let mut half = UnixStream::connect(&status_socket).unwrap();
    half.write_all(b"{\"request\":").unwrap();
    let idle: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(&status_socket).unwrap())
        .collect();
    let mut nonsense = UnixStream::connect(&status_socket).unwrap();
    nonsense
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    nonsense
        .write_all(b"{\"request\":\"fly\"}\n{\"request\":\"status\"}\n")
        .unwrap();
    let mut answers = String::new();
    while answers.matches('\n').count() < 2 {
        let mut bytes = [0; 4096];
        let count = nonsense.read(&mut bytes).unwrap();
        assert!(count > 0, "it stays open: {answers}");
        answers.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(answers.starts_with("{\"reply\":\"error\""), "{answers}");
    assert!(answers.contains("{\"reply\":\"status\""), "{answers}");
    drop(idle);
    child.kill().unwrap();
    child.wait().unwrap();
}
