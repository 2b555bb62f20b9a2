//! Running programs that may hang.
//!
//! A [`Run`] has a deadline, bounded output, an environment of its own, and a
//! process group that dies with the thread that started it. At the deadline the
//! group is killed; a process that does not even die then sits in the kernel
//! (state D) and is left behind, to be reaped whenever the kernel lets it go.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use linux::identity::Owner;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::identity;
use crate::job::{Context, Result};

/// Where programs are looked for.
pub const PROGRAM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of standard output kept unless told otherwise; more is a failure.
const STDOUT_MAX: usize = 32 << 20;

/// Bytes of standard error kept; what follows is dropped.
const STDERR_MAX: usize = 64 << 10;

/// How long a killed process may take to disappear before it is given up.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// How often a run that may be cancelled looks whether it was.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// Children that did not die when killed: in the kernel, on storage that hangs.
static GIVEN_UP: Mutex<Vec<(Child, bool)>> = Mutex::new(Vec::new());

/// Sees output piece by piece.
type Watch<'a> = &'a mut dyn FnMut(&[u8]);

/// A program to run, and its bounds.
pub struct Run<'a> {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Vec<u8>,
    inherited: Vec<BorrowedFd<'a>>,
    deadline: Duration,
    stdout_max: usize,
    cancellable: bool,
    owner: Option<Owner>,
    watch: Option<Watch<'a>>,
}

