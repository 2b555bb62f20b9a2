//! The writer: commits of metadata, and who may make them.

use mailbox::role::{Input, Sdm, SdmInput, Spm};
use mailbox::{Batch, BatchId, Committed, Effect, RequestId, manager};

use super::disk::Metadata;
use super::lease::Owner;
use super::machine::{AnyManager, Core, Writer, host_id};
use super::seen::Sight;
use super::swarm::Mode;
use super::world::{Event, World, domain_of};
use crate::clock::{MS, S};

/// For whom a commit is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// The SPM's side of this tenure.
    Manager(u64),
    /// A change of a domain.
    Change(RequestId),
}

/// One commit, waiting, under way, or ended.
#[derive(Debug)]
pub(super) struct Commit {
    machine: usize,
    life: u32,
    lease: usize,
    writer: u64,
    domain: usize,
    batch: Batch,
    whose: For,
    /// What was read, and is to be written with the extends in it.
    read: Option<Metadata>,
    results: Vec<Committed>,
    /// It never lands.
    lost: bool,
    unknown: bool,
}

impl World {
    pub(super) fn drain_manager(&mut self, machine: usize) {
        loop {
            let of = &mut self.machines[machine];
            let (effect, tenure) = match &mut of.manager {
                Some(AnyManager::Ours(tenure, manager)) => (manager.next_effect(), *tenure),
                Some(AnyManager::Original(tenure, spm)) => (spm.effects.pop_front(), *tenure),
                None => (None, 0),
            };
            let Some(effect) = effect else { break };
            let original = of.original;
            match effect {
                Effect::Read { .. } => self.fly(machine, Core::Manager, effect),
                Effect::Write {
                    volume,
                    offset,
                    ref bytes,
                    ..
                } => {
                    if volume != mailbox::Volume::Outbox {
                        let what = format!("h{}", host_id(machine));
                        self.object("an SPM never writes the inbox", what);
                    }
                    if !original {
                        self.judge_answers(machine, offset, bytes);
                    }
                    self.fly(machine, Core::Manager, effect);
                }
                Effect::Extend(batch) => match self.swarm.mode {
                    Mode::Spm => self.submit(machine, 0, batch, For::Manager(tenure)),
                    Mode::Sdm => self.change(machine, batch),
                },
                Effect::Completed { request, outcome } => {
                    self.on_completed(machine, request, outcome);
                }
                Effect::Stopped => self.on_mail_stopped(machine),
            }
        }
        while let Some(AnyManager::Ours(_, manager)) = &mut self.machines[machine].manager
            && let Some(note) = manager.next_note()
        {
            self.on_note(machine, &note);
        }
    }

    /// Gives a batch to the writer.
    pub(super) fn submit(&mut self, machine: usize, lease: usize, batch: Batch, whose: For) {
        let domain = domain_of(batch.domain);
        if batch.extends.len() > 1 {
            self.seen.note(Sight::Batched);
        }
        let id = self.id();
        let of = &mut self.machines[machine];
        let life = of.life;
        let writer = of.writers[lease].as_mut().filter(|writer| !writer.dying);
        let writer_id = writer.as_ref().map_or(0, |writer| writer.id);
        let absent = writer.is_none();
        let begins = writer.is_some_and(|writer| {
            if writer.active.contains_key(&domain) {
                writer.waiting.entry(domain).or_default().push_back(id);
                return false;
            }
            writer.active.insert(domain, id);
            true
        });
        if !absent && !begins && !self.machines[machine].original {
            let what = format!("h{}, domain {domain}", host_id(machine));
            self.object("a domain has at most one batch under way", what);
        }
        let told = self.machines[machine].told_lost;
        let commit = Commit {
            machine,
            life,
            lease,
            writer: writer_id,
            domain,
            batch,
            whose,
            read: None,
            results: Vec::new(),
            lost: false,
            unknown: false,
        };
        if told && matches!(whose, For::Manager(tenure) if tenure > 0) {
            let what = format!("h{} {:?}", host_id(machine), commit.batch);
            self.object("nothing is begun once the loss of the lease is known", what);
        }
        self.commits.insert(id, commit);
        if absent {
            self.after(MS, Event::CommitTold(id));
        } else if begins {
            self.begin_commit(id);
        }
    }

