//! The highest rate at which a guest may write to a thin volume without being
//! stopped, found in the model world: by the formula, by the formula's
//! thresholds alone, and with prediction. Run: `cargo bench -p thin`.

#[path = "../tests/volume/world.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod world;

use std::io::{self, Write};

use thin::size::{GIB, MIB};
use thin::{Config, Policy};
use world::{Delays, World};

/// The guest becomes this fast within so many milliseconds.
const RAMP_MS: u64 = 10_000;
const FILL_MS: u64 = 40_000;
const RATE_MIB_MAX: u64 = 16_384;

fn stopped(config: Config, delays: Delays, mib_per_s: u64) -> bool {
    let mut world = World::new(config, 4096 * GIB, config.policy.chunk_bytes);
    world.delays = delays;
    world.idle_for(1000);
    world.run_for(FILL_MS, |now_ms| {
        mib_per_s * MIB * now_ms.min(RAMP_MS) / RAMP_MS
    });
    world.pauses > 0
}

/// Bisects, to 1 %.
fn highest(config: Config, delays: Delays) -> u64 {
    let (mut good, mut bad) = (1, RATE_MIB_MAX);
    while bad - good > good / 100 + 1 {
        let middle = good.midpoint(bad);
        if stopped(config, delays, middle) {
            bad = middle;
        } else {
            good = middle;
        }
    }
    good
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<34} {:>8} {:>10} {:>10} {:>10}",
        "guest write rate without a pause", "T ms", "L/T MiB/s", "events", "predicted"
    )?;
    let delays = |extend_ms, refresh_ms| Delays {
        event_ms: 10,
        query_ms: 5,
        extend_ms,
        refresh_ms,
    };
    for (name, policy, delays) in [
        (
            "1024 MiB chunks, slow mail",
            Policy::BEFORE_4_5,
            delays(5500, 310),
        ),
        (
            "2560 MiB chunks, slow mail",
            Policy::DEFAULT,
            delays(5500, 310),
        ),
        (
            "2560 MiB, mail as measured upstream",
            Policy::DEFAULT,
            delays(1050, 310),
        ),
        (
            "2560 MiB, mail polled at 20 ms",
            Policy::DEFAULT,
            delays(300, 200),
        ),
        ("the same, refresh in 5 ms", Policy::DEFAULT, delays(300, 5)),
        (
            "local SPM, refresh in 5 ms",
            Policy::DEFAULT,
            delays(250, 5),
        ),
    ] {
        let plain = Config {
            policy,
            predict: false,
            measured_bytes: 0,
        };
        let ahead = Config {
            predict: true,
            ..plain
        };
        let round_trip_ms = delays.round_trip_ms();
        writeln!(
            out,
            "{name:<34} {round_trip_ms:>8} {:>10} {:>10} {:>10}",
            policy.free_limit_bytes(false) / MIB * 1000 / round_trip_ms,
            highest(plain, delays),
            highest(ahead, delays),
        )?;
    }
    Ok(())
}
