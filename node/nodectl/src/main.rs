//! The operator's command line: one question or order to the node, or a look
//! at a disk, and the answer on standard output.
//!
//! What it is not: it decides nothing and keeps nothing. Online it asks the
//! supervisor and the lease daemon over their sockets; offline it reads disks.
//!
//! ```text
//! args ──▶ command ──▶ client ──▶ supervisor, leased
//!   ▲         │  └────▶ inspect, lockspace ──▶ disks
//! console     └──▶ render: pure, snapshot-tested
//! ```
//!
//! Standard output carries data, standard error talk. Exit status: 0 done,
//! 1 the answer is no, 2 wrong usage or failure. Output nobody reads any more
//! is success.
#![forbid(unsafe_code)]

mod args;
mod client;
mod command;
mod console;
mod disk;
mod inspect;
mod lease;
mod lockspace;
mod render;
mod session;
mod storage;
mod terminal;
mod text;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sanlock_client::Client;

use args::{CommandLine, Sockets};
use client::Peer;
use session::{Ending, OutputClosed, Session};
use terminal::Terminal;

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Help goes to standard output, a mistake to standard error; that
            // neither can be written changes nothing.
            drop(error.print());
            return exit_code(error.exit_code());
        }
    };
    let mut out = std::io::stdout().lock();
    let mut err = std::io::stderr().lock();
    let mut input = Terminal::stdin();
    let mut session = session(&line.sockets, &mut out, &mut err, &mut input);
    match command::run(line.command, &mut session) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::No) => exit_code(1),
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            session.say(&format!("nodectl: {error:#}\n"));
            exit_code(2)
        }
    }
}

fn session<'a>(
    sockets: &Sockets,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    input: &'a mut Terminal,
) -> Session<'a> {
    let path = |given: &Option<PathBuf>, variable: &str, own: &str| {
        let from_environment = || {
            std::env::var_os(variable)
                .filter(|path| path != OsStr::new(""))
                .map(PathBuf::from)
        };
        given
            .clone()
            .or_else(from_environment)
            .unwrap_or_else(|| PathBuf::from(own))
    };
    Session {
        out,
        err,
        input,
        supervisor: Peer {
            who: "supervisor",
            path: path(&sockets.socket, "HOLDFAST_SOCKET", control::CONTROL_SOCKET),
        },
        leased: Peer {
            who: "lease daemon",
            path: path(
                &sockets.leased_socket,
                "HOLDFAST_LEASED_SOCKET",
                control::LEASED_SOCKET,
            ),
        },
        storaged: Peer {
            who: "storage daemon",
            path: path(
                &sockets.storaged_socket,
                "HOLDFAST_STORAGED_SOCKET",
                control::storage::STORAGED_SOCKET,
            ),
        },
        sanlock: Client::new(
            path(
                &sockets.sanlock_dir,
                "SANLOCK_RUN_DIR",
                control::SANLOCK_RUN_DIR,
            )
            .join("sanlock.sock"),
        ),
    }
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
