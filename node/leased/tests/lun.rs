//! `leased` and LUNs that are missing, too small, read-only, of another sector
//! size, full of something else, failing or hanging: the right words, a retry
//! or the end of the lease, and nothing written to what is not ours.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use control::status::LockspaceState;
use disk_format::{Geometry, LockspaceName};
use leased::area::{self, AreaError, InitOptions};
use rustix::process::Signal;
use support::{Loop, Setup, Wdmd, disk_dir, file, name, wait_for, writable};

/// Starts on `setup` and waits for the reason; nothing may be written by then
/// or at the end to `backing`.
fn refuses(setup: &Setup, backing: &Path, part: &str) {
    let before = fs::read(backing).expect("readable");
    let leased = setup.start();
    let status = leased.until_reason(part);
    assert_eq!(status.state, LockspaceState::Waiting, "{part}");
    let (end, log) = leased.stop();
    assert!(end.success(), "{log}");
    assert!(
        fs::read(backing).expect("readable") == before,
        "{} was changed",
        backing.display()
    );
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
        refuses(&Setup::new(disk, "node-a", 1), disk, part);
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
    let part = "read-only; make the LUN";
    refuses(&Setup::new(&device.0, "node-a", 1), &disk, part);
    let error = area::init(&InitOptions::new(&device.0, name("LS")), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn a_lockspace_of_512_byte_sectors_on_a_4096_byte_device_is_named_as_such() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let device = Loop::attach(&disk, 4096, false);
    refuses(
        &Setup::new(&device.0, "node-a", 1),
        &disk,
        "lockspace made for 512-byte sectors, the device has 4096",
    );
    let options = InitOptions {
        sector_size: Some(512),
        ..InitOptions::new(&device.0, name("NEW"))
    };
    let error = area::init(&options, &mut |_| ()).unwrap_err();
    assert!(
        matches!(error, AreaError::SectorSize { device: 4096, .. }),
        "{error}"
    );
}

#[test]
fn a_device_that_ends_within_the_area_is_named_with_what_is_needed() {
    let dir = disk_dir();
    let disk = file(&dir, "disk", 8);
    let options = InitOptions {
        sector_size: Some(4096),
        ..InitOptions::new(&disk, name("LS"))
    };
    assert_eq!(
        area::init(&options, &mut |_| ()).unwrap(),
        Geometry::Sector4096Align8M
    );
    // The LUN was shrunk, or copied to a smaller one.
    writable(&disk).set_len(4 << 20).unwrap();
    let device = Loop::attach(&disk, 4096, false);
    let setup = Setup::new(&device.0, "node-a", 1);
    let part = "4194304 bytes: the area at offset 0 needs 8388608";
    refuses(&setup, &disk, part);
    let beyond = Setup {
        offset: 8 << 20,
        ..setup
    };
    let part = "4194304 bytes: the area at offset 8388608 needs 9437184; enlarge the device";
    refuses(&beyond, &disk, part);
    let options = InitOptions::new(&device.0, name("NEW"));
    let error = area::init(&options, &mut |_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            AreaError::TooSmall {
                needed: 8_388_608,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_area_behind_something_else_on_a_path_with_colons_is_held_and_the_rest_left_alone() {
    let dir = disk_dir();
    // As links by bus address are called.
    let disk = file(&dir, "pci-0000:00:05.0-lun-1", 2);
    writable(&disk).write_all_at(&[0xa5; 1 << 20], 0).unwrap();
    let setup = Setup {
        offset: 1 << 20,
        ..Setup::new(&disk, "node-a", 1)
    };
    let path = disk.display();
    refuses(
        &setup,
        &disk,
        &format!(
            "{path}: no lockspace at offset 1048576, only zeros; initialise it once, on one node, \
             with: nodectl lockspace init LS --path {path} --offset 1048576 --io-timeout 1"
        ),
    );
    let options = InitOptions {
        offset: 1 << 20,
        io_timeout_s: 1,
        ..InitOptions::new(&disk, name("LS"))
    };
    area::init(&options, &mut |_| ()).unwrap();
    let leased = setup.start();
    leased.until("renewed", |status| status.renewals >= 1);
    assert!(leased.stop().0.success());
    assert!(fs::read(&disk).unwrap()[..1 << 20] == [0xa5; 1 << 20]);
    let error = area::inspect(&disk, 0).unwrap_err().to_string();
    assert!(error.contains("not a lockspace"), "{error}");
}

#[test]
fn a_device_that_cannot_be_read_is_tried_until_it_can() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let content = fs::read(&disk).unwrap();
    let device = Loop::attach(&disk, 512, false);
    // Reads beyond the end of a loop device's file fail.
    writable(&disk).set_len(0).unwrap();
    let leased = Setup::new(&device.0, "node-a", 1).start();
    let status = leased.until_reason("read at byte 0: Input/output error");
    assert_eq!(status.state, LockspaceState::Waiting);
    assert_eq!(fs::metadata(&disk).unwrap().len(), 0, "nothing is written");
    writable(&disk).write_all_at(&content, 0).unwrap();
    assert_eq!(leased.until_state(LockspaceState::Held).generation, Some(1));
}

#[test]
fn io_errors_that_pass_before_8t_are_survived() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let device = Loop::attach(&disk, 512, false);
    let leased = Setup {
        io_timeout_s: 3,
        ..Setup::new(&device.0, "node-a", 1)
    }
    .start();
    let held = leased.until("renewed", |status| status.renewals >= 1);
    leased.stop_in_its_tracks();
    let content = fs::read(&disk).unwrap();
    writable(&disk).set_len(0).unwrap();
    leased.signal(Signal::CONT);
    let failing = leased.until("renewals fail", |status| status.renewal_failures >= 3);
    assert!(
        failing
            .reason
            .is_some_and(|reason| reason.contains("renewal fails: reading the area: error 5"))
    );
    writable(&disk).write_all_at(&content, 0).unwrap();
    let again = leased.until("renewed again", |status| {
        status.renewals > held.renewals + 1
    });
    assert_eq!(
        (again.state, again.generation, again.reason),
        (LockspaceState::Held, Some(1), None)
    );
    assert!(leased.stop().0.success());
}

#[test]
fn garbage_over_the_record_of_a_holder_ends_its_lease_and_is_not_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let disks = disk_dir();
    let disk = support::area(&disks, "disk", "LS");
    let wdmd = Wdmd::start(&dir, 60, 1, true);
    let leased = Setup::new(&disk, "node-a", 3).watched_by(&wdmd).start();
    let held = leased.until("renewed", |status| status.renewals >= 1);
    // Another host's record is nobody's business but its own…
    writable(&disk).write_all_at(&[0xa5; 512], 512).unwrap();
    leased.until("renewed after it", |status| {
        status.state == LockspaceState::Held && status.renewals >= held.renewals + 2
    });
    // …ours is everything.
    leased.stop_in_its_tracks();
    writable(&disk).write_all_at(&[0xa5; 512], 2 * 512).unwrap();
    let expected = fs::read(&disk).unwrap();
    leased.signal(Signal::CONT);
    let lost = leased.until_state(LockspaceState::Lost);
    let reason = lost.reason.unwrap();
    assert!(
        reason.contains("magic") && reason.ends_with("the watchdog will reset this machine"),
        "{reason}"
    );
    let (end, log) = leased.stop();
    assert_eq!(end.code(), Some(1), "{log}");
    assert!(wdmd.last().expire_s > 0, "never taken back");
    assert!(fs::read(&disk).unwrap() == expected, "nothing is repaired");
}

#[test]
fn io_errors_end_in_failing_then_lost_and_the_expiry_stays() {
    let dir = tempfile::tempdir().unwrap();
    let disks = disk_dir();
    let disk = support::area(&disks, "disk", "LS");
    let device = Loop::attach(&disk, 512, false);
    let wdmd = Wdmd::start(&dir, 60, 1, true);
    let leased = Setup::new(&device.0, "node-a", 1).watched_by(&wdmd).start();
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
    mount: PathBuf,
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

/// What is true of the area at any moment: read by us and by the original,
/// every record whole, nobody's but ours ever written. Returns our generation.
fn readable_by_both(disk: &Path, fresh: &[u8]) -> u64 {
    let found = area::inspect(disk, 0).expect("read by us");
    assert!(
        found.hosts.iter().all(|host| host.damage.is_none()),
        "{:?}",
        found.hosts
    );
    let generation = found.hosts.first().map_or(0, |host| host.generation);
    let path = disk.display().to_string();
    let dump = support::sanlock(&["direct", "dump", &path]);
    let named = dump.lines().any(|line| line.contains("node-a"));
    assert_eq!(named, generation > 0, "{dump}");
    let leader = support::sanlock(&["direct", "read_leader", "-s", &format!("LS:1:{path}:0")]);
    assert!(leader.contains("read_leader done 0"), "{leader}");
    let line = format!("owner_generation {generation}");
    assert!(leader.lines().any(|found| found == line), "{leader}");
    assert!(fs::read(disk).expect("readable")[512..] == fresh[512..]);
    generation
}

#[test]
fn killed_at_any_moment_it_leaves_an_area_both_can_read() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let fresh = fs::read(&disk).unwrap();
    let mut generation = 0;
    for round in 0u32..8 {
        let leased = Setup::new(&disk, "node-a", 1).start();
        // Moments from "hardly started" to "renewing", taken from what it reports.
        match round % 4 {
            0 => wait_for("it answers", || leased.try_status().map(drop)),
            1 => drop(leased.until_state(LockspaceState::Acquiring)),
            2 => drop(leased.until_state(LockspaceState::Held)),
            _ => drop(leased.until("renewed", |status| status.renewals >= 1)),
        }
        leased.kill();
        let now = readable_by_both(&disk, &fresh);
        assert!(now >= generation);
        generation = now;
    }
    assert!(generation >= 4);
}

#[test]
fn killed_at_random_moments_and_amid_its_writes_it_leaves_an_area_both_can_read() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let fresh = fs::read(&disk).unwrap();
    let own_sector = || {
        let mut sector = [0; 512];
        let file = fs::File::open(&disk).unwrap();
        file.read_exact_at(&mut sector, 0).unwrap();
        sector
    };
    let mut generation = 0;
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..10 {
        let before = own_sector();
        let leased = Setup::new(&disk, "node-a", 1).start();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if round % 2 == 0 {
            let moment = linux::clock::boottime_ns() + random % 5_000_000_000;
            wait_for("the moment", || {
                (linux::clock::boottime_ns() >= moment).then_some(())
            });
        } else {
            // The claim, or one of the renewals after it, the moment it shows.
            let mut last = before;
            for _ in 0..=random % 3 {
                let deadline = linux::clock::boottime_ns() + 180_000_000_000;
                while own_sector() == last {
                    assert!(linux::clock::boottime_ns() < deadline, "no write");
                }
                last = own_sector();
            }
        }
        leased.kill();
        let now = readable_by_both(&disk, &fresh);
        assert!(now >= generation, "round {round}");
        generation = now;
    }
    assert!(generation >= 5);
    // And the next one goes on from there.
    let leased = Setup::new(&disk, "node-a", 1).start();
    let held = leased.until_state(LockspaceState::Held);
    assert_eq!(held.generation, Some(generation + 1));
}
