//! One connection: bytes out, bytes in, within a deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use sanlock_wire::{Command, HEADER_BYTES, Header, Reply, ReplyShape, Request};

use crate::error::Error;

/// Most bytes of a report: thousands of leases fit.
const REPORT_MAX: u64 = 64 << 20;

/// One connection to the daemon. An answer that came too late is passed over
/// by the next call; it is never taken for another one's.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// What has come of an answer that is not complete.
    received: Vec<u8>,
    /// Answers that calls have given up waiting for.
    owed: u32,
}

/// A deadline, and how long it was at first.
#[derive(Debug, Clone, Copy)]
struct Until {
    end: Instant,
    after: Duration,
}

impl Until {
    fn new(after: Duration) -> Self {
        let now = Instant::now();
        Self {
            end: now.checked_add(after).unwrap_or(now),
            after,
        }
    }

    fn left(self) -> std::io::Result<Duration> {
        self.end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

impl Connection {
    /// Connects before the deadline: a listener that accepts nobody would
    /// otherwise hold us for ever once its queue is full.
    ///
    /// # Errors
    /// Nobody listens, no permission, or not in time.
    pub fn open(path: &Path, deadline: Duration) -> Result<Self, Error> {
        let until = Until::new(deadline);
        let stream = connect_before(path, until).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::Absent {
                path: path.to_path_buf(),
            },
            ErrorKind::PermissionDenied => Error::Forbidden {
                path: path.to_path_buf(),
            },
            _ => Error::socket(Command::Version, deadline, error),
        })?;
        Ok(Self {
            stream,
            received: Vec::new(),
            owed: 0,
        })
    }

    /// One request, one reply.
    ///
    /// # Errors
    /// No whole answer within the deadline; a refusal is an answer.
    pub fn call(&mut self, request: &Request, deadline: Duration) -> Result<Reply, Error> {
        let what = request.command();
        let until = Until::new(deadline);
        let failed = |error| Error::socket(what, until.after, error);
        let garbled = |source| Error::Garbled { what, source };
        self.send_all(&request.encode(), until).map_err(failed)?;
        self.owed = self.owed.saturating_add(1);
        loop {
            let header = self.peek(HEADER_BYTES, until).map_err(failed)?;
            let header = Header::decode(header.first_chunk().unwrap_or(&[0; HEADER_BYTES]));
            let mut payload = Vec::new();
            match ReplyShape::of(&header).map_err(garbled)? {
                ReplyShape::Bytes(count) => {
                    self.peek(HEADER_BYTES + count, until).map_err(failed)?;
                    let rest = self.received.split_off(HEADER_BYTES + count);
                    payload = std::mem::replace(&mut self.received, rest);
                    payload.drain(..HEADER_BYTES);
                }
                ReplyShape::UntilEnd(_) | ReplyShape::Stream => {
                    payload.extend(self.received.drain(..).skip(HEADER_BYTES));
                    self.read_rest(&mut payload, until).map_err(failed)?;
                }
            }
            self.owed = self.owed.saturating_sub(1);
            if self.owed == 0 {
                return Reply::decode(&header, &payload).map_err(garbled);
            }
        }
    }

    /// Sends what is never answered.
    ///
    /// # Errors
    /// Not taken within the deadline.
    pub fn send(&mut self, request: &Request, deadline: Duration) -> Result<(), Error> {
        self.send_all(&request.encode(), Until::new(deadline))
            .map_err(|error| Error::socket(request.command(), deadline, error))
    }

    /// Sends a bare header; what follows the answer's header until the daemon
    /// hangs up.
    ///
    /// # Errors
    /// No whole answer within the deadline.
    pub fn report(&mut self, header: &Header, deadline: Duration) -> Result<Vec<u8>, Error> {
        let until = Until::new(deadline);
        let what = header.command().unwrap_or(Command::Metrics);
        let failed = |error| Error::socket(what, until.after, error);
        self.send_all(&header.encode(), until).map_err(failed)?;
        let mut bytes = Vec::new();
        self.read_rest(&mut bytes, until).map_err(failed)?;
        Ok(bytes.get(HEADER_BYTES..).unwrap_or_default().to_vec())
    }

    /// The socket itself; closing its last copy gives every lease back.
    #[must_use]
    pub fn into_socket(self) -> UnixStream {
        self.stream
    }

    fn send_all(&self, bytes: &[u8], until: Until) -> std::io::Result<()> {
        self.stream.set_write_timeout(Some(until.left()?))?;
        (&self.stream).write_all(bytes)
    }

    /// Reads until so many bytes of an answer are there.
    fn peek(&mut self, count: usize, until: Until) -> std::io::Result<&[u8]> {
        let mut chunk = [0; 16 * 1024];
        while self.received.len() < count {
            self.stream.set_read_timeout(Some(until.left()?))?;
            match (&self.stream).read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self
                    .received
                    .extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.received.get(..count).unwrap_or_default())
    }

    fn read_rest(&self, into: &mut Vec<u8>, until: Until) -> std::io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        loop {
            self.stream.set_read_timeout(Some(until.left()?))?;
            match (&self.stream).take(REPORT_MAX).read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => into.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if u64::try_from(into.len()).unwrap_or(u64::MAX) > REPORT_MAX {
                return Err(std::io::Error::other(format!(
                    "answer longer than {REPORT_MAX} bytes"
                )));
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn connect_before(path: &Path, until: Until) -> std::io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The send timeout bounds the wait.
    set_socket_timeout(&socket, Timeout::Send, Some(until.left()?))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}
