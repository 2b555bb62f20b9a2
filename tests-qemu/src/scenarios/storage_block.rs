//! Two nodes, one pool on an iSCSI target behind two portals. Node 1 makes the
//! domain and the pool and becomes manager by itself; node 2 uses it. A path goes
//! and comes back. What was wiped is nowhere in a volume made after it. What a
//! host loads to follow an extension is what `lvchange --refresh` loads. A guest
//! on node 2 fills a thin volume faster than one extent a second. The manager is
//! killed in the middle of a commit, with its lvm, and without; then its node
//! loses its power while a request stands. Each time one of the nodes becomes
//! manager by itself, not too soon, and the guest gets its room.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use control::storage::{Answer, FailureKind};

use super::Context;
use super::guest::Guest;
use super::storage::{
    DEAD, IO_TIMEOUT_S, POOL, StandIn, ask, done, iscsi, role, start, until, wait_luns,
    wait_manager, wait_up,
};
use crate::lab::{self, Chap, Lab};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE};

const DOMAIN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
const SECRET: &str = "11111111-2222-4333-8444-000000000001";
const REUSED: &str = "11111111-2222-4333-8444-000000000002";
const THIN: &str = "11111111-2222-4333-8444-000000000003";
/// MiB of an extent of a domain's volume group: the rate a guest has to exceed.
const EXTENT_MIB: f64 = 128.0;
/// How far the guest fills its volume, which is four extensions.
const FILLED_MIB: u32 = 10 << 10;
/// With less than this free more room is asked for: four fifths of a chunk.
const WANTED_FREE_MIB: u32 = 2048;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut lab = Lab::new(&context.directory)?;
    let disks = [1, 2].map(|number| {
        let path = context.directory.join(format!("lun{number}.img"));
        lab::disk(&path, number, 60 << 10)
    });
    let [first, second] = disks;
    let chap = Chap {
        incoming: ("node".into(), "secret-of-the-nodes".into()),
        outgoing: ("array".into(), "secret-of-the-array".into()),
    };
    lab.serve_disks(&[first?, second?], Some(&chap))?;
    let storage = format!("spm = \"auto\"\n{}", iscsi(&chap));
    let one = start(context, &lab, 1, &storage, &[])?;
    let two = start(context, &lab, 2, &storage, &[])?;
    wait_up(&one)?;
    wait_up(&two)?;
    let luns = wait_luns(&one, 2, 2)?;
    wait_luns(&two, 2, 2)?;
    context.say("both nodes see two LUNs, two paths each");

    make_pool(&one, &two, &luns[0])?;
    context.say("node 1 made domain and pool, and manages it; node 2 is refused the role");
    lose_a_path(&lab, &one)?;
    context.say("a path went and came back");
    wipe(&one)?;
    context.say("of the wiped volume no byte is in the one made after it");
    refresh(&one)?;
    context.say("what a refresh loads is what lvchange --refresh loads");
    let nodes = [&one, &two];
    create(&one, THIN, "--size 40G --format cow --initial 128M")?;
    let path = prepare(&two, THIN)?;
    let mut guest = Guest::start(&two, &path, 40)?;
    done(
        &two,
        &format!(
            "volume watch {} --drive {}={DOMAIN}/{THIN}/{THIN}",
            Guest::MONITOR,
            Guest::DRIVE
        ),
    )?;
    wait_larger(&two, 1024)?;
    context.say("asked through the mailbox, the volume grew");
    fill(context, &mut guest)?;
    let extends = role(&one)?.extends;
    ensure!(extends > 0, "the manager does not count its extends");
    kill_in_commit(context, &nodes, &mut guest)?;
    outlive_manager(context, &nodes, &mut guest)?;
    cut_manager(context, &nodes, &mut guest)?;
    // Fails when it finds anything worth a warning.
    two.shell(&format!("nodectl inspect /dev/mapper/{}", luns[0]))?;
    context.say("nodectl inspect finds nothing wrong with the domain");
    Ok(())
}

