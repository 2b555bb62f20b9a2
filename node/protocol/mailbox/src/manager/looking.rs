//! When and what to read.

use lease::Monotonic;

use super::{Manager, Stage};
use crate::desk::sooner;
use crate::mail::{MAILBOX_BYTES, MAILBOX_STEP};
use crate::seam::{Effect, IoOutcome, Volume};
use crate::timings;

/// A read of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Block 0.
    Event,
    /// Mailboxes from this one on, so many; everybody's if there was an event.
    Mail {
        first: usize,
        count: usize,
        event: bool,
    },
}

/// What decides what is read next.
#[derive(Debug, Clone)]
pub(super) struct Looking {
    /// The id of the last event seen.
    event: Option<[u8; 16]>,
    /// There was an event: everybody's mail is to be read.
    wanted: bool,
    event_at: Monotonic,
    scan_at: Monotonic,
    /// Where the next partial reading begins; `None` before the first one,
    /// which reads all.
    next: Option<usize>,
    active_until: Monotonic,
    /// Since when there is a request that no event has told of.
    silent_since: Option<Monotonic>,
    eventless_until: Monotonic,
}

impl Looking {
    pub(super) fn new() -> Self {
        Self {
            event: None,
            wanted: false,
            event_at: Monotonic(0),
            scan_at: Monotonic(0),
            next: None,
            active_until: Monotonic(0),
            silent_since: None,
            eventless_until: Monotonic(0),
        }
    }

    /// Something goes on.
    pub(super) fn active(&mut self, now: Monotonic) {
        let until = now.plus_ms(timings::FAST_FOR_MS);
        self.active_until = self.active_until.max(until);
        self.event_at = self.event_at.min(now.plus_ms(timings::FAST_MS));
    }
}

impl Manager {
    fn is_active(&self) -> bool {
        self.now < self.looking.active_until
            || !self.pending.is_empty()
            || !self.flights.is_empty()
            || self.dirty > 0
    }

    /// Begins to read what is due.
    pub(super) fn begin_look(&mut self) {
        if !self.reads.is_free(self.now) {
            return;
        }
        let look = if std::mem::take(&mut self.looking.wanted) {
            self.everybody(true)
        } else if self.now >= self.looking.scan_at {
            self.scan()
        } else if self.now >= self.looking.event_at {
            Look::Event
        } else {
            return;
        };
        let (offset, length) = match look {
            Look::Event => (0, MAILBOX_BYTES),
            Look::Mail { first, count, .. } => (
                u64::try_from(first).unwrap_or(0) * MAILBOX_STEP,
                count * MAILBOX_BYTES,
            ),
        };
        let io = self.io();
        self.reads.begin(io, self.now, look);
        self.effects.push_back(Effect::Read {
            io,
            volume: Volume::Inbox,
            offset,
            length,
        });
    }

    /// As the original reads: from the event block on.
    fn everybody(&self, event: bool) -> Look {
        Look::Mail {
            first: 0,
            count: self.peers.len(),
            event,
        }
    }

    fn scan(&self) -> Look {
        let part = usize::from(timings::IDLE_MAILBOXES);
        let Some(first) = self.looking.next else {
            return self.everybody(false);
        };
        if self.is_active() || self.now < self.looking.eventless_until || self.peers.len() <= part {
            return self.everybody(false);
        }
        Look::Mail {
            first,
            count: part.min(self.peers.len() - first),
            event: false,
        }
    }

    pub(super) fn on_look(&mut self, look: Look, since: Monotonic, outcome: IoOutcome<'_>) {
        let bytes = match outcome {
            IoOutcome::Read(bytes) => bytes,
            IoOutcome::Failed(errno) => return self.look_failed(look, Some(errno)),
            IoOutcome::Written | IoOutcome::Unknown => return self.look_failed(look, None),
        };
        let length = match look {
            Look::Event => MAILBOX_BYTES,
            Look::Mail { count, .. } => count * MAILBOX_BYTES,
        };
        if bytes.len() != length {
            return self.look_failed(look, None);
        }
        let note = self.reads.succeeded();
        self.note(note);
        match look {
            Look::Event => {
                self.on_event_block(bytes, since);
                let pause = if self.is_active() {
                    timings::FAST_MS
                } else {
                    timings::EVENT_IDLE_MS
                };
                self.looking.event_at = self.now.plus_ms(pause);
            }
            Look::Mail {
                first,
                count,
                event,
            } => {
                let asked = self.on_mail(first, bytes);
                if asked && !event && self.looking.silent_since.is_none() {
                    self.looking.silent_since = Some(since);
                }
                self.looking.scan_at = since.plus_ms(timings::SCAN_MS);
                let end = first + count;
                self.looking.next = Some(if end < self.peers.len() { end } else { 0 });
            }
        }
    }

    pub(super) fn look_failed(&mut self, look: Look, errno: Option<i32>) {
        let note = self.reads.failed(self.now, errno);
        self.note(note);
        if let Look::Mail { event: true, .. } = look {
            self.looking.wanted = true;
        }
    }

    /// The id is taken from here alone: in a reading of everybody's mail the
    /// event block may be newer than the mailboxes beside it.
    fn on_event_block(&mut self, bytes: &[u8], since: Monotonic) {
        let id = disk_format::vdsm::mailbox::EventBlock::id_of(bytes);
        if id == self.looking.event {
            if let Some(silent) = self.looking.silent_since
                && since >= silent.plus_ms(timings::EVENT_LATE_MS)
            {
                self.looking.silent_since = None;
                self.looking.eventless_until = self.now.plus_ms(timings::EVENTLESS_FOR_MS);
            }
            return;
        }
        self.looking.silent_since = None;
        // The first one may have come between the first reading of all mail and
        // this one: it counts too.
        self.looking.event = id;
        self.looking.wanted = true;
        self.looking.active(self.now);
    }

    /// When to call [`Self::handle`] with [`super::Input::Tick`] at the latest;
    /// `None`: only when something happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        if self.stage == Stage::Over {
            return None;
        }
        let mut due = sooner(self.reads.limit(), self.writes.limit());
        if self.stage == Stage::Zeroing || self.dirty > 0 {
            due = sooner(due, self.writes.free_at());
        }
        due = sooner(due, self.repeat_at);
        if self.stage == Stage::Running {
            due = sooner(due, self.next_batch_at());
            if let Some(free) = self.reads.free_at()
                && self.config.mail
            {
                let look = if self.looking.wanted {
                    self.now
                } else {
                    self.looking.event_at.min(self.looking.scan_at)
                };
                due = sooner(due, Some(free.max(look)));
            }
        }
        due
    }
}
