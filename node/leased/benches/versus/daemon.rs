//! One daemon under measurement: the original or ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::client::Client;

/// The original, from Debian's package of that name.
const ORIGINAL: &str = "/usr/sbin/sanlock";
/// Generous: the machine may be busy.
const START: Duration = Duration::from_secs(30);
/// Between two looks at something that takes its time.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// Whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Original,
    Ours,
}

impl Make {
    pub(crate) const BOTH: [Self; 2] = [Self::Original, Self::Ours];
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) run_dir: PathBuf,
}

impl Daemon {
    /// Starts one without watchdog, real-time priority and locked memory, so
    /// that both may run beside anything else.
    pub(crate) fn start(make: Make, dir: &Path, host_name: &str) -> Result<Self> {
        let run_dir = dir.join(format!("run-{make:?}-{host_name}"));
        fs::create_dir_all(&run_dir)?;
        let program = match make {
            Make::Original => PathBuf::from(ORIGINAL),
            Make::Ours => {
                let link = run_dir.join("sanlock");
                if !link.exists() {
                    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_leased"), &link)?;
                }
                link
            }
        };
        ensure!(
            program.exists(),
            "{} is missing: apt-get install sanlock",
            program.display()
        );
        let child = Command::new(&program)
            .args(["daemon", "-D", "-w", "0", "-l", "0", "-h", "0"])
            .args(["-U", "root", "-G", "root", "-e", host_name])
            .env("SANLOCK_RUN_DIR", &run_dir)
            .env("SANLOCK_PRIVILEGED", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut daemon = Self { child, run_dir };
        let start = Instant::now();
        while Client::connect(&daemon.run_dir).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("{make:?} daemon ended at once: {status}");
            }
            ensure!(start.elapsed() < START, "{make:?} daemon does not answer");
            std::thread::park_timeout(LOOK);
        }
        Ok(daemon)
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += text
                .split(' ')
                .next()
                .and_then(|ns| ns.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
            .context("VmRSS in /proc/PID/status")
    }

    /// SIGKILL, now.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
