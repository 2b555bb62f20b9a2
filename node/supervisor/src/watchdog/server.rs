//! wdmd's socket: accepts connections, cuts the byte stream into messages and
//! hands them to the [`Multiplexer`].
//!
//! A client can hold up nobody but itself: every connection is a task of its
//! own, its answers are written with a deadline, and there is a bound on
//! connections. Half a message at the end of a connection is dropped.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use control::wdmd::{Command, MESSAGE_BYTES, Message};
use smol::LocalExecutor;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::{UnixListener, UnixStream};

use super::multiplexer::{ClientId, Multiplexer};
use crate::{socket, time};

/// Longest time an answer may take to be taken.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Binds wdmd's socket at `path` (mode 0660), taking the place of a stale one.
///
/// # Errors
/// The directory cannot be made or the socket not bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    socket::bind(path, 0o660)
}

/// Serves connections for ever. `changed` is called after every event, so that
/// the owner of the device can act on what changed.
pub async fn serve(
    executor: Rc<LocalExecutor<'static>>,
    listener: UnixListener,
    core: Rc<RefCell<Multiplexer>>,
    changed: Rc<dyn Fn()>,
) {
    let mut next: ClientId = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: waiting a little lets some close.
                tracing::warn!("wdmd socket: {error}");
                smol::Timer::after(Duration::from_secs(1)).await;
                continue;
            }
        };
        let pid = match rustix::net::sockopt::socket_peercred(&stream) {
            Ok(peer) => peer.pid.as_raw_nonzero().get().unsigned_abs(),
            Err(_) => continue,
        };
        next += 1;
        let client = next;
        if !core.borrow_mut().connected(client, pid) {
            tracing::warn!(
                "wdmd socket: connection of process {pid} refused: {} are open already",
                super::multiplexer::CLIENTS_MAX
            );
            continue;
        }
        let (core, changed) = (core.clone(), changed.clone());
        let connection = async move {
            converse(stream, client, &core, &*changed).await;
            core.borrow_mut().closed(client);
            changed();
        };
        executor.spawn(connection).detach();
    }
}

async fn converse(
    mut stream: UnixStream,
    client: ClientId,
    core: &RefCell<Multiplexer>,
    changed: &dyn Fn(),
) {
    let mut bytes = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut bytes).await.is_ok() {
        // A client that never stops talking must not starve the loop that pets.
        smol::future::yield_now().await;
        let message = Message::decode(&bytes);
        let answer = core.borrow_mut().message(time::now(), client, &message);
        changed();
        let Some(answer) = answer else { continue };
        let deadline = async {
            smol::Timer::after(ANSWER_DEADLINE).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let written = stream.write_all(&answer).or(deadline).await;
        // The text has no length: its reader reads until the connection ends.
        if written.is_err() || message.command == Command::DumpDebug.to_wire() {
            return;
        }
    }
}
