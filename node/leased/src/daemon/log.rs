//! The daemon's log: a ring in memory for `log_dump`, and a thread of its own
//! that writes file, standard error and the system's log, any of which may
//! hang without anybody else noticing.
//!
//! A line is `YYYY-MM-DD HH:MM:SS <mono> [<tid>]: message`.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lease::Monotonic;
use linux::clock::Calendar;
use tracing_subscriber::fmt::MakeWriter;

use super::options::Options;

/// Bytes of log kept for `log_dump`; the oldest lines go first.
const RING_BYTES: usize = 1 << 20;
/// Longest message; the rest is cut off.
const LINE_BYTES: usize = 1024;
/// Lines waiting for the writing thread; more are counted and dropped.
const WAITING_MAX: usize = 1024;
/// How long the end of the daemon waits for its last lines to be written.
const FINISH_MAX: Duration = Duration::from_secs(2);
const SYSTEM_LOG: &str = "/dev/log";
/// `LOG_DAEMON`, as syslog numbers it.
const FACILITY: u8 = 3 << 3;

/// How much a line matters: syslog's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// The operator must act.
    Error = 3,
    /// Degraded.
    Warning = 4,
    /// State changed.
    Info = 6,
    /// Activity.
    Debug = 7,
}

/// How often something is worth a line that anybody can cause as often as
/// they like.
#[derive(Debug)]
pub(crate) struct Limit {
    per_second: u32,
    /// The second that is counted in.
    second: u64,
    said: u32,
    unsaid: u64,
}

impl Limit {
    /// So many lines a second.
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            second: 0,
            said: 0,
            unsaid: 0,
        }
    }

    /// Whether a line may be said at `now`, and how many were not said before
    /// it.
    pub(crate) fn allows(&mut self, now: Monotonic) -> Option<u64> {
        if now.seconds() != self.second {
            self.second = now.seconds();
            self.said = 0;
        }
        if self.said >= self.per_second {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Where lines go. Cheap to clone; never waits for a sink.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    lines: SyncSender<Entry>,
    dropped: AtomicU64,
    utc: bool,
    unstarted: Mutex<Option<(Sinks, Receiver<Entry>)>>,
}

#[derive(Debug)]
enum Entry {
    Line(Level, Arc<str>),
    /// Tell that everything before was written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, line: Arc<str>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > RING_BYTES {
            match self.lines.pop_front() {
                Some(oldest) => self.bytes -= oldest.len(),
                None => return,
            }
        }
    }
}

impl Log {
    /// Opens the sinks, which only root may be allowed to.
    pub(crate) fn open(options: &Options) -> Self {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        Self(Arc::new(Inner {
            ring: Mutex::default(),
            lines: sender,
            dropped: AtomicU64::new(0),
            utc: options.logfile_use_utc,
            unstarted: Mutex::new(Some((Sinks::open(options), receiver))),
        }))
    }