    fn begin_commit(&mut self, id: u64) {
        let Some(commit) = self.commits.get(&id) else {
            return;
        };
        let (machine, lease, domain) = (commit.machine, commit.lease, commit.domain);
        let writer = commit.writer;
        let extends = commit.batch.extends.clone();
        self.tell_of(machine, "commits", format_args!("{extends:?}"));
        self.judge_commit(machine, lease, writer, domain, "begins");
        for (number, other) in &self.commits {
            if *number != id && other.domain == domain && other.read.is_some() {
                let what = format!("h{} and h{}", host_id(machine), host_id(other.machine));
                self.object("a domain has one writer", what);
                return;
            }
        }
        let no_space = self.swarm.no_space;
        let mut results = Vec::with_capacity(extends.len());
        for extend in &extends {
            let exists = extend.volume.bytes()[15] == 0;
            let refused = !exists || self.fault(no_space);
            results.push(if refused {
                Committed::Refused
            } else {
                Committed::Done
            });
        }
        let unknown = self.swarm.commit_unknown;
        let unknown = self.fault(unknown);
        let lost = unknown && self.random.chance(500);
        let hangs = unknown && self.random.chance(100);
        let read = self.disk.metadata[domain].clone();
        let least = if self.swarm.exact {
            self.swarm.commit
        } else {
            MS
        };
        let lasts = self.random.between(least, self.swarm.commit);
        if let Some(commit) = self.commits.get_mut(&id) {
            commit.read = Some(read);
            commit.results = results;
            commit.unknown = unknown;
            commit.lost = lost;
        }
        if unknown {
            self.seen.note(Sight::CommitUnknown);
        }
        if hangs {
            self.after(60 * S, Event::Hung(machine, lease, id));
        } else {
            self.after(lasts, Event::Commit(id));
        }
    }

    fn judge_commit(
        &mut self,
        machine: usize,
        lease: usize,
        writer: u64,
        domain: usize,
        what: &str,
    ) {
        let owner = Owner { machine, writer };
        if self.owners[lease] != Some(owner) {
            let what = format!(
                "h{}'s commit to domain {domain} {what}, the lease is held by {:?}",
                host_id(machine),
                self.owners[lease]
            );
            self.object("metadata changes only under the lease", what);
        }
    }

    /// A commit reaches the disk, or does not, and ends.
    pub(super) fn on_commit(&mut self, id: u64) {
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        let Some(mut new) = commit.read.take() else {
            return;
        };
        let (machine, lease, domain) = (commit.machine, commit.lease, commit.domain);
        let (writer, lost, unknown) = (commit.writer, commit.lost, commit.unknown);
        if unknown {
            commit.results.truncate(0);
        }
        if !lost {
            let results = if unknown {
                vec![Committed::Done; commit.batch.extends.len()]
            } else {
                commit.results.clone()
            };
            for (extend, result) in commit.batch.extends.iter().zip(results) {
                let exists = extend.volume.bytes()[15] == 0;
                if result == Committed::Done && exists {
                    let size = new.sizes.entry(extend.volume).or_default();
                    *size = (*size).max(extend.size_mib);
                }
            }
            new.sequence += 1;
            self.judge_commit(machine, lease, writer, domain, "lands");
            if self.disk.metadata[domain].sequence + 1 != new.sequence {
                let what = format!("h{}'s commit is on top of another", host_id(machine));
                self.object("a domain has one writer", what);
            }
            self.disk.metadata[domain] = new;
            self.judge_sizes(domain);
        }
        self.next_commit(machine, lease, writer, domain);
        self.on_commit_told(id);
    }

    fn judge_sizes(&mut self, domain: usize) {
        let sizes = self.disk.metadata[domain].sizes.clone();
        for (volume, size) in sizes {
            let largest = self.largest.entry((domain, volume)).or_default();
            if size < *largest {
                let what = format!("{volume} in domain {domain}: {size} after {largest} MiB");
                return self.object("no volume shrinks", what);
            }
            *largest = size;
        }
        let metadata = &self.disk.metadata[domain];
        let gone = self
            .largest
            .keys()
            .find(|(of, volume)| *of == domain && !metadata.sizes.contains_key(volume));
        if let Some((_, volume)) = gone {
            let what = format!("{volume} in domain {domain} is gone");
            self.object("no volume shrinks", what);
        }
    }

    fn next_commit(&mut self, machine: usize, lease: usize, writer: u64, domain: usize) {
        let of = &mut self.machines[machine];
        let Some(current) = of.writers[lease].as_mut().filter(|one| one.id == writer) else {
            return;
        };
        current.active.remove(&domain);
        if current.dying {
            return;
        }
        let next = current
            .waiting
            .get_mut(&domain)
            .and_then(|queue| queue.pop_front());
        if let Some(next) = next {
            current.active.insert(domain, next);
            self.begin_commit(next);
        }
    }