fn make_pool(one: &Node, two: &Node, lun: &str) -> Result<()> {
    done(
        one,
        &format!("domain create images --lun {lun} --id {DOMAIN}"),
    )?;
    let used = until("the LUN in use", PATIENCE, || {
        let Answer::Luns(luns) = done(one, "storage luns")? else {
            bail!("storage luns: no LUNs");
        };
        Ok(luns
            .into_iter()
            .find(|it| it.wwid == lun && it.used_by.is_some()))
    })?;
    let by = used.used_by.unwrap_or_default();
    ensure!(by.contains(DOMAIN), "LUN used by {by:?}");
    done(one, &format!("pool create main images --id {POOL}"))?;
    done(one, &format!("pool connect {POOL} --host-id 1"))?;
    wait_manager(&[one], PATIENCE)?;
    until("the domain on node 2", PATIENCE, || {
        let seen = ask(two, &format!("pool connect {POOL} --host-id 2"))?;
        if seen.is_err() {
            done(two, "storage rescan")?;
        }
        Ok(seen.ok())
    })?;
    let refused = ask(two, "spm start")?;
    ensure!(
        refused.is_err(),
        "node 2 got the role that node 1 holds: {refused:?}"
    );
    Ok(())
}

fn lose_a_path(lab: &Lab, node: &Node) -> Result<()> {
    lab.lose_portal(0);
    wait_luns(node, 2, 1)?;
    done(node, "volume list images")?;
    lab.restore_portal(0)?;
    wait_luns(node, 2, 2)?;
    Ok(())
}

/// Path of a prepared volume.
fn prepare(node: &Node, image: &str) -> Result<String> {
    match done(node, &format!("volume prepare images {image}"))? {
        Answer::Prepared(prepared) => Ok(prepared.path),
        other => bail!("volume prepare: {other:?}"),
    }
}

fn create(node: &Node, image: &str, more: &str) -> Result<()> {
    let line = format!("volume create images --image {image} --volume {image} {more}");
    done(node, &line).map(drop)
}

fn wipe(node: &Node) -> Result<()> {
    create(node, SECRET, "--size 128M --preallocated")?;
    let path = prepare(node, SECRET)?;
    node.shell(&format!(
        "tr '\\0' S </dev/zero | dd of={path} bs=1M count=128 iflag=fullblock oflag=direct 2>&1"
    ))?;
    let extents = |volume: &str| {
        node.shell(&format!(
            "lvs --noheadings -o devices,size {DOMAIN}/{volume}"
        ))
    };
    let before = extents(SECRET)?;
    done(node, &format!("volume teardown images {SECRET}"))?;
    done(
        node,
        &format!("volume delete images/{SECRET}/{SECRET} --wipe"),
    )?;
    create(node, REUSED, "--size 128M --preallocated")?;
    let path = prepare(node, REUSED)?;
    let after = extents(REUSED)?;
    ensure!(
        before == after,
        "the new volume has other extents: {after}, wiped were {before}"
    );
    let left = node.shell(&format!(
        "dd if={path} bs=1M iflag=direct 2>/dev/null | tr -d '\\0' | wc -c"
    ))?;
    ensure!(left.trim() == "0", "bytes left of the wiped volume: {left}");
    Ok(())
}

