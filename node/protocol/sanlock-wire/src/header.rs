//! The 32 bytes in front of every request and reply.

use crate::command::Command;
use crate::wire::{Put, Reader};

/// Size of a header in bytes.
pub const HEADER_BYTES: usize = 32;
/// First field of every header.
pub const MAGIC: u32 = 0x0428_2010;
/// Version of the socket protocol: major 0 (high half), minor 1.
pub const PROTOCOL_VERSION: u32 = 1;

/// A header as on the wire, nothing judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Number of a [`Command`].
    pub cmd: u32,
    /// Flags of the command.
    pub cmd_flags: u32,
    /// Header and payload in bytes. Clients get it wrong; only for display,
    /// except in `SET_LVB`.
    pub length: u32,
    /// Echoed.
    pub seq: u32,
    /// Request: per command. Reply: the result.
    pub data: u32,
    /// Per command.
    pub data2: u32,
}

impl Header {
    /// The header of a request without flags, data and payload.
    #[must_use]
    pub fn request(command: Command) -> Self {
        Self {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
            cmd: command.number(),
            cmd_flags: 0,
            length: 32,
            seq: 0,
            data: 0,
            data2: 0,
        }
    }

    /// The command, if there is one with this number.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        Command::from_number(self.cmd)
    }

    /// Major version of the protocol the sender speaks.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version >> 16
    }

    /// `data` as a reply's result: negative is an error.
    #[must_use]
    pub fn result(&self) -> i32 {
        self.data.cast_signed()
    }

    /// Reads the fields.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut reader = Reader(bytes);
        Self {
            magic: reader.u32(),
            version: reader.u32(),
            cmd: reader.u32(),
            cmd_flags: reader.u32(),
            length: reader.u32(),
            seq: reader.u32(),
            data: reader.u32(),
            data2: reader.u32(),
        }
    }

    /// The header as on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = [
            self.magic,
            self.version,
            self.cmd,
            self.cmd_flags,
            self.length,
            self.seq,
            self.data,
            self.data2,
        ];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        for field in [
            self.magic,
            self.version,
            self.cmd,
            self.cmd_flags,
            self.length,
            self.seq,
            self.data,
            self.data2,
        ] {
            out.put_u32(field);
        }
    }
}
