//! A node without fw_cfg and URL finds its configuration on a volume. First on
//! its state volume alone, which it mounts, keeps an entropy seed on and leaves
//! clean. Then a volume labelled `HOLDFAST` is there as well and goes first,
//! even when its document is wrong: nothing is skipped in silence.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use control::status::{PhaseState, Snapshot};

use super::Context;
use crate::document::Document;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};
use crate::tools;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let state = Lun::create(&context.directory.join("state.raw"), 1, 32)?;
    let content = context.directory.join("state");
    fs::create_dir(&content).with_context(|| content.display().to_string())?;
    write(&content.join(control::CONFIG_FILE), &named("from-state"))?;
    tools::run(
        "/sbin/mkfs.ext4",
        &[
            "-q",
            "-F",
            "-L",
            control::STATE_LABEL,
            "-d",
            &content.display().to_string(),
            &state.path.display().to_string(),
        ],
    )?;
    let spec = Spec::new(context.release, 1).with_lun(&state);

    let node = Node::start(spec.clone(), &context.directory)?;
    let snapshot = settled(&node)?;
    ensure!(
        snapshot.config.source.as_deref() == Some("state") && snapshot.hostname == "from-state",
        "state volume alone: configuration {:?}, host name {:?}",
        snapshot.config,
        snapshot.hostname
    );
    off(&node, &state)?;
    context.say("state volume: configures the node, is left clean");

    let node = Node::start(spec.clone(), &context.directory)?;
    let snapshot = settled(&node)?;
    for name in ["state-volume", "entropy"] {
        let phase = snapshot.boot.iter().find(|phase| phase.name == name);
        ensure!(
            phase.is_some_and(|phase| phase.state == PhaseState::Done),
            "second boot on the state volume: {phase:?}"
        );
    }
    off(&node, &state)?;
    context.say("state volume: its seed is used at the next boot");

    let stick = Lun::create(&context.directory.join("stick.raw"), 2, 8)?;
    tools::run(
        "/sbin/mkfs.vfat",
        &[
            "-n",
            control::CONFIG_LABEL,
            &stick.path.display().to_string(),
        ],
    )?;
    let spec = spec.with_lun(&stick);
    for (document, mistakes) in [
        (named("from-volume"), 0),
        (named("from-volume") + "\n[nods]\nname = 1\n", 1),
    ] {
        let file = context.directory.join(control::CONFIG_FILE);
        write(&file, &document)?;
        let image = stick.path.display().to_string();
        let target = format!("::{}", control::CONFIG_FILE);
        tools::run(
            "mcopy",
            &["-o", "-i", &image, &file.display().to_string(), &target],
        )?;
        let node = Node::start(spec.clone(), &context.directory)?;
        let snapshot = settled(&node)?;
        let source = snapshot.config.source.as_deref().unwrap_or_default();
        ensure!(
            source.starts_with("volume ") && snapshot.config.mistakes.len() == mistakes,
            "both volumes, {mistakes} mistakes in the first: {:?}",
            snapshot.config
        );
        ensure!(
            snapshot.hostname != "from-state",
            "the document of the state volume took the place of the other"
        );
        off(&node, &state)?;
    }
    context.say("volume HOLDFAST: goes before the state volume, right or wrong");
    Ok(())
}

/// A document that changes the host name only.
fn named(name: &str) -> String {
    let mut document = Document::new(1);
    name.clone_into(&mut document.hostname);
    document.text()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// The status once every phase of the boot has ended.
fn settled(node: &Node) -> Result<Snapshot> {
    node.wait_status("every boot phase ended", BOOT_PATIENCE, |snapshot| {
        let under_way =
            |state: PhaseState| matches!(state, PhaseState::Waiting | PhaseState::Running);
        !snapshot.boot.is_empty() && !snapshot.boot.iter().any(|phase| under_way(phase.state))
    })
}

/// Switches the node off; its state volume must then need no repair.
fn off(node: &Node, state: &Lun) -> Result<()> {
    node.press_power()?;
    node.wait_off(PATIENCE)?;
    let path = state.path.display().to_string();
    let header = tools::run("/sbin/dumpe2fs", &["-h", &path])?;
    ensure!(
        header
            .lines()
            .any(|line| line.starts_with("Filesystem state:") && line.ends_with(" clean"))
            && !header.contains("needs_recovery"),
        "the state volume was not unmounted:\n{header}"
    );
    tools::run("/sbin/e2fsck", &["-f", "-n", &path])?;
    Ok(())
}
