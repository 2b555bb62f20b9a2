//! Operations under way: their reads and writes, their deadlines, their ends.

use std::sync::Arc;

use disk_format::{Dblock, LockspaceName};
use lease::resource::{self, Operation, Outcome, Owners, Place, Us};
use lease::{IoId, IoOutcome, Monotonic};
use sanlock_wire::Disk;

use super::table::{CommandId, Entry, Key, OpId, ResId, Space};
use super::types::{ClientId, Device, DiskHandle, DiskIo, Effect, IoToken, OperationId, ReplyTo};
use super::{Resources, Timer};

/// Why an operation runs, and what becomes of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Acquire {
        command: CommandId,
        slot: usize,
        resource: ResId,
    },
    Release {
        resource: ResId,
    },
    Convert {
        reply: ReplyTo,
        client: ClientId,
        resource: ResId,
    },
    Request {
        reply: ReplyTo,
        key: Key,
    },
    Examine {
        resource: ResId,
    },
}

impl Purpose {
    /// The resource whose lease it changes.
    pub(super) fn resource(self) -> Option<ResId> {
        match self {
            Self::Acquire { resource, .. }
            | Self::Release { resource }
            | Self::Convert { resource, .. } => Some(resource),
            Self::Request { .. } | Self::Examine { .. } => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Op {
    pub(super) core: Box<dyn Operation>,
    pub(super) purpose: Purpose,
    pub(super) lockspace: LockspaceName,
    disks: Arc<[Disk]>,
    pub(super) started: Monotonic,
    /// Its result has been passed on.
    answered: bool,
    due: Option<Monotonic>,
}

/// A read or write without outcome.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    op: OpId,
    io: IoId,
}

/// Something an operation is to be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    op: OpId,
    what: Tell,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Tell {
    Start,
    Tick,
    OwnerChanged,
    Cancel,
    Abandon,
    /// A read or write could not even be asked for.
    NotStarted(IoId),
}

impl Space {
    pub(super) fn us(&self) -> Us {
        Us {
            host_id: self.view.host_id,
            generation: self.view.generation,
            io_timeout_s: self.view.io_timeout_s,
            fire_timeout_s: self.view.fire_timeout_s,
        }
    }
}

impl Resources {
    /// Begins an operation; it runs before `handle` returns.
    pub(super) fn start(
        &mut self,
        core: Box<dyn Operation>,
        purpose: Purpose,
        lockspace: LockspaceName,
        disks: Arc<[Disk]>,
    ) -> OpId {
        let id = OpId(self.new_id());
        let op = Op {
            core,
            purpose,
            lockspace,
            disks,
            started: self.now.boottime,
            answered: false,
            due: None,
        };
        self.ops.insert(id, op);
        if let Some(space) = self.spaces.get_mut(&lockspace) {
            space.ops.insert(id);
        }
        self.tell(id, Tell::Start);
        id
    }

    pub(super) fn tell(&mut self, op: OpId, what: Tell) {
        self.work.push_back(Work { op, what });
    }

    pub(super) fn on_op_due(&mut self, id: OpId) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.due = None;
            self.tell(id, Tell::Tick);
        }
    }

    pub(super) fn drive(&mut self, work: Work, owners: &dyn Owners) {
        let input = match work.what {
            Tell::Start => resource::Input::Start,
            Tell::Tick => resource::Input::Tick,
            Tell::OwnerChanged => resource::Input::OwnerChanged,
            Tell::Cancel => resource::Input::Cancel,
            Tell::Abandon => resource::Input::Abandon,
            Tell::NotStarted(io) => resource::Input::Io(io, IoOutcome::NotStarted),
        };
        self.step(work.op, input, owners);
    }

    pub(super) fn on_io(&mut self, token: IoToken, outcome: IoOutcome<'_>, owners: &dyn Owners) {
        if let Some(flight) = self.flights.remove(&token) {
            self.step(flight.op, resource::Input::Io(flight.io, outcome), owners);
        }
    }

    /// Tells an operation something, and does what follows from it.
    fn step(&mut self, id: OpId, input: resource::Input<'_>, owners: &dyn Owners) {
        let Some(mut op) = self.ops.remove(&id) else {
            return;
        };
        op.core.handle(self.now, input, owners);
        while let Some(effect) = op.core.next_effect() {
            self.submit(id, &op, effect);
        }
        let due = op.core.deadline();
        if due != op.due {
            if let Some(old) = op.due {
                self.timers.remove(&(old, Timer::Op(id)));
            }
            if let Some(due) = due {
                self.timers.insert((due, Timer::Op(id)));
            }
            op.due = due;
        }
        let outcome = match op.answered {
            true => None,
            false => op.core.result().cloned(),
        };
        let drained = op.core.is_drained();
        let purpose = op.purpose;
        let started = op.started;
        if outcome.is_some() {
            op.answered = true;
            if !drained {
                self.on_draining(&op);
            }
        }
        if op.answered && drained {
            self.effects
                .push_back(Effect::OperationEnded(OperationId(id.0)));
            if let Some(due) = op.due {
                self.timers.remove(&(due, Timer::Op(id)));
            }
            if let Some(space) = self.spaces.get_mut(&op.lockspace) {
                space.ops.remove(&id);
            }
            if outcome.is_none() {
                self.on_drained(&op);
            }
        } else {
            self.ops.insert(id, op);
        }
        if let Some(outcome) = outcome {
            self.on_done(purpose, started, outcome);
        }
    }

