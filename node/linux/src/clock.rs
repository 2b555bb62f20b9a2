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

/// A time of day as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// Such as 2026.
    pub year: i32,
    /// 1–12.
    pub month: i32,
    /// 1–31.
    pub day: i32,
    /// 0–23.
    pub hour: i32,
    /// 0–59.
    pub minute: i32,
    /// 0–60.
    pub second: i32,
}

/// What the clocks on the wall of this machine's time zone say at a number of
/// seconds since 1970; `None`: more than they can say.
#[must_use]
pub fn local_time(unix_s: i64) -> Option<Calendar> {
    // SAFETY: tm is plain numbers and a pointer, for which all zeroes is a value.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to values of their type that outlive the call.
    let found = unsafe { libc::localtime_r(&raw const unix_s, &raw mut fields) };
    (!found.is_null()).then_some(Calendar {
        year: fields.tm_year.checked_add(1900)?,
        month: fields.tm_mon + 1,
        day: fields.tm_mday,
        hour: fields.tm_hour,
        minute: fields.tm_min,
        second: fields.tm_sec,
    })
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
    fn local_time_is_what_the_system_prints() {
        for unix_s in [0, 1_700_000_000, 1_720_000_000] {
            let output = std::process::Command::new("date")
                .arg(format!("--date=@{unix_s}"))
                .arg("+%Y %-m %-d %-H %-M %-S")
                .output()
                .expect("date is part of every system");
            let text = String::from_utf8(output.stdout).expect("text");
            let found = local_time(unix_s).expect("a time");
            let Calendar {
                year,
                month,
                day,
                hour,
                minute,
                second,
            } = found;
            assert_eq!(
                text.trim(),
                format!("{year} {month} {day} {hour} {minute} {second}")
            );
        }
        assert_eq!(local_time(i64::MAX), None);
    }

    #[test]
    fn boot_time_includes_suspended_time() {
        let monotonic = monotonic_ns();
        assert!(monotonic > 0);
        assert!(boottime_ns() >= monotonic);
        assert!(monotonic_ns() >= monotonic);
    }
}
