//! Many schedules, every one of them judged step by step; and the proof that
//! what they are meant to show really happens in them.
#![allow(missing_docs, reason = "tests")]

use std::time::Duration;

use simulator::batch::{Plan, batch, explain};
use simulator::kept::kept;
use simulator::run;
use simulator::seen::Sight;

/// So many are run, however slow the machine is.
const AT_LEAST: u64 = 100_000;
/// And more, while there is time.
const BOX_TIME: Duration = Duration::from_secs(60);

/// What must have happened at least so often in a thousand schedules.
const SOMETIMES: &[(Sight, u64)] = &[
    (Sight::Joined, 1000),
    (Sight::TakenOver, 30),
    (Sight::Expired, 100),
    (Sight::Overwritten, 1),
    (Sight::Busy, 500),
    (Sight::Left, 50),
    (Sight::Reset, 100),
    (Sight::Killed, 100),
    (Sight::Thawed, 100),
    (Sight::LateWrite, 200),
    (Sight::Refused, 3),
    (Sight::Torn, 1000),
    (Sight::LostCompletion, 50),
    (Sight::BelievedDead, 500),
    (Sight::Exclusive, 1000),
    (Sight::Shared, 500),
    (Sight::SharedTogether, 100),
    (Sight::ResourceTakenOver, 20),
    (Sight::Returned, 1000),
    (Sight::Raised, 20),
    (Sight::Lowered, 50),
    (Sight::OwnerAlive, 500),
    (Sight::BallotLost, 200),
    (Sight::SharedInTheWay, 200),
    (Sight::Requested, 100),
    (Sight::RequestHonoured, 10),
];

#[test]
fn kept_seeds_keep_every_promise() {
    for kept in kept() {
        let report = run(kept.seed, false);
        assert!(
            report.violation.is_none(),
            "{}\nkept because: {}",
            explain(kept.seed),
            kept.reason
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        let (one, other) = (run(seed, true), run(seed, true));
        assert_eq!(one, other);
        assert_eq!(run(seed, false).seen, one.seen, "with and without a trace");
    }
}

#[test]
fn a_hundred_thousand_schedules_keep_every_promise() {
    let outcome = batch(Plan {
        first: 0,
        at_least: AT_LEAST,
        box_time: BOX_TIME,
        failures_max: 3,
    });
    if let Some(failure) = outcome.failures.first() {
        panic!("{}", explain(failure.seed));
    }
    assert!(outcome.runs >= AT_LEAST, "{} runs", outcome.runs);
    for (sight, per_thousand) in SOMETIMES {
        let least = outcome.runs * per_thousand / 1000;
        let seen = outcome.seen.of(*sight);
        assert!(
            seen >= least,
            "{}: {seen} in {} runs, at least {least} were expected",
            sight.text(),
            outcome.runs
        );
    }
}
