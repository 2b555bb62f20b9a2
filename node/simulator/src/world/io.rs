//! Requests: from a core to the disk and back.

use disk_format::{Dblock, ModeBlock, delta, paxos};
use lease::{IoId, IoOutcome, Monotonic};

use super::operations::resource_name;
use super::{Event, Stall, World};
use crate::clock::S;
use crate::disk::{Area, Disk, LINGER_MS, SECTORS, Spot};
use crate::flight::{Core, Fate, Flight, Stage};
use crate::machine::lockspace;
use crate::seen::Sight;
use crate::swarm::Swarm;

/// The error a failed request is told with.
const EIO: i32 = 5;

/// What a core wants done.
pub(crate) struct Request {
    pub(crate) core: Core,
    pub(crate) io: IoId,
    pub(crate) spot: Spot,
    pub(crate) write: Option<Box<[u8]>>,
    pub(crate) not_after: Monotonic,
}

/// Makes the lockspace and the resources, as `sanlock direct init` would.
pub(super) fn format(disk: &mut Disk, swarm: &Swarm) {
    let geometry = disk.geometry();
    let count = usize::try_from(SECTORS).unwrap_or(0);
    let mut bytes = vec![0; count * swarm.sector_size];
    delta::fill_initial(
        &lockspace(),
        geometry,
        swarm.io_timeouts_s[0],
        0,
        true,
        &mut bytes,
    );
    for (number, sector) in (0..SECTORS).zip(bytes.chunks_exact(swarm.sector_size)) {
        disk.write(Area::Lockspace, number, sector);
    }
    let ids = swarm.host_ids.iter().copied().max().unwrap_or(1);
    for resource in 0..swarm.resources {
        let leader = paxos::initial(
            lockspace().field(),
            resource_name(resource).field(),
            geometry,
            u32::from(ids) + u32::try_from(resource).unwrap_or(0),
        );
        paxos::fill_initial(&leader, geometry, 0, &mut bytes);
        for disk_number in 0..swarm.disks {
            let area = Area::Resource(resource, disk_number);
            for (number, sector) in (0..SECTORS).zip(bytes.chunks_exact(swarm.sector_size)) {
                disk.write(area, number, sector);
            }
        }
    }
}

