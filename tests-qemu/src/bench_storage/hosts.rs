//! The hosts of a pool: their mailbox cores, run here on the LUN that the node
//! manages. What they do to it is what 249 machines would do.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use disk_format::vdsm::mailbox::Extend;
use mailbox::host::{Config, Input};
use mailbox::{Effect, Host, IoOutcome, Monotonic, Outcome, RequestId, Volume};

use super::lun::Disk;

/// A manager in emulation takes its time.
const PATIENCE: Duration = Duration::from_secs(600);
/// EIO.
const FAILED: i32 = 5;

/// So many hosts, numbered from 1.
pub(super) struct Hosts<'a> {
    disk: &'a Disk,
    inbox: u64,
    outbox: u64,
    hosts: Vec<Host>,
    started: Instant,
    next_request: u64,
}

impl<'a> Hosts<'a> {
    /// Starts them and waits until they may send.
    pub(super) fn start(disk: &'a Disk, count: u16) -> Result<Self> {
        let host = |host_id| {
            Host::new(Config {
                host_id,
                seed: u64::from(host_id),
            })
        };
        let mut hosts = Self {
            disk,
            inbox: disk.place("inbox")?,
            outbox: disk.place("outbox")?,
            hosts: (1..=count).map(host).collect(),
            started: Instant::now(),
            next_request: 1,
        };
        let deadline = Instant::now() + PATIENCE;
        while !hosts.hosts.iter().all(Host::is_running) {
            ensure!(
                Instant::now() < deadline,
                "the hosts' mailboxes do not start"
            );
            hosts.turn(&mut |_, _| {});
        }
        Ok(hosts)
    }

    /// Lets each of the first hosts ask for one of these, at once; how long each
    /// waited for its volume.
    pub(super) fn ask(&mut self, extends: &[Extend]) -> Result<Vec<Duration>> {
        let first = self.next_request;
        let begun = Instant::now();
        for (host, extend) in extends.iter().enumerate() {
            let request = RequestId(self.next_request);
            self.next_request += 1;
            let now = self.now();
            self.hosts[host].handle(now, Input::Extend(request, *extend));
        }
        let mut took = Vec::new();
        let mut wrong = Vec::new();
        while took.len() < extends.len() {
            self.turn(&mut |request, outcome| {
                if request.0 >= first {
                    took.push(begun.elapsed());
                }
                if outcome != Outcome::Done {
                    wrong.push(outcome);
                }
            });
            ensure!(
                begun.elapsed() < PATIENCE,
                "{} answers of {}",
                took.len(),
                extends.len()
            );
        }
        if let Some(outcome) = wrong.first() {
            bail!("{} requests ended {outcome:?}", wrong.len());
        }
        Ok(took)
    }

    /// Lets everything happen that is due, then waits for what is due next.
    fn turn(&mut self, ended: &mut dyn FnMut(RequestId, Outcome)) {
        for index in 0..self.hosts.len() {
            let now = self.now();
            let host = &mut self.hosts[index];
            host.handle(now, Input::Tick);
            while let Some(effect) = self.hosts[index].next_effect() {
                self.perform(index, effect, ended);
            }
            while self.hosts[index].next_note().is_some() {}
        }
        let next = self.hosts.iter().filter_map(Host::deadline).min();
        let left = next.map_or(1_000_000, |next| next.0.saturating_sub(self.now().0));
        std::thread::park_timeout(Duration::from_nanos(left.min(5_000_000)));
    }

    fn perform(&mut self, index: usize, effect: Effect, ended: &mut dyn FnMut(RequestId, Outcome)) {
        let start = |volume| match volume {
            Volume::Inbox => self.inbox,
            Volume::Outbox => self.outbox,
        };
        match effect {
            Effect::Read {
                io,
                volume,
                offset,
                length,
            } => {
                let mut bytes = vec![0; length];
                let at = start(volume) + offset;
                let read = self.disk.file().read_exact_at(&mut bytes, at);
                let outcome = match read {
                    Ok(()) => IoOutcome::Read(&bytes),
                    Err(_) => IoOutcome::Failed(FAILED),
                };
                let now = self.now();
                self.hosts[index].handle(now, Input::Io(io, outcome));
            }
            Effect::Write {
                io,
                volume,
                offset,
                bytes,
            } => {
                let at = start(volume) + offset;
                let outcome = match self.disk.file().write_all_at(&bytes, at) {
                    Ok(()) => IoOutcome::Written,
                    Err(_) => IoOutcome::Failed(FAILED),
                };
                let now = self.now();
                self.hosts[index].handle(now, Input::Io(io, outcome));
            }
            Effect::Completed { request, outcome } => ended(request, outcome),
            Effect::Extend(_) | Effect::Stopped => {}
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
