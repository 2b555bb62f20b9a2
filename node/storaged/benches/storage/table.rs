//! What was measured, a line each.

use std::time::Duration;

/// What a number is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    PerSecond,
    Percent,
    KibPerSecond,
    MibPerSecond,
    Mib,
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::PerSecond => format!("{value:.1} /s"),
            Self::Percent => format!("{value:.3} %"),
            Self::KibPerSecond => format!("{value:.1} KiB/s"),
            Self::MibPerSecond => format!("{value:.0} MiB/s"),
            Self::Mib => format!("{value:.1} MiB"),
            Self::Count => format!("{value:.1}"),
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::MibPerSecond)
    }
}

/// One comparison.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// The part of the benchmark.
    pub(crate) section: &'a str,
    /// What was measured.
    pub(crate) what: &'a str,
    /// What the numbers are.
    pub(crate) unit: Unit,
    /// The original's, where there is one.
    pub(crate) vdsm: Option<f64>,
    /// Measured now.
    pub(crate) ours: f64,
    /// What it should be.
    pub(crate) aim: &'a str,
}

impl Line<'_> {
    /// Prints it; the ratio says how many times better ours is.
    pub(crate) fn print(&self) {
        let ratio = self
            .vdsm
            .map(|vdsm| {
                if self.unit.more_is_better() {
                    self.ours / vdsm
                } else {
                    vdsm / self.ours
                }
            })
            .filter(|ratio| ratio.is_finite());
        println!(
            "{:<9} {:<56} {:>13} {:>13} {:>9}  {}",
            self.section,
            self.what,
            self.vdsm
                .map_or_else(String::new, |vdsm| self.unit.show(vdsm)),
            self.unit.show(self.ours),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.1} x")),
            self.aim
        );
    }
}

/// Prints the columns' names.
pub(crate) fn head() {
    println!(
        "{:<9} {:<56} {:>13} {:>13} {:>9}  aim",
        "section", "measure", "VDSM", "ours", "better by"
    );
}

/// The value below which this share of the samples lies; not a number when
/// there are none.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the number of samples"
    )]
    let index = (samples.len().saturating_sub(1) as f64 * share).round() as usize;
    samples.get(index).copied().unwrap_or(f64::NAN)
}

/// In milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
