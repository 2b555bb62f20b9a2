//! Leases on their way back: `RELEASE`, ended clients, orphans, and tries
//! after tries while the storage hangs.

use std::sync::Arc;

use disk_format::{LockspaceName, ResourceName};
use lease::Monotonic;
use lease::code::Code;
use lease::resource::{Release as ReleaseCore, ReleaseOptions, Target};
use sanlock_wire::{Release, Resource};

use super::flight::Purpose;
use super::table::{BatchId, CommandId, Key, Removing, RemovingStep, ResId, State, TokenId};
use super::types::{ClientId, Level, ReplyTo};
use super::{Resources, Timer, key_of};

/// Releases that are answered together.
#[derive(Debug)]
pub(super) struct Batch {
    report: Report,
    pending: usize,
    next: usize,
    /// The first failure in the order asked for.
    failure: Option<(usize, Code)>,
    closed: bool,
}

/// Who gets the answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    /// A failed acquire, with its own result.
    Acquire {
        command: CommandId,
        code: Code,
    },
    Release {
        reply: ReplyTo,
    },
}

impl Resources {
    pub(super) fn new_batch(&mut self, report: Report) -> BatchId {
        let id = BatchId(self.new_id());
        let batch = Batch {
            report,
            pending: 0,
            next: 0,
            failure: None,
            closed: false,
        };
        self.batches.insert(id, batch);
        id
    }

    /// A place in the batch, to be filled by [`Self::batch_result`].
    fn batch_place(&mut self, id: BatchId) -> usize {
        let Some(batch) = self.batches.get_mut(&id) else {
            return 0;
        };
        batch.pending += 1;
        batch.next += 1;
        batch.next - 1
    }

    fn batch_result(&mut self, id: BatchId, place: usize, code: Code) {
        let Some(batch) = self.batches.get_mut(&id) else {
            return;
        };
        batch.pending -= 1;
        if code != Code::OK && batch.failure.is_none_or(|(first, _)| place < first) {
            batch.failure = Some((place, code));
        }
        self.end_batch(id);
    }

