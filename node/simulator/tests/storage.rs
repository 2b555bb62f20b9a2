//! Many schedules of the storage world, every one of them judged step by step;
//! and the proof that what they are meant to show really happens in them.
#![allow(missing_docs, reason = "tests")]

use std::time::Duration;

use simulator::batch::Plan;
use simulator::kept::kept_of_storage;
use simulator::storage::batch::{batch, explain};
use simulator::storage::run;
use simulator::storage::seen::{SIGHTS, Sight};

/// So many are run, however slow the machine is.
const AT_LEAST: u64 = 10_000;
/// And more, while there is time.
const BOX_TIME: Duration = Duration::from_secs(60);

/// What must have happened at least so often in a thousand schedules.
const SOMETIMES: &[(Sight, u64)] = &[
    (Sight::Mailed, 20_000),
    (Sight::MailedByOriginal, 500),
    (Sight::OriginalAnswered, 1_000),
    (Sight::Local, 10_000),
    (Sight::Refused, 1_000),
    (Sight::Unanswered, 500),
    (Sight::Full, 1_000),
    (Sight::Stopped, 500),
    (Sight::Served, 500),
    (Sight::TakenOver, 1),
    (Sight::Killed, 200),
    (Sight::LeaseLost, 2),
    (Sight::Batched, 1_000),
    (Sight::CommitUnknown, 200),
    (Sight::Late, 500),
    (Sight::Posthumous, 30),
    (Sight::Lost, 500),
    (Sight::Torn, 1_000),
    (Sight::BadChecksum, 10),
    (Sight::NotUnderstood, 20),
    (Sight::StaleReply, 300),
    (Sight::SentAgain, 1_000),
    (Sight::Power, 200),
    (Sight::DaemonKilled, 200),
    (Sight::StartFailed, 100),
    (Sight::DomainTaken, 500),
    (Sight::DomainBusy, 500),
    (Sight::Single, 500),
    (Sight::HungUp, 20),
];

#[test]
fn kept_seeds_keep_every_promise() {
    for kept in kept_of_storage() {
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
fn ten_thousand_schedules_keep_every_promise() {
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
        let text = SIGHTS
            .iter()
            .find(|(one, _)| one == sight)
            .map(|(_, text)| text);
        assert!(
            seen >= least,
            "{text:?}: {seen} in {} runs, at least {least} were expected",
            outcome.runs
        );
    }
}
