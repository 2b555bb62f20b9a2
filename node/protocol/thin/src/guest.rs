//! The thin drives of one guest, and whether it may go on after it stopped.
//!
//! QEMU stops the whole guest when one drive lacks space, and also when a disk
//! fails, when an operator says so, at the end of a migration. To continue it is
//! right only in the first case; so before it is continued QEMU is asked why it
//! stands still, and every drive has to have its space.

use std::collections::{BTreeMap, VecDeque};

use crate::drive::{Config, Drive, Effect, Input, Status};
use crate::time::Monotonic;

/// Names a drive of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveId(pub u32);

/// Why a guest stands still, as QEMU says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It does not.
    Running,
    /// A disk failed or was full.
    IoError,
    /// Anything else: stopped by somebody, migrating, shut down.
    Other,
}

/// QEMU's answer to [`GuestEffect::QueryRun`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// Why it stands still.
    pub state: RunState,
    /// Watched drives whose first error was lack of space.
    pub full: Vec<DriveId>,
    /// A drive, watched or not, had another error, or an unwatched one is full.
    pub failed: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestInput {
    /// The time has come, or nothing.
    Tick,
    /// To or from one drive.
    Drive(DriveId, Input),
    /// A connection to QEMU was made: what it did meanwhile is unknown.
    Connected,
    /// A disk failed for another reason than space, and stopped the guest.
    DiskError,
    /// The guest stopped.
    Stopped,
    /// The guest runs, whoever continued it.
    Resumed,
    /// Answer to [`GuestEffect::QueryRun`]; `None` where QEMU could not be asked.
    Run(Option<RunReport>),
    /// The guest shall not be continued for now (end of a migration), or may again.
    Hold(bool),
}

/// What shall be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEffect {
    /// By or for one drive; never [`Effect::Resume`].
    Drive(DriveId, Effect),
    /// Ask QEMU why the guest stands still.
    QueryRun,
    /// Continue the guest.
    Continue,
}

/// What is known of a guest, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestStatus {
    /// Stopped, as far as is known.
    pub stopped: bool,
    /// Continued after lack of space, since the start.
    pub continued: u64,
    /// Stopped for lack of space, since the start.
    pub pauses: u64,
    /// Its drives.
    pub drives: BTreeMap<DriveId, Status>,
}

/// After this an unanswered question about the run state is asked again.
const RUN_PATIENCE_MS: u64 = 2000;

/// A guest that disk errors keep stopped is looked at this often.
const STOPPED_POLL_MS: u64 = 10_000;

/// The state machine of a guest. Called like [`Drive`].
#[derive(Debug, Clone, Default)]
pub struct Guest {
    drives: BTreeMap<DriveId, Drive>,
    stopped: bool,
    /// A disk error other than lack of space since the guest last ran.
    disk_error: bool,
    /// A drive that lacked space has it: continue when nothing speaks against it.
    wish: bool,
    /// It was running although it was to be continued.
    seen_running: bool,
    held: bool,
    /// Asked why it stands still; ask again at this time.
    asked: Option<Monotonic>,
    continued: u64,
    pauses: u64,
    effects: VecDeque<GuestEffect>,
}

impl Guest {
    /// A guest without drives.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a drive; one of the same id is replaced.
    pub fn add(&mut self, id: DriveId, config: Config) {
        self.drives.insert(id, Drive::new(config));
    }

    /// Watches a drive no longer.
    pub fn remove(&mut self, id: DriveId) {
        self.drives.remove(&id);
    }

