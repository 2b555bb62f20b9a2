//! Every timing of the protocol, derived from `T`, the I/O timeout of a
//! lockspace, and `W`, the watchdog's fire timeout (equal on all hosts).
//!
//! The safety argument, for the default T = 10 and W = 60, in seconds after a
//! holder *submitted* its last successful renewal:
//!
//! ```text
//!   0        20                 60        80                       140
//!   |---------|------------------|---------|------------------------|------▶
//!   renewal   next renewal       failing:  lost: holder stops;      others may
//!   submitted due (2T)           warn (6T) expiry at the watchdog   take over
//!                                          (8T), last ping at most  (8T + W),
//!                                          here, so the reset comes   never
//!                                          at most W later            sooner
//! ```
//!
//! The holder counts from the moment the timestamp was made, others from the
//! moment they *saw* the record change, which is later. Hence the holder's 8T
//! ends first, whatever the delays in between, and the watchdog's W covers a
//! holder that no longer runs at all.
//!
//! Acquiring a free lease rests on a second inequality: whoever writes does so
//! within T of having submitted its read and knows within T more whether the write is done
//! (or treats it as unknown, and waits like for a dead host); whoever has
//! written waits 2T before it looks again. So of two hosts that read "free",
//! the one that wrote first sees the other's record.

/// Seconds between renewals.
#[must_use]
pub const fn renewal_s(t: u8) -> u64 {
    2 * widen(t)
}

/// Seconds after which a missing renewal is reported.
#[must_use]
pub const fn failing_s(t: u8) -> u64 {
    6 * widen(t)
}

/// Seconds after which a lease counts as lost; the watchdog's expiry.
#[must_use]
pub const fn lost_s(t: u8) -> u64 {
    8 * widen(t)
}

/// Seconds without change after which a host is surely dead.
#[must_use]
pub const fn host_dead_s(t: u8, fire_timeout_s: u32) -> u64 {
    lost_s(t) + fire_timeout_s as u64
}

/// Seconds between writing a record at acquire and reading it back.
#[must_use]
pub const fn settle_s(t: u8) -> u64 {
    2 * widen(t)
}

/// Seconds after which a claim is too old to be held with any comfort: a
/// write, the settling and a read take at most so long.
#[must_use]
pub const fn claim_s(t: u8) -> u64 {
    settle_s(t) + 2 * io_s(t)
}

/// Seconds a read, or a write while acquiring, may take.
#[must_use]
pub const fn io_s(t: u8) -> u64 {
    widen(t)
}

/// Pause before a failed renewal is tried again, milliseconds.
pub const RETRY_PAUSE_MS: u64 = 500;

/// Pause before the first renewal of a lease that took 2T to acquire,
/// milliseconds.
pub const FIRST_PAUSE_MS: u64 = 500;

/// A difference of the two clocks that is a sleep and not the time between
/// reading them, nanoseconds.
pub const SLEEP_NS: u64 = 1_000_000_000;

/// Milliseconds after which a read or write of a renewal is reported as slow.
#[must_use]
pub const fn stalling_ms(t: u8) -> u64 {
    widen(t) * 500
}

/// The I/O timeout a record states, seconds: 0 is for the caller to replace
/// by its own. Only the low 8 bits are ever written by an acquire or renewal.
#[must_use]
pub const fn io_timeout_of_record(field: u16) -> u8 {
    field.to_le_bytes()[0]
}

/// Whether a watchdog that tests its clients every `test_interval_s` can be
/// satisfied: it warns, and stops pinging, `test_interval_s` before the
/// expiry, and a renewal only starts `2T` after the last one and takes time.
///
/// `margin_s` is that time.
#[must_use]
pub const fn watchdog_fits(t: u8, test_interval_s: u32, margin_s: u64) -> bool {
    lost_s(t) > test_interval_s as u64 + renewal_s(t) + margin_s
}

const fn widen(t: u8) -> u64 {
    t as u64
}

const _: () = {
    let mut t = 1;
    while t < 255 {
        // A claim is registered with time left for a few renewals.
        assert!(claim_s(t) + io_s(t) < failing_s(t));
        // A renewal is due, and has had two tries, before anybody warns.
        assert!(renewal_s(t) + 2 * io_s(t) < failing_s(t));
        // Slow storage is reported before it counts as failed.
        assert!(stalling_ms(t) < 1000 * io_s(t));
        // There is time between the warning and the loss.
        assert!(failing_s(t) < lost_s(t));
        // A holder has stopped before anybody else may start, even with no
        // watchdog time at all.
        assert!(lost_s(t) <= host_dead_s(t, 0));
        assert!(host_dead_s(t, 60) == lost_s(t) + 60);
        // Whoever reads back looks after every competing write has landed: a
        // read and a write, a timeout each.
        assert!(settle_s(t) >= 2 * io_s(t));
        t += 1;
    }
    // The original's numbers for the default.
    assert!(
        renewal_s(10) == 20
            && failing_s(10) == 60
            && lost_s(10) == 80
            && host_dead_s(10, 60) == 140
    );
    // The known trap (10 s test interval with T = 1) and the practical minimum.
    assert!(!watchdog_fits(1, 10, 1) && watchdog_fits(2, 10, 1) && watchdog_fits(10, 10, 10));
};
