//! The keeper thread: finds out what happened, hands it to the lockspaces,
//! and waits.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use lease::Monotonic;
use linux::disk::AlignedBuffer;
use linux::ring::Ring;
use rustix::event::{PollFd, PollFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::handle::{COMMANDS_MAX, Command, calm};
use super::journal::Journal;
use super::opening::Outcome;
use super::outbox::{Message, Outbox};
use super::pool::{Extent, Pools};
use super::space::{Manner, Space};
use super::{Event, Join, SPACES_MAX, SpaceId, now};

/// Shortest wait, ms: at real-time priority a loop that found nothing to do
/// would leave the machine to nobody else.
const WAIT_MIN_MS: u64 = 1;
/// When the kernel takes no requests, it is asked again after this, ms.
const FLUSH_RETRY_MS: u64 = 20;
/// Ends that are remembered; the oldest is forgotten. Who joins again without
/// being remembered waits like for another host.
const ENDED_MAX: usize = 256;

/// Everything outside the thread that lockspaces deal with.
#[derive(Debug)]
pub(super) struct Edges {
    pub(super) ring: Ring,
    pub(super) pools: Pools,
    pub(super) outbox: Outbox,
    pub(super) journal: Journal,
}

impl Edges {
    /// Hands a reading over, if it is wanted and the owner takes it; otherwise
    /// its buffer is used again.
    pub(super) fn lend(&mut self, id: SpaceId, area: Event, wanted: bool) {
        let Event::Area { buffer, .. } = &area else {
            return;
        };
        let pool = self.pools.home(buffer);
        let unsent = if wanted && pool.may_lend() {
            match self.outbox.put(Message::Event(id, area)) {
                Ok(()) => return pool.lend(),
                Err(Message::Event(_, area)) => area,
                Err(Message::Gone(_) | Message::Unclaimed(_)) => return,
            }
        } else {
            area
        };
        if let Event::Area { buffer, .. } = unsent {
            pool.put(buffer, now().boottime);
        }
    }

    /// Takes a buffer back that was not handed over.
    pub(super) fn take_back(&mut self, buffer: AlignedBuffer, now: Monotonic) {
        self.pools.home(&buffer).put(buffer, now);
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    edges: Edges,
    commands: Receiver<Command>,
    woken: Arc<OwnedFd>,
    wanted: Arc<AtomicBool>,
    timer: OwnedFd,
    armed: Option<Monotonic>,
    /// Ascending by number.
    spaces: Vec<Box<Space>>,
    /// When each of them is due; the end of time: only when something happens.
    dues: Vec<Monotonic>,
    /// How many of them wait for a buffer.
    waiting: usize,
    /// How lockspaces ended that may be joined again.
    ended: Vec<(Arc<Join>, Manner)>,
}

const NEVER: Monotonic = Monotonic(u64::MAX);

impl Worker {
    pub(super) fn new(
        edges: Edges,
        commands: Receiver<Command>,
        woken: Arc<OwnedFd>,
        wanted: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        Ok(Self {
            edges,
            commands,
            woken,
            wanted,
            timer,
            armed: None,
            spaces: Vec::with_capacity(SPACES_MAX),
            dues: Vec::with_capacity(SPACES_MAX),
            waiting: 0,
            ended: Vec::with_capacity(ENDED_MAX),
        })
    }

    /// Runs until told to end.
    pub(super) fn run(mut self) {
        while self.turn() {
            self.wait();
        }
    }

    /// Takes in what happened and does what follows from it; `false`: the end.
    pub(super) fn turn(&mut self) -> bool {
        let mut flush_failed = false;
        loop {
            if !self.take_commands() {
                return false;
            }
            self.tick();
            self.grant();
            flush_failed |= self.edges.ring.flush().is_err();
            let completed = self.take_completions();
            let short = self.waiting > 0;
            // A buffer given back before the owner could know that it is
            // waited for is among the commands.
            if self.wanted.swap(short, Ordering::SeqCst) == short && !completed {
                break;
            }
        }
        self.edges.outbox.deliver();
        self.arm(flush_failed);
        true
    }

    fn take_commands(&mut self) -> bool {
        let mut taken = 0;
        while let Ok(command) = self.commands.try_recv() {
            taken += 1;
            match command {
                Command::End => return false,
                Command::Join(space) => self.add(space),
                Command::Leave(id) => self.with(id, |space, edges| space.leave(edges)),
                Command::Abandon(id) => self.with(id, |space, edges| space.abandon(edges)),
                Command::Notify(id, bitmap, extras) => {
                    self.with(id, |space, _| space.notify(bitmap, extras));
                }
                Command::Outcome(id, outcome) => self.take_outcome(id, outcome),
                Command::Recycle(buffer) => {
                    let pool = self.edges.pools.home(&buffer);
                    pool.given_back(buffer, now().boottime);
                }
                Command::Made(buffer) => self.edges.pools.home(&buffer).made(buffer),
            }
            if taken == COMMANDS_MAX {
                // The owner may have more, for which there was no room.
                self.edges.outbox.nudge();
            }
        }
        true
    }

    fn add(&mut self, mut space: Box<Space>) {
        let join = Arc::clone(space.join());
        let former = self.ended.iter().find(|(other, _)| same_area(other, &join));
        if let Some((_, manner)) = former {
            space.follow(*manner);
        }
        let at = self.spaces.partition_point(|other| other.id() < space.id());
        // Only now: its outcome must find the lockspace here.
        space.begin();
        self.spaces.insert(at, space);
        self.dues.insert(at, now().boottime);
    }

    fn take_outcome(&mut self, id: SpaceId, outcome: Outcome) {
        let mut unclaimed = None;
        match self.position(id) {
            Some(at) => self.with_at(at, |space, edges| {
                unclaimed = space.take_outcome(edges, outcome);
            }),
            None => unclaimed = Some(outcome),
        }
        if let Some(outcome) = unclaimed {
            // Without room it is dropped here, which may wait for a device
            // that has just been opened.
            self.edges.outbox.put(Message::Unclaimed(outcome)).ok();
        }
    }

    fn position(&self, id: SpaceId) -> Option<usize> {
        self.spaces
            .binary_search_by_key(&id, |space| space.id())
            .ok()
    }

    fn with(&mut self, id: SpaceId, act: impl FnOnce(&mut Space, &mut Edges)) {
        if let Some(at) = self.position(id) {
            self.with_at(at, act);
        }
    }

    /// Does something to a lockspace, and what follows from it.
    fn with_at(&mut self, at: usize, act: impl FnOnce(&mut Space, &mut Edges)) {
        let haunted = self.is_haunted(at);
        let Some(space) = self.spaces.get_mut(at) else {
            return;
        };
        let waited = usize::from(space.waiting().is_some());
        act(space, &mut self.edges);
        space.settle(&mut self.edges, haunted);
        self.waiting = self.waiting + usize::from(space.waiting().is_some()) - waited;
        self.dues[at] = space.due().unwrap_or(NEVER);
        if space.is_gone() {
            self.remove(at);
        }
    }

    /// Whether a lockspace that ended may still write where this one would.
    fn is_haunted(&self, at: usize) -> bool {
        let Some(space) = self.spaces.get(at).filter(|space| !space.is_held()) else {
            return false;
        };
        self.spaces
            .iter()
            .any(|other| other.is_haunting() && same_area(other.join(), space.join()))
    }

    fn remove(&mut self, at: usize) {
        self.dues.remove(at);
        let space = self.spaces.remove(at);
        let join = Arc::clone(space.join());
        // One that never held anything says nothing of what was there before:
        // perhaps clients of a daemon that was killed.
        let manner = space.manner();
        if space.is_held() || manner.is_some() {
            self.ended.retain(|(other, _)| !same_area(other, &join));
        }
        if let Some(manner) = manner {
            if self.ended.len() == ENDED_MAX {
                self.ended.remove(0);
            }
            self.ended.push((Arc::clone(&join), manner));
        }
        // Without room it is dropped here, which may wait for its device.
        self.edges.outbox.put(Message::Gone(space)).ok();
        // Whoever comes in its place need not wait for it any longer.
        let now = now().boottime;
        for (due, other) in self.dues.iter_mut().zip(&self.spaces) {
            if same_area(other.join(), &join) {
                *due = now;
            }
        }
    }

    fn tick(&mut self) {
        let now = now().boottime;
        let mut at = 0;
        while let Some(&due) = self.dues.get(at) {
            let before = self.spaces.len();
            if due <= now {
                self.with_at(at, |space, edges| space.tick(edges));
            }
            if self.spaces.len() == before {
                at += 1;
            }
        }
    }

    /// Gives buffers to the readings that have waited longest.
    fn grant(&mut self) {
        for extent in Extent::ALL {
            while let Some((at, _)) = self.longest_waiting(extent) {
                let Some(buffer) = self.edges.pools.of(extent).take() else {
                    break;
                };
                self.with_at(at, |space, edges| space.read_part(edges, buffer));
            }
        }
    }

    fn longest_waiting(&self, wanted: Extent) -> Option<(usize, Monotonic)> {
        if self.waiting == 0 {
            return None;
        }
        self.spaces
            .iter()
            .enumerate()
            .filter_map(|(at, space)| Some((at, space.waiting()?)))
            .filter(|(_, (extent, _))| *extent == wanted)
            .map(|(at, (_, since))| (at, since))
            .min_by_key(|&(_, since)| since)
    }

    fn take_completions(&mut self) -> bool {
        let mut any = false;
        while let Some(done) = self.edges.ring.next_completion() {
            any = true;
            let id = u32::try_from(done.token >> 32).map_or(SpaceId(u32::MAX), SpaceId);
            self.with(id, |space, edges| {
                space.complete(edges, done.token, done.result, done.buffer);
            });
        }
        any
    }

    /// Sets the timer to the next moment at which something is due.
    fn arm(&mut self, flush_failed: bool) {
        let now = now().boottime;
        let mut due = self.dues.iter().copied().min().unwrap_or(NEVER);
        for extent in Extent::ALL {
            if let Some((_, since)) = self.longest_waiting(extent) {
                let pool = self.edges.pools.of(extent);
                pool.order(now, since, 2 * self.spaces.len());
                due = due.min(pool.order_at(since).unwrap_or(NEVER));
            }
        }
        if flush_failed {
            due = due.min(now.plus_ms(FLUSH_RETRY_MS));
        }
        let due = due.max(now.plus_ms(WAIT_MIN_MS));
        if self.armed == Some(due) {
            return;
        }
        let setting = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(due.0 / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(due.0 % 1_000_000_000).unwrap_or(0),
            },
        };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting);
        assert!(set.is_ok(), "the kernel sets a timer of ours: {set:?}");
        self.armed = Some(due);
    }

    /// Waits for a command, a completion or the timer.
    pub(super) fn wait(&mut self) {
        let mut fds = [
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::new(&self.edges.ring, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        // Interrupted or not, the next turn looks at everything.
        rustix::event::poll(&mut fds, None).ok();
        let [woken, _, timer] = fds.map(|fd| !fd.revents().is_empty());
        if woken {
            calm(&self.woken);
        }
        if timer {
            calm(&self.timer);
            self.armed = None;
        }
    }
}

/// Whether both are about the same sector.
fn same_area(one: &Join, other: &Join) -> bool {
    (one.offset, one.host_id) == (other.offset, other.host_id) && one.path == other.path
}
