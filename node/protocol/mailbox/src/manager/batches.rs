//! What is to be extended: gathered, sent off domain by domain, answered.

use disk_format::vdsm::{DomainId, VolumeId};
use lease::Monotonic;

use super::{Flight, Manager, Stage};
use crate::mail::{Extend, Message};
use crate::seam::{Batch, BatchId, Committed, Effect, Note, Outcome, RequestId};
use crate::timings;

/// A volume, sorted by domain.
pub(super) type Key = (DomainId, VolumeId);

/// Somebody who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ticket {
    Mail {
        host: usize,
        slot: usize,
        extend: Extend,
    },
    Local(RequestId),
}

/// A volume that is to be larger, and everybody who wants that.
#[derive(Debug, Clone)]
pub(super) struct Want {
    /// The largest of their sizes.
    pub(super) size_mib: u32,
    pub(super) tickets: Vec<Ticket>,
    /// What each of them wants, in the same order.
    sizes: Vec<u32>,
    order: u64,
    urgent: bool,
    not_before: Monotonic,
    unknowns: u32,
}

impl Want {
    /// First those for whom a guest stands still, then in order of arrival.
    fn rank(&self) -> (bool, u64) {
        (!self.urgent, self.order)
    }

    fn merge(&mut self, other: Self) {
        self.size_mib = self.size_mib.max(other.size_mib);
        self.tickets.extend(other.tickets);
        self.sizes.extend(other.sizes);
        self.order = self.order.min(other.order);
        self.urgent |= other.urgent;
        self.not_before = self.not_before.max(other.not_before);
        self.unknowns = self.unknowns.max(other.unknowns);
    }
}

impl Manager {
    pub(super) fn on_local(&mut self, request: RequestId, extend: Extend, urgent: bool) {
        let refusal = match self.stage {
            Stage::Draining | Stage::Over => Some(Outcome::Stopped),
            Stage::Zeroing | Stage::Running => {
                if extend.size_mib == 0 {
                    Some(Outcome::Refused)
                } else if self.locals >= timings::LOCAL_MAX {
                    Some(Outcome::Full)
                } else {
                    None
                }
            }
        };
        if let Some(outcome) = refusal {
            return self
                .effects
                .push_back(Effect::Completed { request, outcome });
        }
        self.locals += 1;
        self.want(extend, Ticket::Local(request));
        if urgent && let Some(want) = self.pending.get_mut(&(extend.domain, extend.volume)) {
            want.urgent = true;
        }
        self.looking.active(self.now);
    }

    /// Somebody wants a volume to be so large.
    pub(super) fn want(&mut self, extend: Extend, ticket: Ticket) {
        if extend.size_mib == 0 {
            return self.reply(ticket, false);
        }
        let key = (extend.domain, extend.volume);
        // A commit under way that is large enough will do for this one too.
        let flying = self
            .flights
            .values_mut()
            .filter(|flight| flight.domain == extend.domain)
            .flat_map(|flight| &mut flight.wants)
            .find(|(flying, want)| *flying == key && want.size_mib >= extend.size_mib);
        if let Some((_, want)) = flying {
            want.tickets.push(ticket);
            want.sizes.push(extend.size_mib);
            return;
        }
        let order = self.next_want;
        self.next_want += 1;
        let want = Want {
            size_mib: extend.size_mib,
            tickets: vec![ticket],
            sizes: vec![extend.size_mib],
            order,
            urgent: false,
            not_before: self.now,
            unknowns: 0,
        };
        self.put_back(key, want);
    }

    fn put_back(&mut self, key: Key, want: Want) {
        match self.pending.get_mut(&key) {
            Some(pending) => pending.merge(want),
            None => {
                self.pending.insert(key, want);
            }
        }
    }

    /// Sends off everything that may be sent.
    pub(super) fn begin_batches(&mut self) {
        while self.flights.len() < self.config.commits_max {
            let first = self
                .pending
                .iter()
                .filter(|((domain, _), want)| self.may_go(*domain, want))
                .min_by_key(|(_, want)| want.rank());
            let Some(((domain, _), _)) = first else {
                return;
            };
            self.begin_batch(*domain);
        }
    }

    fn may_go(&self, domain: DomainId, want: &Want) -> bool {
        want.not_before <= self.now && !self.is_flying(domain)
    }

    fn is_flying(&self, domain: DomainId) -> bool {
        self.flights.values().any(|flight| flight.domain == domain)
    }