    /// Nothing more is added to the batch.
    pub(super) fn close_batch(&mut self, id: BatchId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.closed = true;
        }
        self.end_batch(id);
    }

    fn end_batch(&mut self, id: BatchId) {
        let Some(batch) = self.batches.get(&id) else {
            return;
        };
        if !batch.closed || batch.pending > 0 {
            return;
        }
        let failure = batch.failure.map_or(Code::OK, |(_, code)| code);
        let report = batch.report;
        self.batches.remove(&id);
        match report {
            Report::Acquire { command, code } => self.on_handed_back(command, code),
            Report::Release { reply } => self.reply(reply, failure),
        }
    }

    pub(super) fn on_release(&mut self, reply: ReplyTo, client: ClientId, what: &Release) {
        match what {
            Release::Orphans(resource) => {
                let count = self.release_orphans(resource);
                self.reply(reply, Code(count));
            }
            Release::All => {
                let batch = self.new_batch(Report::Release { reply });
                for (token, resource) in self.tokens_of(client) {
                    self.give_up(resource, token, None, Some(batch));
                }
                self.close_batch(batch);
            }
            Release::Resources(resources) => {
                let batch = self.new_batch(Report::Release { reply });
                for resource in resources {
                    self.release_one(client, resource, None, batch);
                }
                self.close_batch(batch);
            }
            Release::Rename { old, new } => {
                let Ok(name) = ResourceName::from_field(&new.name) else {
                    return self.reply(reply, Code::EINVAL);
                };
                let batch = self.new_batch(Report::Release { reply });
                self.release_one(client, old, Some(name), batch);
                self.close_batch(batch);
            }
        }
    }

    fn release_one(
        &mut self,
        client: ClientId,
        resource: &Resource,
        rename: Option<ResourceName>,
        batch: BatchId,
    ) {
        let found = key_of(resource).and_then(|key| self.token_of(client, &key));
        match found {
            Some((resource, token)) => self.give_up(resource, token, rename, Some(batch)),
            None => {
                let place = self.batch_place(batch);
                // The original's answer; it releases the others, too.
                self.batch_result(batch, place, Code::EPERM);
            }
        }
    }

    /// A client's share in a lease that has been handed out to it.
    pub(super) fn token_of(&self, client: ClientId, key: &Key) -> Option<(ResId, TokenId)> {
        let resource = self.table.find(key)?;
        let State::Held(lease) = &self.table.get(resource)?.state else {
            return None;
        };
        let known = &self.clients.get(&client)?.tokens;
        lease
            .tokens
            .iter()
            .find(|token| token.client == client && known.contains_key(&token.id))
            .map(|token| (resource, token.id))
    }

    fn tokens_of(&self, client: ClientId) -> Vec<(TokenId, ResId)> {
        self.clients
            .get(&client)
            .map(|client| client.tokens.iter().map(|(&id, &res)| (id, res)).collect())
            .unwrap_or_default()
    }

    /// Takes one share back; the last one takes the lease back on disk.
    pub(super) fn give_up(
        &mut self,
        resource: ResId,
        token: TokenId,
        rename: Option<ResourceName>,
        batch: Option<BatchId>,
    ) {
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        let lockspace = entry.key.lockspace;
        let State::Held(lease) = &mut entry.state else {
            return;
        };
        let Some(index) = lease.tokens.iter().position(|share| share.id == token) else {
            return;
        };
        let share = lease.tokens.remove(index);
        let left_by = lease.left_by;
        let last = lease.tokens.is_empty();
        let handed_out = self
            .clients
            .get_mut(&share.client)
            .is_some_and(|client| client.tokens.remove(&token).is_some());
        if handed_out
            && let Some(space) = self.spaces.get_mut(&lockspace)
            && let Some((_, count)) = space.holders.get_mut(&share.client)
        {
            *count -= 1;
            if *count == 0 {
                space.holders.remove(&share.client);
            }
        }
        if !last {
            return;
        }
        match left_by {
            Some(pid) => self.orphan_again(resource, pid),
            None => {
                let waiting = batch.map(|batch| (batch, self.batch_place(batch)));
                self.remove(resource, share.pid, rename, waiting);
            }
        }
    }

    /// Makes a lease without shares an orphan.
    pub(super) fn orphan_again(&mut self, resource: ResId, pid: i32) {
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        if let State::Held(lease) = &entry.state {
            let held = lease.held;
            entry.enter(State::Orphan { held, pid }, self.now.boottime);
            if let Some(space) = self.spaces.get_mut(&entry.key.lockspace) {
                space.orphans += 1;
            }
            self.moved.insert(resource);
        }
    }

    /// Begins to give a lease back on disk.
    fn remove(
        &mut self,
        resource: ResId,
        pid: i32,
        rename: Option<ResourceName>,
        waiting: Option<(BatchId, usize)>,
    ) {
        let now = self.now.boottime;
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        let (held, orphan) = match &entry.state {
            State::Held(lease) => (lease.held, false),
            State::Orphan { held, .. } => (*held, true),
            State::Free | State::Adding { .. } | State::Removing(_) => return,
        };
        let Some(space) = self
            .spaces
            .get_mut(&entry.key.lockspace)
            .filter(|space| space.may_write())
        else {
            // The disk is not ours to write any more; other hosts know when.
            self.set_free(resource);
            if let Some((batch, place)) = waiting {
                self.batch_result(batch, place, Code::OK);
            }
            return;
        };
        let patience = now.plus_s(u64::from(space.view.io_timeout_s));
        if orphan {
            space.orphans = space.orphans.saturating_sub(1);
        }
        let removing = Removing {
            held,
            pid,
            waiting,
            rename,
            step: RemovingStep::Draining { patience },
        };
        entry.enter(State::Removing(Box::new(removing)), now);
        if entry.draining > 0 {
            self.timers.insert((patience, Timer::Removing(resource)));
        } else {
            self.start_release(resource);
        }
    }

    fn start_release(&mut self, resource: ResId) {
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        let key = entry.key;
        let State::Removing(removing) = &mut entry.state else {
            return;
        };
        let Some(space) = self
            .spaces
            .get(&key.lockspace)
            .filter(|space| space.may_write())
        else {
            return self.drop_removing(resource);
        };
        let held = removing.held;
        let target = Target {
            lockspace: key.lockspace,
            resource: key.resource,
            geometry: space.view.geometry,
            disks: u8::try_from(entry.disks.len()).unwrap_or(u8::MAX),
        };
        let lvb = match &entry.lvb {
            Some(lvb) if lvb.set && !held.shared => Some(lvb.bytes.as_ref().into()),
            _ => None,
        };
        let options = ReleaseOptions {
            lvb,
            lvb_outside: self.settings.unsafe_lvb,
            rename: removing.rename,
            unmarked: false,
        };
        removing.step = RemovingStep::Running;
        let core = ReleaseCore::new(space.us(), target, &held, options);
        let disks = Arc::clone(&entry.disks);
        self.start(
            Box::new(core),
            Purpose::Release { resource },
            key.lockspace,
            disks,
        );
    }

    pub(super) fn on_released(&mut self, resource: ResId, started: Monotonic, code: Code) {
        let now = self.now.boottime;
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        let again = entry.draining > 0;
        let State::Removing(removing) = &mut entry.state else {
            return;
        };
        let waiting = removing.waiting.take();
        if code == Code::OK {
            self.count(resource, |metrics| metrics.releases.add(started, now));
        } else {
            self.count(resource, |metrics| metrics.count_failure(code));
            let goes_on = if again { ", will be tried again" } else { "" };
            let text = format!("release: {} ({}){goes_on}", code.0, code.text());
            self.log(Level::Warning, Some(resource), text);
        }
        if !again {
            self.set_free(resource);
        }
        if let Some((batch, place)) = waiting {
            self.batch_result(batch, place, code);
        }
    }

    pub(super) fn on_removing_due(&mut self, resource: ResId) {
        let now = self.now.boottime;
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        let State::Removing(removing) = &mut entry.state else {
            return;
        };
        // The client has waited for long enough; the release goes on.
        if let RemovingStep::Draining { patience } = removing.step
            && patience <= now
            && let Some((batch, place)) = removing.waiting.take()
        {
            self.batch_result(batch, place, Code::AIO_TIMEOUT);
        }
    }

    /// No write of unknown outcome is left.
    pub(super) fn on_resource_drained(&mut self, resource: ResId) {
        let Some(entry) = self.table.get(resource) else {
            return;
        };
        match &entry.state {
            State::Removing(removing) => match removing.step {
                RemovingStep::Draining { .. } => self.start_release(resource),
                RemovingStep::Running => self.set_free(resource),
            },
            State::Free | State::Adding { .. } | State::Held(_) | State::Orphan { .. } => {
                self.table.let_go(resource);
                self.moved.insert(resource);
            }
        }
    }

    /// Forgets a release whose lockspace is lost: there is nothing to write.
    pub(super) fn drop_removing(&mut self, resource: ResId) {
        let Some(entry) = self.table.get_mut(resource) else {
            return;
        };
        let State::Removing(removing) = &mut entry.state else {
            return;
        };
        let waiting = removing.waiting.take();
        self.set_free(resource);
        if let Some((batch, place)) = waiting {
            self.batch_result(batch, place, Code::OK);
        }
    }

    pub(super) fn set_free(&mut self, resource: ResId) {
        if let Some(entry) = self.table.get_mut(resource) {
            if let Some(space) = self.spaces.get_mut(&entry.key.lockspace) {
                space.used.remove(&resource);
                if matches!(entry.state, State::Orphan { .. }) {
                    space.orphans = space.orphans.saturating_sub(1);
                }
            }
            entry.state = State::Free;
            entry.examine = false;
            self.table.let_go(resource);
            self.moved.insert(resource);
        }
    }

    /// Queues orphans for release; how many.
    fn release_orphans(&mut self, resource: &Resource) -> i32 {
        let orphans = match key_of(resource) {
            Some(key) => self
                .table
                .find(&key)
                .filter(|&id| self.is_orphan(id))
                .into_iter()
                .collect(),
            None => LockspaceName::from_field(&resource.lockspace_name)
                .map(|name| self.orphans_of(&name))
                .unwrap_or_default(),
        };
        for &id in &orphans {
            let pid = match self.table.get(id).map(|entry| &entry.state) {
                Some(State::Orphan { pid, .. }) => *pid,
                _ => continue,
            };
            self.remove(id, pid, None, None);
        }
        i32::try_from(orphans.len()).unwrap_or(i32::MAX)
    }

    fn is_orphan(&self, id: ResId) -> bool {
        self.table
            .get(id)
            .is_some_and(|entry| matches!(entry.state, State::Orphan { .. }))
    }

    pub(super) fn orphans_of(&self, lockspace: &LockspaceName) -> Vec<ResId> {
        let used = self.spaces.get(lockspace).map(|space| &space.used);
        used.into_iter()
            .flatten()
            .copied()
            .filter(|&id| self.is_orphan(id))
            .collect()
    }

    pub(super) fn on_client_gone(&mut self, client: ClientId) {
        let Some(known) = self.clients.get_mut(&client) else {
            return;
        };
        known.gone = true;
        let commands: Vec<CommandId> = known.commands.iter().copied().collect();
        for command in commands {
            self.cancel_command(command);
        }
        for (token, resource) in self.tokens_of(client) {
            let Some(entry) = self.table.get_mut(resource) else {
                continue;
            };
            let State::Held(lease) = &mut entry.state else {
                continue;
            };
            // It ends first; then this is done again.
            if lease.converting {
                continue;
            }
            if let Some(share) = lease.tokens.iter().find(|share| share.id == token)
                && share.persistent
            {
                lease.left_by = Some(share.pid);
            }
            self.give_up(resource, token, None, None);
        }
        self.forget_client(client);
    }

    /// Forgets an ended client once nothing of it is left.
    pub(super) fn forget_client(&mut self, client: ClientId) {
        if self
            .clients
            .get(&client)
            .is_some_and(|known| known.gone && known.tokens.is_empty() && known.commands.is_empty())
        {
            self.clients.remove(&client);
        }
    }
}
