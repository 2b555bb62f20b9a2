//! Memory of the daemon with nothing to do, in the profile this was built with.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::table::{Line, Unit};
use crate::{Scale, pause};

/// Generous: the machine may be busy.
const START: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Killed when dropped; its workers end with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The section.
pub(crate) fn run(scale: Scale) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let child = Command::new(env!("CARGO_BIN_EXE_storaged"))
        .args(["run", "--host-name", "measured", "--root"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting storaged")?;
    let mut daemon = Daemon(child);
    let socket = dir.path().join("storaged.sock");
    let begun = Instant::now();
    while !socket.exists() {
        if let Some(status) = daemon.0.try_wait()? {
            bail!("storaged ended at once: {status}");
        }
        ensure!(begun.elapsed() < START, "storaged does not listen");
        pause(LOOK);
    }
    // What it does once at its start is over then.
    pause(Duration::from_secs(u64::from(scale.of(4)).max(2)));
    for (name, what) in [
        ("VmRSS:", "storaged alone, resident"),
        ("RssAnon:", "of that its own, not of its file"),
    ] {
        Line {
            section: "memory",
            what,
            unit: Unit::Mib,
            vdsm: None,
            ours: status_mib(daemon.0.id(), name)?,
            aim: if name == "VmRSS:" { "under 12 MiB" } else { "" },
        }
        .print();
    }
    Ok(())
}

fn status_mib(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .with_context(|| format!("{name} in /proc/{pid}/status"))?;
    Ok(kib / 1024.0)
}