    /// Takes something that happened. Unknown drives are ignored.
    pub fn handle(&mut self, now: Monotonic, input: GuestInput) {
        match input {
            GuestInput::Tick => {
                self.each(now, Input::Tick);
                if self.asked.is_some_and(|again| again <= now) {
                    self.ask(now);
                }
            }
            GuestInput::Drive(id, input) => self.one(now, id, input),
            GuestInput::Connected => {
                self.each(now, Input::Moved);
                self.ask(now);
            }
            GuestInput::DiskError => self.disk_error = true,
            GuestInput::Stopped => {
                self.stopped = true;
                self.seen_running = false;
                self.ask(now);
            }
            GuestInput::Resumed => self.runs(now),
            GuestInput::Run(report) => self.on_report(now, report),
            GuestInput::Hold(held) => {
                self.held = held;
                if !held && self.wish {
                    self.ask(now);
                }
            }
        }
    }

    /// The next thing to be done.
    pub fn next_effect(&mut self) -> Option<GuestEffect> {
        self.effects.pop_front()
    }

    /// When to call with [`GuestInput::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.drives
            .values()
            .filter_map(Drive::deadline)
            .chain(self.asked)
            .min()
    }

    /// What is known, for people.
    #[must_use]
    pub fn status(&self) -> GuestStatus {
        GuestStatus {
            stopped: self.stopped,
            continued: self.continued,
            pauses: self.pauses,
            drives: self
                .drives
                .iter()
                .map(|(id, drive)| (*id, drive.status()))
                .collect(),
        }
    }

    fn each(&mut self, now: Monotonic, input: Input) {
        let ids: Vec<DriveId> = self.drives.keys().copied().collect();
        for id in ids {
            self.one(now, id, input);
        }
    }

    fn one(&mut self, now: Monotonic, id: DriveId, input: Input) {
        let Some(drive) = self.drives.get_mut(&id) else {
            return;
        };
        if input == Input::NoSpace && !drive.starving() {
            self.pauses = self.pauses.saturating_add(1);
        }
        drive.handle(now, input);
        let mut wish = false;
        while let Some(effect) = drive.next_effect() {
            if effect == Effect::Resume {
                wish = true;
            } else {
                self.effects.push_back(GuestEffect::Drive(id, effect));
            }
        }
        if wish {
            self.wish = true;
            if !self.held {
                self.ask(now);
            }
        }
    }

    fn ask(&mut self, now: Monotonic) {
        self.asked = Some(now.plus_ms(RUN_PATIENCE_MS));
        self.effects.push_back(GuestEffect::QueryRun);
    }

    fn on_report(&mut self, now: Monotonic, report: Option<RunReport>) {
        let Some(report) = report else {
            // Asked again when its time has come.
            return;
        };
        self.asked = None;
        match report.state {
            RunState::Running => {
                // The event of lacking space comes before the stop: the wish
                // stays for that, but not for the next time.
                if self.stopped || self.seen_running {
                    self.runs(now);
                } else if self.wish {
                    self.seen_running = true;
                    self.asked = Some(now.plus_ms(RUN_PATIENCE_MS));
                }
                return;
            }
            RunState::Other => {
                self.stopped = true;
                self.wish = false;
                return;
            }
            RunState::IoError => self.stopped = true,
        }
        let mut lacking = false;
        for id in report.full {
            // An event may be lost: QEMU sends at most one a second of a disk.
            if !self.wish && self.drives.get(&id).is_some_and(|d| !d.starving()) {
                self.one(now, id, Input::NoSpace);
            }
            lacking |= self.drives.get(&id).is_some_and(Drive::starving);
        }
        lacking |= self.drives.values().any(Drive::starving);
        if self.wish && !lacking && !report.failed && !self.disk_error && !self.held {
            // The wish stays until it is seen to run: QEMU may say no.
            self.asked = Some(now.plus_ms(RUN_PATIENCE_MS));
            self.continued = self.continued.saturating_add(1);
            self.effects.push_back(GuestEffect::Continue);
        } else {
            // Whatever keeps it stopped may end without a word.
            self.asked = Some(now.plus_ms(STOPPED_POLL_MS));
        }
    }

    fn runs(&mut self, now: Monotonic) {
        self.stopped = false;
        self.disk_error = false;
        self.wish = false;
        self.seen_running = false;
        self.asked = None;
        self.each(now, Input::Running);
    }
}
