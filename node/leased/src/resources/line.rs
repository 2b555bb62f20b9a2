//! Standing in line for leases that other processes of this host have.
//!
//! An acquire that may wait stands in line for all its resources at once and
//! begins when it is first in every line and all are to be had: it holds
//! nothing while it waits, so two of them never wait for each other. Lines are
//! in the order of arrival; an acquire that does not wait is refused while
//! somebody stands in line.

use disk_format::LockspaceName;
use lease::code::Code;
use sanlock_wire::{AcquireFlags, Resource, ResourceFlags};

use super::acquire::Command;
use super::table::{CommandId, Entry, ResId, State};
use super::types::{ClientId, Patience};
use super::{Resources, Timer, key_of};

impl Resources {
    /// Whether an acquire would be refused now for something that passes.
    pub(super) fn must_wait(
        &self,
        resources: &[Resource],
        client: ClientId,
        flags: AcquireFlags,
        id: Option<CommandId>,
    ) -> bool {
        let mut must = false;
        for (index, resource) in resources.iter().enumerate() {
            let Some(key) = key_of(resource) else {
                return false;
            };
            // It would wait for itself.
            if resources
                .iter()
                .take(index)
                .any(|earlier| key_of(earlier) == Some(key))
            {
                return false;
            }
            let Some(entry) = self.table.find(&key).and_then(|id| self.table.get(id)) else {
                continue;
            };
            match obstacle(entry, resource, client, flags, id) {
                Obstacle::None => {}
                Obstacle::Passes => must = true,
                Obstacle::Stays => return false,
            }
        }
        must
    }

    pub(super) fn stand_in_line(
        &mut self,
        id: CommandId,
        mut command: Command,
        patience: Patience,
    ) {
        for resource in command.resources() {
            let Some(key) = key_of(resource) else {
                continue;
            };
            let Some(geometry) = self
                .spaces
                .get(&key.lockspace)
                .map(|space| space.view.geometry)
            else {
                // Not joined: fails when it begins.
                continue;
            };
            let found = self.table.intern(key, &resource.disks, geometry);
            self.table.keep(found);
            if let Some(entry) = self.table.get_mut(found) {
                entry.line.insert(id);
            }
        }
        if let Some(until) = patience.until {
            self.timers.insert((until, Timer::Line(id)));
        }
        command.in_line = Some((self.now.boottime, patience));
        self.commands.insert(id, command);
    }

    /// Takes a command out of its lines.
    fn out_of_line(&mut self, id: CommandId) -> Option<Command> {
        let mut command = self.commands.remove(&id)?;
        if let Some((_, Patience { until: Some(until) })) = command.in_line.take() {
            self.timers.remove(&(until, Timer::Line(id)));
        }
        for resource in command.resources() {
            let Some(found) = key_of(resource).and_then(|key| self.table.find(&key)) else {
                continue;
            };
            if let Some(entry) = self.table.get_mut(found)
                && entry.line.remove(&id)
            {
                self.table.let_go(found);
                self.moved.insert(found);
            }
        }
        Some(command)
    }

    /// Refuses a command that stands in line.
    pub(super) fn leave_line(&mut self, id: CommandId, code: Code) {
        if let Some(command) = self.out_of_line(id) {
            let reply = command.reply;
            self.commands.insert(id, command);
            self.end_command(id);
            self.reply(reply, code);
        }
    }

    /// It has waited for long enough: it gets the answer of one that does not
    /// wait.
    pub(super) fn on_line_due(&mut self, id: CommandId) {
        if self
            .commands
            .get(&id)
            .is_some_and(|command| command.in_line.is_some())
            && let Some(command) = self.out_of_line(id)
        {
            self.begin(id, command);
        }
    }

    /// Something changed about a resource: its line may move.
    pub(super) fn move_line(&mut self, resource: ResId) {
        let Some(entry) = self.table.get(resource) else {
            return;
        };
        // Only those that are first, or share with the first, can begin.
        let waiting: Vec<CommandId> = entry.line.iter().copied().collect();
        for id in waiting {
            let Some(command) = self.commands.get(&id) else {
                continue;
            };
            let client = command.process.client;
            if self.must_wait(command.resources(), client, command.flags(), Some(id)) {
                return;
            }
            if let Some(command) = self.out_of_line(id) {
                self.begin(id, command);
            }
        }
    }

    /// The lockspaces of a waiting command's resources.
    pub(super) fn lines_of(&self, lockspace: &LockspaceName) -> usize {
        self.commands
            .values()
            .filter(|command| command.in_line.is_some())
            .flat_map(Command::resources)
            .filter(|resource| resource.lockspace_name.same_name(lockspace.field()))
            .count()
    }
}

enum Obstacle {
    None,
    Passes,
    /// Waiting would not help: it is refused now.
    Stays,
}

fn obstacle(
    entry: &Entry,
    resource: &Resource,
    client: ClientId,
    flags: AcquireFlags,
    id: Option<CommandId>,
) -> Obstacle {
    let shared = resource.has(ResourceFlags::SHARED);
    let behind = entry
        .line
        .first()
        .is_some_and(|&first| id.is_none_or(|id| first < id));
    match &entry.state {
        State::Held(lease) if lease.tokens.iter().any(|token| token.client == client) => {
            Obstacle::Stays
        }
        State::Orphan { held, .. } => {
            let wanted = flags.has(AcquireFlags::ORPHAN) || flags.has(AcquireFlags::ORPHAN_ONLY);
            if !wanted || held.shared != shared {
                Obstacle::Stays
            } else if behind {
                Obstacle::Passes
            } else {
                Obstacle::None
            }
        }
        _ if behind => Obstacle::Passes,
        State::Removing(_) | State::Adding { .. } => Obstacle::Passes,
        State::Held(lease) if lease.held.shared && shared && !lease.converting => Obstacle::None,
        State::Held(_) => Obstacle::Passes,
        State::Free if entry.draining > 0 => Obstacle::Passes,
        State::Free => Obstacle::None,
    }
}
