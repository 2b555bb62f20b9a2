//! Two nodes are configured with host id 1. Both boot at once, on an area that
//! is ready for them. Exactly one gets the lease; the other watches it being
//! renewed, says who holds it, and goes on trying without ever writing. When
//! the holder releases it in an orderly way, the other gets it.

use anyhow::{Result, ensure};
use control::status::{LockspaceReport, LockspaceState, Snapshot};

use super::Context;
use crate::document::Document;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, Spec};

const LOCKSPACE: &str = "contested";
/// Seconds; the loser has to watch for 8 × this + 60.
const IO_TIMEOUT_S: u32 = 3;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lun = Lun::create(&context.directory.join("shared.lun"), 1, 4)?;
    lun.initialise(LOCKSPACE, IO_TIMEOUT_S)?;
    let start = |number: u8| {
        let document = Document::new(number).with_lockspace(LOCKSPACE, &lun, 1, IO_TIMEOUT_S);
        Node::start(
            Spec::new(context.release, number)
                .with_config(document.text())
                .with_lun(&lun),
            &context.directory,
        )
    };
    let nodes = [start(1)?, start(2)?];
    // Whoever comes first; a node that boots slower must find the id taken.
    let holder = loop {
        let states = [
            state(&nodes[0].wait_status("a lockspace", BOOT_PATIENCE, has_lockspace)?),
            state(&nodes[1].wait_status("a lockspace", BOOT_PATIENCE, has_lockspace)?),
        ];
        if let Some(holder) = states
            .iter()
            .position(|&state| state == LockspaceState::Held)
        {
            break holder;
        }
    };
    let (winner, loser) = (&nodes[holder], &nodes[1 - holder]);
    context.say(&format!("{} holds host id 1", winner.spec.name));

    let busy = loser.wait_status("host id busy", BOOT_PATIENCE, |snapshot| {
        state(snapshot) == LockspaceState::Busy
    })?;
    let reason = lockspace(&busy).reason.clone().unwrap_or_default();
    ensure!(
        reason.contains(&winner.spec.name),
        "{} is refused host id 1 but does not say that {} holds it: {reason:?}",
        loser.spec.name,
        winner.spec.name
    );
    context.say(&format!("{} says: {reason}", loser.spec.name));
    let held = winner.status()?;
    ensure!(
        state(&held) == LockspaceState::Held,
        "the holder lost its lease to a second node with its id"
    );
    let generation = lockspace(&held).generation;
    let record = lun.record(1)?;
    ensure!(
        record
            .as_ref()
            .is_some_and(|r| r.name == winner.spec.name && Some(r.generation) == generation),
        "the record on disk is not the holder's: {record:?}"
    );

    winner.order("shutdown --yes")?;
    winner.wait_off(BOOT_PATIENCE)?;
    let next = loser.wait_status("the id freed by its holder", BOOT_PATIENCE, |snapshot| {
        state(snapshot) == LockspaceState::Held
    })?;
    ensure!(
        lockspace(&next).generation > generation,
        "the second holder's generation is not higher"
    );
    context.say(&format!(
        "{} released it, {} holds it now",
        winner.spec.name, loser.spec.name
    ));
    Ok(())
}

fn has_lockspace(snapshot: &Snapshot) -> bool {
    snapshot.lockspace.is_some()
}

fn lockspace(snapshot: &Snapshot) -> LockspaceReport {
    snapshot.lockspace.clone().unwrap_or_default()
}

fn state(snapshot: &Snapshot) -> LockspaceState {
    lockspace(snapshot).state
}
