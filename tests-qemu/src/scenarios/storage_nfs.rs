//! A node with two domains, one on an NFS server to which root is nobody, and one
//! in a directory of its own. The server stops answering: the daemon answers all
//! the same, the other domain works on, what needs the server fails in time and
//! says so. The server answers again, and the domain is back by itself. Volumes,
//! snapshots and merges work on it; the manager's role is taken and given back.
//! The export's file system gets full: what needs room is refused, nothing half
//! made stays.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use control::storage::{Answer, Failure, FailureKind};

use super::Context;
use super::storage::{IO_TIMEOUT_S, POOL, ask, become_manager, done, start, until, wait_up};
use crate::lab::{EXPORT, Lab, PORTALS};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE};

const SHARED: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe2";
const OWN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe3";
const IMAGE: &str = "11111111-2222-4333-8444-000000000011";
const TOP: &str = "11111111-2222-4333-8444-000000000012";
/// Size of the export's file system, in MiB.
const EXPORT_MIB: u64 = 512;
/// Root is nobody to the server; volumes belong to 36:36.
const AS_QEMU: &str = "unshare --setuid 36 --setgid 36";
const DIRECTORY: &str = "/var/lib/holdfast/domain";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::new(&context.directory)?;
    let (export, source) = export(context, &lab)?;
    let connections = format!("\n[[storage.connection]]\ntype = \"nfs\"\nexport = \"{source}\"\n");
    let node = start(context, &lab, 1, &connections, &[])?;
    wait_up(&node)?;
    wait_connected(&node)?;
    context.say("the export is mounted");

    done(
        &node,
        &format!("domain create shared --connection nfs:{source} --id {SHARED}"),
    )?;
    node.shell(&format!("mkdir -p {DIRECTORY} && chown 36:36 {DIRECTORY}"))?;
    done(&node, &format!("storage connect local {DIRECTORY}"))?;
    done(
        &node,
        &format!("domain create own --connection local:{DIRECTORY} --id {OWN}"),
    )?;
    done(&node, &format!("pool create main shared --id {POOL}"))?;
    done(&node, &format!("pool connect {POOL} --host-id 1"))?;
    become_manager(&node, PATIENCE)?;
    context.say("domains and pool made; the node manages it");
    volumes(&node)?;
    context.say("volume, snapshot and merge on the export");
    silence(context, &lab, &node)?;
    fill(&node, &export)?;
    context.say(
        "a full export refuses what it has no room for, leaves nothing half made, and works on",
    );
    done(&node, "spm stop")?;
    ensure!(
        export.join(SHARED).join("dom_md/ids").is_file(),
        "the domain is not where other hosts look for it"
    );
    Ok(())
}

/// Serves a file system of its own; where it is on this machine, and what
/// nodes call it.
pub(super) fn export(context: &Context<'_>, lab: &Lab) -> Result<(PathBuf, String)> {
    let directory = context.directory.join("export");
    fs::create_dir_all(&directory).context("export")?;
    let there = lab.mount(&directory, EXPORT_MIB)?;
    lab.serve_nfs(&directory)?;
    Ok((there, format!("{}:{EXPORT}", PORTALS[0])))
}

/// Waits until the export is mounted.
pub(super) fn wait_connected(node: &Node) -> Result<()> {
    until("the export", PATIENCE, || {
        let Answer::Status(status) = done(node, "storage status")? else {
            bail!("storage status: no status");
        };
        let mut exports = status.connections.iter().filter(|it| it.kind == "nfs");
        Ok(exports.any(|it| it.state == "connected").then_some(()))
    })
}

fn volumes(node: &Node) -> Result<()> {
    done(
        node,
        &format!("volume create shared --image {IMAGE} --volume {IMAGE} --size 64M --format cow"),
    )?;
    let Answer::Prepared(prepared) = done(node, &format!("volume prepare shared {IMAGE}"))? else {
        bail!("volume prepare: no path");
    };
    let write = |path: &str, pattern: u8, at: &str| {
        node.shell(&format!(
            "{AS_QEMU} qemu-io -t none -c 'write -P {pattern} {at} 1M' {path}"
        ))
    };
    let check = |path: &str, pattern: u8, at: &str| {
        let told = node.shell(&format!(
            "{AS_QEMU} qemu-io -t none -c 'read -P {pattern} {at} 1M' {path}"
        ))?;
        ensure!(!told.contains("failed"), "{path} at {at}: {told}");
        Ok(())
    };
    write(&prepared.path, 7, "0")?;
    done(node, &format!("volume teardown shared {IMAGE}"))?;
    done(
        node,
        &format!("volume snapshot shared {IMAGE} --volume {TOP}"),
    )?;
    let Answer::Prepared(prepared) = done(node, &format!("volume prepare shared {IMAGE}"))? else {
        bail!("volume prepare: no path");
    };
    ensure!(prepared.chain.len() == 2, "chain: {:?}", prepared.chain);
    write(&prepared.path, 8, "1M")?;
    check(&prepared.path, 7, "0")?;
    done(node, &format!("volume teardown shared {IMAGE}"))?;
    done(node, &format!("volume merge shared/{IMAGE}/{TOP}"))?;
    let Answer::Prepared(prepared) = done(node, &format!("volume prepare shared {IMAGE}"))? else {
        bail!("volume prepare: no path");
    };
    ensure!(prepared.chain.len() == 1, "chain: {:?}", prepared.chain);
    check(&prepared.path, 7, "0")?;
    check(&prepared.path, 8, "1M")?;
    done(node, &format!("volume teardown shared {IMAGE}")).map(drop)
}

