//! Lockspaces as they come and go.

use disk_format::{LockspaceName, NameField};
use lease::Monotonic;
use lease::code::Code;

use super::Resources;
use super::flight::Tell;
use super::table::{CommandId, OpId, ResId, Space, State};
use super::types::{Ending, Level, SpaceView};

impl Resources {
    pub(super) fn on_space_joined(&mut self, view: SpaceView) {
        let name = view.name;
        // Whatever an earlier life left is of no use in this one.
        self.on_space_gone(&name);
        self.spaces.insert(name, Space::new(view));
    }

    pub(super) fn on_space_renewed(&mut self, name: &LockspaceName, expires: Monotonic) {
        if let Some(space) = self.spaces.get_mut(name) {
            space.expires = Some(expires);
        }
    }

    pub(super) fn on_space_dying(&mut self, name: &LockspaceName, ending: Ending) {
        let Some(space) = self.spaces.get_mut(name) else {
            return;
        };
        // Lost is final.
        if space.ending == Some(Ending::Lost) || space.ending == Some(ending) {
            return;
        }
        space.ending = Some(ending);
        let ops: Vec<OpId> = space.ops.iter().copied().collect();
        for op in ops {
            let tell = match ending {
                Ending::Lost => Some(Tell::Abandon),
                // Releases go on, they are what is wanted.
                Ending::Leaving => self.is_grant(op).then_some(Tell::Cancel),
            };
            if let Some(tell) = tell {
                self.tell(op, tell);
            }
        }
        let in_line: Vec<CommandId> = self
            .commands
            .iter()
            .filter(|(_, command)| {
                command.in_line.is_some()
                    && command
                        .resources()
                        .iter()
                        .any(|resource| resource.lockspace_name.same_name(name.field()))
            })
            .map(|(&id, _)| id)
            .collect();
        for command in in_line {
            self.leave_line(command, Code::ENOSPC);
        }
        if ending == Ending::Lost {
            // Releases that had not begun.
            for id in self.used(name) {
                self.drop_waiting(id);
            }
        }
    }

    /// Whether the operation ends in somebody having more than before.
    fn is_grant(&self, op: OpId) -> bool {
        use super::flight::Purpose;
        self.ops.get(&op).is_some_and(|op| {
            matches!(
                op.purpose,
                Purpose::Acquire { .. } | Purpose::Convert { .. }
            )
        })
    }

    pub(super) fn on_space_gone(&mut self, name: &LockspaceName) {
        if !self.spaces.contains_key(name) {
            return;
        }
        self.on_space_dying(name, Ending::Lost);
        for id in self.used(name) {
            let left = match self.table.get(id).map(|entry| &entry.state) {
                Some(State::Held(lease)) => lease.tokens.clone(),
                Some(State::Removing(_)) => {
                    self.drop_removing(id);
                    continue;
                }
                Some(State::Orphan { .. }) => Vec::new(),
                // Its operation is told to end, and frees it.
                Some(State::Adding { .. } | State::Free) | None => continue,
            };
            if !left.is_empty() {
                self.log(
                    Level::Error,
                    Some(id),
                    format!("{} holders outlive their lockspace", left.len()),
                );
            }
            for token in left {
                if let Some(client) = self.clients.get_mut(&token.client) {
                    client.tokens.remove(&token.id);
                }
            }
            self.set_free(id);
        }
        self.spaces.remove(name);
        self.table.forget_idle(name);
    }

    /// Forgets a release that waits for an earlier write to end.
    fn drop_waiting(&mut self, id: ResId) {
        use super::table::RemovingStep;
        if let Some(entry) = self.table.get(id)
            && let State::Removing(removing) = &entry.state
            && matches!(removing.step, RemovingStep::Draining { .. })
        {
            self.drop_removing(id);
        }
    }

    /// The lockspace with this name, if it is joined.
    pub(super) fn space_named(&self, name: &NameField) -> Option<&Space> {
        self.spaces.get(&LockspaceName::from_field(name).ok()?)
    }

    fn used(&self, name: &LockspaceName) -> Vec<ResId> {
        self.spaces
            .get(name)
            .map(|space| space.used.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn on_hosts_changed(&mut self, name: &LockspaceName) {
        let Some(space) = self.spaces.get(name) else {
            return;
        };
        let ops: Vec<OpId> = space.ops.iter().copied().collect();
        for op in ops {
            if self.is_grant(op) {
                self.tell(op, Tell::OwnerChanged);
            }
        }
    }
}
