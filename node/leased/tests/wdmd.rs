//! Our daemon and the original as clients of the original wdmd, which pets a
//! fake device in a namespace of its own.

mod support;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use support::client::{Space, code};
use support::host::{Disk, Host, Kind, Storage, monotonic_s};
use support::{command, run, wait_for};
use tempfile::TempDir;

/// The shortest that a watchdog checked every 10 s can follow.
const IO_TIMEOUT_S: u32 = 2;
/// wdmd's test interval: so long before an expiry it counts as passed.
const TEST_INTERVAL_S: u64 = 10;

/// The original wdmd.
struct Wdmd {
    child: Child,
    dir: TempDir,
}

/// What it knows of a lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registered {
    dead: bool,
    refcount: u64,
    renewal_s: u64,
    expire_s: u64,
}

impl Wdmd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake_watchdog.c");
        let library = format!("{at}/fake_watchdog.so");
        let build = ["-shared", "-fPIC", "-O1", "-o", &library, source, "-ldl"];
        run("gcc libc6-dev", "gcc", &build);
        command("sanlock", "wdmd");
        File::create(dir.path().join("device")).expect("a device");
        let script = format!(
            "mount --make-rprivate / && mount -t tmpfs tmpfs /run && \
             mount -t tmpfs tmpfs /dev/shm && mkdir /run/wdmd && \
             FAKE_WATCHDOG_PINGS={at}/pings LD_PRELOAD={library} \
             exec wdmd -D -G root -H 0 -w {at}/device"
        );
        let log = File::create(dir.path().join("log")).expect("a log");
        let child = command("util-linux", "unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("starts");
        let wdmd = Self { child, dir };
        wait_for("wdmd answers", || {
            wdmd.dump().contains(" name listen ").then_some(())
        });
        wdmd
    }

    /// A daemon that sees no other watchdog.
    fn host(&self, kind: Kind) -> Host {
        Host::start_beside(self.child.id(), kind, "host-one", &["-w", "1"])
    }

    fn dump(&self) -> String {
        let target = self.child.id().to_string();
        let output = command("util-linux", "nsenter")
            .args(["--mount", "--target", &target, "--", "wdmd", "-d"])
            .output()
            .expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A number of its own, named in the first line of its dump.
    fn number(&self, key: &str) -> u64 {
        let dump = self.dump();
        let line = dump.lines().next().unwrap_or_default();
        value(line, key).unwrap_or_else(|| panic!("no {key} in {dump}"))
    }

    fn registered(&self, lockspace: &str) -> Option<Registered> {
        let dump = self.dump();
        let name = format!(" name sanlock_{lockspace} ");
        let line = dump.lines().find(|line| line.contains(&name))?;
        let number = |key| value(line, key).unwrap_or_else(|| panic!("no {key} in {line}"));
        Some(Registered {
            dead: number("dead") != 0,
            refcount: number("ref"),
            renewal_s: number("renewal"),
            expire_s: number("expire"),
        })
    }

    /// The times at which the device was petted.
    fn pings(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.dir.path().join("pings")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix("ping ")?.parse().ok())
            .collect()
    }

    fn device(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    /// SIGTERM; whether the device was closed for good.
    fn stop(mut self) -> bool {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::TERM).expect("signalled");
        self.child.wait().expect("ends");
        fs::read(self.device()).expect("readable").contains(&b'V')
    }
}

impl Drop for Wdmd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The number after a word.
fn value(line: &str, key: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == key)?;
    words.next()?.parse().ok()
}

fn both(body: impl Fn(Kind) + Sync) {
    thread::scope(|scope| {
        for kind in [Kind::Original, Kind::Ours] {
            let body = &body;
            scope.spawn(move || body(kind));
        }
    });
}

