//! The table of children: what each is, what it may use, how it is treated.
//!
//! | child    | program                  | ready when  | out of memory | stop |
//! |----------|--------------------------|-------------|---------------|------|
//! | journald | systemd-journald         | it says so  | late          | near the end |
//! | udevd    | systemd-udevd            | it says so  | late          | after leased |
//! | leased   | the lease daemon         | it says so  | last          | after everything that holds leases |
//! | storaged | the storage daemon       | it says so  | last but one  | before leased |
//! | multipathd | many paths, one device | it says so  | as late as leased | after leased |
//! | iscsid   | iSCSI sessions           | started     | as late as leased | after leased |
//! | console… | `nodectl console`, a tty | started     | early         | first |
//! | shell    | bash, debug image only   | started     | first         | first |

use std::io;
use std::path::{Path, PathBuf};

use control::config::Lockspace;
use linux::cgroup::{self, Cgroup};

use super::policy::Limits;

/// Group below which every child has its own.
pub const CHILDREN_GROUP: &str = "children";

/// Memory the kernel never takes from the lease daemon, as its control group
/// spells it. The group above must promise it too.
pub const LEASED_MEMORY_MIN: &str = "16M";

/// A child.
#[derive(Debug, Clone)]
pub struct Child {
    /// Unique name; also its control group, its readiness socket and its name in the log.
    pub name: String,
    /// Path of the program.
    pub program: PathBuf,
    /// What it sees as its name, when not the path.
    pub argv0: Option<String>,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Environment beyond the search path.
    pub environment: Vec<(String, String)>,
    /// Terminal it owns.
    pub terminal: Option<PathBuf>,
    /// −1000 (never killed for memory) to 1000 (first).
    pub oom_score_adj: i16,
    /// Knobs of its control group.
    pub group: &'static [(&'static str, &'static str)],
    /// Its words go to the kernel's log, not to journald.
    pub logs_past_journald: bool,
    /// The numbers of its restart policy.
    pub limits: Limits,
}

impl Child {
    /// Makes its control group with its limits; a limit the kernel does not know is left out.
    ///
    /// # Errors
    /// The hierarchy is missing.
    pub fn make_cgroup(&self) -> io::Result<Cgroup> {
        let group = Cgroup::create(&Path::new(cgroup::ROOT).join(CHILDREN_GROUP), &self.name)?;
        for (knob, value) in self.group {
            if let Err(error) = group.limit(knob, value) {
                tracing::warn!("control group of {}: {knob} = {value}: {error}", self.name);
            }
        }
        Ok(group)
    }
}

const DAEMON: Limits = Limits {
    // Slow emulation under load takes tens of seconds for what takes one on a server.
    start_deadline_ms: 60_000,
    run_min_ms: 10_000,
    backoff_min_ms: 100,
    backoff_max_ms: 30_000,
    stop_deadline_ms: 10_000,
    notifies: true,
};

const TERMINAL: Limits = Limits {
    stop_deadline_ms: 2_000,
    backoff_max_ms: 10_000,
    notifies: false,
    ..DAEMON
};

/// journald, stand-alone: it makes its sockets itself.
#[must_use]
pub fn journald() -> Child {
    Child {
        name: "journald".to_owned(),
        program: "/usr/lib/systemd/systemd-journald".into(),
        argv0: None,
        arguments: Vec::new(),
        environment: Vec::new(),
        terminal: None,
        oom_score_adj: -250,
        group: &[("memory.max", "96M"), ("pids.max", "16")],
        logs_past_journald: true,
        limits: DAEMON,
    }
}

/// udevd, stand-alone: without systemd's own directories in `/run` it asks systemd nothing.
#[must_use]
pub fn udevd() -> Child {
    Child {
        name: "udevd".to_owned(),
        program: "/usr/lib/systemd/systemd-udevd".into(),
        argv0: None,
        arguments: Vec::new(),
        environment: Vec::new(),
        terminal: None,
        oom_score_adj: -500,
        // Its workers load modules, whose decompression takes some memory each.
        group: &[
            ("memory.max", "512M"),
            ("pids.max", "256"),
            ("cpu.weight", "50"),
        ],
        logs_past_journald: false,
        limits: DAEMON,
    }
}

