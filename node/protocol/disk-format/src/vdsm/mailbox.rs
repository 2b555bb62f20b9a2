//! Mail between hosts and the SPM: messages, mailboxes, events.
//!
//! ```text
//! inbox / outbox (same layout)
//! | event block | host 1 | host 2 | …      one mailbox of 4096 bytes a host
//!                   |
//!                   +-- | slot 0 | … | slot 62 | last slot: checksum in its
//!                         64 bytes each          last 4 bytes, else zeros |
//! ```

use std::fmt;

use super::error::FormatError;
use super::uuid::{DomainId, VolumeId};
use crate::id::HostId;

/// Bytes of a message.
pub const MESSAGE_BYTES: usize = 64;
/// Bytes of one host's mailbox, and of the event block.
pub const MAILBOX_BYTES: usize = 4096;
/// Messages of one mailbox.
pub const SLOTS: usize = 63;
/// Where the checksum is.
pub const CHECKSUM_OFFSET: usize = 4092;
/// Mailboxes that an SPM with the default maximum reads: host ids 0–249.
pub const MAILBOXES: usize = 250;
/// Bytes that an SPM with the default maximum reads and clears.
pub const AREA_BYTES: usize = MAILBOXES * MAILBOX_BYTES;
/// Size of the `inbox` and `outbox` volumes asked for, in bytes.
pub const VOLUME_BYTES: u64 = 16 << 20;
/// Bytes of a message by which a reply is matched to its request: all but the
/// size and the padding.
pub const IDENTITY_BYTES: usize = 37;

/// A message that acknowledges.
pub const CLEAN: [u8; MESSAGE_BYTES] = [1; MESSAGE_BYTES];

const SIZE_CHARS: usize = 16;
const VERSION: u8 = b'1';
const EXTEND: &[u8; 4] = b"xtnd";
const EVENT_CODE: &[u8; 4] = b"\0evt";

/// Where a host's mailbox is in inbox and outbox, in bytes.
#[must_use]
pub fn offset(host: HostId) -> u64 {
    u64::from(host.get()) * 4096
}

/// Sum of the bytes up to the checksum. Bytes from [`CHECKSUM_OFFSET`] on are
/// not counted.
#[must_use]
pub fn checksum(mailbox: &[u8]) -> u32 {
    mailbox
        .iter()
        .take(CHECKSUM_OFFSET)
        .fold(0, |sum, &byte| sum.wrapping_add(u32::from(byte)))
}

/// Asks for a volume to be at least so large; also the reply, where size 0
/// says that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extend {
    /// The domain of the volume.
    pub domain: DomainId,
    /// The volume.
    pub volume: VolumeId,
    /// The size to be reached, in MiB. 0 in a reply: failed.
    pub size_mib: u32,
}

impl Extend {
    /// Whether this is an answer to (or a repetition of) the other: the size is
    /// not compared.
    #[must_use]
    pub fn same_request(&self, other: &Self) -> bool {
        (self.domain, self.volume) == (other.domain, other.volume)
    }
}

/// What a slot of a mailbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Nothing: the first byte is NUL.
    Empty,
    /// The acknowledgement.
    Clean,
    /// A request to extend, or its reply.
    Extend(Extend),
    /// Something else: of an unknown type, or not a message at all.
    Unknown([u8; MESSAGE_BYTES]),
}

