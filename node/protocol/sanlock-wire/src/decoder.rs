//! From bytes, as they arrive, to requests.

use crate::command::Command;
use crate::framing::{Need, need};
use crate::header::{HEADER_BYTES, Header, MAGIC, PROTOCOL_VERSION};
use crate::reply::Reply;
use crate::request::{ACQUIRE_MAX, Request};
use crate::structs::{DISK_BYTES, DISKS_MAX, OPTIONS_BYTES, RESOURCE_BYTES};

/// Longest request in bytes: `ACQUIRE` of eight resources on four disks each.
pub const MESSAGE_MAX: usize =
    HEADER_BYTES + ACQUIRE_MAX as usize * (RESOURCE_BYTES + DISKS_MAX * DISK_BYTES) + OPTIONS_BYTES;

/// Result when a client closed its side within a message.
const ENOTCONN: i32 = -107;

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A complete request.
    Request(Header, Request),
    /// Answer this. What the client sends of the message's payload is skipped.
    Refused(Header, Reply),
    /// Answer nothing; the next 32 bytes count as a new header.
    Dropped(Header, Dropped),
}

/// Why a header gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// Not this protocol. The bytes that follow cannot be trusted either:
    /// closing the connection is allowed.
    #[error("magic {0:#010x}: expected is {MAGIC:#010x}")]
    Magic(u32),
    /// A later major version.
    #[error("protocol version {0:#x}: supported is {PROTOCOL_VERSION:#x}")]
    Version(u32),
    /// No such command.
    #[error("command {0}: known are 1 to 40 and 1000")]
    Command(u32),
}

/// A message of which a part has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its header, once that is complete and known to be one.
    pub header: Option<Header>,
    /// Bytes received, with the header.
    pub received: usize,
    /// Bytes known to be needed, at most [`MESSAGE_MAX`].
    pub wanted: usize,
}

/// One connection's requests. Holds at most [`MESSAGE_MAX`] bytes, and no
/// memory between messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Header and payload so far.
    bytes: Vec<u8>,
    /// A valid header whose payload is coming.
    current: Option<(Header, Command)>,
    /// Bytes to forget before the next header.
    skip: u64,
    /// Whether what follows may be the rest of a payload of unknown length:
    /// everything up to the next valid header is skipped without a word.
    searching: bool,
}

