//! Reads and writes of the mailboxes on their way.

use disk_format::vdsm::mailbox::{CHECKSUM_OFFSET, MAILBOX_BYTES, Mailbox, Message, checksum};
use mailbox::{Effect, IoId, IoOutcome, Note, Outcome, RequestId, Volume, host, manager};

use super::disk::SECTOR;
use super::machine::{AnyHost, AnyManager, Core, host_id};
use super::seen::Sight;
use super::world::{Event, World, domain_of};
use crate::clock::{MS, S};

/// A read or write on its way.
#[derive(Debug)]
pub(super) struct Flight {
    machine: usize,
    life: u32,
    core: Core,
    tenure: u64,
    io: IoId,
    volume: Volume,
    offset: usize,
    /// To write, or read.
    bytes: Vec<u8>,
    write: bool,
    /// Where it is split, if it is.
    split: Option<usize>,
    told: Told,
    /// Was told before it landed.
    late: bool,
    /// Lands when it is told.
    together: bool,
    landings: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Well,
    Failed,
    Unknown,
}

impl World {
    pub(super) fn drain_host(&mut self, machine: usize) {
        loop {
            let of = &mut self.machines[machine];
            let effect = match &mut of.host {
                Some(AnyHost::Ours(host)) => host.next_effect(),
                Some(AnyHost::Original(host)) => host.effects.pop_front(),
                None => None,
            };
            let Some(effect) = effect else { break };
            match effect {
                Effect::Read { .. } => self.fly(machine, Core::Host, effect),
                Effect::Write { .. } => {
                    self.judge_host_write(machine, &effect);
                    self.fly(machine, Core::Host, effect);
                }
                Effect::Completed { request, outcome } => {
                    self.on_completed(machine, request, outcome);
                }
                Effect::Extend(_) => {
                    self.object(
                        "a host never changes metadata",
                        format!("h{}", host_id(machine)),
                    );
                }
                Effect::Stopped => {}
            }
        }
        while let Some(AnyHost::Ours(host)) = &mut self.machines[machine].host
            && let Some(note) = host.next_note()
        {
            self.on_note(machine, &note);
        }
    }

    fn judge_host_write(&mut self, machine: usize, effect: &Effect) {
        let Effect::Write {
            volume,
            offset,
            bytes,
            ..
        } = effect
        else {
            return;
        };
        let own = u64::from(host_id(machine)) * 4096;
        let good = *volume == Volume::Inbox
            && bytes.len() == MAILBOX_BYTES
            && (*offset == 0 || *offset == own);
        if !good {
            let what = format!("h{} writes {volume:?} at {offset}", host_id(machine));
            return self.object("a host writes only its mailbox and the event block", what);
        }
        let stored = bytes.last_chunk().map_or(0, |sum| u32::from_le_bytes(*sum));
        if *offset == own && stored != checksum(&bytes[..CHECKSUM_OFFSET]) {
            let what = format!("h{}", host_id(machine));
            self.object("a host's mailbox has its checksum", what);
        }
        if self.trace.is_kept() {
            let text = Mailbox::from_bytes(bytes).map(|mailbox| format!("{mailbox:?}"));
            let text = if *offset == 0 {
                "event".to_owned()
            } else {
                text.unwrap_or_default()
            };
            self.tell_of(machine, "mails", format_args!("{text}"));
        }
    }

    pub(super) fn on_note(&mut self, machine: usize, note: &Note) {
        let sight = match note {
            Note::BadChecksum { .. } => Sight::BadChecksum,
            Note::NotUnderstood { .. } => Sight::NotUnderstood,
            Note::StaleReply { .. } => Sight::StaleReply,
            Note::SentAgain { .. } => Sight::SentAgain,
            Note::Running
            | Note::IoFailing { .. }
            | Note::IoWorks { .. }
            | Note::Refused { .. }
            | Note::CommitUnknown { .. } => Sight::Events,
        };
        if sight != Sight::Events {
            self.seen.note(sight);
        }
        self.tell_of(machine, "notes", format_args!("{note:?}"));
    }

