//! Requests: taken, joined, put into slots, given up.

use super::{Host, Job, Slot, Stage};
use crate::mail::{self, Extend, MESSAGE_BYTES, Message, SLOTS};
use crate::seam::{Note, Outcome, RequestId};
use crate::timings;

impl Host {
    pub(super) fn on_extend(&mut self, request: RequestId, extend: Extend) {
        match self.stage {
            Stage::Stopping { .. } | Stage::Stopped => {
                return self.answer(&[request], Outcome::Stopped);
            }
            Stage::Baseline | Stage::Clearing | Stage::Running => {}
        }
        // Nobody can be asked for nothing: an answer of size 0 means refused.
        if extend.size_mib == 0 {
            return self.answer(&[request], Outcome::Refused);
        }
        if let Some(job) = self.jobs.values_mut().find(|job| job.extend == extend) {
            if job.callers.len() < timings::CALLERS_MAX {
                return job.callers.push(request);
            }
            return self.answer(&[request], Outcome::Full);
        }
        if self.jobs.len() >= timings::JOBS_MAX {
            return self.answer(&[request], Outcome::Full);
        }
        let job = Job {
            extend,
            callers: vec![request],
            slot: None,
            give_up_at: self.now.plus_ms(timings::GIVE_UP_MS),
            not_before: self.now,
            refusals: 0,
            resends: 0,
        };
        self.jobs.insert(self.next_job, job);
        self.next_job += 1;
        self.look_at = self.now.min(self.look_at);
    }

    /// Answers those that have waited for too long.
    pub(super) fn expire_jobs(&mut self) {
        while let Some(number) = self
            .jobs
            .iter()
            .find(|(_, job)| job.give_up_at <= self.now)
            .map(|(number, _)| *number)
        {
            let Some(job) = self.jobs.remove(&number) else {
                return;
            };
            if let Some(slot) = job.slot {
                self.free(slot);
            }
            self.answer(&job.callers, Outcome::Unanswered);
        }
    }

    /// Frees slots in which nothing happens any more.
    pub(super) fn expire_slots(&mut self) {
        for slot in 0..SLOTS {
            match self.slots[slot] {
                Slot::Free => {}
                Slot::Clean { since } => {
                    if self.now >= since.plus_ms(timings::CLEAN_LIMIT_MS) {
                        self.free(slot);
                    }
                }
                Slot::Asked { job, since } => {
                    let Some(job) = self.jobs.get_mut(&job) else {
                        continue;
                    };
                    if self.now < since.plus_ms(timings::RESEND_MS << job.resends.min(8)) {
                        continue;
                    }
                    job.resends += 1;
                    job.slot = None;
                    job.not_before = self.now;
                    let note = Note::SentAgain {
                        extend: job.extend,
                        waited_ms: self.now.ms_since(since),
                    };
                    self.notes(Some(note));
                    self.free(slot);
                }
            }
        }
    }

    pub(super) fn free(&mut self, slot: usize) {
        self.slots[slot] = Slot::Free;
        mail::put(&mut self.image, slot, &Message::Empty);
        // Without an event: the SPM need not know soon.
        self.change(false);
    }

    /// Puts requests into free slots.
    pub(super) fn fill_slots(&mut self) {
        if !self.fresh {
            return;
        }
        let ready: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.slot.is_none() && job.not_before <= self.now)
            .map(|(number, _)| *number)
            .collect();
        for number in ready {
            let Some(extend) = self.jobs.get(&number).map(|job| job.extend) else {
                continue;
            };
            let message = Message::Extend(extend);
            let Some(slot) = self.choose(&message.encode()) else {
                return;
            };
            mail::put(&mut self.image, slot, &message);
            self.slots[slot] = Slot::Asked {
                job: number,
                since: self.now,
            };
            if let Some(job) = self.jobs.get_mut(&number) {
                job.slot = Some(slot);
            }
            self.next_slot = (slot + 1) % SLOTS;
            self.change(true);
        }
    }

    /// A free slot, in turn. Not one in which the outbox still holds an answer
    /// about this very volume, since the new one could look the same.
    fn choose(&self, message: &[u8; MESSAGE_BYTES]) -> Option<usize> {
        let free = || {
            (0..SLOTS)
                .map(|step| (self.next_slot + step) % SLOTS)
                .filter(|slot| self.slots[*slot] == Slot::Free)
        };
        free()
            .find(|slot| !mail::is_about(mail::slot(&self.seen, *slot), message))
            .or_else(|| free().find(|slot| mail::slot(&self.seen, *slot) != message))
    }

    pub(super) fn refused(&mut self, number: u64, answer_mib: u32) {
        let Some(job) = self.jobs.get_mut(&number) else {
            return;
        };
        job.slot = None;
        job.refusals += 1;
        let pause = timings::REFUSED_PAUSE_MS << (2 * (job.refusals - 1).min(8));
        job.not_before = self.now.plus_ms(pause);
        let (extend, times) = (job.extend, job.refusals);
        self.notes(Some(Note::Refused {
            extend,
            answer_mib,
            times,
        }));
        if times >= timings::REFUSALS_MAX {
            self.end(number, Outcome::Refused);
        }
    }

    pub(super) fn end(&mut self, number: u64, outcome: Outcome) {
        if let Some(job) = self.jobs.remove(&number) {
            self.answer(&job.callers, outcome);
        }
    }
}