impl Message {
    /// What the bytes say. Only what [`Message::encode`] makes is taken for an
    /// [`Extend`] or [`Message::Clean`].
    #[must_use]
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Self {
        if bytes[0] == 0 {
            return Self::Empty;
        }
        if *bytes == CLEAN {
            return Self::Clean;
        }
        extend(bytes)
            .map(Self::Extend)
            .filter(|message| message.encode() == *bytes)
            .unwrap_or(Self::Unknown(*bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        match self {
            Self::Empty => [0; MESSAGE_BYTES],
            Self::Clean => CLEAN,
            Self::Unknown(bytes) => *bytes,
            Self::Extend(extend) => {
                let mut domain = extend.domain.bytes();
                let mut volume = extend.volume.bytes();
                domain.reverse();
                volume.reverse();
                let size = format!("{:0SIZE_CHARS$x}", extend.size_mib);
                let parts: [&[u8]; 5] = [&[VERSION], EXTEND, &domain, &volume, size.as_bytes()];
                let mut bytes = [b'0'; MESSAGE_BYTES];
                for (place, &byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
                    *place = byte;
                }
                bytes
            }
        }
    }
}

fn extend(bytes: &[u8; MESSAGE_BYTES]) -> Option<Extend> {
    let rest = bytes.strip_prefix(&[VERSION])?.strip_prefix(EXTEND)?;
    let (domain, rest) = rest.split_first_chunk::<16>()?;
    let (volume, rest) = rest.split_first_chunk::<16>()?;
    let (size, _) = rest.split_first_chunk::<SIZE_CHARS>()?;
    let mut domain = *domain;
    let mut volume = *volume;
    domain.reverse();
    volume.reverse();
    let size = std::str::from_utf8(size).ok()?;
    Some(Extend {
        domain: DomainId::from_bytes(domain),
        volume: VolumeId::from_bytes(volume),
        size_mib: u32::from_str_radix(size, 16).ok()?,
    })
}

/// What the checksum of a mailbox says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// Every slot is empty and the checksum is zero: nothing to verify.
    Blank,
    /// There is something, and the checksum is zero: being written by nobody
    /// (hosts' mail always has one; an SPM's never has).
    None,
    /// Right.
    Good,
    /// Wrong: not to be believed now, to be looked at again later.
    Wrong {
        /// What is stored.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
}

/// One host's mailbox, in inbox or outbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Mailbox(Box<[u8; MAILBOX_BYTES]>);

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Mailbox {
    /// All zeros.
    #[must_use]
    pub fn new() -> Self {
        Self(Box::new([0; MAILBOX_BYTES]))
    }

    /// Of exactly [`MAILBOX_BYTES`] bytes.
    ///
    /// # Errors
    /// When there are more or fewer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes: &[u8; MAILBOX_BYTES] = bytes.try_into().map_err(|_| FormatError::Truncated {
            record: "mailbox",
            bytes: bytes.len(),
            needed: MAILBOX_BYTES,
        })?;
        Ok(Self(Box::new(*bytes)))
    }

    /// The bytes to write.
    #[must_use]
    pub fn bytes(&self) -> &[u8; MAILBOX_BYTES] {
        &self.0
    }

    /// The bytes of a slot; `None` from [`SLOTS`] on.
    #[must_use]
    pub fn slot(&self, slot: usize) -> Option<&[u8; MESSAGE_BYTES]> {
        if slot >= SLOTS {
            return None;
        }
        self.0.as_chunks().0.get(slot)
    }

    /// What a slot holds; [`Message::Empty`] from [`SLOTS`] on.
    #[must_use]
    pub fn message(&self, slot: usize) -> Message {
        self.slot(slot).map_or(Message::Empty, Message::decode)
    }

    /// All slots' messages that are not empty, with their slots.
    pub fn messages(&self) -> impl Iterator<Item = (usize, Message)> + '_ {
        self.0
            .as_chunks()
            .0
            .iter()
            .take(SLOTS)
            .map(Message::decode)
            .enumerate()
            .filter(|(_, message)| *message != Message::Empty)
    }

    /// Puts a message in a slot. The checksum is not touched: see
    /// [`Mailbox::seal`]. Says whether there is such a slot.
    pub fn put(&mut self, slot: usize, message: &Message) -> bool {
        if slot >= SLOTS {
            return false;
        }
        match self.0.as_chunks_mut().0.get_mut(slot) {
            Some(place) => {
                *place = message.encode();
                true
            }
            None => false,
        }
    }

    /// Writes the checksum, as hosts do.
    pub fn seal(&mut self) {
        let sum = checksum(self.0.as_slice());
        if let Some(place) = self.0.last_chunk_mut::<4>() {
            *place = sum.to_le_bytes();
        }
    }

    /// The checksum stored.
    #[must_use]
    pub fn stored_checksum(&self) -> u32 {
        self.0
            .last_chunk::<4>()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Judges the checksum.
    #[must_use]
    pub fn verify(&self) -> Seal {
        let found = self.stored_checksum();
        let computed = checksum(self.0.as_slice());
        if found == computed && found != 0 {
            Seal::Good
        } else if found != 0 {
            Seal::Wrong { found, computed }
        } else if self.messages().next().is_none() {
            Seal::Blank
        } else {
            Seal::None
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.messages()).finish()?;
        write!(out, " {:?}", self.verify())
    }
}

/// Tells the SPM that there is mail: block 0 of the inbox, with another random
/// id each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventBlock {
    /// The random id, in the order in which it is written.
    pub id: [u8; 16],
}

impl EventBlock {
    /// Bytes that have to be read to see an event.
    pub const USED_BYTES: usize = 20;

    /// The whole block.
    #[must_use]
    pub fn encode(&self) -> [u8; MAILBOX_BYTES] {
        let mut block = [0; MAILBOX_BYTES];
        let bytes = EVENT_CODE.iter().chain(&self.id);
        for (place, &byte) in block.iter_mut().zip(bytes) {
            *place = byte;
        }
        block
    }

    /// The block at the start of these bytes, when it is an event.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let id = Self::id_of(bytes)?;
        bytes.starts_with(EVENT_CODE).then_some(Self { id })
    }

    /// The bytes that an SPM compares, whatever the rest says.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> Option<[u8; 16]> {
        bytes.get(EVENT_CODE.len()..)?.first_chunk().copied()
    }
}
