//! What others may see: `INQUIRE`, `STATUS`, numbers, and who waits for whom.

use std::cmp::Reverse;
use std::sync::Arc;

use disk_format::{Generation, Geometry, HostId, LockspaceName, ResourceName};
use lease::Monotonic;
use lease::code::Code;
use sanlock_wire::{
    Disk, ReplyBody, Resource, ResourceFlags, RestrictFlags, StateBody, StateKind, StateRecord,
    geometry_flags,
};

use super::Resources;
use super::flight::Purpose;
use super::metrics::Metrics;
use super::table::{Entry, State, Token, TokenId};
use super::types::{ClientId, ReplyTo};

/// On which list of the status output a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListKind {
    /// Held.
    Held,
    /// Being acquired.
    Add,
    /// Being released.
    Remove,
    /// Held by nobody that lives.
    Orphan,
}

impl ListKind {
    /// As in status output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Add => "add",
            Self::Remove => "rem",
            Self::Orphan => "orphan",
        }
    }
}

/// A lease, or one process's share in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceStatus {
    /// Its lockspace.
    pub lockspace: LockspaceName,
    /// Its name.
    pub resource: ResourceName,
    /// Where it lies.
    pub disks: Arc<[Disk]>,
    /// Its geometry, as far as known.
    pub geometry: Geometry,
    /// On which list it is.
    pub list: ListKind,
    /// Shared, or to be shared.
    pub shared: bool,
    /// Whether its mode is being changed: then it is surely no more than shared.
    pub converting: bool,
    /// Whether the process's end leaves an orphan.
    pub persistent: bool,
    /// Version of the lease; 0 before the first.
    pub lver: u64,
    /// The process; for an orphan or a release its last owner.
    pub pid: i32,
    /// Its connection, while it lives.
    pub client: Option<ClientId>,
    /// What the process must not be sent.
    pub restricted: RestrictFlags,
    /// When it got into this state, on the boot-time clock.
    pub since: Monotonic,
    /// Times it was acquired again after a release.
    pub reused: u32,
    /// Ballots begun since it was last wanted.
    pub ballots: u32,
    /// Number of the resource.
    pub res_id: u32,
    /// Number of the share; 0: none.
    pub token_id: u32,
    /// Whether a lock value block waits to be written.
    pub lvb_set: bool,
    /// Numbers about it.
    pub metrics: Metrics,
}

/// Bits of `flags` in status output, the original's.
const STATUS_SHARED: u32 = 0x1;
const STATUS_NO_SIGKILL: u32 = 0x8;
const STATUS_NO_SIGTERM: u32 = 0x10;
const STATUS_LVB_SET: u32 = 0x20;

impl ResourceStatus {
    /// As in the status stream.
    #[must_use]
    pub fn record(&self) -> StateRecord {
        let flags = [
            (STATUS_SHARED, self.shared),
            (
                STATUS_NO_SIGKILL,
                self.restricted.has(RestrictFlags::SIGKILL),
            ),
            (
                STATUS_NO_SIGTERM,
                self.restricted.has(RestrictFlags::SIGTERM),
            ),
            (STATUS_LVB_SET, self.lvb_set),
        ]
        .iter()
        .filter(|(_, set)| *set)
        .fold(0, |flags, (bit, _)| flags | bit);
        let text = format!(
            "list={} flags={flags:x} sector_size={} align_size={} lver={} reused={} res_id={} token_id={}",
            self.list.name(),
            self.geometry.sector_size(),
            self.geometry.align_size(),
            self.lver,
            self.reused,
            self.res_id,
            self.token_id,
        );
        StateRecord {
            data32: self.pid.cast_unsigned(),
            data64: self.lver,
            body: StateBody::Resource(self.as_resource()),
            ..StateRecord::new(StateKind::Resource, *self.resource.field(), text)
        }
    }

    fn as_resource(&self) -> Resource {
        let flags = ResourceFlags::NONE
            .with_if(ResourceFlags::SHARED, self.shared)
            .with_if(ResourceFlags::LVER, !self.shared)
            .with_if(ResourceFlags::PERSISTENT, self.persistent);
        Resource {
            lockspace_name: *self.lockspace.field(),
            name: *self.resource.field(),
            lver: self.lver,
            data64: 0,
            data32: 0,
            flags: flags.0 | geometry_flags(self.geometry),
            disks: self.disks.to_vec(),
        }
    }
}

