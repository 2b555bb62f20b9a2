//! Leases and waits as `nodectl` shows them.

use std::collections::BTreeMap;

use control::lease::{ResourceReport, WaitReport};
use disk_format::NameField;
use lease::Monotonic;

use super::Resources;
use super::view::{ListKind, ResourceStatus, Wait, WaitFor};

impl Resources {
    /// Every lease, by lockspace and name, and who waits for whom; ages and
    /// limits as of `now` on the boot-time clock.
    #[must_use]
    pub fn report(&self, now: Monotonic) -> (Vec<ResourceReport>, Vec<WaitReport>) {
        let mut leases: BTreeMap<(NameField, NameField), ResourceReport> = BTreeMap::new();
        for one in self.status() {
            let key = (*one.lockspace.field(), *one.resource.field());
            let pid = one.pid;
            leases
                .entry(key)
                .or_insert_with(|| report(&one, now))
                .pids
                .push(pid);
        }
        let waits = self.waits().iter().map(|one| wait(one, now)).collect();
        (leases.into_values().collect(), waits)
    }
}

fn report(one: &ResourceStatus, now: Monotonic) -> ResourceReport {
    ResourceReport {
        lockspace: one.lockspace.to_string(),
        name: one.resource.to_string(),
        disks: one
            .disks
            .iter()
            .map(|disk| format!("{}:{}", disk.path.as_path().display(), disk.offset))
            .collect(),
        state: match one.list {
            ListKind::Held => "held",
            ListKind::Add => "acquiring",
            ListKind::Remove => "releasing",
            ListKind::Orphan => "orphan",
        }
        .to_string(),
        shared: one.shared,
        lver: (one.lver > 0).then_some(one.lver),
        pids: Vec::new(),
        age_ms: now.ms_since(one.since),
        ballots: one.ballots,
        ios: one.metrics.reads + one.metrics.writes,
    }
}

fn wait(one: &Wait, now: Monotonic) -> WaitReport {
    let mut report = WaitReport {
        lockspace: one.lockspace.to_string(),
        resource: one.resource.to_string(),
        pid: one.pid,
        age_ms: now.ms_since(one.since),
        ..WaitReport::default()
    };
    match one.wait_for {
        WaitFor::Host {
            host_id,
            generation,
            until,
        } => {
            report.waits_for = "owner".to_string();
            report.owner_host_id = Some(u64::from(host_id.get()));
            report.owner_generation = Some(generation.0);
            report.at_most_ms = Some(until.ms_since(now));
        }
        WaitFor::Storage => report.waits_for = "disk".to_string(),
        WaitFor::Process { pid, until } => {
            report.waits_for = "process".to_string();
            report.owner_pid = pid;
            report.at_most_ms = until.map(|until| until.ms_since(now));
        }
    }
    report
}
