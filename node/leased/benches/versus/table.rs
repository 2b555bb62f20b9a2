//! What was measured, a line each.

use std::time::Duration;

/// What a number is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Microseconds,
    PerSecond,
    Kib,
    Count,
    Seconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Microseconds => format!("{value:.0} µs"),
            Self::PerSecond => format!("{value:.0} /s"),
            Self::Kib => format!("{:.1} MiB", value / 1024.0),
            Self::Count => format!("{value:.1}"),
            Self::Seconds => format!("{value:.2} s"),
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond)
    }
}

/// Prints one comparison; the ratio says how many times better ours is.
pub(crate) fn line(place: &str, what: &str, unit: Unit, original: f64, ours: f64) {
    let ratio = if unit.more_is_better() {
        ours / original
    } else {
        original / ours
    };
    println!(
        "{place:<16} {what:<44} {:>12} {:>12} {ratio:>7.1} x",
        unit.show(original),
        unit.show(ours)
    );
}

/// Prints the columns' names.
pub(crate) fn head() {
    println!(
        "{:<16} {:<44} {:>12} {:>12} {:>9}",
        "storage", "measure", "original", "ours", "better by"
    );
}

/// The value below which this share of the samples lies, in microseconds.
pub(crate) fn percentile(samples: &mut [Duration], share: f64) -> f64 {
    samples.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the number of samples"
    )]
    let index = (samples.len().saturating_sub(1) as f64 * share).round() as usize;
    samples
        .get(index)
        .map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e6)
}