    /// A commit without an end: its deadline is told to the core.
    pub(super) fn on_hung(&mut self, machine: usize, lease: usize, id: u64) {
        let Some(commit) = self.commits.get(&id) else {
            return;
        };
        let (writer, time) = (commit.writer, self.time());
        let of = &mut self.machines[machine];
        if of.writers[lease].as_ref().map(|writer| writer.id) != Some(writer) {
            return;
        }
        if of.sdm(lease).is_some() {
            self.tell_sdm(machine, lease, SdmInput::ChangeHangs);
        } else if let Some(spm) = of.spm() {
            spm.handle(time, Input::CommitHangs);
            self.drain(machine, Core::Spm);
        } else {
            self.kill_writer(machine, lease, writer);
        }
    }

    /// The outcome of a commit reaches the core.
    pub(super) fn on_commit_told(&mut self, id: u64) {
        let Some(commit) = self.commits.remove(&id) else {
            return;
        };
        let machine = commit.machine;
        let of = &mut self.machines[machine];
        if of.life != commit.life {
            return;
        }
        match commit.whose {
            For::Manager(tenure) => {
                self.tell_committed(machine, tenure, commit.batch.id, &commit.results);
            }
            For::Change(request) => {
                if let Some((_, results)) = of.changes.get_mut(&request) {
                    *results = Some(commit.results);
                }
                self.on_change_ran(machine, commit.lease, request);
            }
        }
    }

    pub(super) fn tell_committed(
        &mut self,
        machine: usize,
        tenure: u64,
        batch: BatchId,
        results: &[Committed],
    ) {
        let time = self.time();
        match &mut self.machines[machine].manager {
            Some(manager) if manager.tenure() != tenure => return,
            Some(AnyManager::Ours(_, manager)) => {
                manager.handle(time, manager::Input::Committed(batch, results));
            }
            Some(AnyManager::Original(_, spm)) => spm.on_committed(batch, results),
            None => return,
        }
        self.drain(machine, Core::Manager);
    }

    /// A new writer, without a lease yet; or the one that is still there.
    pub(super) fn new_writer(&mut self, machine: usize, lease: usize) -> u64 {
        if let Some(writer) = &self.machines[machine].writers[lease] {
            return writer.id;
        }
        let id = self.id();
        let original = self.machines[machine].original;
        let pool = self.swarm.mode == Mode::Spm;
        let seed = self.random.bits();
        self.machines[machine].writers[lease] = Some(Writer {
            id,
            spm: (pool && !original).then(|| Box::new(Spm::new())),
            sdm: (!pool).then(|| Box::new(Sdm::new(seed))),
            dying: false,
            waiting: std::collections::BTreeMap::new(),
            active: std::collections::BTreeMap::new(),
        });
        id
    }

    /// Orders a writer to end, and in a pool with an SPM its whole process. What it
    /// is at may still be done until it has.
    pub(super) fn kill_writer(&mut self, machine: usize, lease: usize, id: u64) {
        self.kill_one(machine, lease, id);
        if self.swarm.singles.is_some() {
            for other in (0..self.owners.len()).filter(|other| *other != lease) {
                let writer = self.machines[machine].writers[other].as_ref();
                if let Some(id) = writer.map(|writer| writer.id) {
                    self.kill_one(machine, other, id);
                }
            }
        }
    }

    fn kill_one(&mut self, machine: usize, lease: usize, id: u64) {
        let stuck = self.random.chance(100);
        let takes = self.random.below(if stuck { 10 * S } else { S / 3 });
        let writer = self.machines[machine].writers[lease]
            .as_mut()
            .filter(|writer| writer.id == id && !writer.dying);
        let Some(writer) = writer else { return };
        writer.dying = true;
        self.seen.note(Sight::Killed);
        self.after(takes, Event::WriterGone(machine, lease, id));
    }

    /// Ends what a writer was at: done by now, or never.
    pub(super) fn end_commits(&mut self, machine: usize, lease: usize, id: u64) {
        let ids: Vec<u64> = self
            .commits
            .iter()
            .filter(|(_, one)| (one.machine, one.lease, one.writer) == (machine, lease, id))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let lands = self.random.chance(500);
            if let Some(commit) = self.commits.get_mut(&id) {
                commit.unknown = true;
                commit.lost = !lands;
            }
            if self.commits.get(&id).is_some_and(|one| one.read.is_some()) {
                self.on_commit(id);
            } else {
                self.on_commit_told(id);
            }
        }
    }
}
