//! How fast a guest may write without being stopped: measured in a model world,
//! against what the formulas promise (rate < L / T) and beyond.

use thin::Config;
use thin::size::{GIB, MIB};

use crate::world::{Delays, World};

const PLAIN: Config = Config {
    policy: thin::Policy::DEFAULT,
    predict: false,
    measured_bytes: 0,
};

/// L / T in bytes a second, for the delays of upstream: about 1470 MiB/s.
fn limit() -> u64 {
    PLAIN.policy.free_limit_bytes(false) * 1000 / Delays::UPSTREAM.round_trip_ms()
}

fn fill(config: Config, rate: impl Fn(u64) -> u64) -> World {
    let mut world = World::new(config, 400 * GIB, 2560 * MIB);
    world.idle_for(1000);
    world.run_for(40_000, rate);
    world
}

#[test]
fn below_the_limit_of_the_formula_nobody_is_stopped() {
    for percent in [10, 50, 80, 95] {
        let rate = limit() * percent / 100;
        for config in [PLAIN, Config::default()] {
            let world = fill(config, |_| rate);
            assert_eq!(world.pauses, 0, "{percent} % {config:?}");
            assert!(world.written > rate * 39, "it wrote all the time");
            assert!(world.status().extends > 0);
        }
    }
}

#[test]
fn above_the_limit_the_formula_alone_is_not_enough() {
    let world = fill(PLAIN, |_| limit() * 12 / 10);
    assert!(world.pauses > 5, "{}", world.pauses);
}

/// The guest becomes faster within ten seconds, to a multiple of the limit: the
/// prediction keeps ahead of it.
#[test]
fn with_prediction_a_writer_far_above_the_limit_is_not_stopped() {
    for factor_percent in [120, 200, 300] {
        let most = limit() * factor_percent / 100;
        let ramp = |now_ms: u64| most * now_ms.min(10_000) / 10_000;
        let plain = fill(PLAIN, ramp);
        let ahead = fill(Config::default(), ramp);
        assert!(plain.pauses > 0, "{factor_percent} %");
        assert_eq!(ahead.pauses, 0, "{factor_percent} %");
        assert!(ahead.written > plain.written);
    }
}

/// A guest already fast at its first byte, with only the first chunk below it,
/// may be stopped once; never again.
#[test]
fn sudden_writer_is_stopped_at_most_while_nothing_was_known() {
    let rate = limit() * 2;
    let mut world = World::new(Config::default(), 400 * GIB, 2560 * MIB);
    world.idle_for(1000);
    world.run_for(8000, |_| rate);
    let early = world.pauses;
    assert!(early <= 2, "{early}");
    world.run_for(40_000, |_| rate);
    assert_eq!(world.pauses, early);
}

/// What was taken for a burst is bounded, and a slow guest takes no more than the
/// formula gives it.
#[test]
fn space_taken_ahead_is_bounded_and_slow_guests_take_none() {
    let slow = fill(Config::default(), |_| 20 * MIB);
    assert!(slow.volume - slow.written <= (2560 + 2048 + 128) * MIB);
    let fast = fill(Config::default(), |_| 40 * GIB);
    assert!(fast.volume - fast.written <= 2 * 8 * 2560 * MIB + GIB);
}

/// Old hosts at the other end: mail that is polled every two seconds.
#[test]
fn slow_mail_is_measured_and_asked_for_earlier() {
    let delays = Delays {
        event_ms: 30,
        query_ms: 20,
        extend_ms: 4000,
        refresh_ms: 300,
    };
    for (config, stopped) in [(PLAIN, true), (Config::default(), false)] {
        let mut world = World::new(config, 400 * GIB, 2560 * MIB);
        world.delays = delays;
        world.idle_for(1000);
        world.run_for(60_000, |now| 900 * MIB * now.min(20_000) / 20_000);
        assert_eq!(world.pauses > 0, stopped, "{config:?}: {}", world.pauses);
    }
}

/// No thresholds in QEMU: the drive is polled, as hosts did before, faster when
/// the guest is.
#[test]
fn without_thresholds_polling_keeps_ahead_of_the_documented_rate() {
    let mut world = World::new(Config::default(), 100 * GIB, 2560 * MIB);
    world.thresholds_known = false;
    world.idle_for(3000);
    world.run_for(40_000, |_| 330 * MIB);
    assert_eq!(world.pauses, 0);
    assert!(world.status().polling);
    assert!(world.status().extends > 3);
}
