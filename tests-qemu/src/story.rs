//! The cluster's story, told by `cargo demo` and checked by `cargo verify`.
//!
//! Two nodes boot on one blank LUN; node 1 initialises the lockspace, both
//! join and see each other. Node 2 loses its power: node 1 must call it live,
//! then failing, then dead, at the times the protocol promises and no sooner.
//! Node 2 comes back with a higher generation. Node 1 loses its LUN: its own
//! watchdog must reset it before node 2 may call it dead. Last, node 1 gets its
//! LUN back and rejoins.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control::status::{HostState, LockspaceState};

use crate::document::Document;
use crate::kept::{self, KeptNode};
use crate::lun::{self, Lun};
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Spec};
use crate::stage::{NODES, Stage, Timing, View, Window};

/// Name of the lockspace.
pub const LOCKSPACE: &str = "demo";
/// The protocol's delays in the story. The I/O timeout is half the usual one:
/// quick to watch, yet far above what a disk of an emulated machine needs.
pub const TIMING: Timing = Timing {
    io_timeout_s: 5,
    fire_timeout_s: 60,
};
/// How much later than promised something may show: emulation, and the time a
/// status takes to come out of a busy guest.
const LATENESS: Duration = Duration::from_secs(45);
/// How long after its promised moment a watchdog reset may reach us; the promise
/// is about safety, so this covers only QEMU's own main loop.
const RESET_LATENESS: Duration = Duration::from_secs(3);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Since the story began.
    pub at: Duration,
    /// What happened.
    pub what: String,
    /// What the protocol promises about it, and what was observed.
    pub promise: Option<String>,
}

/// Receives the moments as they come.
pub trait Audience {
    /// Something happened.
    fn moment(&self, moment: &Moment);
    /// The cluster exists; `window` shows it until it ends.
    fn curtain(&self, window: Window);
}

/// How the story is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Telling {
    /// The machines survive this program.
    pub outlive: bool,
}

/// What remains when the story has ended well.
#[derive(Debug)]
pub struct Ending {
    /// Everything that happened.
    pub moments: Vec<Moment>,
    /// The machines, still under power.
    pub nodes: Vec<Arc<Node>>,
}

struct Teller<'a> {
    began: Instant,
    moments: Vec<Moment>,
    audience: &'a dyn Audience,
}

impl Teller<'_> {
    fn tell(&mut self, what: impl Into<String>, promise: Option<String>) {
        let moment = Moment {
            at: self.began.elapsed(),
            what: what.into(),
            promise,
        };
        self.audience.moment(&moment);
        self.moments.push(moment);
    }
}

/// Tells the story in `directory`.
pub fn tell(
    image: &image::Artifacts,
    directory: &Path,
    telling: Telling,
    audience: &dyn Audience,
) -> Result<Ending> {
    let mut teller = Teller {
        began: Instant::now(),
        moments: Vec::new(),
        audience,
    };
    let lun = Lun::create(&directory.join("shared.lun"), 1, 16)?;
    let spec = |number: u8| {
        let document = Document::new(number).with_lockspace(
            LOCKSPACE,
            &lun,
            u32::from(number),
            TIMING.io_timeout_s,
        );
        let mut spec = Spec::new(image, number)
            .with_config(document.text())
            .with_lun(&lun);
        spec.outlive = telling.outlive;
        spec
    };
    let mut stage = Stage::new(&lun, TIMING);
    audience.curtain(stage.window());

    let first = enter(&mut stage, 0, spec(1), directory)?;
    enter(&mut stage, 1, spec(2), directory)?;
    teller.tell("both nodes powered on; the shared LUN is blank", None);
    join(&stage, &first, &lun, &mut teller)?;
    power_cut(&mut stage, &mut teller)?;
    restart(&mut stage, spec(2), directory, &mut teller)?;
    lose_lun(&stage, &first, &mut teller)?;
    recover(&stage, &first, &lun, &mut teller)?;

    let dump = lun::original_dump(&lun, 2)?;
    ensure!(
        dump.contains("node1") && dump.contains("node2"),
        "the original tool does not see both nodes:\n{dump}"
    );
    teller.tell(
        "the original sanlock reads the area and names both nodes",
        None,
    );
    Ok(Ending {
        moments: teller.moments,
        nodes: stage.leave(),
    })
}

