//! The thread that turns the queue's lines into log events. It alone may wait
//! for whoever reads the log.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lease::{Note, Stalled};

use crate::options::Options;
use crate::report;
use crate::shared::{Line, Shared};

/// Formatting an event takes some.
const STACK_BYTES: usize = 256 * 1024;

pub(crate) fn start(options: Arc<Options>, shared: Arc<Shared>) -> io::Result<()> {
    thread::Builder::new()
        .name("journal".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            loop {
                drain(&options, &shared);
                shared.lines_ready.wait(Duration::from_secs(60));
            }
        })?;
    Ok(())
}

/// Writes what is in the queue.
pub(crate) fn drain(options: &Options, shared: &Shared) {
    while let Some(line) = shared.next_line() {
        write(options, &line);
    }
    let dropped = shared.take_dropped();
    if dropped > 0 {
        tracing::warn!(dropped, "log lines were dropped, the log is too slow");
    }
}

fn write(options: &Options, line: &Line) {
    let lockspace = options.lockspace.to_string();
    let host_id = options.host_id.get();
    match line {
        Line::Note(note) => note_event(options, note),
        Line::JoinFailed(reason) => tracing::warn!(lockspace, host_id, "cannot join: {reason}"),
        Line::Joined(geometry) => tracing::info!(
            lockspace,
            host_id,
            sector_size = geometry.sector_size(),
            align_size = geometry.align_size(),
            "lockspace found on {}",
            options.path.display()
        ),
        Line::WatchdogUnreachable(error) => {
            let error = io::Error::from_raw_os_error(*error);
            tracing::error!(
                lockspace,
                host_id,
                "watchdog does not take messages: {error}"
            );
        }
    }
}

fn note_event(options: &Options, note: &Note) {
    let lockspace = options.lockspace.to_string();
    let host_id = options.host_id.get();
    match note {
        Note::Watching(rival) => tracing::info!(
            lockspace,
            host_id,
            generation = rival.generation.0,
            "held by \"{}\"; watching until it is surely dead",
            rival.name
        ),
        Note::Busy(rival) => tracing::warn!(
            lockspace,
            host_id,
            generation = rival.generation.0,
            "host id is held by \"{}\", which is alive",
            rival.name
        ),
        Note::Failed(failure) => tracing::warn!(lockspace, host_id, "not acquired: {failure}"),
        Note::Acquired { generation, .. } => {
            tracing::info!(
                lockspace,
                host_id,
                generation = generation.0,
                "lease acquired"
            );
        }
        Note::RenewalFailed(failure) => {
            tracing::warn!(lockspace, host_id, "renewal failed: {failure}")
        }
        Note::Stalling { what, age_ms } => {
            let what = match what {
                Stalled::Read => "reading the area",
                Stalled::Write => "writing our record",
            };
            tracing::warn!(
                lockspace,
                host_id,
                age_ms,
                "storage is slow: {what} takes long"
            );
        }
        Note::Failing { age_ms } => {
            tracing::error!(
                lockspace,
                host_id,
                age_ms,
                "lease is about to be lost: not renewed"
            );
        }
        Note::Recovered { gap_ms } => tracing::info!(lockspace, host_id, gap_ms, "renewed again"),
        Note::Lost(loss) => {
            let code = loss.code().0;
            tracing::error!(
                lockspace,
                host_id,
                code,
                "lease lost: {}",
                report::lost(options, loss)
            );
        }
        Note::WatchdogGone => {
            tracing::error!(
                lockspace,
                host_id,
                "watchdog connection broke while the lease was held"
            );
        }
        Note::Released { clean: true } => tracing::info!(lockspace, host_id, "lease released"),
        Note::Released { clean: false } => {
            tracing::info!(lockspace, host_id, "ended; nothing was released on disk");
        }
    }
}
