//! One lockspace, as the daemon sees it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk_format::{Generation, Geometry, HostBitmap, HostExtras, HostId, LockspaceName};
use lease::code::Code;
use lease::hosts::Hosts;
use lease::{Monotonic, timings};
use sanlock_wire::Lockspace;

use super::killing::Killing;
use crate::keeper::SpaceId;
use crate::resources::ReplyTo;

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its delta lease is being acquired.
    Adding,
    /// Joined; it may be dying all the same.
    Joined,
    /// `REM_LOCKSPACE`, or shutdown, has begun.
    Removing,
}

impl Phase {
    /// As `status` names the list.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Adding => "add",
            Self::Joined => "spaces",
            Self::Removing => "rem",
        }
    }
}

/// One entry of the renewal history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Renewed {
    pub(super) timestamp_s: u64,
    pub(super) read_ms: u64,
    pub(super) write_ms: u64,
    /// Attempts after it that ran into their time-out.
    pub(super) next_timeouts: u64,
    /// Attempts after it that failed otherwise.
    pub(super) next_errors: u64,
}

/// Whom our renewals call, and why.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// When each host's bit was set.
    pub(super) set: BTreeMap<HostId, Monotonic>,
    pub(super) event: HostExtras,
    pub(super) event_at: Option<Monotonic>,
}

impl Calls {
    /// The bits that are still set; those set for longer than `for_s` seconds
    /// are taken back.
    pub(super) fn bitmap(&mut self, now: Monotonic, for_s: u64) -> HostBitmap {
        self.set.retain(|_, since| since.plus_s(for_s) > now);
        let mut bitmap = HostBitmap::EMPTY;
        for host in self.set.keys() {
            bitmap.insert(*host);
        }
        bitmap
    }

    /// When the next bit is to be taken back.
    pub(super) fn deadline(&self, for_s: u64) -> Option<Monotonic> {
        self.set.values().min().map(|since| since.plus_s(for_s))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) id: SpaceId,
    pub(super) name: LockspaceName,
    pub(super) host_id: HostId,
    /// As asked for, without flags.
    pub(super) asked: Lockspace,
    pub(super) io_timeout_s: u8,
    /// Always joined; what is lost stays lost, and with the watchdog.
    pub(super) persistent: bool,
    pub(super) phase: Phase,
    /// Who waits for the end of adding, removing, either.
    pub(super) adders: Vec<ReplyTo>,
    pub(super) removers: Vec<ReplyTo>,
    pub(super) inquirers: Vec<ReplyTo>,
    pub(super) geometry: Option<Geometry>,
    pub(super) generation: Generation,
    pub(super) hosts: Option<Hosts>,
    /// When the last successful renewal was submitted.
    pub(super) last_success: Option<Monotonic>,
    /// Until when the delta lease counts, boot-time ns; 0: not any more. For
    /// those who work beside the loop.
    pub(super) valid_until: Arc<AtomicU64>,
    /// The keeper has given it up: nothing counts any more.
    pub(super) lost: Option<Code>,
    pub(super) killing: Option<Killing>,
    /// The keeper has been told to let go.
    pub(super) leaving: bool,
    pub(super) used: bool,
    pub(super) used_by_orphans: bool,
    pub(super) history: VecDeque<Renewed>,
    pub(super) acquire_result: Code,
    pub(super) renewal_result: Code,
    pub(super) corrupt_result: Code,
    pub(super) acquire_attempt_s: u64,
    pub(super) acquire_success_s: u64,
    pub(super) renewal_attempt_s: u64,
    pub(super) renewal_success_s: u64,
    pub(super) renewals: u64,
    pub(super) renewal_failures: u64,
    pub(super) calls: Calls,
    /// When the next of our bits is to be taken back.
    pub(super) calls_due: Option<Monotonic>,
    /// Largest request its device was told to make, KiB; 0: not told.
    pub(super) request_kib: u32,
    /// Connections that are told of events.
    pub(super) listeners: BTreeMap<u64, OwnedFd>,
    /// A resource index operation is under way.
    pub(super) indexing: bool,
}

impl Space {
    pub(super) fn new(id: SpaceId, name: LockspaceName, host_id: HostId, asked: Lockspace) -> Self {
        Self {
            id,
            name,
            host_id,
            asked,
            io_timeout_s: 0,
            persistent: false,
            phase: Phase::Adding,
            adders: Vec::new(),
            removers: Vec::new(),
            inquirers: Vec::new(),
            geometry: None,
            generation: Generation(0),
            hosts: None,
            last_success: None,
            valid_until: Arc::new(AtomicU64::new(0)),
            lost: None,
            killing: None,
            leaving: false,
            used: false,
            used_by_orphans: false,
            history: VecDeque::new(),
            acquire_result: Code(0),
            renewal_result: Code(0),
            corrupt_result: Code(0),
            acquire_attempt_s: 0,
            acquire_success_s: 0,
            renewal_attempt_s: 0,
            renewal_success_s: 0,
            renewals: 0,
            renewal_failures: 0,
            calls: Calls::default(),
            calls_due: None,
            request_kib: 0,
            listeners: BTreeMap::new(),
            indexing: false,
        }
    }

    /// Whether leases may be taken in it.
    pub(super) fn is_healthy(&self) -> bool {
        self.phase == Phase::Joined && self.lost.is_none() && self.killing.is_none()
    }

    /// The delta lease counts from this renewal on, or (`None`) not any more.
    pub(super) fn validate(&mut self, submitted: Option<Monotonic>) -> Monotonic {
        let until = submitted.map_or(Monotonic(0), |submitted| {
            submitted.plus_s(timings::lost_s(self.io_timeout_s))
        });
        self.valid_until.store(until.0, Ordering::Relaxed);
        until
    }

    /// Whether the delta lease was lost because its record was not ours any
    /// more, or not one at all.
    pub(super) fn is_corrupt(code: Code) -> bool {
        matches!(
            code,
            Code::RENEW_OWNER
                | Code::RENEW_DIFF
                | Code::LEADER_MAGIC
                | Code::LEADER_VERSION
                | Code::LEADER_SECTORSIZE
                | Code::LEADER_LOCKSPACE
                | Code::LEADER_CHECKSUM
        )
    }

    /// A renewal succeeded.
    pub(super) fn renewed(&mut self, renewal: &lease::Renewal, history_max: usize) {
        self.last_success = Some(renewal.submitted);
        self.renewal_result = Code::DONE;
        self.renewal_attempt_s = renewal.timestamp_s;
        self.renewal_success_s = renewal.timestamp_s;
        self.renewals += 1;
        if history_max == 0 {
            return;
        }
        while self.history.len() >= history_max {
            self.history.pop_front();
        }
        self.history.push_back(Renewed {
            timestamp_s: renewal.timestamp_s,
            read_ms: renewal.read_ms,
            write_ms: renewal.write_ms,
            ..Renewed::default()
        });
    }

    /// Renewal attempts failed.
    pub(super) fn renewal_failed(&mut self, code: Code, attempts: u64, mono_s: u64) {
        self.renewal_result = code;
        self.renewal_attempt_s = mono_s;
        self.renewal_failures += attempts;
        if Self::is_corrupt(code) {
            self.corrupt_result = code;
        }
        if let Some(latest) = self.history.back_mut() {
            if code == Code::AIO_TIMEOUT {
                latest.next_timeouts += attempts;
            } else {
                latest.next_errors += attempts;
            }
        }
    }
}
