//! A machine's clocks, none of which agrees with another machine's.
//!
//! World time is what an outside observer would measure, in nanoseconds. A
//! machine's boot-time clock starts somewhere else, runs a little faster or
//! slower (`rate_ppm`), and its monotonic clock stands still while the machine
//! sleeps, so that after a sleep the two have jumped apart.

use lease::{Monotonic, Now};

/// Nanoseconds in a second.
pub const S: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
const MILLION: i64 = 1_000_000;

/// The clocks of one boot of one machine.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// World time at which this boot began to count.
    pub booted: u64,
    /// Boot-time at that moment, ns: firmware and kernel have run before.
    pub offset: u64,
    /// How much faster than the world's, in millionths.
    pub rate_ppm: i32,
    /// How long it has slept, ns of its own.
    pub slept: u64,
}

impl Clock {
    /// Boot-time at a moment of world time.
    #[must_use]
    pub fn boottime(&self, world: u64) -> u64 {
        self.offset + self.lengthen(world.saturating_sub(self.booted))
    }

    /// Both clocks at a moment of world time.
    #[must_use]
    pub fn at(&self, world: u64) -> Now {
        let boottime = self.boottime(world);
        Now {
            monotonic: Monotonic(boottime.saturating_sub(self.slept)),
            boottime: Monotonic(boottime),
        }
    }

    /// The first moment of world time at which boot-time is `boottime`.
    #[must_use]
    pub fn world_at(&self, boottime: Monotonic) -> u64 {
        let since = boottime.0.saturating_sub(self.offset);
        let mut world = self.booted.saturating_add(self.shorten(since));
        // Division rounds; the moment must not come too early.
        while self.boottime(world) < boottime.0 && world < u64::MAX / 4 {
            world += 1;
        }
        world
    }

    /// A duration of the world in this machine's nanoseconds.
    #[must_use]
    pub fn lengthen(&self, world: u64) -> u64 {
        let drift = i64::try_from(world).unwrap_or(i64::MAX) / MILLION * i64::from(self.rate_ppm);
        world.saturating_add_signed(drift)
    }

    /// A duration of this machine in the world's nanoseconds.
    #[must_use]
    pub fn shorten(&self, own: u64) -> u64 {
        let rate = u128::from((MILLION + i64::from(self.rate_ppm)).unsigned_abs());
        u64::try_from(u128::from(own) * 1_000_000 / rate).unwrap_or(u64::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_hardly_late() {
        for rate_ppm in [-20_000, -137, 0, 211, 20_000] {
            let clock = Clock {
                booted: 1000 * S,
                offset: 7 * S,
                rate_ppm,
                slept: 0,
            };
            for second in [8, 9, 100, 5000] {
                let due = Monotonic(second * S + 1);
                let world = clock.world_at(due);
                assert!(clock.boottime(world) >= due.0);
                assert!(clock.boottime(world) - due.0 < MS);
            }
        }
    }
}
