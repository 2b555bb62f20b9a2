//! `nodectl` over the second serial line: one command a line, its output up to
//! the next prompt; with `--json` one of the output's lines is the document.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use control::status::Snapshot;

use crate::line::{Line, lock};

/// What the console prints when it waits for a command.
const PROMPT: &str = "holdfast> ";
/// How often a silent console is nudged.
const NUDGE: Duration = Duration::from_secs(5);

/// The console of one node; questions from several threads take turns.
#[derive(Debug)]
pub struct Console {
    /// Held for the length of one question. The value says whether the line
    /// may still carry the answer to an earlier one.
    turn: Mutex<bool>,
    line: Line,
    /// Where the latest snapshot is kept for whoever looks into a failure.
    evidence: PathBuf,
}

impl Console {
    pub(crate) fn new(line: Line, evidence: PathBuf) -> Self {
        Self {
            turn: Mutex::new(true),
            line,
            evidence,
        }
    }

    /// The raw line.
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Waits until the console prompts.
    pub fn wait_prompt(&self, patience: Duration) -> Result<()> {
        let mut unsure = lock(&self.turn);
        self.synchronise(patience)?;
        *unsure = false;
        Ok(())
    }

    /// Runs one command line and answers with its output.
    pub fn run(&self, command: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut unsure = lock(&self.turn);
        if *unsure {
            self.synchronise(patience)?;
        }
        *unsure = true;
        let position = self.line.position();
        self.line.send(format!("{command}\n").as_bytes())?;
        let left = deadline.saturating_duration_since(Instant::now());
        let what = format!("answer to {command:?}");
        let output = self
            .line
            .wait(position, left, &what, |text| answer(text, command))?;
        *unsure = false;
        Ok(output)
    }

    /// Types a command line whose answer may never come, because it ends the
    /// node.
    pub fn order(&self, command: &str, patience: Duration) -> Result<()> {
        let mut unsure = lock(&self.turn);
        if *unsure {
            self.synchronise(patience)?;
        }
        *unsure = true;
        self.line.send(format!("{command}\n").as_bytes())
    }

    /// Runs `status --json`.
    pub fn status(&self, patience: Duration) -> Result<Snapshot> {
        let output = self.run("status --json", patience)?;
        let document =
            json_line(&output).with_context(|| format!("status --json answered: {output}"))?;
        // Kept for whoever looks into a failure; losing it fails nothing.
        drop(std::fs::write(&self.evidence, document));
        serde_json::from_str(document)
            .with_context(|| format!("status --json answered: {document}"))
    }

    /// Nudges the console until it has worked off everything typed so far.
    ///
    /// Each nudge is a command that does not exist, of a name never used
    /// before: once it has been refused by name, whatever was typed earlier has
    /// had its answer, and the prompt that follows is a fresh one.
    fn synchronise(&self, patience: Duration) -> Result<()> {
        static NUDGES: AtomicU32 = AtomicU32::new(0);
        let deadline = Instant::now() + patience;
        loop {
            let name = format!("nudge-{}", NUDGES.fetch_add(1, Ordering::Relaxed));
            let position = self.line.position();
            // Ctrl-U drops what an earlier, unfinished question left behind.
            self.line.send(format!("\x15{name}\n").as_bytes())?;
            let left = deadline.saturating_duration_since(Instant::now());
            let prompted = self.line.wait(position, NUDGE.min(left), "prompt", |text| {
                refused(text, &name).then_some(())
            });
            let Err(error) = prompted else { return Ok(()) };
            if left.is_zero() || self.line.closed() {
                return Err(anyhow!("no prompt on the console: {error}"));
            }
        }
    }
}

/// Whether a text holds the echo of a nudge, its refusal by name and a prompt.
fn refused(text: &str, name: &str) -> bool {
    text.matches(name).count() >= 2 && text.ends_with(PROMPT)
}

/// The output between the echoed command and the next prompt, once both are there.
fn answer(text: &str, command: &str) -> Option<String> {
    let (_, output) = text.split_once(command)?;
    let output = output.strip_suffix(PROMPT)?;
    // A prompt stands at the start of a line; the same word inside an answer does not.
    let output = output.replace('\r', "");
    if !output.is_empty() && !output.ends_with('\n') {
        return None;
    }
    Some(output.trim_start_matches('\n').to_owned())
}

/// The line of an output that is a JSON document.
#[must_use]
pub fn json_line(output: &str) -> Option<&str> {
    output
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with(['{', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_only_with_its_prompt() {
        assert_eq!(answer("boot\r\nudev 12 ms\r\n", "boot"), None);
        assert_eq!(
            answer("boot\r\nudev 12 ms\r\nholdfast> ", "boot").unwrap(),
            "udev 12 ms\n"
        );
        assert_eq!(answer("boot\r\nholdfast> ", "boot").unwrap(), "");
    }

    #[test]
    fn a_nudge_is_answered_only_by_its_own_refusal() {
        let echo = "nudge-7\r\nholdfast> ";
        assert!(
            !refused(echo, "nudge-7"),
            "this prompt answers an earlier line"
        );
        assert!(refused(
            &format!("{echo}error: unknown command 'nudge-7'\r\nholdfast> "),
            "nudge-7"
        ));
    }

    #[test]
    fn the_prompts_word_inside_an_answer_does_not_end_it() {
        assert_eq!(answer("log\r\nprinted holdfast> ", "log"), None);
    }

    #[test]
    fn the_document_is_found_among_other_lines() {
        assert_eq!(json_line("note\n{\"a\":1}\n"), Some("{\"a\":1}"));
        assert_eq!(json_line("error: supervisor silent\n"), None);
    }
}
