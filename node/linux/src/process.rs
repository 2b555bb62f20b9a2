//! Starting, signalling and reaping processes.
//!
//! Reaping has one owner, the caller of [`peek_exited`] and [`reap`]: nothing
//! here waits for a child by itself once it runs.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::identity::Owner;

/// What to start and how.
#[derive(Debug, Clone, Default)]
pub struct Spawn {
    /// Path of the program.
    pub program: PathBuf,
    /// Name it sees as its own (`argv[0]`); the path when absent.
    pub name: Option<OsString>,
    /// Arguments after the name.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Control group to start in (its directory).
    pub cgroup: Option<PathBuf>,
    /// −1000 (never) to 1000 (first) when memory runs out.
    pub oom_score_adj: i16,
    /// Terminal to be its controlling one and its standard input, output and
    /// error. Without one, input is `/dev/null` and output a pipe.
    pub terminal: Option<PathBuf>,
}

/// A started process.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// Reading end of its standard output and error, non-blocking; absent on a terminal.
    pub output: Option<OwnedFd>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Starts a process in a session of its own with an empty signal mask.
/// Failures between fork and exec come back as the error.
///
/// # Errors
/// The program, the terminal or the control group is missing; no more processes.
pub fn spawn(what: &Spawn) -> io::Result<Spawned> {
    let mut command = Command::new(&what.program);
    if let Some(name) = &what.name {
        command.arg0(name);
    }
    command
        .args(&what.arguments)
        .env_clear()
        .envs(what.environment.iter().cloned())
        .current_dir("/");
    let mut output = None;
    if let Some(path) = &what.terminal {
        // Without O_NONBLOCK a serial line without carrier would hold PID 1 here;
        // without O_NOCTTY it would become PID 1's own controlling terminal.
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        let status = rustix::fs::fcntl_getfl(&terminal)?;
        rustix::fs::fcntl_setfl(&terminal, status - OFlags::NONBLOCK)?;
        command
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal);
    } else {
        let (reader, writer) = io::pipe()?;
        let reader = OwnedFd::from(reader);
        let status = rustix::fs::fcntl_getfl(&reader)?;
        rustix::fs::fcntl_setfl(&reader, status | OFlags::NONBLOCK)?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        output = Some(reader);
    }
    let cgroup = what
        .cgroup
        .as_ref()
        .map(|path| CString::new(path.join("cgroup.procs").as_os_str().as_bytes()))
        .transpose()?;
    let oom_score_adj = what.oom_score_adj.to_string();
    let has_terminal = what.terminal.is_some();
    let before_exec = move || {
        // The caller's own blocked signals must not become the child's: it would
        // never hear SIGTERM.
        unblock_signals()?;
        if let Some(path) = &cgroup {
            write_existing(path, b"0")?;
        }
        write_existing(c"/proc/self/oom_score_adj", oom_score_adj.as_bytes())?;
        rustix::process::setsid()?;
        if has_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only opens, writes, closes and issues
    // system calls on memory made before the fork; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) };
    let child = command.spawn()?;
    Ok(Spawned {
        pid: child.id(),
        output,
    })
}

/// Makes a command start with no signal blocked, whatever the caller has
/// blocked: it would never hear SIGTERM otherwise.
pub fn with_signals(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure only issues system calls on memory of its
    // own stack; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(unblock_signals) }
}

/// Makes a command start as the leader of a process group of its own, with no
/// signal blocked, killed by the kernel when the *thread* that started it ends,
/// and with the `inherited` descriptors open under the numbers they have here.
///
/// The thread has to stay until the child is reaped. A set-user-id program loses
/// the tie, and so does whatever the child itself starts.
pub fn tied<'a>(command: &'a mut Command, inherited: &[BorrowedFd<'_>]) -> &'a mut Command {
    let parent = rustix::process::getpid();
    let inherited: Vec<_> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    command.process_group(0);
    let before_exec = move || {
        unblock_signals()?;
        // Before the tie: changing who it is, as exec would, undoes that.
        crate::identity::be_self();
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above took effect.
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        for &number in &inherited {
            // SAFETY: F_SETFD takes a number and no pointer; in this forked process
            // nothing but exec follows.
            if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only issues system calls on memory made
    // before the fork; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) }
}

/// Makes a command run as `owner`, in no other group, with no right of root's but
/// to pass the file permissions of this host. Before [`tied`], which it would undo.
/// Without effect unless the caller is root.
pub fn owned_by(command: &mut Command, owner: Owner) -> &mut Command {
    let before_exec = move || crate::identity::become_owner(owner);
    // SAFETY: between fork and exec the closure only issues system calls on memory of its
    // own stack; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) }
}

/// Empties the calling thread's signal mask.
fn unblock_signals() -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `set` was just filled; a null old-set pointer asks for nothing back.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn write_existing(path: &std::ffi::CStr, data: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, data)?;
    Ok(())
}

/// Process id of a child that has ended and waits to be reaped, without reaping it.
///
/// # Errors
/// Anything but "no children", which is `None`.
pub fn peek_exited() -> io::Result<Option<u32>> {
    // rustix's waitid hides who ended; libc's siginfo does not.
    // SAFETY: siginfo_t is plain numbers, for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a valid siginfo_t to write to.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) {
            Ok(None)
        } else {
            Err(error)
        };
    }
    // SAFETY: waitid either left `info` zero or filled it for SIGCHLD, where si_pid has a meaning.
    let pid = unsafe { info.si_pid() };
    Ok(u32::try_from(pid).ok().filter(|&pid| pid != 0))
}