    /// When the next one could be sent, if only time is in the way.
    pub(super) fn next_batch_at(&self) -> Option<Monotonic> {
        if self.flights.len() >= self.config.commits_max {
            return None;
        }
        self.pending
            .iter()
            .filter(|((domain, _), _)| !self.is_flying(*domain))
            .map(|(_, want)| want.not_before)
            .min()
    }

    fn begin_batch(&mut self, domain: DomainId) {
        let whole = (domain, VolumeId::BLANK)..=(domain, VolumeId::from_bytes([0xff; 16]));
        let mut ready: Vec<(Key, (bool, u64))> = self
            .pending
            .range(whole)
            .filter(|(_, want)| want.not_before <= self.now)
            .map(|(key, want)| (*key, want.rank()))
            .collect();
        ready.sort_by_key(|(_, rank)| *rank);
        let mut wants = Vec::new();
        for (key, _) in ready {
            if wants.len() == timings::BATCH_MAX {
                break;
            }
            let Some(want) = self.pending.remove(&key) else {
                continue;
            };
            // Hosts may have taken their requests back meanwhile.
            if want.tickets.iter().any(|ticket| self.is_awaited(*ticket)) {
                wants.push((key, want));
            }
        }
        if wants.is_empty() {
            return;
        }
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let extends = wants.iter().map(|((domain, volume), want)| Extend {
            domain: *domain,
            volume: *volume,
            size_mib: want.size_mib,
        });
        self.effects.push_back(Effect::Extend(Batch {
            id,
            domain,
            extends: extends.collect(),
            urgent: wants.iter().any(|(_, want)| want.urgent),
        }));
        self.flights.insert(id, Flight { domain, wants });
    }

    pub(super) fn on_committed(&mut self, batch: BatchId, results: &[Committed]) {
        // Not there after the lease was lost, whatever the writer says.
        let Some(flight) = self.flights.remove(&batch) else {
            return;
        };
        let mut unknown = 0;
        for (index, (key, want)) in flight.wants.into_iter().enumerate() {
            match results.get(index).copied().unwrap_or(Committed::Unknown) {
                Committed::Done => {
                    for ticket in want.tickets {
                        self.reply(ticket, true);
                    }
                }
                Committed::Refused => self.refused(key, want),
                Committed::Unknown => {
                    unknown += 1;
                    self.unknown(key, want);
                }
            }
        }
        if unknown > 0 {
            self.note(Some(Note::CommitUnknown { extends: unknown }));
        }
    }

    /// Whoever wanted less may still get it.
    fn refused(&mut self, key: Key, want: Want) {
        for (ticket, size_mib) in want.tickets.into_iter().zip(want.sizes) {
            if size_mib == want.size_mib {
                self.reply(ticket, false);
            } else if self.stage == Stage::Running {
                let (domain, volume) = key;
                let extend = Extend {
                    domain,
                    volume,
                    size_mib,
                };
                self.want(extend, ticket);
            } else {
                self.leave(ticket);
            }
        }
    }

    fn unknown(&mut self, key: Key, mut want: Want) {
        want.unknowns += 1;
        if self.stage != Stage::Running {
            for ticket in want.tickets {
                self.leave(ticket);
            }
        } else if want.unknowns > timings::UNKNOWN_MAX {
            for ticket in want.tickets {
                self.reply(ticket, false);
            }
        } else {
            want.not_before = self.now.plus_ms(timings::UNKNOWN_PAUSE_MS);
            self.put_back(key, want);
        }
    }

    /// Leaves mail to the next SPM.
    fn leave(&mut self, ticket: Ticket) {
        self.answer_locals(&[ticket], Outcome::Stopped);
    }

    /// Whether somebody still waits.
    fn is_awaited(&self, ticket: Ticket) -> bool {
        match ticket {
            Ticket::Local(_) => true,
            Ticket::Mail { host, slot, extend } => {
                self.peers[host].asked(slot) == Message::Extend(extend).encode()
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, done: bool) {
        match ticket {
            Ticket::Local(_) => {
                let outcome = if done {
                    Outcome::Done
                } else {
                    Outcome::Refused
                };
                self.answer_locals(&[ticket], outcome);
            }
            Ticket::Mail { host, slot, extend } => {
                if !self.is_awaited(ticket) {
                    return;
                }
                let size_mib = if done { extend.size_mib } else { 0 };
                let message = Message::Extend(Extend { size_mib, ..extend });
                self.tell(host, slot, &message);
            }
        }
    }
}
