//! The manager's role goes from one host to another. Two hosts on one machine,
//! each with a lease daemon and a storage daemon of its own, on one file system.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::lease_daemon::{Host, Kind};
use super::support::{Daemon, directory, until};

const LEASE: &str = "5c1e2d3f-1111-4222-8333-444444444444";

/// A file system on a loop device, gone with it.
pub(super) struct Disk {
    pub(super) device: String,
    mounts: Vec<PathBuf>,
    // Goes last.
    _folder: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; apt-get install -y e2fsprogs mount util-linux")
        });
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

impl Disk {
    pub(super) fn make(mib: u64) -> Self {
        let folder = directory();
        let file = folder.path().join("disk");
        std::fs::File::create(&file)
            .and_then(|disk| disk.set_len(mib << 20))
            .expect("a file");
        let file = file.to_str().expect("text");
        run("mkfs.ext4", &["-q", "-E", "root_owner=36:36", file]);
        let device = run("losetup", &["--find", "--show", file]);
        Self {
            device: device.trim().to_owned(),
            mounts: Vec::new(),
            _folder: folder,
        }
    }

    /// Mounts it there, until it goes.
    pub(super) fn mount(&mut self, folder: &Path) {
        run("mount", &[&self.device, folder.to_str().expect("text")]);
        self.mounts.push(folder.to_owned());
    }

    pub(super) fn unmount(&mut self) {
        for mount in self.mounts.drain(..) {
            Command::new("umount").arg("-l").arg(mount).status().ok();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
        Command::new("losetup")
            .args(["-d", &self.device])
            .status()
            .ok();
    }
}

/// A storage daemon at a lease daemon, connected to `disk`.
fn host(disk: &mut Disk, leases: &Host) -> Daemon {
    let config = json!({
        "pool": null, "host_id": 0, "spm": "manual", "manager": "pool",
        "io_timeout_s": 2, "initiator_name": null, "connections": [],
    });
    let daemon = Daemon::start_at(directory(), &config, Some(&leases.socket()));
    let order = [
        "storage",
        "connect",
        "posix",
        &disk.device,
        "--type",
        "ext4",
    ];
    let made = daemon.json(order);
    let path = made["connection"]["path"].as_str().expect("a path");
    disk.mounts.push(Path::new(path).to_owned());
    daemon
}

#[test]
fn the_role_moves_to_the_host_that_is_named() {
    let leases = [1, 2].map(|number| Host::start(Kind::Ours, &format!("host{number}")));
    let mut disk = Disk::make(512);
    let mut one = host(&mut disk, &leases[0]);
    let connection = format!("posix:{}", disk.device);
    one.done(["domain", "create", "images", "--connection", &connection]);
    let pool = one.json(["pool", "create", "main", "images"]);
    let pool = pool["pool"]["id"].as_str().expect("an id").to_owned();
    one.done(["pool", "connect", &pool, "--host-id", "1"]);
    one.done(["spm", "start"]);
    let mut two = host(&mut disk, &leases[1]);
    // Words that cannot be right do not take the place of those that are.
    let order = ["storage", "connect", "posix", &disk.device];
    let refused = one.run(order.into_iter().chain(["--type", "ext4 or so"]));
    assert_eq!(refused.status, 1, "{refused:?}");
    let status = one.json(["storage", "status"]);
    let kept = &status["status"]["connections"][0];
    assert_eq!(kept["state"], "connected", "{status}");
    assert!(kept["reason"].is_null(), "{status}");
    until("the pool on the other host", || {
        let joined = two.run(["pool", "connect", &pool, "--host-id", "2"]);
        (joined.status == 0).then_some(())
    });

    let nobody = one.run(["spm", "move", "3"]);
    assert_eq!(nobody.status, 1, "{nobody:?}");
    assert!(nobody.err.contains("host 3"), "{nobody:?}");
    let itself = one.run(["spm", "move", "1"]);
    assert!(itself.err.contains("this host"), "{itself:?}");
    let elsewhere = two.run(["spm", "move", "1"]);
    assert_eq!(elsewhere.status, 1, "{elsewhere:?}");
    assert_eq!(one.json(["spm", "status"])["spm"]["state"], "here");

    let moved = until("a move, once the other is seen alive", || {
        let moved = one.run(["spm", "move", "2"]);
        (moved.status == 0).then_some(moved)
    });
    assert!(moved.out.contains("host 2"), "{moved:?}");
    until("the role on the other host", || {
        let report = two.json(["spm", "status"]);
        (report["spm"]["state"] == "here").then_some(())
    });
    two.done(["volume", "create", "images", "--size", "1M"]);
    two.done(["domain", "lease", "add", "images", LEASE]);
    // Offline, too, all is well with what both have written.
    let seen = one.run(["inspect", disk.mounts[0].to_str().expect("text")]);
    assert_eq!(seen.status, 0, "{seen:?}");
    assert!(seen.out.contains(LEASE), "{seen:?}");
    // And back, by the other's word.
    two.done(["spm", "move", "1"]);
    until("the role back", || {
        let report = one.json(["spm", "status"]);
        (report["spm"]["state"] == "here").then_some(())
    });

    // A host that does not listen: its storage daemon is gone, its lease is not.
    assert!(two.stop(), "it ends in order");
    let refused = one.run(["spm", "move", "2"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("takes it back"), "{refused:?}");
    until("the role taken back", || {
        let report = one.json(["spm", "status"]);
        (report["spm"]["state"] == "here").then_some(())
    });
    assert!(one.stop(), "it ends in order");
    // Their directories go next, and what is mounted there must not.
    disk.unmount();
}
