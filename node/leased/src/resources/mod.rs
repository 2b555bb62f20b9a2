//! Everything about resource leases but the I/O: which process has which, what
//! is under way on the disks, and what to answer.
//!
//! What it is: [`Resources`], the synchronous owner of all tokens, leases,
//! orphans, lock value blocks and requests; it drives the pure cores of
//! `lease::resource`, one for each operation under way. What it is not: no
//! socket, no file, no clock, no thread.
//!
//! ```text
//!                acquire                 won                      last share given back
//!    Free ───────────────▶ Adding ─────────────▶ Held ─────────────────────────▶ Removing ──▶ Free
//!     ▲                      │ lost, undone       │ ▲ adopted      release │ ▲ timed out:    │
//!     └──────────────────────┘                    ▼ │                      ▼ │ after T,       │
//!                                               Orphan ───────────────▶ on disk   then 2T    ▼
//!                              process of a persistent lease ends                     next in line
//! ```
//!
//! Invariants, tested in `tests/`:
//! - a resource has at most one operation that writes; while a write of one
//!   that has answered already has an unknown outcome, the resource answers -11;
//! - an `ACQUIRE` gives all or nothing, and fails with the first failure in the
//!   order of its resources;
//! - whoever ends leaves nothing but orphans behind;
//! - a lockspace that is lost causes no I/O any more, and gives nothing out.

mod acquire;
mod convert;
mod flight;
mod line;
mod lvb;
mod metrics;
mod release;
mod report;
mod request;
mod spaces;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use disk_format::LockspaceName;
use lease::code::Code;
use lease::resource::Owners;
use lease::{Monotonic, Now};
use sanlock_wire::{Disk, ReplyBody};

use acquire::Command;
use flight::{Flight, Op, Work};
pub use metrics::{Metrics, Timing};
use release::Batch;
use table::{BatchId, Client, CommandId, Key, OpId, ResId, Space, Table, TokenId};
pub use types::{
    ClientId, Device, DiskHandle, DiskIo, Effect, Ending, Input, IoToken, Level, Line, OperationId,
    Patience, Process, ReplyTo, Settings, Signal, SpaceId, SpaceView,
};
pub use view::{ListKind, ResourceStatus, Wait, WaitFor};

/// What is due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// An operation's own deadline.
    Op(OpId),
    /// A release waits for its turn, or its client for the answer.
    Removing(ResId),
    /// Somebody has stood in line for long enough.
    Line(CommandId),
}

/// All resource leases of this host.
///
/// After every [`Self::handle`], drain [`Self::next_effect`], and call again at
/// [`Self::deadline`] at the latest.
#[derive(Debug)]
pub struct Resources {
    settings: Settings,
    now: Now,
    table: Table,
    spaces: BTreeMap<LockspaceName, Space>,
    clients: BTreeMap<ClientId, Client>,
    commands: BTreeMap<CommandId, Command>,
    batches: BTreeMap<BatchId, Batch>,
    ops: BTreeMap<OpId, Op>,
    flights: BTreeMap<IoToken, Flight>,
    timers: BTreeSet<(Monotonic, Timer)>,
    /// Inputs for operations, given before [`Self::handle`] returns.
    work: VecDeque<Work>,
    /// Where writes of unknown outcome may still land; how many operations.
    unsettled: BTreeMap<Disk, u32>,
    /// Resources whose line may move.
    moved: BTreeSet<ResId>,
    /// Resources to look at for requests.
    examine: VecDeque<ResId>,
    examining: u32,
    /// Requests answered whose write has an unknown outcome.
    requesting: BTreeSet<Key>,
    effects: VecDeque<Effect>,
    next_token: u32,
    next_id: u64,
    totals: Metrics,
}

