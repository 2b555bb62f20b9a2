//! Hosts and an SPM on one healthy disk; commits take a while.

use std::collections::BTreeMap;

use disk_format::vdsm::mailbox::Extend;
use disk_format::vdsm::{DomainId, VolumeId};
use mailbox::{
    Batch, Committed, Effect, Host, IoOutcome, Manager, Monotonic, Note, Outcome, RequestId, host,
    manager,
};

use crate::disk::{Disk, MS};

pub(crate) const MAILBOXES: u16 = 250;

pub(crate) fn extend(volume: u8, size_mib: u32) -> Extend {
    Extend {
        domain: DomainId::from_bytes([0xdd; 16]),
        volume: VolumeId::from_bytes([volume; 16]),
        size_mib,
    }
}

pub(crate) struct Pair {
    pub(crate) now: u64,
    pub(crate) disk: Disk,
    pub(crate) hosts: Vec<Host>,
    pub(crate) manager: Option<Manager>,
    pub(crate) commit_ms: u64,
    /// What each commit is answered with; `Done` when there is nothing.
    pub(crate) results: Vec<Committed>,
    pub(crate) commits: Vec<Batch>,
    under_way: Vec<(u64, Batch)>,
    pub(crate) sizes: BTreeMap<VolumeId, u32>,
    /// Request, outcome, and when.
    pub(crate) answers: BTreeMap<u64, (Outcome, u64)>,
    pub(crate) notes: Vec<Note>,
    next: u64,
}

impl Pair {
    pub(crate) fn new(hosts: u16) -> Self {
        let config = |host_id| host::Config {
            host_id,
            seed: 63 * u64::from(host_id),
        };
        Self {
            now: 0,
            disk: Disk::new(usize::from(MAILBOXES) * 4096),
            hosts: (1..=hosts).map(|id| Host::new(config(id))).collect(),
            manager: Some(Manager::new(manager::Config::default())),
            commit_ms: 30,
            results: Vec::new(),
            commits: Vec::new(),
            under_way: Vec::new(),
            sizes: BTreeMap::new(),
            answers: BTreeMap::new(),
            notes: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn ask(&mut self, host: usize, extend: Extend) -> u64 {
        self.next += 1;
        let now = Monotonic(self.now);
        self.hosts[host].handle(now, host::Input::Extend(RequestId(self.next), extend));
        self.settle();
        self.next
    }

    pub(crate) fn ask_locally(&mut self, extend: Extend, urgent: bool) -> u64 {
        self.next += 1;
        let now = Monotonic(self.now);
        let request = RequestId(self.next);
        let input = manager::Input::LocalExtend {
            request,
            extend,
            urgent,
        };
        self.manager.as_mut().expect("an SPM").handle(now, input);
        self.settle();
        self.next
    }

    fn on(&mut self, effect: Effect) {
        match effect {
            Effect::Completed { request, outcome } => {
                let before = self.answers.insert(request.0, (outcome, self.now));
                assert_eq!(before, None, "request {} is answered once", request.0);
            }
            Effect::Extend(batch) => {
                self.commits.push(batch.clone());
                self.under_way.push((self.now + self.commit_ms * MS, batch));
            }
            Effect::Read { .. } | Effect::Write { .. } | Effect::Stopped => {}
        }
    }

    /// Lets everything happen that happens now.
    pub(crate) fn settle(&mut self) {
        let now = Monotonic(self.now);
        loop {
            let mut quiet = true;
            for index in 0..self.hosts.len() {
                while let Some(effect) = self.hosts[index].next_effect() {
                    quiet = false;
                    if let Some((io, bytes)) = self.disk.serve(&effect) {
                        let outcome = bytes.as_deref().map_or(IoOutcome::Written, IoOutcome::Read);
                        self.hosts[index].handle(now, host::Input::Io(io, outcome));
                    }
                    self.on(effect);
                }
                while let Some(note) = self.hosts[index].next_note() {
                    self.notes.push(note);
                }
            }
            while let Some(effect) = self.manager.as_mut().and_then(Manager::next_effect) {
                quiet = false;
                if let Some((io, bytes)) = self.disk.serve(&effect) {
                    let outcome = bytes.as_deref().map_or(IoOutcome::Written, IoOutcome::Read);
                    if let Some(manager) = &mut self.manager {
                        manager.handle(now, manager::Input::Io(io, outcome));
                    }
                }
                self.on(effect);
            }
            while let Some(note) = self.manager.as_mut().and_then(Manager::next_note) {
                self.notes.push(note);
            }
            if quiet {
                return;
            }
        }
    }

    fn end_commits(&mut self) {
        let due: Vec<Batch> = self
            .under_way
            .extract_if(.., |(at, _)| *at <= self.now)
            .map(|(_, batch)| batch)
            .collect();
        for batch in due {
            let results: Vec<Committed> = batch
                .extends
                .iter()
                .map(|extend| {
                    let result = if self.results.is_empty() {
                        Committed::Done
                    } else {
                        self.results.remove(0)
                    };
                    if result == Committed::Done {
                        let size = self.sizes.entry(extend.volume).or_default();
                        *size = (*size).max(extend.size_mib);
                    }
                    result
                })
                .collect();
            if let Some(manager) = &mut self.manager {
                let input = manager::Input::Committed(batch.id, &results);
                manager.handle(Monotonic(self.now), input);
            }
        }
    }

    /// Moves on until `end`, or until `done`.
    pub(crate) fn until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms * MS;
        self.tick();
        while !done(self) {
            let hosts = self.hosts.iter().filter_map(Host::deadline);
            let manager = self.manager.iter().filter_map(Manager::deadline);
            let commits = self.under_way.iter().map(|(at, _)| *at);
            let next = hosts.chain(manager).map(|due| due.0).chain(commits).min();
            match next {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => {
                    self.now = end;
                    return done(self);
                }
            }
            self.tick();
        }
        true
    }

    pub(crate) fn run(&mut self, ms: u64) {
        self.until(ms, |_| false);
    }

    fn tick(&mut self) {
        let now = Monotonic(self.now);
        self.end_commits();
        for host in &mut self.hosts {
            host.handle(now, host::Input::Tick);
        }
        if let Some(manager) = &mut self.manager {
            manager.handle(now, manager::Input::Tick);
        }
        self.settle();
    }

    pub(crate) fn outcome(&self, request: u64) -> Option<Outcome> {
        self.answers.get(&request).map(|(outcome, _)| *outcome)
    }
}
