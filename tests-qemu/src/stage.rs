//! Two machines on one LUN, watched all the time: a thread asks each node for
//! its status, another follows the bytes on the shared disk, and a story waits
//! for conditions on what they saw.
//!
//! Every status is checked on arrival against the protocol's own arithmetic
//! ([`Timing`]): a belief that does not follow from the age the node itself
//! reports is a broken promise, whenever it shows.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use control::status::{HostReport, HostState, Snapshot};

use crate::line::lock;
use crate::lun::{Lun, Record};
use crate::node::{Node, STATUS_PATIENCE};

/// Number of machines on a stage.
pub const NODES: usize = 2;
/// How often the bytes on the shared disk are looked at.
const DISK_PAUSE: Duration = Duration::from_millis(200);
/// Pause between two status questions to one node.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// Difference allowed between two ages a node reports for one moment.
const AGE_TOLERANCE_MS: u64 = 2_000;

/// The delays the protocol promises, from the I/O timeout (sanlock specification §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// I/O timeout in seconds.
    pub io_timeout_s: u32,
    /// Watchdog's fire timeout in seconds.
    pub fire_timeout_s: u32,
}

impl Timing {
    /// Longest time between two renewals that go well.
    #[must_use]
    pub fn renewal(self) -> Duration {
        Duration::from_secs(u64::from(2 * self.io_timeout_s))
    }

    /// Without renewal for so long, a host is failing and its lease is lost.
    #[must_use]
    pub fn fail(self) -> Duration {
        Duration::from_secs(u64::from(8 * self.io_timeout_s))
    }

    /// Without renewal for so long, a host is dead: its watchdog has fired.
    #[must_use]
    pub fn dead(self) -> Duration {
        self.fail() + Duration::from_secs(u64::from(self.fire_timeout_s))
    }

    /// Why a belief contradicts the age reported with it, if it does.
    #[must_use]
    pub fn contradiction(self, host: &HostReport) -> Option<String> {
        let age = host.last_change_age_ms?;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (fail, dead) = (millis(self.fail()), millis(self.dead()));
        let allowed = match host.state {
            HostState::Free => 0..=u64::MAX,
            HostState::Unknown | HostState::Live => 0..=fail + AGE_TOLERANCE_MS,
            HostState::Fail => fail.saturating_sub(AGE_TOLERANCE_MS)..=dead + AGE_TOLERANCE_MS,
            HostState::Dead => dead.saturating_sub(AGE_TOLERANCE_MS)..=u64::MAX,
        };
        (!allowed.contains(&age)).then(|| {
            format!(
                "host {} is called {:?} {age} ms after its record last changed",
                host.host_id, host.state
            )
        })
    }
}

/// What is known of one machine.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Whether it is under power.
    pub powered: bool,
    /// Latest status and when it arrived.
    pub status: Option<(Instant, Snapshot)>,
    /// Its lease record as last seen on the disk, and when it had changed.
    pub record: Option<(Instant, Record)>,
}

impl View {
    /// The latest status.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.status.as_ref().map(|(_, snapshot)| snapshot)
    }

    /// What it believes of `host_id`.
    #[must_use]
    pub fn belief(&self, host_id: u32) -> Option<&HostReport> {
        self.snapshot()?
            .lockspace
            .as_ref()?
            .hosts
            .iter()
            .find(|host| host.host_id == host_id)
    }
}

#[derive(Debug, Default)]
struct State {
    views: [View; NODES],
    /// Looks at the shared disk that have ended.
    looks: u64,
    broken: Option<String>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The machines and everything known about them.
#[derive(Debug)]
pub struct Stage {
    shared: Arc<Shared>,
    nodes: [Option<Arc<Node>>; NODES],
    threads: Vec<JoinHandle<()>>,
    timing: Timing,
}

/// A read-only window on a stage for whoever draws it.
#[derive(Debug, Clone)]
pub struct Window {
    shared: Arc<Shared>,
}

impl Window {
    /// Blocks until something changes, for `pause` at most; answers with the
    /// views, or nothing once the stage is gone.
    #[must_use]
    pub fn next(&self, pause: Duration) -> Option<[View; NODES]> {
        let state = lock(&self.shared.state);
        if state.ended {
            return None;
        }
        let state = self
            .shared
            .changed
            .wait_timeout(state, pause)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        (!state.ended).then(|| state.views.clone())
    }
}

impl Stage {
    /// An empty stage around a LUN whose area starts at offset 0; machine
    /// number `n` uses host id `n`.
    #[must_use]
    pub fn new(lun: &Lun, timing: Timing) -> Self {
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        let lun = lun.clone();
        let disk = std::thread::spawn(move || follow_disk(&lun, &sink));
        Self {
            shared,
            nodes: [const { None }; NODES],
            threads: vec![disk],
            timing,
        }
    }

