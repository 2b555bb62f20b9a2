//! The status socket: answers what `nodectl` and the supervisor ask, and waits
//! for neither.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use control::request::{LeasedReply, LeasedRequest};
use control::status::LockspaceReport;
use lease::Monotonic;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::keeper::now;

/// Connections at once; when one more comes, the longest silent goes.
const CLIENTS_MAX: usize = 16;
/// A request is a few dozen bytes; a longer line ends the connection.
const LINE_BYTES_MAX: usize = 4096;
/// A client that is silent, or does not read, for so long is let go.
const SILENCE_MAX_S: u64 = 30;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Waited for until it takes more, rather than until it says more.
    is_full: bool,
    heard: Monotonic,
}

/// The socket and its connections. Each carries requests, one JSON document a
/// line, and their answers.
#[derive(Debug)]
pub struct StatusSocket {
    epoll: OwnedFd,
    listener: UnixListener,
    clients: Vec<Client>,
}

/// The lockspaces at this moment.
pub type Status<'a> = &'a dyn Fn() -> Vec<LockspaceReport>;

impl StatusSocket {
    /// Listens at `path`, mode 0600; takes the place of a socket nobody serves.
    ///
    /// # Errors
    /// When another process serves it, or the kernel refuses.
    pub fn bind(path: &Path) -> io::Result<Self> {
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
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            clients: Vec::new(),
        })
    }

    /// Answers whoever asks; to be called when the descriptor is readable, and
    /// at [`Self::deadline`].
    pub fn serve(&mut self, status: Status<'_>) {
        self.accept();
        let now = now().boottime;
        let epoll = &self.epoll;
        self.clients.retain_mut(|client| {
            client.converse(status)
                && now < client.heard.plus_s(SILENCE_MAX_S)
                && client.wait(epoll)
        });
    }

    /// When the longest silent client is let go.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let silent = self.clients.iter().map(|client| client.heard).min()?;
        Some(silent.plus_s(SILENCE_MAX_S))
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
            if epoll::add(&self.epoll, &stream, EventData::new_u64(1), EventFlags::IN).is_err() {
                continue;
            }
            self.clients.push(Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                is_full: false,
                heard: now().boottime,
            });
        }
    }
}

impl AsFd for StatusSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Client {
    /// Has the next thing waited for; `false` ends the connection. A closed
    /// one leaves the set by itself.
    fn wait(&mut self, epoll: &OwnedFd) -> bool {
        let is_full = !self.output.is_empty();
        if is_full == self.is_full {
            return true;
        }
        self.is_full = is_full;
        let wanted = if is_full {
            EventFlags::OUT
        } else {
            EventFlags::IN
        };
        epoll::modify(epoll, &self.stream, EventData::new_u64(1), wanted).is_ok()
    }

    /// Moves what can be moved; `false` ends the connection.
    fn converse(&mut self, status: Status<'_>) -> bool {
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
                    self.heard = now().boottime;
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
                    self.heard = now().boottime;
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

fn answer(line: &[u8], status: Status<'_>) -> Vec<u8> {
    let reply = match serde_json::from_slice(line) {
        Ok(LeasedRequest::Status) => LeasedReply::Status {
            lockspaces: status(),
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