    pub(super) fn on_completed(&mut self, machine: usize, request: RequestId, outcome: Outcome) {
        let index = usize::try_from(request.0).unwrap_or(usize::MAX);
        let Some(asked) = self.requests.get(index).copied() else {
            return self.object("answers are for requests", format!("{request:?}"));
        };
        self.tell_of(
            machine,
            "answered",
            format_args!("{} {outcome:?} {:?}", request.0, asked.extend),
        );
        if asked.outcome.is_some() || asked.machine != machine {
            let what = format!("request {} again: {outcome:?}", request.0);
            return self.object("every request is answered once, to its caller", what);
        }
        self.requests[index].outcome = Some(outcome);
        self.requests[index].answered = self.now;
        let original = self.machines[machine].original;
        let sight = match outcome {
            Outcome::Done if original => Sight::OriginalAnswered,
            Outcome::Done if !asked.by_mail => Sight::Local,
            Outcome::Done if self.original_serves() => Sight::MailedByOriginal,
            Outcome::Done => Sight::Mailed,
            Outcome::Refused => Sight::Refused,
            Outcome::Unanswered => Sight::Unanswered,
            Outcome::Full => Sight::Full,
            Outcome::Stopped => Sight::Stopped,
        };
        self.seen.note(sight);
        // The original does not look at the size of its answers.
        if outcome == Outcome::Done && !original {
            let size = self.disk.size(asked.domain, asked.extend.volume);
            if size < asked.extend.size_mib {
                let what = format!("request {} {:?}: {size} MiB", request.0, asked.extend);
                self.object("a request is done when its volume is that large", what);
            }
        }
    }

    fn original_serves(&self) -> bool {
        self.machines
            .iter()
            .any(|machine| matches!(machine.manager, Some(AnyManager::Original(..))))
    }

    /// An answer of ours is written only after the commit it speaks of.
    pub(super) fn judge_answers(&mut self, machine: usize, offset: u64, bytes: &[u8]) {
        for (number, block) in bytes.as_chunks::<MAILBOX_BYTES>().0.iter().enumerate() {
            let Ok(mailbox) = Mailbox::from_bytes(block) else {
                continue;
            };
            for (slot, message) in mailbox.messages() {
                if let Message::Extend(answer) = message
                    && self.disk.size(domain_of(answer.domain), answer.volume) < answer.size_mib
                {
                    let host = offset / 4096 + u64::try_from(number).unwrap_or(0);
                    let what = format!(
                        "h{} answers host {host} slot {slot}: {answer:?}",
                        host_id(machine)
                    );
                    return self.object("an answer comes after its commit", what);
                }
            }
        }
    }

    /// Sends a read or write on its way.
    pub(super) fn fly(&mut self, machine: usize, core: Core, effect: Effect) {
        let (io, volume, offset, bytes, write) = match effect {
            Effect::Read {
                io,
                volume,
                offset,
                length,
            } => (io, volume, offset, vec![0; length], false),
            Effect::Write {
                io,
                volume,
                offset,
                bytes,
            } => (io, volume, offset, bytes, true),
            Effect::Extend(_) | Effect::Completed { .. } | Effect::Stopped => return,
        };
        let of = &self.machines[machine];
        let tenure = of.manager.as_ref().map_or(0, AnyManager::tenure);
        let mut flight = Flight {
            machine,
            life: of.life,
            core,
            tenure,
            io,
            volume,
            offset: usize::try_from(offset).unwrap_or(0),
            bytes,
            write,
            split: None,
            told: Told::Well,
            late: false,
            together: false,
            landings: 0,
        };
        let id = self.id();
        let lands = self.now
            + self
                .random
                .between(self.swarm.latency / 10, self.swarm.latency);
        let mut landing = Some(lands);
        let mut told = lands;
        let faults = self.swarm.faults;
        if self.calm {
            // Nothing goes wrong.
        } else if self.random.chance(faults.slow) {
            let lands = self.now + self.random.below(8 * S);
            landing = Some(lands);
            told = lands + self.random.below(S / 2);
        } else if self.random.chance(faults.fail) {
            flight.told = Told::Failed;
            landing = None;
        } else if self.random.chance(faults.lie) {
            flight.told = Told::Failed;
            landing = Some(self.now + self.random.below(5 * S));
        } else if self.random.chance(faults.late) {
            flight.told = Told::Unknown;
            told = self.now + 5 * S;
            landing = self
                .random
                .chance(700)
                .then(|| self.now + self.random.below(90 * S));
        } else if write && self.random.chance(faults.lost) {
            landing = None;
            self.seen.note(Sight::Lost);
        } else if write && self.random.chance(faults.torn) {
            let sectors = flight.bytes.len() / SECTOR;
            flight.split = Some(self.random.index(sectors) * SECTOR);
            let second = lands + self.random.below(50 * MS);
            self.at(second, Event::Land(id, true));
            flight.landings += 1;
            told = second;
            self.seen.note(Sight::Torn);
        }
        if let Some(landing) = landing {
            flight.late = landing > told;
            flight.landings += 1;
            flight.together = landing == told;
            if !flight.together {
                self.at(landing, Event::Land(id, false));
            }
        }
        self.flights.insert(id, flight);
        self.at(told, Event::Told(id));
    }