impl World {
    pub(crate) fn submit(&mut self, machine: usize, process: u64, request: Request) {
        let Request {
            core,
            io,
            spot,
            write,
            not_after,
        } = request;
        let it = &self.machines[machine];
        let mut fate = Fate::draw(
            &mut self.random,
            &self.faults,
            self.now,
            it.latency,
            it.config.io_timeout_s,
            spot.sectors,
        );
        if frees_host_id(spot, write.as_deref())
            && fate.lands > Some(self.now + self.swarm.bound_s() * S / 2)
        {
            fate.lands = None;
            fate.ok = false;
        }
        let serial = self.next_serial();
        if self.trace.is_kept() {
            let kind = if write.is_some() { "write" } else { "read" };
            self.say(
                machine,
                kind,
                format_args!(
                    "#{serial} {:?}/{}+{} {}",
                    spot.area,
                    spot.sector,
                    spot.sectors,
                    describe(spot, write.as_deref())
                ),
            );
        }
        let seen = match write {
            Some(_) => Vec::new(),
            None => vec![0; usize::try_from(spot.sectors).unwrap_or(0) * self.disk.sector_size()],
        };
        let flight = Flight {
            serial,
            machine,
            process,
            core,
            io,
            spot,
            write,
            not_after,
            asked: self.now,
            fate,
            stage: Stage::Asked,
            seen,
            over_at: self.now,
            told: false,
            orphan: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flights[slot] = Some(flight);
                slot
            }
            None => {
                self.flights.push(Some(flight));
                self.flights.len() - 1
            }
        };
        self.at(fate.begins, Event::Begin(slot, serial));
    }

    fn flight(&mut self, slot: usize, serial: u64) -> Option<&mut Flight> {
        self.flights
            .get_mut(slot)?
            .as_mut()
            .filter(|flight| flight.serial == serial)
    }

    fn drop_flight(&mut self, slot: usize) {
        self.flights[slot] = None;
        self.free.push(slot);
    }

    pub(super) fn on_begin(&mut self, slot: usize, serial: u64) {
        let now = self.now;
        let Some(flight) = self.flight(slot, serial) else {
            return;
        };
        let (machine, process, not_after, fate) = (
            flight.machine,
            flight.process,
            flight.not_after,
            flight.fate,
        );
        let runs_at = self.machines[machine].runs_at(now);
        if runs_at > now {
            return self.at(runs_at, Event::Begin(slot, serial));
        }
        // A daemon that was killed before the kernel got it never asked.
        if !self.machines[machine].on || !self.is_process(machine, process) {
            return self.drop_flight(slot);
        }
        if self.machines[machine].clock.at(now).boottime > not_after {
            self.seen.count(Sight::Refused);
            if let Some(flight) = self.flight(slot, serial) {
                flight.stage = Stage::Refused;
            }
            self.say(machine, "refused", format_args!("#{serial} too late"));
            return self.at(now, Event::Tell(slot, serial, false));
        }
        if let Some(flight) = self.flight(slot, serial) {
            flight.stage = Stage::Begun;
        }
        let delay = now - fate.begins.min(now);
        match fate.lands {
            None => {
                if let Some(flight) = self.flight(slot, serial) {
                    flight.stage = Stage::Over;
                }
                if let Some(after) = fate.told_after {
                    self.at(now + after, Event::Tell(slot, serial, false));
                }
            }
            Some(lands) => self.at(lands + delay, Event::Part(slot, serial, true)),
        }
    }

    /// When a stalled request may go on, and whether it then fails.
    fn stalled(&mut self, spot: Spot, machine: usize) -> Option<(u64, bool)> {
        let now = self.now;
        self.stalls.retain(|stall| stall.until > now);
        self.stalls
            .iter()
            .filter(|stall| stall.holds_up(spot, machine))
            .map(|stall| (stall.until, stall.fails))
            .max()
    }

    pub(super) fn on_part(&mut self, slot: usize, serial: u64, first: bool) {
        let now = self.now;
        let Some(flight) = self.flight(slot, serial) else {
            return;
        };
        if flight.stage == Stage::Over {
            return;
        }
        if flight.fate.lands.is_none() {
            return self.drop_flight(slot);
        }
        let (machine, spot, orphan) = (flight.machine, flight.spot, flight.orphan);
        let asked = flight.asked;
        let frees = frees_host_id(spot, flight.write.as_deref());
        if frees && now > asked + self.swarm.bound_s() * S / 2 {
            // See what cannot happen in the fault model.
            if let Some(flight) = self.flight(slot, serial) {
                flight.stage = Stage::Over;
                flight.fate.ok = false;
            }
            return self.at(now, Event::Tell(slot, serial, false));
        }
        if !orphan && let Some((until, fails)) = self.stalled(spot, machine) {
            let jitter = self.random.below(S / 2);
            if fails && self.random.chance(500) {
                if let Some(flight) = self.flight(slot, serial) {
                    flight.stage = Stage::Over;
                    flight.fate.ok = false;
                }
                return self.at(until + jitter, Event::Tell(slot, serial, false));
            }
            if fails && let Some(flight) = self.flight(slot, serial) {
                flight.fate.ok = false;
            }
            return self.at(until + jitter, Event::Part(slot, serial, first));
        }
        let Some(flight) = self.flight(slot, serial) else {
            return;
        };
        let all = 0..spot.sectors;
        let part = match flight.fate.torn {
            None => all,
            Some(torn) if torn.swapped == first => torn.at..spot.sectors,
            Some(torn) => 0..torn.at,
        };
        let (torn, told_after) = (flight.fate.torn, flight.fate.told_after);
        self.take_effect(slot, serial, part);
        if first && let Some(torn) = torn {
            self.seen.count(Sight::Torn);
            if let Some(flight) = self.flight(slot, serial) {
                flight.stage = Stage::Half;
            }
            return self.at(now + torn.apart, Event::Part(slot, serial, false));
        }
        if let Some(flight) = self.flight(slot, serial) {
            flight.stage = Stage::Over;
        }
        if orphan {
            return self.drop_flight(slot);
        }
        match told_after {
            Some(after) => self.at(now + after, Event::Tell(slot, serial, false)),
            None => self.seen.count(Sight::LostCompletion),
        }
    }

    fn take_effect(&mut self, slot: usize, serial: u64, part: std::ops::Range<u32>) {
        let Some(mut flight) = self.flights[slot].take_if(|flight| flight.serial == serial) else {
            return;
        };
        flight.over_at = self.now;
        if flight.write.is_some() {
            let late = self.now - flight.asked
                > u64::from(self.machines[flight.machine].config.io_timeout_s) * S;
            if late || flight.orphan {
                self.seen.count(Sight::LateWrite);
            }
            if self.trace.is_kept() {
                let age = (self.now - flight.asked) / 1_000_000;
                self.say(
                    flight.machine,
                    "landed",
                    format_args!(
                        "#{} {:?}/{} after {age} ms",
                        flight.serial, flight.spot.area, flight.spot.sector
                    ),
                );
            }
            self.land(&flight, part);
        } else {
            self.disk.read(flight.spot, part, &mut flight.seen);
        }
        self.flights[slot] = Some(flight);
    }

    fn land(&mut self, flight: &Flight, part: std::ops::Range<u32>) {
        let bytes = flight.write.as_deref().unwrap_or_default();
        let size = self.disk.sector_size();
        for number in part {
            let sector = flight.spot.sector + number;
            let start = usize::try_from(number).unwrap_or(0) * size;
            let piece = bytes.get(start..).unwrap_or_default();
            let piece = piece.get(..size).unwrap_or(piece);
            let Some(before) = self.disk.sector(flight.spot.area, sector) else {
                self.judge
                    .object("writes stay inside the area", format!("{:?}", flight.spot));
                return;
            };
            match flight.spot.area {
                Area::Lockspace => {
                    self.judge
                        .on_lockspace_write(&self.machines, flight, before, self.now);
                }
                Area::Resource(resource, _) => {
                    self.judge
                        .on_resource_write(&self.machines, flight, resource, before);
                }
            }
            self.disk.write(flight.spot.area, sector, piece);
        }
    }

    pub(super) fn on_tell(&mut self, slot: usize, serial: u64, again: bool) {
        let now = self.now;
        let Some(flight) = self.flight(slot, serial) else {
            return;
        };
        let (machine, process) = (flight.machine, flight.process);
        let runs_at = self.machines[machine].runs_at(now);
        if runs_at > now {
            return self.at(runs_at, Event::Tell(slot, serial, again));
        }
        let Some(mut flight) = self.flights[slot].take() else {
            return;
        };
        if self.machines[machine].on && self.is_process(machine, process) {
            let outcome = match (flight.stage, flight.fate.ok, &flight.write) {
                (Stage::Refused, _, _) => IoOutcome::NotStarted,
                (_, false, _) => IoOutcome::Failed(EIO),
                (_, true, None) => IoOutcome::Read(&flight.seen),
                (_, true, Some(_)) => IoOutcome::Written,
            };
            if self.trace.is_kept() {
                let told = match outcome {
                    IoOutcome::Read(_) => "read",
                    IoOutcome::Written => "written",
                    IoOutcome::Failed(_) => "failed",
                    IoOutcome::NotStarted => "not started",
                };
                self.say(machine, "told", format_args!("#{serial} {told}"));
            }
            // The clock is read once the completion is at hand.
            let it = &mut self.machines[machine];
            let took_effect = it.clock.at(flight.over_at).boottime;
            it.stale = it.stale.filter(|stale| stale.boottime >= took_effect);
            self.deliver(machine, &flight, outcome);
        }
        flight.told = true;
        if !again && flight.fate.twice && flight.stage == Stage::Over {
            self.flights[slot] = Some(flight);
            let later = self.random.below(3 * S);
            self.at(now + later, Event::Tell(slot, serial, true));
        } else {
            self.free.push(slot);
        }
    }

    /// Whether a write of the machine's daemon to the lockspace is under way.
    pub(super) fn is_writing_lease(&self, machine: usize) -> bool {
        self.flights.iter().flatten().any(|flight| {
            flight.machine == machine
                && flight.write.is_some()
                && flight.spot.area == Area::Lockspace
                && !flight.orphan
                && !flight.told
                && self.is_process(machine, flight.process)
        })
    }

    /// Whether an earlier write of the same daemon to a sector is under way.
    pub(super) fn is_doubtful(&self, machine: usize, process: u64, spot: Spot) -> bool {
        self.flights.iter().flatten().any(|flight| {
            flight.machine == machine
                && flight.process == process
                && flight.write.is_some()
                && flight.spot.area == spot.area
                && flight.spot.sector == spot.sector
                && !flight.told
        })
    }

    /// A daemon has ended; what it has in flight is not told to anybody, but
    /// lands all the same, if within the time that the next daemon waits.
    pub(super) fn cap_flights(&mut self, machine: usize) {
        let bound = self.swarm.bound_s() * S;
        for flight in self.flights.iter_mut().flatten() {
            if flight.machine == machine
                && flight
                    .fate
                    .lands
                    .is_some_and(|lands| lands > self.now + bound / 2)
            {
                flight.fate.lands = None;
            }
        }
    }

    /// A machine has ended: what it had in flight lands soon, or never.
    pub(super) fn orphan_flights(&mut self, machine: usize) {
        for slot in 0..self.flights.len() {
            let Some(flight) = &mut self.flights[slot] else {
                continue;
            };
            if flight.machine != machine || flight.orphan {
                continue;
            }
            flight.orphan = true;
            let serial = flight.serial;
            let writing = flight.write.is_some()
                && flight.fate.lands.is_some()
                && matches!(flight.stage, Stage::Begun | Stage::Half);
            let half = flight.stage == Stage::Half;
            self.drop_or_linger(slot, serial, writing, half);
        }
    }

    fn drop_or_linger(&mut self, slot: usize, serial: u64, writing: bool, half: bool) {
        let Some(flight) = self.flights[slot].take() else {
            return;
        };
        if !writing || self.random.chance(400) {
            self.free.push(slot);
            return;
        }
        // A new serial: what was due for it is void.
        let renamed = self.next_serial();
        let linger = match self.random.below(2) {
            0 => 0,
            _ => self.random.below(LINGER_MS) * 1_000_000,
        };
        if self.trace.is_kept() {
            self.say(
                flight.machine,
                "lingers",
                format_args!("#{serial} is now #{renamed}"),
            );
        }
        self.flights[slot] = Some(Flight {
            serial: renamed,
            ..flight
        });
        self.at(self.now + linger, Event::Part(slot, renamed, !half));
    }
}

