//! `cargo bench-storage [--quick] [SECTION]...`: the storage layer beside VDSM.
//!
//! What the original needs a whole engine and a SAN for is computed from its
//! constants (`model.rs`); everything else is measured in this run, on this
//! machine. Nothing is asserted: these are figures of the machine they ran on.
//!
//! `extend` needs root, loop devices and lvm2.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod daemon;
mod extend;
mod guest;
mod idle;
mod mail;
mod model;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// What the figures are worth something for.
    Full,
    /// Whether it works.
    Quick,
}

impl Scale {
    /// This many, or a quarter.
    pub(crate) fn of(self, count: u32) -> u32 {
        match self {
            Self::Full => count,
            Self::Quick => (count / 4).max(1),
        }
    }
}

/// Lets this much time pass.
pub(crate) fn pause(time: Duration) {
    let begun = Instant::now();
    while let Some(left) = time
        .checked_sub(begun.elapsed())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// CPU seconds of children that have ended, in hundredths.
pub(crate) fn children_s() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // cutime and cstime, counted from behind the name.
    let (_, fields) = text.rsplit_once(')').context("/proc/self/stat")?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .map(|field| field.parse().unwrap_or(0.0))
        .sum();
    Ok(ticks / 100.0)
}

/// A part of the benchmark that can be asked for by name.
type Section = (&'static str, fn(Scale) -> Result<()>);

const SECTIONS: [Section; 6] = [
    ("mail", mail::run),
    ("idle", idle::idle),
    ("scan", |scale| {
        idle::scan(scale);
        Ok(())
    }),
    ("guest", guest::run),
    ("memory", daemon::run),
    ("extend", extend::run),
];

fn main() -> Result<()> {
    let mut scale = Scale::Full;
    let mut wanted = Vec::new();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            // What cargo itself adds.
            "--bench" => {}
            "--quick" => scale = Scale::Quick,
            _ => wanted.push(word),
        }
    }
    let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|word| !known.contains(&word.as_str())) {
        bail!("section \"{unknown}\": there are {}", known.join(", "));
    }
    table::head();
    for (section, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| word == section) {
            run(scale).with_context(|| format!("section {section}"))?;
        }
    }
    Ok(())
}