/// For whom an acquire waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// A host that may be dead; it surely is at `until`.
    Host {
        /// The host.
        host_id: HostId,
        /// Of which generation.
        generation: Generation,
        /// On the boot-time clock.
        until: Monotonic,
    },
    /// Its reads and writes, and the pauses between its ballots.
    Storage,
    /// A process of this host, and whoever is earlier in line.
    Process {
        /// The holder, if it is one process.
        pid: Option<i32>,
        /// When the wait is given up, on the boot-time clock.
        until: Option<Monotonic>,
    },
}

/// An acquire that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Who waits.
    pub client: ClientId,
    /// Its process.
    pub pid: i32,
    /// For what.
    pub lockspace: LockspaceName,
    /// For what.
    pub resource: ResourceName,
    /// Since when, on the boot-time clock.
    pub since: Monotonic,
    /// For whom.
    pub wait_for: WaitFor,
}

impl Resources {
    pub(super) fn on_inquire(&mut self, reply: ReplyTo, client: ClientId) {
        let held: Vec<Resource> = self
            .clients
            .get(&client)
            .into_iter()
            .flat_map(|known| known.tokens.iter())
            .filter_map(|(&token, &resource)| {
                let entry = self.table.get(resource)?;
                let State::Held(lease) = &entry.state else {
                    return None;
                };
                let share = lease.tokens.iter().find(|share| share.id == token)?;
                let list = ListKind::Held;
                Some(status(resource.0, entry, list, Some(share), share.pid).as_resource())
            })
            .collect();
        self.reply_with(reply, Code::OK, ReplyBody::inquiry(&held));
    }

    /// Every lease by the lists of the status output: held, being acquired,
    /// being released, orphans; one for each process's share.
    #[must_use]
    pub fn status(&self) -> Vec<ResourceStatus> {
        let mut all = Vec::new();
        for (id, entry) in self.table.iter() {
            match &entry.state {
                State::Free => {}
                State::Held(lease) => {
                    for share in &lease.tokens {
                        all.push(status(id.0, entry, ListKind::Held, Some(share), share.pid));
                    }
                }
                State::Adding {
                    command,
                    token,
                    pid,
                    shared,
                } => {
                    let process = self.commands.get(command).map(|command| command.process);
                    let mut one = status(id.0, entry, ListKind::Add, None, *pid);
                    one.client = process.map(|process| process.client);
                    one.shared = *shared;
                    let TokenId(number) = *token;
                    one.token_id = number;
                    all.push(one);
                }
                State::Removing(removing) => {
                    let mut one = status(id.0, entry, ListKind::Remove, None, removing.pid);
                    one.shared = removing.held.shared;
                    all.push(one);
                }
                State::Orphan { held, pid } => {
                    let mut one = status(id.0, entry, ListKind::Orphan, None, *pid);
                    one.shared = held.shared;
                    one.persistent = true;
                    all.push(one);
                }
            }
        }
        // The newest first, as in the original.
        all.sort_by_key(|one| (one.list, Reverse(one.token_id), Reverse(one.res_id)));
        all
    }

