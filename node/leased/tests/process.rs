//! `leased` as a process, against files, loop devices and a small wdmd.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use control::status::{HostState, LockspaceState};
use disk_format::{LockspaceName, delta};
use leased::area::{self, AreaError, InitOptions};
use rustix::process::Signal;
use support::{Loop, Setup, Wdmd, disk_dir, file, sanlock, wait_for};

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
        let setup = Setup {
            watchdog: Some(wdmd.socket.clone()),
            ..Setup::new(&disk, "node-a", 7)
        };
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
    let leased = Setup {
        watchdog: Some(wdmd.socket.clone()),
        ..Setup::new(&disk, "node-a", 1)
    }
    .start();
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
fn a_missing_device_is_waited_for() {
    let dir = disk_dir();
    let disk = dir.path().join("disk");
    let leased = Setup::new(&disk, "node-a", 1).start();
    leased.until_reason("no such device or file; check the path");
    support::area(&dir, "made-elsewhere", "LS");
    fs::rename(dir.path().join("made-elsewhere"), &disk).unwrap();
    leased.until_state(LockspaceState::Held);
}

#[test]
fn whatever_is_no_lockspace_of_ours_is_named_and_left_alone() {
    let dir = disk_dir();
    let zeros = file(&dir, "zeros", 1);
    let small = file(&dir, "small", 1);
    fs::File::options()
        .write(true)
        .open(&small)
        .unwrap()
        .set_len(1 << 19)
        .unwrap();
    let garbage = file(&dir, "garbage", 1);
    fs::write(&garbage, vec![0xa5; 1 << 20]).unwrap();
    let table = file(&dir, "table", 1);
    fs::File::options()
        .write(true)
        .open(&table)
        .unwrap()
        .write_all_at(b"EFI PART", 512)
        .unwrap();
    let other = support::area(&dir, "other", "OTHER");
    let damaged = support::area(&dir, "damaged", "LS");
    fs::File::options()
        .write(true)
        .open(&damaged)
        .unwrap()
        .write_all_at(&[0xff], 160)
        .unwrap();
    for (disk, part) in [
        (
            &zeros,
            "initialise it once, on one node, with: nodectl lockspace init LS --path",
        ),
        (&small, "524288 bytes: the area at offset 0 needs 1048576"),
        (
            &garbage,
            "holds data of an unknown kind, not a lockspace, and was left alone",
        ),
        (&table, "holds a GPT partition table"),
        (&other, "holds lockspace \"OTHER\", configured is \"LS\""),
        (&damaged, "record of our host id: checksum"),
    ] {
        let before = fs::read(disk).unwrap();
        let leased = Setup::new(disk, "node-a", 1).start();
        let status = leased.until_reason(part);
        assert_eq!(status.state, LockspaceState::Waiting, "{part}");
        let (end, log) = leased.stop();
        assert!(end.success(), "{log}");
        assert!(
            fs::read(disk).unwrap() == before,
            "{} was changed",
            disk.display()
        );
    }
}

#[test]
fn a_host_id_too_large_for_the_geometry_is_refused_with_the_limit() {
    let dir = disk_dir();
    let disk = file(&dir, "disk", 1);
    let options = InitOptions {
        sector_size: Some(4096),
        align_size: Some(1 << 20),
        ..InitOptions::new(&disk, LockspaceName::new("LS").unwrap())
    };
    area::init(&options, &mut |_| ()).unwrap();
    let leased = Setup::new(&disk, "node-a", 251).start();
    leased.until_reason("host id 251: allowed is 1 to 250 in this lockspace");
}

#[test]
fn a_read_only_device_is_named_as_such() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let device = Loop::attach(&disk, 512, true);
    let leased = Setup::new(&device.0, "node-a", 1).start();
    leased.until_reason("read-only; make the LUN");
}

#[test]
fn a_lockspace_of_512_byte_sectors_on_a_4096_byte_device_is_named_as_such() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let device = Loop::attach(&disk, 4096, false);
    let leased = Setup::new(&device.0, "node-a", 1).start();
    leased.until_reason("lockspace made for 512-byte sectors, the device has 4096");
}

#[test]
fn io_errors_end_in_failing_then_lost_and_the_expiry_stays() {
    let dir = tempfile::tempdir().unwrap();
    let disks = disk_dir();
    let disk = support::area(&disks, "disk", "LS");
    let device = Loop::attach(&disk, 512, false);
    let wdmd = Wdmd::start(&dir, 60, 1, true);
    let leased = Setup {
        watchdog: Some(wdmd.socket.clone()),
        ..Setup::new(&device.0, "node-a", 1)
    }
    .start();
    leased.until_state(LockspaceState::Held);
    // Reads beyond the end of a loop device's file fail.
    fs::File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(0)
        .unwrap();
    let failing = leased.until_state(LockspaceState::Failing);
    let reason = failing.reason.unwrap();
    assert!(
        reason.contains("renewal fails: reading the area: error 5"),
        "{reason}"
    );
    assert!(failing.renewal_failures > 0);
    leased.until_state(LockspaceState::Lost);
    let (end, _) = leased.stop();
    assert_eq!(end.code(), Some(1));
    assert!(wdmd.last().expire_s > 0);
}

/// A small file system that can be frozen: writes to it hang until thawed.
struct Freezer {
    _disk: Loop,
    mount: std::path::PathBuf,
}

