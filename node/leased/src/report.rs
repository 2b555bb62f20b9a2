//! A lockspace in the words of the status: a [`LockspaceReport`] whose
//! `reason` tells an operator what is wrong and what to do.

use control::status::{HostReport, HostState, LockspaceReport, LockspaceState};
use disk_format::HostId;
use lease::hosts::{Belief, Host, Hosts};
use lease::{Monotonic, State};

use crate::keeper::{Join, SpaceStatus, reason};

/// The status at `now`, on the boot-time clock.
#[must_use]
pub fn report(
    join: &Join,
    space: &SpaceStatus,
    hosts: Option<&Hosts>,
    now: Monotonic,
) -> LockspaceReport {
    let status = &space.lease;
    let holds = matches!(status.state, State::Held | State::Failing);
    let hosts = hosts
        .into_iter()
        .flat_map(Hosts::seen)
        .map(|(id, host)| host_report(join, id, &host, holds, now))
        .collect();
    LockspaceReport {
        name: join.name.to_string(),
        path: join.path.display().to_string(),
        offset: join.offset,
        sector_size: space.geometry.map(|geometry| geometry.sector_size()),
        align_size: space.geometry.map(|geometry| geometry.align_size()),
        host_id: u32::from(join.host_id.get()),
        host_name: join.host_name.to_string(),
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
        io_timeout_s: u32::from(join.io_timeout_s),
        last_renewal_age_ms: status.last_renewal.map(|at| now.ms_since(at)),
        expires_in_ms: status.expires.map(|at| signed_ms(at, now)),
        renewals: status.renewals,
        renewal_failures: status.renewal_failures,
        reason: reason(join, space, now),
        hosts,
    }
}

/// Milliseconds from `now` until `at`; negative when past.
fn signed_ms(at: Monotonic, now: Monotonic) -> i64 {
    let ahead = i64::try_from(at.ms_since(now)).unwrap_or(i64::MAX);
    let behind = i64::try_from(now.ms_since(at)).unwrap_or(i64::MAX);
    ahead - behind
}

fn host_report(join: &Join, id: HostId, host: &Host, holds: bool, now: Monotonic) -> HostReport {
    let state = match host.belief(now, join.fire_timeout_s) {
        _ if holds && id == join.host_id => HostState::Live,
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
