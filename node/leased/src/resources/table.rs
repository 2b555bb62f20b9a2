//! Who has what: resources, their leases, and the lockspaces they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use disk_format::{Geometry, LockspaceName, ResourceName};
use lease::Monotonic;
use lease::resource::Held;
use sanlock_wire::{Disk, RestrictFlags};

use super::metrics::Metrics;
use super::types::{ClientId, Ending, SpaceView};

/// Released resources remembered, for their numbers and metrics; the oldest
/// are forgotten.
pub(super) const IDLE_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) lockspace: LockspaceName,
    pub(super) resource: ResourceName,
}

macro_rules! number {
    ($name:ident, $kind:ty) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) struct $name(pub(super) $kind);
    };
}
number!(ResId, u32);
number!(TokenId, u32);
number!(CommandId, u64);
number!(BatchId, u64);
number!(OpId, u64);

/// A process's share in a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) id: TokenId,
    pub(super) client: ClientId,
    pub(super) pid: i32,
    pub(super) restricted: RestrictFlags,
    pub(super) persistent: bool,
}

/// A lease that is ours on disk.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) held: Held,
    /// One if exclusive; several processes may share a shared lease.
    pub(super) tokens: Vec<Token>,
    /// A change of mode is under way.
    pub(super) converting: bool,
    /// A process that shared the lease ended and left its persistent share.
    pub(super) left_by: Option<i32>,
}

/// A lease on its way back.
#[derive(Debug)]
pub(super) struct Removing {
    pub(super) held: Held,
    /// The last owner.
    pub(super) pid: i32,
    /// Who waits for the result.
    pub(super) waiting: Option<(BatchId, usize)>,
    pub(super) rename: Option<ResourceName>,
    pub(super) step: RemovingStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemovingStep {
    /// A write of unknown outcome must end first; the client waits for so long.
    Draining {
        patience: Monotonic,
    },
    Running,
}

#[derive(Debug)]
pub(super) enum State {
    /// Nobody has it.
    Free,
    Adding {
        command: CommandId,
        pid: i32,
        token: TokenId,
        shared: bool,
    },
    Held(Lease),
    Removing(Box<Removing>),
    Orphan {
        held: Held,
        pid: i32,
    },
}

impl State {
    pub(super) fn is_free(&self) -> bool {
        matches!(self, Self::Free)
    }
}

#[derive(Debug)]
pub(super) struct Lvb {
    /// A whole sector.
    pub(super) bytes: Box<[u8]>,
    /// Whether it is to be written.
    pub(super) set: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) disks: Arc<[Disk]>,
    pub(super) geometry: Geometry,
    pub(super) lver: u64,
    /// For how many hosts the lease was when last held.
    pub(super) num_hosts: Option<u32>,
    /// Our ballot number when we last held it.
    pub(super) mbal: Option<u64>,
    pub(super) state: State,
    /// When it got into this state.
    pub(super) since: Monotonic,
    pub(super) lvb: Option<Lvb>,
    /// Times it was acquired again after a release.
    pub(super) reused: u32,
    /// Ballots begun since it was last wanted.
    pub(super) ballots: u32,
    /// Operations with a result whose last writes have an unknown outcome.
    pub(super) draining: u32,
    /// Acquires that stand in line, in order.
    pub(super) line: BTreeSet<CommandId>,
    /// Place among the idle; 0: not idle.
    pub(super) idle: u64,
    /// Wanted by the examiner.
    pub(super) examine: bool,
    pub(super) metrics: Metrics,
}

/// A registered connection that has or wants leases.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// In the order in which they were acquired.
    pub(super) tokens: BTreeMap<TokenId, ResId>,
    /// Acquires under way or in line.
    pub(super) commands: BTreeSet<CommandId>,
    /// It has ended.
    pub(super) gone: bool,
}

