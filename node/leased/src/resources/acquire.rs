//! `ACQUIRE`: several leases at once, all or nothing.

use disk_format::paxos::lvb_allowed;
use lease::Monotonic;
use lease::code::Code;
use lease::resource::{Acquire, AcquireOptions, Held, Outcome, Target};
use sanlock_wire::{ACQUIRE_MAX, AcquireFlags, DISKS_MAX, ReplyBody, Resource, ResourceFlags};

use super::flight::{Purpose, Tell};
use super::metrics::is_contention;
use super::release::Report;
use super::table::{CommandId, Key, Lease, Lvb, OpId, ResId, State, Token, TokenId};
use super::types::{Level, Patience, Process, ReplyTo};
use super::{Resources, key_of};

/// One `ACQUIRE` under way or in line.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) reply: ReplyTo,
    pub(super) process: Process,
    flags: AcquireFlags,
    resources: Vec<Resource>,
    pub(super) slots: Vec<Slot>,
    /// The client is no more: whatever is won is given back.
    pub(super) client_gone: bool,
    /// Stands in line since, until.
    pub(super) in_line: Option<(Monotonic, Patience)>,
    /// Given back; the answer waits for that.
    undoing: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) resource: ResId,
    token: TokenId,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Running(OpId),
    /// A second share of what an earlier slot of this command is acquiring.
    After(usize),
    Won(How),
    Failed(Code),
}

#[derive(Debug, Clone, Copy)]
enum How {
    OnDisk,
    Joined,
    /// From an orphan left by this process.
    Adopted(i32),
}

impl Resources {
    pub(super) fn on_acquire(
        &mut self,
        reply: ReplyTo,
        process: Process,
        flags: AcquireFlags,
        resources: Vec<Resource>,
        patience: Option<Patience>,
    ) {
        if u32::try_from(resources.len()).map_or(true, |count| count > ACQUIRE_MAX) {
            return self.reply(reply, Code::E2BIG);
        }
        if resources
            .iter()
            .any(|resource| !(1..=DISKS_MAX).contains(&resource.disks.len()))
        {
            return self.reply(reply, Code::ERANGE);
        }
        let id = CommandId(self.new_id());
        let command = Command {
            reply,
            process,
            flags,
            resources,
            slots: Vec::new(),
            client_gone: false,
            in_line: None,
            undoing: false,
        };
        self.clients
            .entry(process.client)
            .or_default()
            .commands
            .insert(id);
        match patience {
            Some(patience) if self.must_wait(&command.resources, process.client, flags, None) => {
                self.stand_in_line(id, command, patience);
            }
            _ => self.begin(id, command),
        }
    }

    /// Takes the resources in order as far as that needs no disk, and starts
    /// the ballots of the others.
    pub(super) fn begin(&mut self, id: CommandId, mut command: Command) {
        let resources = std::mem::take(&mut command.resources);
        for index in 0..resources.len() {
            let slot = self.take(id, index, &resources, &command);
            let failed = matches!(slot.step, Step::Failed(_));
            command.slots.push(slot);
            // What comes later cannot change the answer.
            if failed {
                break;
            }
        }
        command.resources = resources;
        self.commands.insert(id, command);
        self.settle(id);
    }

