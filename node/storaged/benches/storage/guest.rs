//! How fast a guest may write to a thin volume without being stopped, with the
//! round trip measured now: what the formula L / T allows, and what the cores
//! hold out in their model world, where the rate rises for ten seconds.
//!
//! The refresh of the mapping is taken to last as long as the original's
//! documented worst for both: there is no device-mapper on a build machine.

#[path = "../../../protocol/thin/tests/volume/world.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod world;

use std::time::Duration;

use anyhow::Result;
use thin::size::{GIB, MIB};
use thin::{Config, Policy};
use world::{Delays, World};

use crate::Scale;
use crate::mail::{COMMIT, rounds};
use crate::model::{self, Sharing};
use crate::table::{Line, Unit, percentile};

/// The guest becomes this fast within so many milliseconds.
const RAMP_MS: u64 = 10_000;
const FILL_MS: u64 = 40_000;
const RATE_MIB_MAX: u64 = 65_536;

/// The section.
pub(crate) fn run(scale: Scale) -> Result<()> {
    let mut mail = rounds(1, scale.of(40), COMMIT)?.round_trips;
    let mail = Duration::from_secs_f64(percentile(&mut mail, 0.99) / 1e3);
    let mut model = model::round_trips(COMMIT, Sharing::None);
    let model = Duration::from_secs_f64(percentile(&mut model, 1.0) / 1e3);
    let delays = |mail| Delays {
        event_ms: whole_ms(model::DISPATCH),
        query_ms: 0,
        extend_ms: whole_ms(mail),
        refresh_ms: whole_ms(model::REFRESH),
    };
    let ours = delays(mail);
    let theirs = delays(model);
    let line = |what: &str, vdsm, ours| {
        Line {
            section: "guest",
            what,
            unit: Unit::MibPerSecond,
            vdsm: Some(vdsm),
            ours,
            aim: "",
        }
        .print();
    };
    let worst = Delays {
        extend_ms: whole_ms(model::WORST_MEASURED - model::DISPATCH - model::REFRESH),
        ..theirs
    };
    let shown = |delays: &Delays| format!("{} ms", delays.round_trip_ms());
    let times = format!("T = {} against {}", shown(&theirs), shown(&ours));
    line(
        &format!("L / T, X = 0.25 s: {times}"),
        limit(&theirs),
        limit(&ours),
    );
    let times = format!("T = {} (its worst) against {}", shown(&worst), shown(&ours));
    line(&format!("L / T: {times}"), limit(&worst), limit(&ours));
    let plain = Config {
        predict: false,
        ..Config::default()
    };
    let theirs = highest(plain, theirs);
    line(
        "in the model world, thresholds alone",
        theirs,
        highest(plain, ours),
    );
    let ahead = highest(Config::default(), ours);
    line("in the model world, ours with prediction", theirs, ahead);
    Ok(())
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// L / T.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn limit(delays: &Delays) -> f64 {
    let free_mib = Policy::DEFAULT.free_limit_bytes(false) / MIB;
    free_mib as f64 * 1e3 / delays.round_trip_ms() as f64
}

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
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn highest(config: Config, delays: Delays) -> f64 {
    let (mut good, mut bad) = (1, RATE_MIB_MAX);
    while bad - good > good / 100 + 1 {
        let middle = good.midpoint(bad);
        if stopped(config, delays, middle) {
            bad = middle;
        } else {
            good = middle;
        }
    }
    good as f64
}
