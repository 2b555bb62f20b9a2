use control::status::{HostReport, LockspaceReport, LockspaceState};

use crate::text::{Table, ago, count, duration, expiry, field, size};

/// Every lockspace: where we stand, then what we believe of each host.
pub(crate) fn lockspaces(reports: &[LockspaceReport]) -> String {
    if reports.is_empty() {
        return "no lockspace: the configuration names none\n".to_owned();
    }
    let mut out = String::new();
    for (index, report) in reports.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        field(&mut out, "lockspace", &summary(report));
        let geometry = match (report.sector_size, report.align_size) {
            (Some(sector), Some(area)) => {
                format!(", sectors of {sector} bytes, area of {}", size(area.into()))
            }
            (_, _) => String::new(),
        };
        field(
            &mut out,
            "disk",
            &format!("{} at offset {}{geometry}", report.path, report.offset),
        );
        field(
            &mut out,
            "renewals",
            &format!(
                "{} since acquired, {} failed, io timeout {} s",
                report.renewals, report.renewal_failures, report.io_timeout_s
            ),
        );
        hosts(&mut out, report);
    }
    out
}

/// The table of hosts, our own marked.
pub(super) fn hosts(out: &mut String, report: &LockspaceReport) {
    if report.hosts.is_empty() {
        field(out, "hosts", "none seen yet");
        return;
    }
    let mut table = Table::new(
        0,
        &[0, 1],
        &["host", "generation", "state", "last change", "name"],
    );
    for host in &report.hosts {
        table.row([
            host.host_id.to_string(),
            host.generation.to_string(),
            host.state.word().to_owned(),
            ago(host.last_change_age_ms),
            format!("{}{}", host.name, own_mark(host, report)),
        ]);
    }
    out.push('\n');
    table.draw(out, "");
}

fn own_mark(host: &HostReport, report: &LockspaceReport) -> &'static str {
    let ours = host.host_id == report.host_id;
    // A busy host id shows somebody else in our slot.
    if ours && host.name == report.host_name {
        " (this node)"
    } else if ours {
        " (in our place)"
    } else {
        ""
    }
}

/// One sentence on our own lease.
pub(super) fn summary(report: &LockspaceReport) -> String {
    let mut words = vec![format!(
        "{}, {} as host {}",
        report.state.word(),
        report.name,
        report.host_id
    )];
    if !report.host_name.is_empty() {
        words.push(format!("name {}", report.host_name));
    }
    if let Some(generation) = report.generation {
        words.push(format!("generation {generation}"));
    }
    if let Some(age) = report.last_renewal_age_ms {
        words.push(format!("renewed {} ago", duration(age)));
    }
    if let Some(expires) = report.expires_in_ms {
        words.push(expiry(expires));
    }
    match report.renewal_failures {
        0 => {}
        1.. if report.state == LockspaceState::Failing => {
            let failures = usize::try_from(report.renewal_failures).unwrap_or(usize::MAX);
            words.push(count(failures, "failed renewal"));
        }
        1.. => {}
    }
    if let Some(reason) = &report.reason {
        words.push(reason.clone());
    }
    words.join(", ")
}
