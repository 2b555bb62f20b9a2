//! The one place where the supervisor reads a clock; everything pure gets the
//! time as an argument.

use std::time::{Duration, Instant};

use crate::boot::sequence::Millis;

/// Milliseconds since the kernel started (the monotonic clock, which wdmd's
/// clients and the lease daemon use too).
#[must_use]
pub fn now() -> Millis {
    u64::try_from(linux::system::monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// The timer's idea of the time `at`.
#[must_use]
pub fn instant(at: Millis) -> Instant {
    Instant::now() + Duration::from_millis(at.saturating_sub(now()))
}