    /// Starts the writing thread.
    ///
    /// # Errors
    /// No more threads.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut unstarted = self
            .0
            .unstarted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some((sinks, receiver)) = unstarted.take() else {
            return Ok(());
        };
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || sinks.write(&receiver))?;
        Ok(())
    }

    /// Waits until what was said is written, or for as long as a sink that
    /// works may take.
    pub(crate) fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.0.lines.try_send(Entry::Flush(done)).is_ok() {
            written.recv_timeout(FINISH_MAX).ok();
        }
    }

    /// Leaves a line about the daemon as a whole.
    pub(crate) fn say(&self, level: Level, message: fmt::Arguments<'_>) {
        let mut line = String::with_capacity(160);
        stamp(&mut line, self.0.utc);
        let start = line.len();
        // Writing to a string does not fail.
        line.write_fmt(message).ok();
        let mut end = line.len().min(start + LINE_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('\n');
        let line: Arc<str> = line.into();
        self.ring().push(Arc::clone(&line));
        let dropped = self.0.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let told: Arc<str> = format!("{dropped} lines were not written here\n").into();
            let entry = Entry::Line(Level::Warning, told);
            if self.0.lines.try_send(entry).is_err() {
                self.0.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        match self.0.lines.try_send(Entry::Line(level, line)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Everything remembered, oldest first.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let ring = self.ring();
        let mut bytes = Vec::with_capacity(ring.bytes);
        for line in &ring.lines {
            bytes.extend(line.as_bytes());
        }
        bytes
    }

    /// The operator must act.
    pub(crate) fn error(&self, message: fmt::Arguments<'_>) {
        self.say(Level::Error, message);
    }

    /// Degraded.
    pub(crate) fn warn(&self, message: fmt::Arguments<'_>) {
        self.say(Level::Warning, message);
    }

    /// State changed.
    pub(crate) fn info(&self, message: fmt::Arguments<'_>) {
        self.say(Level::Info, message);
    }

    /// Activity.
    pub(crate) fn debug(&self, message: fmt::Arguments<'_>) {
        self.say(Level::Debug, message);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Makes this the place for what the rest of the program traces.
    pub(crate) fn take_traces(&self) {
        // Where traces have a place already, they stay there.
        tracing_subscriber::fmt()
            .with_writer(Traces(self.clone()))
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .without_time()
            .try_init()
            .ok();
    }
}

/// Traces become lines.
struct Traces(Log);

/// One trace.
struct Trace(Log, Level);

impl<'a> MakeWriter<'a> for Traces {
    type Writer = Trace;

    fn make_writer(&'a self) -> Trace {
        Trace(self.0.clone(), Level::Info)
    }

    fn make_writer_for(&'a self, about: &tracing::Metadata<'_>) -> Trace {
        let level = match *about.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        Trace(self.0.clone(), level)
    }
}

impl io::Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.say(self.1, format_args!("{}", text.trim_end()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Sinks {
    file: Option<File>,
    file_level: i8,
    system: Option<UnixDatagram>,
    system_level: i8,
    terminal: bool,
}

impl Sinks {
    fn open(options: &Options) -> Self {
        // A node's journal takes what is said on standard error.
        if options.node.is_some() {
            return Self {
                file: None,
                file_level: -1,
                system: None,
                system_level: -1,
                terminal: true,
            };
        }
        // Without the file there are the other sinks.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&options.log_file)
            .ok();
        let system = UnixDatagram::unbound()
            .ok()
            .filter(|socket| socket.connect(SYSTEM_LOG).is_ok());
        Self {
            file,
            file_level: options.logfile_priority,
            system,
            system_level: options.syslog_priority,
            terminal: options.foreground,
        }
    }

    fn write(mut self, lines: &Receiver<Entry>) {
        for entry in lines {
            let (level, line) = match entry {
                Entry::Line(level, line) => (level, line),
                Entry::Flush(done) => {
                    done.send(()).ok();
                    continue;
                }
            };
            // A sink that fails loses its lines; the ring in memory has them.
            let number = level as u8;
            let wanted = |limit: i8| u8::try_from(limit).is_ok_and(|limit| number <= limit);
            if wanted(self.file_level)
                && let Some(file) = &mut self.file
            {
                file.write_all(line.as_bytes()).ok();
            }
            if self.terminal {
                io::stderr().write_all(line.as_bytes()).ok();
            }
            if wanted(self.system_level)
                && let Some(system) = &self.system
            {
                let text = line.split_once("]: ").map_or(&*line, |(_, text)| text);
                let message = format!(
                    "<{}>sanlock[{}]: {}",
                    FACILITY | number,
                    std::process::id(),
                    text.trim_end()
                );
                system.send(message.as_bytes()).ok();
            }
        }
    }
}

fn stamp(line: &mut String, utc: bool) {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let calendar = i64::try_from(unix)
        .ok()
        .filter(|_| !utc)
        .and_then(linux::clock::local_time)
        .unwrap_or_else(|| universal(unix));
    let Calendar {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = calendar;
    let mono = linux::clock::monotonic_ns() / 1_000_000_000;
    let tid = rustix::thread::gettid().as_raw_nonzero();
    // Writing to a string does not fail.
    write!(
        line,
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} {mono} [{tid}]: ",
    )
    .ok();
}

fn universal(unix: u64) -> Calendar {
    let (year, month, day) = date(unix / 86_400);
    let second = unix % 86_400;
    // All of them are small.
    let small = |number: u64| i32::try_from(number).unwrap_or(0);
    Calendar {
        year: small(year),
        month: small(month),
        day: small(day),
        hour: small(second / 3600),
        minute: small(second / 60 % 60),
        second: small(second % 60),
    }
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted in eras of 400 years that begin on the first of March.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_778), (2026, 11, 21));
    }

    #[test]
    fn what_anybody_can_cause_is_said_ten_times_a_second() {
        let mut limit = Limit::new(10);
        let at = |ms| Monotonic(0).plus_ms(ms);
        let said = (0..500).filter(|_| limit.allows(at(7_100)).is_some());
        assert_eq!(said.count(), 10);
        assert_eq!(limit.allows(at(8_000)), Some(490));
        assert_eq!(limit.allows(at(8_001)), Some(0));
    }

    #[test]
    fn the_ring_forgets_the_oldest_lines_first() {
        let mut ring = Ring::default();
        let line: Arc<str> = "x".repeat(1000).into();
        ring.push("first".into());
        for _ in 0..2000 {
            ring.push(Arc::clone(&line));
        }
        assert!(ring.bytes <= RING_BYTES);
        assert_eq!(ring.bytes, ring.lines.len() * 1000);
    }
}
