//! The loop of one guest: socket, timers, work of others, commands; all of it
//! goes into [`Core`] and what that wants is done.

mod core;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use control::storage::VolumeName;
use control::storage::report::WatchReport;
use smol::LocalExecutor;
use smol::channel::{self, Receiver, Sender};
use smol::future::{self, FutureExt};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::UnixStream;
use thin::Monotonic;

use self::core::{Core, Done};
use super::{Extender, Refresher, Watch};

/// Commands that may wait; senders are told when there are more.
const COMMANDS_MAX: usize = 64;
/// After a connection was lost or refused.
const RECONNECT_MS: u64 = 500;
/// No greeting after this: another client has the socket.
const READY_MS: u64 = 10_000;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Read from the socket at one time.
const READ_BYTES: usize = 64 * 1024;

/// What a monitor is told by whoever runs the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The disk behind this node was given another capacity.
    Resized {
        /// Any of the drive's names.
        node: String,
    },
    /// The drive is being copied to this thin volume; `None`: no longer.
    Replicating {
        /// Any of the drive's names.
        node: String,
        /// The copy.
        replica: Option<VolumeName>,
    },
    /// The guest is leaving for another host, or has stayed.
    Migrating(bool),
    /// The guest shall not be continued for now, or may again.
    Hold(bool),
}

/// The hold on a running monitor. When the last one is dropped, it ends.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: Sender<Command>,
    report: Rc<RefCell<WatchReport>>,
}

impl Handle {
    /// Tells the monitor something. False if it has ended, or does not keep up.
    pub fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// How it stands.
    #[must_use]
    pub fn report(&self) -> WatchReport {
        self.report.borrow().clone()
    }
}

/// Watches one guest until its [`Handle`]s are gone.
#[derive(Debug)]
pub struct Monitor {
    core: Core,
    socket: std::path::PathBuf,
    commands: Receiver<Command>,
    done: Receiver<Done>,
    executor: Rc<LocalExecutor<'static>>,
}

/// What woke the loop.
enum Woken {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Command(Option<Command>),
    Done(Done),
    Time,
}

impl Monitor {
    /// A monitor; nothing happens before [`Monitor::run`].
    #[must_use]
    pub fn new(
        watch: Watch,
        extender: Rc<dyn Extender>,
        refresher: Rc<dyn Refresher>,
    ) -> (Self, Handle) {
        let (sender, commands) = channel::bounded(COMMANDS_MAX);
        // Never more in it than the requests under way, of which each drive has few.
        let (tell, done) = channel::unbounded();
        let report = Rc::new(RefCell::new(WatchReport::default()));
        let executor = Rc::new(LocalExecutor::new());
        let socket = watch.socket.clone();
        let core = Core::new(
            watch,
            extender,
            refresher,
            tell,
            Rc::clone(&executor),
            Rc::clone(&report),
        );
        let monitor = Self {
            core,
            socket,
            commands,
            done,
            executor,
        };
        let handle = Handle {
            commands: sender,
            report,
        };
        (monitor, handle)
    }

    /// Watches. Connects again whenever the connection is lost; ends when all
    /// handles are gone.
    pub async fn run(self) {
        let executor = Rc::clone(&self.executor);
        executor.run(self.watch()).await;
    }

    async fn watch(mut self) {
        let mut stream: Option<UnixStream> = None;
        let mut connect_at = Some(now());
        let mut ready_by = None;
        let mut bytes = vec![0; READ_BYTES];
        loop {
            self.core.drain(now());
            if connect_at.is_some_and(|at| at <= now()) {
                connect_at = None;
                match connect(&self.socket).await {
                    Ok(connected) => {
                        stream = Some(connected);
                        self.core.connected();
                        ready_by = Some(now().plus_ms(READY_MS));
                    }
                    Err(error) => {
                        connect_at = Some(now().plus_ms(RECONNECT_MS));
                        self.core.disconnected(&format!("not connected: {error}"));
                    }
                }
                continue;
            }
            if self.core.is_ready() {
                ready_by = None;
            }
            let deadline = [self.core.deadline(), connect_at, ready_by]
                .into_iter()
                .flatten()
                .min();
            let woken = wait(
                &mut stream,
                self.core.transmit(),
                &mut bytes,
                &self.commands,
                &self.done,
                deadline,
            )
            .await;
            let now = now();
            let broken = match woken {
                Woken::Command(None) => return,
                Woken::Command(Some(command)) => {
                    self.core.command(now, command);
                    None
                }
                Woken::Done(done) => {
                    self.core.done(now, done);
                    None
                }
                Woken::Written(Ok(count)) => {
                    self.core.transmitted(count);
                    None
                }
                Woken::Read(Ok(0)) => Some("QEMU closed the connection".to_owned()),
                Woken::Read(Ok(count)) => bytes
                    .get(..count)
                    .and_then(|bytes| self.core.received(now, bytes).err()),
                Woken::Read(Err(error)) | Woken::Written(Err(error)) => Some(error.to_string()),
                Woken::Time => {
                    self.core.tick(now);
                    ready_by
                        .is_some_and(|at| at <= now)
                        .then(|| "no greeting: another client has the socket".to_owned())
                }
            };
            if let Some(reason) = broken {
                stream = None;
                ready_by = None;
                connect_at = Some(now.plus_ms(RECONNECT_MS));
                self.core.disconnected(&reason);
            }
        }
    }
}

/// Waits for the first of everything that may happen. Nothing is lost of what
/// was not the first: a read or write that was not ready has done nothing.
async fn wait(
    stream: &mut Option<UnixStream>,
    outbox: &[u8],
    bytes: &mut [u8],
    commands: &Receiver<Command>,
    done: &Receiver<Done>,
    deadline: Option<Monotonic>,
) -> Woken {
    let mut writer = stream.clone().filter(|_| !outbox.is_empty());
    let read = async {
        match stream {
            Some(stream) => Woken::Read(stream.read(bytes).await),
            None => future::pending().await,
        }
    };
    let write = async {
        match &mut writer {
            Some(writer) => Woken::Written(writer.write(outbox).await),
            None => future::pending().await,
        }
    };
    let command = async { Woken::Command(commands.recv().await.ok()) };
    let landed = async {
        match done.recv().await {
            Ok(done) => Woken::Done(done),
            Err(_closed) => future::pending().await,
        }
    };
    let time = async {
        match deadline {
            Some(deadline) => {
                let wait_ns = deadline.0.saturating_sub(now().0);
                smol::Timer::after(Duration::from_nanos(wait_ns)).await;
                Woken::Time
            }
            None => future::pending().await,
        }
    };
    read.or(write).or(command).or(landed).or(time).await
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket)
        .or(async {
            smol::Timer::after(CONNECT_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        })
        .await
}

fn now() -> Monotonic {
    Monotonic(linux::clock::monotonic_ns())
}
