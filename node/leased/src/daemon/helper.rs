//! The helper: a second process of this program, started before privileges
//! are dropped, that signals clients and runs their killpath programs.
//!
//! It is a re-execution of ourselves under the name `sanlock-helper` whose
//! standard input is one end of a socket pair that keeps message boundaries.
//! It ends when the daemon does. The daemon notices its death and starts
//! another one, which has whatever privileges are left.

mod message;
mod process;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use crate::keeper::SpaceId;
use crate::resources::ClientId;

pub(crate) use message::{Answer, MESSAGE_MAX, Order, Sent};

/// The name by which the program knows that it is the helper.
pub(crate) const NAME: &str = "sanlock-helper";

/// What an order was for, so that its refusal can be acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// To signal this connection's process.
    Signal(ClientId),
    /// To run its killpath program.
    Killpath(ClientId),
    /// To tell the device of a lockspace.
    Device(SpaceId),
}

impl Tag {
    const KINDS: u64 = 3;

    /// As the helper gives it back.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Signal(client) => client.0 * Self::KINDS,
            Self::Killpath(client) => client.0 * Self::KINDS + 1,
            Self::Device(space) => u64::from(space.0) * Self::KINDS + 2,
        }
    }

    /// From what the helper gives back.
    pub(crate) fn of(number: u64) -> Self {
        let rest = number / Self::KINDS;
        match number % Self::KINDS {
            0 => Self::Signal(ClientId(rest)),
            1 => Self::Killpath(ClientId(rest)),
            _ => Self::Device(SpaceId(u32::try_from(rest).unwrap_or(u32::MAX))),
        }
    }
}

/// Whether the program was started as the helper.
#[must_use]
pub fn is_helper(name: &OsStr) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == NAME)
}

/// The helper's whole life; see the module.
///
/// # Errors
/// Standard input is not the daemon's socket, or the kernel refuses signals.
pub fn run() -> io::Result<()> {
    process::run()
}

/// The daemon's end.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    socket: OwnedFd,
    /// Orders that the socket had no room for, and were dropped.
    full_count: u64,
    last_status: i32,
}

impl Helper {
    /// Starts the process. With `quiet` neither it nor what it runs keeps the
    /// terminal of whoever called the daemon.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn start(quiet: bool) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(NAME)
            .env_remove("NOTIFY_SOCKET")
            .env_remove(super::startup::BACKGROUND)
            .stdin(Stdio::from(theirs));
        if quiet {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = command.spawn()?;
        Ok(Self {
            child,
            socket: ours,
            full_count: 0,
            last_status: 0,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many orders found the socket full.
    pub(crate) fn full_count(&self) -> u64 {
        self.full_count
    }

    /// Outcome of its latest order: 0 or an error number.
    pub(crate) fn last_status(&self) -> i32 {
        self.last_status
    }

    /// Number of the descriptor, as `status` shows it.
    pub(crate) fn descriptor(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.socket)
    }

    /// Hands over an order without waiting. `false`: not handed over; the
    /// caller repeats it, as everything that is signalled is signalled again.
    pub(crate) fn order(&mut self, order: &Order<'_>) -> bool {
        let mut bytes = Vec::with_capacity(MESSAGE_MAX);
        order.encode(&mut bytes);
        match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
            Ok(_) => true,
            Err(_) => {
                self.full_count += 1;
                false
            }
        }
    }

    /// The next answer; `Ok(None)` when there is none yet.
    ///
    /// # Errors
    /// The helper has died.
    pub(crate) fn answer(&mut self) -> io::Result<Option<Answer>> {
        let mut bytes = [0; message::ANSWER_BYTES];
        match recv(&self.socket, &mut bytes, RecvFlags::empty()) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                let answer = Answer::decode(&bytes);
                self.last_status = answer.error;
                Ok(Some(answer))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends and reaps it.
    pub(crate) fn bury(&mut self) {
        // It may be gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl AsFd for Helper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// When a process began, in clock ticks since boot: with its number it names
/// one process for ever. `None`: no such process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself contain spaces and parentheses.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = OsStr::from_bytes(stat.get(end + 2..)?).to_str()?;
    // proc(5) counts from 1; the state, after the name, is 3; this is 22.
    fields.split(' ').nth(22 - 3)?.parse().ok()
}
