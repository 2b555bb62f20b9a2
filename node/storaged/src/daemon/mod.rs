//! The daemon: sockets, timers, and who works on what. It never touches storage
//! itself, so it never hangs; whatever may hang is a worker's.
//!
//! ```text
//!  clients ─▶ socket ─▶ requests ─┬─▶ workers (processes) ◀─ connections, domains, pool
//!                                 └─▶ tasks
//! ```
//!
//! Everything here runs on one thread; between two awaits nothing changes.

mod breaker;
mod connections;
mod domains;
mod lacking;
mod moving;
mod notify;
mod options;
mod paths;
mod pool;
mod process;
mod requests;
mod socket;
mod state;
mod tasks;
mod watches;
mod workers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::config::Storage;
use linux::process::{Notice, Signals};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::{Async, LocalExecutor};

pub use options::{Options, USAGE};

use self::connections::{BY_CONFIGURATION, Connections};
use self::domains::Known;
use self::paths::Paths;
use self::pool::{Pool, Role, Wanted};
use self::tasks::Tasks;
use self::watches::{Kept, Watched};
use self::workers::{Event, Workers};
use crate::worker::work::Settings;

/// An orderly end may take this long; the supervisor waits a little longer.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// Everything the daemon knows.
pub(crate) struct Daemon {
    executor: Rc<LocalExecutor<'static>>,
    options: Options,
    config: RefCell<Storage>,
    workers: Rc<Workers>,
    connections: Connections,
    paths: Paths,
    domains: RefCell<BTreeMap<String, Known>>,
    wanted: RefCell<Option<Wanted>>,
    pool: RefCell<Option<Pool>>,
    /// Why the pool is not connected.
    pool_reason: RefCell<Option<String>>,
    role: RefCell<Role>,
    tasks: Tasks,
    /// Whether volumes that nobody uses were taken down.
    tidied: Cell<bool>,
    /// Guests, by their QMP sockets.
    watches: RefCell<BTreeMap<String, Watched>>,
    /// Guests of an earlier daemon whose domains are not there yet.
    unwatched: RefCell<Vec<Kept>>,
    /// Counts clients by its references.
    clients: Rc<()>,
    started: Instant,
    /// Ends the pool keeper's rest.
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

impl Daemon {
    /// Something changed that the pool may wait for.
    fn changed(&self) {
        self.wake.try_send(()).ok();
    }

    /// Waits for a change, or this long.
    async fn rest(&self, longest: Duration) {
        smol::future::or(
            async {
                self.woken.recv().await.ok();
                // One change often brings others.
                smol::Timer::after(Duration::from_millis(100)).await;
            },
            async {
                smol::Timer::after(longest).await;
            },
        )
        .await;
    }

    async fn hear(self: Rc<Self>, events: Receiver<Event>) {
        while let Ok(event) = events.recv().await {
            match event {
                Event::WriterLost { key, pid, reason } => {
                    if key == workers::Key::Writer(None) {
                        self.writer_lost(pid, &reason);
                    } else {
                        tracing::warn!("{key}: {reason}");
                    }
                }
                Event::Extended { pid, total } => self.writer_extended(pid, total),
                Event::Recovering => self.follow_recovery(),
            }
        }
    }

    /// Gives back what is held, as far as that can be done in time.
    async fn end(self: &Rc<Self>) {
        self.remember();
        self.tasks.interrupt();
        let orderly = async {
            let here = self.role.borrow().here;
            if here && let Err(failure) = self.stop_spm().await {
                tracing::warn!("giving the manager's role back: {failure}");
            }
            self.workers.stop_all(false);
            while self.workers.len() > 0 {
                smol::Timer::after(Duration::from_millis(50)).await;
            }
        };
        smol::future::or(orderly, async {
            smol::Timer::after(END_DEADLINE).await;
            tracing::warn!("not everything ended in time: killing what is left");
        })
        .await;
        self.workers.stop_all(true);
        // Lets the workers' keepers take that in.
        smol::Timer::after(Duration::from_millis(20)).await;
        drop(std::fs::remove_file(&self.options.socket));
    }
}

/// Runs the daemon until SIGTERM.
///
/// # Errors
/// It cannot listen, or the kernel refuses signals.
pub fn run(options: Options) -> io::Result<()> {
    // Before the first thread starts: threads inherit the mask.
    let signals = Signals::open()?;
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(main(Rc::clone(&executor), options, signals)))
}

