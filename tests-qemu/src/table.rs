//! The live table of the demo: one row a node, drawn from the latest views.

use std::time::Instant;

use control::status::Snapshot;

use crate::stage::View;

const HEADINGS: [&str; 9] = [
    "node",
    "phase",
    "bridge",
    "lockspace",
    "host id",
    "generation",
    "renewed",
    "watchdog",
    "believes",
];

/// The rows of the table, without headings. `now` decides the ages; without it
/// they are left out, so that equal rows mean that nothing happened.
#[must_use]
pub fn rows(views: &[View], now: Option<Instant>) -> Vec<[String; 9]> {
    views
        .iter()
        .enumerate()
        .map(|(index, view)| row(index, view, now))
        .collect()
}

/// The table as text, columns aligned, one line a row.
#[must_use]
pub fn draw(views: &[View], now: Instant) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows(views, Some(now)));
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    lines
        .iter()
        .map(|line| {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}

fn row(index: usize, view: &View, now: Option<Instant>) -> [String; 9] {
    let mut cells = [const { String::new() }; 9];
    cells[0] = format!("node{}", index + 1);
    cells[1..].fill("-".to_owned());
    if !view.powered {
        cells[1] = "power off".to_owned();
        return cells;
    }
    let Some((at, snapshot)) = &view.status else {
        cells[1] = "starting".to_owned();
        return cells;
    };
    let waited_ms = now.map(|now| {
        u64::try_from(now.saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX)
    });
    cells[1].clone_from(&snapshot.phase);
    if let (Some(waited_ms), true) = (waited_ms, waited_ms.is_some_and(|waited| waited > 10_000)) {
        cells[1] = format!("silent {} s", waited_ms / 1000);
    }
    cells[2] = snapshot
        .network
        .addresses
        .first()
        .cloned()
        .unwrap_or_else(|| snapshot.network.state.clone());
    cells[7] = watchdog(snapshot);
    let Some(lockspace) = &snapshot.lockspace else {
        return cells;
    };
    cells[3] = format!("{} {}", lockspace.name, lockspace.state.word());
    cells[4] = lockspace.host_id.to_string();
    if let Some(generation) = lockspace.generation {
        cells[5] = generation.to_string();
    }
    if let (Some(age), Some(waited)) = (lockspace.last_renewal_age_ms, waited_ms) {
        cells[6] = format!("{} s ago", (age + waited) / 1000);
    }
    let beliefs: Vec<String> = lockspace
        .hosts
        .iter()
        .filter(|host| host.host_id != lockspace.host_id)
        .map(|host| {
            format!(
                "{}: {} (gen {})",
                host.host_id,
                host.state.word(),
                host.generation
            )
        })
        .collect();
    if !beliefs.is_empty() {
        cells[8] = beliefs.join(", ");
    }
    cells
}

fn watchdog(snapshot: &Snapshot) -> String {
    match snapshot.watchdog.fire_timeout_s {
        Some(seconds) => format!("{}, {seconds} s", snapshot.watchdog.state),
        None => snapshot.watchdog.state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control::status::{
        HostReport, HostState, LockspaceReport, LockspaceState, NetworkReport, WatchdogReport,
    };

    use super::*;

    fn held(at: Instant) -> View {
        let snapshot = Snapshot {
            phase: "ready".to_owned(),
            network: NetworkReport {
                addresses: vec!["192.168.77.11/24".to_owned()],
                ..NetworkReport::default()
            },
            watchdog: WatchdogReport {
                state: "armed".to_owned(),
                fire_timeout_s: Some(60),
                ..WatchdogReport::default()
            },
            lockspace: Some(LockspaceReport {
                name: "demo".to_owned(),
                host_id: 1,
                state: LockspaceState::Held,
                generation: Some(3),
                last_renewal_age_ms: Some(2_000),
                hosts: vec![HostReport {
                    host_id: 2,
                    generation: 7,
                    state: HostState::Fail,
                    ..HostReport::default()
                }],
                ..LockspaceReport::default()
            }),
            ..Snapshot::default()
        };
        View {
            powered: true,
            status: Some((at, snapshot)),
            record: None,
        }
    }

    #[test]
    fn a_row_shows_everything_the_node_says_with_ages_as_of_now() {
        let at = Instant::now();
        let text = draw(&[held(at), View::default()], at + Duration::from_secs(4));
        let expected = "\
node   phase      bridge            lockspace  host id  generation  renewed  watchdog     believes
node1  ready      192.168.77.11/24  demo held  1        3           6 s ago  armed, 60 s  2: fail (gen 7)
node2  power off  -                 -          -        -           -        -            -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_node_that_stopped_answering_is_called_silent() {
        let at = Instant::now();
        assert!(draw(&[held(at)], at + Duration::from_secs(25)).contains("silent 25 s"));
    }

    #[test]
    fn rows_without_ages_are_equal_while_nothing_happens() {
        let at = Instant::now();
        let later = held(at + Duration::from_secs(20));
        assert_eq!(rows(&[held(at)], None), rows(&[later], None));
    }
}
