//! The root disk is attached writable. The node works: it joins a lockspace,
//! renews, answers. Ctrl-Alt-Del restarts it, the power button ends it; both
//! times the lease is released on the disk first. At the end not one bit of the
//! root disk has changed.

use anyhow::{Context as _, Result, ensure};
use control::status::LockspaceState;

use super::Context;
use crate::document::Document;
use crate::lun::{self, Lun};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};

const LOCKSPACE: &str = "root";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lun = Lun::create(&context.directory.join("shared.lun"), 1, 4)?;
    lun.initialise(LOCKSPACE, 2)?;
    let root = context.directory.join("root.raw");
    std::fs::copy(&context.release.disk, &root).with_context(|| root.display().to_string())?;
    let before = lun::digest(&root)?;
    let document = Document::new(1).with_lockspace(LOCKSPACE, &lun, 1, 2);
    let mut spec = Spec::new(context.release, 1)
        .with_config(document.text())
        .with_lun(&lun);
    spec.root = Some((root.clone(), true));
    let node = Node::start(spec, &context.directory)?;
    let boot_id = held(&node, "")?;

    let first_event = node.qmp.event_count();
    node.press_ctrl_alt_del()?;
    node.wait_reset(first_event, PATIENCE)?;
    released(&lun, "Ctrl-Alt-Del")?;
    context.say("Ctrl-Alt-Del: lease released, machine restarted");

    held(&node, &boot_id)?;
    node.command("log -n 200")?;
    node.press_power()?;
    node.wait_off(PATIENCE)?;
    released(&lun, "the power button")?;
    context.say("power button: lease released, machine off");
    let after = lun::digest(&root)?;
    ensure!(
        before == after,
        "the root disk has changed: sha256 {before} before, {after} after"
    );
    context.say("the root disk is bit for bit what it was");
    std::fs::remove_file(&root).with_context(|| root.display().to_string())
}

/// Waits for the lease in a boot other than `not_boot`.
fn held(node: &Node, not_boot: &str) -> Result<String> {
    let snapshot = node.wait_status("lease held", BOOT_PATIENCE, |snapshot| {
        let held = snapshot
            .lockspace
            .as_ref()
            .is_some_and(|l| l.state == LockspaceState::Held && l.renewals > 0);
        held && snapshot.boot_id != not_boot
    })?;
    Ok(snapshot.boot_id)
}

fn released(lun: &Lun, by: &str) -> Result<()> {
    let record = lun
        .record(1)?
        .with_context(|| format!("no record after {by}"))?;
    ensure!(
        record.timestamp == 0,
        "{by} did not release the lease: {record:?}"
    );
    Ok(())
}
