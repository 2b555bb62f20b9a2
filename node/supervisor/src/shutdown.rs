//! Taking the machine down: a list of named phases like the boot's.
//!
//! The lease daemon is stopped after everything that might use a lease and
//! before the journal, so that its last words are kept. Every phase has a
//! deadline and nothing is worth waiting for beyond it.

use std::path::Path;
use std::time::Duration;

use linux::error::chain;
use linux::mount;
use linux::power::{self, Synced};

use crate::boot::sequence::OnFailure::Continue;
use crate::boot::sequence::{Outcome, Phase};
use crate::boot::steps;
use crate::config_source::STATE_MOUNT;
use crate::worker;

const fn phase(name: &'static str, needs: &'static [&'static str], seconds: u64) -> Phase {
    Phase {
        name,
        needs,
        deadline_ms: seconds * 1000,
        on_failure: Continue,
    }
}

/// Longest time dirty data may take to reach its devices.
const SYNC_DEADLINE: Duration = Duration::from_secs(20);

/// The shutdown. `leased`'s deadline covers the longest stop deadline of its table entry.
pub const SHUTDOWN: &[Phase] = &[
    phase("stop-consoles", &[], 10),
    phase("stop-storaged", &["stop-consoles"], 110),
    phase("stop-leased", &["stop-storaged"], 600),
    // Leases are released through their paths and sessions.
    phase("stop-paths", &["stop-leased"], 15),
    phase("stop-udevd", &["stop-paths"], 15),
    phase("save-seed", &["stop-leased"], 10),
    phase(
        "stop-journald",
        &["stop-leased", "stop-udevd", "save-seed"],
        15,
    ),
    phase("stop-strangers", &["stop-journald"], 10),
    phase("sync", &["stop-strangers"], 25),
    phase("unmount", &["sync"], 15),
];

/// Which child a stopping phase stops; `None` for phases that stop none.
#[must_use]
pub fn stops(phase: &str, child: &str) -> Option<bool> {
    match phase {
        "stop-consoles" => Some(child.starts_with("console-") || child.starts_with("shell-")),
        "stop-storaged" => Some(child == "storaged"),
        "stop-leased" => Some(child == "leased"),
        "stop-paths" => Some(child == "multipathd" || child == "iscsid"),
        "stop-udevd" => Some(child == "udevd"),
        "stop-journald" => Some(child == "journald"),
        _ => None,
    }
}

/// Runs the phases that stop no child.
pub async fn run(name: &'static str, state_mounted: bool) -> Outcome {
    let outcome = match name {
        "save-seed" if !state_mounted => return Outcome::Skipped("no state volume".to_owned()),
        "save-seed" => {
            on_thread(name, || {
                steps::save_seed().map_err(|error| error.to_string())
            })
            .await
        }
        "stop-strangers" => stop_strangers().await,
        "sync" => {
            on_thread(name, || match power::sync_bounded(SYNC_DEADLINE) {
                Synced::Done => Ok(()),
                Synced::TimedOut => Err(format!(
                    "dirty data did not reach its devices within {} s",
                    SYNC_DEADLINE.as_secs()
                )),
            })
            .await
        }
        "unmount" if !state_mounted => return Outcome::Skipped("no state volume".to_owned()),
        "unmount" => {
            on_thread(name, || {
                mount::unmount(Path::new(STATE_MOUNT)).map_err(|error| chain(&error))
            })
            .await
        }
        other => Err(format!("phase {other}: nobody knows how to run it")),
    };
    outcome.map_or_else(Outcome::Failed, |()| Outcome::Done)
}

async fn on_thread(
    name: &'static str,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    worker::run(name, work)
        .await
        .map_err(|error| error.to_string())
        .and_then(|done| done)
}

/// Whatever else still runs is asked to end, then made to.
async fn stop_strangers() -> Result<(), String> {
    // An error means that nobody is left to signal.
    if linux::process::signal_all(false).is_err() {
        return Ok(());
    }
    smol::Timer::after(Duration::from_millis(500)).await;
    linux::process::signal_all(true).ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::sequence::{Effect, Sequence};
    use crate::children::table;

    #[test]
    fn leases_are_released_after_everything_that_could_use_them_and_before_the_journal_ends() {
        let mut sequence = Sequence::new(SHUTDOWN);
        sequence.tick(0);
        let mut order = Vec::new();
        while let Some(effect) = sequence.next_effect() {
            if let Effect::Start(name) = effect {
                order.push(name);
                sequence.ended(
                    1,
                    name,
                    Outcome::Failed("to show that nothing is skipped".into()),
                );
            }
        }
        let at = |name: &str| order.iter().position(|&started| started == name).unwrap();
        assert_eq!(
            order.len(),
            SHUTDOWN.len(),
            "a failure skips nothing: {order:?}"
        );
        assert!(at("stop-consoles") < at("stop-leased"));
        assert!(at("stop-leased") < at("stop-journald"));
        assert!(at("sync") < at("unmount"));
    }

    #[test]
    fn every_child_of_the_table_is_stopped_by_exactly_one_phase() {
        for child in [
            table::journald().name,
            table::udevd().name,
            "leased".into(),
            table::console("ttyS0").name,
            table::shell("tty2").name,
        ] {
            let stoppers = SHUTDOWN
                .iter()
                .filter(|phase| stops(phase.name, &child) == Some(true))
                .count();
            assert_eq!(stoppers, 1, "{child}");
        }
    }
}
