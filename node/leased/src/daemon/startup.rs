//! Becoming a daemon (spec §6.1): the background, run directory, pid file,
//! socket, limits, user.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use disk_format::HostName;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::accounts::Account;
use super::log::Log;
use super::options::Options;
use crate::status_socket::StatusSocket;

/// Set for the process that goes on in the background.
pub(crate) const BACKGROUND: &str = "HOLDFAST_DAEMON_IN_BACKGROUND";
/// Connections the kernel keeps while the loop is busy.
const BACKLOG: i32 = 1024;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon has the pid file.
    #[error("{}: locked by another daemon; stop it or set SANLOCK_RUN_DIR", .0.display())]
    AlreadyRunning(PathBuf),
    /// A file or socket at its start.
    #[error("{}: {error}", .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The node's status socket.
    #[error("status socket {}: {error}; choose another with --socket", .path.display())]
    StatusSocket {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// Something else the kernel refused.
    #[error("{0}: {1}")]
    Kernel(&'static str, io::Error),
}

/// Which process this is.
#[derive(Debug)]
pub(crate) enum Role {
    /// The one that was called; the daemon runs, or failed with this status.
    Caller(ExitCode),
    /// The daemon.
    Daemon,
}

/// Goes on in the background: a second process of the same program with the
/// same arguments, in a session of its own. The caller returns when that one
/// accepts connections, or with its exit status.
pub(crate) fn background(options: &Options) -> Result<Role, DaemonError> {
    let failed = |error| DaemonError::Kernel("going to the background", error);
    if !options.is_quiet() {
        return Ok(Role::Daemon);
    }
    if env::var_os(BACKGROUND).is_some() {
        // A session leader already is what is wanted.
        rustix::process::setsid().ok();
        rustix::process::chdir("/").map_err(|error| failed(error.into()))?;
        return Ok(Role::Daemon);
    }
    let mut words = env::args_os();
    let mut child = Command::new("/proc/self/exe")
        .arg0(words.next().unwrap_or_default())
        .args(words)
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut word = [0; 1];
    let ready = child
        .stdout
        .take()
        .is_some_and(|mut stdout| stdout.read_exact(&mut word).is_ok());
    if ready {
        return Ok(Role::Caller(ExitCode::SUCCESS));
    }
    let status = child.wait().map_err(failed)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Role::Caller(code.map_or(ExitCode::FAILURE, ExitCode::from)))
}

/// Tells whoever waits that connections are accepted.
pub(crate) fn ready(options: &Options, log: &Log) {
    if options.is_quiet() {
        let caller = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            rustix::stdio::dup2_stdout(&null).ok();
            rustix::stdio::dup2_stderr(&null).ok();
        }
        // It may have been killed meanwhile.
        if let Ok(caller) = caller {
            rustix::io::write(&caller, b"1").ok();
        }
    }
    if let Some(name) = env::var_os("NOTIFY_SOCKET")
        && let Err(error) = notify(name.as_bytes())
    {
        log.warn(format_args!("NOTIFY_SOCKET {}: {error}", name.display()));
    }
}

fn notify(name: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = match name.split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

/// Makes the run directory: writable for the group, whose members may put
/// nothing into it that the daemon trusts.
pub(crate) fn run_dir(options: &Options, account: &Account) -> Result<(), DaemonError> {
    let path = &options.run_dir;
    let failed = |error| DaemonError::Path {
        path: path.clone(),
        error,
    };
    fs::create_dir_all(path).map_err(failed)?;
    let gid = if options.privileged { 0 } else { account.gid };
    // A directory made by somebody else stays as they made it.
    if own(path, account.uid, gid).is_ok() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o775)).map_err(failed)?;
    }
    Ok(())
}

/// Gives a path to somebody, unless it is theirs.
fn own(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let there = fs::metadata(path)?;
    if (there.uid(), there.gid()) == (uid, gid) {
        return Ok(());
    }
    chown(path, Some(uid), Some(gid))
}

/// Takes the pid file: the daemon is the process that has it locked, so a
/// file left over by one that was killed is in nobody's way. Keep what is
/// returned; closing any descriptor of the file gives the lock back.
pub(crate) fn pid_file(run_dir: &Path) -> Result<OwnedFd, DaemonError> {
    let path = run_dir.join("sanlock.pid");
    let failed = |error: Errno| DaemonError::Path {
        path: path.clone(),
        error: error.into(),
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)).map_err(failed)?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => return Err(DaemonError::AlreadyRunning(path)),
        Err(error) => return Err(failed(error)),
    }
    rustix::fs::ftruncate(&file, 0).map_err(failed)?;
    let text = format!("{}\n", std::process::id());
    rustix::io::write(&file, text.as_bytes()).map_err(failed)?;
    Ok(file)
}

/// The socket, in the place of one left over. Call with the pid file locked.
pub(crate) fn listen(run_dir: &Path, account: &Account) -> Result<UnixListener, DaemonError> {
    let path = run_dir.join("sanlock.sock");
    let failed = |error| DaemonError::Path {
        path: path.clone(),
        error,
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    own(&path, account.uid, account.gid).map_err(failed)?;
    // Listening again only makes the queue longer.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(error.into()))?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The node's own socket.
pub(crate) fn status_socket(path: &Path) -> Result<StatusSocket, DaemonError> {
    StatusSocket::bind(path).map_err(|error| DaemonError::StatusSocket {
        path: path.to_path_buf(),
        error,
    })
}

/// Raises the limits that locked memory, real-time priority and many clients
/// need; without the privilege they stay as they are.
pub(crate) fn raise_limits(options: &Options) {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if options.privileged {
        for resource in [Resource::Memlock, Resource::Rtprio, Resource::Core] {
            rustix::process::setrlimit(resource, unlimited).ok();
        }
    }
    let files = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, most).ok();
}

/// Becomes the configured user. Only the calling thread changes, so this
/// comes before all others start.
pub(crate) fn drop_privileges(options: &Options, account: &Account) -> Result<(), DaemonError> {
    if !options.privileged || (account.uid, account.gid) == (0, 0) {
        return Ok(());
    }
    let failed = |error: Errno| DaemonError::Kernel("change of user", error.into());
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups).map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed)
}

/// Locks memory as far as the configuration says.
pub(crate) fn lock_memory(level: u8) -> io::Result<()> {
    match level {
        0 => Ok(()),
        1 => Ok(rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT)?),
        _ => linux::realtime::lock_memory(),
    }
}

/// A host name nobody else has: a random UUID and the node's name.
pub(crate) fn random_host_name() -> io::Result<HostName> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let node = rustix::system::uname();
    let node = node.nodename().to_string_lossy();
    let mut name = format!("{}.{node}", uuid.trim());
    name.retain(|letter| letter.is_ascii_graphic());
    name.truncate(disk_format::id::NAME_BYTES);
    HostName::new(&name).map_err(io::Error::other)
}

/// Something no other daemon has, to choose pauses by.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}
