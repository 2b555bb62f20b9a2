//! Two nodes, one pool on an iSCSI target behind two portals. Node 1 makes the
//! domain and manages the pool; node 2 uses it. A path goes and comes back. What
//! was wiped is nowhere in a volume made after it. A guest on node 2 fills a thin
//! volume, first served by node 1; then node 1 loses its power in the middle,
//! node 2 becomes manager once node 1 is surely dead, and the guest never meets
//! the end of its volume. What a host loads to follow an extension is what
//! `lvchange --refresh` loads.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use control::storage::{Answer, FailureKind};

use super::Context;
use super::storage::{
    DEAD, POOL, ask, become_manager, done, iscsi, start, until, wait_luns, wait_up,
};
use crate::lab::{self, Chap, Lab};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE};

const DOMAIN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
const SECRET: &str = "11111111-2222-4333-8444-000000000001";
const REUSED: &str = "11111111-2222-4333-8444-000000000002";
const THIN: &str = "11111111-2222-4333-8444-000000000003";
/// One MiB, as a shift.
const MIB: u32 = 20;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut lab = Lab::new(&context.directory)?;
    let disks = [1, 2].map(|number| {
        let path = context.directory.join(format!("lun{number}.img"));
        lab::disk(&path, number, 12 << 10)
    });
    let [first, second] = disks;
    let chap = Chap {
        incoming: ("node".into(), "secret-of-the-nodes".into()),
        outgoing: ("array".into(), "secret-of-the-array".into()),
    };
    lab.serve_disks(&[first?, second?], Some(&chap))?;
    let connection = iscsi(&chap);
    let one = start(context, &lab, 1, &connection, &[])?;
    let two = start(context, &lab, 2, &connection, &[])?;
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
    fill(context, &one, &two)?;
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
    become_manager(one, PATIENCE)?;
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
    create(node, SECRET, "--size 256M --preallocated")?;
    let path = prepare(node, SECRET)?;
    node.shell(&format!(
        "tr '\\0' S </dev/zero | dd of={path} bs=1M count=256 iflag=fullblock oflag=direct 2>&1"
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
    create(node, REUSED, "--size 256M --preallocated")?;
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
        "lvextend -qq --driverloaded n -L 384m {name} 2>&1"
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
        "lvextend -qq --driverloaded n -L 640m {name} 2>&1"
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

/// A guest's writes through a real QEMU that never runs: the space they take is
/// what matters.
struct Guest<'a> {
    node: &'a Node,
    written: u32,
}

impl<'a> Guest<'a> {
    fn start(node: &'a Node, path: &str) -> Result<Self> {
        // Large clusters: few small writes take much room.
        node.shell(&format!(
            "qemu-img create -q -f qcow2 -o cluster_size=2M {path} 6G"
        ))?;
        node.shell(&format!(
            "coproc GUEST {{ qemu-system-x86_64 -M q35,accel=tcg -S -nodefaults -display none \
             -qmp stdio -qmp unix:/run/vm.qmp,server,nowait \
             -blockdev driver=host_device,node-name=disk,filename={path},cache.direct=on,aio=io_uring \
             -blockdev driver=qcow2,node-name=image,file=disk \
             -device virtio-blk-pci,drive=image,share-rw=on,werror=stop,rerror=stop >/run/guest.log 2>&1; }}; \
             echo '{{\"execute\":\"qmp_capabilities\"}}' >&${{GUEST[1]}}"
        ))?;
        until("QEMU", PATIENCE, || {
            Ok(node
                .shell("test -S /run/vm.qmp && grep -c return /run/guest.log || true")?
                .trim()
                .starts_with('1')
                .then_some(()))
        })?;
        Ok(Self { node, written: 0 })
    }

    /// Writes into every cluster below `mib` that is not written yet.
    fn write_to(&mut self, mib: u32) -> Result<()> {
        let first = self.written;
        self.node.shell(&format!(
            "for i in $(seq {first} 2 {}); do echo '{{\"execute\":\"human-monitor-command\",\"arguments\":{{\"command-line\":\"qemu-io image \\\"write -P 7 '$i'M 4k\\\"\"}}}}' >&${{GUEST[1]}}; done",
            mib - 2
        ))?;
        self.written = mib;
        let wanted = mib / 2;
        until("the guest's writes", BOOT_PATIENCE, || {
            let told = self.node.shell(
                "grep -c 'bytes at offset' /run/guest.log; grep -c -e failed -e error /run/guest.log || true",
            )?;
            let mut counts = told.split_whitespace().map(|word| word.parse::<u32>());
            let (Some(Ok(good)), Some(Ok(bad))) = (counts.next(), counts.next()) else {
                bail!("counting writes: {told}");
            };
            if bad > 0 {
                let words = self.node.shell("tail -c 2000 /run/guest.log")?;
                bail!("{bad} writes failed: {words}");
            }
            Ok((good >= wanted).then_some(()))
        })
    }
}

fn fill(context: &Context<'_>, one: &Node, two: &Node) -> Result<()> {
    create(one, THIN, "--size 6G --format cow --initial 128M")?;
    let path = prepare(two, THIN)?;
    let mut guest = Guest::start(two, &path)?;
    done(
        two,
        &format!("volume watch /run/vm.qmp --drive disk={DOMAIN}/{THIN}/{THIN}"),
    )?;
    let size = |node: &Node| -> Result<u64> {
        match done(node, &format!("volume show images/{THIN}/{THIN}"))? {
            Answer::Volume(volume) => Ok(volume.size_bytes >> MIB),
            other => bail!("volume show: {other:?}"),
        }
    };
    let wait_size = |node: &Node, mib: u64, patience: Duration| {
        until(&format!("a volume of {mib} MiB"), patience, || {
            let now = size(node)?;
            Ok((now >= mib).then_some(now))
        })
    };
    let first = wait_size(two, 1024, PATIENCE)?;
    guest.write_to(512)?;
    context.say(&format!(
        "asked through the mailbox, the volume grew to {first} MiB"
    ));

    let age = one.shell("nodectl lease status")?;
    ensure!(age.contains(DOMAIN), "node 1 holds no lockspace: {age}");
    let cut = one.cut_power();
    // Beyond the next threshold, with nobody to ask; still inside the volume.
    guest.write_to(1024)?;
    context.say("power of node 1 cut, and the guest wrote on: the request stands");
    let early = ask(two, "spm start")?;
    ensure!(
        early.is_err()
            || cut.elapsed() + Duration::from_secs(u64::from(super::storage::IO_TIMEOUT_S) * 2)
                >= DEAD,
        "node 2 took the role {:?} after node 1's power was cut",
        cut.elapsed()
    );
    if let Err(failure) = &early {
        ensure!(
            failure.kind != FailureKind::BadRequest,
            "node 2 is refused for the wrong reason: {failure}"
        );
    }
    become_manager(two, BOOT_PATIENCE)?;
    let after = Instant::now().duration_since(cut);
    context.say(&format!(
        "node 2 is manager {:.1} s after the cut (free {} s after node 1's last renewal)",
        after.as_secs_f64(),
        DEAD.as_secs()
    ));
    let second = wait_size(two, first + 1024, BOOT_PATIENCE)
        .context("the request that stood was not served by the new manager")?;
    guest.write_to(u32::try_from(first)? + 64)?;
    context.say(&format!(
        "the volume grew to {second} MiB; the guest met no end of it"
    ));
    Ok(())
}
