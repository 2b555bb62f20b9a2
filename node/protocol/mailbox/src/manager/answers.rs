//! What the inbox says.

use disk_format::vdsm::mailbox::CLEAN;

use super::{Manager, Ticket};
use crate::mail::{self, Block, MAILBOX_BYTES, Message, SLOTS, Seal};
use crate::seam::Note;
use crate::timings;

impl Manager {
    /// Takes in mailboxes from `first` on. Returns whether there is a request
    /// that was not there before.
    pub(super) fn on_mail(&mut self, first: usize, bytes: &[u8]) -> bool {
        let mut asked = false;
        let blocks = bytes.as_chunks::<MAILBOX_BYTES>().0;
        for (host, block) in (first..).zip(blocks) {
            if host == 0 || host >= self.peers.len() {
                continue;
            }
            let same = match &self.peers[host].inbox {
                None => is_zero(block),
                Some(known) => **known == *block,
            };
            if !same {
                asked |= self.on_mailbox(host, block);
            }
        }
        asked
    }

    fn on_mailbox(&mut self, host: usize, block: &Block) -> bool {
        match mail::judge(block) {
            Seal::Good | Seal::Blank => {}
            // Half written, or not by a host. What was known stays known, so
            // that it is looked at again at the next reading.
            Seal::Wrong => {
                self.complain(host, |host| Note::BadChecksum { host });
                return false;
            }
            Seal::Missing => return false,
        }
        let known = self.peers[host].inbox.take();
        let zero = [0; MAILBOX_BYTES];
        let old: &Block = known.as_deref().unwrap_or(&zero);
        let fresh = (!is_zero(block)).then(|| Box::new(*block));
        self.peers[host].inbox = fresh;
        let mut asked = false;
        let mut touched = false;
        for slot in 0..SLOTS {
            let (old, new) = (mail::slot(old, slot), mail::slot(block, slot));
            if old == new || new[0] == 0 {
                continue;
            }
            touched = true;
            if *new == CLEAN {
                self.tell(host, slot, &Message::Clean);
                continue;
            }
            match Message::decode(new) {
                Message::Extend(extend) => {
                    asked = true;
                    self.want(extend, Ticket::Mail { host, slot, extend });
                }
                Message::Unknown(bytes) => {
                    let head = *bytes.first_chunk().unwrap_or(&[0; 5]);
                    self.complain(host, |host| Note::NotUnderstood { host, slot, head });
                }
                Message::Empty | Message::Clean => {}
            }
        }
        if touched {
            self.looking.active(self.now);
        }
        asked
    }

    /// Tells of garbage, not too often for one host.
    fn complain(&mut self, host: usize, note: impl FnOnce(u16) -> Note) {
        let peer = &mut self.peers[host];
        let told = peer.complained.map(|at| at.plus_ms(timings::COMPLAIN_MS));
        if told.is_some_and(|until| self.now < until) {
            return;
        }
        peer.complained = Some(self.now);
        let note = note(u16::try_from(host).unwrap_or(u16::MAX));
        self.note(Some(note));
    }
}

/// Whether a mailbox is all zero; eight bytes at a time.
fn is_zero(block: &Block) -> bool {
    block
        .as_chunks::<64>()
        .0
        .iter()
        .all(|line| line.iter().fold(0, |any, byte| any | byte) == 0)
}