    /// A window for drawing.
    #[must_use]
    pub fn window(&self) -> Window {
        Window {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Puts a machine on the stage, at `index`, and begins to watch it.
    pub fn enter(&mut self, index: usize, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        self.nodes[index] = Some(Arc::clone(&node));
        lock(&self.shared.state).views[index].powered = true;
        self.shared.changed.notify_all();
        let (watched, sink, timing) =
            (Arc::downgrade(&node), Arc::clone(&self.shared), self.timing);
        self.threads.push(std::thread::spawn(move || {
            while let Some(node) = watched.upgrade() {
                if node.qmp.closed() || lock(&sink.state).ended {
                    break;
                }
                let seen = node.qmp.event_count();
                let status = node.console.status(STATUS_PATIENCE).ok();
                if let Some(snapshot) = status {
                    publish(&sink, index, snapshot, timing);
                }
                node.qmp.rest(seen, STATUS_PAUSE);
            }
        }));
        node
    }

    /// Cuts the power of machine `index`.
    pub fn cut_power(&mut self, index: usize) -> Instant {
        let at = self.nodes[index]
            .take()
            .map_or_else(Instant::now, |node| node.cut_power());
        let mut state = lock(&self.shared.state);
        state.views[index].powered = false;
        state.views[index].status = None;
        self.shared.changed.notify_all();
        at
    }

    /// The machine at `index`, if it is under power.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&Arc<Node>> {
        self.nodes[index].as_ref()
    }

    /// What is known now.
    #[must_use]
    pub fn views(&self) -> [View; NODES] {
        lock(&self.shared.state).views.clone()
    }

    /// Waits until `found` answers with something; a promise broken meanwhile
    /// by any node ends the wait.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut(&[View; NODES]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(broken) = &state.broken {
                bail!("promise broken: {broken}");
            }
            if let Some(answer) = found(&state.views) {
                return Ok(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let told: Vec<String> = state
                    .views
                    .iter()
                    .map(|view| format!("{:#?}", view.snapshot()))
                    .collect();
                bail!(
                    "{what}: not seen within {} s; last statuses: {}",
                    patience.as_secs(),
                    told.join("\n")
                );
            }
            for (index, node) in self.nodes.iter().enumerate() {
                if node.as_ref().is_some_and(|node| node.qmp.closed()) {
                    bail!("{what}: QEMU of node {} ended first", index + 1);
                }
            }
            let pause = left.min(Duration::from_secs(1));
            state = self
                .shared
                .changed
                .wait_timeout(state, pause)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until a look at the shared disk that began after this call has
    /// ended; the records in the views are then as new as the caller's last act.
    pub fn wait_disk(&self, patience: Duration) -> Result<()> {
        // The look under way may have passed a record before it changed.
        let enough = lock(&self.shared.state).looks + 2;
        let waiting = |state: &mut State| state.looks < enough;
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(lock(&self.shared.state), patience, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if state.looks < enough {
            bail!(
                "the shared disk: not looked at within {} s",
                patience.as_secs()
            );
        }
        Ok(())
    }

    /// Ends the watching and hands the machines over.
    #[must_use]
    pub fn leave(mut self) -> Vec<Arc<Node>> {
        self.end();
        self.nodes.iter_mut().filter_map(Option::take).collect()
    }

    fn end(&mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A watcher that panicked has already told its reason on stderr.
            drop(thread.join());
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Only a story that failed leaves machines here.
        for node in self.nodes.iter().flatten() {
            node.cut_power();
        }
        self.end();
    }
}

fn publish(sink: &Shared, index: usize, snapshot: Snapshot, timing: Timing) {
    let mut state = lock(&sink.state);
    let hosts = snapshot
        .lockspace
        .iter()
        .flat_map(|lockspace| &lockspace.hosts);
    let own = snapshot
        .lockspace
        .as_ref()
        .map_or(0, |lockspace| lockspace.host_id);
    for host in hosts.filter(|host| host.host_id != own) {
        if let Some(why) = timing.contradiction(host) {
            state
                .broken
                .get_or_insert(format!("node {}: {why}", index + 1));
        }
    }
    if state.views[index].powered {
        state.views[index].status = Some((Instant::now(), snapshot));
    }
    sink.changed.notify_all();
}

fn follow_disk(lun: &Lun, sink: &Shared) {
    loop {
        for (index, host_id) in (1..).take(NODES).enumerate() {
            // Unreadable just now is the same as unchanged; the story notices
            // when nothing ever changes.
            let Ok(Some(record)) = lun.record(host_id) else {
                continue;
            };
            let mut state = lock(&sink.state);
            let known = state.views[index].record.as_ref().map(|(_, record)| record);
            if known != Some(&record) {
                state.views[index].record = Some((Instant::now(), record));
                sink.changed.notify_all();
            }
        }
        let mut state = lock(&sink.state);
        state.looks += 1;
        sink.changed.notify_all();
        if state.ended {
            return;
        }
        let ended = |state: &mut State| !state.ended;
        drop(
            sink.changed
                .wait_timeout_while(state, DISK_PAUSE, ended)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        io_timeout_s: 5,
        fire_timeout_s: 60,
    };

    fn host(state: HostState, age_s: u64) -> HostReport {
        HostReport {
            host_id: 2,
            state,
            last_change_age_ms: Some(age_s * 1000),
            ..HostReport::default()
        }
    }

    #[test]
    fn beliefs_at_the_promised_ages_are_accepted() {
        for (state, age_s) in [
            (HostState::Live, 0),
            (HostState::Live, 40),
            (HostState::Fail, 41),
            (HostState::Fail, 100),
            (HostState::Dead, 101),
            (HostState::Free, 5000),
        ] {
            assert_eq!(
                TIMING.contradiction(&host(state, age_s)),
                None,
                "{state:?} at {age_s} s"
            );
        }
    }

    #[test]
    fn beliefs_too_early_or_too_late_are_contradictions() {
        for (state, age_s) in [
            (HostState::Live, 50),
            (HostState::Fail, 30),
            (HostState::Fail, 110),
            (HostState::Dead, 90),
        ] {
            assert!(
                TIMING.contradiction(&host(state, age_s)).is_some(),
                "{state:?} at {age_s} s"
            );
        }
    }
}
