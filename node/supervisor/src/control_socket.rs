//! The control socket: JSON lines from `nodectl`, one answer a line.
//!
//! Root only, by file mode and by the peer's credentials. A client that sends
//! too much, too slowly or nonsense gets an error or is let go; the loop sees
//! whole requests only.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use control::request::{REQUEST_BYTES_MAX, Reply, Request};
use control::status::LockspaceReport;
use smol::LocalExecutor;
use smol::channel::Sender;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::unix::{UnixListener, UnixStream};

use crate::socket;

/// Most clients at once; further ones are let go at once.
const CLIENTS_MAX: usize = 32;
/// Longest silence of a client before it is let go.
const IDLE_DEADLINE: Duration = Duration::from_secs(600);
/// Longest time an answer may take to be read by the client.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A request for the loop.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// What the lease daemon said just now, for requests that show it.
    pub lockspace: Option<Result<Option<LockspaceReport>, String>>,
    /// Where the answer goes.
    pub reply: Sender<Reply>,
}

/// Binds the control socket at `path`, mode 0600.
///
/// # Errors
/// The directory cannot be made or the socket not bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    socket::bind(path, 0o600)
}

/// Serves clients for ever; every request goes to `asked`.
pub async fn serve<E: 'static>(
    executor: Rc<LocalExecutor<'static>>,
    listener: UnixListener,
    asked: Sender<E>,
    wrap: fn(Asked) -> E,
) {
    let clients = Rc::new(Cell::new(0_usize));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("control socket: {error}");
                smol::Timer::after(Duration::from_secs(1)).await;
                continue;
            }
        };
        let is_root =
            rustix::net::sockopt::socket_peercred(&stream).is_ok_and(|peer| peer.uid.is_root());
        if !is_root {
            continue;
        }
        if clients.get() >= CLIENTS_MAX {
            refuse(&stream);
            continue;
        }
        clients.set(clients.get() + 1);
        let (clients, asked) = (clients.clone(), asked.clone());
        let conversation = async move {
            // The end of a conversation is the client's business, however it comes about.
            converse(stream, &asked, wrap).await.ok();
            clients.set(clients.get() - 1);
        };
        executor.spawn(conversation).detach();
    }
}

async fn converse<E>(
    stream: UnixStream,
    asked: &Sender<E>,
    wrap: fn(Asked) -> E,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1024, stream.clone());
    let mut writer = stream;
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX);
        let reading = async { (&mut reader).take(limit).read_until(b'\n', &mut line).await };
        if within(IDLE_DEADLINE, reading).await? == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let reply = if whole {
            answer(&line, asked, wrap).await
        } else {
            too_long()
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        within(ANSWER_DEADLINE, writer.write_all(&text)).await?;
        if !whole {
            return Ok(());
        }
    }
}

async fn answer<E>(line: &[u8], asked: &Sender<E>, wrap: fn(Asked) -> E) -> Reply {
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            return Reply::Error {
                message: format!(
                    "request: {error}; nodectl of the same version knows the right form"
                ),
            };
        }
    };
    let lockspace = match request {
        Request::Status => Some(
            crate::leased::status()
                .await
                .map_err(|error| error.to_string()),
        ),
        _ => None,
    };
    let (reply, replied) = smol::channel::bounded(1);
    let gone = || Reply::Error {
        message: "the supervisor is ending; try again after the reboot".to_owned(),
    };
    if asked
        .send(wrap(Asked {
            request,
            lockspace,
            reply,
        }))
        .await
        .is_err()
    {
        return gone();
    }
    replied.recv().await.unwrap_or_else(|_| gone())
}

/// Says why to a client beyond the limit, if that can be had without waiting.
fn refuse(stream: &UnixStream) {
    let reply = Reply::Error {
        message: format!(
            "control socket: {CLIENTS_MAX} clients are connected already; end one of them"
        ),
    };
    if let Ok(mut text) = serde_json::to_vec(&reply) {
        text.push(b'\n');
        // An empty socket buffer takes it whole; who sends nothing gets nothing.
        rustix::io::write(stream, &text).ok();
    }
}

fn too_long() -> Reply {
    Reply::Error {
        message: format!(
            "request: longer than {REQUEST_BYTES_MAX} bytes or cut off; send one JSON document a line"
        ),
    }
}

async fn within<T>(deadline: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let overdue = async {
        smol::Timer::after(deadline).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    smol::future::or(work, overdue).await
}
