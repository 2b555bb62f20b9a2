//! Resource operations: what the daemon does around their cores.

use disk_format::{HostBitmap, HostExtras, HostId, LockspaceName, ResourceName, paxos};
use lease::code::Code;
use lease::hosts::Hosts;
use lease::resource::{
    Effect, Held, Input, Observed, Operation, Outcome, Owners, Place, Target, Us,
};
use lease::{Monotonic, State};

use super::io;
use super::{Event, World};
use crate::clock::S;
use crate::disk::{Area, Spot};
use crate::flight::{Core, Flight};
use crate::machine::{Holder, Running, Task, lockspace};
use crate::seen::Sight;

/// What the cores may know of the others.
struct View<'a> {
    hosts: &'a Hosts,
    joined: bool,
}

impl Owners for View<'_> {
    fn observed(&self, _: &LockspaceName, host: HostId) -> Option<Observed> {
        let seen = self.hosts.get(host);
        (self.joined && seen.last_check.is_some()).then(|| Observed::from(&seen))
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        self.joined
    }
}

/// The name of a resource.
pub(super) fn resource_name(number: usize) -> ResourceName {
    const NAMES: [&str; 4] = ["R0", "R1", "R2", "R3"];
    ResourceName::new(NAMES[number]).expect("a valid name")
}

impl World {
    pub(super) fn us(&self, machine: usize) -> Option<(Us, u64)> {
        let it = &self.machines[machine];
        let membership = it.membership()?;
        let status = membership.lease.status();
        let held = matches!(status.state, State::Held | State::Failing);
        let us = Us {
            host_id: it.config.host_id,
            generation: status.generation.filter(|_| held)?,
            io_timeout_s: it.config.io_timeout_s,
            fire_timeout_s: it.config.fire_timeout_s,
        };
        Some((us, membership.id))
    }

    pub(super) fn target(&self, resource: usize) -> Target {
        Target {
            lockspace: lockspace(),
            resource: resource_name(resource),
            geometry: self.disk.geometry(),
            disks: self.swarm.disks,
        }
    }

    pub(super) fn run_task(
        &mut self,
        machine: usize,
        resource: usize,
        task: Task,
        op: Box<dyn Operation>,
    ) {
        let id = self.next_serial();
        let Some((us, membership)) = self.us(machine) else {
            return;
        };
        self.say(
            machine,
            "asks",
            format_args!("*{id} {task:?} of R{resource}"),
        );
        let Some(process) = self.machines[machine].process.as_mut() else {
            return;
        };
        if task != Task::Examine {
            process.seats[resource].busy = Some(id);
        }
        process.running.push(Running {
            id,
            resource,
            task,
            op,
            told: false,
            cancelled: false,
            membership,
            generation: us.generation,
        });
        self.operation_input(machine, id, Input::Start);
    }

    /// Gives one operation an input, and does what it says.
    pub(super) fn operation_input(&mut self, machine: usize, id: u64, input: Input<'_>) {
        let now = self.machines[machine].read_clock(self.now);
        let Some(process) = self.machines[machine].process.as_mut() else {
            return;
        };
        let process_id = process.id;
        let Some(index) = process.running.iter().position(|running| running.id == id) else {
            return;
        };
        let mut running = process.running.swap_remove(index);
        let Some(membership) = process.membership.as_ref() else {
            return;
        };
        let view = View {
            hosts: &membership.hosts,
            joined: !matches!(
                membership.lease.status().state,
                State::Lost | State::Released
            ),
        };
        running.op.handle(now, input, &view);
        while let Some(effect) = running.op.next_effect() {
            self.do_effect(machine, process_id, &running, effect);
        }
        let told = running.told;
        let outcome = running.op.result().filter(|_| !told).cloned();
        running.told |= outcome.is_some();
        let drained = running.op.is_drained();
        let (resource, task, cancelled) = (running.resource, running.task, running.cancelled);
        let (membership, generation) = (running.membership, running.generation);
        if let Some(process) = self.machines[machine].process.as_mut() {
            if drained {
                if process.seats[resource].busy == Some(id) {
                    process.seats[resource].busy = None;
                }
            } else {
                process.running.push(running);
            }
        }
        if let Some(outcome) = outcome {
            let grant = Grant {
                membership,
                generation,
                cancelled,
            };
            self.on_outcome(machine, resource, task, &outcome, grant);
        }
        if drained && told {
            self.say(machine, "drained", format_args!("*{id}"));
        }
        self.leave_if_idle(machine);
    }

