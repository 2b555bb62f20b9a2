//! The watchdog of one machine: a service that pets the hardware, and the
//! hardware that resets the machine when nobody has petted it for `W`.
//!
//! The service knows a list of expiries, one for each connection. It stops
//! petting one test interval before the earliest of them, so the last pet
//! comes somewhere in the two intervals before that expiry; the reset follows
//! `W` after the last pet. A connection that breaks leaves its expiry behind
//! for ever. A frozen machine does not pet. The hardware counts on while the
//! machine is frozen or asleep, and so does the service's clock: a kernel
//! whose hardware stops counting in sleep must not be put to sleep with a
//! lease held.

use crate::clock::{Clock, S};

/// A connection of a process, by its number.
pub type ConnectionId = u64;

#[derive(Debug, Clone, Copy)]
struct Entry {
    connection: ConnectionId,
    /// Monotonic seconds; 0 = none.
    expire_s: u64,
    open: bool,
}

/// The watchdog, between two resets.
#[derive(Debug, Clone)]
pub struct Watchdog {
    /// W, seconds.
    pub fire_timeout_s: u32,
    /// Between two tests, seconds.
    pub interval_s: u32,
    /// How long before the last possible moment the last pet is, ns.
    early: u64,
    entries: Vec<Entry>,
    /// World time after which there is no pet any more.
    stops: Option<u64>,
}

/// Seconds between two tests for a fire timeout (spec §6.9).
#[must_use]
pub fn test_interval_s(fire_timeout_s: u32) -> u32 {
    match fire_timeout_s {
        60.. => 10,
        30..60 => 5,
        10..30 => 2,
        _ => 1,
    }
}

impl Watchdog {
    /// Armed, with no expiry. `early` ns is drawn once: where between two
    /// tests the last one falls.
    #[must_use]
    pub fn new(fire_timeout_s: u32, early: u64) -> Self {
        Self {
            fire_timeout_s,
            interval_s: test_interval_s(fire_timeout_s),
            early,
            entries: Vec::new(),
            stops: None,
        }
    }

    /// Sets a connection's expiry (0: none).
    pub fn set(&mut self, connection: ConnectionId, expire_s: u64, clock: &Clock, now: u64) {
        match self
            .entries
            .iter_mut()
            .find(|entry| entry.connection == connection)
        {
            Some(entry) => entry.expire_s = expire_s,
            None => self.entries.push(Entry {
                connection,
                expire_s,
                open: true,
            }),
        }
        self.settle(clock, now);
    }

    /// A connection broke, or its process ended.
    pub fn close(&mut self, connection: ConnectionId) {
        for entry in &mut self.entries {
            if entry.connection == connection {
                entry.open = false;
            }
        }
        self.entries
            .retain(|entry| entry.open || entry.expire_s != 0);
    }

    /// Works out anew when petting stops, after a change at `now`.
    fn settle(&mut self, clock: &Clock, now: u64) {
        let first = self
            .entries
            .iter()
            .filter(|entry| entry.expire_s != 0)
            .map(|entry| entry.expire_s.saturating_sub(u64::from(self.interval_s)))
            .min();
        self.stops = first.map(|seconds| {
            // Monotonic seconds plus the sleep so far are boot-time.
            let stop = clock.world_at(lease::Monotonic(
                seconds.saturating_mul(S).saturating_add(clock.slept),
            ));
            if stop > now {
                stop
            } else {
                // Too late already: the last pet was before, or just now.
                self.stops.unwrap_or(now).min(now)
            }
        });
    }

    /// World time of the reset, if nothing changes. `frozen_since` is when
    /// the machine last ran, if it is frozen.
    #[must_use]
    pub fn fires_at(&self, clock: &Clock, frozen_since: Option<u64>) -> Option<u64> {
        let last = match (self.stops, frozen_since) {
            (Some(stop), Some(frozen)) => stop.min(frozen),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return None,
        };
        let fuse = clock.shorten(u64::from(self.fire_timeout_s) * S);
        Some(last.saturating_sub(self.early) + fuse)
    }

    /// Whether a connection's expiry is registered.
    #[must_use]
    pub fn guards(&self, connection: ConnectionId) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.connection == connection && entry.expire_s != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock {
        booted: 0,
        offset: 0,
        rate_ppm: 0,
        slept: 0,
    };

    #[test]
    fn it_fires_w_after_the_last_pet_whatever_its_client_does() {
        let mut dog = Watchdog::new(60, 3 * S);
        assert_eq!(dog.fires_at(&CLOCK, None), None);
        dog.set(1, 80, &CLOCK, 5 * S);
        assert_eq!(dog.fires_at(&CLOCK, None), Some((80 - 10 - 3 + 60) * S));
        dog.close(1);
        dog.set(2, 500, &CLOCK, 6 * S);
        assert_eq!(
            dog.fires_at(&CLOCK, None),
            Some(127 * S),
            "the broken connection's expiry stays"
        );
    }

    #[test]
    fn a_late_renewal_resumes_the_petting_and_a_too_late_one_does_not() {
        let mut dog = Watchdog::new(60, 0);
        dog.set(1, 80, &CLOCK, 0);
        dog.set(1, 85, &CLOCK, 79 * S);
        assert_eq!(dog.fires_at(&CLOCK, None), Some(130 * S), "no pet since 70");
        dog.set(1, 160, &CLOCK, 80 * S);
        assert_eq!(dog.fires_at(&CLOCK, None), Some(210 * S));
    }

    #[test]
    fn a_frozen_machine_is_reset_although_nothing_is_registered() {
        let dog = Watchdog::new(60, 0);
        assert_eq!(dog.fires_at(&CLOCK, Some(7 * S)), Some(67 * S));
    }
}
