//! The helper's own side.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use linux::process::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::message::{Answer, MESSAGE_MAX, Order, Sent, split};

/// Programs under way at a time; more are refused, so that a storm of lost
/// lockspaces is not one of processes.
const CHILDREN_MAX: usize = 4096;
/// Places in a program's argument list, the name included.
const ARGUMENTS_MAX: usize = 8;

pub(super) fn run() -> io::Result<()> {
    let signals = Signals::open()?;
    // Only how it is listed.
    rustix::thread::set_name(c"sanlock-helper").ok();
    // Not permitted without privileges, and then there is nothing to give up.
    rustix::thread::set_thread_groups(&[]).ok();
    rustix::process::chdir("/").ok();
    let socket = rustix::stdio::stdin();
    let mut children: Vec<Child> = Vec::new();
    loop {
        let signals_fd = signals.as_fd();
        let mut wanted = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals_fd, PollFlags::IN),
        ];
        match poll(&mut wanted, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if signals.receive().is_ok() {
            children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        }
        let mut bytes = [0; MESSAGE_MAX];
        let length = match recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
            // The daemon has gone, and with it everything to do.
            Ok((0, _)) => return Ok(()),
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(order) = bytes.get(..length).and_then(Order::decode) else {
            continue;
        };
        let (tag, result) = obey(&order, &mut children);
        let error = match result {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        };
        let answer = Answer { tag, error }.encode();
        // An answer nobody takes is only one for the log.
        send(socket, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok();
    }
}

fn obey(order: &Order<'_>, children: &mut Vec<Child>) -> (u64, io::Result<()>) {
    match *order {
        Order::Signal {
            tag,
            pid,
            start,
            signal,
        } => (tag, signalled(pid, start, signal)),
        Order::Run {
            tag,
            path,
            arguments,
            pid,
        } => (tag, started(path, arguments, pid, children)),
        Order::MaxSectors {
            tag,
            major,
            minor,
            kib,
        } => (tag, set_max_sectors(major, minor, kib)),
    }
}

fn signalled(pid: u32, start: u64, signal: Sent) -> io::Result<()> {
    // The number may belong to a stranger by now.
    if start != 0 && super::start_time(pid) != Some(start) {
        return Err(Errno::SRCH.into());
    }
    match signal {
        Sent::Term => linux::process::terminate(pid),
        Sent::Kill => linux::process::kill(pid),
    }
}

fn set_max_sectors(major: u32, minor: u32, kib: u32) -> io::Result<()> {
    /// What the original falls back to.
    const USUAL_KIB: u32 = 1024;
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition's queue is its disk's.
    let queue = [format!("{device}/queue"), format!("{device}/../queue")]
        .into_iter()
        .find(|queue| fs::exists(queue).unwrap_or(false))
        .ok_or(Errno::NOENT)?;
    let largest: u32 = fs::read_to_string(format!("{queue}/max_hw_sectors_kb"))?
        .trim()
        .parse()
        .map_err(|_| Errno::INVAL)?;
    let size = if kib > largest {
        USUAL_KIB.min(largest)
    } else {
        kib
    };
    fs::write(format!("{queue}/max_sectors_kb"), size.to_string())
}

fn started(
    path: &[u8],
    arguments: &[u8],
    pid: Option<u32>,
    children: &mut Vec<Child>,
) -> io::Result<()> {
    if children.len() >= CHILDREN_MAX {
        return Err(Errno::AGAIN.into());
    }
    let room = ARGUMENTS_MAX - 1 - usize::from(pid.is_some());
    let mut command = Command::new(OsStr::from_bytes(path));
    for argument in split(arguments, room) {
        command.arg(OsStr::from_bytes(&argument));
    }
    if let Some(pid) = pid {
        command.arg(pid.to_string());
    }
    // The daemon's socket is our standard input and must not be the program's.
    command.stdin(Stdio::null());
    children.push(linux::process::with_signals(&mut command).spawn()?);
    Ok(())
}
