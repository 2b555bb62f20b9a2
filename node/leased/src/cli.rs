//! The `sanlock` command line: what this program is when it is called by that
//! name.
//!
//! What it is: arguments, requests to a daemon, and the original's output and
//! exit status, so that scripts written for it go on working. What it is not:
//! no lease is understood here, and the daemon itself is [`crate::daemon`].
//!
//! ```text
//!   sanlock [client] ACTION …  ──▶ Arguments ──▶ client ──▶ Connection ──▶ a daemon's socket
//!   sanlock direct ACTION …    ──▶ Arguments ──▶ direct ──▶ storage
//!   sanlock daemon …           ──▶ settings (file, then arguments) ──▶ daemon
//! ```
//!
//! Invariants: what the original prints on success and failure is printed
//! byte for byte, on standard output; the exit status is 0 when the result is
//! 0, else 1. Tested in `tests/cli.rs`, side by side with the original.

mod actions;
mod arguments;
mod client;
mod connection;
mod direct;
mod numbers;
mod settings;
mod stream;
mod usage;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use self::arguments::{Arguments, Kind};
use self::settings::daemon_options;
pub use self::settings::{CONFIG_FILE, CONFIG_VARIABLE};
pub use crate::daemon::Options as DaemonOptions;

/// Version that scripts are told: the one whose behaviour this is.
const VERSION: &str = "3.8.5";

/// Runs the command line, given without the name of the program.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<Vec<u8>> = words.map(OsString::into_vec).collect();
    let mut out = io::stdout();
    run(&words, &mut out)
}

fn run(words: &[Vec<u8>], out: &mut dyn Write) -> ExitCode {
    let (first, rest) = match words.split_first() {
        Some((first, rest)) => (first.as_slice(), rest),
        None => (&b"help"[..], words),
    };
    match first {
        b"help" | b"--help" | b"-h" => {
            line(out, usage::TEXT);
            ExitCode::SUCCESS
        }
        b"version" => {
            line(out, VERSION);
            ExitCode::SUCCESS
        }
        b"--version" | b"-V" => {
            let ours = env!("CARGO_PKG_VERSION");
            line(out, format!("sanlock {VERSION} (holdfast {ours})"));
            ExitCode::SUCCESS
        }
        b"daemon" => daemon(rest, out),
        b"direct" => action(Kind::Direct, rest, out),
        b"client" => action(Kind::Client, rest, out),
        _ => action(Kind::Client, words, out),
    }
}

/// One action of a kind: its name, then its options.
fn action(kind: Kind, words: &[Vec<u8>], out: &mut dyn Write) -> ExitCode {
    let Some((name, options)) = words.split_first() else {
        line(out, usage::TEXT);
        return ExitCode::FAILURE;
    };
    let Some(name) = kind.action(name) else {
        let mut text = kind.name().as_bytes().to_vec();
        text.extend_from_slice(b" action \"");
        text.extend_from_slice(name);
        text.extend_from_slice(b"\" is unknown");
        line(out, text);
        return ExitCode::FAILURE;
    };
    let Some(arguments) = Arguments::parse(kind, name, options, out) else {
        return ExitCode::FAILURE;
    };
    let result = match kind {
        Kind::Client => client::run(name, &arguments, out),
        Kind::Direct => direct::run(name, &arguments, out),
        // Has no actions.
        Kind::Daemon => client::EINVAL,
    };
    exit(result)
}

/// The exit status of a result.
fn exit(result: i32) -> ExitCode {
    if result == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn daemon(words: &[Vec<u8>], out: &mut dyn Write) -> ExitCode {
    let Some(arguments) = Arguments::parse(Kind::Daemon, "", words, out) else {
        return ExitCode::FAILURE;
    };
    let options = daemon_options(&arguments, |name| std::env::var_os(name));
    match crate::daemon::run(options) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(io::stderr(), "sanlock daemon: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. That nobody reads it must not change what is done.
fn line(out: &mut dyn Write, text: impl AsRef<[u8]>) {
    let mut bytes = text.as_ref().to_vec();
    bytes.push(b'\n');
    drop(out.write_all(&bytes));
}
