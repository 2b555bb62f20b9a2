//! One line for each event, in columns.
//!
//! ```text
//!    time s  machine  kind      what
//!  1004.203  B.2      write     Lockspace/0 …
//! ```
//! `B.2` is machine B in its second boot. Lines are only made when somebody
//! will read them: a run that fails is done again with the trace on.

use std::fmt;

/// Lines, or nothing.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
    /// Events so far, traced or not.
    pub events: u64,
}

impl Trace {
    /// A trace that keeps its lines.
    #[must_use]
    pub fn kept() -> Self {
        Self {
            lines: Some(Vec::new()),
            events: 0,
        }
    }

    /// Whether anybody will read it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line.
    pub fn line(
        &mut self,
        time: u64,
        who: impl fmt::Display,
        kind: &str,
        what: fmt::Arguments<'_>,
    ) {
        self.events += 1;
        if let Some(lines) = &mut self.lines {
            let seconds = time / 1_000_000_000;
            let ms = time % 1_000_000_000 / 1_000_000;
            lines.push(format!(
                "{seconds:>6}.{ms:03}  {:<5} {kind:<9} {what}",
                who.to_string()
            ));
        }
    }

    /// All lines.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
