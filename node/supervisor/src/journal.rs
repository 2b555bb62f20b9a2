//! Where the supervisor's words go: to journald, to the kernel's log while
//! journald does not answer, and always to a ring in memory that `nodectl log`
//! reads with journald dead.
//!
//! ```text
//!  tracing event ─┐            ┌─▶ ring (bounded, memory)
//!  child's line ──┴─▶ Logger ──┼─▶ /dev/kmsg            until journald answers
//!                              └─▶ queue ─▶ thread ─▶ /run/systemd/journal/socket
//! ```
//!
//! PID 1 never waits here: a full queue drops the line and counts it, and the
//! count is reported when the queue moves again. Only the thread ever blocks.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linux::kmsg::Kmsg;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// journald's native socket.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Lines that may wait for journald; beyond it lines are dropped and counted.
const QUEUE_LINES_MAX: usize = 1024;
/// Bytes of text kept for `nodectl log`; the oldest lines make room.
const RING_BYTES_MAX: usize = 192 * 1024;
/// Longest line, in bytes; the rest is cut.
pub const LINE_BYTES_MAX: usize = 2048;
/// Longest wait of the thread for journald to take one line.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// Priority of a line, as syslog counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub u8);

impl Priority {
    /// Something the operator must act on.
    pub const ERROR: Self = Self(3);
    /// Degraded, being retried.
    pub const WARNING: Self = Self(4);
    /// A state changed.
    pub const INFO: Self = Self(6);
    /// For developers.
    pub const DEBUG: Self = Self(7);

    fn word(self) -> &'static str {
        match self.0 {
            0..=3 => "error",
            4 => "warn",
            5..=6 => "info",
            _ => "debug",
        }
    }
}

#[derive(Debug)]
struct Line {
    identifier: String,
    priority: Priority,
    text: String,
}

/// Takes every line.
#[derive(Debug)]
pub struct Logger {
    kmsg: Option<Kmsg>,
    ring: Mutex<Ring>,
    queue: SyncSender<Line>,
    /// Taken by the thread when journald answers for the first time.
    waiting: Mutex<Option<Receiver<Line>>>,
    journald_answers: AtomicBool,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > RING_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
    }
}

impl Logger {
    /// A logger that writes to the kernel's log, where that can be opened.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let (queue, waiting) = sync_channel(QUEUE_LINES_MAX);
        Arc::new(Self {
            kmsg: Kmsg::open().ok(),
            ring: Mutex::default(),
            queue,
            waiting: Mutex::new(Some(waiting)),
            journald_answers: AtomicBool::new(false),
            dropped: Arc::default(),
        })
    }

    /// journald is ready: from now on lines go to it.
    ///
    /// # Errors
    /// The thread cannot be started; lines keep going to the kernel's log.
    pub fn journald_ready(&self) -> io::Result<()> {
        let Some(waiting) = held(&self.waiting).take() else {
            return Ok(());
        };
        let dropped = self.dropped.clone();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || deliver(&waiting, &dropped))?;
        self.journald_answers.store(true, Ordering::Release);
        Ok(())
    }

    /// One line said by `identifier`. Never waits.
    pub fn line(&self, identifier: &str, priority: Priority, text: &str) {
        let text = cut(text);
        let at = linux::system::monotonic();
        let shown = format!(
            "{:>6}.{:03} {:<5} {identifier}: {text}",
            at.as_secs(),
            at.subsec_millis(),
            priority.word()
        );
        held(&self.ring).push(shown);
        if !self.journald_answers.load(Ordering::Acquire) {
            self.to_kernel(priority, identifier, text);
            return;
        }
        let line = Line {
            identifier: identifier.to_owned(),
            priority,
            text: text.to_owned(),
        };
        if let Err(TrySendError::Full(line) | TrySendError::Disconnected(line)) =
            self.queue.try_send(line)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            if priority <= Priority::ERROR {
                self.to_kernel(priority, &line.identifier, &line.text);
            }
        }
    }

    /// One line for the kernel's log only: what journald itself says, lest it hear its own words.
    pub fn line_past_journald(&self, identifier: &str, priority: Priority, text: &str) {
        let text = cut(text);
        let at = linux::system::monotonic();
        held(&self.ring).push(format!(
            "{:>6}.{:03} {:<5} {identifier}: {text}",
            at.as_secs(),
            at.subsec_millis(),
            priority.word()
        ));
        self.to_kernel(priority, identifier, text);
    }

    /// The last `count` lines, oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<String> {
        let ring = held(&self.ring);
        ring.lines
            .iter()
            .skip(ring.lines.len().saturating_sub(count))
            .cloned()
            .collect()
    }

    /// Lines dropped because journald did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn to_kernel(&self, priority: Priority, identifier: &str, text: &str) {
        if let Some(kmsg) = &self.kmsg {
            // The last resort has no further one: the ring has the line in any case.
            kmsg.write(priority.0, &format!("{identifier}: {text}"))
                .ok();
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave a queue of strings half-made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The thread: takes lines one by one and waits for journald as long as it must.
fn deliver(waiting: &Receiver<Line>, dropped: &AtomicU64) {
    let kmsg = Kmsg::open().ok();
    let mut socket = None;
    let mut reported = 0;
    while let Ok(line) = waiting.recv() {
        let lost = dropped.load(Ordering::Relaxed);
        if lost > reported {
            let text = format!(
                "journal: {} lines dropped because journald did not take them in time",
                lost - reported
            );
            reported = lost;
            send(
                &mut socket,
                &Line {
                    identifier: "supervisor".to_owned(),
                    priority: Priority::WARNING,
                    text,
                },
            );
        }
        if !send(&mut socket, &line)
            && let Some(kmsg) = &kmsg
        {
            kmsg.write(
                line.priority.0,
                &format!("{}: {}", line.identifier, line.text),
            )
            .ok();
        }
    }
}

fn send(socket: &mut Option<UnixDatagram>, line: &Line) -> bool {
    let record = record(line);
    // A restarted journald has a new socket behind the same path: connect once more.
    for _ in 0..2 {
        if socket.is_none() {
            *socket = connect().ok();
        }
        let Some(open) = socket.as_ref() else {
            return false;
        };
        match open.send(&record) {
            Ok(_) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => *socket = None,
        }
    }
    false
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SOCKET)?;
    socket.set_write_timeout(Some(SEND_DEADLINE))?;
    Ok(socket)
}

