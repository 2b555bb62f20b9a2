//! What one look at the mail of 249 hosts costs the SPM's side, without I/O.
//!
//! ```text
//! cargo run -p mailbox --example scan
//! ```
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement has a clock and says what it found"
)]

use std::time::{Duration, Instant};

use mailbox::load::Load;

const SCANS: u32 = 200;

fn main() {
    let mut load = Load::new(250);
    tell("nobody wants anything", &time(&mut load, |_, _| {}));
    load.ask(249, 1);
    load.scan();
    tell("249 hosts wait, nothing new", &time(&mut load, |_, _| {}));
    let batches = time(&mut load, |load, turn| load.ask(249, turn + 2));
    tell("249 new requests, committed and answered", &batches);
    println!("{} extends in {} commits", load.extends, load.commits);
}

/// How long each of many scans took.
fn time(load: &mut Load, mut before: impl FnMut(&mut Load, u32)) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..SCANS)
        .map(|turn| {
            before(load, turn);
            let begun = Instant::now();
            load.scan();
            begun.elapsed()
        })
        .collect();
    took.sort();
    took
}

fn tell(what: &str, took: &[Duration]) {
    let at = |share: usize| {
        took.get(took.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!("{what}: p50 {:?}, p99 {:?}", at(50), at(99));
}
