use control::status::{ConfigReport, PhaseState, Snapshot, WatchdogReport};

use super::boot::phase_state;
use super::{lease, network};
use crate::text::{Table, clean, count, duration, expiry, field, wrapped};

/// The status screen.
pub(crate) fn status(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let known = |text: &str, otherwise: &str| {
        if text.is_empty() {
            otherwise.to_owned()
        } else {
            clean(text)
        }
    };
    out.push_str(&format!(
        "{}  {}  up {}  version {}\n\n",
        known(&snapshot.hostname, "(no host name)"),
        known(&snapshot.phase, "phase not known"),
        duration(snapshot.uptime_ms),
        known(&snapshot.version, "not known"),
    ));
    if !snapshot.config.mistakes.is_empty() {
        out.push_str(&mistakes(&snapshot.config));
        out.push('\n');
    }
    field(&mut out, "config", &config(&snapshot.config));
    field(&mut out, "network", &network::summary(&snapshot.network));
    watchdog(&mut out, &snapshot.watchdog);
    match &snapshot.lockspace {
        Some(report) => {
            field(&mut out, "lockspace", &lease::summary(report));
            lease::hosts(&mut out, report);
            out.push('\n');
        }
        None => field(
            &mut out,
            "lockspace",
            "none, or its daemon has not answered yet",
        ),
    }
    boot(&mut out, snapshot);
    children(&mut out, snapshot);
    out
}

/// The refused configuration, impossible to overlook.
fn mistakes(config: &ConfigReport) -> String {
    let mut out = String::new();
    let from = config
        .source
        .as_deref()
        .map_or_else(String::new, |source| format!(" from {source}"));
    let title = format!(
        "CONFIGURATION{} REFUSED: {}, nothing of it is in force",
        from,
        count(config.mistakes.len(), "mistake")
    );
    wrapped(&mut out, "!! ", 3, &title);
    for mistake in &config.mistakes {
        wrapped(&mut out, "!!   ", 7, mistake);
    }
    wrapped(
        &mut out,
        "!! ",
        3,
        "correct it (nodectl config check FILE tells the same on any machine) and reboot",
    );
    out
}

fn config(config: &ConfigReport) -> String {
    match (&config.source, config.mistakes.is_empty()) {
        (Some(source), true) => source.clone(),
        (Some(source), false) => format!("{source}, refused"),
        (None, true) => {
            "none found; give one by fw_cfg, URL, a volume labelled HOLDFAST or the state volume"
                .to_owned()
        }
        (None, false) => "refused".to_owned(),
    }
}

fn watchdog(out: &mut String, report: &WatchdogReport) {
    let mut words = vec![if report.state.is_empty() {
        "not known".to_owned()
    } else {
        report.state.clone()
    }];
    if let Some(device) = &report.device {
        let identity = report
            .identity
            .as_deref()
            .map_or_else(String::new, |identity| format!(" ({identity})"));
        words.push(format!("{device}{identity}"));
    }
    if let Some(s) = report.fire_timeout_s {
        words.push(format!("resets after {s} s"));
    }
    if let Some(ms) = report.last_pet_age_ms {
        words.push(format!("last pet {} ago", duration(ms)));
    }
    words.extend(report.reason.clone());
    field(out, "watchdog", &words.join(", "));
    for client in &report.clients {
        let expiry = client
            .expires_in_ms
            .map_or_else(|| "no expiry".to_owned(), expiry);
        let gone = if client.connected {
            ""
        } else {
            ", connection gone"
        };
        field(
            out,
            "",
            &format!("{} (pid {}) {expiry}{gone}", client.name, client.pid),
        );
    }
}

fn boot(out: &mut String, snapshot: &Snapshot) {
    let open: Vec<_> = snapshot
        .boot
        .iter()
        .filter(|phase| !matches!(phase.state, PhaseState::Done | PhaseState::Skipped))
        .collect();
    let ended = snapshot
        .boot
        .iter()
        .filter_map(|phase| Some(phase.started_ms? + phase.took_ms?))
        .max();
    if snapshot.boot.is_empty() {
        field(out, "boot", "not known");
    } else if open.is_empty() {
        let when = ended.map_or_else(String::new, |ms| {
            format!(", {} after the kernel started", duration(ms))
        });
        field(
            out,
            "boot",
            &format!("{} ended{when}", count(snapshot.boot.len(), "phase")),
        );
    }
    for (index, phase) in open.iter().enumerate() {
        let label = if index == 0 { "boot" } else { "" };
        let reason = phase
            .reason
            .as_deref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        field(
            out,
            label,
            &format!("{} {}{reason}", phase.name, phase_state(phase.state)),
        );
    }
}

fn children(out: &mut String, snapshot: &Snapshot) {
    if snapshot.children.is_empty() {
        return;
    }
    let mut table = Table::new(
        12,
        &[2, 3, 4],
        &["name", "state", "pid", "restarts", "KiB", "last exit"],
    );
    for child in &snapshot.children {
        let number =
            |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        table.row([
            child.name.clone(),
            child.state.clone(),
            number(child.pid.map(u64::from)),
            child.restarts.to_string(),
            number(child.resident_kib),
            child.last_exit.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if let Some(kib) = snapshot.resident_kib {
        table.row(["supervisor", "-", "1", "-", &kib.to_string(), "-"].map(str::to_owned));
    }
    table.draw(out, "children");
}