    fn take(
        &mut self,
        id: CommandId,
        index: usize,
        resources: &[Resource],
        command: &Command,
    ) -> Slot {
        let token = self.new_token();
        let failed = |code| Slot {
            resource: ResId(0),
            token,
            step: Step::Failed(code),
        };
        let Some(resource) = resources.get(index) else {
            return failed(Code::EINVAL);
        };
        let Some(key) = key_of(resource) else {
            // No lease has an empty name.
            return failed(match self.space_named(&resource.lockspace_name) {
                Some(_) => Code::LEADER_RESOURCE,
                None => Code::ENOSPC,
            });
        };
        let shared = resource.has(ResourceFlags::SHARED);
        let now = self.now.boottime;
        if let Some(found) = self.table.find(&key)
            && let Some(entry) = self.table.get_mut(found)
        {
            // Its value block would lie in a neighbour's area.
            let no_lvb = command.flags.has(AcquireFlags::LVB)
                && !self.settings.unsafe_lvb
                && !lvb_allowed(entry.geometry);
            // Others stand in line for it.
            let behind = entry.line.first().is_some_and(|&first| first < id);
            let taken = match &mut entry.state {
                State::Removing(_) => Some(Err(Code::EAGAIN)),
                State::Adding { command: other, .. } if *other == id => {
                    let first = command.slots.iter().position(|slot| slot.resource == found);
                    match first {
                        Some(first) if shared && is_shared(resources.get(first)) => {
                            Some(Ok(Step::After(first)))
                        }
                        _ => Some(Err(Code::EEXIST)),
                    }
                }
                State::Adding { .. } => Some(Err(Code::EBUSY)),
                State::Held(lease) if lease.converting => Some(Err(Code::EBUSY)),
                State::Held(lease) if lease.held.shared && shared && behind => {
                    Some(Err(Code::EBUSY))
                }
                State::Held(lease) if lease.held.shared && shared && no_lvb => {
                    Some(Err(Code::EINVAL))
                }
                State::Held(lease) if lease.held.shared && shared => {
                    lease.tokens.push(new_token(token, command, resource));
                    entry.metrics.joined += 1;
                    self.totals.joined += 1;
                    Some(Ok(Step::Won(How::Joined)))
                }
                State::Held(_) => Some(Err(Code::EEXIST)),
                State::Orphan { held, pid } => {
                    let wanted = command.flags.has(AcquireFlags::ORPHAN)
                        || command.flags.has(AcquireFlags::ORPHAN_ONLY);
                    if wanted && held.shared == shared && no_lvb {
                        Some(Err(Code::EINVAL))
                    } else if wanted && held.shared == shared {
                        let left_by = *pid;
                        let lease = Lease {
                            held: *held,
                            tokens: vec![new_token(token, command, resource)],
                            converting: false,
                            left_by: None,
                        };
                        entry.enter(State::Held(lease), now);
                        entry.metrics.adopted += 1;
                        self.totals.adopted += 1;
                        if let Some(space) = self.spaces.get_mut(&key.lockspace) {
                            space.orphans = space.orphans.saturating_sub(1);
                        }
                        Some(Ok(Step::Won(How::Adopted(left_by))))
                    } else {
                        Some(Err(Code::EUCLEAN))
                    }
                }
                State::Free if entry.draining > 0 => Some(Err(Code::EAGAIN)),
                State::Free if behind => Some(Err(Code::EBUSY)),
                State::Free => None,
            };
            match taken {
                Some(Ok(step)) => {
                    return Slot {
                        resource: found,
                        token,
                        step,
                    };
                }
                Some(Err(code)) => {
                    entry.metrics.busy += 1;
                    self.totals.busy += 1;
                    return failed(code);
                }
                None => {}
            }
        }
        if command.flags.has(AcquireFlags::ORPHAN_ONLY) {
            return failed(Code::ENOENT);
        }
        self.ballot(id, index, resource, key, token, command)
    }

    /// Starts to acquire on disk.
    fn ballot(
        &mut self,
        id: CommandId,
        slot: usize,
        resource: &Resource,
        key: Key,
        token: TokenId,
        command: &Command,
    ) -> Slot {
        let failed = |code| Slot {
            resource: ResId(0),
            token,
            step: Step::Failed(code),
        };
        let now = self.now.boottime;
        let Some(space) = self
            .spaces
            .get_mut(&key.lockspace)
            .filter(|space| space.is_healthy(now))
        else {
            return failed(Code::ENOSPC);
        };
        // Whatever the client states; the resource's own is found on disk.
        let geometry = space.view.geometry;
        // A resource that had another name when the write was asked for.
        if resource
            .disks
            .iter()
            .any(|disk| self.unsettled.contains_key(disk))
        {
            return failed(Code::EAGAIN);
        }
        let lvb = command.flags.has(AcquireFlags::LVB);
        let us = space.us();
        let found = self.table.intern(key, &resource.disks, geometry);
        space.used.insert(found);
        self.table.keep(found);
        let shared = resource.has(ResourceFlags::SHARED);
        let seed = self.settings.seed ^ id.0.rotate_left(32) ^ u64::from(token.0);
        let Some(entry) = self.table.get_mut(found) else {
            return failed(Code::ERROR);
        };
        if entry.lver > 0 {
            entry.reused = entry.reused.wrapping_add(1);
        }
        if *entry.disks != *resource.disks {
            entry.disks = resource.disks.as_slice().into();
        }
        let adding = State::Adding {
            command: id,
            pid: command.process.pid,
            token,
            shared,
        };
        entry.enter(adding, now);
        entry.ballots = 0;
        let target = Target {
            lockspace: key.lockspace,
            resource: key.resource,
            geometry,
            disks: u8::try_from(resource.disks.len()).unwrap_or(u8::MAX),
        };
        let options = AcquireOptions {
            shared,
            // As in the original, zero asks for nothing.
            lver: resource
                .has(ResourceFlags::LVER)
                .then_some(resource.lver)
                .filter(|&lver| lver != 0),
            num_hosts: resource
                .has(ResourceFlags::NUM_HOSTS)
                .then_some(resource.data32)
                .filter(|&hosts| hosts != 0),
            no_wait: command.flags.has(AcquireFlags::OWNER_NOWAIT),
            sh_retries: self.settings.shared_retries,
            lvb,
            lvb_outside: self.settings.unsafe_lvb,
            expected_hosts: entry.num_hosts,
            expected_mbal: entry.mbal,
        };
        let core = Acquire::new(us, target, options, seed);
        let disks = std::sync::Arc::clone(&entry.disks);
        let purpose = Purpose::Acquire {
            command: id,
            slot,
            resource: found,
        };
        let op = self.start(Box::new(core), purpose, key.lockspace, disks);
        Slot {
            resource: found,
            token,
            step: Step::Running(op),
        }
    }

