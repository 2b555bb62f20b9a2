//! The handle: what its owner asks for and takes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use disk_format::{HostBitmap, HostExtras};
use lease::code::Code;
use linux::disk::AlignedBuffer;
use linux::ring::Ring;
use rustix::event::{EventfdFlags, eventfd};

use super::journal::Journal;
use super::opening::{self, Outcome};
use super::outbox::{MESSAGES_MAX, Message, Outbox};
use super::pool::Pools;
use super::space::Space;
use super::status::Board;
use super::worker::{Edges, Worker};
use super::{Event, Join, SPACES_MAX, Settings, SpaceId, SpaceStatus};

/// Commands the keeper has not taken yet; further ones wait with the handle.
pub(super) const COMMANDS_MAX: usize = 256;
/// The cores and their effects live on the heap or are small.
const STACK_BYTES: usize = 128 * 1024;
/// Above everything ordinary; below what the kernel runs at 99.
const PRIORITY: u8 = 60;

/// For the keeper thread.
#[derive(Debug)]
pub(super) enum Command {
    Join(Box<Space>),
    Leave(SpaceId),
    Abandon(SpaceId),
    Notify(SpaceId, HostBitmap, HostExtras),
    Outcome(SpaceId, Outcome),
    Recycle(AlignedBuffer),
    Made(AlignedBuffer),
    End,
}

/// Wakes whoever waits for the counter. A full one is readable, too.
pub(super) fn wake(counter: &OwnedFd) {
    rustix::io::write(counter, &1u64.to_ne_bytes()).ok();
}

/// Takes a wake-up off the counter, if there is one.
pub(super) fn calm(counter: &OwnedFd) {
    rustix::io::read(counter, &mut [0u8; 8]).ok();
}

pub(super) fn counter() -> io::Result<Arc<OwnedFd>> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(Arc::new(eventfd(0, flags)?))
}

