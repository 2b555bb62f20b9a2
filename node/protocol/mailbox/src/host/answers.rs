//! What the outbox says.

use super::{Host, Slot};
use crate::mail::{self, Block, Extend, Message, SLOTS};
use crate::seam::{Note, Outcome};

impl Host {
    /// Looks at every slot in which something is awaited.
    pub(super) fn on_answers(&mut self, outbox: &Block) {
        let mut answered = false;
        for slot in 0..SLOTS {
            let (old, new) = (mail::slot(&self.seen, slot), mail::slot(outbox, slot));
            match self.slots[slot] {
                Slot::Free => {}
                Slot::Clean { .. } => {
                    if Message::decode(new) == Message::Clean {
                        self.free(slot);
                    }
                }
                Slot::Asked { job, .. } => {
                    if new == old {
                        continue;
                    }
                    match Message::decode(new) {
                        // CLEAN answers what was in the slot before.
                        Message::Empty | Message::Clean => {}
                        Message::Extend(answer) => answered |= self.on_answer(slot, job, &answer),
                        Message::Unknown(_) => self.notes(Some(Note::StaleReply { slot })),
                    }
                }
            }
        }
        if answered {
            self.change(true);
        }
    }

    /// Returns whether the answer was for what was asked in this slot, which is
    /// then acknowledged.
    fn on_answer(&mut self, slot: usize, number: u64, answer: &Extend) -> bool {
        let Some(asked) = self.jobs.get(&number).map(|job| job.extend) else {
            return false;
        };
        if !answer.same_request(&asked) {
            self.notes(Some(Note::StaleReply { slot }));
            return false;
        }
        let size_mib = answer.size_mib;
        // The SPM answers with the size that was asked for. A larger one is an
        // answer to somebody before us.
        if size_mib > asked.size_mib {
            self.notes(Some(Note::StaleReply { slot }));
            return false;
        }
        if size_mib == asked.size_mib {
            self.end(number, Outcome::Done);
        } else {
            self.refused(number, size_mib);
        }
        self.slots[slot] = Slot::Clean { since: self.now };
        mail::put(&mut self.image, slot, &Message::Clean);
        true
    }
}
