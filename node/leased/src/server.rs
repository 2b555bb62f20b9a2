//! The status socket and the signals, in one loop that waits for neither
//! clients nor the lease.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use control::request::{LeasedReply, LeasedRequest};
use control::status::LockspaceReport;
use linux::process::{Notice, Signals};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Connections at once; when one more comes, the longest silent goes.
const CLIENTS_MAX: usize = 16;
/// A request is a few dozen bytes; a longer line ends the connection.
const LINE_BYTES_MAX: usize = 4096;
/// A client that is silent, or does not read, for so long is let go.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What ended the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// SIGTERM or SIGINT.
    Asked,
    /// The other thread has ended.
    Ended,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    heard: Instant,
}

#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
}

impl Server {
    /// Listens at `path`, mode 0600; takes the place of a socket nobody serves.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another leased answers there",
            ));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
        })
    }

    /// Serves until a signal asks for the end, or `ended` becomes readable.
    pub(crate) fn serve(
        &mut self,
        signals: &Signals,
        ended: &impl AsFd,
        status: &dyn Fn() -> LockspaceReport,
    ) -> io::Result<Woken> {
        loop {
            let ready = self.wait(signals, ended)?;
            if ready.first().is_some_and(|&ready| ready) {
                while let Ok(notice) = signals.receive() {
                    if matches!(notice, Notice::Terminate | Notice::CtrlAltDel) {
                        return Ok(Woken::Asked);
                    }
                }
            }
            if ready.get(1).is_some_and(|&ready| ready) {
                return Ok(Woken::Ended);
            }
            self.accept();
            self.clients.retain_mut(|client| {
                client.converse(status) && client.heard.elapsed() < SILENCE_MAX
            });
        }
    }

    /// Which of signals, end, listener and clients have something to say.
    fn wait(&self, signals: &Signals, ended: &impl AsFd) -> io::Result<Vec<bool>> {
        let mut fds = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        fds.extend(self.clients.iter().map(|client| {
            let wanted = if client.output.is_empty() {
                PollFlags::IN
            } else {
                PollFlags::OUT
            };
            PollFd::new(&client.stream, wanted)
        }));
        // Bounded, so that silent clients are let go.
        let timeout = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() == CLIENTS_MAX
                && let Some(silent) =
                    (0..self.clients.len()).min_by_key(|&index| self.clients[index].heard)
            {
                self.clients.remove(silent);
            }
            self.clients.push(Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                heard: Instant::now(),
            });
        }
    }
}

impl Client {
    /// Moves what can be moved; `false` ends the connection.
    fn converse(&mut self, status: &dyn Fn() -> LockspaceReport) -> bool {
        loop {
            if !self.flush() {
                return false;
            }
            // One answer at a time: who does not read is not answered further.
            if !self.output.is_empty() {
                return true;
            }
            if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                self.output = answer(&line, status);
                continue;
            }
            let mut bytes = [0; 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    self.heard = Instant::now();
                    self.input.extend_from_slice(&bytes[..count]);
                    if self.input.len() > LINE_BYTES_MAX {
                        return false;
                    }
                }
                Err(error) => {
                    return matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    );
                }
            }
        }
    }

    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(count) => {
                    self.heard = Instant::now();
                    self.output.drain(..count);
                }
                Err(error) => {
                    return matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    );
                }
            }
        }
        true
    }
}

fn answer(line: &[u8], status: &dyn Fn() -> LockspaceReport) -> Vec<u8> {
    let reply = match serde_json::from_slice(line) {
        Ok(LeasedRequest::Status) => LeasedReply::Status {
            lockspaces: vec![status()],
        },
        Err(error) => LeasedReply::Error {
            message: format!("request: {error}; send {{\"request\":\"status\"}}"),
        },
    };
    // Types of strings and numbers always have a JSON form.
    let mut bytes = serde_json::to_vec(&reply).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