impl Stall {
    fn holds_up(&self, spot: Spot, machine: usize) -> bool {
        self.machine.is_none_or(|number| number == machine)
            && self.area.is_none_or(|area| area == spot.area)
            && self
                .sector
                .is_none_or(|sector| (spot.sector..spot.sector + spot.sectors).contains(&sector))
    }
}

fn frees_host_id(spot: Spot, write: Option<&[u8]>) -> bool {
    spot.area == Area::Lockspace
        && write
            .and_then(delta::leader)
            .is_some_and(|record| record.timestamp == 0)
}

/// What a write says, in a few words.
fn describe(spot: Spot, write: Option<&[u8]>) -> String {
    let Some(bytes) = write else {
        return String::new();
    };
    match (spot.area, spot.sector) {
        (Area::Lockspace, _) => match delta::leader(bytes) {
            Some(record) => format!(
                "\"{}\" generation {} timestamp {}",
                record.resource_name, record.owner_generation, record.timestamp
            ),
            None => String::new(),
        },
        (Area::Resource(..), paxos::LEADER_SECTOR) => match paxos::leader(bytes) {
            Ok(leader) => format!(
                "leader v{} owner {}/{} {}written by {}",
                leader.lver,
                leader.owner_id,
                leader.owner_generation,
                if leader.timestamp == 0 { "free " } else { "" },
                leader.write_id
            ),
            Err(_) => String::new(),
        },
        (Area::Resource(..), paxos::REQUEST_SECTOR) => "request".to_owned(),
        (Area::Resource(..), paxos::LVB_SECTOR) => "value".to_owned(),
        (Area::Resource(..), _) => match (Dblock::decode(bytes), ModeBlock::decode(bytes)) {
            (Ok(dblock), Ok(mode)) => format!(
                "v{} mbal {} bal {} owner {}/{}{}{}",
                dblock.lver,
                dblock.mbal,
                dblock.bal,
                dblock.inp,
                dblock.inp2,
                if dblock.is_released() {
                    " released"
                } else {
                    ""
                },
                if mode.is_shared() { " SHARED" } else { "" },
            ),
            _ => "zeros".to_owned(),
        },
    }
}
