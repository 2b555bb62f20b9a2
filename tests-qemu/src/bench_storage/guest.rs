//! How fast a thin volume may be filled without a write that finds no room.
//!
//! A real QEMU in the node has a thin QCOW2 volume open, watched as a guest's
//! is. Its block layer is written to through an NBD export by `qemu-img bench`:
//! 4 KiB into each cluster of 2 MiB, several at a time, since an emulated guest
//! inside an emulated node would be the only thing measured. The volume's
//! allocation grows by 2 MiB a write; a write that finds no room fails, which is
//! where a guest would be stopped.
//!
//! Of the original the limit L / T is given: L what is free when it begins to
//! extend (its defaults, 2048 MiB), T its waiting by its constants plus what its
//! own commands took in this node in this run.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use control::storage::Answer;

use super::model::{self, Sharing};
use super::table::{Line, Unit, percentile};
use super::{Commands, DOMAIN, Lab, NAME, Scale};
use crate::node::{BOOT_PATIENCE, PATIENCE};
use crate::scenarios::storage::{done, until};

const THIN: &str = "11111111-2222-4333-8444-000000000001";
/// Virtual size: more than is ever written.
const SIZE_GIB: u64 = 512;
/// Allocated by each write.
const CLUSTER_MIB: u64 = 2;
/// Free when an extension begins, by both sides' defaults.
const FREE_MIB: u64 = 2048;
/// What an extension adds.
const CHUNK_MIB: u64 = 2560;
/// How often the original looks by itself when no event tells it.
const POLLING: Duration = Duration::from_secs(2);
/// Rates tried when the fastest possible is too fast, MiB a second.
const RATES: [u64; 12] = [1600, 1200, 1000, 800, 600, 500, 400, 300, 200, 150, 100, 50];

/// What a run of writes came to.
enum Run {
    /// All done, so many MiB a second.
    Sustained(f64),
    /// One found no room.
    Stopped,
}

struct Writer<'a> {
    lab: &'a Lab<'a>,
    path: String,
    written_mib: u64,
}

/// Prints the lines.
pub(super) fn run(lab: &Lab<'_>, commands: &Commands) -> Result<()> {
    let mut writer = Writer::start(lab)?;
    let mib = match lab.scale {
        Scale::Full => 10 * CHUNK_MIB,
        Scale::Quick => 3 * CHUNK_MIB,
    };
    let before = lab.disk.group()?.seqno;
    let (mut found, mut limited) = (writer.write(mib, None)?, false);
    if let Run::Stopped = found {
        limited = true;
        for rate in RATES {
            found = writer.write(mib, Some(rate))?;
            if let Run::Sustained(_) = found {
                break;
            }
        }
    }
    let Run::Sustained(ours) = found else {
        bail!("no rate tried was sustained");
    };
    (lab.say)(&format!(
        "{} MiB allocated in {} commits",
        writer.written_mib,
        lab.disk.group()?.seqno - before
    ));
    print(commands, ours, limited);
    Ok(())
}

fn print(commands: &Commands, ours: f64, limited: bool) {
    let mut mail = model::round_trips(commands.extend, Sharing::None);
    let mail = Duration::from_secs_f64(percentile(&mut mail, 1.0) / 1e3);
    let events = model::DISPATCH + mail + commands.refresh;
    // Without events its manager looks every 2 s, and so does the host for the
    // answer; the monitor that asks does too.
    let period = POLLING.as_secs_f64();
    let turns = ((period + commands.extend.as_secs_f64()) / period).ceil();
    let polling = POLLING + POLLING.mul_f64(turns) + commands.refresh;
    let through_mail = model::DISPATCH + commands.our_mail + commands.our_refresh;
    // What emulation cannot go beyond says nothing beside a computed limit.
    let line = |what: &str, vdsm: Option<Duration>, ours| {
        Line {
            section: "guest",
            what,
            unit: Unit::MibPerSecond,
            vdsm: vdsm.map(limit),
            ours,
            aim: "",
        }
        .print();
    };
    let shown = |time: Duration| format!("T = {} ms", time.as_millis());
    if limited {
        line(
            &format!(
                "filled, highest without a failed write (VDSM: {})",
                shown(events)
            ),
            Some(events),
            ours,
        );
    } else {
        line(
            "filled as fast as this machine can, no write failed",
            None,
            ours,
        );
    }
    line(
        &format!(
            "L / T, worst: {} (VDSM, events: {})",
            shown(through_mail),
            shown(events)
        ),
        Some(events),
        limit(through_mail),
    );
    line(
        &format!("L / T, worst (VDSM, polling: {})", shown(polling)),
        Some(polling),
        limit(through_mail),
    );
}

/// L / T.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn limit(time: Duration) -> f64 {
    FREE_MIB as f64 / time.as_secs_f64()
}

