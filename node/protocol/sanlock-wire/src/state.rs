//! The records of the `STATUS`, `HOST_STATUS` and `RENEWAL` streams.

use disk_format::NameField;

use crate::structs::{DISK_BYTES, DISKS_MAX, LOCKSPACE_BYTES, Lockspace, RESOURCE_BYTES, Resource};
use crate::wire::{Put, Reader, until_nul};

const STATE_BYTES: usize = 80;
/// Longest text in bytes, with its NUL; longer texts are cut.
const TEXT_MAX: usize = 4096;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// 1: the daemon.
    Daemon,
    /// 2: a connection.
    Client,
    /// 3: a lockspace.
    Lockspace,
    /// 4: a resource.
    Resource,
    /// 5: a host of a lockspace.
    Host,
    /// 6: one renewal.
    Renewal,
    /// Something later daemons may send.
    Other(u32),
}

impl StateKind {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Daemon,
            2 => Self::Client,
            3 => Self::Lockspace,
            4 => Self::Resource,
            5 => Self::Host,
            6 => Self::Renewal,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Daemon => 1,
            Self::Client => 2,
            Self::Lockspace => 3,
            Self::Resource => 4,
            Self::Host => 5,
            Self::Renewal => 6,
            Self::Other(other) => other,
        }
    }
}

/// What follows a record's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StateBody {
    /// Nothing.
    #[default]
    None,
    /// Of a lockspace's record.
    Lockspace(Lockspace),
    /// Of a resource's record, with its disks.
    Resource(Resource),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRecord {
    /// What it is about.
    pub kind: StateKind,
    /// Unused.
    pub flags: u32,
    /// Process id or host id; `u32::MAX` is -1.
    pub data32: u32,
    /// Host id, lease version or timestamp.
    pub data64: u64,
    /// Its name.
    pub name: NameField,
    /// `key=value` separated by single spaces, without the NUL.
    pub text: String,
    /// What follows.
    pub body: StateBody,
}

impl StateRecord {
    /// A record without numbers and body.
    #[must_use]
    pub fn new(kind: StateKind, name: NameField, text: String) -> Self {
        Self {
            kind,
            flags: 0,
            data32: 0,
            data64: 0,
            name,
            text,
            body: StateBody::None,
        }
    }

    /// Appends the record to a message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text = self.text.as_bytes();
        let text = text.get(..TEXT_MAX - 1).unwrap_or(text);
        out.put_u32(self.kind.number());
        out.put_u32(self.flags);
        out.put_u32(self.data32);
        out.put_u32(0);
        out.put_u64(self.data64);
        out.put_name(&self.name);
        out.put_u32(u32::try_from(text.len() + 1).unwrap_or(u32::MAX));
        out.put_u32(0);
        out.extend_from_slice(text);
        out.push(0);
        match &self.body {
            StateBody::None => {}
            StateBody::Lockspace(lockspace) => lockspace.put(out),
            StateBody::Resource(resource) => resource.put_with_disks(out),
        }
    }
}

/// Takes records off a stream that arrives in pieces. Holds at most one record.
#[derive(Debug, Default)]
pub struct StateDecoder {
    bytes: Vec<u8>,
}

impl StateDecoder {
    /// Nothing received.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input` up to the end of one record and
    /// returns it; `None` when `input` is used up.
    ///
    /// # Errors
    /// When a record says that its text is longer than any text: the stream
    /// cannot be followed any further.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<StateRecord>, crate::ReplyError> {
        loop {
            let needed = self.needed()?;
            if needed <= self.bytes.len() {
                return Ok(Some(Self::record(&std::mem::take(&mut self.bytes))));
            }
            let missing = needed - self.bytes.len();
            let (head, tail) = input.split_at(missing.min(input.len()));
            self.bytes.extend_from_slice(head);
            *input = tail;
            if head.len() < missing {
                return Ok(None);
            }
        }
    }

    /// Bytes needed as far as known.
    fn needed(&self) -> Result<usize, crate::ReplyError> {
        let Some(fixed) = self.bytes.get(..STATE_BYTES) else {
            return Ok(STATE_BYTES);
        };
        let (kind, text) = Self::shape(fixed);
        if text > TEXT_MAX {
            return Err(crate::ReplyError::StateText(text));
        }
        let start = STATE_BYTES + text;
        Ok(match kind {
            StateKind::Lockspace => start + LOCKSPACE_BYTES,
            StateKind::Resource => match self.bytes.get(start..start + RESOURCE_BYTES) {
                None => start + RESOURCE_BYTES,
                Some(bytes) => {
                    let (_, disks) = Resource::read(&mut Reader(bytes));
                    let disks = usize::try_from(disks).unwrap_or(DISKS_MAX).min(DISKS_MAX);
                    start + RESOURCE_BYTES + disks * DISK_BYTES
                }
            },
            StateKind::Daemon
            | StateKind::Client
            | StateKind::Host
            | StateKind::Renewal
            | StateKind::Other(_) => start,
        })
    }

    /// Kind and length of the text of a record's fixed part.
    fn shape(fixed: &[u8]) -> (StateKind, usize) {
        let mut reader = Reader(fixed);
        let kind = StateKind::from_number(reader.u32());
        reader.slice(68);
        (kind, usize::try_from(reader.u32()).unwrap_or(usize::MAX))
    }

    fn record(bytes: &[u8]) -> StateRecord {
        let (_, text_bytes) = Self::shape(bytes);
        let mut reader = Reader(bytes);
        let kind = StateKind::from_number(reader.u32());
        let flags = reader.u32();
        let data32 = reader.u32();
        reader.slice(4);
        let data64 = reader.u64();
        let name = reader.name();
        reader.slice(8);
        let text = String::from_utf8_lossy(until_nul(reader.slice(text_bytes))).into_owned();
        StateRecord {
            kind,
            flags,
            data32,
            data64,
            name,
            text,
            body: match kind {
                StateKind::Lockspace => StateBody::Lockspace(Lockspace::read(&mut reader)),
                StateKind::Resource => StateBody::Resource(Resource::read_with_disks(&mut reader)),
                StateKind::Daemon
                | StateKind::Client
                | StateKind::Host
                | StateKind::Renewal
                | StateKind::Other(_) => StateBody::None,
            },
        }
    }
}
