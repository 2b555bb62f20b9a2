//! The pure core that runs a list of named phases: time and outcomes in,
//! "start this phase" out. Boot and shutdown are such lists.
//!
//! ```text
//!            needs settled            Done / Failed / Skipped
//!  Waiting ───────────────▶ Running ───────────────────────▶ ended
//!     │                        │ deadline
//!     │ a need failed          ▼
//!     └──────▶ Skipped       Failed ──(ends well after all)──▶ Done
//! ```
//!
//! Invariants, tested in `sequence/tests.rs`:
//! * a phase starts at most once, and only when every phase it needs has settled well enough;
//! * phases that do not need each other run at the same time;
//! * a phase that overruns its deadline counts as failed but is not forgotten: if it
//!   ends well later it counts as done and what was skipped because of it gets its turn;
//! * the list always settles: every phase has a deadline;
//! * of an abandoned list nothing starts, whatever ends later.

use control::status::{PhaseReport, PhaseState};

/// Milliseconds of the monotonic clock.
pub type Millis = u64;

/// What the failure of a phase means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Phases that need this one start nevertheless.
    Continue,
    /// Phases that need this one are skipped; the node stays up, degraded.
    StayUp,
    /// The machine reboots: nothing sensible can run.
    Reboot,
}

impl OnFailure {
    /// The word shown to people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::StayUp => "stay-up",
            Self::Reboot => "reboot",
        }
    }
}

/// One line of a phase table.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// Unique name.
    pub name: &'static str,
    /// Names of earlier phases of the same table.
    pub needs: &'static [&'static str],
    /// Longest time it may take.
    pub deadline_ms: Millis,
    /// What its failure means.
    pub on_failure: OnFailure,
}

/// How a phase ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done,
    /// Not wanted here, and why; phases that need it start all the same.
    Skipped(String),
    /// Badly, and why.
    Failed(String),
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Begin this phase; report its end by [`Sequence::ended`].
    Start(&'static str),
    /// A phase ended (or overran): one line for the log.
    Settled {
        /// Which.
        name: &'static str,
        /// How it stands now.
        state: PhaseState,
        /// How long it took.
        took_ms: Millis,
        /// Why, unless it is done.
        reason: Option<String>,
    },
    /// Reboot, for this reason.
    Reboot(String),
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    state: PhaseState,
    started: Option<Millis>,
    ended: Option<Millis>,
    reason: Option<String>,
    /// Skipped because a need failed, so it may get its turn later.
    held_back: bool,
}

/// A list of phases under way.
#[derive(Debug)]
pub struct Sequence {
    entries: Vec<Entry>,
    effects: std::collections::VecDeque<Effect>,
    abandoned: bool,
}

