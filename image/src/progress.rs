//! What the builder tells the person waiting: one line when a step starts and one when it ends.

use std::fmt::Display;
use std::time::Instant;

/// A step that is under way.
#[derive(Debug)]
pub(crate) struct Step {
    what: String,
    started: Instant,
}

impl Step {
    /// Announces a step.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        say(&format!("{what} …"));
        Self {
            what,
            started: Instant::now(),
        }
    }

    /// Says how the step is getting on.
    pub(crate) fn note(&self, note: impl Display) {
        say(&format!(
            "{}: {note} ({} s)",
            self.what,
            self.started.elapsed().as_secs()
        ));
    }

    /// Announces the step's end, with its result in a few words.
    pub(crate) fn finish(self, result: impl Display) {
        say(&format!(
            "{}: {result} ({:.1} s)",
            self.what,
            self.started.elapsed().as_secs_f64()
        ));
    }
}

/// Tells the person waiting something that is no step.
pub(crate) fn say(line: &str) {
    eprintln!("image: {line}");
}
