//! Asking the supervisor or the lease daemon: one line out, one line back,
//! within a deadline whatever the other side does.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest answer taken: 10000 log lines fit. A longer one is an error.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens there.
    #[error("{who} does not listen on {path}; is this a Holdfast node, and has it booted that far?", path = .path.display())]
    Absent {
        /// Who was asked.
        who: &'static str,
        /// Its socket.
        path: PathBuf,
    },
    /// The socket is not for this user.
    #[error("no permission for {path}; run this as root", path = .path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// No whole answer before the deadline.
    #[error("{who} silent for {} s; `nodectl inspect DISK` works without it, its last words are on the console", .after.as_secs())]
    Silent {
        /// Who was asked.
        who: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// It hung up, or its answer makes no sense.
    #[error("{who} gave no proper answer ({reason}); ask again, it may just have been restarted")]
    Garbled {
        /// Who was asked.
        who: &'static str,
        /// What was wrong.
        reason: String,
    },
}

/// One side to ask.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// How it is called in messages.
    pub(crate) who: &'static str,
    /// Its socket.
    pub(crate) path: PathBuf,
}

impl Peer {
    /// Sends `request` and reads the answer, all within `deadline`.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, AskError> {
        let end = Instant::now() + deadline;
        let line = self
            .exchange(request, end)
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::Absent {
                    who: self.who,
                    path: self.path.clone(),
                },
                ErrorKind::PermissionDenied => AskError::Forbidden {
                    path: self.path.clone(),
                },
                ErrorKind::WouldBlock | ErrorKind::TimedOut => AskError::Silent {
                    who: self.who,
                    after: deadline,
                },
                _ => self.garbled(&error),
            })?;
        serde_json::from_slice(&line).map_err(|error| self.garbled(&error))
    }

    fn garbled(&self, reason: &dyn std::fmt::Display) -> AskError {
        AskError::Garbled {
            who: self.who,
            reason: reason.to_string(),
        }
    }

    fn exchange<Q: Serialize>(&self, request: &Q, end: Instant) -> std::io::Result<Vec<u8>> {
        let mut stream = connect_before(&self.path, end)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.set_write_timeout(Some(left(end)?))?;
        match stream.write_all(&line) {
            // It hung up before it was asked: it may have said why.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            sent => sent?,
        }
        let mut answer = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            stream.set_read_timeout(Some(left(end)?))?;
            let length = match stream.read(&mut chunk) {
                Ok(0) => return Err(std::io::Error::other("the connection was closed")),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(at) = chunk[..length].iter().position(|&byte| byte == b'\n') {
                answer.extend_from_slice(&chunk[..at]);
                return Ok(answer);
            }
            answer.extend_from_slice(&chunk[..length]);
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(std::io::Error::other(format!(
                    "longer than {ANSWER_BYTES_MAX} bytes"
                )));
            }
        }
    }
}

/// Time left until `end`; an error when there is none.
pub(crate) fn left(end: Instant) -> std::io::Result<Duration> {
    end.checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| ErrorKind::TimedOut.into())
}

/// Connects before `end`: a listener that accepts nobody would otherwise hold
/// us for ever once its queue is full. The send timeout bounds the wait.
pub(crate) fn connect_before(path: &Path, end: Instant) -> std::io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(left(end)?))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}