/// Takes the status of the ended child `pid`; `None` when it still runs.
///
/// # Errors
/// Not a child of the caller.
pub fn reap(pid: u32) -> io::Result<Option<Exit>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(status) = rustix::process::waitid(WaitId::Pid(checked(pid)?), options)? else {
        return Ok(None);
    };
    Ok(Some(
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        },
    ))
}

/// Asks a process to end (SIGTERM).
///
/// # Errors
/// No such process.
pub fn terminate(pid: u32) -> io::Result<()> {
    rustix::process::kill_process(checked(pid)?, Signal::TERM)?;
    Ok(())
}

/// Ends a process (SIGKILL).
///
/// # Errors
/// No such process.
pub fn kill(pid: u32) -> io::Result<()> {
    rustix::process::kill_process(checked(pid)?, Signal::KILL)?;
    Ok(())
}

/// Sends SIGTERM or SIGKILL to every process but the caller and the kernel's own threads (PID 1 only).
///
/// # Errors
/// Nothing left to signal.
pub fn signal_all(kill: bool) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other(
            "signalling every process is for PID 1 only",
        ));
    }
    let signal = if kill { libc::SIGKILL } else { libc::SIGTERM };
    // SAFETY: kill(2) takes no pointers; −1 means every process but the caller, and PID 1 is checked above.
    if unsafe { libc::kill(-1, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn checked(pid: u32) -> io::Result<Pid> {
    // 0 and negative numbers would address whole process groups.
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Signals as something to read: blocked for the process, queued on a descriptor.
#[derive(Debug)]
pub struct Signals {
    file: File,
}

/// The signals PID 1 listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// SIGCHLD: a child ended.
    Child,
    /// SIGINT: Ctrl-Alt-Del, once the kernel's own reaction is off.
    CtrlAltDel,
    /// SIGTERM, or SIGPWR.
    Terminate,
    /// Anything else that was asked for.
    Other(u32),
}

impl Signals {
    /// Blocks SIGCHLD, SIGINT, SIGTERM, SIGPWR and SIGHUP and opens the descriptor.
    /// Call before the first thread starts: threads inherit the mask.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset fills the set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has just initialised the whole set.
        let mut set = unsafe { set.assume_init() };
        for signal in [
            libc::SIGCHLD,
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGPWR,
            libc::SIGHUP,
        ] {
            // SAFETY: `set` is an initialised set and `signal` a valid number.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is initialised; a null old-set pointer asks for nothing back.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }
            != 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: −1 asks for a new descriptor; `set` is initialised.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just returned this descriptor, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file })
    }

    /// The next signal.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive(&self) -> io::Result<Notice> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        io::Read::read_exact(&mut &self.file, &mut record)?;
        let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        Ok(match i32::try_from(number) {
            Ok(libc::SIGCHLD) => Notice::Child,
            Ok(libc::SIGINT) => Notice::CtrlAltDel,
            Ok(libc::SIGTERM | libc::SIGPWR) => Notice::Terminate,
            _ => Notice::Other(number),
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::{Duration, Instant};

    fn shell(script: &str) -> Spawn {
        Spawn {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("WORD".into(), "spoken".into())],
            oom_score_adj: 500,
            ..Spawn::default()
        }
    }

    fn end_of(pid: u32) -> Exit {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(exit) = reap(pid).unwrap() {
                return exit;
            }
            std::thread::yield_now();
        }
        panic!("process {pid} did not end");
    }

    fn text_of(output: OwnedFd) -> String {
        let status = rustix::fs::fcntl_getfl(&output).unwrap();
        assert!(
            status.contains(OFlags::NONBLOCK),
            "the reading end must not block PID 1"
        );
        rustix::fs::fcntl_setfl(&output, status - OFlags::NONBLOCK).unwrap();
        let mut text = String::new();
        File::from(output).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_child_hears_the_signals_its_parent_has_blocked() {
        let _blocked = Signals::open().unwrap();
        let mut spawned = spawn(&shell("grep SigBlk /proc/self/status")).unwrap();
        let text = text_of(spawned.output.take().unwrap());
        assert_eq!(text, "SigBlk:\t0000000000000000\n");
        assert_eq!(end_of(spawned.pid), Exit::Code(0));
    }

    #[test]
    fn a_child_has_its_environment_its_score_an_empty_mask_and_one_pipe() {
        let script =
            "echo $WORD; cat /proc/self/oom_score_adj >&2; grep SigBlk /proc/self/status; exit 3";
        let mut spawned = spawn(&shell(script)).unwrap();
        let text = text_of(spawned.output.take().unwrap());
        assert_eq!(text, "spoken\n500\nSigBlk:\t0000000000000000\n");
        assert_eq!(end_of(spawned.pid), Exit::Code(3));
    }

    #[test]
    fn a_killed_child_says_by_which_signal_and_a_missing_program_is_an_error() {
        let spawned = spawn(&shell("kill -STOP $$")).unwrap();
        assert_eq!(reap(spawned.pid).unwrap(), None, "it still runs");
        kill(spawned.pid).unwrap();
        assert_eq!(end_of(spawned.pid), Exit::Signal(9));
        let missing = Spawn {
            program: "/no/such/program".into(),
            ..Spawn::default()
        };
        assert_eq!(spawn(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tied_child_dies_with_the_thread_that_started_it() {
        let thread = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            tied(command.arg("1000"), &[]).spawn().unwrap().id()
        });
        assert_eq!(end_of(thread.join().unwrap()), Exit::Signal(9));
    }

    #[test]
    fn process_groups_and_everybody_cannot_be_hit_by_accident() {
        assert_eq!(kill(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            terminate(u32::MAX).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(signal_all(true).is_err(), "refused outside PID 1");
    }
}