    pub(super) fn entry_of(&mut self, purpose: Purpose) -> Option<&mut Entry> {
        self.table.get_mut(purpose.resource()?)
    }

    /// An operation has answered, but may still change the disk.
    fn on_draining(&mut self, op: &Op) {
        if let Purpose::Request { key, .. } = op.purpose {
            self.requesting.insert(key);
        } else if let Some(entry) = self.entry_of(op.purpose) {
            entry.draining += 1;
            for disk in op.disks.iter() {
                *self.unsettled.entry(disk.clone()).or_default() += 1;
            }
        }
    }

    /// An operation that had answered before can no longer change the disk.
    fn on_drained(&mut self, op: &Op) {
        if let Purpose::Request { key, .. } = op.purpose {
            self.requesting.remove(&key);
        }
        let Some(entry) = self.entry_of(op.purpose) else {
            return;
        };
        entry.draining = entry.draining.saturating_sub(1);
        let drained = entry.draining == 0;
        for disk in op.disks.iter() {
            if let Some(count) = self.unsettled.get_mut(disk) {
                *count -= 1;
                if *count == 0 {
                    self.unsettled.remove(disk);
                }
            }
        }
        if drained && let Some(resource) = op.purpose.resource() {
            self.on_resource_drained(resource);
        }
    }

    fn on_done(&mut self, purpose: Purpose, started: Monotonic, outcome: Outcome) {
        match purpose {
            Purpose::Acquire {
                command,
                slot,
                resource,
            } => self.on_acquired(command, slot, resource, started, outcome),
            Purpose::Release { resource } => self.on_released(resource, started, outcome.code),
            Purpose::Convert {
                reply,
                client,
                resource,
            } => self.on_converted(reply, client, resource, started, outcome),
            Purpose::Request { reply, key } => self.on_requested(reply, &key, &outcome),
            Purpose::Examine { resource } => self.on_examined(resource, &outcome),
        }
    }

    fn submit(&mut self, id: OpId, op: &Op, effect: resource::Effect) {
        let io = effect.io();
        let grants = matches!(
            op.purpose,
            Purpose::Acquire { .. } | Purpose::Convert { .. }
        );
        let ballot = grants && begins_ballot(&effect);
        let Some((device, request)) = self.translate(op, effect) else {
            self.tell(id, Tell::NotStarted(io));
            return;
        };
        let write = matches!(request, DiskIo::Write { .. });
        self.totals.count_io(write);
        if let Some(entry) = self.entry_of(op.purpose) {
            entry.metrics.count_io(write);
            entry.ballots += u32::from(ballot);
        }
        let token = IoToken(self.new_id());
        self.flights.insert(token, Flight { op: id, io });
        self.effects.push_back(Effect::Submit {
            operation: OperationId(id.0),
            token,
            device,
            io: request,
        });
    }

    /// From a place of the operation to a place on a device; `None` when there
    /// is none, or it must not be written any more.
    fn translate(&self, op: &Op, effect: resource::Effect) -> Option<(Device, DiskIo)> {
        let place = match &effect {
            resource::Effect::Read { place, .. } | resource::Effect::Write { place, .. } => *place,
        };
        let (device, start) = match place {
            Place::Disk(index) => {
                let disks = Arc::clone(&op.disks);
                let handle = DiskHandle { disks, index };
                let start = handle.disk().offset;
                (Device::Disk(handle), start)
            }
            Place::OwnerDelta { lockspace, host_id } => {
                let view = &self.spaces.get(&lockspace)?.view;
                let sector = u64::from(view.geometry.sector_size());
                let index = u64::try_from(host_id.index()).ok()?;
                let start = view.offset.checked_add(index.checked_mul(sector)?)?;
                (Device::Space(view.id), start)
            }
        };
        let io = match effect {
            resource::Effect::Read { offset, bytes, .. } => DiskIo::Read {
                offset: start.checked_add(offset)?,
                bytes,
            },
            resource::Effect::Write {
                offset,
                sector,
                not_after,
                content,
                ..
            } => {
                let space = self.spaces.get(&op.lockspace)?;
                if !space.may_write() {
                    return None;
                }
                DiskIo::Write {
                    offset: start.checked_add(offset)?,
                    content,
                    bytes: sector,
                    not_after: space.expires.map_or(not_after, |end| end.min(not_after)),
                }
            }
        };
        Some((device, io))
    }
}

/// Whether this is the first write of a ballot: a block of ours that proposes
/// nothing yet. (A leader record has its sector size where the block has the
/// ballot it accepted a value in.) Only for people to look at.
fn begins_ballot(effect: &resource::Effect) -> bool {
    let resource::Effect::Write { content, .. } = effect else {
        return false;
    };
    Dblock::decode(content.as_slice())
        .is_ok_and(|block| block.mbal > 0 && block.bal == 0 && block.flags == 0)
}
