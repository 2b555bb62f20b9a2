//! The storage daemon, and the processes it starts itself as: workers, the writer.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use storaged::daemon::{Options, USAGE, run};
use storaged::identity;
use storaged::worker::frame::Reader;
use storaged::worker::host::Host;
use storaged::worker::serve::{self, Mouth, Worker};
use storaged::worker::{Work, dispatch};
use storaged::writer::process::Parts;

/// Exit status of a wrong command line or a failed start.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    linux::memory::share_one_heap();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
    let mut arguments = lexopt::Parser::from_env();
    let role = match arguments.next() {
        Ok(Some(lexopt::Arg::Value(role))) => role,
        Ok(Some(lexopt::Arg::Long("help") | lexopt::Arg::Short('h'))) => {
            return match io::stdout().write_all(USAGE.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        _ => return wrong("what to run is not said"),
    };
    let outcome = match role.to_str() {
        Some("run") => match Options::parse(arguments) {
            Ok(options) => run(options),
            Err(message) => return wrong(&message),
        },
        Some("worker") => orders().and_then(work),
        Some("writer") => {
            // All of its threads, those included that end its role at a signal.
            let _acting = identity::owner();
            orders().and_then(write)
        }
        Some("refresh-table") => storaged::refresh::command(arguments),
        Some("mail") => {
            let _acting = identity::owner();
            orders().and_then(storaged::mail::process::run)
        }
        _ => return wrong(&format!("{}: not known", role.display())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(message: &str) -> ExitCode {
    let text = format!("storaged: {message}\n\n{USAGE}");
    drop(io::stderr().write_all(text.as_bytes()));
    ExitCode::from(FAILED)
}

/// The daemon is at the other end of standard input.
fn orders() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr().map_err(|_| {
        io::Error::other("standard input is no socket; the storage daemon starts these by itself")
    })?;
    Ok(stream)
}

/// Serves orders until the daemon hangs up, or is gone.
fn work(stream: UnixStream) -> io::Result<()> {
    let mouth = Mouth::new(stream.try_clone()?);
    let mut reader = Reader::new(stream);
    let host = Host::new(serve::setup(&mut reader)?);
    let worker: Arc<dyn Worker> =
        Arc::new(move |work: &Work, context: &_| dispatch::run(work, &host, None, context));
    serve::serve(&mut reader, &mouth, &worker)
}

/// The process that changes metadata.
fn write(stream: UnixStream) -> io::Result<()> {
    // All of the process uses the same open domains; the settings come later.
    let host: Arc<OnceLock<Host>> = Arc::default();
    let mine = Arc::clone(&host);
    let parts = Parts {
        open: Arc::new(move |place, settings, context| {
            let host = mine.get_or_init(|| Host::new(settings.clone()));
            Ok(host.open(place, context)?.domain())
        }),
        dispatch: Arc::new(move |work, settings, authority, context| {
            let host = host.get_or_init(|| Host::new(settings.clone()));
            dispatch::run(work, host, authority, context)
        }),
    };
    storaged::writer::process::run(stream, parts)
}