/// journald's native format: `KEY=value` lines, a length-prefixed form for text with line breaks.
fn record(line: &Line) -> Vec<u8> {
    let mut record = format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER={}\n",
        line.priority.0.min(7),
        line.identifier.replace('\n', " ")
    )
    .into_bytes();
    if line.text.contains('\n') {
        record.extend_from_slice(b"MESSAGE\n");
        record.extend_from_slice(&u64::try_from(line.text.len()).unwrap_or(0).to_le_bytes());
    } else {
        record.extend_from_slice(b"MESSAGE=");
    }
    record.extend_from_slice(line.text.as_bytes());
    record.push(b'\n');
    record
}

/// tracing's end: every event at `info` and above becomes a line; there are no spans.
#[derive(Debug)]
pub struct Sink {
    logger: Arc<Logger>,
    level: Level,
}

impl Sink {
    /// Takes events up to `level`.
    #[must_use]
    pub fn new(logger: Arc<Logger>, level: Level) -> Self {
        Self { logger, level }
    }
}

impl Subscriber for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= self.level
            && ours(metadata.target(), *metadata.level())
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let priority = match *event.metadata().level() {
            Level::ERROR => Priority::ERROR,
            Level::WARN => Priority::WARNING,
            Level::INFO => Priority::INFO,
            _ => Priority::DEBUG,
        };
        self.logger
            .line("supervisor", priority, &(text.message + &text.fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Libraries may warn; their everyday talk stays out.
fn ours(target: &str, level: Level) -> bool {
    level <= Level::WARN || target.starts_with("supervisor") || target.starts_with("linux")
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &format_args!("{value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journald_that_takes_nothing_never_holds_the_caller_and_losses_are_counted() {
        let logger = Logger::new();
        // As if journald had answered once, and its thread hung ever since.
        logger.journald_answers.store(true, Ordering::Release);
        for number in 0..QUEUE_LINES_MAX + 10 {
            logger.line("leased", Priority::INFO, &format!("line {number}"));
        }
        assert_eq!(logger.dropped(), 10);
        assert!(
            logger.last(1)[0].ends_with(&format!("line {}", QUEUE_LINES_MAX + 9)),
            "the ring has every line"
        );
    }

    #[test]
    fn the_ring_keeps_the_newest_lines_within_its_bound() {
        let mut ring = Ring::default();
        for number in 0..100_000 {
            ring.push(format!("line {number}"));
        }
        assert!(ring.bytes <= RING_BYTES_MAX);
        assert_eq!(
            ring.bytes,
            ring.lines.iter().map(String::len).sum::<usize>()
        );
        assert_eq!(ring.lines.back().unwrap(), "line 99999");
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(cut(&"ä".repeat(LINE_BYTES_MAX)).len(), LINE_BYTES_MAX);
        assert_eq!(
            cut(&format!("x{}", "ä".repeat(LINE_BYTES_MAX))).len(),
            LINE_BYTES_MAX - 1
        );
    }

    #[test]
    fn records_follow_the_native_format() {
        let line = |text: &str| Line {
            identifier: "leased".to_owned(),
            priority: Priority(4),
            text: text.to_owned(),
        };
        assert_eq!(
            record(&line("hello")),
            b"PRIORITY=4\nSYSLOG_IDENTIFIER=leased\nMESSAGE=hello\n"
        );
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=leased\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(record(&line("a\nb")), expected);
    }

    #[test]
    fn events_become_lines_with_their_fields() {
        let logger = Logger::new();
        tracing::subscriber::with_default(Sink::new(logger.clone(), Level::INFO), || {
            tracing::info!(host_id = 3, "lease {}", "held");
            tracing::debug!("never seen");
        });
        let lines = logger.last(10);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].ends_with("info  supervisor: lease held host_id=3"),
            "{lines:?}"
        );
    }
}
