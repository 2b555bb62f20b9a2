//! The snapshot in the words of the status: a [`LockspaceReport`] whose
//! `reason` tells an operator what is wrong and what to do.

use control::status::{HostReport, HostState, LockspaceReport, LockspaceState};
use disk_format::HostId;
use lease::hosts::{Belief, Host};
use lease::{Failure, Loss, Monotonic, State, Status};

use crate::options::Options;
use crate::shared::{Joining, Snapshot};

/// Nothing is said about something that takes less, milliseconds.
const PATIENCE_MS: u64 = 3000;

/// The status at `now`, on the boot-time clock.
pub(crate) fn report(options: &Options, snapshot: &Snapshot, now: Monotonic) -> LockspaceReport {
    let status = &snapshot.status;
    let holds = matches!(status.state, State::Held | State::Failing);
    let hosts = snapshot
        .hosts
        .iter()
        .map(|(id, host)| host_report(options, *id, host, holds, now))
        .collect();
    LockspaceReport {
        name: options.lockspace.to_string(),
        path: options.path.display().to_string(),
        offset: options.offset,
        sector_size: snapshot.geometry.map(|geometry| geometry.sector_size()),
        align_size: snapshot.geometry.map(|geometry| geometry.align_size()),
        host_id: u32::from(options.host_id.get()),
        host_name: options.host_name.to_string(),
        state: match status.state {
            State::Waiting => LockspaceState::Waiting,
            State::Acquiring => LockspaceState::Acquiring,
            State::Busy => LockspaceState::Busy,
            State::Held => LockspaceState::Held,
            State::Failing => LockspaceState::Failing,
            State::Lost => LockspaceState::Lost,
            State::Released => LockspaceState::Released,
        },
        generation: status.generation.map(|generation| generation.0),
        io_timeout_s: u32::from(options.io_timeout_s),
        last_renewal_age_ms: status.last_renewal.map(|at| now.ms_since(at)),
        expires_in_ms: status.expires.map(|at| signed_ms(at, now)),
        renewals: status.renewals,
        renewal_failures: status.renewal_failures,
        reason: reason(options, snapshot, now),
        hosts,
    }
}

/// Milliseconds from `now` until `at`; negative when past.
fn signed_ms(at: Monotonic, now: Monotonic) -> i64 {
    let ahead = i64::try_from(at.ms_since(now)).unwrap_or(i64::MAX);
    let behind = i64::try_from(now.ms_since(at)).unwrap_or(i64::MAX);
    ahead - behind
}

fn host_report(
    options: &Options,
    id: HostId,
    host: &Host,
    holds: bool,
    now: Monotonic,
) -> HostReport {
    let state = match host.belief(now, options.fire_timeout_s) {
        _ if holds && id == options.host_id => HostState::Live,
        Belief::Free => HostState::Free,
        Belief::Unknown => HostState::Unknown,
        Belief::Live => HostState::Live,
        Belief::Fail => HostState::Fail,
        Belief::Dead => HostState::Dead,
    };
    HostReport {
        host_id: u32::from(id.get()),
        name: host.name.to_string(),
        generation: host.generation.0,
        timestamp: host.timestamp,
        state,
        last_change_age_ms: host.last_live.map(|at| now.ms_since(at)),
        io_timeout_s: u32::from(host.io_timeout_s),
    }
}

/// Why the lease is not held, or is in trouble; ends with the next step.
pub(crate) fn reason(options: &Options, snapshot: &Snapshot, now: Monotonic) -> Option<String> {
    let status = &snapshot.status;
    match status.state {
        State::Waiting => waiting(options, status, &snapshot.joining, now),
        State::Acquiring | State::Busy => status.rival.map(|rival| {
            let (name, generation) = (rival.name, rival.generation);
            let seen_s = now.ms_since(rival.seen) / 1000;
            let left_s = rival.dead_at.ms_since(now).div_ceil(1000);
            let id = options.host_id;
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
                format!("renewal fails: {trouble}; lost in {left_s} s: look at the paths to {}", options.path.display())
            });
            let watchdog = status.watchdog_gone.then(|| {
                "the watchdog's connection broke while the lease was held: expect this machine to be reset; \
                 move its work away"
                    .to_owned()
            });
            watchdog.or(trouble)
        }
        State::Lost => status.loss.map(|loss| lost(options, &loss)),
        State::Released => None,
    }
}

fn waiting(
    options: &Options,
    status: &Status,
    joining: &Joining,
    now: Monotonic,
) -> Option<String> {
    let path = options.path.display();
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
        (_, Some(failure)) => Some(format!(
            "{path}: {failure}; {}",
            next_step(options, &failure)
        )),
        (Joining::Opening { .. } | Joining::Draining { .. } | Joining::Open, None) => None,
    }
}

fn next_step(options: &Options, failure: &Failure) -> String {
    match failure {
        Failure::Record(_) => format!(
            "the sector of host id {} is damaged and was left alone: give this node another host_id, or initialise the lockspace anew",
            options.host_id
        ),
        Failure::ReadFailed(_)
        | Failure::ReadTimeout(_)
        | Failure::WriteFailed(_)
        | Failure::WriteTimeout(_)
        | Failure::Stalled => {
            "trying again; look at the paths to the device if it goes on".to_owned()
        }
        Failure::Watchdog => "trying again; look at what serves the watchdog's socket".to_owned(),
    }
}

/// What a loss means.
pub(crate) fn lost(options: &Options, loss: &Loss) -> String {
    let consequence = if options.watchdog_socket.is_some() {
        "the watchdog will reset this machine"
    } else {
        "there is no watchdog: stop whatever relies on the lease, and restart leased"
    };
    format!("{loss}; {consequence}")
}
