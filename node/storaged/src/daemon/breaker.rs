//! When to stop asking somebody who does not answer, and when to try again.

use std::time::{Duration, Instant};

/// Unanswered pieces of work in a row until the circuit opens.
const TOLERATED: u32 = 2;
/// First pause, and how long it gets by doubling.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Counts what was not answered in time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker {
    unanswered: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether work may be tried at `now`; `Err` is how long it may not. Once
    /// the pause is over one piece is let through, whose end decides.
    pub(crate) fn allows(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(until) = self.open_until else {
            return Ok(());
        };
        if let Some(left) = until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
        {
            return Err(left);
        }
        // Half open: nobody else until this one has ended or the pause is over again.
        self.open_until = Some(now + self.pause());
        Ok(())
    }

    /// Work was answered, well or badly: somebody is there.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// Work was given up.
    pub(crate) fn unanswered(&mut self, now: Instant) {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered >= TOLERATED {
            self.open_until = Some(now + self.pause());
        }
    }

    /// Whether requests are being refused.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| until > now)
    }

    fn pause(&self) -> Duration {
        let doublings = self.unanswered.saturating_sub(TOLERATED).min(10);
        (PAUSE_MIN * 2u32.pow(doublings)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_two_and_lets_one_through_after_each_pause() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.allows(start), Ok(()));
        breaker.unanswered(start);
        assert_eq!(breaker.allows(start), Ok(()), "one may be an accident");
        breaker.unanswered(start);
        assert_eq!(breaker.allows(start), Err(PAUSE_MIN));
        let later = start + PAUSE_MIN;
        assert_eq!(breaker.allows(later), Ok(()), "half open");
        assert!(breaker.allows(later).is_err(), "one at a time");
        breaker.unanswered(later);
        assert_eq!(breaker.allows(later), Err(2 * PAUSE_MIN));
        breaker.answered();
        assert_eq!(breaker.allows(later), Ok(()));
    }

    #[test]
    fn pauses_are_bounded() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.unanswered(now);
        }
        assert_eq!(breaker.allows(now), Err(PAUSE_MAX));
    }
}
