//! The original tool and this one, on the same bytes.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use control::status::{HostState, LockspaceState};
use disk_format::{Geometry, LockspaceName, delta};
use leased::area::{self, InitOptions};
use support::{Loop, Setup, command, disk_dir, file, sanlock, wait_for};
use tempfile::TempDir;

const GEOMETRIES: [(Geometry, &str, &str); 5] = [
    (Geometry::Sector512Align1M, "512", "1M"),
    (Geometry::Sector4096Align1M, "4096", "1M"),
    (Geometry::Sector4096Align2M, "4096", "2M"),
    (Geometry::Sector4096Align4M, "4096", "4M"),
    (Geometry::Sector4096Align8M, "4096", "8M"),
];

fn ours(path: &Path, geometry: Geometry) -> InitOptions {
    InitOptions {
        sector_size: Some(geometry.sector_size()),
        align_size: Some(geometry.align_size()),
        ..InitOptions::new(path, LockspaceName::new("LS").expect("valid"))
    }
}

fn sectors(device: &Path, geometry: Geometry) -> Vec<u8> {
    let bytes = fs::read(device).expect("readable");
    bytes[..usize::try_from(geometry.align_size()).expect("small")].to_vec()
}

#[test]
fn an_area_made_by_either_is_the_same_to_the_last_byte_and_read_by_the_other() {
    let dir = disk_dir();
    for (geometry, sector_size, align_size) in GEOMETRIES {
        let backing = (file(&dir, "ours", 8), file(&dir, "theirs", 8));
        let ours_loop = Loop::attach(&backing.0, geometry.sector_size(), false);
        let theirs_loop = Loop::attach(&backing.1, geometry.sector_size(), false);
        let (here, there) = (ours_loop.0.clone(), theirs_loop.0.clone());
        assert_eq!(
            area::init(&ours(&here, geometry), &mut |_| ()).expect("made"),
            geometry
        );
        let lockspace = format!("LS:1:{}:0", there.display());
        let made = sanlock(&[
            "direct",
            "init",
            "-s",
            &lockspace,
            "-Z",
            sector_size,
            "-A",
            align_size,
        ]);
        assert!(made.contains("init done 0"), "{made}");
        assert!(
            sectors(&here, geometry) == sectors(&there, geometry),
            "{geometry:?}: bytes differ"
        );

        let found = area::inspect(&there, 0).expect("read by us");
        assert_eq!((found.geometry, found.lockspace.as_str()), (geometry, "LS"));
        assert!(
            found.hosts.is_empty(),
            "never acquired, none damaged: {:?}",
            found.hosts
        );
        let last = geometry.max_hosts();
        let read = sanlock(&[
            "direct",
            "read_leader",
            "-s",
            &format!("LS:{last}:{}:0", here.display()),
        ]);
        assert!(read.contains("read_leader done 0"), "{read}");
        assert!(read.contains("space_name LS"), "{read}");
    }
}

#[test]
fn a_lease_held_and_released_by_us_is_read_by_the_original_in_every_geometry() {
    let dir = disk_dir();
    for (geometry, ..) in GEOMETRIES {
        let backing = file(&dir, "disk", 8);
        let device = Loop::attach(&backing, geometry.sector_size(), false);
        let options = InitOptions {
            io_timeout_s: 1,
            ..ours(&device.0, geometry)
        };
        area::init(&options, &mut |_| ()).expect("made");
        let leased = Setup::new(&device.0, "node-a", 250).start();
        let status = leased.until("renewed", |status| status.renewals >= 1);
        assert_eq!(status.sector_size, Some(geometry.sector_size()));
        assert_eq!(status.align_size, Some(geometry.align_size()));

        let dump = sanlock(&["direct", "dump", &device.0.display().to_string()]);
        let row = dump
            .lines()
            .find(|line| line.contains("node-a"))
            .unwrap_or_else(|| panic!("no row in\n{dump}"));
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            (words[1], words[2], words[4], words[5]),
            ("LS", "node-a", "0250", "0001"),
            "{row}"
        );
        assert_ne!(words[3], "0000000000");

        let (end, log) = leased.stop();
        assert!(end.success(), "{log}");
        let leader = sanlock(&[
            "direct",
            "read_leader",
            "-s",
            &format!("LS:250:{}:0", device.0.display()),
        ]);
        for line in [
            "read_leader done 0",
            "owner_id 250",
            "owner_generation 1",
            "timestamp 0",
            "io_timeout 1",
        ] {
            assert!(
                leader.lines().any(|found| found == line),
                "{line} in\n{leader}"
            );
        }
        // Everything but the owner's sector is as initialised.
        let bytes = sectors(&device.0, geometry);
        let sector = usize::try_from(geometry.sector_size()).expect("small");
        let mut fresh = vec![0; bytes.len()];
        delta::fill_initial(
            &LockspaceName::new("LS").expect("valid"),
            geometry,
            1,
            0,
            true,
            &mut fresh,
        );
        let own = 249 * sector..250 * sector;
        assert!(bytes[..own.start] == fresh[..own.start] && bytes[own.end..] == fresh[own.end..]);
    }
}

