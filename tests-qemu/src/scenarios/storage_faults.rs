//! A node manages a pool of a domain on a LUN, the master, and one on an NFS
//! export. Every read and write of the LUN fails: the role is given up, the
//! status says why, the other domain is used on. The LUN works again, and the
//! node is manager again by itself. The LUN grows, and with it the domain; a
//! second LUN is added to it, gets volumes, and is emptied and taken away again
//! while one of them is kept.

use anyhow::{Context as _, Result, bail, ensure};
use control::storage::report::DomainReport;
use control::storage::{Answer, FailureKind, VolumeName};

use super::Context;
use super::storage::{POOL, ask, done, role, start, until, wait_luns, wait_manager, wait_up};
use super::storage_nfs;
use crate::lab::Lab;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE};

const MASTER: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe6";
const OTHER: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe7";
/// What a broken LUN answers with: QEMU makes of it a fault of the hardware.
const ENOMEM: u8 = 12;
/// More volumes than the first LUN has room for.
const FILLERS_MAX: usize = 16;
/// MiB of the LUN before and after it grew.
const SIZES_MIB: [u64; 2] = [12 << 10, 16 << 10];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::new(&context.directory)?;
    let source = storage_nfs::export(context, &lab)?.1;
    let lun = |number: u16| {
        let path = context.directory.join(format!("lun{number}.img"));
        Lun::create(&path, number, SIZES_MIB[0])
    };
    let luns = [lun(1)?, lun(2)?];
    let storage = format!(
        "spm = \"auto\"\n\n[[storage.connection]]\ntype = \"fc\"\n\n\
         [[storage.connection]]\ntype = \"nfs\"\nexport = \"{source}\"\n"
    );
    let node = start(context, &lab, 1, &storage, &luns)?;
    wait_up(&node)?;
    let mut names = wait_luns(&node, 2, 1)?;
    // By number: the first disk is the one whose I/O will fail.
    names.sort();
    done(
        &node,
        &format!("domain create images --lun {} --id {MASTER}", names[0]),
    )?;
    storage_nfs::wait_connected(&node)?;
    done(
        &node,
        &format!("domain create shared --connection nfs:{source} --id {OTHER}"),
    )?;
    done(&node, "storage rescan")?;
    done(
        &node,
        &format!("pool create main images shared --id {POOL}"),
    )?;
    done(&node, &format!("pool connect {POOL} --host-id 1"))?;
    wait_manager(&[&node], BOOT_PATIENCE)?;
    until("both domains sound", PATIENCE, || {
        let sound =
            domain(&node, MASTER)?.valid == Some(true) && domain(&node, OTHER)?.valid == Some(true);
        Ok(sound.then_some(()))
    })?;
    done(&node, "volume create images --size 256M --preallocated")?;
    context.say("the node manages a pool of two domains");
    break_master(context, &node)?;
    let size = grow(context, &node, &names)?;
    empty(context, &node, &names, size)
}

fn domain(node: &Node, id: &str) -> Result<DomainReport> {
    let Answer::Status(status) = done(node, "storage status")? else {
        bail!("storage status: no status");
    };
    let domain = status.domains.into_iter().find(|it| it.id == id);
    domain.context("the domain is not in the status")
}

fn break_master(context: &Context<'_>, node: &Node) -> Result<()> {
    let events = node.qmp.event_count();
    node.fail_io("lun0", Some(ENOMEM))?;
    let fault = until("the fault in the status", PATIENCE, || {
        let domain = domain(node, MASTER)?;
        Ok(if domain.valid == Some(false) {
            Some(domain.reason.unwrap_or_default())
        } else {
            None
        })
    })?;
    ensure!(
        !fault.is_empty(),
        "the domain is not sound, and no word why"
    );
    let lost = until("the end of the role", BOOT_PATIENCE, || {
        let report = role(node)?;
        Ok((report.state != "here").then_some(report))
    })?;
    let why = lost.reason.unwrap_or_default();
    ensure!(!why.is_empty(), "the role is gone, and no word why");
    context.say(&format!(
        "the LUN fails ({fault}); the role is gone ({why})"
    ));
    // The other domain does not need the manager for this, nor the LUN.
    done(node, "volume list shared")?;
    ensure!(
        domain(node, OTHER)?.valid == Some(true),
        "the fault of the master reached the other domain"
    );
    node.fail_io("lun0", None)?;
    wait_manager(&[node], BOOT_PATIENCE)?;
    until("a sound master", PATIENCE, || {
        Ok((domain(node, MASTER)?.valid == Some(true)).then_some(()))
    })?;
    done(node, "volume create images --size 256M --preallocated")?;
    done(node, "volume create shared --size 16M")?;
    ensure!(
        node.qmp
            .events_from(events)
            .iter()
            .all(|event| event.name != "RESET"),
        "the node was reset for a LUN that nobody used any more"
    );
    context.say("the LUN works, and the node is manager again");
    Ok(())
}