impl Decoder {
    /// Nothing received.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input` up to the end of one message and
    /// returns it; `None` when `input` is used up. Call until it is `None`.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Incoming> {
        loop {
            self.forget(input);
            let (header, command) = match self.current {
                Some(current) => current,
                None => match self.header(input)? {
                    Ok(current) => current,
                    Err(dropped) => return Some(dropped),
                },
            };
            let payload = self.bytes.get(HEADER_BYTES..).unwrap_or(&[]);
            match need(command, &header, payload) {
                Need::Refused { reply, skip } => {
                    self.refuse();
                    self.skip = skip;
                    self.skip_held();
                    return Some(Incoming::Refused(header, reply));
                }
                Need::Bytes(needed) if needed <= payload.len() => {
                    let payload = payload.get(..needed).unwrap_or(payload);
                    let request = Request::decode(command, &header, payload);
                    let said = usize::try_from(header.length).unwrap_or(usize::MAX);
                    // Clients may put a string behind the options, and name
                    // resources although they release all.
                    self.searching = matches!(command, Command::Acquire | Command::Release)
                        && said > HEADER_BYTES + needed;
                    self.current = None;
                    self.drop_held(HEADER_BYTES + needed);
                    return Some(Incoming::Request(header, request));
                }
                Need::Bytes(needed) => {
                    if !self.fill(input, HEADER_BYTES + needed) {
                        return None;
                    }
                }
            }
        }
    }

    /// The message of which a part has come, if any: a server gives it a deadline.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        if self.bytes.is_empty() || (self.searching && self.current.is_none()) {
            return None;
        }
        let wanted = match self.current {
            None => HEADER_BYTES,
            Some((header, command)) => {
                let payload = self.bytes.get(HEADER_BYTES..).unwrap_or(&[]);
                match need(command, &header, payload) {
                    Need::Bytes(needed) => HEADER_BYTES + needed,
                    Need::Refused { .. } => self.bytes.len(),
                }
            }
        };
        Some(Pending {
            header: self.current.map(|(header, _)| header),
            received: self.bytes.len(),
            wanted,
        })
    }

    /// Forgets the message of which a part has come, and whatever of it is
    /// still to come: the server has answered it already. If other messages
    /// came behind it, [`Self::next`] gives them without further input.
    pub fn refuse(&mut self) {
        self.current = None;
        self.searching = true;
        self.drop_held(HEADER_BYTES);
    }

    /// The client sends no more: the answer to the message it left unfinished.
    pub fn end(&mut self) -> Option<Incoming> {
        let current = self.current;
        self.reset();
        current.map(|(header, _)| Incoming::Refused(header, Reply::code(ENOTCONN)))
    }

    fn reset(&mut self) {
        self.bytes = Vec::new();
        self.current = None;
    }

    /// Drops the first bytes held; keeps no memory for none.
    fn drop_held(&mut self, count: usize) {
        if count < self.bytes.len() {
            self.bytes.drain(..count);
        } else {
            self.bytes = Vec::new();
        }
    }

    /// Skips among the bytes held.
    fn skip_held(&mut self) {
        let now = clamp(self.skip, self.bytes.len());
        self.drop_held(now);
        self.skip -= u64::try_from(now).unwrap_or(self.skip);
    }

    /// Skips among the bytes that come.
    fn forget(&mut self, input: &mut &[u8]) {
        let now = clamp(self.skip, input.len());
        *input = input.get(now..).unwrap_or(&[]);
        self.skip -= u64::try_from(now).unwrap_or(self.skip);
    }

    /// Moves bytes over until `wanted` are held; whether they are.
    fn fill(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        debug_assert!(wanted <= MESSAGE_MAX, "no request is longer");
        let missing = wanted.saturating_sub(self.bytes.len());
        let (head, tail) = input.split_at(missing.min(input.len()));
        self.bytes.extend_from_slice(head);
        *input = tail;
        self.bytes.len() >= wanted
    }

    /// The next header; `None` while it is incomplete.
    fn header(&mut self, input: &mut &[u8]) -> Option<Result<(Header, Command), Incoming>> {
        loop {
            if !self.fill(input, HEADER_BYTES) {
                return None;
            }
            let header = Header::decode(self.bytes.first_chunk()?);
            match judge(&header) {
                Ok(command) => {
                    self.searching = false;
                    self.current = Some((header, command));
                    return Some(Ok((header, command)));
                }
                Err(_) if self.searching => self.drop_to_header(),
                Err(reason) => {
                    self.reset();
                    return Some(Err(Incoming::Dropped(header, reason)));
                }
            }
        }
    }

    /// Drops at least one byte, and all that cannot begin a valid header.
    fn drop_to_header(&mut self) {
        let magic = MAGIC.to_le_bytes();
        let may_begin = |held: &[u8]| match held.first_chunk() {
            Some(header) => judge(&Header::decode(header)).is_ok(),
            None => held.iter().zip(&magic).all(|(byte, wanted)| byte == wanted),
        };
        let start =
            (1..self.bytes.len()).find(|&start| self.bytes.get(start..).is_some_and(may_begin));
        self.drop_held(start.unwrap_or(self.bytes.len()));
    }
}

fn clamp(count: u64, most: usize) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).min(most)
}

/// The command of a header that gets an answer.
fn judge(header: &Header) -> Result<Command, Dropped> {
    if header.magic != MAGIC {
        return Err(Dropped::Magic(header.magic));
    }
    let command = header.command();
    if header.major() > PROTOCOL_VERSION >> 16 && command != Some(Command::Version) {
        return Err(Dropped::Version(header.version));
    }
    command.ok_or(Dropped::Command(header.cmd))
}