#[test]
fn expiries_follow_renewals_and_go_with_their_lockspaces() {
    both(|kind| {
        let wdmd = Wdmd::start();
        let host = wdmd.host(kind);
        let disk = Disk::new(Storage::File, 2);
        let other = Space {
            name: "other".to_owned(),
            offset: 1 << 20,
            ..disk.space()
        };
        for space in [&disk.space(), &other] {
            host.init_space(space, IO_TIMEOUT_S);
            assert_eq!(
                host.join(space, 1, IO_TIMEOUT_S),
                code::OK,
                "{}",
                host.log()
            );
        }
        let first = wdmd.registered("LS:1").expect("registered");
        assert_eq!((first.dead, first.refcount), (false, 1), "{kind}");
        assert_eq!(
            first.expire_s,
            first.renewal_s + 16,
            "8 times {IO_TIMEOUT_S}"
        );
        wait_for("renewed", || {
            let next = wdmd.registered("LS:1").expect("registered");
            assert_eq!(next.expire_s, next.renewal_s + 16);
            (next.renewal_s > first.renewal_s).then_some(())
        });
        let on_disk = disk.renewed_at(1);
        let known = wdmd.registered("LS:1").expect("registered").renewal_s;
        assert!(known >= on_disk, "{known} {on_disk}");

        assert_eq!(host.leave(&disk.space(), 1), code::OK);
        wait_for("forgotten", || {
            wdmd.registered("LS:1").is_none().then_some(())
        });
        let kept = wdmd.registered("other:1").expect("registered still");
        assert_eq!((kept.dead, kept.refcount), (false, 1));
        assert_eq!(host.leave(&other, 1), code::OK);
        wait_for("forgotten", || {
            wdmd.registered("other:1").is_none().then_some(())
        });
        assert_eq!(wdmd.number("last_closeunclean"), 0);
        assert!(wdmd.stop(), "nothing is left that would fire it");
    });
}

#[test]
fn a_killed_daemon_leaves_an_expiry_that_fires() {
    both(|kind| {
        let wdmd = Wdmd::start();
        let host = wdmd.host(kind);
        let disk = Disk::new(Storage::File, 1);
        host.init_space(&disk.space(), IO_TIMEOUT_S);
        assert_eq!(host.join(&disk.space(), 1, IO_TIMEOUT_S), code::OK);
        host.kill();
        let last = disk.renewed_at(1);
        let left = wait_for("seen as dead", || {
            wdmd.registered("LS:1").filter(|client| client.dead)
        });
        assert_eq!(left.expire_s, left.renewal_s + 16);
        assert!((last..=monotonic_s()).contains(&left.renewal_s), "{left:?}");
        wait_for("the device is left to fire", || {
            (wdmd.number("last_closeunclean") != 0).then_some(())
        });
        let pings = wdmd.pings();
        let last_ping = pings.last().expect("petted at the start");
        assert!(
            *last_ping < left.expire_s - TEST_INTERVAL_S + 1,
            "{last_ping} {left:?}"
        );
        assert_eq!(
            fs::read(wdmd.device()).expect("readable"),
            b"",
            "no goodbye"
        );
    });
}

/// Defect 11 of the original: it joins, and wdmd lets the machine reset.
#[test]
fn an_io_timeout_too_short_for_the_watchdog_is_refused() {
    let joins = |kind| {
        let wdmd = Wdmd::start();
        let host = wdmd.host(kind);
        let disk = Disk::new(Storage::File, 1);
        host.init_space(&disk.space(), 1);
        let result = host.join(&disk.space(), 1, 1);
        if kind == Kind::Original {
            wait_for("the device is left to fire", || {
                (wdmd.number("last_closeunclean") != 0).then_some(())
            });
        } else {
            assert_eq!(wdmd.registered("LS:1"), None);
            assert_eq!(disk.renewed_at(1), 0, "and the host id is free");
        }
        result
    };
    assert_eq!(joins(Kind::Original), code::OK);
    assert_eq!(joins(Kind::Ours), -203);
}
