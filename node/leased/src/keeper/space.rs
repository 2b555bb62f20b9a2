//! One lockspace: its core, what is in flight for it, and how far it has come.

mod guard;
mod io;
mod telling;

use std::sync::Arc;
use std::sync::mpsc::TrySendError;

use disk_format::{HostBitmap, HostExtras};
use heapless::{Deque, Vec};
use lease::code::Code;
use lease::{Config, DeltaLease, Effect, Input, Monotonic, State, Status, timings};
use linux::disk::AlignedBuffer;

use super::journal::What;
use super::opening::{Opened, Outcome, Task, Tasks};
use super::status::{self, Board, Joining};
use super::worker::Edges;
use super::{Event, Join, SpaceId, now};
use crate::watchdog::Watchdog;

/// Requests for our own sector in flight at most: one that hangs, and a fresh
/// one.
pub(super) const SECTORS: usize = 2;
/// Events that wait because the owner takes none; the oldest that others make
/// up for goes first.
const EVENTS_MAX: usize = 8;
/// Seconds between attempts to join: the first, and the most it grows to.
const BACK_OFF_S: (u64, u64) = (1, 5);
/// What could not be done at once is tried again after this.
const RETRY_MS: u64 = 20;
/// Beyond 2T: the time an attempt that is not persistent may take to open
/// device and watchdog, seconds.
const OPENING_S: u64 = 15;
/// What an error without a number of its own is told as.
const EIO: i32 = 5;

/// How a lockspace is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Kept,
    Left,
    Abandoned,
}

/// How a lockspace ended, for the next one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Whatever it guarded has ended before it.
    Over,
    /// A write of its may have landed on top of anything.
    Uncertain,
}

/// What the owner was told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    joined: bool,
    failing: bool,
    lost: Option<Code>,
    renewals: u64,
    failures: u64,
    over: bool,
}

#[derive(Debug)]
pub(super) struct Space {
    join: Arc<Join>,
    lease: DeltaLease,
    /// Gone once the lease is held: nothing is opened again after that.
    tasks: Option<Tasks>,
    /// The opener has a task.
    opening: bool,
    /// The opener registers us with the watchdog.
    registering: bool,
    opened: Option<Box<Opened>>,
    sectors: Vec<AlignedBuffer, SECTORS>,
    flights: Vec<io::Flight, { io::FLIGHTS }>,
    next_token: u32,
    reading: Option<io::Reading>,
    /// When the last reading of the whole area was asked for.
    last_whole: Option<Monotonic>,
    /// Where in the area the last sector ends that was ever acquired.
    used_bytes: usize,
    watchdog: Option<Arc<Watchdog>>,
    /// An update the watchdog's socket had no room for.
    unsent: Option<(u64, u64)>,
    /// The expiry is to be taken back.
    uncleared: bool,
    joining: Joining,
    began: Monotonic,
    /// The core has begun at least once.
    started: bool,
    /// Another host lives on our host id.
    busy: bool,
    next_attempt: Option<Monotonic>,
    back_off_s: u64,
    wanted: Wanted,
    told: Told,
    events: Deque<Event, EVENTS_MAX>,
    board: Arc<Board>,
    published: bool,
}

impl Space {
    pub(super) fn new(join: Arc<Join>, tasks: Tasks) -> Self {
        let mut lease = DeltaLease::new(Config {
            lockspace: join.name,
            host_id: join.host_id,
            host_name: join.host_name,
            io_timeout_s: join.io_timeout_s,
            fire_timeout_s: join.fire_timeout_s,
            watchdog: join.watchdog.is_some(),
        });
        if let Some(seconds) = join.read_extend_s {
            lease.extend_reads(seconds);
        }
        let board = Arc::new(Board::new(lease.status()));
        let began = now().boottime;
        Self {
            join,
            lease,
            tasks: Some(tasks),
            opening: false,
            registering: false,
            opened: None,
            sectors: Vec::new(),
            flights: Vec::new(),
            next_token: 0,
            reading: None,
            last_whole: None,
            used_bytes: 0,
            watchdog: None,
            unsent: None,
            uncleared: false,
            joining: Joining::Opening { since: began },
            began,
            started: false,
            busy: false,
            next_attempt: None,
            back_off_s: BACK_OFF_S.0,
            wanted: Wanted::Kept,
            told: Told::default(),
            events: Deque::new(),
            board,
            published: false,
        }
    }

    pub(super) fn id(&self) -> SpaceId {
        self.join.id
    }

    pub(super) fn join(&self) -> &Arc<Join> {
        &self.join
    }

