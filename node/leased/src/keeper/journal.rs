//! The thread that turns the keeper's lines into log events. It alone may wait
//! for whoever reads the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use disk_format::Geometry;
use lease::{Note, Stalled};

use super::{Join, status};

/// Lines kept when nobody takes them; further ones are counted, not kept.
const LINES_MAX: usize = 256;
/// Formatting an event takes some.
const STACK_BYTES: usize = 256 * 1024;

/// A line for the log, still in a form that needs no allocation.
#[derive(Debug, Clone)]
pub(super) enum What {
    Note(Note),
    JoinFailed(Arc<str>),
    Found(Geometry),
    WatchdogUnreachable(i32),
    RequestSize(Arc<str>),
}

#[derive(Debug)]
struct Line {
    join: Arc<Join>,
    what: What,
}

/// Where lines are left; leaving one never waits.
#[derive(Debug)]
pub(super) struct Journal {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Journal {
    /// Starts the thread; it ends when the journal is dropped.
    pub(super) fn start() -> io::Result<(Self, JoinHandle<()>)> {
        let (lines, received) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&dropped);
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&received, &of_thread))?;
        Ok((Self { lines, dropped }, thread))
    }

    /// Leaves a line, or counts it.
    pub(super) fn tell(&self, join: &Arc<Join>, what: What) {
        let line = Line {
            join: Arc::clone(join),
            what,
        };
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn serve(lines: &Receiver<Line>, dropped: &AtomicU64) {
    while let Ok(line) = lines.recv() {
        write(&line);
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "log lines were dropped, the log is too slow");
        }
    }
}

fn write(line: &Line) {
    let join = &*line.join;
    let space = join.id.to_string();
    let lockspace = join.name.to_string();
    let host_id = join.host_id.get();
    match &line.what {
        What::Note(note) => note_event(join, note),
        What::JoinFailed(reason) => {
            tracing::warn!(space, lockspace, host_id, "cannot join: {reason}");
        }
        What::Found(geometry) => tracing::info!(
            space,
            lockspace,
            host_id,
            sector_size = geometry.sector_size(),
            align_size = geometry.align_size(),
            "lockspace found on {}",
            join.path.display()
        ),
        What::WatchdogUnreachable(error) => {
            let error = io::Error::from_raw_os_error(*error);
            tracing::error!(
                space,
                lockspace,
                host_id,
                "watchdog does not take messages: {error}"
            );
        }
        What::RequestSize(reason) => {
            tracing::info!(space, lockspace, host_id, "request size not set: {reason}");
        }
    }
}

fn note_event(join: &Join, note: &Note) {
    let space = join.id.to_string();
    let lockspace = join.name.to_string();
    let host_id = join.host_id.get();
    match note {
        Note::Watching(rival) => tracing::info!(
            space,
            lockspace,
            host_id,
            generation = rival.generation.0,
            "held by \"{}\"; watching until it is surely dead",
            rival.name
        ),
        Note::Busy(rival) => tracing::warn!(
            space,
            lockspace,
            host_id,
            generation = rival.generation.0,
            "host id is held by \"{}\", which is alive",
            rival.name
        ),
        Note::Failed(failure) => {
            tracing::warn!(space, lockspace, host_id, "not acquired: {failure}");
        }
        Note::Acquired { generation, .. } => {
            tracing::info!(
                space,
                lockspace,
                host_id,
                generation = generation.0,
                "lease acquired"
            );
        }
        Note::RenewalFailed(failure) => {
            tracing::warn!(space, lockspace, host_id, "renewal failed: {failure}");
        }
        Note::Stalling { what, age_ms } => {
            let what = match what {
                Stalled::Read => "reading the area",
                Stalled::Write => "writing our record",
            };
            tracing::warn!(
                space,
                lockspace,
                host_id,
                age_ms,
                "storage is slow: {what} takes long"
            );
        }
        Note::Failing { age_ms } => {
            tracing::error!(
                space,
                lockspace,
                host_id,
                age_ms,
                "lease is about to be lost: not renewed"
            );
        }
        Note::Recovered { gap_ms } => {
            tracing::info!(space, lockspace, host_id, gap_ms, "renewed again");
        }
        Note::Lost(loss) => {
            let code = loss.code().0;
            tracing::error!(
                space,
                lockspace,
                host_id,
                code,
                "lease lost: {}",
                status::lost(join, loss)
            );
        }
        Note::WatchdogGone => {
            tracing::error!(
                space,
                lockspace,
                host_id,
                "watchdog connection broke while the lease was held"
            );
        }
        Note::Released { clean: true } => {
            tracing::info!(space, lockspace, host_id, "lease released");
        }
        Note::Released { clean: false } => {
            tracing::info!(
                space,
                lockspace,
                host_id,
                "ended; nothing was released on disk"
            );
        }
    }
}
