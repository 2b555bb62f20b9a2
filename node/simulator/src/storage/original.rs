//! Small models of the other implementation's two sides, as the specification
//! (§5.4) tells its rules: with its timed polling, its silence about
//! duplicates, its blindness for the size of a reply.

use std::collections::VecDeque;

use disk_format::vdsm::mailbox::{
    CHECKSUM_OFFSET, CLEAN, EventBlock, Extend, MAILBOX_BYTES, Mailbox, Message, SLOTS, checksum,
};
use mailbox::{Batch, BatchId, Committed, Effect, IoId, IoOutcome, Outcome, RequestId, Volume};

use crate::clock::S;
use crate::random::Random;

const EVENT: u64 = S / 2;
const CYCLE: u64 = 2 * S;
const WORKERS: usize = 5;
const QUEUE_MAX: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Sent(RequestId, Extend),
    Clean,
}

/// The requester's side: one thread that blocks on its own I/O.
#[derive(Debug)]
pub(super) struct OriginalHost {
    host: u16,
    image: Mailbox,
    seen: Mailbox,
    slots: [Slot; SLOTS],
    queue: VecDeque<(RequestId, Extend)>,
    started: bool,
    sleep_until: u64,
    reading: bool,
    /// What is still to be written before the thread sleeps: the mailbox, or
    /// an event.
    writes: VecDeque<bool>,
    writing: bool,
    next_io: u64,
    random: Random,
    pub(super) effects: VecDeque<Effect>,
}

impl OriginalHost {
    pub(super) fn new(host: u16, seed: u64) -> Self {
        Self {
            host,
            image: Mailbox::new(),
            seen: Mailbox::new(),
            slots: [Slot::Free; SLOTS],
            queue: VecDeque::new(),
            started: false,
            sleep_until: 0,
            reading: false,
            writes: VecDeque::new(),
            writing: false,
            next_io: 1,
            random: Random::new(seed),
            effects: VecDeque::new(),
        }
    }

    pub(super) fn ask(&mut self, now: u64, request: RequestId, extend: Extend) {
        let active = self
            .slots
            .iter()
            .any(|slot| matches!(slot, Slot::Sent(_, sent) if *sent == extend));
        // Dropped without a word.
        if !active && self.queue.len() < SLOTS {
            self.queue.push_back((request, extend));
        }
        self.tick(now);
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let busy = self.reading || self.writing;
        (!busy && self.wants_to_look()).then_some(self.sleep_until)
    }

    fn wants_to_look(&self) -> bool {
        !self.started || !self.queue.is_empty() || self.slots.iter().any(|slot| *slot != Slot::Free)
    }

    pub(super) fn tick(&mut self, now: u64) {
        if self.reading || self.writing || now < self.sleep_until || !self.wants_to_look() {
            return;
        }
        self.reading = true;
        let io = self.io();
        self.effects.push_back(Effect::Read {
            io,
            volume: Volume::Outbox,
            offset: u64::from(self.host) * 4096,
            length: MAILBOX_BYTES,
        });
    }

    pub(super) fn on_io(&mut self, now: u64, outcome: IoOutcome<'_>) {
        if std::mem::take(&mut self.writing) {
            return self.next_write(now);
        }
        if !std::mem::take(&mut self.reading) {
            return;
        }
        let read = match outcome {
            IoOutcome::Read(bytes) => Mailbox::from_bytes(bytes).ok(),
            _ => None,
        };
        let Some(read) = read else {
            self.sleep_until = now + if self.started { EVENT } else { CYCLE };
            return;
        };
        if !self.started {
            self.started = true;
            self.writes.push_back(false);
        } else if self.look(&read) {
            self.writes.extend([false, true]);
        }
        self.seen = read;
        self.next_write(now);
    }

