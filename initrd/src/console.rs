//! The machine's consoles, and one log line per step.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use linux::kmsg::Kmsg;
use rustix::fs::OFlags;

/// How long a report may take on a slow console before the machine goes on
/// without it: flow control can hold a serial line for ever.
const WRITE_MAX: Duration = Duration::from_secs(20);

/// Opens every console the kernel uses (or `/dev/console` if it names none) and
/// those in `extra`. They stay open, so that a failure can be told even when
/// `/dev` has moved.
pub(crate) fn open_all(extra: &[String]) -> Vec<File> {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let active: Vec<&str> = active.split_whitespace().collect();
    let extra = extra
        .iter()
        .map(String::as_str)
        .filter(|name| !active.contains(name));
    let mut consoles: Vec<File> = active
        .iter()
        .copied()
        .chain(extra)
        .filter_map(|name| open(&Path::new("/dev").join(name)))
        .collect();
    if consoles.is_empty() {
        consoles.extend(open(Path::new("/dev/console")));
    }
    consoles
}

/// Opens without waiting for a carrier; later writes do wait.
fn open(path: &Path) -> Option<File> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let console = OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .ok()?;
    let flags = rustix::fs::fcntl_getfl(&console).ok()?;
    rustix::fs::fcntl_setfl(&console, flags - OFlags::NONBLOCK).ok()?;
    Some(console)
}

/// Makes `/dev/console` the standard input, output and error of this process and
/// of the one it becomes. What cannot be replaced stays as the kernel set it.
pub(crate) fn take_as_standard() {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open("/dev/console");
    if let Ok(console) = console {
        rustix::stdio::dup2_stdin(&console).ok();
        rustix::stdio::dup2_stdout(&console).ok();
        rustix::stdio::dup2_stderr(&console).ok();
    }
}

/// Writes `text` on each console at the same time and waits until all have it, or
/// until the slow ones have had their chance.
pub(crate) fn tell_all(consoles: Vec<File>, text: &str) {
    let (done, finished) = mpsc::channel();
    let mut waiting = 0;
    for mut console in consoles {
        let (text, done) = (text.to_owned(), done.clone());
        let writer = thread::Builder::new().spawn(move || {
            console.write_all(text.as_bytes()).ok();
            done.send(()).ok();
        });
        waiting += u32::from(writer.is_ok());
    }
    let end = Instant::now() + WRITE_MAX;
    for _ in 0..waiting {
        let left = end.saturating_duration_since(Instant::now());
        if finished.recv_timeout(left).is_err() {
            return;
        }
    }
}

/// The kernel's log, and the time since the last line.
#[derive(Debug)]
pub(crate) struct Log {
    kmsg: Option<Kmsg>,
    step_began: Instant,
}

impl Log {
    /// Starts the clock; lines go to the kernel's log once `/dev` is there.
    pub(crate) fn new() -> Self {
        Self {
            kmsg: None,
            step_began: Instant::now(),
        }
    }

    /// Opens the kernel's log, with its rate limit for user space lifted: ten
    /// lines in five seconds are less than a start with warnings has.
    pub(crate) fn open(&mut self) {
        // The kernel refuses the word without its line feed.
        fs::write("/proc/sys/kernel/printk_devkmsg", "on\n").ok();
        self.kmsg = Kmsg::open().ok();
    }

    /// One step is done: "`step`: `detail` (12 ms)".
    pub(crate) fn step(&mut self, step: &str, detail: &str) {
        let took = self.step_began.elapsed().as_millis();
        self.write(6, &format!("{step}: {detail} ({took} ms)"));
        self.step_began = Instant::now();
    }

    /// Something is odd but the start goes on.
    pub(crate) fn warn(&self, text: &str) {
        self.write(4, &format!("warning: {text}"));
    }

    /// The start has failed.
    pub(crate) fn fail(&self, text: &str) {
        self.write(2, &format!("failed: {text}"));
    }

    fn write(&self, priority: u8, text: &str) {
        if let Some(kmsg) = &self.kmsg {
            // The log is a help, never a condition.
            kmsg.write(priority, &format!("holdfast-initrd: {text}"))
                .ok();
        }
    }
}
