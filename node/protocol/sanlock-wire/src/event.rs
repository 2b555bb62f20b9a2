//! What an event connection receives.

use crate::header::{HEADER_BYTES, Header, MAGIC, PROTOCOL_VERSION};
use crate::structs::HostEvent;
use crate::wire::{Put, Reader};

/// An event as delivered: 80 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMessage {
    /// The event; `host_id` is the receiver's.
    pub event: HostEvent,
    /// Host id of the sender.
    pub from_host_id: u64,
    /// Generation of the sender.
    pub from_generation: u64,
}

impl EventMessage {
    /// Size in bytes.
    pub const BYTES: usize = 80;
    /// What a client writes on its event connection before it closes it.
    pub const END: [u8; 4] = [1, 0, 0, 0];

    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        let header = Header {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
            cmd: 1,
            cmd_flags: 0,
            length: 80,
            seq: 0,
            data: 0,
            data2: 0,
        };
        header.put(&mut out);
        self.event.put(&mut out);
        out.put_u64(self.from_host_id);
        out.put_u64(self.from_generation);
        out
    }

    /// The event of a message; `None` if it is not one.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let header = Header::decode(&reader.bytes::<HEADER_BYTES>());
        (header.magic == MAGIC && header.cmd == 1).then(|| Self {
            event: HostEvent::read(&mut reader),
            from_host_id: reader.u64(),
            from_generation: reader.u64(),
        })
    }
}
