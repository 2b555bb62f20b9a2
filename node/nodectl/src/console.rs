//! The line interface on the node's consoles: the same commands, one a line,
//! carried out in this process, which never ends while its terminal lives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use control::request::{Reply, Request};
use control::status::Snapshot;

use crate::args::{Command, ConsoleLine, LeaseCommand};
use crate::client::AskError;
use crate::session::{
    Ending, Entered, Input as _, OutputClosed, Session, read_at_most, unexpected,
};
use crate::terminal::Terminal;
use crate::text::{clean, duration};
use crate::{command, render};

/// What a person, or a test, waits for. No answer contains it at the start of a line.
const PROMPT: &str = "holdfast> ";
/// How often a booting node is asked whether it is ready.
const BOOT_POLL: Duration = Duration::from_millis(500);
/// How long the greeting waits for the boot to end before it shows it half done.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for a supervisor that says nothing at all.
const SILENT_PATIENCE: Duration = Duration::from_secs(10);
/// Time the supervisor has to answer the greeting's question.
const GREETING_DEADLINE: Duration = Duration::from_secs(2);
/// Ends of input in a row after which a terminal counts as gone: a hung-up one
/// gives nothing else, and whoever started us must open it anew.
const ENDS_IN_A_ROW_MAX: u32 = 1000;
/// Where the image keeps its version.
const RELEASE_FILE: &str = "/usr/lib/holdfast/release";

/// Runs the console on standard input.
pub(crate) fn run(session: &mut Session<'_>) -> Result<Ending> {
    let mut terminal = Terminal::stdin();
    terminal.take_over().context("terminal modes")?;
    let mut console = Console {
        last_answer: Instant::now(),
    };
    console.greet(&terminal, session)?;
    // What was typed meanwhile is answered now; Enter has had its answer.
    let mut early = typed_early(&mut terminal)?;
    let mut ends = 0;
    loop {
        session.print(PROMPT)?;
        let entered = match early.take() {
            Some(entered) => entered,
            None => terminal
                .line()
                .context("terminal; it is opened anew by the supervisor")?,
        };
        let line = match entered {
            Entered::Line(line) => line,
            Entered::End if !terminal.is_terminal() => return Ok(Ending::Done),
            Entered::Cancelled => {
                session.print("\n")?;
                continue;
            }
            Entered::End => {
                ends += 1;
                if ends > ENDS_IN_A_ROW_MAX {
                    bail!("terminal gone; it is opened anew by the supervisor");
                }
                session.print("\n")?;
                continue;
            }
        };
        ends = 0;
        let mut inner = Session {
            out: session.out,
            err: session.err,
            input: &mut terminal,
            supervisor: session.supervisor.clone(),
            leased: session.leased.clone(),
            storaged: session.storaged.clone(),
            sanlock: session.sanlock.clone(),
        };
        if console.answer(&line, &mut inner)? == Stay::Leave {
            return Ok(Ending::Done);
        }
    }
}

/// The first line that says something of those typed before the first prompt.
/// Each further prompt answers exactly one line, so that a program at the other
/// end knows which answer is whose.
fn typed_early(terminal: &mut Terminal) -> Result<Option<Entered>> {
    while terminal.is_terminal() && terminal.typed_within(Duration::ZERO).context("terminal")? {
        match terminal.line().context("terminal")? {
            Entered::Line(line) if !line.trim().is_empty() => return Ok(Some(Entered::Line(line))),
            Entered::Line(_) | Entered::Cancelled => {}
            Entered::End => return Ok(None),
        }
    }
    Ok(None)
}

/// Whether the console goes on.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Stay,
    Leave,
}

#[derive(Debug)]
struct Console {
    /// When the supervisor last answered, or the console began.
    last_answer: Instant,
}

impl Console {
    /// Waits a little for the boot to end, or for somebody to type, then draws
    /// the screen.
    fn greet(&mut self, terminal: &Terminal, session: &mut Session<'_>) -> Result<()> {
        let begin = Instant::now();
        let mut told = false;
        let answer = loop {
            let answer = self.ask_status(session);
            let patience = if answer.is_ok() {
                BOOT_PATIENCE
            } else {
                SILENT_PATIENCE
            };
            let booting = answer
                .as_ref()
                .is_ok_and(|snapshot| snapshot.phase == "booting")
                || answer.is_err();
            if !booting || !terminal.is_terminal() || begin.elapsed() >= patience {
                break answer;
            }
            if !told {
                session.print("\nHoldfast is starting; press Enter to look at once.\n")?;
                told = true;
            }
            if terminal.typed_within(BOOT_POLL).context("terminal")? {
                break answer;
            }
        };
        session.print("\n")?;
        match answer {
            Ok(snapshot) => {
                session.print(&greeting(&snapshot))?;
                session.print("\n")?;
                session.print(&render::status(&snapshot))?;
                session.print("\n")
            }
            Err(error) => {
                let version = std::fs::File::open(RELEASE_FILE)
                    .and_then(|file| read_at_most(file, 200))
                    .unwrap_or_default();
                let version = String::from_utf8_lossy(&version);
                let version = version.trim();
                let name = rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned();
                session.print(&format!(
                    "Holdfast {} on {}. Type help for the commands.\n",
                    if version.is_empty() {
                        "of unknown version".to_owned()
                    } else {
                        clean(version)
                    },
                    clean(&name),
                ))?;
                self.say_failure(&error, session);
                Ok(())
            }
        }
    }

