//! What goes wrong with whole machines and paths.

use lease::{Input, State};

use super::{Event, Stall, World};
use crate::clock::{MS, S};
use crate::disk::Area;
use crate::seen::Sight;

impl World {
    pub(super) fn on_trouble(&mut self) {
        if self.is_calm() {
            return;
        }
        let pause = self.random.below(self.swarm.pace) + MS;
        self.at(self.now + pause, Event::Trouble);
        let machine = self.random.index(self.machines.len());
        for who in 0..self.machines.len() {
            self.judge.on_beliefs(&self.machines, who, self.now);
        }
        let troubles = self.swarm.troubles;
        let weights = [
            troubles.nothing,
            troubles.power,
            troubles.kill,
            troubles.freeze,
            troubles.freeze_daemon,
            troubles.suspend,
            troubles.release,
            troubles.stall,
        ];
        let mut draw = self.random.below(u64::from(weights.iter().sum::<u32>()));
        let mut kind = 0;
        for (number, weight) in weights.iter().enumerate() {
            if draw < u64::from(*weight) {
                kind = number;
                break;
            }
            draw -= u64::from(*weight);
        }
        if kind == 7 {
            return self.stall();
        }
        if !self.machines[machine].on {
            return;
        }
        match kind {
            1 => self.end_machine(machine, "loses its power"),
            2 if self.machines[machine].process.is_some() => self.kill(machine),
            3 => self.freeze(machine, false),
            4 => self.freeze_daemon(machine),
            5 => self.freeze(machine, true),
            6 => self.release(machine),
            _ => {}
        }
    }

    /// A duration between nothing and about as long as a host takes to die.
    fn duration(&mut self, machine: usize) -> u64 {
        let t = u64::from(self.machines[machine].config.io_timeout_s);
        let limit = match self.random.below(4) {
            0 => t,
            1 => 3 * t,
            2 => 9 * t,
            _ => 9 * t + u64::from(self.swarm.fire_timeout_s),
        };
        self.random.below(limit * 1000) * MS
    }

    fn freeze(&mut self, machine: usize, sleeps: bool) {
        let duration = self.duration(machine);
        let until = self.now + duration;
        let stale = self.random.chance(self.swarm.stale_clock);
        let it = &mut self.machines[machine];
        if it.frozen.is_some() {
            return;
        }
        it.frozen = Some((until, self.now));
        if stale {
            it.stale = Some(it.clock.at(self.now));
        }
        it.sleeps = sleeps;
        let kind = if sleeps { "sleeps" } else { "frozen" };
        self.say(machine, kind, format_args!("for {} ms", duration / MS));
        self.at(until, Event::Thaw(machine));
        self.plan_fire(machine);
    }

    pub(super) fn on_thaw(&mut self, machine: usize) {
        let now = self.now;
        let it = &mut self.machines[machine];
        if let Some((until, since)) = it.frozen
            && until <= now
        {
            it.frozen = None;
            if it.sleeps {
                it.clock.slept += it.clock.lengthen(now - since);
            }
            self.seen.count(Sight::Thawed);
            self.say(machine, "thaws", format_args!(""));
            self.plan_fire(machine);
            self.plan_wake(machine);
        }
    }

    fn freeze_daemon(&mut self, machine: usize) {
        let duration = self.duration(machine);
        let stale = self.random.chance(self.swarm.stale_clock);
        let it = &mut self.machines[machine];
        it.daemon_frozen_until = it.daemon_frozen_until.max(self.now + duration);
        if stale && it.stale.is_none() {
            it.stale = Some(it.clock.at(self.now));
        }
        self.say(
            machine,
            "frozen",
            format_args!("its daemon, for {} ms", duration / MS),
        );
    }

    /// The lease is given back: first its users stop.
    pub(super) fn release(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        if it.runs_at(self.now) > self.now && !self.retired {
            return;
        }
        let Some(state) = it.state() else {
            return;
        };
        if matches!(state, State::Lost | State::Released) {
            return;
        }
        let Some(process) = it.process.as_mut().filter(|process| !process.leaving) else {
            return;
        };
        process.leaving = true;
        it.holders.clear();
        self.say(machine, "leaves", format_args!(""));
        // Half of the daemons give back what they hold; the others leave it to
        // the freed host id to say so.
        if self.retired || self.random.chance(500) {
            for resource in 0..self.disk.resources() {
                let seat = self.machines[machine]
                    .process
                    .as_ref()
                    .map(|process| &process.seats[resource]);
                if seat.is_some_and(|seat| seat.busy.is_none() && seat.held.is_some()) {
                    self.begin_release(machine, resource);
                }
            }
        }
        for id in self.running_ids(machine) {
            self.operation_input(machine, id, lease::resource::Input::Cancel);
        }
        self.leave_if_idle(machine);
        self.plan_wake(machine);
    }

    /// Gives the host id back once no operation may change the disk any more.
    pub(super) fn leave_if_idle(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        let Some(process) = it.process.as_mut() else {
            return;
        };
        if !process.leaving || !process.running.is_empty() {
            return;
        }
        let Some(membership) = process.membership.as_ref() else {
            return;
        };
        let id = membership.id;
        if membership.lease.status().state == State::Lost || process.asked_to_release {
            return;
        }
        process.asked_to_release = true;
        it.tenures.retain(|tenure| tenure.membership != id);
        self.say(machine, "releases", format_args!("its host id"));
        self.lease_input(machine, Input::Release);
    }

    fn stall(&mut self) {
        let machine = self.random.index(self.machines.len());
        let duration = self.duration(machine);
        let whole = self.random.chance(200);
        let area = self.random.chance(400).then(|| {
            let number = self.random.index(self.disk.resources() + 1);
            let disk = u8::try_from(self.random.below(u64::from(self.swarm.disks))).unwrap_or(0);
            number
                .checked_sub(1)
                .map_or(Area::Lockspace, |number| Area::Resource(number, disk))
        });
        let sector = if self.random.chance(300) {
            u32::try_from(self.random.below(10)).ok()
        } else {
            None
        };
        let stall = Stall {
            until: self.now + duration,
            machine: (!whole).then_some(machine),
            area,
            sector,
            fails: self.random.chance(250),
        };
        let who = self.machines[machine].letter;
        self.trace.line(
            self.now,
            '*',
            "stall",
            format_args!(
                "{} for {} s: area {:?}, sector {:?}{}",
                if whole { '*' } else { who },
                duration / S,
                area,
                sector,
                if stall.fails { ", then fails" } else { "" }
            ),
        );
        self.stalls.push(stall);
    }
}
