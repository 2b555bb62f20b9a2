//! Worker processes: started, spoken to, killed, never waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use crate::worker::frame::{self, FRAME_BYTES_MAX, Lines, Order, Word};

/// A worker process. Dropping it kills it and leaves it to the kernel; use
/// [`Process::end`] to have it reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    child: Child,
    stream: Async<UnixStream>,
    gone: Async<OwnedFd>,
    lines: Lines,
}

impl Process {
    /// Starts this program again as `role` (`worker`, `writer`).
    pub(crate) fn start(role: &str) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // What a worker prints goes where the daemon's own lines go.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("storaged")
            .arg(role)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output));
        // A group of its own: what it started goes with it.
        command.process_group(0);
        let child = linux::process::with_signals(&mut command).spawn()?;
        let pid = child.id();
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::other("process id out of range"))?;
        let gone = Async::new_nonblocking(pidfd_open(raw, PidfdFlags::NONBLOCK)?)?;
        Ok(Self {
            pid,
            child,
            stream: Async::new(ours)?,
            gone,
            lines: Lines::new(FRAME_BYTES_MAX),
        })
    }

    /// Sends an order.
    pub(crate) async fn send(&mut self, order: &Order) -> io::Result<()> {
        let frame = frame::encode(order)?;
        (&self.stream).write_all(&frame).await
    }

    /// The next word; an error at the end of the stream. Nothing is lost when
    /// the future is dropped.
    pub(crate) async fn receive(&mut self) -> io::Result<Word> {
        let mut chunk = [0; 8192];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(serde_json::from_slice(&line)?);
            }
            match (&self.stream).read(&mut chunk).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.lines.push(&chunk[..length]),
            }
        }
    }

    /// Kills it, and what it started, without waiting.
    pub(crate) fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // Gone already is just as well.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        drop(self.child.kill());
    }

    /// Says that nothing more comes: it ends when it has read that.
    pub(crate) fn hang_up(&self) {
        drop(self.stream.get_ref().shutdown(std::net::Shutdown::Both));
    }

    /// Waits until the kernel lets go of it, for ever if need be, and reaps it.
    /// Says how it ended.
    pub(crate) async fn end(&mut self) -> String {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) => {}
                Err(error) => return error.to_string(),
            }
            if let Err(error) = self.gone.readable().await {
                return error.to_string();
            }
        }
    }
}
