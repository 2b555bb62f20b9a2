//! A machine's daemon: what `leased` does around the cores, and no more.

use disk_format::{Generation, HostId};
use lease::hosts::Notice;
use lease::{Effect, Input, IoOutcome, Loss, Monotonic, Note, State};

use super::io::Request;
use super::{Event, World};
use crate::clock::{Clock, MS, S};
use crate::disk::{Area, SECTORS, Spot};
use crate::flight::{Core, Flight};
use crate::machine::{Manner, Membership, Process, Seat, Tenure};
use crate::seen::Sight;
use crate::watchdog::{ConnectionId, Watchdog};

impl World {
    pub(super) fn is_process(&self, machine: usize, process: u64) -> bool {
        self.machines[machine]
            .process
            .as_ref()
            .is_some_and(|it| it.id == process)
    }

    pub(super) fn boot(&mut self, machine: usize) {
        let offset = self.random.between(2, 200) * S + self.random.below(S);
        let rate_ppm = self.swarm.rates_ppm[machine];
        let interval = u64::from(crate::watchdog::test_interval_s(self.swarm.fire_timeout_s)) * S;
        let early = self.random.below(interval);
        let it = &mut self.machines[machine];
        if it.on || self.retired {
            return;
        }
        it.on = true;
        it.boots += 1;
        it.clock = Clock {
            booted: self.now,
            offset,
            rate_ppm,
            slept: 0,
        };
        it.watchdog = Watchdog::new(self.swarm.fire_timeout_s, early);
        it.fire_at = None;
        self.say(machine, "boots", format_args!(""));
        self.start(machine);
    }

    /// The daemon starts.
    pub(super) fn start(&mut self, machine: usize) {
        let id = self.next_serial();
        let it = &mut self.machines[machine];
        if !it.on || it.process.is_some() || self.retired {
            return;
        }
        it.starting = false;
        it.process = Some(Process {
            id,
            membership: None,
            manner: None,
            leaving: false,
            asked_to_release: false,
            seats: (0..self.disk.resources())
                .map(|_| Seat::default())
                .collect(),
            running: Vec::new(),
        });
        self.say(machine, "starts", format_args!("process {id}"));
        self.join(machine);
    }

    /// The daemon wants its host id.
    fn join(&mut self, machine: usize) {
        let id = self.next_serial();
        let it = &mut self.machines[machine];
        let Some(process) = &mut it.process else {
            return;
        };
        let former = if it.doubt {
            Some(Manner::Uncertain)
        } else {
            process.manner
        };
        process.leaving = false;
        process.asked_to_release = false;
        for seat in &mut process.seats {
            *seat = Seat::default();
        }
        let geometry = self.disk.geometry();
        process.membership = Some(Membership::new(id, it.config, geometry, former));
        self.say(machine, "joins", format_args!("after {former:?}"));
        self.lease_input(machine, Input::Start(geometry));
    }

    pub(super) fn on_rejoin(&mut self, machine: usize, process: u64) {
        if self.retired || !self.is_process(machine, process) {
            return;
        }
        let runs_at = self.machines[machine].runs_at(self.now);
        if runs_at > self.now {
            return self.at(runs_at, Event::Rejoin(machine, process));
        }
        // While something of ours may still land, it could land on top of the
        // next claim.
        if self.is_writing_lease(machine) {
            return self.at(self.now + S, Event::Rejoin(machine, process));
        }
        let abandoned = self.machines[machine]
            .membership()
            .is_some_and(|membership| membership.abandoned);
        match self.machines[machine].state() {
            // The retry of an attempt that has succeeded since.
            Some(State::Lost) if !abandoned => {}
            // An attempt failed: the next.
            Some(State::Waiting) => {
                let geometry = self.disk.geometry();
                self.lease_input(machine, Input::Start(geometry));
            }
            Some(State::Released | State::Lost) | None => {
                if let Some(process) = &mut self.machines[machine].process
                    && let Some(ended) = process.membership.take()
                {
                    // One that never held anything says nothing of what an
                    // earlier daemon may have left.
                    if ended.lease.is_uncertain() {
                        process.manner = Some(Manner::Uncertain);
                    } else if ended.held {
                        process.manner = Some(Manner::Over);
                    }
                }
                self.join(machine);
            }
            Some(State::Acquiring | State::Busy | State::Held | State::Failing) => {}
        }
    }