/// What `leased` is told besides the lockspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedSettings {
    /// Name in the lease.
    pub host_name: String,
    /// Whether a watchdog is armed.
    pub watchdog: bool,
    /// Seconds.
    pub fire_timeout_s: u32,
    /// Seconds, of lockspaces joined without one of their own.
    pub io_timeout_s: u32,
}

/// The lease daemon, with a lockspace of its own or only with those that
/// clients join.
#[must_use]
pub fn leased(lockspace: Option<&Lockspace>, settings: &LeasedSettings) -> Child {
    let mut arguments = vec!["run".to_owned()];
    if let Some(space) = lockspace {
        let Lockspace {
            name,
            path,
            offset,
            host_id,
            ..
        } = space;
        arguments.push("--lockspace".to_owned());
        arguments.push(format!("{name}:{host_id}:{path}:{offset}"));
    }
    arguments.extend([
        "--io-timeout".to_owned(),
        settings.io_timeout_s.to_string(),
        "--host-name".to_owned(),
        settings.host_name.clone(),
        "--fire-timeout".to_owned(),
        settings.fire_timeout_s.to_string(),
        "--sanlock-dir".to_owned(),
        control::SANLOCK_RUN_DIR.to_owned(),
    ]);
    if !settings.watchdog {
        arguments.push("--no-watchdog".to_owned());
    }
    Child {
        name: "leased".to_owned(),
        program: "/usr/lib/holdfast/leased".into(),
        argv0: None,
        arguments,
        environment: Vec::new(),
        terminal: None,
        // The kernel kills it after everything else, and before it gives up.
        oom_score_adj: -999,
        group: &[
            ("memory.min", LEASED_MEMORY_MIN),
            ("memory.max", "256M"),
            ("pids.max", "256"),
            ("cpu.weight", "10000"),
        ],
        logs_past_journald: false,
        // Releasing takes a read and a write of a disk that may be slow: 2 × the longest io_timeout in use plus some.
        limits: Limits {
            stop_deadline_ms: 10_000 + u64::from(settings.io_timeout_s) * 2_000,
            ..DAEMON
        },
    }
}

/// The storage daemon. It writes the configuration of multipathd and iscsid
/// before it says that it is ready.
#[must_use]
pub fn storaged(settings: &Path, host_name: &str) -> Child {
    Child {
        name: "storaged".to_owned(),
        program: "/usr/lib/holdfast/storaged".into(),
        argv0: None,
        arguments: vec![
            "run".to_owned(),
            "--config".to_owned(),
            settings.display().to_string(),
            "--host-name".to_owned(),
            host_name.to_owned(),
        ],
        environment: Vec::new(),
        terminal: None,
        oom_score_adj: -900,
        // Copying and zeroing are done by processes of its own, in this group.
        group: &[("memory.max", "1G"), ("pids.max", "1024")],
        logs_past_journald: false,
        // A pool's manager unmounts the master and releases its lease.
        limits: Limits {
            stop_deadline_ms: 90_000,
            ..DAEMON
        },
    }
}

/// multipathd, in the foreground. Sessions and maps outlive it: shared storage,
/// and the lease daemon's with it, goes on while it is started again.
#[must_use]
pub fn multipathd() -> Child {
    Child {
        name: "multipathd".to_owned(),
        program: "/usr/sbin/multipathd".into(),
        argv0: None,
        // -s: lines without a time, as journald adds one.
        arguments: vec!["-d".to_owned(), "-s".to_owned()],
        environment: Vec::new(),
        terminal: None,
        oom_score_adj: -998,
        group: &[("memory.max", "256M"), ("pids.max", "256")],
        logs_past_journald: false,
        limits: DAEMON,
    }
}

