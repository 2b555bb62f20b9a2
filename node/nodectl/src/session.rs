//! Where a command's words go and where its questions are answered: the
//! process's own streams, or a console that stays.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::config;
use control::request::{LeasedReply, LeasedRequest, Reply, Request};
use control::status::Snapshot;
use sanlock_client::Client;
use serde::Serialize;

use crate::client::Peer;
use crate::text::clean;

/// Time the supervisor has for a question it answers from memory.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// How a command ended; the process's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// 0: done.
    Done,
    /// 1: understood, and the answer is no.
    No,
}

/// One line from whoever types.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// A line without its end.
    Line(String),
    /// Ctrl-C: what was typed is void.
    Cancelled,
    /// End of input.
    End,
}

/// Where lines come from.
pub(crate) trait Input {
    /// Whether a person can be asked.
    fn is_terminal(&self) -> bool;
    /// The next line.
    fn line(&mut self) -> io::Result<Entered>;
    /// Waits; true as soon as a person types a line, which is then gone.
    fn pause(&mut self, patience: Duration) -> io::Result<bool>;
    /// Everything up to the end of the document, at most `longest` bytes.
    fn document(&mut self, longest: usize) -> io::Result<Vec<u8>>;
}

/// Streams and peers of one command.
pub(crate) struct Session<'a> {
    /// Data.
    pub(crate) out: &'a mut dyn Write,
    /// Talk.
    pub(crate) err: &'a mut dyn Write,
    /// Answers to questions, and documents given as `-`.
    pub(crate) input: &'a mut dyn Input,
    /// The supervisor.
    pub(crate) supervisor: Peer,
    /// The lease daemon.
    pub(crate) leased: Peer,
    /// The storage daemon.
    pub(crate) storaged: Peer,
    /// The lease daemon's sanlock socket.
    pub(crate) sanlock: Client,
}

/// Output is gone: whoever read it has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("output closed")]
pub(crate) struct OutputClosed;

impl Session<'_> {
    /// Prints data.
    pub(crate) fn print(&mut self, text: &str) -> Result<()> {
        match self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            other => other.context("standard output"),
        }
    }

    /// Prints one line of JSON.
    pub(crate) fn print_json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let mut line = serde_json::to_string(value).context("answer as JSON")?;
        line.push('\n');
        self.print(&line)
    }

    /// Says something to the person. That nobody listens is no failure.
    pub(crate) fn say(&mut self, text: &str) {
        drop(
            self.err
                .write_all(text.as_bytes())
                .and_then(|()| self.err.flush()),
        );
    }

    /// Asks the supervisor; a refusal comes back as its message.
    pub(crate) fn ask(
        &self,
        request: &Request,
        deadline: Duration,
    ) -> Result<Result<Reply, String>> {
        match self.supervisor.ask(request, deadline)? {
            Reply::Error { message } => Ok(Err(message)),
            reply => Ok(Ok(reply)),
        }
    }

    /// The supervisor's snapshot.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        match self.ask(&Request::Status, ANSWER_DEADLINE)? {
            Ok(Reply::Status(snapshot)) => Ok(*snapshot),
            Ok(other) => Err(unexpected(&other)),
            Err(message) => bail!("supervisor: {}", clean(&message)),
        }
    }

    /// The lease daemon's lockspaces.
    pub(crate) fn lockspaces(&self) -> Result<Vec<control::status::LockspaceReport>> {
        match self.leased.ask(&LeasedRequest::Status, ANSWER_DEADLINE)? {
            LeasedReply::Status { lockspaces } => Ok(lockspaces),
            LeasedReply::Error { message } => bail!("lease daemon: {}", clean(&message)),
        }
    }

    /// Tells the person that the answer is no, and why.
    pub(crate) fn refuse(&mut self, message: &str) -> Ending {
        for line in message.lines() {
            self.say(&format!("nodectl: {}\n", clean(line)));
        }
        Ending::No
    }

    /// Lets the person repeat the name of what `deed` concerns.
    pub(crate) fn confirm(&mut self, deed: &str, name: &str) -> Result<bool> {
        if !self.input.is_terminal() {
            bail!("this {deed} {name}, and there is no terminal to ask on; add --yes");
        }
        self.say(&format!("This {deed} {name}. Type its name to go on: "));
        let typed = self.input.line().context("answer")?;
        Ok(matches!(typed, Entered::Line(typed) if typed.trim() == name))
    }

    /// The bytes of a document named on the command line, `-` for standard input.
    pub(crate) fn document(&mut self, file: &Path) -> Result<Vec<u8>> {
        // One byte more than allowed, so that too long a document is refused as such.
        let longest = config::DOCUMENT_BYTES_MAX + 1;
        if file == Path::new("-") {
            return self.input.document(longest).context("standard input");
        }
        let shown = file.display();
        let opened = std::fs::File::open(file).with_context(|| {
            format!("{shown}: cannot be read; give a file, or - for standard input")
        })?;
        read_at_most(opened, longest).with_context(|| format!("{shown}: cannot be read"))
    }
}

/// An answer to another question.
pub(crate) fn unexpected(reply: &Reply) -> anyhow::Error {
    let text: String = format!("{reply:?}").chars().take(60).collect();
    anyhow::anyhow!(
        "supervisor answered something else ({text}); nodectl and supervisor are of different versions, use the one in the image"
    )
}

/// At most `longest` bytes.
pub(crate) fn read_at_most(from: impl Read, longest: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(u64::try_from(longest).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