    /// Gives the lease an input, and does what it says.
    pub(super) fn lease_input(&mut self, machine: usize, input: Input<'_>) {
        let now = self.machines[machine].read_clock(self.now);
        let Some(membership) = self.machines[machine]
            .process
            .as_mut()
            .and_then(|process| process.membership.as_mut())
        else {
            return;
        };
        membership.lease.handle(now, input);
        self.drain(machine);
        self.look_at_state(machine);
        self.plan_wake(machine);
    }

    fn drain(&mut self, machine: usize) {
        loop {
            let it = &mut self.machines[machine];
            let Some(process) = it.process.as_mut() else {
                return;
            };
            let id = process.id;
            let Some(membership) = process.membership.as_mut() else {
                return;
            };
            let connection = membership.id;
            while let Some(note) = membership.lease.next_note() {
                match note {
                    Note::Busy(_) => self.seen.count(Sight::Busy),
                    Note::Lost(Loss::Expired(_)) => self.seen.count(Sight::Expired),
                    Note::Lost(_) => self.seen.count(Sight::Overwritten),
                    Note::Released { clean: true } => self.seen.count(Sight::Left),
                    _ => {}
                }
                let who = it_who(it.letter, it.boots);
                self.trace
                    .line(self.now, who, "note", format_args!("{note:?}"));
            }
            let Some(effect) = membership.lease.next_effect() else {
                return;
            };
            let own = u32::try_from(it.config.host_id.index()).unwrap_or(0);
            match effect {
                Effect::ReadOwn(io) | Effect::ReadArea(io) => {
                    let whole = matches!(effect, Effect::ReadArea(_));
                    // The keeper reads only the front of the area two times out
                    // of three, as long as it has never seen a host beyond.
                    let front = self.swarm.front;
                    let beyond = membership
                        .hosts
                        .seen()
                        .any(|(host, _)| u32::from(host.get()) > front);
                    membership.readings += 1;
                    let short = membership.readings % 3 != 0 && own < front && !beyond;
                    let sectors = if short { front } else { SECTORS };
                    let request = Request {
                        core: Core::Lease(connection),
                        io,
                        spot: Spot {
                            area: Area::Lockspace,
                            sector: if whole { 0 } else { own },
                            sectors: if whole { sectors } else { 1 },
                        },
                        write: None,
                        not_after: Monotonic(u64::MAX),
                    };
                    self.submit(machine, id, request);
                }
                Effect::Write {
                    io,
                    not_after,
                    record,
                } => {
                    let request = Request {
                        core: Core::Lease(connection),
                        io,
                        spot: Spot {
                            area: Area::Lockspace,
                            sector: own,
                            sectors: 1,
                        },
                        write: Some(Box::new(record)),
                        not_after,
                    };
                    self.submit(machine, id, request);
                }
                Effect::WatchdogRegister { expire_s, .. } => {
                    self.set_watchdog(machine, connection, expire_s);
                    // A failed registration may have been made all the same.
                    let works = !self.random.chance(if self.is_calm() { 0 } else { 20 });
                    let later = self.now + self.random.below(100) * MS;
                    self.at(later, Event::Answer(machine, connection, works));
                }
                Effect::WatchdogUpdate { expire_s, .. } => {
                    self.set_watchdog(machine, connection, expire_s);
                }
                Effect::WatchdogClear => {
                    self.end_tenure(machine, connection);
                    self.set_watchdog(machine, connection, 0);
                }
            }
        }
    }

    fn set_watchdog(&mut self, machine: usize, connection: ConnectionId, expire_s: u64) {
        let now = self.now;
        let it = &mut self.machines[machine];
        it.watchdog.set(connection, expire_s, &it.clock, now);
        self.say(machine, "watchdog", format_args!("expiry {expire_s} s"));
        self.plan_fire(machine);
    }

    pub(super) fn plan_fire(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        let since = it.frozen.map(|(_, since)| since);
        let due = it.watchdog.fires_at(&it.clock, since);
        if due != it.fire_at {
            it.fire_at = due;
            if let Some(due) = due {
                self.at(due, Event::Fire(machine));
            }
        }
    }

    pub(super) fn on_fire(&mut self, machine: usize) {
        let it = &self.machines[machine];
        if it.on && it.fire_at.is_some_and(|at| at <= self.now) {
            self.seen.count(Sight::Reset);
            self.end_machine(machine, "reset by its watchdog");
        }
    }