    /// Answers, then new requests. Returns whether the mailbox has changed.
    fn look(&mut self, read: &Mailbox) -> bool {
        let mut changed = false;
        for slot in 0..SLOTS {
            if read.slot(slot) == self.seen.slot(slot) {
                continue;
            }
            match (self.slots[slot], read.message(slot)) {
                (Slot::Sent(request, sent), Message::Extend(reply))
                    if reply.same_request(&sent) =>
                {
                    self.slots[slot] = Slot::Clean;
                    self.image.put(slot, &Message::Clean);
                    let outcome = Outcome::Done;
                    self.effects
                        .push_back(Effect::Completed { request, outcome });
                    changed = true;
                }
                (Slot::Clean, Message::Clean) => {
                    self.slots[slot] = Slot::Free;
                    self.image.put(slot, &Message::Empty);
                    changed = true;
                }
                _ => {}
            }
        }
        for slot in 0..SLOTS {
            if self.slots[slot] != Slot::Free {
                continue;
            }
            let Some((request, extend)) = self.queue.pop_front() else {
                break;
            };
            self.slots[slot] = Slot::Sent(request, extend);
            self.image.put(slot, &Message::Extend(extend));
            changed = true;
        }
        changed
    }

    fn next_write(&mut self, now: u64) {
        let Some(event) = self.writes.pop_front() else {
            self.sleep_until = now + EVENT;
            return;
        };
        let (offset, bytes) = if event {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&self.random.bits().to_be_bytes());
            (0, EventBlock { id }.encode().to_vec())
        } else {
            self.image.seal();
            (u64::from(self.host) * 4096, self.image.bytes().to_vec())
        };
        self.writing = true;
        let io = self.io();
        self.effects.push_back(Effect::Write {
            io,
            volume: Volume::Inbox,
            offset,
            bytes,
        });
    }

    fn io(&mut self) -> IoId {
        self.next_io += 1;
        IoId(self.next_io)
    }
}

#[derive(Debug, Clone, Copy)]
enum Reading {
    Event,
    All,
}

/// A write to the outbox: one host's mailbox, or all.
#[derive(Debug, Clone, Copy)]
enum Writing {
    All,
    One(usize),
}

/// The SPM's side.
#[derive(Debug)]
pub(super) struct OriginalSpm {
    /// As last read, with what was not believed as zeros.
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    event: Option<[u8; 16]>,
    zeroed: bool,
    wake_at: u64,
    cycle_at: u64,
    reading: Option<(IoId, Reading)>,
    writing: Option<IoId>,
    writes: VecDeque<Writing>,
    queue: VecDeque<(usize, usize, Extend)>,
    working: Vec<(BatchId, usize, usize, Extend)>,
    next: u64,
    pub(super) effects: VecDeque<Effect>,
}

