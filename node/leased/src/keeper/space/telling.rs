//! What the owner is told of a lockspace, each thing once, and the status it
//! may look at.

use std::sync::Arc;

use disk_format::Generation;
use heapless::Deque;
use lease::code::Code;
use lease::{State, Status};

use super::{BACK_OFF_S, EVENTS_MAX, Space, Wanted};
use crate::keeper::Event;
use crate::keeper::outbox::Message;
use crate::keeper::worker::Edges;

impl Space {
    pub(super) fn tell_held(&mut self, status: &Status) {
        self.back_off_s = BACK_OFF_S.0;
        if !self.told.joined
            && let (Some(opened), Some(claim)) = (&self.opened, self.lease.stamped())
        {
            self.told.joined = true;
            // The owner has seen nothing of the others yet.
            self.last_whole = None;
            self.tasks = None;
            let event = Event::Joined {
                geometry: opened.geometry,
                generation: status.generation.unwrap_or(Generation(0)),
                device: Arc::clone(&opened.device),
                timestamp_s: claim.0,
                submitted: claim.1,
            };
            self.event(event);
        }
        let failing = status.state == State::Failing;
        if failing && !self.told.failing {
            self.event(Event::Failing);
        }
        self.told.failing = failing;
    }

    pub(super) fn tell_lost(&mut self, status: &Status) {
        let code = status.loss.map_or(Code::ERROR, |loss| loss.code());
        if self.told.lost.is_none() {
            self.told.lost = Some(code);
            self.event(Event::Lost {
                code,
                last_success: status.last_renewal.unwrap_or(self.began),
            });
        }
        match self.wanted {
            Wanted::Kept => {}
            Wanted::Left => self.finish(code, None),
            Wanted::Abandoned => self.finish(Code::OK, None),
        }
    }

    pub(super) fn tell_released(&mut self) {
        if self.busy {
            let (id, path) = (self.join.host_id, self.join.path.display());
            let reason = format!(
                "{path}: host id {id} is held by another host, which is alive; use another host id, or stop that host"
            );
            self.finish(Code::HOSTID_BUSY, Some(reason.into()));
        } else {
            self.finish(Code::OK, None);
        }
    }

    pub(super) fn tell_renewals(&mut self) {
        let status = self.lease.status();
        if let Some(renewal) = status.latest_renewal
            && status.renewals != self.told.renewals
        {
            self.event(Event::Renewed(renewal));
        }
        self.told.renewals = status.renewals;
        if let Some(trouble) = status.trouble
            && status.renewal_failures > self.told.failures
        {
            self.event(Event::RenewalFailed {
                code: trouble.code(),
                attempts: status.renewal_failures - self.told.failures,
            });
        }
        self.told.failures = status.renewal_failures;
    }

    /// The last event: the lockspace is forgotten with it. A join that was
    /// given up on request has no reason of its own.
    pub(super) fn finish(&mut self, code: Code, reason: Option<Arc<str>>) {
        if self.told.over {
            return;
        }
        self.told.over = true;
        self.reading = None;
        let lost = self.told.lost.is_some();
        let event = match reason {
            _ if self.told.joined || lost || self.join.persistent => Event::Left { code },
            Some(reason) => Event::JoinFailed { code, reason },
            None => Event::JoinFailed {
                code: Code::ERROR,
                reason: Arc::from("joining was given up on request"),
            },
        };
        self.event(event);
    }

    pub(super) fn event(&mut self, event: Event) {
        if self.events.is_full() {
            // Whoever takes no events for so long learns of renewals from the
            // status.
            let mut kept = Deque::<Event, EVENTS_MAX>::new();
            while let Some(event) = self.events.pop_front() {
                let made_up_for = matches!(
                    event,
                    Event::Renewed(_) | Event::RenewalFailed { .. } | Event::Failing
                );
                if !made_up_for {
                    kept.push_back(event).ok();
                }
            }
            self.events = kept;
        }
        assert!(
            self.events.push_back(event).is_ok(),
            "few events of a lockspace must be told, each once"
        );
    }

    pub(super) fn deliver(&mut self, edges: &mut Edges) {
        while let Some(event) = self.events.pop_front() {
            match edges.outbox.put(Message::Event(self.join.id, event)) {
                Ok(()) => {}
                Err(Message::Event(_, event)) => {
                    // It was just taken from there.
                    self.events.push_front(event).ok();
                    return;
                }
                Err(Message::Gone(_) | Message::Unclaimed(_)) => return,
            }
        }
    }

    pub(super) fn publish(&mut self) {
        self.published = match self.board.try_write() {
            None => false,
            Some(mut board) => {
                board.lease = self.lease.status();
                board.joining.clone_from(&self.joining);
                if let Some(opened) = &self.opened {
                    board.geometry = Some(opened.geometry);
                    board.request_kib = opened.request_kib;
                }
                true
            }
        };
    }
}
