//! Machines without the watchdog of the other scenarios. With no hardware the
//! kernel's own timer takes its place. With none at all, or without the one
//! that the configuration names, no lease is taken and not one byte of the LUN
//! changes, unless the configuration says that it may go without.

use anyhow::{Result, ensure};
use control::status::{LockspaceState, PhaseState, Snapshot};

use super::Context;
use crate::document::Document;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, Spec};

const LOCKSPACE: &str = "dogs";
/// Keeps the chipset's watchdog from being found.
const NO_HARDWARE: &str = " module_blacklist=iTCO_wdt";
/// Keeps the kernel's timer away as well.
const NONE: &str = " module_blacklist=iTCO_wdt,softdog";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lun = Lun::create(&context.directory.join("shared.lun"), 1, 4)?;
    lun.initialise(LOCKSPACE, 2)?;
    let untouched = lun.digest()?;

    for (case, hardware, append, config) in [
        ("no watchdog", false, NONE, ""),
        (
            "another watchdog than the configured one",
            true,
            "",
            "\n[watchdog]\ndevice = \"/dev/watchdog7\"\n",
        ),
    ] {
        let node = start(context, &lun, hardware, append, config)?;
        let snapshot = node.wait_status(case, BOOT_PATIENCE, |snapshot| {
            phase(snapshot) == Some(PhaseState::Failed)
        })?;
        let leased = snapshot.boot.iter().find(|phase| phase.name == "leased");
        let reason = leased.and_then(|phase| phase.reason.clone());
        ensure!(
            reason
                .as_deref()
                .is_some_and(|reason| reason.contains("watchdog")),
            "{case}: leases refused for the reason {reason:?}"
        );
        ensure!(
            snapshot.phase == "degraded",
            "{case}: the node calls itself {}",
            snapshot.phase
        );
        node.cut_power();
        ensure!(
            lun.digest()? == untouched,
            "{case}: something was written to the LUN"
        );
        context.say(&format!("{case}: {}", reason.unwrap_or_default()));
    }

    let softdog = start(context, &lun, false, NO_HARDWARE, "")?;
    let snapshot = softdog.wait_status("lease held", BOOT_PATIENCE, held)?;
    ensure!(
        snapshot.watchdog.state == "armed"
            && snapshot
                .watchdog
                .identity
                .as_deref()
                .is_some_and(|identity| identity.contains("Software")),
        "the kernel's timer as watchdog: {:?}",
        snapshot.watchdog
    );
    softdog.cut_power();
    context.say("no hardware watchdog: the kernel's timer takes its place");

    let without = "\n[watchdog]\nrequired = false\n";
    let node = start(context, &lun, false, NONE, without)?;
    let snapshot = node.wait_status("lease held", BOOT_PATIENCE, held)?;
    ensure!(
        snapshot.watchdog.state == "absent",
        "no watchdog, yet it is {:?}",
        snapshot.watchdog
    );
    node.cut_power();
    context.say("no watchdog, and the configuration allows it: lease held");
    Ok(())
}

fn start(
    context: &Context<'_>,
    lun: &Lun,
    hardware: bool,
    append: &str,
    config: &str,
) -> Result<Node> {
    let document = Document::new(1).with_lockspace(LOCKSPACE, lun, 1, 2);
    let mut spec = Spec::new(context.release, 1)
        .with_config(document.text() + config)
        .with_lun(lun);
    spec.watchdog = hardware;
    spec.append.push_str(append);
    Node::start(spec, &context.directory)
}

/// Where the phase that starts the lease daemon stands.
fn phase(snapshot: &Snapshot) -> Option<PhaseState> {
    let phase = snapshot.boot.iter().find(|phase| phase.name == "leased");
    phase.map(|phase| phase.state)
}

fn held(snapshot: &Snapshot) -> bool {
    snapshot
        .lockspace
        .as_ref()
        .is_some_and(|lockspace| lockspace.state == LockspaceState::Held)
}
