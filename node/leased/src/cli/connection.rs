//! One conversation with a daemon.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use sanlock_wire::{HEADER_BYTES, Header, Reply, ReplyShape, Request, StateDecoder, StateRecord};

/// The directory of socket and pid file, for daemon and clients.
pub(super) const RUN_DIR_VARIABLE: &str = "SANLOCK_RUN_DIR";
/// What it is when the variable is not set.
pub(super) const RUN_DIR: &str = "/run/sanlock";
/// The socket in it.
const SOCKET: &str = "sanlock.sock";

/// What clients of a broken connection are told.
const BROKEN: i32 = -1;

/// The directory that this variable's value means.
pub(super) fn run_dir(variable: Option<OsString>) -> PathBuf {
    variable.map_or_else(|| PathBuf::from(RUN_DIR), PathBuf::from)
}

/// A connection. Errors are the negative numbers that are shown.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects to the daemon.
    pub(super) fn open() -> Result<Self, i32> {
        let path = run_dir(std::env::var_os(RUN_DIR_VARIABLE)).join(SOCKET);
        UnixStream::connect(path)
            .map(|stream| Self { stream })
            .map_err(|error| number(&error))
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: &Request) -> Result<(), i32> {
        self.stream
            .write_all(&request.encode())
            .map_err(|error| number(&error))
    }

    /// Sends a request and waits for its reply.
    pub(super) fn ask(&mut self, request: &Request) -> Result<(Header, Reply), i32> {
        self.send(request)?;
        let header = self.header()?;
        let payload = match ReplyShape::of(&header).map_err(|_| BROKEN)? {
            ReplyShape::Bytes(length) => {
                let mut payload = vec![0; length];
                self.stream.read_exact(&mut payload).map_err(|_| BROKEN)?;
                payload
            }
            ReplyShape::UntilEnd(most) => self.rest(most)?,
            ReplyShape::Stream => Vec::new(),
        };
        let reply = Reply::decode(&header, &payload).map_err(|_| BROKEN)?;
        Ok((header, reply))
    }

    fn header(&mut self) -> Result<Header, i32> {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).map_err(|_| BROKEN)?;
        Ok(Header::decode(&bytes))
    }

    fn rest(&mut self, most: usize) -> Result<Vec<u8>, i32> {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let read = (&self.stream).take(most).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|_| BROKEN)
    }

    /// The records of a stream whose header has been read, until it ends.
    pub(super) fn records(&mut self) -> Vec<StateRecord> {
        let mut decoder = StateDecoder::new();
        let mut records = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut piece = match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return records,
                Ok(length) => buffer.get(..length).unwrap_or_default(),
            };
            loop {
                match decoder.next(&mut piece) {
                    Ok(Some(record)) => records.push(record),
                    Ok(None) => break,
                    Err(_) => return records,
                }
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Asks on a connection of its own.
pub(super) fn ask(request: &Request) -> Result<Reply, i32> {
    Connection::open()?.ask(request).map(|(_, reply)| reply)
}

/// Asks, where only the result counts.
pub(super) fn result(request: &Request) -> i32 {
    ask(request).map_or_else(|error| error, |reply| reply.result)
}

/// A failure's negative number.
fn number(error: &io::Error) -> i32 {
    error.raw_os_error().map_or(BROKEN, |number| -number)
}
