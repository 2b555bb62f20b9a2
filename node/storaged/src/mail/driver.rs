//! One core's thread.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError};
use linux::ring::{Backend, Operation, Ring};
use mailbox::{Effect, IoId, IoOutcome, Monotonic, Note, Volume};
use rustix::event::EventfdFlags;

/// What a read or write of a volume that is not open ends in: ENXIO.
const NOT_OPEN: i32 = 6;
/// What one ends in that was asked for outside the volume: EINVAL.
const OUTSIDE: i32 = 22;
/// How long the core may wait for its volumes to be open.
const OPEN_FIRST: Duration = Duration::from_secs(2);
/// Longest wait without a deadline.
const IDLE: Duration = Duration::from_secs(60);
/// Longest pause after the kernel would not take what was to begin.
const NOT_BEGUN: Duration = Duration::from_millis(100);
/// Bytes of the largest read or write a core asks for.
const LENGTH_MAX: usize = 4 << 20;

/// A core as the thread sees it.
pub(super) trait Core: Send + 'static {
    /// What is sent to it besides outcomes.
    type Command: Send + 'static;

    fn tick(&mut self, now: Monotonic);
    fn io(&mut self, now: Monotonic, io: IoId, outcome: IoOutcome<'_>);
    fn command(&mut self, now: Monotonic, command: Self::Command);
    fn next_effect(&mut self) -> Option<Effect>;
    fn next_note(&mut self) -> Option<Note>;
    fn deadline(&self) -> Option<Monotonic>;
}

/// A volume and how it is used.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) path: PathBuf,
    pub(super) access: Access,
}

enum Message<C> {
    Command(C),
    Opened(Volume, Result<BlockDevice, linux::disk::OpenError>),
}

/// Reaches the thread.
pub(super) struct Link<C> {
    sender: Sender<Message<C>>,
    wake: Arc<OwnedFd>,
}

impl<C> Clone for Link<C> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            wake: Arc::clone(&self.wake),
        }
    }
}

impl<C> std::fmt::Debug for Link<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl<C> Link<C> {
    /// Sends a command; false when the thread has ended.
    pub(super) fn send(&self, command: C) -> bool {
        self.put(Message::Command(command))
    }

    fn put(&self, message: Message<C>) -> bool {
        let sent = self.sender.send(message).is_ok();
        // Full means that it is readable, which is all that is wanted.
        let _full: Result<usize, _> = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        sent
    }
}

/// Starts the thread. `on_effect` gets the effects that are not I/O.
pub(super) fn start<C: Core>(
    name: &str,
    core: C,
    inbox: Port,
    outbox: Port,
    on_effect: impl FnMut(Effect, &Link<C::Command>) + Send + 'static,
) -> std::io::Result<(Link<C::Command>, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = channel();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let wake = Arc::new(rustix::event::eventfd(0, flags)?);
    let link = Link { sender, wake };
    let ring = Ring::new(Backend::Auto)?;
    let driver = Driver {
        core,
        ring,
        receiver,
        link: link.clone(),
        inbox: Opened::new(inbox),
        outbox: Opened::new(outbox),
        flights: HashMap::new(),
        next_token: 1,
        on_effect,
        name: name.to_owned(),
    };
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || driver.run())?;
    Ok((link, thread))
}

struct Opened {
    port: Port,
    device: Option<Arc<BlockDevice>>,
    opening: bool,
}

impl Opened {
    fn new(port: Port) -> Self {
        Self {
            port,
            device: None,
            opening: false,
        }
    }
}

struct Flight {
    io: IoId,
    read: bool,
}

struct Driver<C: Core, F> {
    core: C,
    ring: Ring,
    receiver: Receiver<Message<C::Command>>,
    link: Link<C::Command>,
    inbox: Opened,
    outbox: Opened,
    flights: HashMap<u64, Flight>,
    next_token: u64,
    on_effect: F,
    name: String,
}

impl<C: Core, F: FnMut(Effect, &Link<C::Command>)> Driver<C, F> {
    fn run(mut self) {
        let early = self.open_both();
        self.core.tick(now());
        for command in early {
            self.core.command(now(), command);
        }
        loop {
            if self.effects() {
                return;
            }
            if self.take_in() {
                continue;
            }
            self.wait();
            if !self.take_in() {
                self.core.tick(now());
            }
        }
    }

