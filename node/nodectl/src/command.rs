//! What each command does: ask, draw, print.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::config;
use control::request::{Reply, Request};

use crate::args::{Command, ConfigCommand, Consent, LockspaceCommand, NetCommand};
use crate::session::{ANSWER_DEADLINE, Ending, Session, unexpected};
use crate::text::{clean, count};
use crate::{console, inspect, lease, lockspace, render, storage};

/// How long a network change is watched: the supervisor gives it a minute to
/// become ready, then needs some seconds to put the previous set back.
const NET_WATCH: Duration = Duration::from_secs(90);
/// How often it is looked at.
const NET_POLL: Duration = Duration::from_millis(500);

/// Carries out one command.
pub(crate) fn run(command: Command, session: &mut Session<'_>) -> Result<Ending> {
    match command {
        Command::Status(output) => {
            let snapshot = session.snapshot()?;
            if output.json {
                session.print_json(&snapshot)?;
            } else {
                session.print(&render::status(&snapshot))?;
            }
            Ok(Ending::Done)
        }
        Command::Boot(output) => boot(output.json, session),
        Command::Log { lines, output } => log(lines, output.json, session),
        Command::Net {
            command: None,
            output,
        } => {
            let report = session.snapshot()?.network;
            if output.json {
                session.print_json(&report)?;
            } else {
                session.print(&render::network(&report))?;
            }
            Ok(Ending::Done)
        }
        Command::Net {
            command: Some(NetCommand::Apply { file, consent }),
            ..
        } => {
            let document = session.document(&file)?;
            if !is_valid(&document, session)? {
                return Ok(Ending::No);
            }
            if !allowed(consent, "changes the network of", session)? {
                return Ok(Ending::No);
            }
            let toml = String::from_utf8(document).context("document")?;
            apply_network(toml, session)
        }
        Command::Lease(command) => lease::run(command, session),
        Command::Lockspace(LockspaceCommand::Init(init)) => lockspace::init(&init, session),
        Command::Lockspace(LockspaceCommand::Show {
            path,
            offset,
            output,
        }) => lockspace::show(&path, offset, output.json, session),
        Command::Storage(command) => storage::storage(command, session),
        Command::Domain(command) => storage::domain(command, session),
        Command::Volume(command) => storage::volume(command, session),
        Command::Task(command) => storage::task(command, session),
        Command::Spm(command) => storage::spm(command, session),
        Command::Pool(command) => storage::pool(command, session),
        Command::Inspect { paths, output } => inspect::run(&paths, output.json, session),
        Command::Config(ConfigCommand::Check { file }) => {
            let document = session.document(&file)?;
            Ok(if is_valid(&document, session)? {
                Ending::Done
            } else {
                Ending::No
            })
        }
        Command::Config(ConfigCommand::Example) => {
            session.print(EXAMPLE)?;
            Ok(Ending::Done)
        }
        Command::Shutdown(consent) => power(&Request::Shutdown, "powers off", consent, session),
        Command::Reboot(consent) => power(&Request::Reboot, "reboots", consent, session),
        Command::Console => console::run(session),
    }
}

fn boot(json: bool, session: &mut Session<'_>) -> Result<Ending> {
    match session.ask(&Request::Boot, ANSWER_DEADLINE)? {
        Ok(Reply::Boot { phases }) => {
            if json {
                session.print_json(&phases)?;
            } else {
                session.print(&render::boot(&phases))?;
            }
            Ok(Ending::Done)
        }
        Ok(other) => Err(unexpected(&other)),
        Err(message) => Ok(session.refuse(&message)),
    }
}

fn log(lines: u32, json: bool, session: &mut Session<'_>) -> Result<Ending> {
    match session.ask(&Request::Log { lines }, ANSWER_DEADLINE)? {
        Ok(Reply::Log { lines }) => {
            if json {
                session.print_json(&lines)?;
            } else {
                let text: String = lines.iter().map(|line| clean(line) + "\n").collect();
                session.print(&text)?;
            }
            Ok(Ending::Done)
        }
        Ok(other) => Err(unexpected(&other)),
        Err(message) => Ok(session.refuse(&message)),
    }
}

/// Sends an order and prints what the supervisor makes of it.
fn order(request: &Request, session: &mut Session<'_>) -> Result<Ending> {
    match session.ask(request, ANSWER_DEADLINE)? {
        Ok(Reply::Done { message }) => {
            session.print(&(clean(&message) + "\n"))?;
            Ok(Ending::Done)
        }
        Ok(other) => Err(unexpected(&other)),
        Err(message) => Ok(session.refuse(&message)),
    }
}

/// Orders a network change and watches it to its end: ready, or the previous
/// set back.
fn apply_network(toml: String, session: &mut Session<'_>) -> Result<Ending> {
    match session.ask(&Request::NetApply { toml }, ANSWER_DEADLINE)? {
        Ok(Reply::Done { .. }) => {}
        Ok(other) => return Err(unexpected(&other)),
        Err(message) => return Ok(session.refuse(&message)),
    }
    session.say("applying; the previous network comes back if this one does not become ready\n");
    if session.input.is_terminal() {
        session.say("Enter ends the watching, not the change\n");
    }
    let end = Instant::now() + NET_WATCH;
    let mut told = String::new();
    loop {
        // First of all a pause, so that the change has begun and what is seen
        // is not the network before it.
        let left = session.input.pause(NET_POLL)?;
        let network = session.snapshot()?.network;
        let over = ["ready", "restored"].contains(&network.state.as_str());
        if over || left || Instant::now() >= end {
            session.print(&render::network(&network))?;
            return Ok(if network.state == "ready" {
                Ending::Done
            } else {
                Ending::No
            });
        }
        let reason = network
            .reason
            .as_deref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        let news = clean(&format!("{}{reason}", network.state));
        if news != told {
            session.say(&format!("{news}\n"));
            told = news;
        }
    }
}

fn power(
    request: &Request,
    deed: &str,
    consent: Consent,
    session: &mut Session<'_>,
) -> Result<Ending> {
    if !allowed(consent, deed, session)? {
        return Ok(Ending::No);
    }
    order(request, session)
}

/// Whether the person agrees: by `--yes`, or by typing the node's name.
fn allowed(consent: Consent, deed: &str, session: &mut Session<'_>) -> Result<bool> {
    if consent.yes {
        return Ok(true);
    }
    let hostname = session.snapshot()?.hostname;
    if hostname.is_empty() {
        bail!("this {deed} a node without a name that could be repeated; add --yes");
    }
    let agreed = session.confirm(deed, &hostname)?;
    if !agreed {
        session.refuse("another name: nothing was done");
    }
    Ok(agreed)
}

/// Prints every mistake of a document; whether there is none.
fn is_valid(document: &[u8], session: &mut Session<'_>) -> Result<bool> {
    let Err(mistakes) = config::parse_bytes(document) else {
        return Ok(true);
    };
    let lines: String = mistakes
        .iter()
        .map(|mistake| clean(&mistake.to_string()) + "\n")
        .collect();
    session.print(&lines)?;
    session.say(&format!(
        "nodectl: {}; correct them and check again\n",
        count(mistakes.len(), "mistake")
    ));
    Ok(false)
}

/// A document with every key in it.
const EXAMPLE: &str = include_str!("example.toml");