    fn do_effect(&mut self, machine: usize, process: u64, running: &Running, effect: Effect) {
        let size = u64::try_from(self.disk.sector_size()).unwrap_or(512);
        let area = |place| match place {
            Place::Disk(disk) => (Area::Resource(running.resource, disk), 0),
            Place::OwnerDelta { host_id, .. } => {
                (Area::Lockspace, u64::try_from(host_id.index()).unwrap_or(0))
            }
        };
        let spot = |place, offset: u64, bytes: u64| {
            let (area, base) = area(place);
            Spot {
                area,
                sector: u32::try_from(base + offset / size).unwrap_or(u32::MAX),
                sectors: u32::try_from(bytes / size).unwrap_or(1),
            }
        };
        let core = Core::Operation(running.id);
        let request = match effect {
            Effect::Read {
                io,
                place,
                offset,
                bytes,
            } => io::Request {
                core,
                io,
                spot: spot(place, offset, u64::from(bytes)),
                write: None,
                not_after: Monotonic(u64::MAX),
            },
            Effect::Write {
                io,
                place,
                offset,
                sector,
                not_after,
                content,
            } => {
                if u64::from(sector) != size {
                    self.judge
                        .object("a write is one sector", format!("{sector} bytes"));
                }
                io::Request {
                    core,
                    io,
                    spot: spot(place, offset, u64::from(sector)),
                    write: Some(content.as_slice().into()),
                    not_after,
                }
            }
        };
        if request.write.is_some() && self.is_doubtful(machine, process, request.spot) {
            self.judge.object(
                "no write follows one of unknown outcome to the same sector",
                format!("{:?} of *{}", request.spot, running.id),
            );
        }
        self.submit(machine, process, request);
    }

    fn on_outcome(
        &mut self,
        machine: usize,
        resource: usize,
        task: Task,
        outcome: &Outcome,
        grant: Grant,
    ) {
        self.say(
            machine,
            "result",
            format_args!(
                "{task:?} of R{resource}: {} {}",
                outcome.code.0,
                outcome.code.text()
            ),
        );
        match task {
            Task::Acquire { shared, lvb } => {
                self.on_acquired(machine, resource, shared, lvb, outcome, grant);
            }
            Task::Convert { shared } => {
                self.on_converted(machine, resource, shared, outcome, grant)
            }
            Task::Release { lvb } => {
                if outcome.code == Code::OK {
                    self.seen.count(Sight::Returned);
                    self.judge.on_returned(machine, resource);
                    // A value that could not be written is not reported.
                    let on_disk = self
                        .disk
                        .sector(Area::Resource(resource, 0), paxos::LVB_SECTOR)
                        .and_then(|sector| sector.first_chunk().copied())
                        .map(u64::from_le_bytes);
                    if let Some(value) = lvb.filter(|value| Some(*value) == on_disk) {
                        self.judge.on_lvb_kept(resource, value);
                    }
                }
            }
            Task::Request => {
                if let Some(host) = outcome.notify {
                    self.seen.count(Sight::Requested);
                    self.notify(machine, Some(host));
                    let t = u64::from(self.machines[machine].config.io_timeout_s);
                    self.at(self.now + 6 * t * S, Event::Quiet(machine));
                }
            }
            Task::Examine => self.on_examined(machine, resource, outcome),
        }
    }

    fn on_acquired(
        &mut self,
        machine: usize,
        resource: usize,
        shared: bool,
        lvb: bool,
        outcome: &Outcome,
        grant: Grant,
    ) {
        match outcome.code {
            Code::ACQUIRE_IDLIVE => self.seen.count(Sight::OwnerAlive),
            Code::ACQUIRE_OTHER | Code::ACQUIRE_OWNED => self.seen.count(Sight::BallotLost),
            Code::EAGAIN => self.seen.count(Sight::SharedInTheWay),
            _ => {}
        }
        if outcome.code != Code::OK {
            return;
        }
        let Some(held) = outcome.held else {
            self.judge
                .object("success means something is held", format!("{outcome:?}"));
            return;
        };
        // The daemon's last look: without the lockspace nothing is granted.
        let still = self.us(machine).is_some_and(|(us, membership)| {
            membership == grant.membership && us.generation == grant.generation
        });
        if !still {
            return;
        }
        let process = self.machines[machine].process.as_mut().expect("a daemon");
        let leaving = process.leaving;
        let seat = &mut process.seats[resource];
        seat.held = Some(held);
        seat.mbal = Some(held.dblock.mbal);
        seat.lvb = None;
        if leaving || grant.cancelled {
            // Nobody wants it any more; it is given back at the next occasion.
            return;
        }
        if lvb {
            let value = outcome
                .lvb
                .as_ref()
                .and_then(|bytes| bytes.first_chunk().copied())
                .map(u64::from_le_bytes);
            seat.lvb = value;
            if let Some(value) = value {
                self.judge.on_lvb_read(resource, value);
            }
        }
        self.grant(machine, resource, shared, held, grant);
    }

