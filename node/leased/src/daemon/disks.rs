//! The files and devices of resources: opened beside the loop, kept open
//! while used and a little longer, and read and written through one ring.
//!
//! Invariants: an operation uses one descriptor from its first request to its
//! end; before an operation begins, the descriptor is compared with what the
//! path names now, so nothing is ever written through one whose file was
//! replaced; every request is answered exactly once; a device that hangs takes
//! at most half of the memory that requests may take.

mod errand;
mod files;
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

pub(crate) use self::errand::{Errand, Found};
use self::files::Current;
use crate::keeper::SpaceId;
use crate::resources::{DiskIo, IoToken, OperationId};

/// Bytes of requests in the kernel's hands at a time.
const BUDGET_BYTES: usize = 16 << 20;
/// Of these, on one device.
const SHARE_BYTES: usize = BUDGET_BYTES / 2;
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
    /// Waits for its turn among the files in memory.
    in_turn: bool,
}

impl Lane {
    fn new(device: Option<Arc<BlockDevice>>) -> Self {
        Self {
            device,
            waiting: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            in_turn: false,
        }
    }
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
    /// Files in memory with something waiting.
    turns: VecDeque<LaneId>,
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
            turns: VecDeque::new(),
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

    /// Begins what a lane has waiting, as far as memory allows. A file in
    /// memory waits for its turn: what it is asked is done at once, so there
    /// is nothing to overlap, and one buffer that stays in the cache serves all.
    fn advance(&mut self, lane: LaneId) {
        while let Some(queue) = self.lanes.get_mut(&lane) {
            let Some(device) = &queue.device else {
                // Opened again when the next operation asks.
                self.reopen(lane);
                return;
            };
            let Some((_, io)) = queue.waiting.front() else {
                self.held_back.remove(&lane);
                return;
            };
            if device.is_in_memory() {
                if !queue.in_turn {
                    queue.in_turn = true;
                    self.turns.push_back(lane);
                }
                return;
            }
            let bytes = bytes_of(io);
            let room = self.in_flight_bytes + bytes <= BUDGET_BYTES
                && queue.in_flight_bytes + bytes <= SHARE_BYTES;
            if !room && queue.in_flight > 0 {
                self.held_back.insert(lane);
                return;
            }
            self.begin_one(lane);
        }
    }

    /// Begins one request of a file in memory; `false`: none waits.
    fn take_turn(&mut self) -> bool {
        let Some(lane) = self.turns.pop_front() else {
            return false;
        };
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.in_turn = false;
            self.begin_one(lane);
            // The others behind it.
            self.advance(lane);
            self.pump();
        }
        true
    }

    /// Hands a lane's next request over.
    fn begin_one(&mut self, lane: LaneId) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        let Some(device) = queue.device.clone() else {
            return;
        };
        let Some((token, io)) = queue.waiting.pop_front() else {
            return;
        };
        let bytes = bytes_of(&io);
        queue.in_flight += 1;
        queue.in_flight_bytes += bytes;
        self.in_flight_bytes += bytes;
        self.hand_over(lane, token, &device, io, bytes);
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

    /// The next request that is over. Give the buffer of the one before back
    /// first.
    pub(crate) fn next_done(&mut self) -> Option<Done> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Some(done);
            }
            if !self.take_turn() {
                return None;
            }
        }
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
        !self.done.is_empty()
            || !self.turns.is_empty()
            || !self.errands.is_empty()
            || self.unflushed
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

fn bytes_of(io: &DiskIo) -> usize {
    match io {
        DiskIo::Read { bytes, .. } | DiskIo::Write { bytes, .. } => {
            usize::try_from(*bytes).unwrap_or(usize::MAX)
        }
    }
}

impl AsFd for Disks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
