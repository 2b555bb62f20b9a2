//! What must be in order before a lease is asked for, and the thread that
//! checks it: opening a device and talking to a socket may hang, the thread
//! that renews must not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use disk_format::{Content, Geometry, HostIdError, LockspaceName, NameField, RecordError, delta};
use linux::disk::worker::{Signal, Sizes, Worker};
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError, OpenError};

use crate::options::Options;
use crate::watchdog::{Watchdog, WatchdogError};

/// Requests in flight at most: one that hangs, and a fresh one.
pub(crate) const WORKERS: usize = 2;
/// Bytes asked for by one read call.
const CHUNK: usize = 256 * 1024;
const STACK_BYTES: usize = 128 * 1024;
/// Seconds that `nodectl lockspace init` assumes without `--io-timeout`.
const IO_TIMEOUT_DEFAULT_S: u8 = 10;
/// Above everything ordinary; below what the kernel runs at 99.
pub(crate) const PRIORITY: u8 = 60;

/// Why a lockspace cannot be joined now. Each message ends with the next step.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The device cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The area would reach beyond the device.
    #[error("{}: {size} bytes: the area at offset {offset} needs {needed}; enlarge the device, or correct path or offset", .path.display())]
    TooSmall {
        /// Device.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Start of the area.
        offset: u64,
        /// Bytes needed in all.
        needed: u64,
    },
    /// The area's start cannot be read.
    #[error("{}: read at byte {offset}: {source}; look in the kernel log for the device", .path.display())]
    Read {
        /// Device.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What happened, already part of the message.
        source: IoError,
    },
    /// Nothing but zeros.
    #[error("{}: no lockspace at offset {offset}, only zeros; initialise it once, on one node, with: nodectl lockspace init {name} {}", .path.display(), area_arguments(.path, *.offset, *.io_timeout_s))]
    NotInitialised {
        /// Device.
        path: PathBuf,
        /// Start of the area.
        offset: u64,
        /// Name wanted.
        name: LockspaceName,
        /// T, seconds.
        io_timeout_s: u8,
    },
    /// Something that is no lockspace.
    #[error("{}: offset {offset} holds {content}, not a lockspace, and was left alone; correct path or offset, or destroy it with: nodectl lockspace init {name} {} --force {name}", .path.display(), area_arguments(.path, *.offset, *.io_timeout_s))]
    Foreign {
        /// Device.
        path: PathBuf,
        /// Start of the area.
        offset: u64,
        /// What is there.
        content: Box<Content>,
        /// Name wanted.
        name: LockspaceName,
        /// T, seconds.
        io_timeout_s: u8,
    },
    /// Another lockspace.
    #[error("{}: offset {offset} holds lockspace \"{found}\", configured is \"{wanted}\"; correct the name, path or offset", .path.display())]
    OtherLockspace {
        /// Device.
        path: PathBuf,
        /// Start of the area.
        offset: u64,
        /// Name on disk.
        found: Box<NameField>,
        /// Name wanted.
        wanted: LockspaceName,
    },
    /// A lockspace this program cannot read.
    #[error("{}: lockspace at offset {offset}: {error}; it was made by another version or is damaged, and was left alone", .path.display())]
    Record {
        /// Device.
        path: PathBuf,
        /// Start of the area.
        offset: u64,
        /// What is wrong, already part of the message.
        error: Box<RecordError>,
    },
    /// Sectors smaller than the device's.
    #[error("{}: lockspace made for {lockspace}-byte sectors, the device has {device}; move it to a device with {lockspace}-byte sectors, or make a new one", .path.display())]
    SectorSize {
        /// Device.
        path: PathBuf,
        /// The lockspace's.
        lockspace: u32,
        /// The device's.
        device: u32,
    },
    /// The lockspace has no sector for us.
    #[error("{0} in this lockspace; configure another host id, or make the lockspace larger")]
    HostId(HostIdError),
    /// No watchdog.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// No threads.
    #[error("starting a thread: {0}; this machine is out of memory or of threads")]
    Thread(io::Error),
}

/// What `nodectl lockspace init` must be told of the area; left out is what it
/// assumes by itself, so that the usual command is short.
fn area_arguments(path: &Path, offset: u64, io_timeout_s: u8) -> String {
    let mut arguments = format!("--path {}", path.display());
    if offset != 0 {
        arguments.push_str(&format!(" --offset {offset}"));
    }
    if io_timeout_s != IO_TIMEOUT_DEFAULT_S {
        arguments.push_str(&format!(" --io-timeout {io_timeout_s}"));
    }
    arguments
}

/// A device that holds our lockspace, with its workers, and the watchdog.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) geometry: Geometry,
    pub(crate) workers: [Worker; WORKERS],
    pub(crate) watchdog: Option<Arc<Watchdog>>,
}

/// Opens the device and checks that the lockspace on it is ours, then
/// connects to the watchdog. Writes nothing.
fn join(options: &Options, completed: &Arc<Signal>) -> Result<Joined, JoinError> {
    let device = BlockDevice::open(&options.path, Access::ReadWrite)?;
    let geometry = discover(&device, options)?;
    let watchdog = match &options.watchdog_socket {
        Some(socket) => Some(Arc::new(Watchdog::connect(
            socket,
            options.fire_timeout_s,
            options.io_timeout_s,
        )?)),
        None => None,
    };
    let sizes = Sizes {
        chunk: CHUNK,
        gathered: usize::from(geometry.max_hosts()) * delta::RECORD_BYTES,
        block: 4096,
    };
    let device = Arc::new(device);
    let start = |name: &str| {
        let realtime = options.realtime;
        let on_start = move || {
            if realtime {
                // Whether priority can be had was found out, and told, at the start.
                linux::realtime::round_robin(PRIORITY).ok();
            }
        };
        Worker::start(
            name,
            Arc::clone(&device),
            sizes,
            Arc::clone(completed),
            on_start,
        )
        .map_err(JoinError::Thread)
    };
    Ok(Joined {
        geometry,
        workers: [start("disk-1")?, start("disk-2")?],
        watchdog,
    })
}

