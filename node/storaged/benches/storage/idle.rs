//! What the mailbox costs while nobody wants anything, and a look at the mail of
//! a full pool.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mailbox::load::Load;
use mailbox::{Committed, Outcome, timings};
use rustix::time::{ClockId, clock_gettime};
use storaged::mail::{HostMail, ManagerMail};

use crate::mail::{Master, extend};
use crate::model;
use crate::table::{Line, Unit, percentile};
use crate::{Scale, children_s, pause};

const PATIENCE: Duration = Duration::from_secs(60);

/// What this process used in a second.
struct Cost {
    /// Percent of a core.
    cpu: f64,
    /// From the disk.
    read_kib_s: f64,
    /// To the disk.
    written_kib_s: f64,
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    cpu_us: f64,
    read: f64,
    written: f64,
}

impl Counters {
    fn now() -> Result<Self> {
        let io = fs::read_to_string("/proc/self/io")?;
        let field = |name: &str| -> Result<f64> {
            io.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
                .with_context(|| format!("{name} in /proc/self/io"))
        };
        Ok(Self {
            cpu_us: cpu_us(ClockId::ProcessCPUTime),
            read: field("read_bytes:")?,
            written: field("write_bytes:")?,
        })
    }
}

fn watch(time: Duration) -> Result<Cost> {
    let (before, begun) = (Counters::now()?, Instant::now());
    pause(time);
    let (after, took) = (Counters::now()?, begun.elapsed().as_secs_f64());
    Ok(Cost {
        cpu: (after.cpu_us - before.cpu_us) / 1e6 / took * 100.0,
        read_kib_s: (after.read - before.read) / 1024.0 / took,
        written_kib_s: (after.written - before.written) / 1024.0 / took,
    })
}

/// The section about idle threads.
pub(crate) fn idle(scale: Scale) -> Result<()> {
    let time = Duration::from_secs(u64::from(scale.of(12)).max(4));
    // Until nothing is expected any more.
    let settle = Duration::from_millis(timings::FAST_FOR_MS + 1500);
    let master = Master::new()?;
    let manager = ManagerMail::start(
        Some(&master.place()),
        Arc::new(|batch| vec![Committed::Done; batch.extends.len()]),
        Arc::new(|_| {}),
    )?;
    pause(settle);
    let cost = watch(time)?;
    let dd = [
        dd_s(&master, model::MAILBOX_BYTES, scale)?,
        dd_s(&master, model::MAILBOXES_BYTES, scale)?,
    ];
    let [event, all] = dd;
    let cpu = (model::EVENT_READS * event + all) / model::CYCLE_S * 100.0;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let read = (model::EVENT_READS * model::MAILBOX_BYTES as f64 + model::MAILBOXES_BYTES as f64)
        / model::CYCLE_S
        / 1024.0;
    line(
        "manager: CPU (VDSM: its dd children alone, run here)",
        Unit::Percent,
        Some(cpu),
        cost.cpu,
        "under 0.1 %",
    );
    line(
        "manager: read from the disk",
        Unit::KibPerSecond,
        Some(read),
        cost.read_kib_s,
        "under 100 KiB/s",
    );
    line(
        "manager: written to the disk",
        Unit::KibPerSecond,
        None,
        cost.written_kib_s,
        "",
    );

    // A host that has sent and been answered, so that all of it was in use.
    let host = HostMail::start(&master.place(), 1, 1)?;
    let outcome = host.extend_and_wait(extend(1, 1), PATIENCE);
    ensure!(
        outcome == Some(Outcome::Done),
        "a request ended {outcome:?}"
    );
    pause(settle);
    ensure!(manager.stop(PATIENCE), "the manager's mail does not end");
    let cost = watch(time)?;
    line("host: CPU", Unit::Percent, None, cost.cpu, "under 0.1 %");
    line(
        "host: read from the disk",
        Unit::KibPerSecond,
        None,
        cost.read_kib_s,
        "under 100 KiB/s",
    );
    host.stop();
    Ok(())
}

fn line(what: &str, unit: Unit, vdsm: Option<f64>, ours: f64, aim: &str) {
    Line {
        section: "idle",
        what,
        unit,
        vdsm,
        ours,
        aim,
    }
    .print();
}

/// CPU seconds of one read as the original does it: a child for each.
fn dd_s(master: &Master, bytes: usize, scale: Scale) -> Result<f64> {
    let count = scale.of(100);
    let before = children_s()?;
    for _ in 0..count {
        let status = Command::new("dd")
            .arg(format!("if={}", master.place().inbox.display()))
            .args(["of=/dev/null", "iflag=direct", "count=1", "status=none"])
            .arg(format!("bs={bytes}"))
            .status()
            .context("dd: apt-get install coreutils")?;
        ensure!(status.success(), "dd: {status}");
    }
    Ok((children_s()? - before) / f64::from(count))
}

/// The section about one look at 249 mailboxes, without I/O.
pub(crate) fn scan(scale: Scale) {
    let mut load = Load::new(250);
    look(
        "CPU of a scan, nobody wants anything",
        &mut load,
        scale,
        |_, _| {},
    );
    load.ask(249, 1);
    load.scan();
    look(
        "CPU of a scan, 249 hosts wait, nothing new",
        &mut load,
        scale,
        |_, _| {},
    );
    look(
        "CPU of a scan, 249 new requests, answered",
        &mut load,
        scale,
        |load, turn| {
            load.ask(249, turn + 2);
        },
    );
}

fn look(what: &str, load: &mut Load, scale: Scale, mut before: impl FnMut(&mut Load, u32)) {
    let mut took: Vec<f64> = (0..scale.of(400))
        .map(|turn| {
            before(load, turn);
            let begun = cpu_us(ClockId::ThreadCPUTime);
            load.scan();
            cpu_us(ClockId::ThreadCPUTime) - begun
        })
        .collect();
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        Line {
            section: "scan",
            what: &format!("{what}, {name}"),
            unit: Unit::Microseconds,
            vdsm: None,
            ours: percentile(&mut took, share),
            aim: "",
        }
        .print();
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn cpu_us(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