    /// The machine ends at once, and boots again some time.
    pub(super) fn end_machine(&mut self, machine: usize, why: &str) {
        self.say(machine, "ends", format_args!("{why}"));
        self.orphan_flights(machine);
        let it = &mut self.machines[machine];
        it.on = false;
        it.doubt |= it
            .membership()
            .is_some_and(|membership| membership.lease.is_uncertain());
        it.process = None;
        it.tenures.clear();
        it.holders.clear();
        it.fire_at = None;
        it.frozen = None;
        it.daemon_frozen_until = 0;
        it.stale = None;
        it.wake_at = None;
        it.starting = true;
        let later = 3 * S + self.random.below(20) * S;
        self.at(self.now + later, Event::Boot(machine));
    }

    /// The daemon ends; whoever uses its leases runs on.
    pub(super) fn kill(&mut self, machine: usize) {
        self.say(machine, "killed", format_args!(""));
        self.seen.count(Sight::Killed);
        self.cap_flights(machine);
        let later = self.now + self.random.below(20_000) * MS;
        let it = &mut self.machines[machine];
        if let Some(membership) = it.process.take().and_then(|process| process.membership) {
            it.watchdog.close(membership.id);
            it.doubt |= membership.lease.is_uncertain();
        }
        it.stale = None;
        it.wake_at = None;
        it.starting = true;
        self.at(later, Event::Start(machine));
    }

    /// Follows the lease from state to state.
    fn look_at_state(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        let Some(process) = it.process.as_mut() else {
            return;
        };
        let process_id = process.id;
        let Some(membership) = process.membership.as_mut() else {
            return;
        };
        let status = membership.lease.status();
        let (was, id) = (membership.was, membership.id);
        if was == status.state {
            return;
        }
        membership.was = status.state;
        let holds = |state| matches!(state, State::Held | State::Failing);
        if holds(status.state) && !holds(was) {
            let generation = status.generation.unwrap_or(Generation(0));
            membership.held = true;
            it.doubt = false;
            it.tenures.push(Tenure {
                membership: id,
                process: process_id,
                generation,
            });
            self.seen.count(Sight::Joined);
            if self.judge.on_held(&self.machines, machine, generation) {
                self.seen.count(Sight::TakenOver);
            }
        }
        match status.state {
            State::Lost => {
                self.abandon_operations(machine);
                // Killed, or stuck: then only the watchdog ends them.
                if self.random.chance(self.swarm.stuck) {
                    self.say(machine, "stuck", format_args!("its users do not die"));
                } else {
                    let later = self.now + self.random.below(20_000) * MS;
                    self.at(later, Event::UsersDie(machine, id));
                }
            }
            State::Released => {
                self.end_tenure(machine, id);
                let later = self.now + self.random.below(30_000) * MS;
                self.at(later, Event::Rejoin(machine, process_id));
            }
            State::Waiting => {
                let later = self.now + self.random.below(2_000) * MS;
                self.at(later, Event::Rejoin(machine, process_id));
            }
            State::Acquiring | State::Busy | State::Held | State::Failing => {}
        }
    }

    fn end_tenure(&mut self, machine: usize, membership: ConnectionId) {
        self.machines[machine]
            .tenures
            .retain(|tenure| tenure.membership != membership);
    }

    /// All users of a lost lease are dead: the watchdog need not fire.
    pub(super) fn on_users_dead(&mut self, machine: usize, membership: ConnectionId) {
        let it = &self.machines[machine];
        let Some(process) = &it.process else {
            return;
        };
        let (id, mine) = (
            process.id,
            process
                .membership
                .as_ref()
                .is_some_and(|it| it.id == membership),
        );
        if !mine {
            return;
        }
        let runs_at = it.runs_at(self.now);
        if runs_at > self.now {
            return self.at(runs_at, Event::UsersDie(machine, membership));
        }
        self.machines[machine]
            .holders
            .retain(|holder| holder.membership != membership);
        // What may still change the disk counts as a user.
        if !self.running_ids(machine).is_empty() {
            return self.at(self.now + S, Event::UsersDie(machine, membership));
        }
        self.say(machine, "abandons", format_args!("its users are dead"));
        if let Some(ended) = self.machines[machine]
            .process
            .as_mut()
            .and_then(|process| process.membership.as_mut())
        {
            ended.abandoned = true;
        }
        self.end_tenure(machine, membership);
        self.set_watchdog(machine, membership, 0);
        let later = self.now + self.random.below(10_000) * MS;
        self.at(later, Event::Rejoin(machine, id));
    }