    fn grant(&mut self, machine: usize, resource: usize, shared: bool, held: Held, grant: Grant) {
        let holder = Holder {
            membership: grant.membership,
            resource,
            shared,
            generation: grant.generation,
            lver: held.lver(),
        };
        let process = self.machines[machine]
            .process
            .as_ref()
            .map(|process| process.id);
        self.say(
            machine,
            "GRANTED",
            format_args!(
                "R{resource} {} version {} (process {process:?})",
                if shared { "shared" } else { "exclusively" },
                holder.lver
            ),
        );
        self.machines[machine].holders.push(holder);
        self.machines[machine].progress[resource] |= self.is_calm();
        let news = self.judge.on_granted(&self.machines, machine, &holder);
        self.seen.count(if shared {
            Sight::Shared
        } else {
            Sight::Exclusive
        });
        if news.taken_over {
            self.seen.count(Sight::ResourceTakenOver);
        }
        if news.together {
            self.seen.count(Sight::SharedTogether);
        }
    }

    fn on_converted(
        &mut self,
        machine: usize,
        resource: usize,
        shared: bool,
        outcome: &Outcome,
        grant: Grant,
    ) {
        let still = self.us(machine).is_some_and(|(us, membership)| {
            membership == grant.membership && us.generation == grant.generation
        });
        if !still {
            return;
        }
        let Some(held) = outcome.held else {
            self.judge
                .object("a convert leaves something held", format!("{outcome:?}"));
            return;
        };
        let it = &mut self.machines[machine];
        let process = it.process.as_mut().expect("a daemon");
        process.seats[resource].held = Some(held);
        let user = it
            .holders
            .iter()
            .any(|holder| holder.resource == resource && holder.membership == grant.membership);
        if outcome.code == Code::OK {
            self.seen.count(if shared {
                Sight::Lowered
            } else {
                Sight::Raised
            });
            if held.shared != shared {
                self.judge
                    .object("a convert does what it was asked", format!("{outcome:?}"));
            }
            if user && !shared && !grant.cancelled {
                let mine = |holder: &Holder| {
                    holder.resource == resource && holder.membership == grant.membership
                };
                self.machines[machine]
                    .holders
                    .retain(|holder| !mine(holder));
                self.grant(machine, resource, false, held, grant);
            }
        }
    }

    fn on_examined(&mut self, machine: usize, resource: usize, outcome: &Outcome) {
        let Some(request) = outcome.request else {
            return;
        };
        let it = &mut self.machines[machine];
        let Some(seat) = it.process.as_ref().map(|process| &process.seats[resource]) else {
            return;
        };
        let wanted = request.force_mode != 0
            && seat
                .held
                .is_some_and(|held| !held.shared && request.lver > held.lver());
        if wanted && seat.busy.is_none() {
            let before = it.holders.len();
            it.holders.retain(|holder| holder.resource != resource);
            if it.holders.len() < before {
                self.seen.count(Sight::RequestHonoured);
                self.say(machine, "stops", format_args!("R{resource} was requested"));
                self.begin_release(machine, resource);
            }
        }
    }

    /// Another host called: look at what it wants.
    pub(super) fn examine_all(&mut self, machine: usize) {
        for resource in 0..self.disk.resources() {
            let held = self.machines[machine]
                .process
                .as_ref()
                .is_some_and(|process| process.seats[resource].held.is_some());
            if held {
                self.begin_examine(machine, resource);
            }
        }
    }

    /// Those who wait for a host's death may have news.
    pub(super) fn owners_changed(&mut self, machine: usize) {
        for id in self.running_ids(machine) {
            self.operation_input(machine, id, Input::OwnerChanged);
        }
    }

    pub(super) fn running_ids(&self, machine: usize) -> Vec<u64> {
        self.machines[machine]
            .process
            .as_ref()
            .map(|process| process.running.iter().map(|running| running.id).collect())
            .unwrap_or_default()
    }

    /// Our next renewals call a host, or nobody.
    pub(super) fn notify(&mut self, machine: usize, host: Option<HostId>) {
        let mut bitmap = HostBitmap::EMPTY;
        if let Some(host) = host {
            bitmap.insert(host);
        }
        if let Some(membership) = self.machines[machine]
            .process
            .as_mut()
            .and_then(|process| process.membership.as_mut())
        {
            membership.lease.notify(bitmap, HostExtras::NONE);
        }
    }

    /// Hands an outcome to the operation that asked.
    pub(super) fn deliver_operation(
        &mut self,
        machine: usize,
        flight: &Flight,
        outcome: lease::IoOutcome<'_>,
    ) {
        if let Core::Operation(id) = flight.core {
            self.operation_input(machine, id, Input::Io(flight.io, outcome));
            self.plan_wake(machine);
        }
    }

    /// The lease is lost: no operation touches the disk any more.
    pub(super) fn abandon_operations(&mut self, machine: usize) {
        for id in self.running_ids(machine) {
            self.operation_input(machine, id, Input::Abandon);
        }
    }
}

/// For whom something was asked.
#[derive(Debug, Clone, Copy)]
struct Grant {
    membership: u64,
    generation: disk_format::Generation,
    cancelled: bool,
}