/// MiB of the domain.
fn size_mib(node: &Node) -> Result<u64> {
    let Answer::Domain(domain) = done(node, "domain show images")? else {
        bail!("domain show: no domain");
    };
    Ok(domain.size_bytes.context("size of the domain")? >> 20)
}

/// MiB of the domain on its grown LUN alone.
fn grow(context: &Context<'_>, node: &Node, names: &[String]) -> Result<u64> {
    let before = size_mib(node)?;
    node.grow("lun0", SIZES_MIB[1])?;
    done(node, "storage rescan")?;
    done(node, &format!("domain grow images --lun {}", names[0]))?;
    let grown = size_mib(node)?;
    ensure!(
        grown == before + SIZES_MIB[1] - SIZES_MIB[0],
        "the LUN grew from {} to {} MiB, the domain from {before} to {grown}",
        SIZES_MIB[0],
        SIZES_MIB[1]
    );
    done(node, &format!("domain extend images --lun {}", names[1]))?;
    let both = size_mib(node)?;
    ensure!(
        both > grown && both <= grown + SIZES_MIB[0],
        "a LUN of {} MiB was added, the domain went from {grown} to {both}",
        SIZES_MIB[0]
    );
    context.say(&format!(
        "the domain grew with its LUN from {before} to {grown} MiB, and by another to {both}"
    ));
    Ok(grown)
}

/// Takes the second LUN out of the domain while a volume is on it.
fn empty(context: &Context<'_>, node: &Node, names: &[String], grown: u64) -> Result<()> {
    let on_second = |volume: &str| -> Result<bool> {
        let devices = node.shell(&format!(
            "lvs --noheadings -o devices {MASTER}/{volume} 2>&1"
        ))?;
        Ok(devices.contains(&names[1]))
    };
    // The first LUN is filled until one is, at least in part, on the second.
    let mut fillers = Vec::new();
    let kept = loop {
        let volume = made(node, "--size 1G --preallocated")?;
        if on_second(&volume.volume)? {
            break volume;
        }
        fillers.push(volume);
        ensure!(
            fillers.len() <= FILLERS_MAX,
            "no volume goes to the second LUN"
        );
    };
    node.shell(&format!("vgck {MASTER} 2>&1"))?;
    node.shell(&format!(
        "nodectl inspect /dev/mapper/{} /dev/mapper/{}",
        names[0], names[1]
    ))?;
    let refused = ask(node, &format!("domain reduce images --lun {}", names[1]))?;
    let failure = refused
        .err()
        .context("a LUN was taken whose volumes have no place elsewhere")?;
    ensure!(failure.kind == FailureKind::NoSpace, "{failure}");
    let Answer::Prepared(prepared) = done(node, &format!("volume prepare images {}", kept.image))?
    else {
        bail!("volume prepare: no path");
    };
    let digest = || node.shell(&format!("sha256sum <{}", prepared.path));
    node.shell(&format!(
        "dd if=/dev/urandom of={} bs=1M count=1024 oflag=direct 2>&1",
        prepared.path
    ))?;
    let before = digest()?;
    for filler in fillers {
        done(
            node,
            &format!("volume delete-image images {}", filler.image),
        )?;
    }
    done(node, &format!("domain reduce images --lun {}", names[1]))?;
    ensure!(
        !on_second(&kept.volume)?,
        "the volume is still on the second LUN"
    );
    ensure!(digest()? == before, "the volume's bytes changed on the way");
    let size = size_mib(node)?;
    ensure!(
        size == grown,
        "without the LUN the domain has {size} MiB, not {grown}"
    );
    let Answer::Luns(luns) = done(node, "storage luns")? else {
        bail!("storage luns: no LUNs");
    };
    let second = luns.iter().find(|lun| lun.wwid == names[1]);
    let second = second.context("the LUN is gone")?;
    ensure!(second.used_by.is_none(), "the LUN is not free: {second:?}");
    node.shell(&format!("vgck {MASTER} 2>&1"))?;
    node.shell(&format!("nodectl inspect /dev/mapper/{}", names[0]))?;
    context.say("the second LUN was emptied and taken away; a volume that was on it is whole");
    Ok(())
}

fn made(node: &Node, more: &str) -> Result<VolumeName> {
    match done(node, &format!("volume create images {more}"))? {
        Answer::MadeVolume(name) => Ok(name),
        other => bail!("volume create: {other:?}"),
    }
}
