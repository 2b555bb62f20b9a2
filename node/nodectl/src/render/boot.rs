use control::status::{PhaseReport, PhaseState};

use crate::text::{Table, duration, wrapped};

/// The boot phases as a table, the reason of a failed or skipped one below it.
pub(crate) fn boot(phases: &[PhaseReport]) -> String {
    let heads = [
        "phase",
        "state",
        "start",
        "took",
        "deadline",
        "on failure",
        "needs",
    ];
    let mut table = Table::new(0, &[2, 3, 4], &heads);
    for phase in phases {
        let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), duration);
        table.row([
            phase.name.clone(),
            phase_state(phase.state).to_owned(),
            time(phase.started_ms),
            time(phase.took_ms),
            duration(phase.deadline_ms),
            phase.on_failure.clone(),
            phase.needs.join(" "),
        ]);
    }
    let mut out = String::new();
    table.draw(&mut out, "");
    let explained: Vec<_> = phases
        .iter()
        .filter_map(|phase| Some((phase, phase.reason.as_deref()?)))
        .collect();
    if !explained.is_empty() {
        out.push('\n');
    }
    for (phase, reason) in explained {
        wrapped(
            &mut out,
            &format!("{} {}: ", phase.name, phase_state(phase.state)),
            4,
            reason,
        );
    }
    out
}

/// The word for a phase's state, the one `--json` uses.
pub(crate) fn phase_state(state: PhaseState) -> &'static str {
    match state {
        PhaseState::Waiting => "waiting",
        PhaseState::Running => "running",
        PhaseState::Done => "done",
        PhaseState::Failed => "failed",
        PhaseState::Skipped => "skipped",
    }
}
