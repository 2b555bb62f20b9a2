//! A node with two domains, one on an NFS server and one in a directory of its
//! own. The server stops answering: the daemon answers all the same, the other
//! domain works on, what needs the server fails in time and says so. The server
//! answers again, and the domain is back by itself. Volumes, snapshots and
//! merges work on it; the manager's role is taken and given back.

use std::fs;
use std::os::unix::fs::chown;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use control::storage::{Answer, FailureKind};

use super::Context;
use super::storage::{IO_TIMEOUT_S, POOL, ask, become_manager, done, start, until, wait_up};
use crate::lab::{EXPORT, Lab, PORTALS};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE};

const SHARED: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe2";
const OWN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe3";
const IMAGE: &str = "11111111-2222-4333-8444-000000000011";
const TOP: &str = "11111111-2222-4333-8444-000000000012";
const DIRECTORY: &str = "/var/lib/holdfast/domain";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::new(&context.directory)?;
    let export = context.directory.join("export");
    fs::create_dir_all(&export).context("export")?;
    // Who storage belongs to on every host of a cluster.
    chown(&export, Some(36), Some(36)).context("owner of the export")?;
    lab.serve_nfs(&export)?;
    let source = format!("{}:{EXPORT}", PORTALS[0]);
    let connections = format!("\n[[storage.connection]]\ntype = \"nfs\"\nexport = \"{source}\"\n");
    let node = start(context, &lab, 1, &connections)?;
    wait_up(&node)?;
    until("the export", PATIENCE, || {
        let Answer::Status(status) = done(&node, "storage status")? else {
            bail!("storage status: no status");
        };
        let connected = status.connections.iter().any(|it| it.state == "connected");
        Ok(connected.then_some(()))
    })?;
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
    done(&node, "spm stop")?;
    ensure!(
        export.join(SHARED).join("dom_md/ids").is_file(),
        "the domain is not where other hosts look for it"
    );
    Ok(())
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
            "qemu-io -t none -c 'write -P {pattern} {at} 1M' {path}"
        ))
    };
    let check = |path: &str, pattern: u8, at: &str| {
        let told = node.shell(&format!(
            "qemu-io -t none -c 'read -P {pattern} {at} 1M' {path}"
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
    until("the silent server in the status", PATIENCE, || {
        Ok((valid(node, SHARED)? == Some(false)).then_some(()))
    })?;
    context.say("the server is silent, and the status says so");
    let began = Instant::now();
    done(node, "volume list own")?;
    context.say(&format!(
        "the other domain answers within {:.1} s",
        began.elapsed().as_secs_f64()
    ));
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
