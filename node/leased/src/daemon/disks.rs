//! The files and devices of resources: opened beside the loop, kept open
//! while used and a little longer, and read and written through one ring.
//!
//! Invariants: an operation uses one descriptor from its first request to its
//! end; before an operation begins, the descriptor is compared with what the
//! path names now, so nothing is ever written through one whose file was
//! replaced; every request is answered exactly once; a device that hangs takes
//! at most half of the memory that requests may take.

mod errand;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use lease::Monotonic;
use linux::disk::{AlignedBuffer, BlockDevice, IoError};
use linux::ring::{Backend, Completion, Operation, Ring};
use rustix::io::Errno;

use self::errand::identity_at;
pub(crate) use self::errand::{Errand, Found, Opened};
use crate::keeper::SpaceId;
use crate::resources::{DiskIo, IoToken, OperationId};

/// How long a descriptor nobody uses stays open. Short, because an open
/// descriptor keeps a logical volume from being removed.
const IDLE_S: u64 = 1;
/// Bytes of requests in the kernel's hands at a time.
const BUDGET_BYTES: usize = 16 << 20;
/// Of these, on one device.
const SHARE_BYTES: usize = BUDGET_BYTES / 2;
/// How old an answer to what a path names may be where asking takes a thread
/// and the file is in use all the time.
const COMPARED_S: u64 = 1;
/// Bytes of buffers kept for the next requests.
const SPARE_BYTES: usize = 8 << 20;

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) token: IoToken,
    pub(crate) outcome: DoneAs,
}

/// How.
#[derive(Debug)]
pub(crate) enum DoneAs {
    /// The bytes; give the buffer back with [`Disks::recycle`].
    Read(AlignedBuffer),
    Written,
    /// The kernel's error number, also that of a file that cannot be opened.
    Failed(i32),
    NotStarted,
}