    /// Opens both volumes before the core begins, so that its first reads do not
    /// fail; not longer than [`OPEN_FIRST`]. Returns what was asked meanwhile.
    fn open_both(&mut self) -> Vec<C::Command> {
        self.open(Volume::Inbox);
        self.open(Volume::Outbox);
        let mut early = Vec::new();
        let until = Instant::now() + OPEN_FIRST;
        while self.inbox.opening || self.outbox.opening {
            let left = until.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok(Message::Opened(volume, device)) => self.opened(volume, device),
                Ok(Message::Command(command)) => early.push(command),
                Err(_) => break,
            }
        }
        early
    }

    /// Takes in what came; whether something did.
    fn take_in(&mut self) -> bool {
        let mut any = false;
        while let Some(completion) = self.ring.next_completion() {
            any = true;
            let Some(flight) = self.flights.remove(&completion.token) else {
                continue;
            };
            let outcome = match (completion.result, flight.read) {
                (Ok(()), true) => IoOutcome::Read(&completion.buffer),
                (Ok(()), false) => IoOutcome::Written,
                (Err(IoError::Os(errno)), _) => IoOutcome::Failed(errno),
                (Err(IoError::Short(_) | IoError::Expired), _) => IoOutcome::Failed(OUTSIDE),
            };
            self.core.io(now(), flight.io, outcome);
        }
        // Before the messages are looked at, so that none sent meanwhile is missed.
        if self.ring.take_woken() {
            let count = &mut [0; 8];
            let _empty: Result<usize, _> = rustix::io::read(&*self.link.wake, count);
        }
        loop {
            match self.receiver.try_recv() {
                Ok(Message::Command(command)) => self.core.command(now(), command),
                Ok(Message::Opened(volume, device)) => self.opened(volume, device),
                // Our own link keeps it open.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return any,
            }
            any = true;
        }
    }

    /// Does what the core wants; whether it wants nothing any more.
    fn effects(&mut self) -> bool {
        // A failure at once may bring more.
        loop {
            while let Some(note) = self.core.next_note() {
                tracing::info!(thread = %self.name, ?note, "mailbox");
            }
            let Some(effect) = self.core.next_effect() else {
                return false;
            };
            match effect {
                Effect::Read {
                    io,
                    volume,
                    offset,
                    length,
                } => self.submit(io, volume, offset, length, None),
                Effect::Write {
                    io,
                    volume,
                    offset,
                    bytes,
                } => self.submit(io, volume, offset, bytes.len(), Some(&bytes)),
                Effect::Stopped => {
                    (self.on_effect)(Effect::Stopped, &self.link);
                    return true;
                }
                other @ (Effect::Extend(_) | Effect::Completed { .. }) => {
                    (self.on_effect)(other, &self.link);
                }
            }
        }
    }

    fn submit(
        &mut self,
        io: IoId,
        volume: Volume,
        offset: u64,
        length: usize,
        bytes: Option<&[u8]>,
    ) {
        let opened = self.volume(volume);
        let Some(device) = opened.device.clone() else {
            self.open(volume);
            return self.core.io(now(), io, IoOutcome::Failed(NOT_OPEN));
        };
        if length > LENGTH_MAX {
            return self.core.io(now(), io, IoOutcome::Failed(OUTSIDE));
        }
        let mut buffer = AlignedBuffer::new(length);
        let operation = match bytes {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Operation::Write {
                    offset,
                    not_after_ns: None,
                }
            }
            None => Operation::Read { offset },
        };
        let token = self.next_token;
        self.next_token += 1;
        let read = bytes.is_none();
        self.flights.insert(token, Flight { io, read });
        self.ring.submit(token, &device, operation, buffer);
    }

    fn volume(&mut self, volume: Volume) -> &mut Opened {
        match volume {
            Volume::Inbox => &mut self.inbox,
            Volume::Outbox => &mut self.outbox,
        }
    }

    /// Begins to open a volume, on a thread that may hang.
    fn open(&mut self, volume: Volume) {
        let link = self.link.clone();
        let name = self.name.clone();
        let opened = self.volume(volume);
        let none = opened.port.path.as_os_str().is_empty();
        if none || opened.opening || opened.device.is_some() {
            return;
        }
        let port = opened.port.clone();
        let started = std::thread::Builder::new()
            .name(format!("{name} open"))
            .spawn(move || {
                let device = BlockDevice::open(&port.path, port.access);
                link.put(Message::Opened(volume, device));
            });
        opened.opening = started.is_ok();
    }

    fn opened(&mut self, volume: Volume, device: Result<BlockDevice, linux::disk::OpenError>) {
        let name = self.name.clone();
        let opened = self.volume(volume);
        opened.opening = false;
        match device {
            Ok(device) => opened.device = Some(Arc::new(device)),
            Err(error) => tracing::warn!(thread = %name, %error, "mailbox volume not open"),
        }
    }

    /// Begins what was submitted, and waits for a completion, a message or the
    /// core's deadline.
    fn wait(&mut self) {
        let left = match self.core.deadline() {
            Some(deadline) => {
                let left = deadline.0.saturating_sub(now().0);
                Duration::from_nanos(left).min(IDLE)
            }
            None => IDLE,
        };
        if let Err(error) = self.ring.wait(self.link.wake.as_fd(), left) {
            tracing::warn!(thread = %self.name, %error, "mailbox I/O not begun");
            std::thread::park_timeout(left.min(NOT_BEGUN));
        }
    }
}

fn now() -> Monotonic {
    Monotonic(linux::clock::boottime_ns())
}
