//! The lease daemon's socket: requests and replies of sanlock's protocol,
//! within a deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sanlock_wire::{HEADER_BYTES, Header, Reply, ReplyShape, Request};

use crate::client::{AskError, connect_before, left};

/// Most bytes of a report: thousands of leases fit.
const REPORT_MAX: u64 = 64 << 20;

/// Where it listens.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// Its socket.
    pub(crate) path: PathBuf,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    end: Instant,
}

impl Daemon {
    fn connect(&self, deadline: Duration) -> Result<Connection> {
        let end = Instant::now() + deadline;
        let stream = connect_before(&self.path, end).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow::anyhow!(
                "no lease daemon listens on {}; start leased, or name its directory with SANLOCK_RUN_DIR",
                self.path.display()
            ),
            ErrorKind::PermissionDenied => AskError::Forbidden {
                path: self.path.clone(),
            }
            .into(),
            _ => error.into(),
        })?;
        Ok(Connection { stream, end })
    }

    /// One request, one reply.
    pub(crate) fn call(&self, request: &Request, deadline: Duration) -> Result<Reply> {
        self.connect(deadline)?.call(request)
    }

    /// A connection whose process may hold leases.
    pub(crate) fn registered(&self, deadline: Duration) -> Result<Connection> {
        let mut connection = self.connect(deadline)?;
        connection.send(&Request::Register.encode())?;
        Ok(connection)
    }

    /// The bytes of the daemon's report.
    pub(crate) fn metrics(&self, header: &Header, deadline: Duration) -> Result<Vec<u8>> {
        let mut connection = self.connect(deadline)?;
        connection.send(&header.encode())?;
        connection.patience()?;
        let mut bytes = Vec::new();
        let read = (&connection.stream)
            .take(REPORT_MAX)
            .read_to_end(&mut bytes);
        read.context("lease daemon silent, or gone")?;
        Ok(bytes.get(HEADER_BYTES..).unwrap_or_default().to_vec())
    }
}

impl Connection {
    /// One request, one reply.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Reply> {
        self.send(&request.encode())?;
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header)?;
        let header = Header::decode(&header);
        let mut payload = Vec::new();
        match ReplyShape::of(&header)? {
            ReplyShape::Bytes(count) => {
                payload.resize(count, 0);
                self.read(&mut payload)?;
            }
            ReplyShape::UntilEnd(_) | ReplyShape::Stream => {
                self.patience()?;
                (&self.stream).take(REPORT_MAX).read_to_end(&mut payload)?;
            }
        }
        Ok(Reply::decode(&header, &payload)?)
    }

    /// The socket itself; closing it gives every lease back.
    pub(crate) fn into_socket(self) -> UnixStream {
        self.stream
    }

    fn patience(&self) -> Result<()> {
        let left = left(self.end)?;
        self.stream.set_read_timeout(Some(left))?;
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.set_write_timeout(Some(left(self.end)?))?;
        self.stream
            .write_all(bytes)
            .context("asking the lease daemon")
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        self.patience()?;
        match self.stream.read_exact(into) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                bail!("lease daemon closed the connection without an answer")
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("lease daemon did not answer in time")
            }
            Err(error) => Err(error).context("reading the lease daemon's answer"),
        }
    }
}