    pub(super) fn on_acquired(
        &mut self,
        id: CommandId,
        slot: usize,
        resource: ResId,
        started: Monotonic,
        outcome: Outcome,
    ) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        let now = self.now.boottime;
        let (Some(found), Some(wanted)) = (command.slots.get(slot), command.resources.get(slot))
        else {
            return;
        };
        let token = new_token(found.token, command, wanted);
        let step = match (outcome.code, outcome.held) {
            (Code::OK, Some(held)) => {
                let wanted_lvb = command.flags.has(AcquireFlags::LVB);
                self.won(resource, token, held, wanted_lvb, outcome.lvb.as_deref());
                self.count(resource, |metrics| metrics.acquires.add(started, now));
                Step::Won(How::OnDisk)
            }
            (code, _) => {
                self.count(resource, |metrics| metrics.count_failure(code));
                self.log(
                    if is_contention(code) {
                        Level::Contention
                    } else {
                        Level::Warning
                    },
                    Some(resource),
                    format!("acquire: {} ({})", code.0, code.text()),
                );
                self.set_free(resource);
                Step::Failed(code)
            }
        };
        if let Some(command) = self.commands.get_mut(&id) {
            if let Some(found) = command.slots.get_mut(slot) {
                found.step = step;
            }
            if matches!(step, Step::Failed(_)) {
                // What comes later cannot change the answer.
                let later: Vec<OpId> = command
                    .slots
                    .iter()
                    .skip(slot + 1)
                    .filter_map(|slot| match slot.step {
                        Step::Running(op) => Some(op),
                        Step::After(_) | Step::Won(_) | Step::Failed(_) => None,
                    })
                    .collect();
                for op in later {
                    self.tell(op, Tell::Cancel);
                }
            }
        }
        self.settle(id);
    }

    fn won(
        &mut self,
        resource: ResId,
        token: Token,
        held: Held,
        wanted_lvb: bool,
        lvb: Option<&[u8]>,
    ) {
        let unsafe_lvb = self.settings.unsafe_lvb;
        let now = self.now.boottime;
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        entry.geometry = held.geometry;
        entry.lver = held.lver();
        entry.num_hosts = Some(held.num_hosts());
        entry.mbal = Some(held.dblock.mbal);
        entry.lvb = (wanted_lvb && (unsafe_lvb || lvb_allowed(held.geometry))).then(|| Lvb {
            bytes: lvb.map_or_else(|| vec![0; held.geometry.sector_bytes()].into(), Into::into),
            set: false,
        });
        let lease = Lease {
            held,
            tokens: vec![token],
            converting: false,
            left_by: None,
        };
        entry.enter(State::Held(lease), now);
        self.moved.insert(resource);
    }

    /// Ends the command once every slot has ended.
    fn settle(&mut self, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        if command.undoing {
            return;
        }
        for index in 0..command.slots.len() {
            if let Some(&Slot {
                resource,
                token,
                step: Step::After(first),
            }) = command.slots.get(index)
            {
                let step = match command.slots.get(first).map(|slot| slot.step) {
                    Some(Step::Won(_)) => {
                        let share = command
                            .resources
                            .get(index)
                            .map(|wanted| new_token(token, command, wanted));
                        if let (Some(share), Some(entry)) = (share, self.table.get_mut(resource))
                            && let State::Held(lease) = &mut entry.state
                        {
                            lease.tokens.push(share);
                        }
                        Step::Won(How::Joined)
                    }
                    // Never the answer: the earlier slot's failure is.
                    Some(Step::Failed(code)) => Step::Failed(code),
                    _ => return,
                };
                if let Some(slot) = command.slots.get_mut(index) {
                    slot.step = step;
                }
            }
        }
        let mut failure = None;
        for slot in &command.slots {
            match slot.step {
                Step::Running(_) | Step::After(_) => return,
                Step::Failed(code) => failure = failure.or(Some(code)),
                Step::Won(_) => {}
            }
        }
        if failure.is_none() {
            failure = self.objection(id);
        }
        match failure {
            None => self.hand_out(id),
            Some(code) => self.hand_back(id, code),
        }
    }

    /// Why leases that were won must not be given out after all.
    fn objection(&self, id: CommandId) -> Option<Code> {
        let command = self.commands.get(&id)?;
        if command.client_gone {
            return Some(Code::ENOTTY);
        }
        let now = self.now.boottime;
        let healthy = |slot: &Slot| {
            self.table
                .get(slot.resource)
                .and_then(|entry| self.spaces.get(&entry.key.lockspace))
                .is_some_and(|space| space.is_healthy(now))
        };
        (!command.slots.iter().all(healthy)).then_some(Code::ENOSPC)
    }

    fn hand_out(&mut self, id: CommandId) {
        let Some(command) = self.end_command(id) else {
            return;
        };
        let Process { client, pid, .. } = command.process;
        let tokens = &mut self.clients.entry(client).or_default().tokens;
        for slot in &command.slots {
            tokens.insert(slot.token, slot.resource);
            if let Some(entry) = self.table.get(slot.resource)
                && let Some(space) = self.spaces.get_mut(&entry.key.lockspace)
            {
                space.holders.entry(client).or_insert((pid, 0)).1 += 1;
            }
        }
        self.reply(command.reply, Code::OK);
    }

    /// Gives back what was won, then answers.
    fn hand_back(&mut self, id: CommandId, code: Code) {
        let now = self.now.boottime;
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        command.undoing = true;
        let unhealthy = command.slots.iter().any(|slot| {
            self.table
                .get(slot.resource)
                .and_then(|entry| self.spaces.get(&entry.key.lockspace))
                .is_some_and(|space| !space.is_healthy(now))
        });
        // A ballot broken off because its lockspace ends fails for that reason.
        let code = match (command.client_gone, unhealthy) {
            (true, _) => Code::ENOTTY,
            (false, true) => Code::ENOSPC,
            (false, false) => code,
        };
        let slots = std::mem::take(&mut command.slots);
        let batch = self.new_batch(Report::Acquire { command: id, code });
        for slot in &slots {
            match slot.step {
                Step::Won(How::Adopted(pid)) => self.orphan_again(slot.resource, pid),
                Step::Won(How::OnDisk | How::Joined) => {
                    self.give_up(slot.resource, slot.token, None, Some(batch));
                }
                Step::Failed(_) | Step::Running(_) | Step::After(_) => {}
            }
        }
        self.close_batch(batch);
    }

    /// The answer to a failed acquire, once everything is given back.
    pub(super) fn on_handed_back(&mut self, id: CommandId, code: Code) {
        if let Some(command) = self.end_command(id) {
            self.reply_with(command.reply, code, ReplyBody::Empty);
        }
    }

    pub(super) fn end_command(&mut self, id: CommandId) -> Option<Command> {
        let command = self.commands.remove(&id)?;
        let client = command.process.client;
        if let Some(known) = self.clients.get_mut(&client) {
            known.commands.remove(&id);
        }
        self.forget_client(client);
        Some(command)
    }

    /// The client of a command is no more.
    pub(super) fn cancel_command(&mut self, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        command.client_gone = true;
        if command.in_line.is_some() {
            self.leave_line(id, Code::ENOTTY);
            return;
        }
        let running: Vec<OpId> = command.running().collect();
        for op in running {
            self.tell(op, Tell::Cancel);
        }
    }
}

impl Command {
    fn running(&self) -> impl Iterator<Item = OpId> + '_ {
        self.slots.iter().filter_map(|slot| match slot.step {
            Step::Running(op) => Some(op),
            Step::After(_) | Step::Won(_) | Step::Failed(_) => None,
        })
    }

    pub(super) fn resources(&self) -> &[Resource] {
        &self.resources
    }

    pub(super) fn flags(&self) -> AcquireFlags {
        self.flags
    }
}

fn is_shared(resource: Option<&Resource>) -> bool {
    resource.is_some_and(|resource| resource.has(ResourceFlags::SHARED))
}

fn new_token(id: TokenId, command: &Command, resource: &Resource) -> Token {
    Token {
        id,
        client: command.process.client,
        pid: command.process.pid,
        restricted: command.process.restricted,
        persistent: resource.has(ResourceFlags::PERSISTENT),
    }
}