    pub(super) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Takes the place of one that ended in this manner.
    pub(super) fn follow(&mut self, manner: Manner) {
        match manner {
            Manner::Over => self.lease.assume_succession(),
            Manner::Uncertain => self.lease.assume_uncertain(),
        }
    }

    /// How it ended; `None`: with an expiry standing, and perhaps with users, or
    /// without ever having been held.
    pub(super) fn manner(&self) -> Option<Manner> {
        if self.lease.is_uncertain() {
            Some(Manner::Uncertain)
        } else if self.is_held() && (self.told.lost.is_none() || self.wanted == Wanted::Abandoned) {
            Some(Manner::Over)
        } else {
            None
        }
    }

    /// Whether it has ended for its owner but may still change the disk.
    pub(super) fn is_haunting(&self) -> bool {
        self.told.over && !self.flights.is_empty()
    }

    /// Whether nothing is left to be done for it.
    pub(super) fn is_gone(&self) -> bool {
        self.told.over && self.flights.is_empty() && self.events.is_empty() && !self.uncleared
    }

    /// Whether its lease was ever held.
    pub(super) fn is_held(&self) -> bool {
        self.told.joined
    }

    /// When to look at it again at the latest.
    pub(super) fn due(&self) -> Option<Monotonic> {
        let undone =
            self.unsent.is_some() || self.uncleared || !self.events.is_empty() || !self.published;
        let retry = undone.then(|| now().boottime.plus_ms(RETRY_MS));
        let lease = self.lease.deadline();
        [lease, self.next_attempt, self.opening_deadline(), retry]
            .into_iter()
            .flatten()
            .min()
    }

    fn opening_deadline(&self) -> Option<Monotonic> {
        let patient = self.join.persistent || self.started || self.told.over;
        (!patient).then(|| {
            let t = self.join.io_timeout_s;
            self.began.plus_s(2 * timings::io_s(t) + OPENING_S)
        })
    }

    pub(super) fn leave(&mut self, edges: &mut Edges) {
        if self.wanted == Wanted::Kept {
            self.wanted = Wanted::Left;
            self.tell(edges, Input::Release);
        }
    }

    pub(super) fn abandon(&mut self, edges: &mut Edges) {
        if self.lease.status().state == State::Lost {
            self.wanted = Wanted::Abandoned;
            self.uncleared = self.watchdog.is_some();
        } else {
            self.leave(edges);
        }
    }

    pub(super) fn notify(&mut self, bitmap: HostBitmap, extras: HostExtras) {
        self.lease.notify(bitmap, extras);
    }

    /// Takes in that time has passed.
    pub(super) fn tick(&mut self, edges: &mut Edges) {
        self.tell(edges, Input::Tick);
    }

    /// Hands an input to the core and does what it asks for.
    fn tell(&mut self, edges: &mut Edges, input: Input<'_>) {
        self.lease.handle(now(), input);
        self.perform(edges);
    }

    /// Takes in what the opener has done; gives back what nobody needs.
    pub(super) fn take_outcome(&mut self, edges: &mut Edges, outcome: Outcome) -> Option<Outcome> {
        match outcome {
            Outcome::Opened(_) if self.told.over => return Some(outcome),
            Outcome::Opened(Ok(mut opened)) => {
                self.opening = false;
                edges.journal.tell(&self.join, What::Found(opened.geometry));
                if let Some(reason) = opened.request_size_refused.take() {
                    edges.journal.tell(&self.join, What::RequestSize(reason));
                }
                self.watchdog.clone_from(&opened.watchdog);
                self.sectors.clear();
                self.sectors
                    .extend(opened.sectors.take().into_iter().flatten());
                self.opened = Some(opened);
                self.joining = Joining::Open;
            }
            Outcome::Opened(Err(error)) => {
                self.opening = false;
                let reason: Arc<str> = error.to_string().into();
                let known = matches!(&self.joining, Joining::Failed(former) if *former == reason);
                if !known {
                    edges
                        .journal
                        .tell(&self.join, What::JoinFailed(Arc::clone(&reason)));
                }
                self.joining = Joining::Failed(Arc::clone(&reason));
                if self.join.persistent {
                    self.retry_later();
                } else {
                    self.finish(error.code(), Some(reason));
                }
            }
            Outcome::Registered(result) => {
                self.registering = false;
                let registered = result.is_ok();
                if let Err(error) = result {
                    let reason = error.to_string().into();
                    edges.journal.tell(&self.join, What::JoinFailed(reason));
                }
                if self.lease.is_registering() {
                    self.tell(edges, Input::WatchdogRegistered(registered));
                } else {
                    // Nobody waits for it any more, so nobody would renew it.
                    self.clear_watchdog(edges);
                }
            }
        }
        None
    }