/// iscsid, in the foreground.
#[must_use]
pub fn iscsid() -> Child {
    Child {
        name: "iscsid".to_owned(),
        program: "/usr/sbin/iscsid".into(),
        argv0: None,
        arguments: vec!["-f".to_owned()],
        environment: Vec::new(),
        terminal: None,
        oom_score_adj: -998,
        group: &[("memory.max", "128M"), ("pids.max", "64")],
        logs_past_journald: false,
        limits: DAEMON,
    }
}

/// `nodectl console` on the terminal `device` (`ttyS0`, `tty1`).
#[must_use]
pub fn console(device: &str) -> Child {
    Child {
        name: format!("console-{device}"),
        program: "/usr/bin/nodectl".into(),
        argv0: None,
        arguments: vec!["console".to_owned()],
        environment: vec![("TERM".to_owned(), terminal_type(device).to_owned())],
        terminal: Some(Path::new("/dev").join(device)),
        oom_score_adj: 100,
        group: &[("memory.max", "64M"), ("pids.max", "32")],
        logs_past_journald: false,
        limits: TERMINAL,
    }
}

/// A root shell on the terminal `device`.
#[must_use]
pub fn shell(device: &str) -> Child {
    Child {
        name: format!("shell-{device}"),
        program: "/bin/bash".into(),
        argv0: Some("-bash".to_owned()),
        arguments: Vec::new(),
        environment: vec![
            ("TERM".to_owned(), terminal_type(device).to_owned()),
            ("HOME".to_owned(), "/run".to_owned()),
        ],
        terminal: Some(Path::new("/dev").join(device)),
        oom_score_adj: 500,
        group: &[("pids.max", "512")],
        logs_past_journald: false,
        limits: TERMINAL,
    }
}

fn terminal_type(device: &str) -> &'static str {
    let virtual_terminal = device
        .strip_prefix("tty")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if virtual_terminal { "linux" } else { "vt220" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lockspace() -> Lockspace {
        Lockspace {
            name: "LS".into(),
            path: "/dev/sdb".into(),
            offset: 1 << 20,
            host_id: 3,
            io_timeout_s: 10,
            host_name: None,
        }
    }

    #[test]
    fn leased_runs_without_a_lockspace_of_its_own() {
        let settings = LeasedSettings {
            host_name: "node3".into(),
            watchdog: true,
            fire_timeout_s: 60,
            io_timeout_s: 5,
        };
        let expected =
            "run --io-timeout 5 --host-name node3 --fire-timeout 60 --sanlock-dir /run/sanlock";
        assert_eq!(leased(None, &settings).arguments.join(" "), expected);
    }

    #[test]
    fn leased_is_told_everything_and_runs_without_a_watchdog_only_when_told_so() {
        let settings = LeasedSettings {
            host_name: "node3".into(),
            watchdog: true,
            fire_timeout_s: 60,
            io_timeout_s: 10,
        };
        let guarded = leased(Some(&lockspace()), &settings);
        let expected = "run --lockspace LS:3:/dev/sdb:1048576 --io-timeout 10 --host-name node3 --fire-timeout 60 --sanlock-dir /run/sanlock";
        assert_eq!(guarded.arguments.join(" "), expected);
        let bare = leased(
            Some(&lockspace()),
            &LeasedSettings {
                watchdog: false,
                ..settings
            },
        );
        assert_eq!(bare.arguments.last().unwrap(), "--no-watchdog");
    }

    #[test]
    fn the_lease_daemon_dies_last_when_memory_runs_out() {
        let settings = LeasedSettings {
            host_name: "n".into(),
            watchdog: true,
            fire_timeout_s: 60,
            io_timeout_s: 10,
        };
        let last = leased(Some(&lockspace()), &settings).oom_score_adj;
        for other in [journald(), udevd(), console("ttyS0"), shell("tty2")] {
            assert!(other.oom_score_adj > last, "{}", other.name);
        }
    }

    #[test]
    fn terminals_get_their_type() {
        assert_eq!(terminal_type("tty1"), "linux");
        assert_eq!(terminal_type("ttyS0"), "vt220");
        assert_eq!(terminal_type("hvc0"), "vt220");
    }
}