impl Freezer {
    fn new(dir: &tempfile::TempDir) -> Self {
        let backing = file(dir, "fs", 32);
        let disk = Loop::attach(&backing, 512, false);
        let device = disk.0.display().to_string();
        support::run("e2fsprogs", "mkfs.ext4", &["-q", &device]);
        let mount = dir.path().join("mnt");
        fs::create_dir(&mount).expect("a directory");
        support::run("mount", "mount", &[&device, &mount.display().to_string()]);
        Self { _disk: disk, mount }
    }

    fn freeze(&self) {
        support::run(
            "util-linux",
            "fsfreeze",
            &["--freeze", &self.mount.display().to_string()],
        );
    }

    fn thaw(&self) {
        support::run(
            "util-linux",
            "fsfreeze",
            &["--unfreeze", &self.mount.display().to_string()],
        );
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let mount = self.mount.display().to_string();
        support::command("util-linux", "fsfreeze")
            .args(["--unfreeze", &mount])
            .output()
            .ok();
        support::command("mount", "umount")
            .args(["--lazy", &mount])
            .output()
            .ok();
    }
}

#[test]
fn a_write_that_hangs_for_30_s_is_survived_and_the_daemon_answers_all_the_while() {
    let disks = disk_dir();
    let freezer = Freezer::new(&disks);
    let disk = freezer.mount.join("disk");
    // Written in full, so that renewals only overwrite.
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    support::init(&disk, "LS");
    // 8 × 5 s is more than the stall.
    let leased = Setup {
        io_timeout_s: 5,
        ..Setup::new(&disk, "node-a", 1)
    }
    .start();
    let held = leased.until("renewed", |status| status.renewals >= 1);
    freezer.freeze();
    leased.until("30 s without renewal", |status| {
        status.last_renewal_age_ms.is_some_and(|age| age > 30_000)
    });
    let failing = leased.until_state(LockspaceState::Failing);
    assert!(failing.expires_in_ms.is_some_and(|left| left > 0));
    freezer.thaw();
    let recovered = leased.until("renewed again", |status| {
        status.renewals > held.renewals + 1
    });
    assert_eq!(
        (recovered.state, recovered.generation),
        (LockspaceState::Held, Some(1))
    );
    let (end, log) = leased.stop();
    assert!(end.success(), "{log}");
}

#[test]
fn a_write_that_hangs_for_longer_than_8t_is_a_lost_lease_even_when_it_lands_later() {
    let disks = disk_dir();
    let freezer = Freezer::new(&disks);
    let disk = freezer.mount.join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    support::init(&disk, "LS");
    let leased = Setup::new(&disk, "node-a", 1).start();
    leased.until("renewed", |status| status.renewals >= 1);
    freezer.freeze();
    leased.until_state(LockspaceState::Lost);
    freezer.thaw();
    let still = leased.until("it answers", |_| true);
    assert_eq!(still.state, LockspaceState::Lost);
}

#[test]
fn killed_at_any_moment_it_leaves_an_area_both_can_read() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let mut generation = 0;
    for round in 0u32..12 {
        let leased = Setup::new(&disk, "node-a", 1).start();
        // Moments from "hardly started" to "renewing", taken from what it reports.
        match round % 4 {
            0 => wait_for("it answers", || leased.try_status().map(drop)),
            1 => drop(leased.until_state(LockspaceState::Acquiring)),
            2 => drop(leased.until_state(LockspaceState::Held)),
            _ => drop(leased.until("renewed", |status| status.renewals >= 1)),
        }
        leased.kill();
        let found = area::inspect(&disk, 0).unwrap();
        assert!(
            found.hosts.iter().all(|host| host.damage.is_none()),
            "{:?}",
            found.hosts
        );
        let now = found.hosts.first().map_or(0, |host| host.generation);
        assert!(now >= generation);
        generation = now;
        let read = sanlock(&[
            "direct",
            "read_leader",
            "-s",
            &format!("LS:1:{}:0", disk.display()),
        ]);
        assert!(read.contains("read_leader done 0"), "{read}");
    }
    assert!(generation >= 6);
}

#[test]
fn initialising_refuses_what_it_does_not_recognise_and_what_is_alive() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let name = |text: &str| LockspaceName::new(text).unwrap();
    let forced = |force: Option<&str>| InitOptions {
        io_timeout_s: 1,
        force: force.map(name),
        fire_timeout_s: 0,
        ..InitOptions::new(&disk, name("NEW"))
    };
    let refuse = |options: &InitOptions, part: &str| {
        let before = fs::read(&disk).unwrap();
        let error = area::init(options, &mut |_| ()).unwrap_err();
        assert!(matches!(error, AreaError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        before
    };
    refuse(
        &forced(None),
        "already holds lockspace \"LS\"; to destroy it, repeat with --force LS",
    );
    refuse(
        &forced(Some("NEW")),
        "--force NEW does not name what is there: LS would",
    );

    let leased = Setup::new(&disk, "node-a", 1).start();
    leased.until_state(LockspaceState::Held);
    // Watched for 8 × 1 + 0 s; the holder renews every 2 s.
    refuse(
        &forced(Some("LS")),
        "host id 1 (\"node-a\", generation 1) is alive",
    );
    leased.until("it still holds", |status| {
        status.state == LockspaceState::Held
    });
    leased.kill();
    let mut watched = false;
    area::init(&forced(Some("LS")), &mut |progress| {
        watched |= matches!(progress, area::Progress::Watching { .. })
    })
    .expect("its holder is dead by now");
    assert!(watched);
    let found = area::inspect(&disk, 0).unwrap();
    assert_eq!((found.lockspace.as_str(), found.hosts.len()), ("NEW", 0));
    let bytes = fs::read(&disk).unwrap();
    assert!(delta::discover(&bytes).is_ok());
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
