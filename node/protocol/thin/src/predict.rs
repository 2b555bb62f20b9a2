//! How fast the guest writes, how long more space takes, and so how early and
//! how much to ask for.
//!
//! With F bytes free when more is asked for, a guest that writes r bytes a second
//! is not paused if F > r × (round trip). The free limit L alone gives F = L; for
//! a faster guest F has to grow with r. That costs nobody but this host's
//! volume: when to ask and how much is not on the disk.

use crate::time::Monotonic;

/// What a round trip is taken for before one was measured: event, mail, extend,
/// refresh as others measured them.
const FIRST_ROUND_TRIP_MS: u64 = 1400;
/// A round trip longer than this is an outage, which no chunk can bridge.
const ROUND_TRIP_MS_MAX: u64 = 10_000;
/// Two samples closer than this say little about the rate.
const SAMPLE_GAP_MS_MIN: u64 = 50;
/// After this time the rate of the past has no weight.
const RATE_MEMORY_MS: u64 = 4000;
/// The rate may grow while we wait, and is known only from the past.
const MARGIN_PERCENT: u64 = 150;
/// At most so many chunks are kept free because of a high rate: a burst must not
/// take a whole volume group.
pub(crate) const CHUNKS_AHEAD_MAX: u64 = 8;

/// The last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    at: Monotonic,
    allocation_bytes: u64,
    written_bytes: Option<u64>,
}

/// Measures and foretells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predictor {
    last: Option<Known>,
    rate_bytes_per_s: u64,
    round_trip_ms: u64,
    deviation_ms: u64,
    measured: bool,
}

impl Default for Predictor {
    fn default() -> Self {
        Self {
            last: None,
            rate_bytes_per_s: 0,
            round_trip_ms: FIRST_ROUND_TRIP_MS,
            deviation_ms: 0,
            measured: false,
        }
    }
}

impl Predictor {
    /// Takes the highest written offset at `now`, and how much the guest has
    /// written in all where that is known.
    ///
    /// QEMU knows the highest offset only since it opened the file: the first
    /// write to new space can make it jump by gigabytes. What the guest has
    /// really written is an upper limit to what it has newly allocated.
    pub fn allocation(
        &mut self,
        now: Monotonic,
        allocation_bytes: u64,
        written_bytes: Option<u64>,
    ) {
        let sample = Known {
            at: now,
            allocation_bytes,
            written_bytes,
        };
        let Some(before) = self.last else {
            self.last = Some(sample);
            return;
        };
        let elapsed_ms = now.ms_since(before.at);
        if allocation_bytes < before.allocation_bytes || before.allocation_bytes == 0 {
            // Another file below the drive, or none known: nothing to compare with.
            self.last = Some(sample);
            return;
        }
        if elapsed_ms < SAMPLE_GAP_MS_MIN {
            return;
        }
        self.last = Some(sample);
        let mut added = allocation_bytes - before.allocation_bytes;
        if let (Some(now), Some(then)) = (written_bytes, before.written_bytes) {
            added = added.min(now.saturating_sub(then));
        }
        let measured = added.saturating_mul(1000) / elapsed_ms;
        self.rate_bytes_per_s = if measured >= self.rate_bytes_per_s {
            measured
        } else {
            let weight = elapsed_ms.min(RATE_MEMORY_MS);
            let fall = (self.rate_bytes_per_s - measured) / RATE_MEMORY_MS * weight;
            self.rate_bytes_per_s - fall
        };
    }

    /// Forgets the offset, not the rate: what the drive lies on has changed.
    pub fn moved(&mut self) {
        self.last = None;
    }

    /// Takes how long it was from noticing to having the space.
    pub fn round_trip(&mut self, ms: u64) {
        let ms = ms.min(ROUND_TRIP_MS_MAX);
        if !self.measured {
            self.measured = true;
            self.round_trip_ms = ms;
            self.deviation_ms = ms / 2;
            return;
        }
        let off = self.round_trip_ms.abs_diff(ms);
        self.deviation_ms = (self.deviation_ms * 3 + off) / 4;
        self.round_trip_ms = (self.round_trip_ms * 7 + ms) / 8;
    }