impl Sequence {
    /// Prepares `table`.
    ///
    /// # Panics
    /// When a name comes twice or a need does not precede its user: the table
    /// is part of the program, and its test would have failed.
    #[must_use]
    pub fn new(table: &[Phase]) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(table.len());
        for phase in table {
            assert!(
                !entries.iter().any(|entry| entry.phase.name == phase.name),
                "phase {}: listed twice",
                phase.name
            );
            for need in phase.needs {
                assert!(
                    entries.iter().any(|entry| entry.phase.name == *need),
                    "phase {}: needs {need}, which does not precede it",
                    phase.name
                );
            }
            entries.push(Entry {
                phase: *phase,
                state: PhaseState::Waiting,
                started: None,
                ended: None,
                reason: None,
                held_back: false,
            });
        }
        Self {
            entries,
            effects: std::collections::VecDeque::new(),
            abandoned: false,
        }
    }

    /// Starts what can start and fails what is overdue. Call at the beginning,
    /// and by [`Sequence::deadline`]; calling early is harmless.
    pub fn tick(&mut self, now: Millis) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.state == PhaseState::Running
                && entry
                    .started
                    .is_some_and(|started| now >= started + entry.phase.deadline_ms)
            {
                let reason = format!(
                    "no end within {} s",
                    entry.phase.deadline_ms as f64 / 1000.0
                );
                self.settle(now, index, PhaseState::Failed, Some(reason));
            }
        }
        self.advance(now);
    }

    /// The phase `name` ended. An end that was not awaited is ignored.
    pub fn ended(&mut self, now: Millis, name: &str, outcome: Outcome) {
        if self.abandoned {
            return;
        }
        let Some(index) = self
            .entries
            .iter()
            .position(|entry| entry.phase.name == name)
        else {
            return;
        };
        match (self.entries[index].state, outcome) {
            (PhaseState::Running, Outcome::Done) => self.settle(now, index, PhaseState::Done, None),
            (PhaseState::Running, Outcome::Skipped(reason)) => {
                self.settle(now, index, PhaseState::Skipped, Some(reason))
            }
            (PhaseState::Running, Outcome::Failed(reason)) => {
                self.settle(now, index, PhaseState::Failed, Some(reason))
            }
            (PhaseState::Failed, Outcome::Done) => {
                self.settle(
                    now,
                    index,
                    PhaseState::Done,
                    Some("failed at first, ended well later".to_owned()),
                );
                for entry in &mut self.entries {
                    if entry.held_back {
                        (entry.state, entry.held_back, entry.reason) =
                            (PhaseState::Waiting, false, None);
                    }
                }
            }
            // A failure learnt later says more than "no end within".
            (PhaseState::Failed, Outcome::Failed(reason)) => {
                self.entries[index].reason = Some(reason)
            }
            _ => {}
        }
        self.advance(now);
    }

    /// Nothing of the list shall start any more, for this reason: whatever has not
    /// ended counts as skipped, and its end is not awaited.
    pub fn abandon(&mut self, now: Millis, reason: &str) {
        for entry in &mut self.entries {
            entry.held_back = false;
            if matches!(entry.state, PhaseState::Waiting | PhaseState::Running) {
                (entry.state, entry.ended) = (PhaseState::Skipped, Some(now));
                entry.reason = Some(reason.to_owned());
            }
        }
        self.abandoned = true;
        self.effects
            .retain(|effect| matches!(effect, Effect::Settled { .. }));
    }

    /// The next thing to do, until there is none.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Sequence::tick`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let running = self
            .entries
            .iter()
            .filter(|entry| entry.state == PhaseState::Running);
        running
            .filter_map(|entry| Some(entry.started? + entry.phase.deadline_ms))
            .min()
    }

    /// Whether every phase has settled.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| !matches!(entry.state, PhaseState::Waiting | PhaseState::Running))
    }

    /// State of the phase `name`.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<PhaseState> {
        self.entries
            .iter()
            .find(|entry| entry.phase.name == name)
            .map(|entry| entry.state)
    }

    /// Names and reasons of the phases that failed or were held back by a failure.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let bad = self
            .entries
            .iter()
            .filter(|entry| entry.state == PhaseState::Failed || entry.held_back);
        bad.map(|entry| (entry.phase.name, entry.reason.as_deref().unwrap_or("")))
    }

    /// Everything, for people.
    #[must_use]
    pub fn report(&self, now: Millis) -> Vec<PhaseReport> {
        let line = |entry: &Entry| PhaseReport {
            name: entry.phase.name.to_owned(),
            needs: entry
                .phase
                .needs
                .iter()
                .map(|&need| need.to_owned())
                .collect(),
            deadline_ms: entry.phase.deadline_ms,
            on_failure: entry.phase.on_failure.word().to_owned(),
            state: entry.state,
            started_ms: entry.started,
            took_ms: entry
                .started
                .map(|started| entry.ended.unwrap_or(now).saturating_sub(started)),
            reason: entry.reason.clone(),
        };
        self.entries.iter().map(line).collect()
    }

    fn settle(&mut self, now: Millis, index: usize, state: PhaseState, reason: Option<String>) {
        let entry = &mut self.entries[index];
        (entry.state, entry.ended, entry.reason) = (state, Some(now), reason.clone());
        let name = entry.phase.name;
        let took_ms = now.saturating_sub(entry.started.unwrap_or(now));
        self.effects.push_back(Effect::Settled {
            name,
            state,
            took_ms,
            reason: reason.clone(),
        });
        if state == PhaseState::Failed && entry.phase.on_failure == OnFailure::Reboot {
            let why = reason.unwrap_or_default();
            self.effects
                .push_back(Effect::Reboot(format!("phase {name} failed: {why}")));
        }
    }

    /// Starts or skips every waiting phase whose needs have settled. One pass
    /// suffices, since needs precede their users.
    fn advance(&mut self, now: Millis) {
        for index in 0..self.entries.len() {
            if self.entries[index].state != PhaseState::Waiting {
                continue;
            }
            let mut ready = true;
            let mut failed = None;
            for need in self.entries[index].phase.needs {
                let Some(entry) = self.entries.iter().find(|entry| entry.phase.name == *need)
                else {
                    continue;
                };
                match entry.state {
                    PhaseState::Done => {}
                    PhaseState::Skipped if !entry.held_back => {}
                    PhaseState::Failed if entry.phase.on_failure == OnFailure::Continue => {}
                    PhaseState::Failed | PhaseState::Skipped => failed = Some(*need),
                    PhaseState::Waiting | PhaseState::Running => ready = false,
                }
            }
            let entry = &mut self.entries[index];
            if let Some(need) = failed {
                (entry.state, entry.held_back) = (PhaseState::Skipped, true);
                entry.reason = Some(format!("needs {need}, which failed"));
            } else if ready {
                (entry.state, entry.started) = (PhaseState::Running, Some(now));
                self.effects.push_back(Effect::Start(entry.phase.name));
            }
        }
    }
}

#[cfg(test)]
mod tests;
