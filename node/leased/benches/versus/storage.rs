//! What the leases lie on: a file in memory, a plain file, or a loop device
//! over a file that answers late (nbdkit's delay filter behind FUSE, because
//! this needs no device-mapper).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::daemon::LOOK;

const START: Duration = Duration::from_secs(30);

/// Kinds of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Plain,
    /// A loop device on a file in memory, to count its I/Os.
    Loop,
    /// Microseconds an I/O takes at least.
    Delayed(u32),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory => write!(out, "file in memory"),
            Self::Plain => write!(out, "plain file"),
            Self::Loop => write!(out, "loop device"),
            Self::Delayed(micros) => {
                write!(out, "loop + {}.{} ms", micros / 1000, micros % 1000 / 100)
            }
        }
    }
}

/// A piece of storage; taken apart when dropped.
pub(crate) struct Storage {
    /// What to open.
    pub(crate) path: PathBuf,
    loop_device: Option<PathBuf>,
    mount: Option<PathBuf>,
    children: Vec<Child>,
    file: PathBuf,
}

impl Storage {
    /// `size` bytes of zeros.
    pub(crate) fn new(kind: Kind, memory: &Path, plain: &Path, size: u64) -> Result<Self> {
        let dir = if kind == Kind::Plain { plain } else { memory };
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("storage-{number}"));
        File::create(&file)?.set_len(size)?;
        let mut storage = Self {
            path: file.clone(),
            loop_device: None,
            mount: None,
            children: Vec::new(),
            file,
        };
        match kind {
            Kind::Memory | Kind::Plain => {}
            Kind::Loop => storage.attach_loop(&storage.file.clone())?,
            Kind::Delayed(micros) => {
                let mount = storage.serve_late(micros)?;
                storage.attach_loop(&mount)?;
            }
        }
        Ok(storage)
    }

    fn serve_late(&mut self, micros: u32) -> Result<PathBuf> {
        let socket = self.file.with_extension("socket");
        // The filter knows seconds and milliseconds.
        let delay = format!("{}.{:03}ms", micros / 1000, micros % 1000);
        self.start(
            "nbdkit",
            Command::new("nbdkit")
                .args(["-f", "--filter=delay", "--threads", "64", "-U"])
                .arg(&socket)
                .arg("file")
                .arg(&self.file)
                .arg(format!("delay-read={delay}"))
                .arg(format!("delay-write={delay}")),
        )?;
        wait_until("nbdkit's socket", || socket.exists())?;
        let mount = self.file.with_extension("late");
        File::create(&mount)?;
        self.start(
            "libnbd-bin",
            Command::new("nbdfuse")
                .arg(&mount)
                .arg("--unix")
                .arg(&socket),
        )?;
        self.mount = Some(mount.clone());
        wait_until("nbdfuse's file", || {
            fs::metadata(&mount).is_ok_and(|found| found.len() > 0)
        })?;
        Ok(mount)
    }

    fn start(&mut self, package: &str, command: &mut Command) -> Result<()> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| {
                let program = command.get_program().display();
                format!("starting {program}: apt-get install {package}")
            })?;
        self.children.push(child);
        Ok(())
    }

    fn attach_loop(&mut self, file: &Path) -> Result<()> {
        let output = Command::new("losetup")
            .args(["--direct-io=on", "--find", "--show"])
            .arg(file)
            .output()
            .context("starting losetup: apt-get install mount")?;
        ensure!(
            output.status.success(),
            "losetup: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        self.path = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        self.loop_device = Some(self.path.clone());
        Ok(())
    }

    /// Reads and writes the kernel has done on the loop device so far.
    pub(crate) fn ios(&self) -> Result<u64> {
        let name = self.path.file_name().context("a loop device")?;
        let path = Path::new("/sys/block").join(name).join("stat");
        let text = fs::read_to_string(&path)?;
        let fields: Vec<u64> = text
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // Reads completed and writes completed (kernel: Documentation/block/stat).
        Ok(fields.first().unwrap_or(&0) + fields.get(4).unwrap_or(&0))
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < START, "{what} does not appear");
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(device) = &self.loop_device {
            Command::new("losetup").arg("-d").arg(device).status().ok();
        }
        if let Some(mount) = &self.mount {
            Command::new("umount").arg("-l").arg(mount).status().ok();
        }
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
        fs::remove_file(&self.file).ok();
    }
}
