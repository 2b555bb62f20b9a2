//! Two nodes share a lease. A process on node 1 holds it; node 2 is refused.
//! Node 1 loses its power, and node 2 gets the lease once node 1 is surely
//! dead, not before. Then a process on node 2 holds it and the LUN goes away:
//! the process is stopped before anybody else could get the lease, and the
//! watchdog resets the node.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use control::lease::LeaseReport;
use control::status::{LockspaceState, Snapshot};

use super::Context;
use crate::console::json_line;
use crate::document::Document;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};

const LOCKSPACE: &str = "guests";
const LEASE: &str = "guests:vm1";
const OFFSET: u64 = 2 << 20;
/// Seconds.
const IO_TIMEOUT_S: u32 = 2;
/// Nobody may have the lease so soon after the holder's last renewal: 8 T and
/// the time a watchdog needs to fire.
const DEAD: Duration = Duration::from_secs(8 * 2 + 60);

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lun = Lun::create(&context.directory.join("shared.lun"), 1, 8)?;
    lun.initialise(LOCKSPACE, IO_TIMEOUT_S)?;
    let start = |number: u8| {
        let document =
            Document::new(number).with_lockspace(LOCKSPACE, &lun, number.into(), IO_TIMEOUT_S);
        let spec = Spec::new(context.debug, number)
            .with_config(document.text())
            .with_lun(&lun)
            .with_shell();
        Node::start(spec, &context.directory)
    };
    let [first, second] = [start(1)?, start(2)?];
    for node in [&first, &second] {
        node.wait_status("lockspace held", BOOT_PATIENCE, held)?;
        node.wait_shell(0)?;
    }
    let place = format!("{LEASE} --path {} --offset {OFFSET}", lun.guest_path());
    first.command(&format!("lease create {place}"))?;
    let pid = hold(&first, &place)?;
    context.say(&format!("process {pid} of node 1 holds {LEASE}"));
    let owners = second.command(&format!("lease owners {place}"))?;
    ensure!(owners.contains("exclusive"), "owners on node 2: {owners}");
    let refused = second.shell(&format!("nodectl lease run {place} -- true 2>&1 || true"))?;
    ensure!(refused.contains("(-243)"), "node 2 is told: {refused}");
    context.say("node 2 is refused: the owner is alive");

    let age = lockspace_age(&first.status()?)?;
    let renewed = Instant::now().checked_sub(age).context("a boot ago")?;
    first.cut_power();
    context.say("power of node 1 cut");
    second.shell(&format!(
        "until nodectl lease run {place} -- true 2>/dev/null; do :; done"
    ))?;
    let after = renewed.elapsed();
    ensure!(
        after >= DEAD,
        "node 2 got the lease {after:?} after node 1's last renewal; allowed is {DEAD:?}"
    );
    context.say(&format!(
        "node 2 got the lease at most {:.1} s after node 1's last renewal (bound {} s)",
        after.as_secs_f64(),
        DEAD.as_secs()
    ));

    let pid = hold(&second, &place)?;
    let first_event = second.qmp.event_count();
    second.unplug("lun0")?;
    context.say(&format!("process {pid} of node 2 holds it; LUN taken away"));
    // The shell is asked from memory: the LUN carries nothing of the system.
    second.shell(&format!("while kill -0 {pid} 2>/dev/null; do :; done"))?;
    ensure!(
        !second
            .qmp
            .events_from(first_event)
            .iter()
            .any(|event| event.name == "RESET"),
        "node 2 was reset before its process was stopped"
    );
    context.say("the process was stopped");
    second.wait_watchdog(first_event, PATIENCE)?;
    second.wait_reset(first_event, PATIENCE)?;
    context.say("node 2 was reset by its watchdog");
    Ok(())
}

/// Starts a process that holds the lease; gives its id once it does.
fn hold(node: &Node, place: &str) -> Result<i32> {
    node.shell(&format!(
        "(nodectl lease run {place} -- tail -f /dev/null </dev/null >/dev/null 2>&1 &)"
    ))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = node.command("lease status --json")?;
        let line = json_line(&output).context("lease status --json: no JSON")?;
        let report: LeaseReport = serde_json::from_str(line).context("lease status --json")?;
        let holder = report
            .resources
            .iter()
            .find(|lease| lease.state == "held")
            .and_then(|lease| lease.pids.first());
        if let Some(pid) = holder {
            return Ok(*pid);
        }
        if Instant::now() >= deadline {
            bail!("no process holds {LEASE}: {line}");
        }
    }
}

fn held(snapshot: &Snapshot) -> bool {
    snapshot
        .lockspace
        .as_ref()
        .is_some_and(|lockspace| lockspace.state == LockspaceState::Held)
}

/// How long ago the node renewed.
fn lockspace_age(snapshot: &Snapshot) -> Result<Duration> {
    let age = snapshot
        .lockspace
        .as_ref()
        .and_then(|lockspace| lockspace.last_renewal_age_ms);
    Ok(Duration::from_millis(
        age.context("age of the last renewal")?,
    ))
}
