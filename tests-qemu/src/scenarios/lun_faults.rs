//! One node, one lockspace path, and every LUN that can go wrong behind it.
//! The node starts without the LUN and waits. Then come, one after the other
//! under the same name: a LUN that is too small, one full of something else,
//! one that is write-protected, each refused with its reason and unchanged bit
//! for bit; then the right one, on which it joins. A stall of 30 s in the middle
//! of renewals is outlived. I/O errors that do not end make it lose the lease,
//! and the watchdog resets it in time. After the reset it finds a LUN with
//! 4096-byte sectors and joins there as well.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use control::lease::LeaseReport;
use control::status::{LockspaceReport, LockspaceState, Snapshot};

use super::Context;
use crate::console::json_line;
use crate::document::Document;
use crate::lun::{self, Lun};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};
use crate::stage::Timing;
use crate::story::seconds;

const LOCKSPACE: &str = "faulty";
/// A stall of 30 s is well inside 8 × 5 s.
const TIMING: Timing = Timing {
    io_timeout_s: 5,
    fire_timeout_s: 60,
};
const STALL: Duration = Duration::from_secs(30);
/// What QEMU's own main loop may add to a promised moment.
const RESET_LATENESS: Duration = Duration::from_secs(3);

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let good = Lun::create(&context.directory.join("good.lun"), 1, 16)?;
    good.initialise(LOCKSPACE, TIMING.io_timeout_s)?;
    let document = Document::new(1).with_lockspace(LOCKSPACE, &good, 1, TIMING.io_timeout_s);
    let node = Node::start(
        Spec::new(context.release, 1).with_config(document.text()),
        &context.directory,
    )?;
    // The daemon may not have said anything yet; then the reason is another.
    let missing = node.wait_status("the missing LUN by its name", BOOT_PATIENCE, |snapshot| {
        lockspace(snapshot).state == LockspaceState::Waiting
            && lockspace(snapshot)
                .reason
                .is_some_and(|reason| reason.contains(&good.guest_path()))
    })?;
    let reason = lockspace(&missing).reason.unwrap_or_default();
    context.say(&format!("LUN missing: {reason}"));

    let mut last_reason = reason;
    for (id, bad) in bad_luns(&context.directory, &good)? {
        let before = bad.digest()?;
        node.plug(&bad, id)?;
        let refused = node.wait_status(
            &format!("a reason to refuse the {id} LUN"),
            PATIENCE,
            |snapshot| {
                let report = lockspace(snapshot);
                report.state != LockspaceState::Held
                    && report.reason.is_some_and(|reason| reason != last_reason)
            },
        )?;
        last_reason = lockspace(&refused).reason.unwrap_or_default();
        context.say(&format!("LUN {id}: {last_reason}"));
        ensure!(
            lockspace(&refused).generation.is_none(),
            "a lease is held on the {id} LUN"
        );
        let first_event = node.qmp.event_count();
        node.unplug(id)?;
        node.qmp
            .wait_event(first_event, "DEVICE_DELETED", PATIENCE)?;
        ensure!(bad.digest()? == before, "the {id} LUN was written to");
    }

    node.plug(&good, "good")?;
    node.wait_status("lease held on the good LUN", BOOT_PATIENCE, |s| {
        held(s) && lockspace(s).renewals > 0
    })?;
    context.say("good LUN: held");
    stall(&node, context)?;
    errors(&node, &good, context)?;
    big_sectors(&node, &good, context)
}