    /// The clients with leases of a lockspace: connection, process, how many.
    pub fn holders(
        &self,
        lockspace: &LockspaceName,
    ) -> impl Iterator<Item = (ClientId, i32, u32)> + '_ {
        self.spaces
            .get(lockspace)
            .into_iter()
            .flat_map(|space| &space.holders)
            .map(|(&client, &(pid, count))| (client, pid, count))
    }

    /// How many leases a client has.
    #[must_use]
    pub fn client_leases(&self, client: ClientId) -> usize {
        self.clients
            .get(&client)
            .map_or(0, |known| known.tokens.len())
    }

    /// Whether anything of a lockspace is held, being acquired or released, or
    /// an orphan.
    #[must_use]
    pub fn is_used(&self, lockspace: &LockspaceName) -> bool {
        self.spaces
            .get(lockspace)
            .is_some_and(|space| !space.used.is_empty())
            || self.lines_of(lockspace) > 0
    }

    /// Whether a lockspace has orphans.
    #[must_use]
    pub fn has_orphans(&self, lockspace: &LockspaceName) -> bool {
        self.spaces
            .get(lockspace)
            .is_some_and(|space| space.orphans > 0)
    }

    /// Whether operations on a lockspace's resources may still change a disk.
    #[must_use]
    pub fn is_busy(&self, lockspace: &LockspaceName) -> bool {
        self.spaces
            .get(lockspace)
            .is_some_and(|space| !space.ops.is_empty())
    }

    /// Whether nothing is held, wanted or under way, and nobody is known.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty()
            && self.flights.is_empty()
            && self.commands.is_empty()
            && self.batches.is_empty()
            && self.clients.is_empty()
            && self.timers.is_empty()
            && self.examine.is_empty()
            && self.requesting.is_empty()
            && self.unsettled.is_empty()
            && self.table.iter().all(|(_, entry)| {
                entry.state.is_free() && entry.draining == 0 && entry.line.is_empty()
            })
    }

    /// Reads and writes without outcome.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Numbers about all resources together.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.totals
    }

    /// Numbers about each resource in use or used lately.
    pub fn metrics_of_each(
        &self,
    ) -> impl Iterator<Item = (LockspaceName, ResourceName, &Metrics)> + '_ {
        self.table
            .iter()
            .map(|(_, entry)| (entry.key.lockspace, entry.key.resource, &entry.metrics))
    }

    /// Who waits for whom, and until when.
    #[must_use]
    pub fn waits(&self) -> Vec<Wait> {
        let hosts = self.ops.values().filter_map(|op| {
            let Purpose::Acquire {
                command, resource, ..
            } = op.purpose
            else {
                return None;
            };
            let waiting = op.core.waiting();
            let process = self.commands.get(&command)?.process;
            let key = self.table.get(resource)?.key;
            Some(Wait {
                client: process.client,
                pid: process.pid,
                lockspace: key.lockspace,
                resource: key.resource,
                since: op.started,
                wait_for: match waiting {
                    Some(waiting) => WaitFor::Host {
                        host_id: waiting.owner,
                        generation: waiting.generation,
                        until: waiting.until,
                    },
                    None => WaitFor::Storage,
                },
            })
        });
        let lines = self.table.iter().flat_map(|(_, entry)| {
            entry.line.iter().filter_map(|id| {
                let command = self.commands.get(id)?;
                let (since, patience) = command.in_line?;
                Some(Wait {
                    client: command.process.client,
                    pid: command.process.pid,
                    lockspace: entry.key.lockspace,
                    resource: entry.key.resource,
                    since,
                    wait_for: WaitFor::Process {
                        pid: holder(entry),
                        until: patience.until,
                    },
                })
            })
        });
        hosts.chain(lines).collect()
    }
}

fn holder(entry: &Entry) -> Option<i32> {
    match &entry.state {
        State::Held(lease) => match lease.tokens.as_slice() {
            [only] => Some(only.pid),
            _ => None,
        },
        State::Adding { pid, .. } | State::Orphan { pid, .. } => Some(*pid),
        State::Removing(removing) => Some(removing.pid),
        State::Free => None,
    }
}

fn status(
    res_id: u32,
    entry: &Entry,
    list: ListKind,
    share: Option<&Token>,
    pid: i32,
) -> ResourceStatus {
    let (shared, converting) = match &entry.state {
        State::Held(lease) => (lease.held.shared, lease.converting),
        State::Free | State::Adding { .. } | State::Removing(_) | State::Orphan { .. } => {
            (false, false)
        }
    };
    ResourceStatus {
        lockspace: entry.key.lockspace,
        resource: entry.key.resource,
        disks: Arc::clone(&entry.disks),
        geometry: entry.geometry,
        list,
        shared,
        converting,
        persistent: share.is_some_and(|share| share.persistent),
        lver: entry.lver,
        pid,
        client: share.map(|share| share.client),
        restricted: share.map_or(RestrictFlags::NONE, |share| share.restricted),
        since: entry.since,
        reused: entry.reused,
        ballots: entry.ballots,
        res_id,
        token_id: share.map_or(0, |share| share.id.0),
        lvb_set: entry.lvb.as_ref().is_some_and(|lvb| lvb.set),
        metrics: entry.metrics,
    }
}