#[derive(Debug)]
pub(super) struct Space {
    pub(super) view: SpaceView,
    pub(super) ending: Option<Ending>,
    /// When our delta lease ends unless it is renewed.
    pub(super) expires: Option<Monotonic>,
    /// Not free.
    pub(super) used: BTreeSet<ResId>,
    pub(super) orphans: u32,
    /// Finished acquires by client: pid and number of leases.
    pub(super) holders: BTreeMap<ClientId, (i32, u32)>,
    /// Operations under way.
    pub(super) ops: BTreeSet<OpId>,
}

impl Entry {
    pub(super) fn enter(&mut self, state: State, now: Monotonic) {
        self.state = state;
        self.since = now;
    }
}

impl Space {
    pub(super) fn new(view: SpaceView) -> Self {
        Self {
            view,
            ending: None,
            expires: None,
            used: BTreeSet::new(),
            orphans: 0,
            holders: BTreeMap::new(),
            ops: BTreeSet::new(),
        }
    }

    /// Whether leases may be given out.
    pub(super) fn is_healthy(&self, now: Monotonic) -> bool {
        self.ending.is_none() && self.expires.is_none_or(|end| now < end)
    }

    /// Whether the disk may be written.
    pub(super) fn may_write(&self) -> bool {
        self.ending != Some(Ending::Lost)
    }
}

/// All resources, by name and by number.
#[derive(Debug, Default)]
pub(super) struct Table {
    keys: BTreeMap<Key, ResId>,
    entries: BTreeMap<ResId, Entry>,
    idle: BTreeMap<u64, ResId>,
    next_resource: u32,
    next_idle: u64,
}

impl Table {
    pub(super) fn find(&self, key: &Key) -> Option<ResId> {
        self.keys.get(key).copied()
    }

    pub(super) fn get(&self, id: ResId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ResId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ResId, &Entry)> {
        self.entries.iter().map(|(&id, entry)| (id, entry))
    }

    /// The resource's number; a new one starts with these disks.
    pub(super) fn intern(&mut self, key: Key, disks: &[Disk], geometry: Geometry) -> ResId {
        if let Some(id) = self.find(&key) {
            return id;
        }
        self.next_resource = self.next_resource.wrapping_add(1);
        let id = ResId(self.next_resource);
        self.keys.insert(key, id);
        self.entries.insert(
            id,
            Entry {
                key,
                disks: disks.into(),
                geometry,
                lver: 0,
                num_hosts: None,
                mbal: None,
                state: State::Free,
                since: Monotonic::default(),
                lvb: None,
                reused: 0,
                ballots: 0,
                draining: 0,
                line: BTreeSet::new(),
                idle: 0,
                examine: false,
                metrics: Metrics::default(),
            },
        );
        id
    }

    /// Says that the resource is in use: it is not forgotten.
    pub(super) fn keep(&mut self, id: ResId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.idle != 0
        {
            self.idle.remove(&entry.idle);
            entry.idle = 0;
        }
    }

    /// Lets the resource be forgotten, if nothing needs it; the one that has
    /// been idle for longest is forgotten when there are too many.
    pub(super) fn let_go(&mut self, id: ResId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.idle != 0 || !entry.state.is_free() || entry.draining > 0 || !entry.line.is_empty()
        {
            return;
        }
        entry.lvb = None;
        self.next_idle += 1;
        entry.idle = self.next_idle;
        self.idle.insert(self.next_idle, id);
        if self.idle.len() > IDLE_MAX
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.forget(oldest);
        }
    }

    /// Forgets the idle resources of a lockspace.
    pub(super) fn forget_idle(&mut self, lockspace: &LockspaceName) {
        let of_space: Vec<(u64, ResId)> = self
            .idle
            .iter()
            .filter(|(_, id)| {
                self.entries
                    .get(id)
                    .is_some_and(|entry| entry.key.lockspace == *lockspace)
            })
            .map(|(&place, &id)| (place, id))
            .collect();
        for (place, id) in of_space {
            self.idle.remove(&place);
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ResId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.keys.remove(&entry.key);
        }
    }
}