impl<'a> Writer<'a> {
    /// A thin volume, and a QEMU that has it open and is watched.
    fn start(lab: &'a Lab<'a>) -> Result<Self> {
        let node = &lab.node;
        done(
            node,
            &format!(
                "volume create {NAME} --image {THIN} --volume {THIN} --size {SIZE_GIB}G --format cow --initial 128M"
            ),
        )?;
        let path = match done(node, &format!("volume prepare {NAME} {THIN}"))? {
            Answer::Prepared(prepared) => prepared.path,
            other => bail!("volume prepare: {other:?}"),
        };
        // Large clusters: few small writes take much room.
        node.shell(&format!(
            "qemu-img create -q -f qcow2 -o cluster_size=2M,extended_l2=on {path} {SIZE_GIB}G"
        ))?;
        node.shell(&format!(
            ": >/run/guest.log; coproc GUEST {{ qemu-system-x86_64 -M q35,accel=tcg -m 32 -S -nodefaults -display none \
             -qmp stdio -qmp unix:/run/vm.qmp,server,nowait -object throttle-group,id=rate \
             -blockdev driver=host_device,node-name=disk,filename={path},cache.direct=on,aio=io_uring \
             -blockdev driver=qcow2,node-name=image,file=disk \
             -blockdev driver=throttle,node-name=limited,file=image,throttle-group=rate \
             -device virtio-blk-pci,drive=image,share-rw=on,werror=stop,rerror=stop >>/run/guest.log 2>&1; }}"
        ))?;
        let writer = Self {
            lab,
            path,
            written_mib: 0,
        };
        for command in [
            r#"{"execute":"qmp_capabilities"}"#,
            r#"{"execute":"nbd-server-start","arguments":{"addr":{"type":"unix","data":{"path":"/run/nbd.sock"}}}}"#,
            r#"{"execute":"block-export-add","arguments":{"type":"nbd","id":"writer","node-name":"limited","name":"image","writable":true}}"#,
        ] {
            writer.tell(command)?;
        }
        done(
            node,
            &format!("volume watch /run/vm.qmp --drive disk={DOMAIN}/{THIN}/{THIN}"),
        )?;
        writer.settle()?;
        (lab.say)("a QEMU has a thin volume open");
        Ok(writer)
    }

    /// Gives QEMU an order and waits until it has answered.
    fn tell(&self, command: &str) -> Result<()> {
        let node = &self.lab.node;
        let count = || -> Result<u32> {
            let told = node.shell(
                "grep -c '\"return\"' /run/guest.log; grep -e '\"error\"' -e ^qemu- /run/guest.log || true",
            )?;
            let (count, errors) = told.split_once('\n').unwrap_or((&told, ""));
            ensure!(errors.trim().is_empty(), "QEMU, {command}: {errors}");
            count.trim().parse().with_context(|| told.clone())
        };
        let before = count()?;
        node.shell(&format!("echo '{command}' >&${{GUEST[1]}}"))?;
        until("QEMU's answer", PATIENCE, || {
            Ok((count()? > before).then_some(()))
        })
    }

    /// Waits until so much is free as the monitor wants there to be.
    fn settle(&self) -> Result<()> {
        until("room in the volume", BOOT_PATIENCE, || {
            let told = self
                .lab
                .node
                .shell(&format!("blockdev --getsize64 {}", self.path))?;
            let mib = told.trim().parse::<u64>().context("size of the volume")? >> 20;
            Ok((mib >= self.written_mib + FREE_MIB).then_some(()))
        })
    }

    /// Fills `mib` more, at most so many a second.
    fn write(&mut self, mib: u64, rate_mib: Option<u64>) -> Result<Run> {
        let iops = rate_mib.map_or(0, |rate| rate / CLUSTER_MIB);
        self.tell(&format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"/objects/rate","property":"limits","value":{{"iops-total":{iops}}}}}}}"#
        ))?;
        self.settle()?;
        let told = self.lab.node.shell(&format!(
            "qemu-img bench -w -f raw -d 4 -s 4096 -S 2M -o {}M -c {} 'nbd+unix:///image?socket=/run/nbd.sock' 2>&1; true",
            self.written_mib,
            mib / CLUSTER_MIB
        ))?;
        self.written_mib += mib;
        let rate = rate_mib.map_or("as fast as possible".to_owned(), |rate| {
            format!("at {rate} MiB/s")
        });
        let took = told.lines().find_map(|line| {
            let rest = line.strip_prefix("Run completed in ")?;
            rest.strip_suffix(" seconds.")?.parse::<f64>().ok()
        });
        (self.lab.say)(&format!("{mib} MiB {rate}: {}", told.trim()));
        match took {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            Some(took) => Ok(Run::Sustained(mib as f64 / took)),
            None if told.contains("No space left") => Ok(Run::Stopped),
            None => bail!("qemu-img bench: {told}"),
        }
    }
}
