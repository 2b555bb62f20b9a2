//! What other hosts tell us: our bit is set in the bitmap of a record that
//! changed (spec §5.2).
//!
//! The original delivers an event once for each renewal of its sender for as
//! long as the bit stays set. Here it is delivered once, and again only after
//! the bit was cleared or another event was sent in between.

use std::collections::BTreeMap;

use disk_format::{Generation, HostExtras, HostId};

use super::Changes;
use crate::time::Monotonic;

/// What another host wants of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It sent an event.
    Event {
        /// Sender.
        from: HostId,
        /// The sender's generation.
        from_generation: Generation,
        /// What it sent.
        extras: HostExtras,
    },
    /// It wrote a request for a lease we may hold.
    Request {
        /// Sender.
        from: HostId,
    },
}

/// Remembered of a host that has called us. At most one a host.
#[derive(Debug, Default)]
struct Caller {
    /// The event delivered last, while the bit stays set.
    event: Option<(Generation, HostExtras)>,
    last_request: Option<Monotonic>,
}

#[derive(Debug, Default)]
pub(super) struct Notices {
    callers: BTreeMap<HostId, Caller>,
}

impl Notices {
    /// Takes in a changed record: `call` is its extras if it has our bit.
    pub(super) fn take(
        &mut self,
        now: Monotonic,
        from: HostId,
        from_generation: Generation,
        call: Option<HostExtras>,
        request_after_s: u64,
        changes: &mut Changes,
    ) {
        let Some(extras) = call else {
            if let Some(caller) = self.callers.get_mut(&from) {
                caller.event = None;
            }
            return;
        };
        let caller = self.callers.entry(from).or_default();
        if extras.event != 0 && caller.event != Some((from_generation, extras)) {
            caller.event = Some((from_generation, extras));
            changes.notices.push(Notice::Event {
                from,
                from_generation,
                extras,
            });
        }
        // An event does not hide a request: both may be under way.
        let repeated = caller
            .last_request
            .is_some_and(|last| now < last.plus_s(request_after_s));
        if !repeated {
            caller.last_request = Some(now);
            changes.notices.push(Notice::Request { from });
        }
    }

    pub(super) fn last_request(&self, from: HostId) -> Option<Monotonic> {
        self.callers.get(&from)?.last_request
    }
}
