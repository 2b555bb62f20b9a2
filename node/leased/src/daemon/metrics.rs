//! Numbers for people and monitoring, by a command of our own: the lockspaces
//! and their renewals, the leases, who waits for whom and until when.

use control::lease::{ClientReport, DaemonReport, LeaseReport, SpaceReport};
use control::status::{HostReport, HostState};
use lease::hosts::Belief;
use lease::{Monotonic, timings};

use super::space::{Phase, Space};
use super::{Daemon, now, status};
use crate::resources::ClientId;

impl Daemon {
    /// Everything, as one JSON document.
    pub(super) fn metrics(&self) -> Vec<u8> {
        let at = now().boottime;
        let (resources, waits) = self.resources.report(at);
        let report = LeaseReport {
            daemon: self.daemon_report(at),
            lockspaces: self
                .spaces
                .iter()
                .map(|space| self.space_report(space, at))
                .collect(),
            resources,
            waits,
            clients: self.client_reports(),
        };
        // Types of strings and numbers always have a JSON form.
        serde_json::to_vec(&report).unwrap_or_default()
    }

    fn daemon_report(&self, at: Monotonic) -> DaemonReport {
        DaemonReport {
            version: status::VERSION.to_owned(),
            host_name: self.host_name.to_string(),
            pid: std::process::id(),
            uptime_ms: at.ms_since(self.started),
            resident_kib: resident_kib(),
            io: self.disks.kind().to_owned(),
            connections: as_u64(self.clients.len()),
            requests: self.requests,
            refused: self.refused,
            io_in_flight: as_u64(self.disks.in_flight()),
        }
    }

    fn space_report(&self, space: &Space, at: Monotonic) -> SpaceReport {
        let latest = space.history.back();
        let age_ms = space.last_success.map(|last| at.ms_since(last));
        let failing_ms = timings::failing_s(space.io_timeout_s) * 1000;
        let state = match space.phase {
            _ if space.lost.is_some() => "lost",
            Phase::Adding => "joining",
            Phase::Removing => "leaving",
            Phase::Joined if age_ms.is_some_and(|age| age >= failing_ms) => "failing",
            Phase::Joined => "held",
        };
        let expires_in_ms = space.last_success.map(|last| {
            let until = last.plus_s(timings::lost_s(space.io_timeout_s));
            let ahead = i64::try_from(until.ms_since(at)).unwrap_or(i64::MAX);
            let past = i64::try_from(at.ms_since(until)).unwrap_or(i64::MAX);
            if ahead > 0 { ahead } else { -past }
        });
        let trouble = space.lost.or_else(|| {
            let failed = space.renewal_result.0 < 0;
            failed.then_some(space.renewal_result)
        });
        let users = self.resources.holders(&space.name);
        let killed = |(id, _, _): &(ClientId, i32, u32)| self.is_being_killed(*id);
        SpaceReport {
            name: space.name.to_string(),
            host_id: u64::from(space.host_id.get()),
            path: space.asked.disk.path.as_path().display().to_string(),
            offset: space.asked.disk.offset,
            state: state.to_owned(),
            generation: space.geometry.map(|_| space.generation.0),
            io_timeout_s: u32::from(space.io_timeout_s),
            sector_size: space.geometry.map(|geometry| geometry.sector_size()),
            align_size: space.geometry.map(|geometry| geometry.align_size()),
            last_renewal_age_ms: age_ms,
            expires_in_ms,
            renewals: space.renewals,
            renewal_failures: space.renewal_failures,
            read_ms: latest.map(|entry| entry.read_ms),
            write_ms: latest.map(|entry| entry.write_ms),
            slowest_ms: space
                .history
                .iter()
                .map(|entry| entry.read_ms + entry.write_ms)
                .max(),
            users: as_u64(users.count()),
            killing: as_u64(self.resources.holders(&space.name).filter(killed).count()),
            reason: trouble.map(|code| code.text().to_owned()),
            hosts: Self::host_reports(space, at),
        }
    }

    fn host_reports(space: &Space, at: Monotonic) -> Vec<HostReport> {
        let Some(hosts) = &space.hosts else {
            return Vec::new();
        };
        hosts
            .seen()
            .map(|(id, host)| HostReport {
                host_id: u32::from(id.get()),
                name: host.name.to_string(),
                generation: host.generation.0,
                timestamp: host.timestamp,
                state: match hosts.belief(id, at) {
                    Belief::Free => HostState::Free,
                    Belief::Unknown => HostState::Unknown,
                    Belief::Live => HostState::Live,
                    Belief::Fail => HostState::Fail,
                    Belief::Dead => HostState::Dead,
                },
                last_change_age_ms: host.last_live.map(|last| at.ms_since(last)),
                io_timeout_s: u32::from(host.io_timeout_s),
            })
            .collect()
    }

    fn client_reports(&self) -> Vec<ClientReport> {
        let mut reports = Vec::new();
        let mut last = ClientId(0);
        while let Some((id, client)) = self.clients.after(last) {
            last = id;
            if client.registered {
                reports.push(ClientReport {
                    pid: client.pid,
                    name: client.name.to_string(),
                    leases: as_u64(self.resources.client_leases(id)),
                    kills: client.kill_count,
                    killpath: client
                        .killpath
                        .as_ref()
                        .map(|killpath| String::from_utf8_lossy(&killpath.path).into_owned()),
                });
            }
        }
        reports.sort_by_key(|report| report.pid);
        reports
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn resident_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}