fn discover(device: &BlockDevice, options: &Options) -> Result<Geometry, JoinError> {
    let (path, offset, name) = (options.path.clone(), options.offset, options.lockspace);
    let io_timeout_s = options.io_timeout_s;
    let too_small = |align_size: u32| {
        let needed = offset.saturating_add(u64::from(align_size));
        (device.size() < needed).then(|| JoinError::TooSmall {
            path: options.path.clone(),
            size: device.size(),
            offset,
            needed,
        })
    };
    // Whatever is there, less than the smallest area cannot hold a lockspace.
    if let Some(error) = too_small(Geometry::Sector512Align1M.align_size()) {
        return Err(error);
    }
    let mut probe = AlignedBuffer::new(delta::PROBE_BYTES);
    if let Err(source) = device.read_at(&mut probe, offset) {
        return Err(JoinError::Read {
            path,
            offset,
            source,
        });
    }
    let geometry = delta::discover(&probe).map_err(|error| match (error, Content::of(&probe)) {
        (RecordError::Magic { .. }, Content::Zeros) => JoinError::NotInitialised {
            path: path.clone(),
            offset,
            name,
            io_timeout_s,
        },
        (RecordError::Magic { .. }, content) => JoinError::Foreign {
            path: path.clone(),
            offset,
            content: Box::new(content),
            name,
            io_timeout_s,
        },
        (error, _) => JoinError::Record {
            path: path.clone(),
            offset,
            error: Box::new(error),
        },
    })?;
    if let Some(leader) = delta::leader(&probe)
        && !leader.space_name.same_name(name.field())
    {
        return Err(JoinError::OtherLockspace {
            path,
            offset,
            found: Box::new(leader.space_name),
            wanted: name,
        });
    }
    if let Some(error) = too_small(geometry.align_size()) {
        return Err(error);
    }
    let lockspace = geometry.sector_size();
    if let Some(own) = device.sector_size().filter(|&own| lockspace < own) {
        return Err(JoinError::SectorSize {
            path,
            lockspace,
            device: own,
        });
    }
    options.host_id.fits(geometry).map_err(JoinError::HostId)?;
    Ok(geometry)
}

/// What the thread is asked to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// [`join`].
    Join,
    /// Register with the watchdog.
    Register {
        watchdog: Arc<Watchdog>,
        renewal_s: u64,
        expire_s: u64,
    },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Joined(Result<Joined, JoinError>),
    Registered(Result<(), WatchdogError>),
}

#[derive(Debug, Default)]
struct Desk {
    task: Option<Task>,
    working: bool,
    outcome: Option<Outcome>,
}

/// A handle on the thread; one task at a time.
#[derive(Debug, Clone)]
pub(crate) struct Helper {
    desk: Arc<(Mutex<Desk>, Condvar)>,
}

impl Helper {
    /// Starts the thread. `completed` is raised after each task, and by the
    /// workers of what was joined.
    pub(crate) fn start(options: Arc<Options>, completed: Arc<Signal>) -> io::Result<Self> {
        let desk = Arc::new((Mutex::new(Desk::default()), Condvar::new()));
        let of_thread = Arc::clone(&desk);
        let body = move || {
            let (desk, handed) = &*of_thread;
            loop {
                let task = {
                    let mut desk = handed
                        .wait_while(lock(desk), |desk| desk.task.is_none())
                        .unwrap_or_else(PoisonError::into_inner);
                    desk.working = true;
                    desk.task.take()
                };
                let outcome = match task {
                    Some(Task::Join) => Outcome::Joined(join(&options, &completed)),
                    Some(Task::Register {
                        watchdog,
                        renewal_s,
                        expire_s,
                    }) => {
                        let name = format!("sanlock_{}:{}", options.lockspace, options.host_id);
                        let fire_timeout_s = options.fire_timeout_s;
                        Outcome::Registered(watchdog.register(
                            &name,
                            fire_timeout_s,
                            renewal_s,
                            expire_s,
                        ))
                    }
                    None => continue,
                };
                let mut desk = lock(desk);
                desk.working = false;
                desk.outcome = Some(outcome);
                completed.raise();
            }
        };
        thread::Builder::new()
            .name("helper".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body)?;
        Ok(Self { desk })
    }

    /// Whether a task may be handed over: none is queued, under way, or done
    /// without its outcome taken.
    pub(crate) fn is_free(&self) -> bool {
        let desk = lock(&self.desk.0);
        desk.task.is_none() && !desk.working && desk.outcome.is_none()
    }

    /// Hands a task over; the caller has made sure that [`Self::is_free`].
    pub(crate) fn hand(&self, task: Task) {
        lock(&self.desk.0).task = Some(task);
        self.desk.1.notify_one();
    }

    /// What came of the task, once.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        lock(&self.desk.0).outcome.take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
