//! Where a lockspace stands, for whoever asks; and in words, with what to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use disk_format::Geometry;
use lease::{Failure, Loss, Monotonic, State, Status};

use super::{Join, now};

/// Nothing is said about something that takes less, milliseconds.
const PATIENCE_MS: u64 = 3000;

/// Where joining stands, beyond what the lease itself knows.
#[derive(Debug, Clone)]
pub enum Joining {
    /// Device and watchdog are being opened.
    Opening {
        /// Since when, on the boot-time clock.
        since: Monotonic,
    },
    /// They could not be.
    Failed(Arc<str>),
    /// Requests to a device given up have not come back yet.
    Draining {
        /// Since when, on the boot-time clock.
        since: Monotonic,
    },
    /// Open.
    Open,
}

/// A lockspace at one moment.
#[derive(Debug, Clone)]
pub struct SpaceStatus {
    /// Its lease.
    pub lease: Status,
    /// Its geometry, once found.
    pub geometry: Option<Geometry>,
    /// How far joining has come.
    pub joining: Joining,
    /// Largest request its block device was told to make, KiB; `None`: it was
    /// not told.
    pub request_kib: Option<u32>,
}

/// A status that the keeper leaves and others look at.
#[derive(Debug)]
pub(super) struct Board(Mutex<SpaceStatus>);

impl Board {
    pub(super) fn new(lease: Status) -> Self {
        Self(Mutex::new(SpaceStatus {
            lease,
            geometry: None,
            joining: Joining::Opening {
                since: now().boottime,
            },
            request_kib: None,
        }))
    }

    pub(super) fn read(&self) -> SpaceStatus {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// To write on; `None` while somebody reads.
    pub(super) fn try_write(&self) -> Option<MutexGuard<'_, SpaceStatus>> {
        match self.0.try_lock() {
            Ok(status) => Some(status),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// Why the lease is not held, or is in trouble; ends with the next step.
#[must_use]
pub fn reason(join: &Join, space: &SpaceStatus, now: Monotonic) -> Option<String> {
    let status = &space.lease;
    match status.state {
        State::Waiting => waiting(join, status, &space.joining, now),
        State::Acquiring | State::Busy => status.rival.map(|rival| {
            let (name, generation) = (rival.name, rival.generation);
            let seen_s = now.ms_since(rival.seen) / 1000;
            let left_s = rival.dead_at.ms_since(now).div_ceil(1000);
            let id = join.host_id;
            if rival.renewed {
                format!(
                    "host id {id} is held by \"{name}\" (generation {generation}), seen renewing {seen_s} s ago; \
                     give this node another host_id, or stop that host"
                )
            } else {
                format!(
                    "host id {id} was left held by \"{name}\" (generation {generation}), no sign of life for {seen_s} s; \
                     taking it over in {left_s} s unless it shows one"
                )
            }
        }),
        State::Held | State::Failing => {
            let trouble = status.trouble.map(|trouble| {
                let left_s = status.expires.map_or(0, |at| at.ms_since(now) / 1000);
                format!(
                    "renewal fails: {trouble}; lost in {left_s} s: look at the paths to {}",
                    join.path.display()
                )
            });
            let watchdog = status.watchdog_gone.then(|| {
                "the watchdog's connection broke while the lease was held: expect this machine to be reset; \
                 move its work away"
                    .to_owned()
            });
            watchdog.or(trouble)
        }
        State::Lost => status.loss.map(|loss| lost(join, &loss)),
        State::Released => None,
    }
}

fn waiting(join: &Join, status: &Status, joining: &Joining, now: Monotonic) -> Option<String> {
    let path = join.path.display();
    let stuck = |since: Monotonic| now.ms_since(since) > PATIENCE_MS;
    match (joining, status.failure) {
        (Joining::Failed(reason), _) => Some(reason.to_string()),
        (Joining::Draining { since }, _) if stuck(*since) => Some(format!(
            "{path}: a request has not come back for {} s; look at the paths to the device",
            now.ms_since(*since) / 1000
        )),
        (Joining::Opening { since }, _) if stuck(*since) => Some(format!(
            "{path}: opening it and the watchdog has taken {} s so far; look at the paths to the device",
            now.ms_since(*since) / 1000
        )),
        (_, Some(failure)) => Some(failed(join, &failure)),
        (Joining::Opening { .. } | Joining::Draining { .. } | Joining::Open, None) => None,
    }
}

/// What a failed attempt means.
pub(super) fn failed(join: &Join, failure: &Failure) -> String {
    let next_step = match failure {
        Failure::Record(_) => format!(
            "the sector of host id {} is damaged and was left alone: give this node another host_id, or initialise the lockspace anew",
            join.host_id
        ),
        Failure::ReadFailed(_)
        | Failure::ReadTimeout(_)
        | Failure::WriteFailed(_)
        | Failure::WriteTimeout(_)
        | Failure::Stalled => {
            "trying again; look at the paths to the device if it goes on".to_owned()
        }
        Failure::Watchdog => "trying again; look at what serves the watchdog's socket".to_owned(),
    };
    format!("{}: {failure}; {next_step}", join.path.display())
}

/// What a loss means.
pub(super) fn lost(join: &Join, loss: &Loss) -> String {
    let consequence = if join.watchdog.is_some() {
        "the watchdog will reset this machine"
    } else {
        "there is no watchdog: stop whatever relies on the lease, and restart leased"
    };
    format!("{loss}; {consequence}")
}
