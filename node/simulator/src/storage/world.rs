//! Everything there is, and the events that move it.

use std::collections::BTreeMap;
use std::fmt;

use disk_format::vdsm::mailbox::Extend;
use disk_format::vdsm::{DomainId, VolumeId};
use mailbox::role::{self, LeaseView, SdmInput, StepId, takeover};
use mailbox::{Monotonic, Outcome, host, manager};

use super::commits::Commit;
use super::disk::Disk;
use super::io::Flight;
use super::lease::{self, Owner};
use super::machine::{AnyHost, AnyManager, Core, Machine, host_id};
use super::seen::{Seen, Sight};
use super::swarm::{Mode, Swarm};
use crate::clock::S;
use crate::judge::Violation;
use crate::random::Random;
use crate::trace::Trace;

/// How a step ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Done,
    Undone,
    Unknown,
    /// Never told.
    Silent,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Wake(usize, Core),
    Land(u64, bool),
    Told(u64),
    Step(usize, u64, StepId, role::Step, How),
    Asked(usize, u64),
    Commit(u64),
    CommitTold(u64),
    WriterGone(usize, usize, u64),
    Hung(usize, usize, u64),
    Take(usize, usize, u64),
    Release(usize, usize, u64),
    OriginalTakes(usize, u32),
    Renew(usize),
    Lost(usize, u64),
    View(usize),
    User(usize),
    Trouble,
    Restart(usize),
    Engine,
    Single(usize),
    HungUp(usize, usize, u64),
}