    pub(super) fn on_answer(&mut self, machine: usize, membership: u64, registered: bool) {
        let runs_at = self.machines[machine].runs_at(self.now);
        let mine = self.machines[machine]
            .membership()
            .is_some_and(|it| it.id == membership);
        if !mine {
            return;
        }
        if runs_at > self.now {
            return self.at(runs_at, Event::Answer(machine, membership, registered));
        }
        self.lease_input(machine, Input::WatchdogRegistered(registered));
    }

    /// Hands an outcome to the core that asked.
    pub(super) fn deliver(&mut self, machine: usize, flight: &Flight, outcome: IoOutcome<'_>) {
        let Core::Lease(membership) = flight.core else {
            return self.deliver_operation(machine, flight, outcome);
        };
        let mine = self.machines[machine]
            .membership()
            .is_some_and(|it| it.id == membership);
        if !mine {
            return;
        }
        match outcome {
            IoOutcome::Read(area) if flight.spot.sectors > 1 => {
                let own = self.machines[machine].config.host_id.index();
                let sector = area
                    .chunks_exact(self.disk.sector_size())
                    .nth(own)
                    .unwrap_or_default();
                self.observe(machine, flight.asked, area);
                self.lease_input(machine, Input::Io(flight.io, IoOutcome::Read(sector)));
            }
            _ => self.lease_input(machine, Input::Io(flight.io, outcome)),
        }
    }

    /// The engine looks at what the keeper has read.
    fn observe(&mut self, machine: usize, asked: u64, area: &[u8]) {
        let clock = &self.machines[machine].clock;
        let (asked, now) = (clock.at(asked).boottime, clock.at(self.now).boottime);
        let Some(membership) = self.machines[machine]
            .process
            .as_mut()
            .and_then(|process| process.membership.as_mut())
        else {
            return;
        };
        let changes = membership.hosts.observe(asked, now, 0, area);
        let called = changes
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::Request { .. }));
        if called {
            self.examine_all(machine);
        }
        if changes.replaced > 0 {
            self.owners_changed(machine);
        }
        self.judge.on_beliefs(&self.machines, machine, self.now);
        let Some(membership) = self.machines[machine].membership() else {
            return;
        };
        let ids = u64::from(self.swarm.host_ids.iter().copied().max().unwrap_or(0));
        let dead = (1..=ids)
            .filter_map(|id| HostId::new(id).ok())
            .filter(|id| membership.hosts.belief(*id, now) == lease::hosts::Belief::Dead)
            .count();
        self.seen
            .add_to(Sight::BelievedDead, u64::try_from(dead).unwrap_or(0));
    }

    /// Plans the next look at the deadlines.
    pub(super) fn plan_wake(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        let of_lease = it
            .membership()
            .and_then(|membership| membership.lease.deadline());
        let of_operations = it
            .process
            .iter()
            .flat_map(|process| &process.running)
            .filter_map(|running| running.op.deadline());
        let due = of_operations.chain(of_lease).min();
        let wake_at = due.map(|due| it.clock.world_at(due).max(self.now));
        if wake_at != it.wake_at {
            it.wake_at = wake_at;
            if let Some(wake_at) = wake_at {
                self.at(wake_at, Event::Wake(machine));
            }
        }
    }

    pub(super) fn on_wake(&mut self, machine: usize) {
        let it = &mut self.machines[machine];
        if it.wake_at.is_none_or(|at| at > self.now) {
            return;
        }
        let runs_at = it.runs_at(self.now);
        it.wake_at = None;
        if runs_at > self.now {
            it.wake_at = Some(runs_at);
            return self.at(runs_at, Event::Wake(machine));
        }
        let now = self.machines[machine].clock.at(self.now).boottime;
        let due = |deadline: Option<Monotonic>| deadline.is_some_and(|deadline| deadline <= now);
        let ids: Vec<u64> = self.machines[machine]
            .process
            .iter()
            .flat_map(|process| &process.running)
            .filter(|running| due(running.op.deadline()))
            .map(|running| running.id)
            .collect();
        for id in ids {
            self.operation_input(machine, id, lease::resource::Input::Tick);
        }
        self.lease_input(machine, Input::Tick);
    }
}

fn it_who(letter: char, boots: u32) -> crate::machine::Who {
    crate::machine::Who(letter, boots)
}