/// A handle on the keeper thread. No call of it waits for anything.
///
/// Dropping it ends the thread and leaves every lease as it is, as if the
/// process had been killed.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    commands: SyncSender<Command>,
    /// Commands there was no room for, oldest first.
    unsent: VecDeque<Command>,
    woken: Arc<OwnedFd>,
    /// The keeper waits for a buffer.
    wanted: Arc<AtomicBool>,
    messages: Receiver<Message>,
    ready: Arc<OwnedFd>,
    /// What the handle itself has to say.
    own: VecDeque<(SpaceId, Event)>,
    spaces: BTreeMap<SpaceId, (Arc<Join>, Arc<Board>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the kernel refuses a thread, a descriptor or the ring.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let (mut keeper, worker) = Self::assemble(settings)?;
        let thread = thread::Builder::new()
            .name("keeper".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if settings.realtime
                    && let Err(error) = linux::realtime::round_robin(PRIORITY)
                {
                    tracing::warn!(
                        "no real-time priority, a renewal may be late on a busy machine: {error}; run as root or give --no-realtime"
                    );
                }
                worker.run();
            })?;
        keeper.threads.push(thread);
        Ok(keeper)
    }

    /// The handle, and what its thread is to run.
    pub(super) fn assemble(settings: Settings) -> io::Result<(Self, Worker)> {
        let (commands, received) = sync_channel(COMMANDS_MAX);
        let (left, messages) = sync_channel(MESSAGES_MAX);
        let (woken, ready) = (counter()?, counter()?);
        let wanted = Arc::new(AtomicBool::new(false));
        let (journal, journal_thread) = Journal::start()?;
        let edges = Edges {
            ring: Ring::new(settings.backend)?,
            pools: Pools::new(2 * SPACES_MAX, commands.clone(), Arc::clone(&woken))?,
            outbox: Outbox::new(left, Arc::clone(&ready)),
            journal,
        };
        let worker = Worker::new(edges, received, Arc::clone(&woken), Arc::clone(&wanted))?;
        let keeper = Self {
            settings,
            commands,
            unsent: VecDeque::new(),
            woken,
            wanted,
            messages,
            ready,
            own: VecDeque::new(),
            spaces: BTreeMap::new(),
            threads: vec![journal_thread],
        };
        Ok((keeper, worker))
    }

    /// Joins a lockspace. How it ends is told by [`Self::next_event`].
    ///
    /// # Panics
    /// When its number was used before and is not forgotten yet.
    pub fn join(&mut self, join: Join) {
        let id = join.id;
        assert!(
            !self.spaces.contains_key(&id),
            "a lockspace's number is used once"
        );
        if self.spaces.len() >= SPACES_MAX {
            let reason = format!("{SPACES_MAX} lockspaces are joined already; leave one first");
            return self.refuse(id, Code::ENOSPC, &reason);
        }
        let join = Arc::new(join);
        let opener = opening::start(
            Arc::clone(&join),
            self.settings.request_size,
            self.commands.clone(),
            Arc::clone(&self.woken),
        );
        let tasks = match opener {
            Ok(tasks) => tasks,
            Err(error) => {
                let reason = format!(
                    "starting a thread: {error}; this machine is out of memory or of threads"
                );
                return self.refuse(id, Code::ENOMEM, &reason);
            }
        };
        let space = Box::new(Space::new(Arc::clone(&join), tasks));
        self.spaces.insert(id, (join, space.board()));
        self.send(Command::Join(space));
    }

    fn refuse(&mut self, id: SpaceId, code: Code, reason: &str) {
        let reason = reason.into();
        self.own.push_back((id, Event::JoinFailed { code, reason }));
        wake(&self.ready);
    }

    /// Leaves a lockspace in order: takes the expiry back and frees the lease
    /// on disk, unless its last renewal is in doubt. One that is still being
    /// joined ends with [`Event::JoinFailed`], one that is lost at once, with
    /// its expiry left standing.
    pub fn leave(&mut self, id: SpaceId) {
        self.send(Command::Leave(id));
    }

    /// Ends a lost lockspace after everything that used it has ended: takes
    /// the expiry back and writes nothing. One that is not lost is left.
    pub fn abandon(&mut self, id: SpaceId) {
        self.send(Command::Abandon(id));
    }

    /// Whom the following renewals call, and what they tell them.
    pub fn notify(&mut self, id: SpaceId, bitmap: HostBitmap, extras: HostExtras) {
        self.send(Command::Notify(id, bitmap, extras));
    }

    /// Gives the buffer of an [`Event::Area`] back.
    pub fn recycle(&mut self, buffer: AlignedBuffer) {
        self.put(Command::Recycle(buffer));
        if self.wanted.load(Ordering::SeqCst) {
            wake(&self.woken);
        }
    }

    /// Where a lockspace stands; `None` once it is forgotten.
    #[must_use]
    pub fn status(&self, id: SpaceId) -> Option<SpaceStatus> {
        self.spaces.get(&id).map(|(_, board)| board.read())
    }

    /// How a lockspace was joined; `None` once it is forgotten.
    #[must_use]
    pub fn joined(&self, id: SpaceId) -> Option<&Join> {
        self.spaces.get(&id).map(|(join, _)| &**join)
    }

    /// The next event; `None` when there is none now.
    pub fn next_event(&mut self) -> Option<(SpaceId, Event)> {
        self.resend();
        if let Some(event) = self.own.pop_front() {
            return Some(event);
        }
        let mut calmed = false;
        loop {
            match self.messages.try_recv() {
                Ok(Message::Event(id, event)) => {
                    if matches!(event, Event::JoinFailed { .. } | Event::Left { .. }) {
                        self.spaces.remove(&id);
                    }
                    return Some((id, event));
                }
                Ok(Message::Gone(space)) => take_apart(space),
                Ok(Message::Unclaimed(outcome)) => take_apart(outcome),
                // What was left after the last look has woken us again.
                Err(_) if calmed => return None,
                Err(_) => {
                    calm(&self.ready);
                    calmed = true;
                }
            }
        }
    }

    /// Ends the thread, leaving every lease as it is, and waits until its log
    /// is written.
    pub fn end(mut self) {
        // Waits for room, which the keeper makes.
        self.commands.send(Command::End).ok();
        wake(&self.woken);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }

    fn send(&mut self, command: Command) {
        self.put(command);
        wake(&self.woken);
    }

    fn put(&mut self, command: Command) {
        self.unsent.push_back(command);
        self.resend();
    }

    fn resend(&mut self) {
        while let Some(command) = self.unsent.pop_front() {
            match self.commands.try_send(command) {
                Ok(()) => {}
                Err(TrySendError::Full(command)) => {
                    self.unsent.push_front(command);
                    wake(&self.woken);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

/// Drops what may close a device, which may take for ever, on a thread that
/// has nothing else to do.
fn take_apart<T: Send + 'static>(thing: T) {
    let dropper = thread::Builder::new()
        .name("close".to_owned())
        .stack_size(64 * 1024);
    // Without a thread it is dropped here.
    dropper.spawn(move || drop(thing)).ok();
}

impl AsFd for Keeper {
    /// Readable when events wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Should it not fit, the thread ends with the process.
        self.commands.try_send(Command::End).ok();
        wake(&self.woken);
    }
}