/// What is loaded after an extension, ours beside the original's.
fn refresh(node: &Node) -> Result<()> {
    let name = format!("{DOMAIN}/{REUSED}");
    let map = format!(
        "{}-{}",
        DOMAIN.replace('-', "--"),
        REUSED.replace('-', "--")
    );
    let ours = "/usr/lib/holdfast/storaged refresh-table";
    let table = || {
        Ok::<_, anyhow::Error>(
            node.shell(&format!("dmsetup table {map}"))?
                .trim()
                .to_owned(),
        )
    };
    let plan = |word: &str| -> Result<String> {
        let told = node.shell(&format!("{ours} --check {name}"))?;
        ensure!(
            told.contains(&format!("plan {word}")),
            "expected plan {word}: {told}"
        );
        let lines = told.lines().filter_map(|line| line.strip_prefix("wanted "));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    };
    plan("nothing")?;
    // By the original's way first; then, with a volume in between, by ours.
    node.shell(&format!(
        "lvextend -qq --driverloaded n -L 256m {name} 2>&1"
    ))?;
    let wanted = plan("load")?;
    node.shell(&format!("lvchange --refresh {name}"))?;
    ensure!(
        table()? == wanted,
        "LVM loads {}, we would {wanted}",
        table()?
    );
    plan("nothing")?;
    create(node, SECRET, "--size 128M --preallocated")?;
    node.shell(&format!(
        "lvextend -qq --driverloaded n -L 512m {name} 2>&1"
    ))?;
    let wanted = plan("load")?;
    ensure!(
        wanted.lines().count() == 2,
        "two segments expected: {wanted}"
    );
    node.shell(&format!("{ours} {name}"))?;
    ensure!(table()? == wanted, "we loaded {}, meant {wanted}", table()?);
    node.shell(&format!("lvchange --refresh {name}"))?;
    ensure!(
        table()? == wanted,
        "LVM loads {} after us, we {wanted}",
        table()?
    );
    Ok(())
}

/// Fast, and over several extensions.
fn fill(context: &Context<'_>, guest: &mut Guest<'_>) -> Result<()> {
    let rate = guest.write_to(FILLED_MIB)?;
    ensure!(
        rate > EXTENT_MIB,
        "the guest took {rate:.0} MiB/s: this machine is too slow to outrun one extent a second"
    );
    let size = size_mib(guest.node())?;
    ensure!(
        size > u64::from(FILLED_MIB),
        "{FILLED_MIB} MiB fit into {size}"
    );
    context.say(&format!(
        "the guest took {FILLED_MIB} MiB at {rate:.0} MiB/s without a pause"
    ));
    Ok(())
}

fn size_mib(node: &Node) -> Result<u64> {
    match done(node, &format!("volume show images/{THIN}/{THIN}"))? {
        Answer::Volume(volume) => Ok(volume.size_bytes >> 20),
        other => bail!("volume show: {other:?}"),
    }
}

/// Waits until the guest's volume is larger than `mib`.
fn wait_larger(node: &Node, mib: u64) -> Result<u64> {
    until(
        &format!("a volume of more than {mib} MiB"),
        BOOT_PATIENCE,
        || Ok(Some(size_mib(node)?).filter(|&size| size > mib)),
    )
}

/// Writes until more room is wanted, and no further. What the volume has now.
fn want_more(guest: &mut Guest<'_>) -> Result<u64> {
    let enough = u64::from(guest.written_mib() + WANTED_FREE_MIB);
    let size = wait_larger(guest.node(), enough)?;
    guest.write_to((u32::try_from(size)? - WANTED_FREE_MIB) / 4 * 4 + 64)?;
    Ok(size)
}

/// What LVM says of the domain, and whether anybody may write to it.
fn check_group(nodes: &[&Node]) -> Result<()> {
    let mut told = Vec::new();
    for node in nodes {
        node.shell(&format!("vgck {DOMAIN} 2>&1"))?;
        told.push(node.shell(&format!(
            "vgs --noheadings -o vg_seqno,vg_mda_count,vg_free_count {DOMAIN}"
        ))?);
    }
    ensure!(
        told.windows(2).all(|pair| pair[0] == pair[1]),
        "the nodes read different groups: {told:?}"
    );
    Ok(())
}

