//! One connection: bytes in, bytes out, and what is known of the process at
//! its other end. Nothing here waits.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use disk_format::NameField;
use lease::Monotonic;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use sanlock_wire::{Class, Command, Decoder, Header, Incoming, RestrictFlags, parse_name};

use super::stream::Stream;

/// Bytes taken from a socket at a time, so that one client that always sends
/// does not keep the loop from the others.
const READ_BYTES: usize = 16 * 1024;
/// Bytes given to a socket at a time.
const WRITE_BYTES: usize = 256 * 1024;
/// A stream is asked for more when less than this waits to be sent.
const REFILL_BYTES: usize = 32 * 1024;

/// What is run when a client's lockspace is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Killpath {
    pub(crate) path: Vec<u8>,
    pub(crate) arguments: Vec<u8>,
    /// Whether the process id is the last argument.
    pub(crate) with_pid: bool,
}

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// Bytes, now in the decoder.
    Bytes,
    /// Nothing for now.
    Nothing,
    /// The other end is closed.
    End,
}

/// What writing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is on its way.
    All,
    /// The socket is full, or others have their turn first.
    Some,
    /// Nobody will read it.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Client {
    socket: OwnedFd,
    /// Of the process that connected.
    pub(crate) pid: i32,
    /// When that process began; 0: not known.
    pub(crate) start_time: u64,
    decoder: Decoder,
    /// Bytes received that belong to messages not looked at yet.
    input: Vec<u8>,
    taken: usize,
    out: Vec<u8>,
    sent: usize,
    pub(crate) stream: Option<Stream>,
    /// The socket may have bytes.
    pub(crate) readable: bool,
    /// The socket may have room.
    pub(crate) writable: bool,
    /// It waits for its turn in the loop.
    pub(crate) queued: bool,
    /// Close it when everything is sent.
    pub(crate) close_after: bool,
    /// A command of this connection is under way.
    pub(crate) busy: Option<Command>,
    /// A command acts on this registration.
    pub(crate) acted_on: bool,
    /// Stands for its process.
    pub(crate) registered: bool,
    /// The other end is gone; only a command under way keeps this.
    pub(crate) dead: bool,
    pub(crate) restricted: RestrictFlags,
    /// What its process calls itself.
    pub(crate) name: NameField,
    /// What `status` calls it: its name, or what it asked for last.
    pub(crate) shown: NameField,
    pub(crate) killpath: Option<Killpath>,
    pub(crate) last_command: u32,
    /// Signals sent because of a dying lockspace.
    pub(crate) kill_count: u32,
    pub(crate) kill_last: Option<Monotonic>,
    pub(crate) killpath_run: bool,
    /// By when the rest of a message or the room for a reply must come.
    pub(crate) deadline: Option<Monotonic>,
    /// When something came last.
    pub(crate) heard: Monotonic,
    /// Part of a reply was taken since this was last looked at.
    pub(crate) moved: bool,
}

impl Client {
    /// Remembers a command. `status` shows most of them in place of a name, as
    /// the original does.
    pub(crate) fn asked(&mut self, number: u32) {
        self.last_command = number;
        let shown = match Command::from_number(number) {
            Some(Command::Register) => self.pid.to_string(),
            Some(
                command @ (Command::AddLockspace | Command::RemLockspace | Command::InqLockspace),
            ) => command.name().to_owned(),
            Some(command) if command.class() == Class::Slow => format!("cmd{number}"),
            Some(_) | None => return,
        };
        self.shown = parse_name(shown.as_bytes()).unwrap_or(NameField::EMPTY);
    }

    pub(crate) fn new(socket: OwnedFd, pid: i32) -> Self {
        Self {
            socket,
            pid,
            start_time: 0,
            decoder: Decoder::new(),
            input: Vec::new(),
            taken: 0,
            out: Vec::new(),
            sent: 0,
            stream: None,
            readable: false,
            writable: true,
            queued: false,
            close_after: false,
            busy: None,
            acted_on: false,
            registered: false,
            dead: false,
            restricted: RestrictFlags::NONE,
            name: NameField::EMPTY,
            shown: NameField::EMPTY,
            killpath: None,
            last_command: 0,
            kill_count: 0,
            kill_last: None,
            killpath_run: false,
            deadline: None,
            heard: Monotonic(0),
            moved: false,
        }
    }

    /// Number of the descriptor, as `status` shows it.
    pub(crate) fn descriptor(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The socket, for one that goes on without this.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Forgets the kill state: all its leases are released.
    pub(crate) fn survive(&mut self) {
        self.kill_count = 0;
        self.kill_last = None;
        self.killpath_run = false;
    }

    /// The next message of what was received; `None`: read more.
    pub(crate) fn next_message(&mut self) -> Option<Incoming> {
        let mut rest = self.input.get(self.taken..).unwrap_or_default();
        let message = self.decoder.next(&mut rest);
        self.taken = self.input.len() - rest.len();
        if rest.is_empty() {
            self.input = Vec::new();
            self.taken = 0;
        }
        message
    }

    /// The header of a message whose payload is still coming.
    pub(crate) fn pending_header(&self) -> Option<Header> {
        self.decoder.pending()?.header
    }

    /// Forgets the message under way, up to the next header.
    pub(crate) fn refuse(&mut self) {
        self.decoder.refuse();
    }

    /// The answer to a message that was left unfinished.
    pub(crate) fn unfinished(&mut self) -> Option<Incoming> {
        self.decoder.end()
    }

    /// Whether nothing is under way and nothing depends on it.
    pub(crate) fn is_idle(&self) -> bool {
        !self.registered && self.busy.is_none() && !self.is_stuck()
    }

    /// Whether only the other end can get things going again: part of a
    /// message has come, or a reply is not taken.
    pub(crate) fn is_stuck(&self) -> bool {
        (self.busy.is_none() && self.decoder.pending().is_some()) || !self.is_flushed()
    }

    /// Takes what the socket has, up to a bound.
    pub(crate) fn read(&mut self) -> Got {
        let mut bytes = [0; READ_BYTES];
        match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Got::End,
            Ok((count, _)) => {
                self.input.extend(bytes.get(..count).unwrap_or(&bytes));
                Got::Bytes
            }
            Err(Errno::INTR) => Got::Bytes,
            Err(Errno::AGAIN) => {
                self.readable = false;
                Got::Nothing
            }
            Err(_) => Got::End,
        }
    }

    /// Room for something to send; [`Self::flush`] sends it.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether everything has been sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.stream.is_none() && self.sent == self.out.len()
    }

    /// Sends what fits into the socket. `refill` gives more of a stream;
    /// `false` from it is the stream's end.
    pub(crate) fn flush(
        &mut self,
        mut refill: impl FnMut(&mut Stream, &mut Vec<u8>) -> bool,
    ) -> Flushed {
        let mut budget = WRITE_BYTES;
        loop {
            if self.out.len() - self.sent < REFILL_BYTES
                && let Some(stream) = &mut self.stream
            {
                self.out.drain(..self.sent);
                self.sent = 0;
                if !refill(stream, &mut self.out) {
                    self.stream = None;
                }
            }
            let rest = self.out.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                if self.stream.is_some() {
                    continue;
                }
                self.out = Vec::new();
                self.sent = 0;
                return Flushed::All;
            }
            if budget == 0 || !self.writable {
                return Flushed::Some;
            }
            let part = rest.get(..budget).unwrap_or(rest);
            match send(
                &self.socket,
                part,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(count) => {
                    self.sent += count;
                    budget -= count;
                    self.moved = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(_) => return Flushed::Broken,
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Display for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "pid {} fd {}", self.pid, self.descriptor())
    }
}