    fn retry_later(&mut self) {
        self.next_attempt = Some(now().boottime.plus_s(self.back_off_s));
        self.back_off_s = (self.back_off_s * 2).min(BACK_OFF_S.1);
    }

    fn perform(&mut self, edges: &mut Edges) {
        loop {
            while let Some(note) = self.lease.next_note() {
                edges.journal.tell(&self.join, What::Note(note));
            }
            let Some(effect) = self.lease.next_effect() else {
                return;
            };
            match effect {
                Effect::ReadOwn(io) => self.own_sector(edges, io, None),
                Effect::ReadArea(io) => self.read_area(io),
                Effect::Write {
                    io,
                    not_after,
                    record,
                } => self.own_sector(edges, io, Some((not_after, &record))),
                Effect::WatchdogRegister {
                    renewal_s,
                    expire_s,
                } => self.register(renewal_s, expire_s),
                Effect::WatchdogUpdate {
                    renewal_s,
                    expire_s,
                } => {
                    // What is taken back stays taken back.
                    if self.wanted != Wanted::Abandoned {
                        self.unsent = Some((renewal_s, expire_s));
                        self.resend(edges);
                    }
                }
                Effect::WatchdogClear => self.clear_watchdog(edges),
            }
        }
    }

    /// Does what follows from where the lease stands now, and tells it.
    /// `haunted`: a lockspace in whose place we come may still write.
    pub(super) fn settle(&mut self, edges: &mut Edges, haunted: bool) {
        self.resend(edges);
        if self.uncleared {
            self.clear_watchdog(edges);
        }
        if !self.told.over {
            self.progress(edges, haunted);
        }
        self.tell_renewals();
        self.deliver(edges);
        self.publish();
    }

    fn progress(&mut self, edges: &mut Edges, haunted: bool) {
        let status = self.lease.status();
        match status.state {
            State::Waiting if self.wanted != Wanted::Kept => {}
            State::Waiting => self.attempt(edges, &status, haunted),
            State::Busy if !self.join.persistent && !self.busy => {
                self.busy = true;
                self.tell(edges, Input::Release);
                self.progress(edges, haunted);
            }
            State::Held | State::Failing => self.tell_held(&status),
            State::Lost => self.tell_lost(&status),
            State::Released if self.lease.is_released() && !self.registering => {
                self.tell_released();
            }
            State::Busy | State::Acquiring | State::Released => {}
        }
    }

    /// Nothing is held and nothing under way: begin, if need be anew, from the
    /// device up.
    fn attempt(&mut self, edges: &mut Edges, status: &Status, haunted: bool) {
        if self
            .opening_deadline()
            .is_some_and(|at| at <= now().boottime)
        {
            let reason = format!(
                "{}: opening it and the watchdog, or earlier requests, take too long; look at the paths to the device",
                self.join.path.display()
            );
            return self.finish(Code::AIO_TIMEOUT, Some(reason.into()));
        }
        // A registration that nobody waits for any more must be taken back on
        // its own connection before that is closed.
        if self.opening || self.registering {
            return;
        }
        if let Some(failure) = status.failure
            && !self.join.persistent
        {
            let reason = status::failed(&self.join, &failure);
            return self.finish(failure.code(), Some(reason.into()));
        }
        match &self.opened {
            Some(opened) if !self.started || status.failure.is_none() => {
                if !haunted {
                    self.started = true;
                    let geometry = opened.geometry;
                    self.tell(edges, Input::Start(geometry));
                }
            }
            // A request that is still in flight must come back first: it may
            // change the disk after everything that is decided now.
            Some(_) if !self.flights.is_empty() => {
                if !matches!(self.joining, Joining::Draining { .. }) {
                    let since = now().boottime;
                    self.joining = Joining::Draining { since };
                }
            }
            _ => self.reopen(),
        }
    }

    /// Has device and watchdog opened for the first time.
    pub(super) fn begin(&mut self) {
        self.next_attempt = Some(self.began);
        self.reopen();
    }

    fn reopen(&mut self) {
        if self.next_attempt.is_none() {
            return self.retry_later();
        }
        let now = now().boottime;
        if self.next_attempt.is_some_and(|at| at > now) {
            return;
        }
        let Some(tasks) = &self.tasks else { return };
        match tasks.try_send(Task::Open(self.opened.take())) {
            Ok(()) => {
                self.next_attempt = None;
                self.opening = true;
                self.started = false;
                self.watchdog = None;
                if !matches!(self.joining, Joining::Failed(_)) {
                    self.joining = Joining::Opening { since: now };
                }
            }
            Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) => {
                if let Task::Open(opened) = task {
                    self.opened = opened;
                }
                self.retry_later();
            }
        }
    }
}
