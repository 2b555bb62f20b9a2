//! What must be in order before a lease is asked for, and the thread that
//! checks it, one for each lockspace that is being joined: opening a device and
//! talking to a socket may hang, the thread that renews must not.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{fs, io, thread};

use disk_format::{Content, Geometry, HostIdError, LockspaceName, NameField, RecordError, delta};
use lease::code::Code;
use linux::disk::{Access, AlignedBuffer, BlockDevice, IoError, OpenError};

use super::handle::{Command, wake};
use super::{Join, RequestSize, SpaceId};
use crate::watchdog::{Watchdog, WatchdogError};

/// Its deepest call formats an error.
const STACK_BYTES: usize = 64 * 1024;
/// The next task is handed over when the last one is done, or nobody waits.
const TASKS_MAX: usize = 2;
/// Seconds that `nodectl lockspace init` assumes without `--io-timeout`.
const IO_TIMEOUT_DEFAULT_S: u8 = 10;

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
}

impl JoinError {
    /// What a client that asked to join is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Open(_) => Code::ENODEV,
            Self::TooSmall { .. } => Code::EMSGSIZE,
            Self::Read { source, .. } => match source {
                IoError::Os(error) => Code(-error),
                IoError::Short(_) | IoError::Expired => Code::EMSGSIZE,
            },
            Self::NotInitialised { .. } | Self::Foreign { .. } => Code::LEADER_MAGIC,
            Self::OtherLockspace { .. } => Code::LEADER_LOCKSPACE,
            Self::Record { error, .. } => Code(error.code()),
            // What the device answers to requests of that size.
            Self::SectorSize { .. } => Code::EINVAL,
            Self::HostId(_) => Code::ADDLS_INVALID_HOSTID,
            Self::Watchdog(_) => Code::WD_ERROR,
        }
    }
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

/// A device that holds our lockspace, and the watchdog.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) device: Arc<BlockDevice>,
    pub(super) geometry: Geometry,
    pub(super) watchdog: Option<Arc<Watchdog>>,
    /// For our own sector; requests that hang keep theirs.
    pub(super) sectors: Option<[AlignedBuffer; super::space::SECTORS]>,
    /// What the device was told, KiB.
    pub(super) request_kib: Option<u32>,
    /// Why it was not.
    pub(super) request_size_refused: Option<Arc<str>>,
}

/// Opens the device and checks that the lockspace on it is ours, then
/// connects to the watchdog. Writes nothing.
fn open(join: &Join, request_size: RequestSize) -> Result<Opened, JoinError> {
    let device = BlockDevice::open(&join.path, Access::ReadWrite)?;
    let geometry = discover(&device, join)?;
    let watchdog = match &join.watchdog {
        Some(socket) => Some(Arc::new(Watchdog::connect(
            socket,
            join.fire_timeout_s,
            join.io_timeout_s,
        )?)),
        None => None,
    };
    let (request_kib, request_size_refused) =
        match set_request_size(&device, geometry, request_size) {
            Ok(size) => (size, None),
            Err(error) => (None, Some(error.to_string().into())),
        };
    Ok(Opened {
        device: Arc::new(device),
        geometry,
        watchdog,
        sectors: Some(std::array::from_fn(|_| {
            AlignedBuffer::new(geometry.sector_bytes())
        })),
        request_kib,
        request_size_refused,
    })
}

/// Lets a block device read the area in as few requests as it can.
fn set_request_size(
    device: &BlockDevice,
    geometry: Geometry,
    wanted: RequestSize,
) -> io::Result<Option<u32>> {
    /// What the original falls back to, KiB.
    const USUAL_KIB: u32 = 1024;
    let wanted = match wanted {
        RequestSize::Ignore => return Ok(None),
        RequestSize::Align => geometry.align_size() / 1024,
        RequestSize::Kib(size) => size,
    };
    if device.sector_size().is_none() {
        return Ok(None);
    }
    let number = rustix::fs::fstat(device)?.st_rdev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device_dir = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    // A partition's queue is its disk's.
    let queue = [device_dir.join("queue"), device_dir.join("../queue")]
        .into_iter()
        .find(|queue| queue.is_dir())
        .ok_or(io::ErrorKind::NotFound)?;
    let read = |name: &str| -> io::Result<u32> {
        let text = fs::read_to_string(queue.join(name))?;
        text.trim()
            .parse()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    let largest = read("max_hw_sectors_kb")?;
    let size = if wanted > largest {
        USUAL_KIB.min(largest)
    } else {
        wanted
    };
    if read("max_sectors_kb")? != size {
        fs::write(queue.join("max_sectors_kb"), size.to_string())?;
    }
    Ok(Some(size))
}

fn discover(device: &BlockDevice, join: &Join) -> Result<Geometry, JoinError> {
    let (path, offset, name) = (join.path.clone(), join.offset, join.name);
    let io_timeout_s = join.io_timeout_s;
    let too_small = |align_size: u32| {
        let needed = offset.saturating_add(u64::from(align_size));
        (device.size() < needed).then(|| JoinError::TooSmall {
            path: join.path.clone(),
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
    join.host_id.fits(geometry).map_err(JoinError::HostId)?;
    Ok(geometry)
}

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Task {
    /// Open anew; what was open before is closed first.
    Open(Option<Box<Opened>>),
    /// Register with the watchdog.
    Register {
        watchdog: Arc<Watchdog>,
        renewal_s: u64,
        expire_s: u64,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Opened(Result<Box<Opened>, JoinError>),
    Registered(Result<(), WatchdogError>),
}

/// Where a lockspace's opener gets its tasks; it ends when this is dropped.
pub(super) type Tasks = SyncSender<Task>;

/// Starts the thread that opens for one lockspace.
pub(super) fn start(
    join: Arc<Join>,
    request_size: RequestSize,
    commands: SyncSender<Command>,
    woken: Arc<OwnedFd>,
) -> io::Result<Tasks> {
    let (tasks, received) = sync_channel(TASKS_MAX);
    thread::Builder::new()
        .name(format!("join {}", join.id))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            serve(&join, request_size, &received, |id, outcome| {
                // The keeper takes commands for as long as it runs.
                commands.send(Command::Outcome(id, outcome)).ok();
                wake(&woken);
            });
        })?;
    Ok(tasks)
}

fn serve(
    join: &Join,
    request_size: RequestSize,
    tasks: &Receiver<Task>,
    answer: impl Fn(SpaceId, Outcome),
) {
    while let Ok(task) = tasks.recv() {
        let outcome = match task {
            Task::Open(former) => {
                drop(former);
                Outcome::Opened(open(join, request_size).map(Box::new))
            }
            Task::Register {
                watchdog,
                renewal_s,
                expire_s,
            } => {
                let name = format!("sanlock_{}:{}", join.name, join.host_id);
                Outcome::Registered(watchdog.register(
                    &name,
                    join.fire_timeout_s,
                    renewal_s,
                    expire_s,
                ))
            }
        };
        answer(join.id, outcome);
    }
}
