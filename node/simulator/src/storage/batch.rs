//! Many runs, on all processors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::run::{Report, run};
use super::seen::Seen;
use crate::batch::Plan;

/// What came of them.
#[derive(Debug)]
pub struct Outcome {
    /// How many were run.
    pub runs: u64,
    /// What happened in all of them.
    pub seen: Seen,
    /// Those that failed, without traces.
    pub failures: Vec<Report>,
    /// How long it took.
    pub took: Duration,
}

/// Runs seeds.
#[must_use]
pub fn batch(plan: Plan) -> Outcome {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new((0, Seen::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut runs, mut seen) = (0, Seen::default());
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= plan.at_least && began.elapsed() >= plan.box_time {
                        break;
                    }
                    let report = run(plan.first.wrapping_add(number), false);
                    runs += 1;
                    seen.add(&report.seen);
                    if report.violation.is_some()
                        && let Ok(mut sum) = sum.lock()
                    {
                        sum.2.push(report);
                        if sum.2.len() >= plan.failures_max {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                if let Ok(mut sum) = sum.lock() {
                    sum.0 += runs;
                    sum.1.add(&seen);
                }
            });
        }
    });
    let (runs, seen, mut failures) = sum.into_inner().unwrap_or_default();
    failures.sort_by_key(|report: &Report| report.seed);
    Outcome {
        runs,
        seen,
        failures,
        took: began.elapsed(),
    }
}

/// A failure for people: the promise, the trace, and how to see it again.
#[must_use]
pub fn explain(seed: u64) -> String {
    let report = run(seed, true);
    let mut text = report.lines.join("\n");
    match report.violation {
        Some(violation) => {
            text += &format!(
                "\n\nbroken promise: {}\n{}\nseed {seed}; again: cargo simulate --storage --seed {seed}\n",
                violation.promise, violation.what
            );
        }
        None => text += &format!("\n\nseed {seed} keeps every promise\n"),
    }
    text
}
