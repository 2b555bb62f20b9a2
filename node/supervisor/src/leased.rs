//! Asking the lease daemon for its status.

use std::io;
use std::time::Duration;

use control::request::{LeasedReply, LeasedRequest};
use control::status::LockspaceReport;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::unix::UnixStream;

/// Longest wait for the answer: status must not hang because the daemon does.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest answer, in bytes: 2000 hosts with their names.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// The daemon's first lockspace; this slice joins one.
///
/// # Errors
/// It does not run, does not answer in time, or answers nonsense.
pub async fn status() -> io::Result<Option<LockspaceReport>> {
    let overdue = async {
        smol::Timer::after(DEADLINE).await;
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", DEADLINE.as_secs()),
        ))
    };
    smol::future::or(ask(), overdue).await
}

async fn ask() -> io::Result<Option<LockspaceReport>> {
    let mut stream = UnixStream::connect(control::LEASED_SOCKET).await?;
    let mut line = serde_json::to_vec(&LeasedRequest::Status)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_line(&mut answer)
        .await?;
    match serde_json::from_str(&answer)? {
        LeasedReply::Status { lockspaces } => Ok(lockspaces.into_iter().next()),
        LeasedReply::Error { message } => Err(io::Error::other(message)),
    }
}
