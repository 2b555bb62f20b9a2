//! What the renewing thread shares with the others: a snapshot of its state,
//! a queue of log lines, and two flags. It never waits for a lock on either:
//! a snapshot or a line that cannot be left at once is left later, or counted
//! as dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use disk_format::geometry::HOSTS_MAX;
use disk_format::{Geometry, HostId};
use heapless::Deque;
use lease::hosts::{Host, Hosts};
use lease::{DeltaLease, Monotonic, Note, Status};
use linux::disk::worker::Signal;

/// Lines kept when nobody drains them; further ones are counted, not kept.
const LINES_MAX: usize = 64;

/// Where an attempt to join stands, beyond what the lease itself knows.
#[derive(Debug, Clone)]
pub(crate) enum Joining {
    /// The helper is opening device and watchdog.
    Opening { since: Monotonic },
    /// It could not.
    Failed(Arc<str>),
    /// Requests to a device given up have not come back yet.
    Draining { since: Monotonic },
    /// Joined.
    Open,
}

/// The renewing thread's state at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    pub(crate) geometry: Option<Geometry>,
    pub(crate) joining: Joining,
    /// Never grows beyond what was allocated for it.
    pub(crate) hosts: Vec<(HostId, Host)>,
}

/// A line for the log, still in a form that needs no allocation.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    Note(Note),
    JoinFailed(Arc<str>),
    Joined(Geometry),
    WatchdogUnreachable(i32),
}

#[derive(Debug)]
pub(crate) struct Shared {
    snapshot: Mutex<Snapshot>,
    lines: Mutex<Deque<Line, LINES_MAX>>,
    dropped: AtomicU64,
    /// Raised when there are lines.
    pub(crate) lines_ready: Signal,
    /// Set when the lease is to be released.
    pub(crate) release: AtomicBool,
}

impl Shared {
    pub(crate) fn new(lease: &DeltaLease) -> Self {
        Self {
            snapshot: Mutex::new(Snapshot {
                status: lease.status(),
                geometry: None,
                joining: Joining::Opening {
                    since: Monotonic(linux::clock::boottime_ns()),
                },
                hosts: Vec::with_capacity(usize::from(HOSTS_MAX)),
            }),
            lines: Mutex::new(Deque::new()),
            dropped: AtomicU64::new(0),
            lines_ready: Signal::default(),
            release: AtomicBool::new(false),
        }
    }

    /// Leaves a snapshot; `false` when somebody is reading the last one.
    pub(crate) fn publish(
        &self,
        lease: &DeltaLease,
        hosts: &Hosts,
        geometry: Option<Geometry>,
        joining: &Joining,
    ) -> bool {
        let mut snapshot = match self.snapshot.try_lock() {
            Ok(snapshot) => snapshot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        snapshot.status = lease.status();
        snapshot.geometry = geometry;
        snapshot.joining.clone_from(joining);
        snapshot.hosts.clear();
        let room = snapshot.hosts.capacity();
        snapshot.hosts.extend(hosts.seen().take(room));
        true
    }

    /// Looks at the latest snapshot.
    pub(crate) fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a line, or counts it.
    pub(crate) fn tell(&self, line: Line) {
        let kept = match self.lines.try_lock() {
            Ok(mut lines) => lines.push_back(line).is_ok(),
            Err(_) => false,
        };
        if !kept {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.lines_ready.raise();
    }

    /// Takes the oldest line.
    pub(crate) fn next_line(&self) -> Option<Line> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// How many lines were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}