/// Somebody wants a volume to be larger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) machine: usize,
    pub(super) domain: usize,
    pub(super) extend: Extend,
    pub(super) asked: u64,
    pub(super) answered: u64,
    pub(super) by_mail: bool,
    pub(super) outcome: Option<Outcome>,
    /// Its process is gone: nobody waits.
    pub(super) abandoned: bool,
    pub(super) probe: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) swarm: Swarm,
    pub(super) random: Random,
    pub(super) now: u64,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) disk: Disk,
    /// Index: lease.
    pub(super) owners: Vec<Option<Owner>>,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) commits: BTreeMap<u64, Commit>,
    pub(super) next: u64,
    pub(super) requests: Vec<Request>,
    /// Largest size asked for so far, by domain and volume.
    pub(super) wanted: BTreeMap<(usize, VolumeId), u32>,
    /// Largest size the metadata has had, by domain and volume.
    pub(super) largest: BTreeMap<(usize, VolumeId), u32>,
    pub(super) calm: bool,
    pub(super) violation: Option<Violation>,
    pub(super) seen: Seen,
    pub(super) trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let swarm = Swarm::of(seed, &mut random);
        Self::of(swarm, random, trace)
    }

    /// A world of this mix.
    pub(super) fn of(swarm: Swarm, random: Random, trace: Trace) -> Self {
        let machines = (0..swarm.originals.len())
            .map(|index| Machine::new(index, &swarm))
            .collect::<Vec<_>>();
        let leases = machines.first().map_or(0, |machine| machine.writers.len());
        // The one that single changes let in and out.
        let outside = usize::from(swarm.singles.is_some());
        Self {
            disk: Disk::new(swarm.mailboxes, swarm.domains + outside),
            random,
            now: 0,
            events: BTreeMap::new(),
            sequence: 0,
            machines,
            owners: vec![None; leases],
            flights: BTreeMap::new(),
            commits: BTreeMap::new(),
            next: 1,
            requests: Vec::new(),
            wanted: BTreeMap::new(),
            largest: BTreeMap::new(),
            calm: false,
            violation: None,
            seen: Seen::default(),
            trace,
            swarm,
        }
    }

    pub(super) fn begin(&mut self) {
        // What earlier hosts and SPMs have left.
        for _ in 0..self.random.below(4) {
            self.garbage();
        }
        self.begin_quietly();
    }

    /// The same, with nothing left by others.
    pub(super) fn begin_quietly(&mut self) {
        for machine in 0..self.machines.len() {
            let at = self.random.below(3 * S);
            self.at(at, Event::Restart(machine));
            let at = self.random.below(lease::RENEWAL);
            self.at(at, Event::Renew(machine));
            let at = self.random.below(5 * S);
            self.at(at, Event::View(machine));
            let at = self.random.below(self.swarm.users_pace);
            self.at(at, Event::User(machine));
            if let Some(pace) = self.swarm.singles {
                self.at(pace, Event::Single(machine));
            }
        }
        let pace = self.swarm.pace;
        self.at(pace, Event::Trouble);
        self.at(S, Event::Engine);
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events
            .insert((time.max(self.now), self.sequence), event);
    }

    pub(super) fn after(&mut self, pause: u64, event: Event) {
        self.at(self.now + pause, event);
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn time(&self) -> Monotonic {
        Monotonic(self.now)
    }

    pub(super) fn object(&mut self, promise: &'static str, what: String) {
        self.tell("world", "BROKEN", format_args!("{promise}: {what}"));
        self.violation.get_or_insert(Violation { promise, what });
    }

    pub(super) fn tell(&mut self, who: impl fmt::Display, kind: &str, what: fmt::Arguments<'_>) {
        self.trace.line(self.now, who, kind, what);
    }

    pub(super) fn tell_of(&mut self, machine: usize, kind: &str, what: fmt::Arguments<'_>) {
        if self.trace.is_kept() {
            let name = format!("h{}.{}", host_id(machine), self.machines[machine].life);
            self.trace.line(self.now, name, kind, what);
        }
    }

    /// A chance of a fault: none in calm.
    pub(super) fn fault(&mut self, per_mille: u32) -> bool {
        !self.calm && self.random.chance(per_mille)
    }

    /// Does the next event, if it is not after `end`.
    pub(super) fn step(&mut self, end: u64) -> bool {
        let Some(entry) = self.events.first_entry() else {
            return false;
        };
        let time = entry.key().0;
        if time > end {
            self.now = end;
            return false;
        }
        let event = entry.remove();
        self.now = time;
        self.seen.note(Sight::Events);
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(machine, core) => self.on_wake(machine, core),
            Event::Land(flight, second) => self.on_land(flight, second),
            Event::Told(flight) => self.on_told(flight),
            Event::Step(machine, writer, id, step, how) => {
                if self.writes(machine, 0, writer) {
                    self.on_step(machine, id, step, how);
                }
            }
            Event::Asked(machine, writer) => {
                if self.writes(machine, 0, writer) {
                    self.on_asked(machine);
                }
            }
            Event::Commit(commit) => self.on_commit(commit),
            Event::CommitTold(commit) => self.on_commit_told(commit),
            Event::WriterGone(machine, lease, writer) => {
                self.on_writer_gone(machine, lease, writer);
            }
            Event::Hung(machine, lease, commit) => self.on_hung(machine, lease, commit),
            Event::Take(machine, lease, writer) => {
                if self.writes(machine, lease, writer) {
                    self.on_domain_take(machine, lease);
                }
            }
            Event::Release(machine, lease, writer) => {
                if self.writes(machine, lease, writer) {
                    self.on_domain_release(machine, lease);
                }
            }
            Event::OriginalTakes(machine, life) => {
                if self.lives(machine, life) {
                    self.on_original_takes(machine);
                }
            }
            Event::Renew(machine) => self.on_renew(machine),
            Event::Lost(machine, renewed) => self.on_lost(machine, renewed),
            Event::View(machine) => self.on_view(machine),
            Event::User(machine) => self.on_user(machine),
            Event::Trouble => self.on_trouble(),
            Event::Restart(machine) => self.on_restart(machine),
            Event::Engine => self.on_engine(),
            Event::Single(machine) => self.on_single(machine),
            Event::HungUp(machine, lease, writer) => self.on_hung_up(machine, lease, writer),
        }
    }

    fn lives(&self, machine: usize, life: u32) -> bool {
        self.machines[machine].up && self.machines[machine].life == life
    }

    /// Whether this writer is there, and has not been killed.
    fn writes(&self, machine: usize, lease: usize, id: u64) -> bool {
        self.machines[machine].writers[lease]
            .as_ref()
            .is_some_and(|writer| writer.id == id && !writer.dying)
    }

    fn on_wake(&mut self, machine: usize, core: Core) {
        let wakes = &mut self.machines[machine].wakes;
        if wakes.get(&core) != Some(&self.now) {
            return;
        }
        wakes.remove(&core);
        self.tick(machine, core);
    }

    /// Calls a core because time has passed.
    pub(super) fn tick(&mut self, machine: usize, core: Core) {
        let (now, time) = (self.now, self.time());
        let of = &mut self.machines[machine];
        match core {
            Core::Host => match &mut of.host {
                Some(AnyHost::Ours(host)) => host.handle(time, host::Input::Tick),
                Some(AnyHost::Original(host)) => host.tick(now),
                None => {}
            },
            Core::Manager => match &mut of.manager {
                Some(AnyManager::Ours(_, manager)) => manager.handle(time, manager::Input::Tick),
                Some(AnyManager::Original(_, spm)) => spm.tick(now),
                None => {}
            },
            Core::Spm => {
                if let Some(spm) = of.spm() {
                    spm.handle(time, role::Input::Tick);
                }
            }
            Core::Sdm(domain) => {
                if let Some(sdm) = of.sdm(domain) {
                    sdm.handle(time, SdmInput::Tick);
                }
            }
        }
        self.drain(machine, core);
    }

    /// Does what a core asks for, and sees to it that it is called in time.
    pub(super) fn drain(&mut self, machine: usize, core: Core) {
        match core {
            Core::Host => self.drain_host(machine),
            Core::Manager => self.drain_manager(machine),
            Core::Spm => self.drain_spm(machine),
            Core::Sdm(domain) => {
                self.drain_sdm(machine, domain);
                self.end_single(machine, domain);
            }
        }
        let of = &mut self.machines[machine];
        let due = match core {
            Core::Host => match &of.host {
                Some(AnyHost::Ours(host)) => host.deadline().map(|due| due.0),
                Some(AnyHost::Original(host)) => host.deadline(),
                None => None,
            },
            Core::Manager => match &of.manager {
                Some(AnyManager::Ours(_, manager)) => manager.deadline().map(|due| due.0),
                Some(AnyManager::Original(_, spm)) => spm.deadline(),
                None => None,
            },
            Core::Spm => of.spm().and_then(|spm| spm.deadline()).map(|due| due.0),
            Core::Sdm(domain) => of
                .sdm(domain)
                .and_then(|sdm| sdm.deadline())
                .map(|due| due.0),
        };
        let wakes = &mut self.machines[machine].wakes;
        match due {
            None => {
                wakes.remove(&core);
            }
            // A core whose deadline does not move on would be called for ever.
            Some(due) => {
                let due = due.max(self.now + 1);
                if wakes.insert(core, due) != Some(due) {
                    self.at(due, Event::Wake(machine, core));
                }
            }
        }
    }

    pub(super) fn on_restart(&mut self, machine: usize) {
        if self.machines[machine].up {
            return;
        }
        let of = &mut self.machines[machine];
        of.start(machine, &self.swarm, &mut self.random);
        self.tell_of(machine, "starts", format_args!(""));
        self.tick(machine, Core::Host);
        self.tick(machine, Core::Manager);
    }

    fn on_view(&mut self, machine: usize) {
        self.after(5 * S, Event::View(machine));
        if self.swarm.mode != Mode::Spm || !self.machines[machine].up {
            return;
        }
        let holder = match self.owners[0] {
            None => takeover::Holder::Nobody,
            Some(owner) if self.machines[owner.machine].member.is_dead(self.now) => {
                takeover::Holder::Nobody
            }
            Some(_) => takeover::Holder::Somebody,
        };
        let now = self.now;
        let live = self
            .machines
            .iter()
            .enumerate()
            .filter(|(_, other)| other.up && !other.original && other.member.is_fresh(now))
            .map(|(index, _)| takeover::Candidate {
                host_id: host_id(index),
                score: None,
            })
            .collect::<Vec<_>>();
        let time = self.time();
        let of = &mut self.machines[machine];
        of.takeover.view(time, holder, &live);
        if of.takeover.due(time).is_some_and(|due| due <= time) && !of.trying {
            self.start_spm(machine);
        }
    }

    /// What leased says about the `SDM` lease of the pool, or of a domain.
    pub(super) fn lease_view(&self, machine: usize, lease: usize) -> LeaseView {
        let of = &self.machines[machine];
        let holds = of.writers[lease].as_ref().is_some_and(|writer| {
            self.owners[lease]
                == Some(Owner {
                    machine,
                    writer: writer.id,
                })
        });
        if holds && of.member.is_fresh(self.now) {
            LeaseView::Held
        } else {
            LeaseView::NotHeld
        }
    }
}

pub(super) fn domain_id(domain: usize) -> DomainId {
    DomainId::from_bytes([0xd0 + u8::try_from(domain).unwrap_or(0); 16])
}

pub(super) fn domain_of(id: DomainId) -> usize {
    usize::from(id.bytes()[0].wrapping_sub(0xd0))
}

/// The volumes of a host; the last byte tells whether it exists at all.
pub(super) fn volume_id(machine: usize, number: usize, exists: bool) -> VolumeId {
    let mut id = [0x40; 16];
    id[0] = u8::try_from(machine).unwrap_or(0);
    id[1] = u8::try_from(number).unwrap_or(0);
    id[15] = if exists { 0 } else { 0xee };
    VolumeId::from_bytes(id)
}
