//! One lockspace: its core, what is in flight for it, and how far it has come.

use std::sync::Arc;
use std::sync::mpsc::TrySendError;

use disk_format::{Generation, HostBitmap, HostExtras, delta};
use heapless::{Deque, Vec};
use lease::code::Code;
use lease::hosts::{self, Hosts};
use lease::{
    Config, DeltaLease, Effect, Input, IoId, IoOutcome, Monotonic, Record, State, Status, timings,
};
use linux::disk::{AlignedBuffer, IoError};
use linux::ring::Operation;

use super::journal::What;
use super::opening::{Opened, Outcome, Task, Tasks};
use super::outbox::Message;
use super::pool::Extent;
use super::status::{self, Board, Joining};
use super::worker::Edges;
use super::{Event, Join, SpaceId, now};
use crate::watchdog::Watchdog;

/// Requests for our own sector in flight at most: one that hangs, and a fresh
/// one.
pub(super) const SECTORS: usize = 2;
/// The same for readings of the area.
const READINGS: usize = 2;
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
/// One in so many readings is of the whole area; the others end with the first
/// hosts, if nobody was ever seen beyond. A host that appears beyond has its
/// record there for 2T before it can call us, and its call stays for 6T: a
/// whole reading every 6T finds it, and those that follow find its call.
const WHOLE_EVERY: u32 = 3;
/// What an error without a number of its own is told as.
const EIO: i32 = 5;

/// A request of ours in the ring.
#[derive(Debug, Clone, Copy)]
struct Flight {
    token: u64,
    io: IoId,
    kind: Kind,
    since: Monotonic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reading our sector.
    Own,
    /// Writing it.
    Write,
    /// Reading a part of the area.
    Part(usize),
}