/// What is read or written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Where<'a> {
    /// A file or device.
    Path(&'a [u8]),
    /// The device of a lockspace.
    Space(SpaceId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LaneId {
    File(u64),
    Space(SpaceId),
}

#[derive(Debug)]
struct InFlight {
    token: IoToken,
    lane: LaneId,
    bytes: usize,
    write: bool,
}

/// One descriptor with what waits for it.
#[derive(Debug)]
struct Lane {
    device: Option<Arc<BlockDevice>>,
    waiting: VecDeque<(IoToken, DiskIo)>,
    in_flight: usize,
    in_flight_bytes: usize,
}

impl Lane {
    fn new(device: Option<Arc<BlockDevice>>) -> Self {
        Self {
            device,
            waiting: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
        }
    }
}

/// The descriptor that a path's next operation will use.
#[derive(Debug)]
struct Current {
    lane: u64,
    opened: Option<Opened>,
    /// An errand is under way; operations wait for it.
    away: bool,
    /// When the path was last asked about.
    compared: Monotonic,
    /// The path names something else by now.
    stale: bool,
    /// Operations that use the lane.
    users: usize,
    idle_since: Option<Monotonic>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Disks {
    ring: Ring,
    lanes: BTreeMap<LaneId, Lane>,
    paths: BTreeMap<Arc<[u8]>, Current>,
    /// Which descriptor each operation uses, by path.
    pins: BTreeMap<(OperationId, Arc<[u8]>), u64>,
    /// Lanes with something that could not be begun yet.
    held_back: BTreeSet<LaneId>,
    in_flight: BTreeMap<u64, InFlight>,
    in_flight_bytes: usize,
    next_number: u64,
    errands: VecDeque<Errand>,
    done: VecDeque<Done>,
    spare: Vec<AlignedBuffer>,
    spare_bytes: usize,
    unflushed: bool,
}

impl Disks {
    /// # Errors
    /// The kernel refuses the ring.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            ring: Ring::new(Backend::Auto)?,
            lanes: BTreeMap::new(),
            paths: BTreeMap::new(),
            pins: BTreeMap::new(),
            held_back: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            next_number: 1,
            errands: VecDeque::new(),
            done: VecDeque::new(),
            spare: Vec::new(),
            spare_bytes: 0,
            unflushed: false,
        })
    }

    /// A lockspace's device, opened by whoever renews it.
    pub(crate) fn add_space(&mut self, space: SpaceId, device: Arc<BlockDevice>) {
        self.lanes
            .insert(LaneId::Space(space), Lane::new(Some(device)));
    }

    /// Forgets a lockspace's device, and closes descriptors nobody uses.
    pub(crate) fn remove_space(&mut self, space: SpaceId) {
        self.retire(LaneId::Space(space));
        self.close_idle(None);
    }

    /// Takes a request. Its outcome comes from [`Self::next_done`].
    pub(crate) fn submit(
        &mut self,
        operation: OperationId,
        token: IoToken,
        place: Where<'_>,
        io: DiskIo,
        now: Monotonic,
    ) {
        let lane = match place {
            Where::Space(space) => LaneId::Space(space),
            Where::Path(path) => LaneId::File(self.pin(operation, path, now)),
        };
        let Some(queue) = self.lanes.get_mut(&lane) else {
            self.finish(token, DoneAs::NotStarted);
            return;
        };
        queue.waiting.push_back((token, io));
        self.advance(lane);
    }

    /// The lane an operation uses for a path.
    fn pin(&mut self, operation: OperationId, path: &[u8], now: Monotonic) -> u64 {
        let path = match self.paths.get_key_value(path) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(path),
        };
        let pin = (operation, Arc::clone(&path));
        if let Some(&lane) = self.pins.get(&pin) {
            return lane;
        }
        let lane = self.begin(&path, now);
        self.pins.insert(pin, lane);
        lane
    }

    /// An operation begins: what the path names now is what it gets.
    fn begin(&mut self, path: &Arc<[u8]>, now: Monotonic) -> u64 {
        let Some(current) = self.paths.get_mut(path).filter(|current| !current.stale) else {
            return self.replace(path, now);
        };
        let in_use = current.users > 0;
        let errand = match &current.opened {
            _ if current.away => None,
            Some(opened) if opened.local => {
                if identity_at(path) != Some(opened.identity) {
                    return self.replace(path, now);
                }
                None
            }
            // Asking a server takes as long as the server likes.
            Some(_) if in_use && current.compared.plus_s(COMPARED_S) > now => None,
            Some(opened) => Some(Errand::Compare(Arc::clone(path), opened.identity)),
            None => Some(Errand::Open(Arc::clone(path))),
        };
        if let Some(errand) = errand {
            current.away = true;
            current.compared = now;
            if !in_use && let Some(lane) = self.lanes.get_mut(&LaneId::File(current.lane)) {
                // Nothing begins before the answer.
                lane.device = None;
            }
            self.errands.push_back(errand);
        }
        current.users += 1;
        current.idle_since = None;
        current.lane
    }

    /// A new descriptor for what the path names from now on. Operations under
    /// way keep the old one.
    fn replace(&mut self, path: &Arc<[u8]>, now: Monotonic) -> u64 {
        let lane = self.next_number;
        self.next_number += 1;
        self.lanes.insert(LaneId::File(lane), Lane::new(None));
        let current = Current {
            lane,
            opened: None,
            away: true,
            compared: now,
            stale: false,
            users: 1,
            idle_since: None,
        };
        if let Some(former) = self.paths.insert(Arc::clone(path), current)
            && former.users == 0
        {
            self.retire(LaneId::File(former.lane));
        }
        self.errands.push_back(Errand::Open(Arc::clone(path)));
        lane
    }

    /// An operation has ended: it submits nothing any more.
    pub(crate) fn ended(&mut self, operation: OperationId, now: Monotonic) {
        let first = (operation, Arc::from([].as_slice()));
        while let Some(((owner, path), lane)) = self
            .pins
            .range(first.clone()..)
            .next()
            .map(|(pin, lane)| (pin.clone(), *lane))
        {
            if owner != operation {
                return;
            }
            self.pins.remove(&(owner, Arc::clone(&path)));
            match self.paths.get_mut(&path) {
                Some(current) if current.lane == lane => {
                    current.users -= 1;
                    if current.users == 0 {
                        current.idle_since = Some(now);
                    }
                }
                _ => {
                    // Replaced meanwhile; others may still use it.
                    if !self.pins.values().any(|other| *other == lane) {
                        self.retire(LaneId::File(lane));
                    }
                }
            }
        }
    }

    /// When descriptors that are idle now are to be closed.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.paths
            .values()
            .filter_map(|current| current.idle_since)
            .min()
            .map(|since| since.plus_s(IDLE_S))
    }

    /// Closes what has been idle for long enough.
    pub(crate) fn tick(&mut self, now: Monotonic) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.close_idle(Some(now));
            if self.paths.is_empty() {
                self.spare = Vec::new();
                self.spare_bytes = 0;
            }
        }
    }

    /// Closes idle descriptors: those idle for long at `now`, or all.
    fn close_idle(&mut self, now: Option<Monotonic>) {
        let idle: Vec<(Arc<[u8]>, u64)> = self
            .paths
            .iter()
            .filter(|(_, current)| {
                current
                    .idle_since
                    .is_some_and(|since| now.is_none_or(|now| since.plus_s(IDLE_S) <= now))
            })
            .map(|(path, current)| (Arc::clone(path), current.lane))
            .collect();
        for (path, lane) in idle {
            self.paths.remove(&path);
            self.retire(LaneId::File(lane));
        }
    }

    /// Forgets a descriptor; requests in the kernel's hands keep it open.
    fn retire(&mut self, lane: LaneId) {
        self.held_back.remove(&lane);
        if let Some(gone) = self.lanes.remove(&lane) {
            for (token, _) in gone.waiting {
                self.finish(token, DoneAs::NotStarted);
            }
        }
    }

    /// Something to do elsewhere; its outcome goes to [`Self::found`].
    pub(crate) fn next_errand(&mut self) -> Option<Errand> {
        self.errands.pop_front()
    }

    /// An errand could not even be begun.
    pub(crate) fn refused(&mut self, errand: &Errand) {
        let busy = Err(Errno::BUSY.raw_os_error());
        self.found(Found::Opened(Arc::clone(errand.path()), busy));
    }

    /// Takes the outcome of an errand.
    pub(crate) fn found(&mut self, found: Found) {
        let (Found::Opened(path, _) | Found::Compared(path, _)) = &found;
        let path = Arc::clone(path);
        let Some(current) = self.paths.get_mut(&path) else {
            return;
        };
        current.away = false;
        let lane = LaneId::File(current.lane);
        match found {
            Found::Opened(_, Ok(opened)) => {
                let device = Arc::clone(&opened.device);
                current.opened = Some(opened);
                if let Some(queue) = self.lanes.get_mut(&lane) {
                    queue.device = Some(device);
                }
                self.advance(lane);
            }
            Found::Opened(_, Err(error)) => {
                // Operations under way may ask again, and get the same answer
                // until a new one begins.
                current.opened = None;
                if let Some(queue) = self.lanes.get_mut(&lane) {
                    for (token, _) in std::mem::take(&mut queue.waiting) {
                        self.finish(token, DoneAs::Failed(error));
                    }
                }
            }
            Found::Compared(_, true) => {
                if let (Some(queue), Some(opened)) = (self.lanes.get_mut(&lane), &current.opened) {
                    queue.device = Some(Arc::clone(&opened.device));
                }
                self.advance(lane);
            }
            Found::Compared(_, false) if self.has_device(lane) => {
                // Operations under way keep it; the next one gets another.
                if let Some(current) = self.paths.get_mut(&path) {
                    current.stale = true;
                }
            }
            Found::Compared(_, false) => {
                let Some(current) = self.paths.get_mut(&path) else {
                    return;
                };
                // Nobody has used the old one since it was last idle.
                current.opened = None;
                current.away = true;
                self.errands.push_back(Errand::Open(path));
            }
        }
    }

    fn has_device(&self, lane: LaneId) -> bool {
        self.lanes
            .get(&lane)
            .is_some_and(|lane| lane.device.is_some())
    }

    /// Begins what a lane has waiting, as far as memory allows.
    fn advance(&mut self, lane: LaneId) {
        while let Some(queue) = self.lanes.get_mut(&lane) {
            let Some(device) = queue.device.clone() else {
                // Opened again when the next operation asks.
                if let LaneId::File(_) = lane {
                    self.reopen(lane);
                }
                return;
            };
            let Some((_, io)) = queue.waiting.front() else {
                self.held_back.remove(&lane);
                return;
            };
            let bytes = match io {
                DiskIo::Read { bytes, .. } | DiskIo::Write { bytes, .. } => {
                    usize::try_from(*bytes).unwrap_or(usize::MAX)
                }
            };
            let room = self.in_flight_bytes + bytes <= BUDGET_BYTES
                && queue.in_flight_bytes + bytes <= SHARE_BYTES;
            if !room && queue.in_flight > 0 {
                self.held_back.insert(lane);
                return;
            }
            queue.in_flight += 1;
            queue.in_flight_bytes += bytes;
            let Some((token, io)) = queue.waiting.pop_front() else {
                return;
            };
            self.in_flight_bytes += bytes;
            self.hand_over(lane, token, &device, io, bytes);
        }
    }

    /// A lane without descriptor has something waiting: open its path, unless
    /// that is under way.
    fn reopen(&mut self, lane: LaneId) {
        let LaneId::File(number) = lane else { return };
        let path = self
            .paths
            .iter_mut()
            .find(|(_, current)| current.lane == number && !current.away);
        if let Some((path, current)) = path {
            current.away = true;
            self.errands.push_back(Errand::Open(Arc::clone(path)));
        }
    }

    fn hand_over(
        &mut self,
        lane: LaneId,
        token: IoToken,
        device: &Arc<BlockDevice>,
        io: DiskIo,
        bytes: usize,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        let mut buffer = self.buffer(bytes);
        let (operation, write) = match io {
            DiskIo::Read { offset, .. } => (Operation::Read { offset }, false),
            DiskIo::Write {
                offset,
                content,
                not_after,
                ..
            } => {
                content.fill(&mut buffer);
                let write = Operation::Write {
                    offset,
                    not_after_ns: Some(not_after.0),
                };
                (write, true)
            }
        };
        self.in_flight.insert(
            number,
            InFlight {
                token,
                lane,
                bytes,
                write,
            },
        );
        self.ring.submit(number, device, operation, buffer);
        self.unflushed = true;
    }

    /// Hands over what has been gathered and takes in what has come back.
    pub(crate) fn pump(&mut self) {
        loop {
            if self.unflushed {
                self.unflushed = false;
                if self.ring.flush().is_err() {
                    // The kernel is out of something for now; the next turn
                    // of the loop tries again.
                    self.unflushed = true;
                }
            }
            let mut any = false;
            while let Some(completion) = self.ring.next_completion() {
                any = true;
                self.complete(completion);
            }
            if !any || !self.unflushed {
                return;
            }
        }
    }

    fn complete(&mut self, completion: Completion) {
        let Completion {
            token: number,
            result,
            buffer,
        } = completion;
        let Some(request) = self.in_flight.remove(&number) else {
            return;
        };
        self.in_flight_bytes -= request.bytes;
        if let Some(lane) = self.lanes.get_mut(&request.lane) {
            lane.in_flight -= 1;
            lane.in_flight_bytes -= request.bytes;
        }
        let outcome = match result {
            Ok(()) if request.write => {
                self.recycle(buffer);
                DoneAs::Written
            }
            Ok(()) => DoneAs::Read(buffer),
            Err(error) => {
                self.recycle(buffer);
                match error {
                    IoError::Expired => DoneAs::NotStarted,
                    IoError::Os(number) => DoneAs::Failed(number),
                    IoError::Short(_) => DoneAs::Failed(Errno::MSGSIZE.raw_os_error()),
                }
            }
        };
        self.finish(request.token, outcome);
        self.advance(request.lane);
        let held_back: Vec<LaneId> = self.held_back.iter().copied().collect();
        for lane in held_back {
            self.advance(lane);
        }
    }

    fn finish(&mut self, token: IoToken, outcome: DoneAs) {
        self.done.push_back(Done { token, outcome });
    }

    /// The next request that is over.
    pub(crate) fn next_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// How requests reach the kernel.
    pub(crate) fn kind(&self) -> &'static str {
        if self.ring.is_uring() {
            "io_uring"
        } else {
            "threads"
        }
    }

    /// Requests in the kernel's hands.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the loop must not sleep.
    pub(crate) fn is_busy(&self) -> bool {
        !self.done.is_empty() || !self.errands.is_empty() || self.unflushed
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, buffer: AlignedBuffer) {
        if self.spare_bytes + buffer.len() <= SPARE_BYTES {
            self.spare_bytes += buffer.len();
            self.spare.push(buffer);
        }
    }

    fn buffer(&mut self, bytes: usize) -> AlignedBuffer {
        match self.spare.iter().position(|buffer| buffer.len() == bytes) {
            Some(index) => {
                self.spare_bytes -= bytes;
                self.spare.swap_remove(index)
            }
            None => AlignedBuffer::new(bytes),
        }
    }
}

impl AsFd for Disks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