async fn main(
    executor: Rc<LocalExecutor<'static>>,
    options: Options,
    signals: Signals,
) -> io::Result<()> {
    prepare(&options);
    let listener = socket::listen(&options.socket).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: {error}", options.socket.display()),
        )
    })?;
    let config = options.config.clone();
    let settings = Settings {
        layout: options.layout.clone(),
        root: options.root.clone(),
        host_name: options.host_name.clone(),
        host_id: config.host_id,
        manager: config.manager,
        thin: config.thin,
        giving_back: config.giving_back,
        io_timeout_s: if config.io_timeout_s == 0 {
            10
        } else {
            config.io_timeout_s
        },
        devices: options.devices.clone(),
    };
    let (tell, events) = unbounded();
    let (wake, woken) = bounded(1);
    let wanted = config.pool.clone().map(|pool| Wanted {
        pool,
        host_id: config.host_id,
        master: None,
    });
    let daemon = Rc::new(Daemon {
        workers: Workers::new(Rc::clone(&executor), settings, tell),
        executor: Rc::clone(&executor),
        config: RefCell::new(config),
        connections: Connections::default(),
        paths: Paths::default(),
        domains: RefCell::default(),
        wanted: RefCell::new(wanted),
        pool: RefCell::default(),
        pool_reason: RefCell::default(),
        role: RefCell::default(),
        tasks: Tasks::default(),
        tidied: Cell::default(),
        watches: RefCell::default(),
        unwatched: RefCell::default(),
        clients: Rc::default(),
        started: Instant::now(),
        wake,
        woken,
        options,
    });
    let connections = daemon.config.borrow().connections.clone();
    for connection in connections {
        if let Err(failure) = daemon.keep(&connection, BY_CONFIGURATION) {
            tracing::warn!("{}: {failure}", connection.id());
        }
    }
    daemon.recall();
    daemon.remember();
    executor
        .spawn(Rc::clone(&daemon).keep_connections())
        .detach();
    executor
        .spawn(socket::accept(Rc::clone(&daemon), listener))
        .detach();
    executor.spawn(Rc::clone(&daemon).hear(events)).detach();
    executor.spawn(Rc::clone(&daemon).keep_paths()).detach();
    executor.spawn(Rc::clone(&daemon).hear_kernel()).detach();
    // The daemon before may have been killed, and its writer with it.
    daemon.take_masters_away();
    executor.spawn(Rc::clone(&daemon).keep_pool()).detach();
    executor.spawn(Rc::clone(&daemon).hear_moves()).detach();
    notify::ready();
    tracing::info!("listening on {}", daemon.options.socket.display());
    let signals = Async::new_nonblocking(signals)?;
    loop {
        signals.readable().await?;
        match signals.get_ref().receive() {
            Ok(Notice::Terminate | Notice::CtrlAltDel) => break,
            // Children are watched one by one.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    tracing::info!("ending");
    daemon.end().await;
    Ok(())
}

/// Writes what multipathd and iscsid read when they start.
fn prepare(options: &Options) {
    let places = crate::worker::dispatch::places(options.root.as_deref());
    let config = &options.config;
    let io_timeout_s = if config.io_timeout_s == 0 {
        10
    } else {
        config.io_timeout_s
    };
    let prepared = crate::connect::prepare(
        &places,
        io_timeout_s,
        config.initiator_name.as_deref(),
        &options.host_name,
    );
    if let Err(failure) = prepared {
        tracing::warn!("multipath and iSCSI configuration: {failure}");
    }
}

/// Milliseconds of a duration.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
