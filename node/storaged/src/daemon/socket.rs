//! The control socket: many clients, one line each way at a time.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use control::storage::request::REQUEST_BYTES_MAX;
use control::storage::{Answer, Failure, FailureKind, Reply, Request};
use rustix::fs::Mode;
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::Daemon;
use crate::worker::frame::Lines;

/// Clients at once.
const CLIENTS_MAX: usize = 256;
/// A client that takes no answer is dropped after this.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Listens at `path`, for root alone.
pub(crate) fn listen(path: &Path) -> io::Result<Async<UnixListener>> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    // One that answers is a daemon that lives; anything else there is left over.
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a storage daemon answers there already",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    Async::new(listener?)
}

/// Takes clients for ever.
pub(crate) async fn accept(daemon: Rc<Daemon>, listener: Async<UnixListener>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let count = Rc::strong_count(&daemon.clients);
                let daemon = Rc::clone(&daemon);
                let executor = Rc::clone(&daemon.executor);
                executor
                    .spawn(async move {
                        if count > CLIENTS_MAX {
                            let failure = Failure::new(
                                FailureKind::InUse,
                                format!("{CLIENTS_MAX} clients are connected already"),
                            );
                            drop(say(&stream, &Reply::Failure(failure)).await);
                            return;
                        }
                        let _counted = Rc::clone(&daemon.clients);
                        if let Err(error) = client(&daemon, &stream).await {
                            tracing::debug!("client: {error}");
                        }
                    })
                    .detach();
            }
            Err(error) => {
                // Out of descriptors: the clients there are will free some.
                tracing::warn!("control socket: {error}");
                smol::Timer::after(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn client(daemon: &Rc<Daemon>, stream: &Async<UnixStream>) -> io::Result<()> {
    let mut lines = Lines::new(REQUEST_BYTES_MAX);
    let mut chunk = [0; 4096];
    let mut stream_read = stream;
    loop {
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => {
                match stream_read.read(&mut chunk).await? {
                    0 => return Ok(()),
                    length => lines.push(&chunk[..length]),
                }
                continue;
            }
            Err(error) => {
                // Where the next request begins is not known any more.
                let failure = Failure::new(FailureKind::BadRequest, format!("request: {error}"));
                return say(stream, &Reply::Failure(failure)).await;
            }
        };
        let reply = match read(&line) {
            Ok(request) => daemon.answer(request).await,
            Err(failure) => Reply::Failure(failure),
        };
        say(stream, &reply).await?;
    }
}

fn read(line: &[u8]) -> Result<Request, Failure> {
    serde_json::from_slice(line).map_err(|error| {
        let mut message: String = error.to_string().chars().take(300).collect();
        if message.len() < error.to_string().len() {
            message.push('…');
        }
        Failure::new(
            FailureKind::BadRequest,
            format!("request not understood: {message}"),
        )
    })
}

async fn say(mut stream: &Async<UnixStream>, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    smol::future::or(stream.write_all(&line), async {
        smol::Timer::after(WRITE_DEADLINE).await;
        Err(io::ErrorKind::TimedOut.into())
    })
    .await
}

/// An answer without anything to show.
pub(crate) fn done(message: impl Into<String>) -> Answer {
    Answer::Done {
        message: message.into(),
    }
}