impl OriginalSpm {
    pub(super) fn new(mailboxes: u16) -> Self {
        let bytes = usize::from(mailboxes) * MAILBOX_BYTES;
        Self {
            inbox: vec![0; bytes],
            outbox: vec![0; bytes],
            event: None,
            zeroed: false,
            wake_at: 0,
            cycle_at: 0,
            reading: None,
            writing: None,
            writes: VecDeque::from([Writing::All]),
            queue: VecDeque::new(),
            working: Vec::new(),
            next: 1,
            effects: VecDeque::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        (self.zeroed && self.reading.is_none()).then_some(self.wake_at)
    }

    pub(super) fn tick(&mut self, now: u64) {
        self.begin_write();
        if !self.zeroed || self.reading.is_some() || now < self.wake_at {
            return;
        }
        if now >= self.cycle_at {
            self.read(Reading::All);
        } else {
            self.read(Reading::Event);
        }
    }

    fn read(&mut self, what: Reading) {
        let io = self.io();
        self.reading = Some((io, what));
        self.effects.push_back(Effect::Read {
            io,
            volume: Volume::Inbox,
            offset: 0,
            length: match what {
                Reading::Event => MAILBOX_BYTES,
                Reading::All => self.inbox.len(),
            },
        });
    }

    pub(super) fn on_io(&mut self, now: u64, io: IoId, outcome: IoOutcome<'_>) {
        if self.writing == Some(io) {
            self.writing = None;
            // A failure is logged, no more.
            if !self.zeroed {
                self.zeroed = true;
                self.wake_at = now;
            }
        } else if let Some((_, what)) = self.reading.take_if(|(reading, _)| *reading == io) {
            self.wake_at = now + EVENT;
            match (what, outcome) {
                (Reading::Event, IoOutcome::Read(bytes)) => {
                    let id = EventBlock::id_of(bytes);
                    if id != self.event {
                        self.event = id;
                        self.wake_at = now;
                        self.cycle_at = now;
                    }
                }
                (Reading::All, IoOutcome::Read(bytes)) => {
                    self.cycle_at = now + CYCLE;
                    let bytes = bytes.to_vec();
                    self.look(&bytes);
                }
                (Reading::All, _) => self.cycle_at = now + CYCLE,
                (Reading::Event, _) => {}
            }
        }
        self.tick(now);
    }

    fn look(&mut self, bytes: &[u8]) {
        let mut all = false;
        let blocks = bytes.as_chunks::<MAILBOX_BYTES>().0;
        for (host, block) in blocks.iter().enumerate().skip(1) {
            let first = host * MAILBOX_BYTES;
            let stored = block.last_chunk().map_or(0, |sum| u32::from_le_bytes(*sum));
            let slots = block.as_chunks::<64>().0;
            let blank = slots.iter().take(SLOTS).all(|slot| slot[0] == 0);
            if !blank && (stored == 0 || stored != checksum(&block[..CHECKSUM_OFFSET])) {
                self.inbox[first..first + MAILBOX_BYTES].fill(0);
                continue;
            }
            for (slot, new) in slots.iter().enumerate().take(SLOTS) {
                let at = first + slot * 64;
                if *new == CLEAN {
                    self.outbox[at..at + 64].copy_from_slice(&CLEAN);
                    all = true;
                } else if self.inbox[at..at + 64] != *new
                    && let Message::Extend(extend) = Message::decode(new)
                    && self.queue.len() < QUEUE_MAX
                {
                    self.queue.push_back((host, slot, extend));
                }
            }
            self.inbox[first..first + MAILBOX_BYTES].copy_from_slice(block);
        }
        if all {
            self.writes.push_back(Writing::All);
        }
        self.work();
    }

    fn work(&mut self) {
        while self.working.len() < WORKERS {
            let Some((host, slot, extend)) = self.queue.pop_front() else {
                return;
            };
            let id = BatchId(self.next);
            self.next += 1;
            self.working.push((id, host, slot, extend));
            self.effects.push_back(Effect::Extend(Batch {
                id,
                domain: extend.domain,
                extends: vec![extend],
                urgent: false,
            }));
        }
    }

    pub(super) fn on_committed(&mut self, batch: BatchId, results: &[Committed]) {
        let Some(place) = self.working.iter().position(|(id, ..)| *id == batch) else {
            return;
        };
        let (_, host, slot, extend) = self.working.remove(place);
        let done = results.first() == Some(&Committed::Done);
        let size_mib = if done { extend.size_mib } else { 0 };
        let reply = Message::Extend(Extend { size_mib, ..extend }).encode();
        let at = host * MAILBOX_BYTES + slot * 64;
        self.outbox[at..at + 64].copy_from_slice(&reply);
        self.writes.push_back(Writing::One(host));
        self.work();
        self.begin_write();
    }

    fn begin_write(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let Some(what) = self.writes.pop_front() else {
            return;
        };
        let (offset, bytes) = match what {
            Writing::All => (0, self.outbox.clone()),
            Writing::One(host) => {
                let first = host * MAILBOX_BYTES;
                let bytes = self.outbox[first..first + MAILBOX_BYTES].to_vec();
                (u64::try_from(first).unwrap_or(0), bytes)
            }
        };
        let io = self.io();
        self.writing = Some(io);
        self.effects.push_back(Effect::Write {
            io,
            volume: Volume::Outbox,
            offset,
            bytes,
        });
    }

    fn io(&mut self) -> IoId {
        self.next += 1;
        IoId(self.next)
    }
}