/// How a program ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The program's name, for messages.
    pub program: String,
    /// Its exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, its first 64 KiB.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl<'a> Run<'a> {
    /// The program `program`: a name looked for in [`PROGRAM_PATH`], or a path.
    /// It gets 60 s, no input and an environment of `PATH` and `LC_ALL=C`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: vec![
                ("PATH".into(), PROGRAM_PATH.into()),
                ("LC_ALL".into(), "C".into()),
            ],
            input: Vec::new(),
            inherited: Vec::new(),
            deadline: Duration::from_secs(60),
            stdout_max: STDOUT_MAX,
            cancellable: false,
            owner: None,
            watch: None,
        }
    }

    /// One more argument. Others see it in the process list: no secrets.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// One more variable of its environment, or another value for one.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        self.environment.retain(|(known, _)| known != name);
        self.environment
            .push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it reads as standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// A descriptor the child (and what it starts) inherits under the same number.
    #[must_use]
    pub fn inherit(mut self, descriptor: Option<BorrowedFd<'a>>) -> Self {
        self.inherited.extend(descriptor);
        self
    }

    /// How long it may run before it is killed.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Bytes of standard output it may write (32 MiB unless told).
    #[must_use]
    pub fn stdout_max(mut self, bytes: usize) -> Self {
        self.stdout_max = bytes;
        self
    }

    /// Lets a cancelled job kill it: only for programs that may be killed anywhere.
    #[must_use]
    pub fn cancellable(mut self) -> Self {
        self.cancellable = true;
        self
    }

    /// Has it run as the user and group that own the files of domains, for what
    /// reads and writes them: a file server may refuse root.
    #[must_use]
    pub fn as_owner(mut self) -> Self {
        self.owner = Some(identity::OWNER);
        self
    }

    /// Shows each piece of standard output as it comes, instead of keeping it.
    #[must_use]
    pub fn watch(mut self, watch: &'a mut dyn FnMut(&[u8])) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Runs it to its end, whatever its exit status.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsupported`] when the program is not there,
    /// [`FailureKind::Timeout`] at the deadline (the outcome is unknown),
    /// [`FailureKind::Cancelled`], [`FailureKind::Failed`] for too much output or
    /// when it could not be started.
    pub fn run(mut self, context: &Context) -> Result<Output> {
        reap_given_up();
        if self.cancellable {
            context.go_on()?;
        }
        let name = self.name();
        let started = Instant::now();
        let mut child = self.spawn(&name)?;
        let end = self.attend(&mut child, started, context, &name);
        match end {
            Ok((stdout, stderr, status)) => Ok(Output {
                program: name,
                code: status.code(),
                signal: std::os::unix::process::ExitStatusExt::signal(&status),
                stdout,
                stderr,
                took: started.elapsed(),
            }),
            Err(failure) => {
                if !kill(child, !self.inherited.is_empty()) {
                    return Err(failure.while_doing(format_args!(
                        "{name} does not die when killed (waits in the kernel), left behind"
                    )));
                }
                Err(failure)
            }
        }
    }

    /// Runs it and makes any end but exit status 0 a failure.
    ///
    /// # Errors
    ///
    /// As [`Run::run`], and [`FailureKind::Failed`] with the last words of the program.
    pub fn succeed(self, context: &Context) -> Result<Output> {
        self.run(context)?.success()
    }

    fn name(&self) -> String {
        let name = Path::new(&self.program).file_name();
        name.unwrap_or(&self.program).to_string_lossy().into_owned()
    }

    fn spawn(&self, name: &str) -> Result<Child> {
        let path = find_program(&self.program).ok_or_else(|| {
            Failure::new(
                FailureKind::Unsupported,
                format!("program {name}: not found in {PROGRAM_PATH}"),
            )
        })?;
        let mut command = std::process::Command::new(path);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(if self.input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            });
        if let Some(owner) = self.owner {
            linux::process::owned_by(&mut command, owner);
        }
        linux::process::tied(&mut command, &self.inherited)
            .spawn()
            .map_err(|error| {
                Failure::new(
                    FailureKind::Failed,
                    format!("program {name}: cannot start: {error}"),
                )
            })
    }

    /// Feeds, reads and waits until the child has ended.
    fn attend(
        &mut self,
        child: &mut Child,
        started: Instant,
        context: &Context,
        name: &str,
    ) -> Result<(Vec<u8>, Vec<u8>, std::process::ExitStatus)> {
        let io = |error: std::io::Error| {
            Failure::new(FailureKind::Failed, format!("program {name}: {error}"))
        };
        let errno = |error: rustix::io::Errno| io(error.into());
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io(std::io::ErrorKind::InvalidInput.into()))?;
        let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(errno)?;
        let mut stdin = child.stdin.take();
        let mut stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        for pipe in [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
        {
            let flags = rustix::fs::fcntl_getfl(pipe).map_err(errno)?;
            rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK).map_err(errno)?;
        }
        let input = std::mem::take(&mut self.input);
        let mut fed = 0;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let mut left = self
                .deadline
                .checked_sub(started.elapsed())
                .filter(|left| !left.is_zero())
                .ok_or_else(|| {
                    Failure::new(
                        FailureKind::Timeout,
                        format!("program {name}: no end after {:?}, killed", self.deadline),
                    )
                })?;
            if self.cancellable {
                context.go_on()?;
                left = left.min(CANCEL_POLL);
            }
            let over = wait(
                &ended,
                stdin.as_ref(),
                stdout.as_ref(),
                stderr.as_ref(),
                left,
            )
            .map_err(errno)?;
            if let Some(pipe) = &mut stdin {
                match pipe.write(input.get(fed..).unwrap_or_default()) {
                    Ok(count) => fed += count,
                    Err(error) if again(&error) => {}
                    // It does not want the rest; its exit status tells.
                    Err(_) => fed = input.len(),
                }
                if fed >= input.len() {
                    stdin = None;
                }
            }
            self.drain_stdout(&mut stdout, &mut out, name)?;
            drain(&mut stderr, |piece| {
                let room = STDERR_MAX.saturating_sub(err.len()).min(piece.len());
                err.extend_from_slice(piece.get(..room).unwrap_or_default());
                Ok(())
            })?;
            if over {
                // What it started may hold the pipes open; nobody waits for them.
                let status = child.wait().map_err(io)?;
                self.drain_stdout(&mut stdout, &mut out, name)?;
                return Ok((out, err, status));
            }
        }
    }

    fn drain_stdout(
        &mut self,
        pipe: &mut Option<std::process::ChildStdout>,
        out: &mut Vec<u8>,
        name: &str,
    ) -> Result<()> {
        let (max, watch) = (self.stdout_max, &mut self.watch);
        drain(pipe, |piece| {
            if let Some(watch) = watch {
                watch(piece);
                return Ok(());
            }
            if out.len() + piece.len() > max {
                return Err(Failure::new(
                    FailureKind::Failed,
                    format!("program {name}: wrote more than {max} bytes, killed"),
                ));
            }
            out.extend_from_slice(piece);
            Ok(())
        })
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Itself when the exit status is 0.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Failed`] with the exit status and the last words of the program.
    pub fn success(self) -> Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        Err(self.failure(FailureKind::Failed))
    }

    /// A failure of kind `kind` that tells how the program ended.
    pub fn failure(&self, kind: FailureKind) -> Failure {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        let words = self.words();
        let separator = if words.is_empty() { "" } else { ": " };
        Failure::new(kind, format!("{}: {end}{separator}{words}", self.program))
    }

    /// Standard output as text; bytes that are none become U+FFFD.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// The last lines of standard error (of output when there are none), joined
    /// by `; `, at most 400 characters.
    pub fn words(&self) -> String {
        let said = String::from_utf8_lossy(if self.stderr.trim_ascii().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        });
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut kept: Vec<_> = lines.rev().take(4).collect();
        kept.reverse();
        kept.join("; ").chars().take(400).collect()
    }
}

/// Processes that were killed and did not end: they wait in the kernel.
pub fn given_up() -> usize {
    reap_given_up();
    lock().len()
}

/// Those of [`given_up`] that inherited a registration: they change metadata, and
/// may still do so.
pub fn left_writing() -> usize {
    reap_given_up();
    lock().iter().filter(|(_, writes)| *writes).count()
}

/// The path of a program: as it is when it has a slash, else the first in [`PROGRAM_PATH`].
pub fn find_program(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = Path::new(program.as_ref());
    if program.components().count() > 1 {
        return program.exists().then(|| program.to_owned());
    }
    PROGRAM_PATH
        .split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

fn lock() -> std::sync::MutexGuard<'static, Vec<(Child, bool)>> {
    GIVEN_UP
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn reap_given_up() {
    lock().retain_mut(|(child, _)| matches!(child.try_wait(), Ok(None)));
}

fn again(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
    )
}

/// Kills a child's group; whether it is gone.
fn kill(mut child: Child, writes: bool) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = pid.and_then(|pid| {
        // Not reaped yet, so the number is still its own; already gone is as good.
        let killed = rustix::process::kill_process_group(pid, Signal::KILL);
        tracing::debug!(pid = pid.as_raw_nonzero().get(), ?killed, "program killed");
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
    });
    let until = Instant::now() + KILL_GRACE;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return true,
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if let Some(ended) = &ended {
            let waited = rustix::event::poll(
                &mut [PollFd::new(ended, PollFlags::IN)],
                Timespec::try_from(left).ok().as_ref(),
            );
            if waited.is_err_and(|error| error != rustix::io::Errno::INTR) {
                break;
            }
        }
    }
    lock().push((child, writes));
    false
}

/// Waits for anything to do, at most `left`; whether the child has ended.
fn wait(
    ended: &impl AsFd,
    stdin: Option<&impl AsFd>,
    stdout: Option<&impl AsFd>,
    stderr: Option<&impl AsFd>,
    left: Duration,
) -> rustix::io::Result<bool> {
    let mut polled = vec![PollFd::new(ended, PollFlags::IN)];
    polled.extend(stdin.map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
    polled.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    polled.extend(stderr.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    match rustix::event::poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    Ok(polled
        .first()
        .is_some_and(|child| !child.revents().is_empty()))
}

/// Hands on what a pipe has; closes it at its end.
fn drain(pipe: &mut Option<impl Read>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut piece = [0; 8192];
    while let Some(reader) = pipe {
        match reader.read(&mut piece) {
            Ok(0) => *pipe = None,
            Ok(count) => take(piece.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if again(&error) => break,
            Err(_) => *pipe = None,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
