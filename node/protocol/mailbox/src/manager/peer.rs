//! What the SPM knows of one host's mailboxes.

use lease::Monotonic;

use super::Manager;
use crate::desk::sooner;
use crate::mail::{self, Block, MAILBOX_BYTES, MESSAGE_BYTES, Message, SLOTS};
use crate::timings;

/// One host. Most hosts have nothing in their mailboxes: no memory for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// The inbox as last read and believed; `None`: all zero.
    pub(super) inbox: Option<Box<Block>>,
    /// What the outbox shall hold; `None`: all zero.
    pub(super) outbox: Option<Box<Block>>,
    /// The outbox does not surely hold that.
    pub(super) dirty: bool,
    /// When to write it again, and the pause that led there.
    pub(super) repeat: Option<(Monotonic, u64)>,
    /// When its garbage was last told.
    pub(super) complained: Option<Monotonic>,
}

impl Peer {
    /// What the inbox held in a slot.
    pub(super) fn asked(&self, slot: usize) -> [u8; MESSAGE_BYTES] {
        self.inbox
            .as_ref()
            .map_or([0; MESSAGE_BYTES], |block| *mail::slot(block, slot))
    }

    /// What the outbox shall hold in a slot.
    fn told(&self, slot: usize) -> [u8; MESSAGE_BYTES] {
        self.outbox
            .as_ref()
            .map_or([0; MESSAGE_BYTES], |block| *mail::slot(block, slot))
    }

    /// Whether the host has something in its mailbox that we have answered:
    /// then it has not seen the answer yet, or not said so.
    pub(super) fn is_unsettled(&self) -> bool {
        self.inbox.is_some()
            && (0..SLOTS).any(|slot| {
                let asked = self.asked(slot);
                asked[0] != 0 && mail::is_about(&asked, &self.told(slot))
            })
    }

    /// Adds its mailbox of the outbox.
    pub(super) fn append(&mut self, bytes: &mut Vec<u8>, checksum: bool) {
        match &mut self.outbox {
            None => bytes.resize(bytes.len() + MAILBOX_BYTES, 0),
            Some(block) => {
                if checksum {
                    mail::seal(block);
                }
                bytes.extend_from_slice(block.as_slice());
            }
        }
    }
}

impl Manager {
    /// Puts something in a slot of a host's mailbox of the outbox.
    pub(super) fn tell(&mut self, host: usize, slot: usize, message: &Message) {
        let peer = &mut self.peers[host];
        let block = peer
            .outbox
            .get_or_insert_with(|| Box::new([0; MAILBOX_BYTES]));
        mail::put(block, slot, message);
        let at = self.now.plus_ms(timings::REPEAT_MS);
        peer.repeat = Some((at, timings::REPEAT_MS));
        self.repeat_at = sooner(self.repeat_at, Some(at));
        self.soil(host);
        self.looking.active(self.now);
    }

    /// A host's mailbox of the outbox has to be written.
    pub(super) fn soil(&mut self, host: usize) {
        let peer = &mut self.peers[host];
        if !peer.dirty {
            peer.dirty = true;
            self.dirty += 1;
        }
    }

    pub(super) fn rewrite_all(&mut self) {
        for host in 1..self.peers.len() {
            if self.peers[host].outbox.is_some() {
                self.soil(host);
            }
        }
    }

    /// Writes again what hosts seem not to have seen: the write may have been
    /// lost, or an older one of another SPM have landed on top.
    pub(super) fn repeat(&mut self) {
        if self.repeat_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.repeat_at = None;
        for host in 1..self.peers.len() {
            let peer = &mut self.peers[host];
            let Some((at, pause)) = peer.repeat else {
                continue;
            };
            if self.now < at {
                self.repeat_at = sooner(self.repeat_at, Some(at));
            } else if peer.is_unsettled() {
                let pause = (2 * pause).min(timings::REPEAT_MAX_MS);
                let at = self.now.plus_ms(pause);
                peer.repeat = Some((at, pause));
                self.repeat_at = sooner(self.repeat_at, Some(at));
                self.soil(host);
            } else {
                peer.repeat = None;
            }
        }
    }
}