/// The original daemon, in a run directory of its own.
struct Daemon {
    dir: TempDir,
    child: Child,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = command("sanlock", "sanlock")
            .args(["daemon", "-D", "-w", "0", "-h", "0", "-e", name])
            .env("SANLOCK_RUN_DIR", dir.path())
            .env("SANLOCK_PRIVILEGED", "0")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starts");
        let daemon = Self { dir, child };
        wait_for("the daemon's socket", || {
            daemon
                .dir
                .path()
                .join("sanlock.sock")
                .exists()
                .then_some(())
        });
        daemon
    }

    fn client(&self, arguments: &[&str]) -> String {
        let output = command("sanlock", "sanlock")
            .arg("client")
            .args(arguments)
            .env("SANLOCK_RUN_DIR", self.dir.path())
            .output()
            .expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.client(&["shutdown", "-f", "1"]);
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn the_original_daemon_and_ours_see_each_other_live_and_respect_each_others_host_id() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let lockspace = |host_id: u32| format!("LS:{host_id}:{}:0", disk.display());
    let daemon = Daemon::start("original");
    let leased = Setup::new(&disk, "ours", 1).start();
    leased.until_state(LockspaceState::Held);
    let added = daemon.client(&["add_lockspace", "-s", &lockspace(2), "-o", "1"]);
    assert!(added.contains("done 0"), "{added}");

    leased.until("the original is live", |status| {
        status
            .hosts
            .iter()
            .any(|host| host.name == "original" && host.state == HostState::Live)
    });
    wait_for("we are live to the original", || {
        let hosts = daemon.client(&["gets", "-h", "1"]);
        hosts
            .lines()
            .any(|line| line.starts_with("h 1 gen 1") && line.ends_with("LIVE"))
            .then_some(())
    });

    // Ours on the original's host id: busy, and it says who.
    let second = Setup::new(&disk, "third", 2).start();
    let status = second.until_state(LockspaceState::Busy);
    assert!(
        status
            .reason
            .as_ref()
            .is_some_and(|reason| reason.contains("\"original\"")),
        "{status:?}"
    );
    // The original releases: ours gets it, with the next generation.
    let removed = daemon.client(&["rem_lockspace", "-s", &lockspace(2)]);
    assert!(removed.contains("done 0"), "{removed}");
    let status = second.until_state(LockspaceState::Held);
    assert_eq!(status.generation, Some(2));

    // The original on our host id: refused as busy, after its whole wait.
    let refused = daemon.client(&["add_lockspace", "-s", &lockspace(1), "-o", "1"]);
    assert!(refused.contains("done -262"), "{refused}");
    leased.until("still held", |status| {
        status.state == LockspaceState::Held && status.renewals > 10
    });
}

#[test]
fn an_area_left_by_the_original_is_joined_and_its_own_host_comes_back_fast() {
    let dir = disk_dir();
    let disk = file(&dir, "disk", 1);
    sanlock(&[
        "direct",
        "init",
        "-s",
        &format!("LS:1:{}:0", disk.display()),
        "-o",
        "1",
    ]);
    let lockspace = format!("LS:1:{}:0", disk.display());
    {
        let daemon = Daemon::start("node-a");
        assert!(
            daemon
                .client(&["add_lockspace", "-s", &lockspace, "-o", "1"])
                .contains("done 0")
        );
        assert!(
            daemon
                .client(&["rem_lockspace", "-s", &lockspace])
                .contains("done 0")
        );
    }
    let leased = Setup::new(&disk, "node-a", 1).start();
    assert_eq!(leased.until_state(LockspaceState::Held).generation, Some(2));
    assert!(leased.stop().0.success());
    let daemon = Daemon::start("node-a");
    assert!(
        daemon
            .client(&["add_lockspace", "-s", &lockspace, "-o", "1"])
            .contains("done 0")
    );
    let hosts = wait_for("its own host", || {
        Some(daemon.client(&["gets", "-h", "1"])).filter(|text| text.contains("h 1"))
    });
    assert!(hosts.contains("h 1 gen 3"), "{hosts}");
}