impl Resources {
    /// No lease, no lockspace.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Now::default(),
            table: Table::default(),
            spaces: BTreeMap::new(),
            clients: BTreeMap::new(),
            commands: BTreeMap::new(),
            batches: BTreeMap::new(),
            ops: BTreeMap::new(),
            flights: BTreeMap::new(),
            timers: BTreeSet::new(),
            work: VecDeque::new(),
            unsettled: BTreeMap::new(),
            moved: BTreeSet::new(),
            examine: VecDeque::new(),
            examining: 0,
            requesting: BTreeSet::new(),
            effects: VecDeque::new(),
            next_token: 0,
            next_id: 0,
            totals: Metrics::default(),
        }
    }

    /// Takes in what happened at `now`; `owners` is what is known of the hosts
    /// of every lockspace.
    pub fn handle(&mut self, now: Now, input: Input<'_>, owners: &dyn Owners) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Acquire {
                reply,
                process,
                flags,
                resources,
                patience,
            } => self.on_acquire(reply, process, flags, resources, patience),
            Input::Release {
                reply,
                client,
                what,
            } => self.on_release(reply, client, what),
            Input::Convert {
                reply,
                client,
                flags,
                resource,
            } => self.on_convert(reply, client, flags, resource),
            Input::Inquire { reply, client } => self.on_inquire(reply, client),
            Input::Request {
                reply,
                flags,
                force_mode,
                resource,
            } => self.on_request(reply, flags, force_mode, resource),
            Input::Examine {
                reply,
                lockspace,
                resource,
            } => self.on_examine(reply, &lockspace, resource.as_ref()),
            Input::SetLvb {
                reply,
                resource,
                value,
            } => self.on_set_lvb(reply, resource, value),
            Input::GetLvb {
                reply,
                resource,
                wanted,
            } => self.on_get_lvb(reply, resource, wanted),
            Input::ClientGone(client) => self.on_client_gone(client),
            Input::SpaceJoined(view) => self.on_space_joined(view),
            Input::SpaceRenewed(name, expires) => self.on_space_renewed(&name, expires),
            Input::SpaceDying(name, ending) => self.on_space_dying(&name, ending),
            Input::SpaceGone(name) => self.on_space_gone(&name),
            Input::HostsChanged(name) => self.on_hosts_changed(&name),
            Input::Io(token, outcome) => self.on_io(token, outcome, owners),
        }
        self.work_off(owners);
        // Only what is due now: something that is due again at once has to wait
        // for the next call, or nothing else would ever happen.
        let mut due = Vec::new();
        while let Some(&(at, timer)) = self.timers.first()
            && at <= self.now.boottime
        {
            self.timers.pop_first();
            due.push(timer);
        }
        for timer in due {
            match timer {
                Timer::Op(op) => self.on_op_due(op),
                Timer::Removing(resource) => self.on_removing_due(resource),
                Timer::Line(command) => self.on_line_due(command),
            }
            self.work_off(owners);
        }
    }

    /// The next thing to do, in order; `None` when there is no more.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When, on the boot-time clock, to call [`Self::handle`] with
    /// [`Input::Tick`] at the latest; `None`: only when something happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.timers.first().map(|&(due, _)| due)
    }

    /// Gives operations what they are owed, until nothing follows from it.
    fn work_off(&mut self, owners: &dyn Owners) {
        loop {
            if let Some(work) = self.work.pop_front() {
                self.drive(work, owners);
            } else if let Some(resource) = self.moved.pop_first() {
                self.move_line(resource);
            } else {
                break;
            }
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn reply(&mut self, to: ReplyTo, result: Code) {
        self.reply_with(to, result, ReplyBody::Empty);
    }

    fn reply_with(&mut self, to: ReplyTo, result: Code, body: ReplyBody) {
        self.effects.push_back(Effect::Reply { to, result, body });
    }

    fn log(&mut self, level: Level, resource: Option<ResId>, text: String) {
        let space = resource
            .and_then(|id| self.table.get(id))
            .and_then(|entry| self.spaces.get(&entry.key.lockspace))
            .map(|space| space.view.id);
        self.effects.push_back(Effect::Log(Line {
            level,
            space,
            resource: resource.map(|id| id.0),
            text,
        }));
    }

    /// Counts something for the resource and for all.
    fn count(&mut self, resource: ResId, what: impl Fn(&mut Metrics)) {
        what(&mut self.totals);
        if let Some(entry) = self.table.get_mut(resource) {
            what(&mut entry.metrics);
        }
    }

    fn new_token(&mut self) -> TokenId {
        self.next_token = self.next_token.wrapping_add(1);
        TokenId(self.next_token)
    }
}

/// The resource meant by a command; `None` when a name is empty.
fn key_of(resource: &sanlock_wire::Resource) -> Option<Key> {
    Some(Key {
        lockspace: LockspaceName::from_field(&resource.lockspace_name).ok()?,
        resource: disk_format::ResourceName::from_field(&resource.name).ok()?,
    })
}