/// The manager is killed while its lvm commits.
fn kill_in_commit(context: &Context<'_>, nodes: &[&Node; 2], guest: &mut Guest<'_>) -> Result<()> {
    let manager = nodes[wait_manager(nodes, PATIENCE)?];
    let stand_in = StandIn::killing(manager, "lvextend|vgcfgrestore")?;
    let before = want_more(guest)?;
    let lvm = stand_in.wait()?;
    until("the end of its lvm", PATIENCE, || {
        let told = manager.shell(&format!("test -d /proc/{lvm} && echo there || true"))?;
        Ok(told.trim().is_empty().then_some(()))
    })?;
    let next = nodes[wait_manager(nodes, BOOT_PATIENCE)?];
    let after = wait_larger(guest.node(), before)?;
    check_group(nodes)?;
    context.say(&format!(
        "{}'s manager killed in a commit, with its lvm; {} is manager, the volume grew from {before} to {after} MiB",
        manager.spec.name, next.spec.name
    ));
    Ok(())
}

/// The manager is killed, but what it started goes on and commits later: until
/// then nobody else may have the role.
fn outlive_manager(context: &Context<'_>, nodes: &[&Node; 2], guest: &mut Guest<'_>) -> Result<()> {
    let at = wait_manager(nodes, PATIENCE)?;
    let (manager, other) = (nodes[at], nodes[1 - at]);
    let lvm = StandIn::holding(manager, "lvextend|vgcfgrestore")?;
    let writer = role(manager)?.writer_pid.context("no writer")?;
    let before = want_more(guest)?;
    let held = lvm.wait()?;
    manager.shell(&format!("kill -KILL {writer}"))?;
    until("the end of the manager", PATIENCE, || {
        Ok((role(manager)?.state != "here").then_some(()))
    })?;
    manager.shell(&format!("test -d /proc/{held}"))?;
    for node in [other, manager] {
        let refused = ask(node, "spm start")?;
        ensure!(
            refused.is_err(),
            "{} is manager while a commit of the last one is not over",
            node.spec.name
        );
    }
    ensure!(
        size_mib(guest.node())? == before,
        "the commit that is held back is on the disk"
    );
    lvm.release()?;
    let next = nodes[wait_manager(nodes, BOOT_PATIENCE)?];
    let after = wait_larger(guest.node(), before)?;
    check_group(nodes)?;
    context.say(&format!(
        "{}'s manager killed, its commit outlived it: {} is manager only now, {before} MiB became {after}",
        manager.spec.name, next.spec.name
    ));
    Ok(())
}

/// The power of the manager's node goes while a request of the guest's stands.
fn cut_manager(context: &Context<'_>, nodes: &[&Node; 2], guest: &mut Guest<'_>) -> Result<()> {
    let [one, two] = nodes;
    if wait_manager(nodes, PATIENCE)? != 0 {
        done(two, "spm stop")?;
        wait_manager(&[one], BOOT_PATIENCE)?;
    }
    let cut = one.cut_power();
    let before = want_more(guest)?;
    context.say("power of node 1 cut, and the guest wrote on: the request stands");
    let early = ask(two, "spm start")?;
    let margin = Duration::from_secs(u64::from(IO_TIMEOUT_S) * 2);
    ensure!(
        early.is_err() || cut.elapsed() + margin >= DEAD,
        "node 2 took the role {:?} after node 1's power was cut",
        cut.elapsed()
    );
    if let Err(failure) = &early {
        ensure!(
            failure.kind != FailureKind::BadRequest,
            "node 2 is refused for the wrong reason: {failure}"
        );
    }
    wait_manager(&[two], BOOT_PATIENCE)?;
    let after = cut.elapsed();
    ensure!(
        after + margin >= DEAD,
        "node 2 took the role {after:?} after node 1's power was cut"
    );
    context.say(&format!(
        "node 2 made itself manager {:.1} s after the cut (free {} s after node 1's last renewal)",
        after.as_secs_f64(),
        DEAD.as_secs()
    ));
    let size = wait_larger(two, before)
        .context("the request that stood was not served by the new manager")?;
    guest.write_to(u32::try_from(before)? / 4 * 4 + 64)?;
    context.say(&format!(
        "the volume grew to {size} MiB; the guest met no end of it"
    ));
    Ok(())
}