    fn ask_status(&mut self, session: &Session<'_>) -> Result<Snapshot> {
        let answer = session.ask(&Request::Status, GREETING_DEADLINE)?;
        self.last_answer = Instant::now();
        match answer {
            Ok(Reply::Status(snapshot)) => Ok(*snapshot),
            Ok(other) => Err(unexpected(&other)),
            Err(message) => bail!("supervisor: {}", clean(&message)),
        }
    }

    /// Carries out one line. Only a lost output ends the console.
    fn answer(&mut self, line: &str, session: &mut Session<'_>) -> Result<Stay> {
        let words = match words(line) {
            Ok(words) => words,
            Err(message) => {
                session.say(&format!("nodectl: {message}\n"));
                return Ok(Stay::Stay);
            }
        };
        // Lines copied from the documentation work as they are.
        let words = match words.split_first() {
            None => return Ok(Stay::Stay),
            Some((first, rest)) if first == "nodectl" => rest.to_vec(),
            Some(_) => words,
        };
        if let [word] = words.as_slice()
            && ["exit", "quit", "logout"].contains(&word.as_str())
        {
            // On the node PID 1 started us for good; by hand it is a program like any other.
            if rustix::process::getppid().is_some_and(rustix::process::Pid::is_init) {
                session.say("this console stays; help lists the commands\n");
                return Ok(Stay::Stay);
            }
            return Ok(Stay::Leave);
        }
        let command = match ConsoleLine::try_parse_from(words) {
            Ok(ConsoleLine {
                command: Command::Console,
            }) => {
                session.say("this is the console already; help lists the commands\n");
                return Ok(Stay::Stay);
            }
            Ok(ConsoleLine {
                command: Command::Lease(LeaseCommand::Run { .. }),
            }) => {
                // It becomes the command, and the console would be gone.
                session.say("lease run: not at a console; run it where programs are started\n");
                return Ok(Stay::Stay);
            }
            Ok(ConsoleLine { command }) => command,
            Err(error) => {
                session.print(&error.render().to_string())?;
                return Ok(Stay::Stay);
            }
        };
        match command::run(command, session) {
            Ok(Ending::Done | Ending::No) => {}
            Err(error) if error.is::<OutputClosed>() => return Err(error),
            Err(error) => self.say_failure(&error, session),
        }
        Ok(Stay::Stay)
    }

    /// Says why there is no answer; of a supervisor that says nothing, for how
    /// long it has not.
    fn say_failure(&self, error: &anyhow::Error, session: &mut Session<'_>) {
        let silent = match error.downcast_ref::<AskError>() {
            Some(
                AskError::Absent { who, .. }
                | AskError::Silent { who, .. }
                | AskError::Garbled { who, .. },
            ) => *who == session.supervisor.who,
            Some(AskError::Forbidden { .. }) | None => false,
        };
        if silent && self.last_answer.elapsed() >= Duration::from_secs(1) {
            let ms = u64::try_from(self.last_answer.elapsed().as_millis()).unwrap_or(u64::MAX);
            session.say(&format!("supervisor silent for {}\n", duration(ms)));
        }
        session.say(&format!("nodectl: {error:#}\n"));
    }
}

/// The first line a person sees.
fn greeting(snapshot: &Snapshot) -> String {
    let address = snapshot
        .network
        .addresses
        .first()
        .map_or("no address yet", String::as_str);
    format!(
        "Holdfast {} on {}, {}, {}. Type help for the commands.\n",
        clean(&snapshot.version),
        if snapshot.hostname.is_empty() {
            "a node without a name".to_owned()
        } else {
            clean(&snapshot.hostname)
        },
        clean(address),
        clean(&snapshot.phase),
    )
}

/// Splits a line into words at white space; quotes of either kind keep a word
/// together. Nothing else is special.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("the quote {open} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        let split = |line: &str| words(line).expect("well formed");
        assert_eq!(split("  status   --json "), ["status", "--json"]);
        assert_eq!(
            split(r#"lockspace init 'a b' --path "/x y"z"#),
            ["lockspace", "init", "a b", "--path", "/x yz"]
        );
        assert_eq!(split("''"), [""]);
        assert_eq!(split(" \t"), Vec::<String>::new());
        assert!(words("status 'x").is_err());
    }
}
