//! What our own monitoring of a lockspace says about other hosts.

use disk_format::{Generation, HostId, LockspaceName};

use crate::hosts::Host;
use crate::time::Monotonic;
use crate::timings;

/// The monitoring of the lockspaces joined here.
pub trait Owners {
    /// What was seen of a host; `None` when the lockspace is not joined or the
    /// host was never looked at.
    fn observed(&self, lockspace: &LockspaceName, host: HostId) -> Option<Observed>;

    /// Whether the lockspace is joined here.
    fn is_joined(&self, lockspace: &LockspaceName) -> bool;
}

/// What was seen of one host (spec §3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Observed {
    /// Host id in its record.
    pub owner_id: u64,
    /// Its generation.
    pub generation: Generation,
    /// Its clock at its last renewal, seconds; 0 = free.
    pub timestamp: u64,
    /// Its I/O timeout, seconds; 0 = not known, ours stands in.
    pub io_timeout_s: u8,
    /// First look.
    pub first_check: Option<Monotonic>,
    /// Latest look.
    pub last_check: Option<Monotonic>,
    /// When the latest look had begun: no later than what it saw.
    pub last_asked: Option<Monotonic>,
    /// Latest look that showed a change.
    pub last_live: Option<Monotonic>,
    /// The latest look found no valid record: a timestamp of 0 then says
    /// nothing.
    pub damaged: bool,
}

impl From<&Host> for Observed {
    fn from(host: &Host) -> Self {
        Self {
            owner_id: host.owner_id,
            generation: host.generation,
            timestamp: host.timestamp,
            io_timeout_s: host.io_timeout_s,
            first_check: host.first_check,
            last_check: host.last_check,
            last_asked: host.last_asked,
            last_live: host.last_live,
            damaged: host.damaged,
        }
    }
}

impl Observed {
    /// Whether the host may still be running what it ran in `generation`: the
    /// rule for shared holders. Death needs evidence: a free record, a newer
    /// generation, or looks that went on for long enough after the last change.
    #[must_use]
    pub fn alive(&self, generation: Generation, own_io_timeout_s: u8, fire_timeout_s: u32) -> bool {
        if generation != self.generation {
            // Of a newer life than the one seen nothing is known yet.
            return generation > self.generation;
        }
        if self.timestamp == 0 && !self.damaged {
            return false;
        }
        let io_timeout_s = match self.io_timeout_s {
            0 => own_io_timeout_s,
            theirs => theirs,
        };
        let dead_s = timings::host_dead_s(io_timeout_s, fire_timeout_s);
        // Counted to our latest look, not to now: when our own looks have
        // stopped, we have seen nothing since.
        match (self.last_live.or(self.first_check), self.last_asked) {
            (Some(last), Some(asked)) => asked <= last.plus_s(dead_s),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(live_s: u64, check_s: u64) -> Observed {
        Observed {
            owner_id: 2,
            generation: Generation(3),
            timestamp: 77,
            io_timeout_s: 2,
            first_check: Some(Monotonic(0).plus_s(10)),
            last_check: Some(Monotonic(0).plus_s(check_s)),
            last_asked: Some(Monotonic(0).plus_s(check_s)),
            last_live: Some(Monotonic(0).plus_s(live_s)),
            damaged: false,
        }
    }

    #[test]
    fn a_shared_holder_is_dead_only_after_looks_that_went_on_long_enough() {
        let generation = Generation(3);
        assert!(seen(100, 176).alive(generation, 10, 60));
        assert!(!seen(100, 177).alive(generation, 10, 60));
        assert!(!seen(100, 101).alive(Generation(2), 10, 60), "older life");
        assert!(seen(100, 101).alive(Generation(4), 10, 60));
        let freed = Observed {
            timestamp: 0,
            ..seen(100, 101)
        };
        assert!(!freed.alive(generation, 10, 60));
        assert!(freed.alive(Generation(4), 10, 60), "joined again since");
        let wiped = Observed {
            damaged: true,
            ..freed
        };
        assert!(wiped.alive(generation, 10, 60), "wiped is not freed");
        let never = Observed {
            last_check: None,
            last_asked: None,
            last_live: None,
            first_check: None,
            ..seen(0, 0)
        };
        assert!(never.alive(generation, 10, 60), "no data is not death");
    }
}
