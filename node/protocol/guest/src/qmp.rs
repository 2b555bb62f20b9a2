//! A session with QEMU's monitor.
//!
//! ```text
//!            greeting              answer to qmp_capabilities
//!  Greeting ──────────▶ Negotiating ──────────▶ Ready ──▶ Ready …
//!      └────────────────────┴─────── anything unexpected ──▶ Broken (final)
//! ```
//!
//! Bytes from the socket go into [`Session::receive`]; what they mean comes out
//! of [`Session::next_message`]; bytes for the socket are at
//! [`Session::transmit`].
//!
//! Invariants (tested beside the code, with bytes cut at every place):
//! - each command gets one [`Message::Reply`] at most, under the id it was given;
//! - nothing but the negotiation is sent before QEMU has agreed to it;
//! - memory is bounded: by the longest line, the commands without an answer,
//!   the bytes not yet sent, the messages not yet taken;
//! - a session that has met what it does not understand is broken for good, and
//!   says so.

use std::collections::{BTreeSet, VecDeque};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest line taken from QEMU: the block nodes of a guest with many disks.
pub const LINE_BYTES_MAX: usize = 8 << 20;
/// Commands that may be without an answer at one time.
pub const PENDING_MAX: usize = 64;
/// Bytes that may wait to be sent.
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// Messages that may wait to be taken; further ones are dropped and counted.
pub const MESSAGES_MAX: usize = 1024;

/// Names a command, for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// QEMU's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Version {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
}

/// QEMU's no to a command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{class}: {desc}")]
pub struct CommandError {
    /// `GenericError`, `CommandNotFound`, `DeviceNotFound`, …
    pub class: String,
    /// Why, for people.
    pub desc: String,
}

impl CommandError {
    /// Whether this QEMU does not know the command.
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        self.class == "CommandNotFound"
    }
}

/// Something QEMU told by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `BLOCK_WRITE_THRESHOLD`, `STOP`, …
    pub name: String,
    /// What belongs to it; null when nothing does.
    pub data: Value,
    /// When it happened, in microseconds of QEMU's wall clock. QEMU holds back
    /// events that come too often: one may arrive a second after later ones.
    pub at_us: Option<u64>,
}

/// What came from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Commands may be given.
    Ready(Version),
    /// Answer to a command.
    Reply {
        /// Which.
        id: CommandId,
        /// What it returned.
        outcome: Result<Value, CommandError>,
    },
    /// An event.
    Event(Event),
    /// So many messages were dropped, because nobody took them.
    Lost(u64),
}

/// Why a session has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes without a line end than [`LINE_BYTES_MAX`].
    #[error("QMP line longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// No JSON, or none of the documents there are.
    #[error("not a QMP message: {0}")]
    Syntax(String),
    /// A proper message at the wrong time.
    #[error("unexpected QMP message while {while_doing}")]
    Unexpected {
        /// What was expected.
        while_doing: &'static str,
    },
    /// The negotiation was refused.
    #[error("QMP capabilities refused: {0}")]
    Refused(CommandError),
}

/// Why a command is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Not before [`Message::Ready`].
    #[error("QMP session is not ready")]
    NotReady,
    /// See [`PENDING_MAX`] and [`OUTBOX_BYTES_MAX`].
    #[error("QMP session has {0} commands without an answer, or too many bytes to send")]
    Busy(usize),
    /// The session has ended.
    #[error("QMP session has ended")]
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Negotiating,
    Ready,
    Broken,
}

/// A session from connecting to the end.
#[derive(Debug)]
pub struct Session {
    state: State,
    version: Version,
    inbox: Vec<u8>,
    /// No line end before this place.
    searched: usize,
    outbox: Vec<u8>,
    messages: VecDeque<Message>,
    lost: u64,
    next_id: u64,
    pending: BTreeSet<u64>,
    broken: Option<Error>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

/// What a line may have.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "QMP", borrow, default)]
    greeting: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    returned: Option<Value>,
    #[serde(default)]
    error: Option<CommandError>,
    #[serde(default)]
    id: Option<Value>,
}

#[derive(Deserialize)]
struct Timestamp {
    /// Negative where QEMU could not tell.
    seconds: i64,
    microseconds: i64,
}

impl Timestamp {
    fn us(&self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let rest = u64::try_from(self.microseconds).ok()?;
        seconds.checked_mul(1_000_000)?.checked_add(rest)
    }
}

/// Null is an answer, too.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[derive(Deserialize)]
struct Greeting {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: Version,
}

