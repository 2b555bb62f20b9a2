//! Damage from inside, done through the debug image's root shell. First
//! journald stops: the node must go on answering and renewing. Then the lease
//! daemon is killed: a new one cannot take back the expiry the old one left at
//! the watchdog, so the machine is reset. After that boot PID 1 is frozen:
//! nobody feeds the watchdog any more and it resets the machine. After that one
//! PID 1's code is overwritten: it crashes, the kernel panics, the machine
//! resets.

use anyhow::{Context as _, Result};
use control::status::{LockspaceState, Snapshot};

use super::Context;
use crate::document::Document;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};

const LOCKSPACE: &str = "damage";
/// Renewals that must succeed while journald is stuck; each logs nothing, but
/// the questions in between do.
const RENEWALS: u64 = 8;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lun = Lun::create(&context.directory.join("shared.lun"), 1, 4)?;
    lun.initialise(LOCKSPACE, 2)?;
    let document = Document::new(1).with_lockspace(LOCKSPACE, &lun, 1, 2);
    let spec = Spec::new(context.debug, 1)
        .with_config(document.text())
        .with_lun(&lun)
        .with_shell();
    let node = Node::start(spec, &context.directory)?;
    let snapshot = node.wait_status("lease held", BOOT_PATIENCE, held)?;
    node.wait_shell(0)?;

    let pid = pid_of(&snapshot, "journald")?;
    node.shell(&format!("kill -STOP {pid}"))?;
    // More than any datagram queue holds: a writer that blocks shows here.
    node.shell(
        "i=0; while [ $i -lt 2000 ]; do echo '<6>filler for the log' > /dev/kmsg; i=$((i+1)); done",
    )?;
    let renewals = renewals(&node.status()?);
    node.wait_status("renewals while journald is stuck", PATIENCE, |snapshot| {
        held(snapshot) && self::renewals(snapshot) >= renewals + RENEWALS
    })?;
    node.shell(&format!("kill -CONT {pid}"))?;
    context.say("journald stuck: the node answers and renews");

    let first_event = node.qmp.event_count();
    let position = shell_position(&node);
    node.shell_last_words(&format!("kill -KILL {}", pid_of(&snapshot, "leased")?))?;
    node.wait_watchdog(first_event, PATIENCE)?;
    node.wait_reset(first_event, PATIENCE)?;
    context.say("leased killed: the watchdog reset the machine");

    let snapshot = held_again(&node, &snapshot, position)?;
    let first_event = node.qmp.event_count();
    let position = shell_position(&node);
    node.shell_last_words("echo 1 > /sys/fs/cgroup/supervisor/cgroup.freeze")?;
    node.wait_watchdog(first_event, PATIENCE)?;
    node.wait_reset(first_event, PATIENCE)?;
    context.say("PID 1 frozen: the watchdog reset the machine");

    held_again(&node, &snapshot, position)?;
    let serial = node.serial.position();
    let first_event = node.qmp.event_count();
    // The program text of PID 1 (its first executable mapping may be the
    // kernel's own, for clocks), overwritten with a byte that is no
    // instruction; whichever of its threads runs next crashes.
    node.shell("set -- $(grep -m1 'r-xp.*/supervisor' /proc/1/maps | cut -d' ' -f1 | tr - ' '); s=$((0x$1)); e=$((0x$2)); echo $s $e > /run/code")?;
    node.shell_last_words(
        "read s e < /run/code; tr '\\0' '\\6' < /dev/zero | dd of=/proc/1/mem bs=4096 seek=$((s/4096)) count=$(((e-s)/4096)) iflag=fullblock conv=notrunc",
    )?;
    node.serial.wait_for(serial, "Kernel panic", PATIENCE)?;
    node.wait_reset(first_event, PATIENCE)?;
    // The kernel counts its ten seconds by delays: on a starved machine the
    // watchdog may come first, and either will do.
    let by_watchdog = node
        .qmp
        .events_from(first_event)
        .iter()
        .any(|event| event.name == "WATCHDOG");
    context.say(&format!(
        "PID 1 crashed: the kernel panicked and the machine was reset by {}",
        if by_watchdog {
            "the watchdog"
        } else {
            "the kernel"
        }
    ));
    Ok(())
}

/// Process id of the child `name`.
fn pid_of(snapshot: &Snapshot, name: &str) -> Result<u32> {
    let child = snapshot.children.iter().find(|child| child.name == name);
    child
        .and_then(|child| child.pid)
        .with_context(|| format!("{name} does not run: {:?}", snapshot.children))
}

/// Where the root shell's output ends now.
fn shell_position(node: &Node) -> usize {
    node.shell.as_ref().map_or(0, |shell| shell.position())
}

/// Waits until the lease is held in another boot than that of `before`, and the
/// shell prompts after `position`.
fn held_again(node: &Node, before: &Snapshot, position: usize) -> Result<Snapshot> {
    let snapshot = node.wait_status("lease held after the reset", BOOT_PATIENCE, |next| {
        held(next) && next.boot_id != before.boot_id
    })?;
    node.wait_shell(position)?;
    Ok(snapshot)
}

fn held(snapshot: &Snapshot) -> bool {
    snapshot
        .lockspace
        .as_ref()
        .is_some_and(|lockspace| lockspace.state == LockspaceState::Held)
}

fn renewals(snapshot: &Snapshot) -> u64 {
    snapshot
        .lockspace
        .as_ref()
        .map_or(0, |lockspace| lockspace.renewals)
}