    pub(super) fn on_land(&mut self, id: u64, second: bool) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        flight.landings -= 1;
        if !flight.write {
            let length = flight.bytes.len();
            flight.bytes = self.disk.read(flight.volume, flight.offset, length);
            return;
        }
        let (from, to) = match (flight.split, second) {
            (None, _) => (0, flight.bytes.len()),
            (Some(split), false) => (0, split),
            (Some(split), true) => (split, flight.bytes.len()),
        };
        let bytes = &flight.bytes[from..to];
        self.disk.write(flight.volume, flight.offset + from, bytes);
        if flight.late {
            self.seen.note(Sight::Late);
        }
        let of = &self.machines[flight.machine];
        if of.life != flight.life {
            self.seen.note(Sight::Posthumous);
        }
        let (machine, late, volume, offset) =
            (flight.machine, flight.late, flight.volume, flight.offset);
        if late && flight.landings == 0 {
            self.flights.remove(&id);
        }
        if self.trace.is_kept() {
            let what = format!("{volume:?} {offset}{}", if late { " late" } else { "" });
            self.tell_of(machine, "lands", format_args!("{what}"));
        }
    }

    pub(super) fn on_told(&mut self, id: u64) {
        if self.flights.get(&id).is_some_and(|flight| flight.together) {
            self.on_land(id, false);
        }
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        let (machine, life, core) = (flight.machine, flight.life, flight.core);
        let (tenure, io, told, write) = (flight.tenure, flight.io, flight.told, flight.write);
        let bytes = if write {
            Vec::new()
        } else {
            std::mem::take(&mut flight.bytes)
        };
        if flight.landings == 0 || !write {
            self.flights.remove(&id);
        }
        let of = &mut self.machines[machine];
        if of.life != life || !of.up {
            return;
        }
        let outcome = match told {
            Told::Well if write => IoOutcome::Written,
            Told::Well => IoOutcome::Read(&bytes),
            Told::Failed => IoOutcome::Failed(5),
            Told::Unknown => IoOutcome::Unknown,
        };
        let (now, time) = (self.now, mailbox::Monotonic(self.now));
        match core {
            Core::Host => match &mut of.host {
                Some(AnyHost::Ours(host)) => host.handle(time, host::Input::Io(io, outcome)),
                Some(AnyHost::Original(host)) => host.on_io(now, outcome),
                None => {}
            },
            Core::Manager => match &mut of.manager {
                Some(manager) if manager.tenure() != tenure => return,
                Some(AnyManager::Ours(_, manager)) => {
                    manager.handle(time, manager::Input::Io(io, outcome));
                }
                Some(AnyManager::Original(_, spm)) => spm.on_io(now, io, outcome),
                None => {}
            },
            Core::Spm | Core::Sdm(_) => {}
        }
        self.drain(machine, core);
    }

    /// What is on its way when a process dies: it may still land, or not.
    pub(super) fn orphan(&mut self, machine: usize) {
        let ids: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.machine == machine)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if self.random.chance(500) {
                self.flights.remove(&id);
            }
        }
    }
}
