//! The lease daemon; see the library of the same name.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use leased::{Command, USAGE, daemon};

/// Exit status of a wrong command line or a failed start.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    linux::memory::share_one_heap();
    let name = std::env::args_os().next().unwrap_or_default();
    if daemon::helper::is_helper(&name) {
        return match daemon::helper::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let sanlock = std::path::Path::new(&name).file_name() == Some("sanlock".as_ref());
    // The daemon has a log of its own.
    if !(sanlock
        && std::env::args_os()
            .nth(1)
            .is_some_and(|word| word == "daemon"))
    {
        tracing_subscriber::fmt()
            .with_writer(|| Log)
            .with_ansi(false)
            .with_target(false)
            .init();
    }
    if sanlock {
        return leased::cli::main(std::env::args_os().skip(1));
    }
    let options = match Command::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Help) => {
            return match io::stdout().write_all(USAGE.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Err(error) => {
            tracing::error!("{error}; see leased --help");
            return ExitCode::from(FAILED);
        }
    };
    match leased::run(*options) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Standard error, whose failures are nobody's: a log that nobody reads any
/// more must not end the process that holds the lease.
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