/// Whether the daemon finds the domain sound; `None` while it does not say.
fn valid(node: &Node, domain: &str) -> Result<Option<bool>> {
    let Answer::Status(status) = done(node, "storage status")? else {
        bail!("storage status: no status");
    };
    let domain = status.domains.iter().find(|it| it.id == domain);
    Ok(domain.context("the domain is not in the status")?.valid)
}

fn silence(context: &Context<'_>, lab: &Lab, node: &Node) -> Result<()> {
    until("a sound domain", PATIENCE, || {
        Ok((valid(node, SHARED)? == Some(true)).then_some(()))
    })?;
    lab.freeze_nfs(true)?;
    let began = Instant::now();
    done(node, "volume list own")?;
    context.say(&format!(
        "the server is silent; the other domain answers within {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    // At once, since the silence must not last: the lease is lost after 8 T, and a
    // holder that the kernel does not let go of costs the node after 8 T + W.
    let refused = ask(node, "domain show shared")?;
    if let Err(failure) = &refused {
        ensure!(
            matches!(
                failure.kind,
                FailureKind::Timeout | FailureKind::Io | FailureKind::InUse
            ),
            "the wrong failure: {failure:?}"
        );
    }
    until("the silent server in the status", PATIENCE, || {
        Ok((valid(node, SHARED)? == Some(false)).then_some(()))
    })?;
    context.say(&format!(
        "so does the silent one, with a failure, after {:.1} s; the status says why",
        began.elapsed().as_secs_f64()
    ));
    lab.freeze_nfs(false)?;
    until("the domain back by itself", BOOT_PATIENCE, || {
        Ok((valid(node, SHARED)? == Some(true)).then_some(()))
    })?;
    context.say(&format!(
        "the server answers again, and so does the domain (io timeout {IO_TIMEOUT_S} s)"
    ));
    // The silence may have cost the lease; then the role has to be taken again.
    become_manager(node, BOOT_PATIENCE)
}

/// Whatever is below a directory.
fn tree(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    Ok(found)
}

/// The export has no room left.
fn fill(node: &Node, export: &Path) -> Result<()> {
    let images = export.join(SHARED).join("images");
    let before = tree(&images)?;
    let refused = ask(
        node,
        &format!(
            "volume create shared --size {}M --preallocated",
            2 * EXPORT_MIB
        ),
    )?;
    no_space(&refused)?;
    until("nothing left of it", PATIENCE, || {
        Ok((tree(&images)? == before).then_some(()))
    })?;
    // Now really nothing: what room there is somebody else takes.
    let ballast = export.join("ballast");
    let mut file = fs::File::create(&ballast).context("ballast")?;
    for piece in [1 << 20, 1 << 12] {
        let full = loop {
            if let Err(error) = file.write_all(&vec![7; piece]) {
                break error;
            }
        };
        ensure!(
            full.kind() == ErrorKind::StorageFull,
            "filling the export: {full}"
        );
    }
    file.sync_all().context("ballast")?;
    let name = format!("shared/{IMAGE}/{IMAGE}");
    let described = || match done(node, &format!("volume show {name}"))? {
        Answer::Volume(volume) => Ok((volume.description, volume.legality)),
        other => bail!("volume show: {other:?}"),
    };
    let old = described()?;
    no_space(&ask(node, &format!("volume set {name} --description new"))?)?;
    ensure!(
        described()? == old,
        "a change that was refused is half there"
    );
    no_space(&ask(
        node,
        "volume create shared --size 16M --preallocated",
    )?)?;
    // A file that is open keeps its room.
    drop(file);
    fs::remove_file(&ballast).context("ballast")?;
    done(node, &format!("volume set {name} --description new"))?;
    ensure!(described()?.0 == "new", "the change is not there");
    until("nothing left of what failed", PATIENCE, || {
        Ok((tree(&images)? == before).then_some(()))
    })?;
    done(node, "volume create shared --size 16M --preallocated").map(drop)
}

fn no_space(outcome: &std::result::Result<Answer, Failure>) -> Result<()> {
    match outcome {
        Err(failure) if failure.kind == FailureKind::NoSpace => Ok(()),
        other => bail!("on a full export: {other:?}"),
    }
}
