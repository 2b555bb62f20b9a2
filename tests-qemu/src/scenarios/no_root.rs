//! The command line names a root partition that does not exist. The initrd
//! waits for it as long as told, says what it looked for and which devices it
//! found, announces the reboot and reboots.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Context;
use crate::node::{BOOT_PATIENCE, Boot, Node, PATIENCE, Spec};

const WRONG: &str = "01234567-89ab-4cde-8f01-23456789abcd";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut spec = Spec::new(context.release, 1);
    let Boot::Direct { cmdline, .. } = &mut spec.boot else {
        anyhow::bail!("direct boot expected")
    };
    *cmdline = cmdline.replace(&context.release.root_partuuid, WRONG);
    ensure!(
        cmdline.contains(WRONG),
        "the image's command line names no root partition: {cmdline}"
    );
    spec.append
        .push_str(" holdfast.root_wait=5 holdfast.reboot_delay=3");
    let node = Node::start(spec, &context.directory)?;
    node.serial.wait_for(
        0,
        "holdfast initrd: cannot start this machine",
        BOOT_PATIENCE,
    )?;
    for words in [WRONG, "vda", &context.release.root_partuuid] {
        node.serial.wait_for(0, words, PATIENCE)?;
    }
    context.say("says what it looked for and what it found");
    let reset = node.wait_reset(0, PATIENCE)?;
    ensure!(
        reset.at.duration_since(node.started) >= Duration::from_secs(8),
        "reset before the wait of 5 s and the delay of 3 s were over"
    );
    context.say("reboots");
    Ok(())
}
