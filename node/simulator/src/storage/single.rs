//! Single changes beside the SPM's role, or without it: a master is put in the
//! place of a lost one (under the master's own lease, which is the role's, too),
//! a domain that is in no pool joins one, leaves it or is upgraded (under its
//! own). Each has a connection at the lease daemon of its own in the machine's
//! one writer process, which may be the SPM's.
//!
//! What they change is judged as every commit is: only under the lease, and
//! nobody's beside another's.

use mailbox::role::{Sdm, SdmInput};
use mailbox::{Batch, BatchId, RequestId};

use super::lease::{Owner, RENEWAL};
use super::machine::{Core, Writer, host_id};
use super::seen::Sight;
use super::swarm::Mode;
use super::world::{Event, World, domain_id, domain_of};
use crate::clock::{MS, S};

/// Seconds of an I/O of the leases, whose timing `lease.rs` is about.
const IO_TIMEOUT_S: u32 = 10;

impl World {
    /// Somebody wants a single change.
    pub(super) fn on_single(&mut self, machine: usize) {
        let Some(pace) = self.swarm.singles.filter(|_| !self.calm) else {
            return;
        };
        let pause = self.random.between(MS, 2 * pace);
        self.after(pause, Event::Single(machine));
        let lease = self.random.index(self.owners.len());
        let of = &self.machines[machine];
        if !of.up || of.original || of.writers[lease].is_some() {
            return;
        }
        let (id, request) = (self.id(), RequestId(self.id()));
        let batch = Batch {
            id: BatchId(0),
            domain: domain_id(self.changed_under(lease)),
            urgent: false,
            extends: Vec::new(),
        };
        let mut sdm = Box::new(Sdm::once(IO_TIMEOUT_S));
        let change = SdmInput::Change {
            request,
            urgent: false,
        };
        sdm.handle(self.time(), change);
        let of = &mut self.machines[machine];
        of.changes.insert(request, (batch, None));
        of.writers[lease] = Some(Writer {
            id,
            spm: None,
            sdm: Some(sdm),
            dying: false,
            waiting: std::collections::BTreeMap::new(),
            active: std::collections::BTreeMap::new(),
        });
        self.drain(machine, Core::Sdm(lease));
    }

    /// The domain that a single change under this lease is about: the master, or
    /// the one outside the pool.
    fn changed_under(&self, lease: usize) -> usize {
        if lease == 0 { 0 } else { self.swarm.domains }
    }

    pub(super) fn is_single(&self, writer: &Writer) -> bool {
        self.swarm.mode == Mode::Spm && writer.sdm.is_some()
    }

    /// Whether taking the lease goes on: its holder is not seen alive, and not
    /// known to be dead yet.
    pub(super) fn waits_for_death(&mut self, machine: usize, lease: usize) -> bool {
        let Some(writer) = self.machines[machine].writers[lease].as_ref() else {
            return false;
        };
        let (id, single) = (writer.id, self.is_single(writer));
        let silent = self.owners[lease].is_some_and(|owner| {
            let seen = self.machines[owner.machine].member.renewed;
            owner.machine != machine && seen.is_none_or(|at| self.now > at + 2 * RENEWAL)
        });
        if single && silent {
            self.after(5 * S, Event::Take(machine, lease, id));
        }
        single && silent
    }

    /// A single change's connection is closed: its lease daemon frees its lease.
    /// The process, and whatever else it does, goes on.
    pub(super) fn on_hung_up(&mut self, machine: usize, lease: usize, id: u64) {
        let writer = self.machines[machine].writers[lease].as_ref();
        if writer.is_none_or(|writer| writer.id != id) {
            return;
        }
        self.seen.note(Sight::HungUp);
        self.release(machine, lease);
        self.machines[machine].writers[lease] = None;
        self.forget_single(machine, lease);
    }

    /// A single change has ended when nothing of it is left.
    pub(super) fn end_single(&mut self, machine: usize, lease: usize) {
        let of = &self.machines[machine];
        let Some(writer) = of.writers[lease].as_ref() else {
            return;
        };
        let ended = writer.sdm.as_ref().is_some_and(|sdm| !sdm.may_hold());
        let waits = of
            .changes
            .values()
            .any(|(batch, _)| domain_of(batch.domain) == self.changed_under(lease));
        if !self.is_single(writer) || !ended || waits || writer.dying {
            return;
        }
        let owner = Owner {
            machine,
            writer: writer.id,
        };
        self.machines[machine].writers[lease] = None;
        if self.owners[lease] == Some(owner) {
            let what = format!("h{}, lease {lease}", host_id(machine));
            self.object("a single change ends without its lease", what);
        }
    }

    /// Whoever asked for it is told that nobody knows, or is gone, too.
    pub(super) fn forget_single(&mut self, machine: usize, lease: usize) {
        let domain = self.changed_under(lease);
        let changes = &mut self.machines[machine].changes;
        changes.retain(|_, (batch, _)| domain_of(batch.domain) != domain);
    }
}