/// Starts a machine; one that outlives this program is on record from its
/// first moment, so that it can be ended even if this program is killed.
fn enter(stage: &mut Stage, index: usize, spec: Spec, directory: &Path) -> Result<Arc<Node>> {
    let outlive = spec.outlive;
    let node = stage.enter(index, Node::start(spec, directory)?);
    if outlive {
        let nodes: Vec<KeptNode> = (0..NODES)
            .filter_map(|index| stage.node(index))
            .map(|n| KeptNode::of(n))
            .collect();
        kept::record(directory, &nodes)?;
    }
    Ok(node)
}

/// Both nodes boot, the area is initialised, both hold their leases.
fn join(stage: &Stage, first: &Node, lun: &Lun, teller: &mut Teller<'_>) -> Result<()> {
    first.wait_console()?;
    teller.tell("node 1 answers on its console", None);
    // Its advice for a blank LUN, which it gives once the LUN has appeared.
    stage.wait("node 1 sees the blank LUN", BOOT_PATIENCE, |views| {
        let lockspace = views[0].snapshot()?.lockspace.as_ref()?;
        let reason = lockspace.reason.as_ref()?;
        reason.contains("lockspace init").then_some(())
    })?;
    let answer = first.command(&format!(
        "lockspace init {LOCKSPACE} --path {} --io-timeout {}",
        lun.guest_path(),
        TIMING.io_timeout_s
    ))?;
    ensure!(
        lun.record(1)?.is_some(),
        "lockspace init wrote no record; it answered: {answer}"
    );
    teller.tell(
        format!("lockspace {LOCKSPACE} initialised through node 1's console"),
        None,
    );
    for index in 0..2 {
        let generation = held(stage, index, 0)?;
        let address = stage.wait(
            &format!("bridge address of node {}", index + 1),
            PATIENCE,
            |views| views[index].snapshot()?.network.addresses.first().cloned(),
        )?;
        let host_id = index + 1;
        teller.tell(
            format!("node {host_id} is up at {address}, holds host id {host_id}, generation {generation}"),
            None,
        );
    }
    for (index, other) in [(0, 2), (1, 1)] {
        let what = format!("node {} believes host {other} live", index + 1);
        stage.wait(&what, PATIENCE, |views| {
            believes(&views[index], other, HostState::Live)
        })?;
    }
    teller.tell("each node believes the other live", None);
    Ok(())
}

/// Node 2 loses its power; node 1 must notice on time, not sooner.
fn power_cut(stage: &mut Stage, teller: &mut Teller<'_>) -> Result<()> {
    stage.cut_power(1);
    let renewed = record_time(stage, 1)?;
    teller.tell(
        "power of node 2 cut",
        Some(format!(
            "its last renewal was {} ago",
            seconds(renewed.elapsed())
        )),
    );
    let beliefs = [
        (HostState::Fail, "failing", TIMING.fail()),
        (HostState::Dead, "dead", TIMING.dead()),
    ];
    for (state, word, promised) in beliefs {
        // Node 1 looks once per renewal interval, so its clock starts late by that much.
        let latest = promised + TIMING.renewal() + LATENESS;
        let seen = stage.wait(&format!("node 1 believes host 2 {word}"), latest, |views| {
            believes(&views[0], 2, state)?;
            views[0].status.as_ref().map(|(at, _)| *at)
        })?;
        let observed = seen.duration_since(renewed);
        ensure!(
            observed >= promised,
            "promise broken: node 1 believed host 2 {word} {} after its last renewal, promised no sooner than {}",
            seconds(observed),
            seconds(promised)
        );
        teller.tell(
            format!("node 1 believes node 2 {word}"),
            Some(format!(
                "{} after its last renewal; promised {} to {}, asked once a second",
                seconds(observed),
                seconds(promised),
                seconds(promised + TIMING.renewal())
            )),
        );
    }
    Ok(())
}

/// Node 2 comes back and must hold its lease with a higher generation.
fn restart(stage: &mut Stage, spec: Spec, directory: &Path, teller: &mut Teller<'_>) -> Result<()> {
    let before = record_generation(stage, 1)?;
    enter(stage, 1, spec, directory)?;
    teller.tell("node 2 powered on again", None);
    let generation = held(stage, 1, before)?;
    teller.tell(
        format!("node 2 holds host id 2 again, generation {generation}"),
        Some(format!("higher than the {before} it had before")),
    );
    stage.wait("node 1 believes host 2 live again", PATIENCE, |views| {
        let host = views[0].belief(2)?;
        (host.state == HostState::Live && host.generation == generation).then_some(())
    })?;
    stage.wait("node 2 believes host 1 live", PATIENCE, |views| {
        believes(&views[1], 1, HostState::Live)
    })?;
    teller.tell("each node believes the other live again", None);
    Ok(())
}