/// The reading of the area the core waits for.
#[derive(Debug)]
struct Reading {
    io: IoId,
    extent: Extent,
    /// The part that is read, or waits for a buffer.
    part: usize,
    /// Since when it waits.
    waiting: Option<Monotonic>,
    /// Our own sector, out of its part.
    own: Record,
}

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
    flights: Vec<Flight, { SECTORS + READINGS }>,
    next_token: u32,
    reading: Option<Reading>,
    /// Readings since the last of the whole area; `None`: there was none.
    short_readings: Option<u32>,
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
            short_readings: None,
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

    /// How it ended; `None`: with an expiry standing, and perhaps with users.
    pub(super) fn manner(&self) -> Option<Manner> {
        if self.lease.is_uncertain() {
            Some(Manner::Uncertain)
        } else if self.told.lost.is_none() || self.wanted == Wanted::Abandoned {
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

    pub(super) fn is_held(&self) -> bool {
        self.told.joined
    }

    /// Since when a reading waits for a buffer.
    pub(super) fn waiting(&self) -> Option<(Extent, Monotonic)> {
        let reading = self.reading.as_ref()?;
        Some((reading.extent, reading.waiting?))
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

    /// Takes in the end of a request of ours.
    pub(super) fn complete(
        &mut self,
        edges: &mut Edges,
        token: u64,
        result: Result<(), IoError>,
        buffer: AlignedBuffer,
    ) {
        let Some(at) = self.flights.iter().position(|flight| flight.token == token) else {
            return;
        };
        let flight = self.flights.swap_remove(at);
        if let Kind::Part(part) = flight.kind {
            return self.complete_part(edges, flight, part, result, buffer);
        }
        let outcome = match result {
            Ok(()) if flight.kind == Kind::Write => IoOutcome::Written,
            Ok(()) => IoOutcome::Read(&buffer),
            Err(error) => failure(error),
        };
        self.lease.handle(now(), Input::Io(flight.io, outcome));
        // Each in flight was taken from there.
        self.sectors.push(buffer).ok();
        self.perform(edges);
    }

    fn complete_part(
        &mut self,
        edges: &mut Edges,
        flight: Flight,
        part: usize,
        result: Result<(), IoError>,
        buffer: AlignedBuffer,
    ) {
        let read_at = now();
        let current = self
            .reading
            .as_mut()
            .filter(|reading| reading.io == flight.io);
        let (Some(reading), Some(opened)) = (current, &self.opened) else {
            // The core has given it up: what it says is too old to be told.
            return edges.take_back(buffer, read_at.boottime);
        };
        if let Err(error) = result {
            self.reading = None;
            edges.take_back(buffer, read_at.boottime);
            return self.tell(edges, Input::Io(flight.io, failure(error)));
        }
        let place = self.join.host_id.index() * opened.geometry.sector_bytes();
        if place / Hosts::PART_BYTES == part
            && let Some(own) = buffer[place % Hosts::PART_BYTES..].first_chunk()
        {
            reading.own = *own;
        }
        let parts = match reading.extent {
            Extent::Short => 1,
            Extent::Part => {
                usize::try_from(opened.geometry.align_size()).unwrap_or(0) / Hosts::PART_BYTES
            }
        };
        if reading.extent == Extent::Part {
            let used = hosts::used_bytes(opened.geometry, part, &buffer);
            if part == 0 {
                self.used_bytes = 0;
            }
            self.used_bytes = self.used_bytes.max(used);
        }
        let event = Event::Area {
            geometry: opened.geometry,
            part,
            buffer,
            asked: flight.since,
            read_at,
        };
        // Whoever has just joined knows nothing of others before the first
        // renewal; whoever waits for a host id wants to know why.
        let wanted = self.told.joined || self.join.persistent;
        edges.lend(self.join.id, event, wanted);
        if part + 1 < parts {
            reading.part = part + 1;
            reading.waiting = Some(read_at.boottime);
        } else {
            let own = reading.own;
            self.short_readings = match (reading.extent, self.short_readings) {
                (Extent::Short, Some(count)) => Some(count + 1),
                (Extent::Short, None) | (Extent::Part, _) => Some(0),
            };
            self.reading = None;
            self.tell(edges, Input::Io(flight.io, IoOutcome::Read(&own)));
        }
    }

    /// Reads the next part into a buffer that has become free.
    pub(super) fn read_part(&mut self, edges: &mut Edges, buffer: AlignedBuffer) {
        let Some(reading) = &mut self.reading else {
            return edges.take_back(buffer, now().boottime);
        };
        reading.waiting = None;
        let (io, part) = (reading.io, reading.part);
        let offset = self.join.offset + byte_offset(part * Hosts::PART_BYTES);
        self.submit(
            edges,
            io,
            Kind::Part(part),
            Operation::Read { offset },
            buffer,
        );
    }

    fn submit(
        &mut self,
        edges: &mut Edges,
        io: IoId,
        kind: Kind,
        operation: Operation,
        buffer: AlignedBuffer,
    ) {
        let Some(opened) = &self.opened else { return };
        let token = u64::from(self.join.id.0) << 32 | u64::from(self.next_token);
        self.next_token = self.next_token.wrapping_add(1);
        let flight = Flight {
            token,
            io,
            kind,
            since: now().boottime,
        };
        assert!(
            self.flights.push(flight).is_ok(),
            "every request has a buffer, and there is room for all"
        );
        edges.ring.submit(token, &opened.device, operation, buffer);
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

    /// Reads or writes our own sector; without a buffer it is not started.
    fn own_sector(&mut self, edges: &mut Edges, io: IoId, write: Option<(Monotonic, &Record)>) {
        let (Some(opened), Some(mut buffer)) = (&self.opened, self.sectors.pop()) else {
            return self
                .lease
                .handle(now(), Input::Io(io, IoOutcome::NotStarted));
        };
        let place = self.join.host_id.index() * opened.geometry.sector_bytes();
        let offset = self.join.offset + byte_offset(place);
        let (kind, operation) = match write {
            None => (Kind::Own, Operation::Read { offset }),
            Some((not_after, record)) => {
                // The rest of a 4096-byte sector is zero.
                buffer.fill(0);
                buffer[..delta::RECORD_BYTES].copy_from_slice(record);
                let not_after_ns = Some(not_after.0);
                let operation = Operation::Write {
                    offset,
                    not_after_ns,
                };
                (Kind::Write, operation)
            }
        };
        self.submit(edges, io, kind, operation, buffer);
    }

    /// How much the next reading is to read.
    fn extent(&self) -> Extent {
        let due = !self.told.joined
            || self
                .short_readings
                .is_none_or(|count| count + 1 >= WHOLE_EVERY);
        let sector_bytes = self
            .opened
            .as_ref()
            .map_or(0, |opened| opened.geometry.sector_bytes());
        let own = (self.join.host_id.index() + 1) * sector_bytes;
        if due || self.used_bytes.max(own) > Extent::Short.bytes() {
            Extent::Part
        } else {
            Extent::Short
        }
    }

    /// Begins a reading, which waits for a buffer.
    fn read_area(&mut self, io: IoId) {
        let in_flight = self
            .flights
            .iter()
            .filter(|flight| matches!(flight.kind, Kind::Part(_)))
            .count();
        if in_flight >= READINGS || self.opened.is_none() {
            return self
                .lease
                .handle(now(), Input::Io(io, IoOutcome::NotStarted));
        }
        self.reading = Some(Reading {
            io,
            extent: self.extent(),
            part: 0,
            waiting: Some(now().boottime),
            own: [0; delta::RECORD_BYTES],
        });
    }

    fn register(&mut self, renewal_s: u64, expire_s: u64) {
        let handed = match (&self.watchdog, &self.tasks) {
            (Some(watchdog), Some(tasks)) if !self.opening && !self.registering => {
                let watchdog = Arc::clone(watchdog);
                let task = Task::Register {
                    watchdog,
                    renewal_s,
                    expire_s,
                };
                tasks.try_send(task).is_ok()
            }
            _ => false,
        };
        if handed {
            self.registering = true;
        } else {
            self.lease.handle(now(), Input::WatchdogRegistered(false));
        }
    }

    /// Sends the latest expiry, if it has not been sent.
    fn resend(&mut self, edges: &mut Edges) {
        let (Some((renewal_s, expire_s)), Some(watchdog)) = (self.unsent, &self.watchdog) else {
            return;
        };
        match watchdog.update(renewal_s, expire_s) {
            Ok(()) => self.unsent = None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.unsent = None;
                let error = error.raw_os_error().unwrap_or(EIO);
                edges
                    .journal
                    .tell(&self.join, What::WatchdogUnreachable(error));
                self.lease.handle(now(), Input::WatchdogGone);
            }
        }
    }

    /// The orderly end of a registration; the connection goes with it.
    fn clear_watchdog(&mut self, edges: &mut Edges) {
        self.unsent = None;
        self.uncleared = false;
        if let Some(watchdog) = &self.watchdog
            && let Err(error) = watchdog.clear()
        {
            if error.kind() == std::io::ErrorKind::WouldBlock {
                self.uncleared = true;
                return;
            }
            let error = error.raw_os_error().unwrap_or(EIO);
            edges
                .journal
                .tell(&self.join, What::WatchdogUnreachable(error));
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

    fn tell_held(&mut self, status: &Status) {
        self.back_off_s = BACK_OFF_S.0;
        if !self.told.joined
            && let (Some(opened), Some(claim)) = (&self.opened, self.lease.stamped())
        {
            self.told.joined = true;
            // The owner has seen nothing of the others yet.
            self.short_readings = None;
            self.tasks = None;
            let event = Event::Joined {
                geometry: opened.geometry,
                generation: status.generation.unwrap_or(Generation(0)),
                device: Arc::clone(&opened.device),
                timestamp_s: claim.0,
                submitted: claim.1,
            };
            self.event(event);
        }
        let failing = status.state == State::Failing;
        if failing && !self.told.failing {
            self.event(Event::Failing);
        }
        self.told.failing = failing;
    }

    fn tell_lost(&mut self, status: &Status) {
        let code = status.loss.map_or(Code::ERROR, |loss| loss.code());
        if self.told.lost.is_none() {
            self.told.lost = Some(code);
            self.event(Event::Lost {
                code,
                last_success: status.last_renewal.unwrap_or(self.began),
            });
        }
        match self.wanted {
            Wanted::Kept => {}
            Wanted::Left => self.finish(code, None),
            Wanted::Abandoned => self.finish(Code::OK, None),
        }
    }

    fn tell_released(&mut self) {
        if self.busy {
            let (id, path) = (self.join.host_id, self.join.path.display());
            let reason = format!(
                "{path}: host id {id} is held by another host, which is alive; use another host id, or stop that host"
            );
            self.finish(Code::HOSTID_BUSY, Some(reason.into()));
        } else {
            self.finish(Code::OK, None);
        }
    }

    fn tell_renewals(&mut self) {
        let status = self.lease.status();
        if let Some(renewal) = status.latest_renewal
            && status.renewals != self.told.renewals
        {
            self.event(Event::Renewed(renewal));
        }
        self.told.renewals = status.renewals;
        if let Some(trouble) = status.trouble
            && status.renewal_failures > self.told.failures
        {
            self.event(Event::RenewalFailed {
                code: trouble.code(),
                attempts: status.renewal_failures - self.told.failures,
            });
        }
        self.told.failures = status.renewal_failures;
    }

    /// The last event: the lockspace is forgotten with it. A join that was
    /// given up on request has no reason of its own.
    fn finish(&mut self, code: Code, reason: Option<Arc<str>>) {
        if self.told.over {
            return;
        }
        self.told.over = true;
        self.reading = None;
        let lost = self.told.lost.is_some();
        let event = match reason {
            _ if self.told.joined || lost || self.join.persistent => Event::Left { code },
            Some(reason) => Event::JoinFailed { code, reason },
            None => Event::JoinFailed {
                code: Code::ERROR,
                reason: Arc::from("joining was given up on request"),
            },
        };
        self.event(event);
    }

    fn event(&mut self, event: Event) {
        if self.events.is_full() {
            // Whoever takes no events for so long learns of renewals from the
            // status.
            let mut kept = Deque::<Event, EVENTS_MAX>::new();
            while let Some(event) = self.events.pop_front() {
                let made_up_for = matches!(
                    event,
                    Event::Renewed(_) | Event::RenewalFailed { .. } | Event::Failing
                );
                if !made_up_for {
                    kept.push_back(event).ok();
                }
            }
            self.events = kept;
        }
        assert!(
            self.events.push_back(event).is_ok(),
            "few events of a lockspace must be told, each once"
        );
    }

    fn deliver(&mut self, edges: &mut Edges) {
        while let Some(event) = self.events.pop_front() {
            match edges.outbox.put(Message::Event(self.join.id, event)) {
                Ok(()) => {}
                Err(Message::Event(_, event)) => {
                    // It was just taken from there.
                    self.events.push_front(event).ok();
                    return;
                }
                Err(Message::Gone(_) | Message::Unclaimed(_)) => return,
            }
        }
    }

    fn publish(&mut self) {
        self.published = match self.board.try_write() {
            None => false,
            Some(mut board) => {
                board.lease = self.lease.status();
                board.joining.clone_from(&self.joining);
                if let Some(opened) = &self.opened {
                    board.geometry = Some(opened.geometry);
                    board.request_kib = opened.request_kib;
                }
                true
            }
        };
    }
}

fn failure(error: IoError) -> IoOutcome<'static> {
    match error {
        IoError::Expired => IoOutcome::NotStarted,
        IoError::Os(error) => IoOutcome::Failed(error),
        IoError::Short(_) => IoOutcome::Failed(EIO),
    }
}

/// usize is 64 bits wide on every machine this runs on.
fn byte_offset(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
