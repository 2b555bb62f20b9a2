use super::*;

const fn phase(name: &'static str, needs: &'static [&'static str], on_failure: OnFailure) -> Phase {
    Phase {
        name,
        needs,
        deadline_ms: 1000,
        on_failure,
    }
}

const TABLE: &[Phase] = &[
    phase("mounts", &[], OnFailure::Reboot),
    phase("config", &["mounts"], OnFailure::StayUp),
    phase("udevd", &["mounts"], OnFailure::Continue),
    phase("coldplug", &["udevd"], OnFailure::Continue),
    phase("network", &["config"], OnFailure::Continue),
    phase("leased", &["config", "network"], OnFailure::Continue),
];

fn started(sequence: &mut Sequence) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(effect) = sequence.next_effect() {
        if let Effect::Start(name) = effect {
            names.push(name);
        }
    }
    names
}

fn begun() -> Sequence {
    let mut sequence = Sequence::new(TABLE);
    sequence.tick(0);
    assert_eq!(started(&mut sequence), ["mounts"]);
    sequence.ended(10, "mounts", Outcome::Done);
    assert_eq!(started(&mut sequence), ["config", "udevd"]);
    sequence
}

#[test]
fn phases_that_do_not_need_each_other_run_at_the_same_time() {
    let mut sequence = begun();
    sequence.ended(20, "config", Outcome::Done);
    assert_eq!(
        started(&mut sequence),
        ["network"],
        "the network does not wait for udevd"
    );
    sequence.ended(30, "udevd", Outcome::Done);
    assert_eq!(started(&mut sequence), ["coldplug"]);
}

#[test]
fn a_failure_holds_back_only_those_who_cannot_do_without() {
    let mut sequence = begun();
    sequence.ended(20, "udevd", Outcome::Failed("exit 1".into()));
    assert_eq!(started(&mut sequence), ["coldplug"], "udevd may fail");
    sequence.ended(30, "config", Outcome::Failed("line 3: no such key".into()));
    assert_eq!(started(&mut sequence), [""; 0]);
    assert_eq!(
        sequence.state("leased"),
        Some(PhaseState::Skipped),
        "also through the phase between"
    );
    sequence.ended(40, "coldplug", Outcome::Done);
    assert!(sequence.settled());
    let failed: Vec<_> = sequence.failures().map(|(name, _)| name).collect();
    assert_eq!(failed, ["config", "udevd", "network", "leased"]);
}

#[test]
fn a_phase_not_wanted_is_no_failure_and_holds_nobody_back() {
    let mut sequence = begun();
    sequence.ended(20, "config", Outcome::Done);
    started(&mut sequence);
    sequence.ended(30, "network", Outcome::Skipped("no [network]".into()));
    assert_eq!(started(&mut sequence), ["leased"]);
    assert_eq!(sequence.failures().count(), 0);
}

#[test]
fn an_overdue_phase_fails_and_is_forgiven_when_it_ends_well_after_all() {
    let mut sequence = begun();
    assert_eq!(sequence.deadline(), Some(1010));
    sequence.tick(1009);
    assert_eq!(sequence.state("config"), Some(PhaseState::Running));
    sequence.tick(1010);
    assert_eq!(sequence.state("config"), Some(PhaseState::Failed));
    assert_eq!(sequence.state("network"), Some(PhaseState::Skipped));
    started(&mut sequence);
    sequence.ended(5000, "config", Outcome::Done);
    assert_eq!(started(&mut sequence), ["network"]);
    assert_eq!(sequence.state("config"), Some(PhaseState::Done));
    assert_eq!(sequence.state("leased"), Some(PhaseState::Waiting));
    let config = &sequence.report(6000)[1];
    assert_eq!((config.started_ms, config.took_ms), (Some(10), Some(4990)));
}

#[test]
fn a_phase_nothing_works_without_asks_for_a_reboot() {
    let mut sequence = Sequence::new(TABLE);
    sequence.tick(0);
    sequence.ended(
        5,
        "mounts",
        Outcome::Failed("/run: permission denied".into()),
    );
    let effects: Vec<_> = std::iter::from_fn(|| sequence.next_effect()).collect();
    assert!(
        effects.contains(&Effect::Reboot(
            "phase mounts failed: /run: permission denied".into()
        )),
        "{effects:?}"
    );
}

#[test]
fn unexpected_ends_change_nothing() {
    let mut sequence = begun();
    sequence.ended(20, "leased", Outcome::Done);
    sequence.ended(20, "nobody", Outcome::Done);
    assert_eq!(sequence.state("leased"), Some(PhaseState::Waiting));
    sequence.ended(30, "config", Outcome::Done);
    sequence.ended(40, "config", Outcome::Failed("again".into()));
    assert_eq!(sequence.state("config"), Some(PhaseState::Done));
    assert_eq!(started(&mut sequence), ["network"]);
}

#[test]
fn an_abandoned_list_starts_nothing_whatever_ends_later() {
    let mut sequence = begun();
    // Its successors' starts are already in the queue when the shutdown begins.
    sequence.ended(20, "config", Outcome::Done);
    sequence.abandon(30, "the shutdown began");
    assert!(sequence.settled());
    assert_eq!(sequence.deadline(), None);
    for name in ["config", "network", "leased"] {
        sequence.ended(40, name, Outcome::Done);
    }
    sequence.tick(1_000_000);
    assert_eq!(started(&mut sequence), [""; 0]);
    assert_eq!(sequence.state("leased"), Some(PhaseState::Skipped));
    assert_eq!(sequence.state("config"), Some(PhaseState::Done));

    // Nor what a failure held back.
    let mut sequence = begun();
    sequence.ended(20, "config", Outcome::Failed("late".into()));
    sequence.abandon(30, "the shutdown began");
    sequence.ended(40, "config", Outcome::Done);
    sequence.tick(50);
    assert_eq!(started(&mut sequence), [""; 0]);
}

#[test]
#[should_panic(expected = "needs b, which does not precede it")]
fn a_table_with_a_loop_is_refused() {
    let _never = Sequence::new(&[
        phase("a", &["b"], OnFailure::Continue),
        phase("b", &["a"], OnFailure::Continue),
    ]);
}