/// The LUNs to be refused, each under the good one's name and number.
fn bad_luns(directory: &Path, good: &Lun) -> Result<Vec<(&'static str, Lun)>> {
    let alike = |file: &str| Lun {
        path: directory.join(file),
        ..good.clone()
    };
    let small = alike("small.lun");
    std::fs::copy(&good.path, &small.path).context("small LUN")?;
    std::fs::File::options()
        .write(true)
        .open(&small.path)?
        .set_len(64 << 10)
        .context("small LUN")?;
    let foreign = alike("foreign.lun");
    let file = std::fs::File::create(&foreign.path).context("foreign LUN")?;
    let noise: Vec<u8> = (0..4_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    file.write_all_at(&noise, 0).context("foreign LUN")?;
    let mut protected = alike("protected.lun");
    std::fs::copy(&good.path, &protected.path).context("protected LUN")?;
    protected.read_only = true;
    Ok(vec![
        ("small", small),
        ("foreign", foreign),
        ("protected", protected),
    ])
}

/// No I/O for 30 s: renewals fail meanwhile, the lease survives.
fn stall(node: &Node, context: &Context<'_>) -> Result<()> {
    let first_event = node.qmp.event_count();
    let before = lockspace(&node.status()?);
    node.throttle("good", 1)?;
    let began = Instant::now();
    while began.elapsed() < STALL {
        node.qmp.rest(
            node.qmp.event_count(),
            STALL.saturating_sub(began.elapsed()),
        );
    }
    node.throttle("good", 0)?;
    let after = node.wait_status("renewals after the stall", PATIENCE, |snapshot| {
        held(snapshot) && lockspace(snapshot).renewals > before.renewals + 1
    })?;
    let after = lockspace(&after);
    ensure!(
        after.generation == before.generation,
        "the stall cost the lease its generation"
    );
    // Whether an attempt failed or one just took that long depends on whether
    // a read or a write was caught; it must be told in any case.
    let slowest = slowest_renewal(node)?;
    ensure!(
        after.renewal_failures > before.renewal_failures || slowest >= STALL / 2,
        "30 s without I/O, yet no renewal is said to have failed, and the slowest to have taken {slowest:?}"
    );
    ensure!(
        node.qmp.events_from(first_event).is_empty(),
        "the stall ended in a reset"
    );
    context.say(&format!(
        "30 s stall: outlived, {} failed renewals, the slowest read or write took {} s",
        after.renewal_failures - before.renewal_failures,
        slowest.as_secs()
    ));
    Ok(())
}

/// What the lease daemon says of its slowest read or write.
fn slowest_renewal(node: &Node) -> Result<Duration> {
    let output = node.command("lease status --json")?;
    let line = json_line(&output).context("lease status --json: no JSON")?;
    let report: LeaseReport = serde_json::from_str(line).context("lease status --json")?;
    let slowest = report
        .lockspaces
        .iter()
        .filter_map(|space| space.slowest_ms)
        .max();
    Ok(Duration::from_millis(slowest.unwrap_or(0)))
}

/// I/O errors without end: the lease is lost and the watchdog fires in time.
fn errors(node: &Node, good: &Lun, context: &Context<'_>) -> Result<()> {
    let known = good.record(1)?;
    let last = good.wait_change(1, known.as_ref(), PATIENCE)?;
    let renewed = Instant::now();
    let first_event = node.qmp.event_count();
    node.fail_io("good", Some(5))?;
    ensure!(
        good.record(1)?.as_ref() == Some(&last),
        "a renewal came before the errors did"
    );
    node.wait_status("lease lost", TIMING.dead(), |snapshot| {
        lockspace(snapshot).state == LockspaceState::Lost
    })?;
    let fired = node.wait_watchdog(first_event, TIMING.dead())?;
    let observed = fired.at.duration_since(renewed);
    ensure!(
        observed >= TIMING.fail() && observed <= TIMING.dead() + RESET_LATENESS,
        "promise broken: reset {} after the last renewal, promised {} to {}",
        seconds(observed),
        seconds(TIMING.fail()),
        seconds(TIMING.dead())
    );
    node.wait_reset(first_event, PATIENCE)?;
    good.check_area(LOCKSPACE)?;
    lun::original_dump(good, 1)?;
    context.say(&format!(
        "I/O errors: reset {} after the last renewal, area sound",
        seconds(observed)
    ));
    Ok(())
}

/// A LUN with 4096-byte sectors in place of the broken one.
fn big_sectors(node: &Node, good: &Lun, context: &Context<'_>) -> Result<()> {
    let path = context.directory.join("big-sectors.lun");
    let mut big = Lun {
        block_bytes: 4096,
        ..Lun::create(&path, 1, 16)?
    };
    big.serial.clone_from(&good.serial);
    node.unplug("good")?;
    node.plug(&big, "big")?;
    node.wait_console()?;
    node.wait_status("the blank LUN", BOOT_PATIENCE, |snapshot| {
        let reason = lockspace(snapshot).reason.unwrap_or_default();
        reason.contains("lockspace init")
    })?;
    node.command(&format!(
        "lockspace init {LOCKSPACE} --path {}",
        big.guest_path()
    ))?;
    let snapshot = node.wait_status("lease held on 4096-byte sectors", BOOT_PATIENCE, held)?;
    ensure!(
        lockspace(&snapshot).sector_size == Some(4096),
        "sector size {:?}",
        lockspace(&snapshot).sector_size
    );
    big.check_area(LOCKSPACE)?;
    let dump = lun::original_dump(&big, 1)?;
    ensure!(
        dump.contains("node1"),
        "the original tool does not see the node:\n{dump}"
    );
    context.say("4096-byte sectors: initialised and held, both read the area");
    Ok(())
}

fn lockspace(snapshot: &Snapshot) -> LockspaceReport {
    snapshot.lockspace.clone().unwrap_or_default()
}

fn held(snapshot: &Snapshot) -> bool {
    lockspace(snapshot).state == LockspaceState::Held
}
