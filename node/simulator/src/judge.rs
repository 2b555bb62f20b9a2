//! The checkers. They see what no machine sees, the whole world, and look at
//! every step that could break a promise.

mod resources;

use disk_format::{Generation, delta};

use crate::clock::S;
use crate::disk::{Area, Disk, SECTORS};
use crate::flight::Flight;
use crate::machine::{Machine, lockspace};
use crate::swarm::Swarm;

use self::resources::ResourceHistory;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub promise: &'static str,
    /// Who broke it and how.
    pub what: String,
}

/// What is remembered to judge by.
#[derive(Debug)]
pub struct Judge {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Index: host id − 1.
    ids: Vec<HostIdHistory>,
    resources: Vec<ResourceHistory>,
    several_disks: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct HostIdHistory {
    /// Highest generation held so far, and the machine.
    held: Option<(Generation, usize)>,
    /// A write took effect after its time: generations may go back with it.
    late: bool,
}

impl Judge {
    /// Nothing broken yet.
    #[must_use]
    pub fn new(swarm: &Swarm) -> Self {
        let ids = swarm.host_ids.iter().copied().max().unwrap_or(0);
        Self {
            violation: None,
            ids: vec![HostIdHistory::default(); usize::from(ids)],
            resources: vec![ResourceHistory::default(); swarm.resources],
            several_disks: swarm.disks > 1,
        }
    }

    /// Notes a broken promise; the first one counts.
    pub fn object(&mut self, promise: &'static str, what: String) {
        self.violation.get_or_insert(Violation { promise, what });
    }

    /// A machine says it holds its host id. Returns whether another machine
    /// was the last to do so.
    pub fn on_held(&mut self, machines: &[Machine], who: usize, generation: Generation) -> bool {
        let one = &machines[who];
        for (number, other) in machines.iter().enumerate() {
            if number != who
                && other.config.host_id == one.config.host_id
                && let Some(tenure) = other.tenures.first()
            {
                self.object(
                    "a host id has one holder",
                    format!(
                        "{} holds host id {} with generation {}, and {} still counts as its holder with generation {}",
                        one.who(),
                        one.config.host_id,
                        generation.0,
                        other.who(),
                        tenure.generation.0
                    ),
                );
            }
        }
        let history = &mut self.ids[one.config.host_id.index()];
        let last = history.held.replace((generation, who));
        if let Some((earlier, _)) = last
            && earlier >= generation
            && !history.late
        {
            let text = format!(
                "{} holds host id {} with generation {} after {}",
                one.who(),
                one.config.host_id,
                generation.0,
                earlier.0
            );
            self.object("generations of holders rise", text);
        }
        last.is_some_and(|(_, machine)| machine != who)
    }

    /// A machine has looked at the others: nobody who counts as a holder may
    /// be taken for dead.
    pub fn on_beliefs(&mut self, machines: &[Machine], who: usize, now: u64) {
        let one = &machines[who];
        let Some(membership) = one.membership() else {
            return;
        };
        // Only who holds its host id acts upon what it believes.
        let clock = one.clock.at(now).boottime;
        let status = membership.lease.status();
        if status.expires.is_none_or(|expires| expires <= clock) {
            return;
        }
        for (number, other) in machines.iter().enumerate() {
            let id = other.config.host_id;
            if number == who || id == one.config.host_id {
                continue;
            }
            for tenure in &other.tenures {
                if !membership.hosts.may_live(id, tenure.generation, clock) {
                    let text = format!(
                        "{} believes that nobody uses generation {} of host id {}, but {} does; it saw {:?}",
                        one.who(),
                        tenure.generation.0,
                        id,
                        other.who(),
                        membership.hosts.get(id)
                    );
                    self.object("a holder is not taken for dead", text);
                }
            }
        }
    }

    /// Nothing is in flight and nobody holds anything.
    pub fn on_idle(&mut self, disk: &Disk) {
        for sector in 0..SECTORS {
            let bytes = disk.sector(Area::Lockspace, sector).unwrap_or_default();
            let intact = delta::leader(bytes)
                .is_some_and(|record| delta::verify(&record, &lockspace()).is_ok());
            if !intact {
                let text = format!("sector {sector} of the lockspace");
                self.object("an idle disk is readable", text);
            }
        }
        for resource in 0..disk.resources() {
            for number in 0..disk.disks() {
                self.on_idle_resource(disk, resource, number);
            }
        }
    }

    /// A write is about to change one sector of the lockspace.
    pub fn on_lockspace_write(
        &mut self,
        machines: &[Machine],
        flight: &Flight,
        before: &[u8],
        now: u64,
    ) {
        let one = &machines[flight.machine];
        let index = usize::try_from(flight.spot.sector).unwrap_or(usize::MAX);
        if flight.spot.area != Area::Lockspace || index != one.config.host_id.index() {
            let text = format!("{} writes {:?}", one.who(), flight.spot);
            self.object("nobody writes another's sector", text);
            return;
        }
        let bytes = flight.write.as_deref().unwrap_or_default();
        let (Some(old), Some(new)) = (delta::leader(before), delta::leader(bytes)) else {
            self.object("a write is a whole record", format!("{:?}", flight.spot));
            return;
        };
        if delta::verify(&new, &lockspace()).is_err() {
            self.object("a write is a valid record", format!("{new:?}"));
        }
        if new.owner_id != u64::from(one.config.host_id.get()) {
            self.object("a record is its writer's", format!("{new:?}"));
        }
        let late = flight.orphan
            || now.saturating_sub(flight.asked) > u64::from(one.config.io_timeout_s) * S;
        let history = &mut self.ids[index];
        history.late |= late;
        // Of two that claim at once the later may have read an older record;
        // neither has held its generation then.
        let ends = match history.held {
            Some((held, machine)) if machine == flight.machine => new.owner_generation < held.0,
            Some((held, _)) => new.owner_generation <= held.0,
            None => false,
        };
        if ends && !history.late {
            let text = format!(
                "{} writes generation {} over {} of host id {}, after {:?} was held",
                one.who(),
                new.owner_generation,
                old.owner_generation,
                one.config.host_id,
                history.held
            );
            self.object("generations never decrease", text);
        }
    }
}
