//! One node renews every four seconds. Its power is cut several times, each at
//! another moment of the renewal; each time our reader and the original tool
//! must read the area, the record must be the node's own, and the generation
//! must grow by one with each life.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use control::status::LockspaceState;

use super::Context;
use crate::document::Document;
use crate::lun::{self, Lun};
use crate::node::{BOOT_PATIENCE, Node, Spec};

const LOCKSPACE: &str = "cuts";
const IO_TIMEOUT_S: u32 = 2;
/// When, after a change on the disk, each cut comes: at once, in the middle,
/// and about when the next renewal is written.
const MOMENTS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(1_500),
    Duration::from_millis(4_050),
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lun = Lun::create(&context.directory.join("shared.lun"), 1, 4)?;
    lun.initialise(LOCKSPACE, IO_TIMEOUT_S)?;
    let mut generation = 0;
    for moment in MOMENTS {
        let document = Document::new(1).with_lockspace(LOCKSPACE, &lun, 1, IO_TIMEOUT_S);
        let spec = Spec::new(context.release, 1)
            .with_config(document.text())
            .with_lun(&lun);
        let node = Node::start(spec, &context.directory)?;
        node.wait_status("lease held and renewed", BOOT_PATIENCE, |snapshot| {
            snapshot
                .lockspace
                .as_ref()
                .is_some_and(|l| l.state == LockspaceState::Held && l.renewals > 2)
        })?;
        let before = lun.record(1)?;
        lun.wait_change(1, before.as_ref(), BOOT_PATIENCE)?;
        node.qmp.rest(node.qmp.event_count(), moment);
        node.cut_power();
        let record = lun
            .record(1)?
            .context("our reader finds no record after the cut")?;
        ensure!(
            record.name == "node1",
            "the record is not the node's own: {record:?}"
        );
        ensure!(
            record.generation == generation + 1,
            "generation {} after {generation}",
            record.generation
        );
        generation = record.generation;
        let dump = lun::original_dump(&lun, 1)?;
        ensure!(
            dump.contains("node1"),
            "the original tool does not see the node:\n{dump}"
        );
        lun.check_area(LOCKSPACE)?;
        context.say(&format!(
            "cut {} ms after a renewal: generation {generation}, both read the area",
            moment.as_millis()
        ));
    }
    Ok(())
}
