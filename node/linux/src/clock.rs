//! The kernel's clocks, in nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: stops while the machine is suspended.
/// This is the clock whose seconds are written to disk and given to wdmd.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds of `CLOCK_BOOTTIME`: counts suspended time too. Whether
/// something has expired is decided by this one.
#[must_use]
pub fn boottime_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Both clocks start at 0 and 2^64 ns are 584 years.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let rest = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_includes_suspended_time() {
        let monotonic = monotonic_ns();
        assert!(monotonic > 0);
        assert!(boottime_ns() >= monotonic);
        assert!(monotonic_ns() >= monotonic);
    }
}