/// Node 1 loses its LUN; its watchdog must reset it before anybody may call it dead.
fn lose_lun(stage: &Stage, first: &Node, teller: &mut Teller<'_>) -> Result<()> {
    let boot_id = stage.views()[0]
        .snapshot()
        .map(|snapshot| snapshot.boot_id.clone())
        .unwrap_or_default();
    let first_event = first.qmp.event_count();
    first.unplug("lun0")?;
    let renewed = record_time(stage, 0)?;
    teller.tell(
        "LUN taken away from node 1",
        Some(format!(
            "its last renewal was {} ago",
            seconds(renewed.elapsed())
        )),
    );
    let latest = TIMING.dead().saturating_sub(renewed.elapsed()) + LATENESS;
    let fired = first.wait_watchdog(first_event, latest)?;
    let observed = fired.at.duration_since(renewed);
    ensure!(
        observed <= TIMING.dead() + RESET_LATENESS,
        "promise broken: the watchdog reset node 1 {} after its last renewal, promised within {}",
        seconds(observed),
        seconds(TIMING.dead())
    );
    ensure!(
        observed >= TIMING.fail(),
        "the watchdog reset node 1 {} after its last renewal, while its lease was still good (until {})",
        seconds(observed),
        seconds(TIMING.fail())
    );
    let early = believes(&stage.views()[1], 1, HostState::Dead).is_some();
    ensure!(
        !early,
        "promise broken: node 2 believed node 1 dead before its watchdog had fired"
    );
    teller.tell(
        "the watchdog reset node 1",
        Some(format!(
            "{} after its last renewal; promised {} at the latest",
            seconds(observed),
            seconds(TIMING.dead())
        )),
    );
    first.wait_reset(first_event, PATIENCE)?;
    stage.wait(
        "node 2 believes host 1 dead",
        TIMING.dead() + LATENESS,
        |views| believes(&views[1], 1, HostState::Dead),
    )?;
    teller.tell(
        "node 2 believes node 1 dead",
        Some("after the reset, not before".to_owned()),
    );
    stage.wait("node 1 boots again", BOOT_PATIENCE, |views| {
        let snapshot = views[0].snapshot()?;
        (snapshot.boot_id != boot_id).then_some(())
    })?;
    teller.tell(
        "node 1 is up again, without its LUN",
        Some("a new boot id".to_owned()),
    );
    Ok(())
}

/// Node 1 gets its LUN back and rejoins.
fn recover(stage: &Stage, first: &Node, lun: &Lun, teller: &mut Teller<'_>) -> Result<()> {
    let before = record_generation(stage, 0)?;
    first.plug(lun, "again")?;
    teller.tell("LUN given back to node 1", None);
    let generation = held(stage, 0, before)?;
    teller.tell(
        format!("node 1 holds host id 1 again, generation {generation}"),
        Some(format!("higher than the {before} it had before")),
    );
    Ok(())
}

/// Waits until node `index` holds its lease with a generation above `above`.
fn held(stage: &Stage, index: usize, above: u64) -> Result<u64> {
    let what = format!(
        "node {} holds its host id with a generation above {above}",
        index + 1
    );
    stage.wait(&what, BOOT_PATIENCE, |views| {
        let lockspace = views[index].snapshot()?.lockspace.as_ref()?;
        let generation = lockspace
            .generation
            .filter(|&generation| generation > above)?;
        (lockspace.state == LockspaceState::Held).then_some(generation)
    })
}

fn believes(view: &View, host_id: u32, state: HostState) -> Option<()> {
    (view.belief(host_id)?.state == state).then_some(())
}

/// When the lease record of node `index` last changed on the disk; counts
/// everything written before the call.
fn record_time(stage: &Stage, index: usize) -> Result<Instant> {
    stage.wait_disk(PATIENCE)?;
    let record = stage.views()[index].record.clone();
    record
        .map(|(at, _)| at)
        .with_context(|| format!("no lease record of node {} was ever seen", index + 1))
}

fn record_generation(stage: &Stage, index: usize) -> Result<u64> {
    let record = stage.views()[index].record.clone();
    let record =
        record.with_context(|| format!("no lease record of node {} was ever seen", index + 1))?;
    Ok(record.1.generation)
}

/// A duration for people.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
