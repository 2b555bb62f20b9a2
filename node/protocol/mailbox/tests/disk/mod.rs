//! Inbox and outbox in memory, without faults.
#![allow(dead_code, reason = "not every test needs all of it")]

use mailbox::{Effect, IoId, Volume};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1_000 * MS;

/// Both mailbox volumes.
pub(crate) struct Disk {
    pub(crate) inbox: Vec<u8>,
    pub(crate) outbox: Vec<u8>,
    /// Volume, offset and length of every write.
    pub(crate) writes: Vec<(Volume, u64, usize)>,
    /// The same of every read.
    pub(crate) reads: Vec<(Volume, u64, usize)>,
}

impl Disk {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            inbox: vec![0; bytes],
            outbox: vec![0; bytes],
            writes: Vec::new(),
            reads: Vec::new(),
        }
    }

    fn volume(&mut self, volume: Volume) -> &mut Vec<u8> {
        match volume {
            Volume::Inbox => &mut self.inbox,
            Volume::Outbox => &mut self.outbox,
        }
    }

    /// Does a read (and returns what was read) or a write.
    pub(crate) fn serve(&mut self, effect: &Effect) -> Option<(IoId, Option<Vec<u8>>)> {
        match effect {
            Effect::Read {
                io,
                volume,
                offset,
                length,
            } => {
                self.reads.push((*volume, *offset, *length));
                let first = usize::try_from(*offset).expect("valid");
                Some((
                    *io,
                    Some(self.volume(*volume)[first..first + length].to_vec()),
                ))
            }
            Effect::Write {
                io,
                volume,
                offset,
                bytes,
            } => {
                self.writes.push((*volume, *offset, bytes.len()));
                let first = usize::try_from(*offset).expect("valid");
                self.volume(*volume)[first..first + bytes.len()].copy_from_slice(bytes);
                Some((*io, None))
            }
            Effect::Extend(_) | Effect::Completed { .. } | Effect::Stopped => None,
        }
    }
}
