//! Runs other programs: long ones with a log and signs of life, short ones for what they print.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::Error;
use crate::progress::Step;

/// How often a long step says that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// How much of the last line of a log a sign of life shows.
const NOTE_CHARS: usize = 72;

/// How many lines of the log a failure shows.
const TAIL_LINES: usize = 25;

/// Runs `command` with everything it prints going to `log`, telling how it gets on.
pub(crate) fn logged(
    step: &Step,
    what: &str,
    command: &mut Command,
    log: &Path,
) -> Result<(), Error> {
    let program = name(command);
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let out = File::create(log).map_err(Error::io("create", log))?;
    let err = out.try_clone().map_err(Error::io("open", log))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|source| Error::Spawn {
            program: program.clone(),
            source,
        })?;

    let (ended, end) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        // Nobody listening would mean that nobody waits any more.
        ended.send(()).ok();
        status
    });
    while end.recv_timeout(SIGN_OF_LIFE) == Err(mpsc::RecvTimeoutError::Timeout) {
        step.note(
            tail(log, 1)
                .trim()
                .chars()
                .take(NOTE_CHARS)
                .collect::<String>(),
        );
    }
    let status = waiter
        .join()
        .map_err(|_| Error::Host(format!("{program}: the thread waiting for it panicked")))?
        .map_err(|source| Error::Spawn {
            program: program.clone(),
            source,
        })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        what: what.to_owned(),
        program,
        status: status.to_string(),
        log: log.to_owned(),
        tail: tail(log, TAIL_LINES),
    })
}

/// Runs a short command and returns what it printed to standard output.
pub(crate) fn captured(command: &mut Command) -> Result<String, Error> {
    let program = name(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn {
            program: program.clone(),
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Host(format!(
        "{program} {}: {}: {}",
        arguments(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn arguments(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// The last `lines` lines of a log, as far as its last 16 KiB hold them.
fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text =
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16 * 1024)..]).into_owned();
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_the_end_of_the_log_and_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("step.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 100; echo last words >&2; exit 3"]);
        let error = logged(&Step::start("test"), "counting", &mut command, &log)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("counting: sh ended with exit status: 3"),
            "{error}"
        );
        assert!(error.contains(&log.display().to_string()), "{error}");
        assert!(error.ends_with("100\nlast words"), "{error}");
        assert!(!error.contains("\n70\n"), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let error = captured(&mut Command::new("no-such-program"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "program no-such-program: cannot be started");
    }
}