impl Session {
    /// For a socket just connected.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Greeting,
            version: Version {
                major: 0,
                minor: 0,
                micro: 0,
            },
            inbox: Vec::new(),
            searched: 0,
            outbox: Vec::new(),
            messages: VecDeque::new(),
            lost: 0,
            next_id: 1,
            pending: BTreeSet::new(),
            broken: None,
        }
    }

    /// Takes bytes from the socket, cut anywhere.
    ///
    /// # Errors
    /// What was met that ends the session; from then on always the same.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.inbox.extend_from_slice(bytes);
        self.lines().inspect_err(|error| {
            self.state = State::Broken;
            self.broken = Some(error.clone());
            self.inbox = Vec::new();
            self.outbox = Vec::new();
        })
    }

    /// The next thing that came.
    pub fn next_message(&mut self) -> Option<Message> {
        let next = self.messages.pop_front();
        if next.is_none() && self.lost > 0 {
            return Some(Message::Lost(std::mem::take(&mut self.lost)));
        }
        next
    }

    /// Gives a command. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// The session is not ready, or has too much outstanding.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<CommandId, NotSent> {
        match self.state {
            State::Ready => {}
            State::Greeting | State::Negotiating => return Err(NotSent::NotReady),
            State::Broken => return Err(NotSent::Broken),
        }
        if self.pending.len() >= PENDING_MAX || self.outbox.len() >= OUTBOX_BYTES_MAX {
            return Err(NotSent::Busy(self.pending.len()));
        }
        Ok(self.send(command, arguments))
    }

    /// Bytes for the socket; empty when there are none.
    #[must_use]
    pub fn transmit(&self) -> &[u8] {
        &self.outbox
    }

    /// The first `count` bytes of [`Self::transmit`] were sent.
    pub fn transmitted(&mut self, count: usize) {
        self.outbox.drain(..count.min(self.outbox.len()));
    }

    /// Commands without an answer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn send(&mut self, command: &str, arguments: Value) -> CommandId {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id);
        let mut document = serde_json::json!({ "execute": command, "id": id });
        if let (Value::Object(_), Some(object)) = (&arguments, document.as_object_mut()) {
            object.insert("arguments".to_owned(), arguments);
        }
        self.outbox.extend(document.to_string().into_bytes());
        self.outbox.push(b'\n');
        CommandId(id)
    }

    fn lines(&mut self) -> Result<(), Error> {
        let inbox = std::mem::take(&mut self.inbox);
        let mut start = 0;
        let mut from = self.searched;
        while let Some(length) = inbox
            .get(from..)
            .and_then(|rest| rest.iter().position(|&byte| byte == b'\n'))
        {
            let end = from + length;
            if end - start > LINE_BYTES_MAX {
                return Err(Error::LineTooLong);
            }
            let line = inbox.get(start..end).unwrap_or_default();
            start = end + 1;
            from = start;
            if !line.trim_ascii().is_empty() {
                self.line(line)?;
            }
        }
        let rest = inbox.get(start..).unwrap_or_default();
        if rest.len() > LINE_BYTES_MAX {
            return Err(Error::LineTooLong);
        }
        // What is left is copied, so that one long line costs no memory for ever.
        self.inbox = rest.to_vec();
        self.searched = self.inbox.len();
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        let syntax = |error: serde_json::Error| Error::Syntax(error.to_string());
        let line: Line<'_> = serde_json::from_slice(line).map_err(syntax)?;
        if let Some(greeting) = line.greeting {
            if self.state != State::Greeting {
                return Err(Error::Unexpected {
                    while_doing: "talking: a second greeting",
                });
            }
            let greeting: Greeting = serde_json::from_str(greeting.get()).map_err(syntax)?;
            self.version = greeting.version.qemu;
            self.state = State::Negotiating;
            self.send("qmp_capabilities", Value::Null);
            return Ok(());
        }
        if self.state == State::Greeting {
            return Err(Error::Unexpected {
                while_doing: "waiting for the greeting",
            });
        }
        if let Some(event) = line.event {
            self.put(Message::Event(Event {
                name: event.into_owned(),
                data: line.data,
                at_us: line.timestamp.as_ref().and_then(Timestamp::us),
            }));
            return Ok(());
        }
        let outcome = match (line.returned, line.error) {
            (Some(value), None) => Ok(value),
            (None, Some(error)) => Err(error),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Error::Syntax(
                    "neither a greeting, an event, an answer nor an error".to_owned(),
                ));
            }
        };
        self.answer(line.id.as_ref().and_then(Value::as_u64), outcome)
    }

    fn answer(
        &mut self,
        id: Option<u64>,
        outcome: Result<Value, CommandError>,
    ) -> Result<(), Error> {
        let known = id.is_some_and(|id| self.pending.remove(&id));
        match (id, self.state) {
            (Some(_), State::Negotiating) if known => {
                outcome.map_err(Error::Refused)?;
                self.state = State::Ready;
                self.put(Message::Ready(self.version));
            }
            (Some(id), State::Ready) if known => self.put(Message::Reply {
                id: CommandId(id),
                outcome,
            }),
            // QEMU answers what it cannot read without an id; and what nobody
            // asked, nobody waits for.
            _ => {
                return Err(Error::Unexpected {
                    while_doing: "waiting for answers: one to another command",
                });
            }
        }
        Ok(())
    }

    fn put(&mut self, message: Message) {
        if self.messages.len() >= MESSAGES_MAX {
            self.lost += 1;
        } else {
            self.messages.push_back(message);
        }
    }
}

#[cfg(test)]
mod tests;
