//! What the users of resources do: ask for them, give them back, change
//! their mind.

use disk_format::paxos;
use lease::resource::{
    Acquire, AcquireOptions, Convert, ConvertOptions, Examine, Input, Release, ReleaseOptions,
    Request, RequestOptions,
};

use super::{Event, World};
use crate::clock::{MS, S};
use crate::machine::Task;

impl World {
    pub(super) fn begin_acquire(&mut self, machine: usize, resource: usize, shared: bool) {
        let Some((us, _)) = self.us(machine) else {
            return;
        };
        let lvb = !shared && self.swarm.disks == 1 && self.random.chance(400);
        let options = AcquireOptions {
            shared,
            no_wait: self.random.chance(200) && !self.is_calm(),
            lvb: lvb && paxos::lvb_allowed(self.target(resource).geometry),
            // Not fewer than there are, or the others were shut out.
            num_hosts: self.random.chance(20).then(|| {
                let least = self.swarm.host_ids.iter().copied().max().unwrap_or(1);
                u32::try_from(self.random.between(u64::from(least), 14)).unwrap_or(14)
            }),
            expected_hosts: Some(14),
            expected_mbal: self.machines[machine]
                .process
                .as_ref()
                .and_then(|process| process.seats[resource].mbal),
            ..AcquireOptions::default()
        };
        let lvb = options.lvb;
        let seed = self.random.bits();
        let op = Acquire::new(us, self.target(resource), options, seed);
        self.run_task(
            machine,
            resource,
            Task::Acquire { shared, lvb },
            Box::new(op),
        );
    }

    /// The user has stopped; gives back what is held.
    pub(super) fn begin_release(&mut self, machine: usize, resource: usize) {
        let Some((us, _)) = self.us(machine) else {
            return;
        };
        let seat = &mut self.machines[machine]
            .process
            .as_mut()
            .expect("a daemon")
            .seats[resource];
        let Some(held) = seat.held.take() else {
            return;
        };
        let lvb = seat.lvb.take().filter(|_| !held.shared);
        let next = lvb.map(|value| value + 1);
        let size = self.disk.sector_size();
        let options = ReleaseOptions {
            lvb: next.map(|value| {
                let mut sector = vec![0; size];
                sector[..8].copy_from_slice(&value.to_le_bytes());
                sector.into()
            }),
            ..ReleaseOptions::default()
        };
        let op = Release::new(us, self.target(resource), &held, options);
        self.run_task(machine, resource, Task::Release { lvb: next }, Box::new(op));
    }

    pub(super) fn begin_convert(&mut self, machine: usize, resource: usize, shared: bool) {
        let Some((us, _)) = self.us(machine) else {
            return;
        };
        let no_wait = self.random.chance(200);
        let seed = self.random.bits();
        let seat = &mut self.machines[machine]
            .process
            .as_mut()
            .expect("a daemon")
            .seats[resource];
        let Some(held) = seat.held.take() else {
            return;
        };
        seat.lvb = None;
        let options = ConvertOptions {
            shared,
            no_wait,
            ..ConvertOptions::default()
        };
        let op = Convert::new(us, self.target(resource), &held, options, seed);
        self.run_task(machine, resource, Task::Convert { shared }, Box::new(op));
    }

    pub(super) fn begin_request(&mut self, machine: usize, resource: usize) {
        let Some((us, _)) = self.us(machine) else {
            return;
        };
        let options = RequestOptions {
            lver: 0,
            next_lver: true,
            force_mode: u32::try_from(self.random.between(1, 2)).unwrap_or(1),
        };
        let op = Request::new(us, self.target(resource), options);
        self.run_task(machine, resource, Task::Request, Box::new(op));
    }

    pub(super) fn begin_examine(&mut self, machine: usize, resource: usize) {
        let Some((us, _)) = self.us(machine) else {
            return;
        };
        let held = self.machines[machine]
            .process
            .as_ref()
            .and_then(|process| process.seats[resource].held);
        let Some(held) = held else {
            return;
        };
        let op = Examine::new(us, held.geometry, held.lver());
        self.run_task(machine, resource, Task::Examine, Box::new(op));
    }

    /// What a machine's users do next.
    pub(super) fn on_client(&mut self, machine: usize) {
        let pace = if self.is_calm() {
            S
        } else {
            self.swarm.client_pace
        };
        let pause = self.random.below(pace) + 100 * MS;
        self.at(self.now + pause, Event::Client(machine));
        if self.retired
            || self.disk.resources() == 0
            || self.machines[machine].runs_at(self.now) > self.now
            || self.us(machine).is_none()
        {
            return;
        }
        let resource = self.random.index(self.disk.resources());
        let satisfied = self.is_calm() && self.machines[machine].progress[resource];
        let Some(process) = self.machines[machine].process.as_ref() else {
            return;
        };
        if process.leaving {
            return;
        }
        let seat = &process.seats[resource];
        let (busy, held) = (seat.busy, seat.held);
        let user = self.machines[machine]
            .holders
            .iter()
            .any(|holder| holder.resource == resource);
        if let Some(id) = busy {
            // Without faults they are patient: a dead owner takes its time.
            if self.random.chance(100) && !self.is_calm() {
                if let Some(running) = self.machines[machine]
                    .process
                    .as_mut()
                    .and_then(|process| process.running.iter_mut().find(|it| it.id == id))
                {
                    running.cancelled = true;
                }
                self.say(machine, "cancels", format_args!("*{id}"));
                self.operation_input(machine, id, Input::Cancel);
            }
        } else if let Some(held) = held {
            match self.random.below(10) {
                0..2 if user && !self.is_calm() => {
                    // Whoever gives up writing does so before it asks.
                    if !held.shared {
                        for holder in &mut self.machines[machine].holders {
                            if holder.resource == resource {
                                holder.shared = true;
                            }
                        }
                    }
                    self.begin_convert(machine, resource, !held.shared);
                }
                2..5 if user && !self.is_calm() => {}
                _ => {
                    self.machines[machine]
                        .holders
                        .retain(|holder| holder.resource != resource);
                    self.begin_release(machine, resource);
                }
            }
        } else if user || satisfied {
            // Its daemon was killed, and it does not know; or it is the turn
            // of those who have not had it yet.
        } else {
            match self.random.below(10) {
                0 if !self.is_calm() => self.begin_request(machine, resource),
                1..4 => self.begin_acquire(machine, resource, true),
                _ => self.begin_acquire(machine, resource, false),
            }
        }
        self.plan_wake(machine);
    }
}
