//! The daemon: puts its threads together and takes them apart.
//!
//! | thread  | priority | waits for                                   |
//! |---------|----------|---------------------------------------------|
//! | main    | ordinary | signals, status clients                     |
//! | lease   | real-time| its deadline, workers, helper               |
//! | disk-1,2| real-time| the device                                  |
//! | helper  | ordinary | opening the device, the watchdog's answers  |
//! | journal | ordinary | whoever reads the log                       |

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use control::status::LockspaceReport;
use linux::disk::worker::Signal;
use linux::process::Signals;
use rustix::event::{EventfdFlags, eventfd};

use crate::joining::{Helper, PRIORITY};
use crate::member::{End, Member, lease_for, now};
use crate::options::Options;
use crate::server::{Server, Woken};
use crate::shared::Shared;
use crate::{journal, report};

/// The core and its effects live on the heap or are small.
const STACK_BYTES: usize = 128 * 1024;

/// Why the daemon did not start or had to give up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The status socket.
    #[error("status socket {0}: {1}; choose another with --socket")]
    Socket(String, io::Error),
    /// Something the kernel refused.
    #[error("{0}: {1}")]
    Kernel(&'static str, io::Error),
}

/// Runs until SIGTERM or SIGINT. Exit status: 0 released, or never held;
/// 1 lost, and the watchdog will see to it.
///
/// # Errors
/// See [`RunError`]; nothing is held then.
pub fn run(options: Options) -> Result<ExitCode, RunError> {
    // Before the first thread: all of them must leave the signals alone.
    let signals = Signals::open().map_err(|error| RunError::Kernel("signals", error))?;
    let mut server = Server::bind(&options.socket)
        .map_err(|error| RunError::Socket(options.socket.display().to_string(), error))?;
    if options.realtime
        && let Err(error) = linux::realtime::lock_memory()
    {
        tracing::warn!(
            "memory is not locked, a renewal may wait for the swap device: {error}; run as root or give --no-realtime"
        );
    }
    let options = Arc::new(options);
    let lease = lease_for(&options);
    let shared = Arc::new(Shared::new(&lease));
    journal::start(Arc::clone(&options), Arc::clone(&shared))
        .map_err(|error| RunError::Kernel("journal thread", error))?;
    let signal = Arc::new(Signal::default());
    let helper = Helper::start(Arc::clone(&options), Arc::clone(&signal))
        .map_err(|error| RunError::Kernel("helper thread", error))?;
    let ended = Arc::new(
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| RunError::Kernel("eventfd", error.into()))?,
    );
    let member = Member::new(
        Arc::clone(&options),
        Arc::clone(&shared),
        Arc::clone(&signal),
        helper,
        lease,
    );
    let thread = {
        let ended = Arc::clone(&ended);
        let realtime = options.realtime;
        let body = move || {
            if realtime && let Err(error) = linux::realtime::round_robin(PRIORITY) {
                tracing::warn!(
                    "no real-time priority, a renewal may be late on a busy machine: {error}; run as root or give --no-realtime"
                );
            }
            let end = member.run();
            // A full counter is readable, too.
            rustix::io::write(&ended, &1u64.to_ne_bytes()).ok();
            end
        };
        thread::Builder::new()
            .name("lease".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|error| RunError::Kernel("lease thread", error))?
    };
    notify_ready();
    tracing::info!(
        lockspace = options.lockspace.to_string(),
        host_id = options.host_id.get(),
        "joining {}",
        options.path.display()
    );

    let status = || -> LockspaceReport {
        let snapshot = shared.snapshot();
        report::report(&options, &snapshot, now().boottime)
    };
    let mut serve = || {
        server
            .serve(&signals, &ended, &status)
            .map_err(|error| RunError::Kernel("poll", error))
    };
    while serve()? == Woken::Asked {
        // Status is answered all through the release.
        shared.release.store(true, Ordering::Relaxed);
        signal.raise();
    }
    let end = thread.join().unwrap_or(End::Lost);
    journal::drain(&options, &shared);
    Ok(match end {
        End::Released => ExitCode::SUCCESS,
        End::Lost => ExitCode::FAILURE,
    })
}

/// Tells the supervisor, as systemd's protocol has it, that we are up:
/// serving status, not yet holding anything.
fn notify_ready() {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send_ready(&name) {
        tracing::warn!("NOTIFY_SOCKET {}: {error}", name.display());
    }
}

fn send_ready(name: &OsString) -> io::Result<()> {
    let address = match name.as_bytes().split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}