    /// Bytes a second the guest writes to new space; remembers peaks for a while.
    #[must_use]
    pub fn rate_bytes_per_s(&self) -> u64 {
        self.rate_bytes_per_s
    }

    /// How long to expect from noticing to having the space: the mean and four
    /// times its deviation, as for a retransmission timer.
    #[must_use]
    pub fn round_trip_ms(&self) -> u64 {
        (self.round_trip_ms + 4 * self.deviation_ms).min(ROUND_TRIP_MS_MAX)
    }

    /// What the guest is expected to write during a round trip, with a margin.
    #[must_use]
    pub fn ahead_bytes(&self) -> u64 {
        let written = u128::from(self.rate_bytes_per_s) * u128::from(self.round_trip_ms()) / 1000;
        let ahead = written * u128::from(MARGIN_PERCENT) / 100;
        u64::try_from(ahead).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::MIB;

    #[test]
    fn steady_writer_is_measured_exactly() {
        let mut predictor = Predictor::default();
        for step in 0..10u64 {
            predictor.allocation(
                Monotonic(0).plus_ms(step * 100),
                (step + 1) * 50 * MIB,
                None,
            );
        }
        assert_eq!(predictor.rate_bytes_per_s(), 500 * MIB);
    }

    #[test]
    fn rate_rises_at_once_and_is_forgotten_within_four_seconds() {
        let mut predictor = Predictor::default();
        predictor.allocation(Monotonic(0), MIB, None);
        predictor.allocation(Monotonic(0).plus_ms(100), 101 * MIB, None);
        assert_eq!(predictor.rate_bytes_per_s(), 1000 * MIB);
        predictor.allocation(Monotonic(0).plus_ms(2100), 101 * MIB, None);
        let halfway = predictor.rate_bytes_per_s();
        assert!(halfway > 450 * MIB && halfway < 550 * MIB, "{halfway}");
        predictor.allocation(Monotonic(0).plus_ms(7000), 101 * MIB, None);
        assert!(predictor.rate_bytes_per_s() < MIB);
    }

    #[test]
    fn samples_too_close_are_put_together() {
        let mut predictor = Predictor::default();
        predictor.allocation(Monotonic(0), MIB, None);
        predictor.allocation(Monotonic(0).plus_ms(1), 65 * MIB, None);
        assert_eq!(predictor.rate_bytes_per_s(), 0);
        predictor.allocation(Monotonic(0).plus_ms(1000), 65 * MIB, None);
        assert_eq!(predictor.rate_bytes_per_s(), 64 * MIB);
    }

    #[test]
    fn lower_allocation_is_a_new_beginning() {
        let mut predictor = Predictor::default();
        predictor.allocation(Monotonic(0), 900 * MIB, None);
        predictor.allocation(Monotonic(0).plus_ms(1000), 101 * MIB, None);
        predictor.allocation(Monotonic(0).plus_ms(2000), 111 * MIB, None);
        assert_eq!(predictor.rate_bytes_per_s(), 10 * MIB);
    }

    #[test]
    fn first_known_offset_and_jumps_are_no_rate() {
        let mut predictor = Predictor::default();
        predictor.allocation(Monotonic(0), 0, Some(0));
        predictor.allocation(Monotonic(0).plus_ms(1000), 40_000 * MIB, Some(MIB));
        assert_eq!(predictor.rate_bytes_per_s(), 0);
        predictor.allocation(Monotonic(0).plus_ms(2000), 80_000 * MIB, Some(3 * MIB));
        assert_eq!(predictor.rate_bytes_per_s(), 2 * MIB);
    }

    #[test]
    fn round_trip_follows_what_is_measured_with_its_spread() {
        let mut predictor = Predictor::default();
        assert_eq!(predictor.round_trip_ms(), FIRST_ROUND_TRIP_MS);
        for _ in 0..50 {
            predictor.round_trip(600);
        }
        assert!((600..650).contains(&predictor.round_trip_ms()));
        predictor.round_trip(2000);
        assert!(predictor.round_trip_ms() > 1400);
        predictor.round_trip(u64::MAX);
        assert!(predictor.round_trip_ms() <= ROUND_TRIP_MS_MAX);
    }
}
