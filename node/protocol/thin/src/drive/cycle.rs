//! One cycle: request, refresh, check of the size; and how much to ask for.

use super::{
    Armed, Drive, EXTEND_PATIENCE_MS, EXTEND_PATIENCE_MS_MAX, POLL_MS, PROBE_GAP_MS,
    REFRESH_PATIENCE_MS, Step,
};
use super::{Effect, ExtendOutcome, Notice, RefreshOutcome, State, Target, Ticket};
use crate::predict::CHUNKS_AHEAD_MAX;
use crate::size;
use crate::time::Monotonic;

impl Drive {
    pub(super) fn begin_cycle(&mut self, now: Monotonic) {
        self.noticed.get_or_insert(now);
        self.state = State::Exceeded;
        self.armed = None;
        self.wanted_bytes = size::next_bytes(
            self.physical_bytes,
            self.chunk_bytes(),
            self.maximum_bytes(),
        );
        if self.extends_off {
            self.back_off(now);
            return;
        }
        let first = if self.replicating {
            Target::Replica
        } else {
            Target::Source
        };
        self.first_request(now, first);
    }

    pub(super) fn first_request(&mut self, now: Monotonic, target: Target) {
        self.cycle_ticket = Ticket(self.ticket.0.wrapping_add(1));
        self.request(now, target);
    }

    pub(super) fn request(&mut self, now: Monotonic, target: Target) {
        let patience = EXTEND_PATIENCE_MS
            .saturating_mul(1u64 << self.attempts.min(8))
            .min(EXTEND_PATIENCE_MS_MAX);
        self.enter(Step::Extend(target), Some(now.plus_ms(patience)));
        self.effects.push_back(Effect::Extend {
            ticket: self.ticket,
            target,
            to_bytes: self.wanted_bytes,
        });
    }

    pub(super) fn on_extended(&mut self, now: Monotonic, ticket: Ticket, outcome: ExtendOutcome) {
        let Step::Extend(target) = self.step else {
            return;
        };
        let newest = ticket == self.ticket;
        match outcome {
            // Whatever was answered, the size after the refresh decides.
            ExtendOutcome::Done if newest || ticket >= self.cycle_ticket => {
                let next = if target == Target::Source && self.migrating {
                    Target::Destination
                } else {
                    target
                };
                self.refresh(now, next);
            }
            ExtendOutcome::Refused | ExtendOutcome::Failed if newest => {
                self.tell(Notice::Refused {
                    wanted_bytes: self.wanted_bytes,
                    attempts: self.attempts.saturating_add(1),
                });
                self.back_off(now);
            }
            ExtendOutcome::Done | ExtendOutcome::Refused | ExtendOutcome::Failed => {}
        }
    }

    pub(super) fn refresh(&mut self, now: Monotonic, target: Target) {
        self.enter(
            Step::Refresh(target),
            Some(now.plus_ms(REFRESH_PATIENCE_MS)),
        );
        self.effects.push_back(Effect::Refresh {
            ticket: self.ticket,
            target,
            to_bytes: self.wanted_bytes,
        });
    }

    pub(super) fn on_refreshed(&mut self, now: Monotonic, target: Target, outcome: RefreshOutcome) {
        let size_bytes = match outcome {
            RefreshOutcome::Done { size_bytes } => size_bytes,
            RefreshOutcome::Failed => {
                self.back_off(now);
                return;
            }
            RefreshOutcome::Impossible => {
                if target == Target::Destination {
                    // To go on would let this host write where the other
                    // cannot read.
                    self.extends_off = true;
                    self.tell(Notice::ExtendsOff);
                }
                self.back_off(now);
                return;
            }
        };
        if target == Target::Source {
            self.physical_bytes = size_bytes;
        }
        if size_bytes < self.wanted_bytes {
            self.tell(Notice::TooSmall {
                wanted_bytes: self.wanted_bytes,
                size_bytes,
            });
            self.back_off(now);
            return;
        }
        match target {
            Target::Replica => self.first_request(now, Target::Source),
            Target::Destination => self.refresh(now, Target::Source),
            Target::Source => self.finish(now),
        }
    }

    pub(super) fn finish(&mut self, now: Monotonic) {
        let took_ms = self.noticed.take().map_or(0, |then| now.ms_since(then));
        self.predictor.round_trip(took_ms);
        self.attempts = 0;
        self.fruitless = 0;
        self.fruitless_until = now;
        self.probed = false;
        self.extends = self.extends.saturating_add(1);
        self.tell(Notice::Extended {
            size_bytes: self.physical_bytes,
            took_ms,
        });
        if self.capacity_stale {
            self.sample(now);
        } else if self.physical_bytes >= self.maximum_bytes() {
            self.disable();
            self.satisfied();
        } else {
            self.follow_up = true;
            self.arm(now);
        }
    }

    pub(super) fn maximum_bytes(&self) -> u64 {
        size::maximum_measured_bytes(self.capacity_bytes, self.config.measured_bytes)
    }

    /// What the predictor wants free, if it is asked.
    pub(super) fn ahead_bytes(&self) -> u64 {
        if !self.config.predict {
            return 0;
        }
        let most = self
            .config
            .policy
            .chunk_bytes(false)
            .saturating_mul(CHUNKS_AHEAD_MAX);
        self.predictor.ahead_bytes().min(most)
    }

    /// L, or more for a guest that would outrun it.
    pub(super) fn free_limit_bytes(&self) -> u64 {
        self.config
            .policy
            .free_limit_bytes(self.replicating)
            .max(self.ahead_bytes())
    }

    /// C, or more: what is added has to outlast the next round trip too.
    pub(super) fn chunk_bytes(&self) -> u64 {
        let chunk = self.config.policy.chunk_bytes(self.replicating);
        let limit = self.config.policy.free_limit_bytes(self.replicating);
        chunk.max(
            self.free_limit_bytes()
                .saturating_add(chunk.saturating_sub(limit)),
        )
    }

    pub(super) fn threshold(&self) -> Armed {
        let limit = self.free_limit_bytes();
        let probe_at = self.physical_bytes.saturating_sub(limit.saturating_mul(2));
        if self.config.predict && !self.probed && probe_at > self.allocation_bytes {
            return Armed {
                at_bytes: probe_at,
                probe: true,
            };
        }
        Armed {
            at_bytes: size::threshold_bytes(self.physical_bytes, limit),
            probe: false,
        }
    }

    /// Whether the guest writes at half the rate that the free limit allows, or more.
    pub(super) fn fast(&self) -> bool {
        self.ahead_bytes() > self.config.policy.free_limit_bytes(self.replicating) / 2
    }

    pub(super) fn poll_ms(&self) -> u64 {
        let spare = self
            .physical_bytes
            .saturating_sub(self.allocation_bytes)
            .saturating_sub(self.free_limit_bytes());
        let rate = self.predictor.rate_bytes_per_s();
        let until_limit_ms = spare
            .saturating_mul(1000)
            .checked_div(rate)
            .unwrap_or(POLL_MS);
        (until_limit_ms / 2).clamp(PROBE_GAP_MS, POLL_MS)
    }
}
