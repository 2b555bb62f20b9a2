//! Time as an argument.

use std::fmt;

const NS_PER_S: u64 = 1_000_000_000;

/// A point on a clock that never goes back, in nanoseconds since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Whole seconds since the clock's start.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / NS_PER_S
    }

    /// This point and some seconds; stays at the end of time.
    #[must_use]
    pub const fn plus_s(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(NS_PER_S)))
    }

    /// This point and some milliseconds; stays at the end of time.
    #[must_use]
    pub const fn plus_ms(self, milliseconds: u64) -> Self {
        Self(
            self.0
                .saturating_add(milliseconds.saturating_mul(1_000_000)),
        )
    }

    /// Milliseconds from an earlier point to this one; 0 if that one is later.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

impl fmt::Display for Monotonic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}.{:03} s",
            self.seconds(),
            self.0 % NS_PER_S / 1_000_000
        )
    }
}

/// The two clocks at one moment.
///
/// `monotonic` stops while the machine is suspended; its seconds go to disk
/// and to the watchdog, which both speak of that clock. `boottime` does not
/// stop; every wait and every expiry is decided by it, so that a machine which
/// slept through its lease knows so at its first instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Now {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Monotonic,
    /// `CLOCK_BOOTTIME`.
    pub boottime: Monotonic,
}

impl Now {
    /// The later of two readings, each clock for itself: threads may hand in
    /// readings out of order.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            monotonic: self.monotonic.max(other.monotonic),
            boottime: self.boottime.max(other.boottime),
        }
    }
}
