//! The SPM's life, its succession, and domains' own leases.

use mailbox::role::takeover::{self, Candidate, Holder, Takeover};
use mailbox::role::{
    Config, Effect, Input, LeaseView, Phase, Sdm, SdmEffect, SdmEnd, SdmInput, Spm, Step,
    StepFailed, StepId, StopReason, Took, spm,
};
use mailbox::{Monotonic, RequestId};

use crate::disk::{MS, S};

/// How often the lease daemon is asked, where an I/O may take 10 s.
const ASK_LEASE_MS: u64 = spm::ask_lease_ms(10);

struct Life {
    spm: Spm,
    now: u64,
    effects: Vec<Effect>,
}

impl Life {
    fn new() -> Self {
        Self {
            spm: Spm::new(),
            now: 0,
            effects: Vec::new(),
        }
    }

    fn tell(&mut self, input: Input) {
        self.spm.handle(Monotonic(self.now), input);
        while let Some(effect) = self.spm.next_effect() {
            self.effects.push(effect);
        }
    }

    /// The step asked for last.
    fn doing(&self) -> (StepId, Step) {
        let step = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Do(id, step) if *step != Step::RecoverTasks => Some((*id, *step)),
            _ => None,
        });
        step.expect("a step")
    }

    fn done(&mut self) {
        let (id, _) = self.doing();
        self.tell(Input::Done(id));
    }

    fn serving() -> Self {
        let mut life = Self::new();
        life.tell(Input::Start(Config::default()));
        while life.spm.phase() == Phase::Starting {
            life.done();
        }
        assert_eq!(life.spm.phase(), Phase::Serving);
        life
    }

    fn steps(&self) -> Vec<Step> {
        let step = |effect: &Effect| match effect {
            Effect::Do(_, step) => Some(*step),
            _ => None,
        };
        self.effects.iter().filter_map(step).collect()
    }

    fn pass(&mut self, ms: u64, view: Option<LeaseView>) {
        let end = self.now + ms * MS;
        while let Some(due) = self.spm.deadline()
            && due.0 <= end
        {
            self.now = due.0;
            let asked = self.effects.len();
            self.tell(Input::Tick);
            if self.effects[asked..].contains(&Effect::AskLease)
                && let Some(view) = view
            {
                self.tell(Input::Lease(view));
            }
        }
        self.now = end;
    }

    /// Does steps until this one is under way.
    fn until(&mut self, wanted: Step) -> StepId {
        loop {
            let (id, step) = self.doing();
            if step == wanted {
                return id;
            }
            self.tell(Input::Done(id));
        }
    }
}

#[test]
fn the_steps_are_done_in_order_and_back() {
    let mut life = Life::serving();
    life.tell(Input::Stop);
    while life.spm.phase() == Phase::Stopping {
        life.done();
    }
    let up = Step::START
        .into_iter()
        .filter(|step| *step != Step::UpgradeDomains);
    let all: Vec<Step> = up.chain([Step::RecoverTasks]).chain(Step::STOP).collect();
    assert_eq!(life.steps(), all);
    assert_eq!(life.spm.phase(), Phase::Free);
}

#[test]
fn metadata_may_be_changed_from_the_taken_lease_to_its_release() {
    let mut life = Life::new();
    life.tell(Input::Start(Config {
        upgrade: true,
        ..Config::default()
    }));
    let mut seen = Vec::new();
    while life.spm.phase() == Phase::Starting {
        seen.push((life.doing().1, life.spm.permits()));
        life.done();
    }
    assert!(life.spm.permits(), "serving");
    life.tell(Input::Stop);
    while life.spm.phase() == Phase::Stopping {
        seen.push((life.doing().1, life.spm.permits()));
        life.done();
    }
    assert!(!life.spm.permits(), "free again");
    let not: Vec<Step> = seen
        .into_iter()
        .filter(|(_, permits)| !permits)
        .map(|(step, _)| step)
        .collect();
    assert_eq!(
        not,
        [Step::JoinLockspace, Step::TakeLease, Step::ReleaseLease]
    );
    let mut life = Life::serving();
    life.tell(Input::Lease(LeaseView::NotHeld));
    assert!(!life.spm.permits(), "lost");
}

#[test]
fn a_busy_lease_leaves_the_role_free() {
    let mut life = Life::new();
    life.tell(Input::Start(Config::default()));
    let id = life.until(Step::TakeLease);
    life.tell(Input::Failed(id, StepFailed::Undone));
    assert_eq!(life.spm.phase(), Phase::Free);
    assert!(!life.effects.contains(&Effect::DropMail));
}

#[test]
fn a_lease_that_may_be_held_is_never_just_forgotten() {
    let mut life = Life::new();
    life.tell(Input::Start(Config::default()));
    life.until(Step::TakeLease);
    life.pass(Step::TakeLease.limit_ms(10), None);
    assert_eq!(life.spm.phase(), Phase::Killing);
    assert!(
        life.effects
            .contains(&Effect::KillWriter(StopReason::Step(Step::TakeLease)))
    );
    life.tell(Input::Start(Config::default()));
    assert!(matches!(life.effects.last(), Some(Effect::Refused(_))));
}

#[test]
fn a_failed_step_goes_back_the_whole_way() {
    let mut life = Life::new();
    life.tell(Input::Start(Config::default()));
    let id = life.until(Step::MountMaster);
    life.tell(Input::Failed(id, StepFailed::Undone));
    while life.spm.phase() == Phase::Stopping {
        life.done();
    }
    assert_eq!(life.steps().last(), Some(&Step::ReleaseLease));
    assert_eq!(life.spm.phase(), Phase::Free);
}

#[test]
fn a_failed_unmount_kills_instead_of_releasing() {
    let mut life = Life::serving();
    life.tell(Input::Stop);
    let id = life.until(Step::UnmountMaster);
    life.tell(Input::Failed(id, StepFailed::Undone));
    assert_eq!(life.spm.phase(), Phase::Killing);
    assert!(!life.steps().contains(&Step::ReleaseLease));
}

#[test]
fn work_that_goes_on_keeps_the_role() {
    for order in [Input::Stop, Input::Move] {
        let mut life = Life::serving();
        life.tell(order);
        let id = life.until(Step::ForbidWrites);
        life.tell(Input::Failed(id, StepFailed::Undone));
        assert_eq!(life.spm.phase(), Phase::Serving);
        assert_eq!(life.effects.last(), Some(&Effect::Settled(Phase::Serving)));
    }
    // On the way back from a start there is no work: it is not understood.
    let mut life = Life::new();
    life.tell(Input::Start(Config::default()));
    let id = life.until(Step::WriteRole);
    life.tell(Input::Failed(id, StepFailed::Undone));
    let id = life.until(Step::ForbidWrites);
    life.tell(Input::Failed(id, StepFailed::Undone));
    assert_eq!(life.spm.phase(), Phase::Killing);
}

#[test]
fn the_role_goes_on_on_the_new_master_or_the_old() {
    for failed in [None, Some(StepFailed::Undone), Some(StepFailed::Unknown)] {
        let mut life = Life::serving();
        life.tell(Input::Move);
        let id = life.until(Step::MoveMaster);
        assert!(life.spm.permits());
        match failed {
            None => life.tell(Input::Done(id)),
            Some(failed) => life.tell(Input::Failed(id, failed)),
        }
        if failed == Some(StepFailed::Unknown) {
            assert_eq!(life.spm.phase(), Phase::Killing);
            continue;
        }
        life.tell(Input::Stop);
        life.until(Step::AllowWrites);
        life.done();
        // The stop that was asked for meanwhile.
        assert_eq!(life.doing().1, Step::ForbidWrites);
        assert_eq!(life.spm.phase(), Phase::Stopping);
    }
}

#[test]
fn a_commit_that_hangs_ends_the_process() {
    let mut life = Life::serving();
    life.effects.clear();
    life.tell(Input::CommitHangs);
    assert_eq!(
        life.effects,
        [
            Effect::DropMail,
            Effect::KillWriter(StopReason::CommitHangs)
        ]
    );
}

#[test]
fn the_mail_is_dropped_before_the_writer_is_killed() {
    let mut life = Life::serving();
    life.effects.clear();
    life.tell(Input::Lease(LeaseView::NotHeld));
    assert_eq!(
        life.effects,
        [Effect::DropMail, Effect::KillWriter(StopReason::LeaseLost)]
    );
    // It is said again until the writer is gone.
    life.pass(60_000, None);
    assert!(life.effects.len() > 8);
    assert_eq!(life.spm.phase(), Phase::Killing);
}

#[test]
fn a_mute_lease_daemon_is_borne_three_times_and_ends_in_time() {
    for view in [None, Some(LeaseView::Unknown)] {
        let mut life = Life::serving();
        let held = life.now;
        life.pass(3 * ASK_LEASE_MS, view);
        assert_eq!(life.spm.phase(), Phase::Serving, "{view:?}");
        life.pass(60_000, view);
        assert_eq!(life.spm.phase(), Phase::Killing, "{view:?}");
        let mut other = Life::serving();
        other.pass(60_000 - 1 - held / MS, view);
        assert_eq!(
            other.spm.phase(),
            Phase::Killing,
            "before others may take it"
        );
    }
    let mut life = Life::serving();
    life.pass(3 * ASK_LEASE_MS, Some(LeaseView::Unknown));
    life.tell(Input::Lease(LeaseView::Held));
    life.pass(3 * ASK_LEASE_MS, Some(LeaseView::Unknown));
    assert_eq!(life.spm.phase(), Phase::Serving, "in a row");
}

#[test]
fn a_stop_while_starting_waits_for_the_step() {
    let mut life = Life::new();
    life.tell(Input::Start(Config::default()));
    life.until(Step::TakeLease);
    life.tell(Input::Stop);
    assert_eq!(life.doing().1, Step::TakeLease);
    life.done();
    assert_eq!(life.doing().1, Step::ForbidWrites);
}

fn hosts(ids: &[u16]) -> Vec<Candidate> {
    let candidate = |id: &u16| Candidate {
        host_id: *id,
        score: None,
    };
    ids.iter().map(candidate).collect()
}

#[test]
fn the_best_live_host_takes_over_first() {
    let (mut one, mut two) = (Takeover::new(1, true), Takeover::new(2, true));
    let at = |s: u64| Monotonic(s * S);
    for host in [&mut one, &mut two] {
        host.view(at(0), Holder::Somebody, &hosts(&[1, 2]));
        assert_eq!(host.due(at(0)), None);
        host.view(at(10), Holder::Nobody, &hosts(&[1, 2]));
    }
    let (first, second) = (one.due(at(10)), two.due(at(10)));
    assert_eq!(first, Some(at(10).plus_ms(takeover::GRACE_MS)));
    assert!(second > first);
    // The first is gone: the second does not wait for it any longer.
    two.view(at(15), Holder::Nobody, &hosts(&[2]));
    assert_eq!(two.due(at(15)), first);
    // A host that sees the storage better goes first, whatever its number.
    let live = [
        Candidate {
            host_id: 1,
            score: Some(20),
        },
        Candidate {
            host_id: 2,
            score: Some(90),
        },
    ];
    one.view(at(16), Holder::Nobody, &live);
    two.view(at(16), Holder::Nobody, &live);
    assert!(two.due(at(16)) < one.due(at(16)));
}

#[test]
fn nobody_takes_over_where_it_is_not_wanted() {
    let at = |s: u64| Monotonic(s * S);
    let free = |mut host: Takeover| {
        host.view(at(0), Holder::Nobody, &hosts(&[1]));
        host
    };
    assert_eq!(free(Takeover::new(1, false)).due(at(1)), None, "off");
    assert_eq!(
        free(Takeover::new(1, true)).due(at(70)),
        None,
        "an old view"
    );
    let mut host = free(Takeover::new(1, true));
    host.manager_seen(at(1));
    assert_eq!(host.due(at(2)), Some(at(1).plus_ms(takeover::MANAGER_MS)));
    let mut host = free(Takeover::new(1, true));
    host.stood_down(at(1));
    assert_eq!(host.due(at(2)), Some(at(1).plus_ms(takeover::HOLD_OFF_MS)));
    let mut host = free(Takeover::new(1, true));
    host.failed(at(10));
    let first = host.due(at(10)).expect("later");
    host.failed(at(10));
    assert!(host.due(at(10)) > Some(first), "less and less often");
    let mut blind = Takeover::new(1, true);
    blind.view(
        at(0),
        Holder::Nobody,
        &[Candidate {
            host_id: 1,
            score: Some(0),
        }],
    );
    assert_eq!(blind.due(at(1)), None, "it does not see the storage");
}

fn sdm_effects(sdm: &mut Sdm, s: u64, input: SdmInput) -> Vec<SdmEffect> {
    sdm.handle(Monotonic(s), input);
    std::iter::from_fn(|| sdm.next_effect()).collect()
}

fn change(number: u64, urgent: bool) -> SdmInput {
    SdmInput::Change {
        request: RequestId(number),
        urgent,
    }
}

#[test]
fn a_domains_lease_is_held_for_the_changes_only() {
    let mut sdm = Sdm::new(1);
    assert_eq!(
        sdm_effects(&mut sdm, 0, change(1, false)),
        [SdmEffect::Take]
    );
    assert_eq!(sdm_effects(&mut sdm, 1, change(2, false)), []);
    assert_eq!(sdm_effects(&mut sdm, 2, change(3, true)), []);
    let run = |number| SdmEffect::Run(RequestId(number));
    let ended = |number| SdmEffect::Ended(RequestId(number), SdmEnd::Ran);
    assert_eq!(
        sdm_effects(&mut sdm, 3, SdmInput::Took(Took::Yes)),
        [run(3)],
        "urgent first"
    );
    for (number, next) in [(3, 1), (1, 2)] {
        let effects = sdm_effects(&mut sdm, 4, SdmInput::Ran(RequestId(number)));
        assert_eq!(effects, [ended(number), run(next)]);
    }
    assert!(sdm.permits(RequestId(2)));
    assert!(!sdm.permits(RequestId(1)), "it has ended");
    assert_eq!(
        sdm_effects(&mut sdm, 5, SdmInput::Ran(RequestId(2))),
        [ended(2), SdmEffect::Release]
    );
    assert!(!sdm.permits(RequestId(2)));
    assert_eq!(sdm_effects(&mut sdm, 6, SdmInput::Released(true)), []);
    assert!(!sdm.may_hold());
}

#[test]
fn a_busy_domain_is_tried_again_until_it_is_too_late() {
    let mut sdm = Sdm::new(1);
    let mut now = 0;
    let mut tries = 0;
    sdm.handle(Monotonic(now), change(1, false));
    loop {
        match sdm.next_effect() {
            Some(SdmEffect::Take) => {
                tries += 1;
                sdm.handle(Monotonic(now), SdmInput::Took(Took::Busy));
            }
            Some(SdmEffect::Ended(_, end)) => {
                assert_eq!(end, SdmEnd::Busy);
                break;
            }
            Some(other) => panic!("{other:?}"),
            None => {
                now = sdm.deadline().expect("it goes on").0;
                sdm.handle(Monotonic(now), SdmInput::Tick);
            }
        }
    }
    assert!((150..600).contains(&tries), "{tries} tries");
}

#[test]
fn what_is_not_certain_ends_the_process() {
    let holding = || {
        let mut sdm = Sdm::new(1);
        sdm_effects(&mut sdm, 0, change(1, false));
        sdm_effects(&mut sdm, 0, SdmInput::Took(Took::Yes));
        sdm
    };
    let killed = [SdmEffect::KillWriter];
    let mut sdm = holding();
    assert_eq!(sdm_effects(&mut sdm, 1, SdmInput::LeaseLost), killed);
    assert!(!sdm.permits(RequestId(1)));
    let mut sdm = holding();
    sdm_effects(&mut sdm, 1, SdmInput::Ran(RequestId(1)));
    assert_eq!(sdm_effects(&mut sdm, 1, SdmInput::Released(false)), killed);
    let mut sdm = Sdm::new(1);
    sdm_effects(&mut sdm, 0, change(1, false));
    let unknown = SdmInput::Took(Took::Unknown);
    assert_eq!(sdm_effects(&mut sdm, 0, unknown), killed);
}

#[test]
fn changes_that_cannot_be_begun_are_told() {
    let mut sdm = Sdm::new(1);
    sdm_effects(&mut sdm, 0, change(1, false));
    sdm_effects(&mut sdm, 0, change(2, false));
    let ended = |number, end| SdmEffect::Ended(RequestId(number), end);
    let withdraw = SdmInput::Withdraw(RequestId(2));
    assert_eq!(
        sdm_effects(&mut sdm, 0, withdraw),
        [ended(2, SdmEnd::Withdrawn)]
    );
    assert_eq!(sdm_effects(&mut sdm, 0, withdraw), []);
    let refused = SdmInput::Took(Took::Refused);
    assert_eq!(
        sdm_effects(&mut sdm, 0, refused),
        [ended(1, SdmEnd::Refused)]
    );
    assert!(!sdm.may_hold());
    assert_eq!(sdm.deadline(), None);
}

#[test]
fn a_single_change_takes_its_lease_once_and_gives_it_back() {
    let mut sdm = Sdm::once(10);
    let begun = sdm_effects(&mut sdm, 0, change(1, true));
    assert_eq!(begun, [SdmEffect::Take]);
    // The death of another host is waited for.
    assert_eq!(sdm_effects(&mut sdm, 199 * S, SdmInput::Tick), []);
    let took = SdmInput::Took(Took::Yes);
    let runs = [SdmEffect::Run(RequestId(1))];
    assert_eq!(sdm_effects(&mut sdm, 199 * S, took), runs);
    assert!(sdm.permits(RequestId(1)));
    assert_eq!(sdm_effects(&mut sdm, 1_500 * S, SdmInput::Tick), []);
    let ended = SdmEffect::Ended(RequestId(1), SdmEnd::Ran);
    assert_eq!(
        sdm_effects(&mut sdm, 1_500 * S, SdmInput::Ran(RequestId(1))),
        [ended, SdmEffect::Release]
    );
    assert!(!sdm.permits(RequestId(1)));
    assert_eq!(
        sdm_effects(&mut sdm, 1_501 * S, SdmInput::Released(true)),
        []
    );
    assert!(!sdm.may_hold());

    // Whoever has it is alive: taking it has waited for that.
    sdm_effects(&mut sdm, 2_000 * S, change(2, true));
    let busy = SdmEffect::Ended(RequestId(2), SdmEnd::Busy);
    let told = sdm_effects(&mut sdm, 2_001 * S, SdmInput::Took(Took::Busy));
    assert_eq!(told, [busy]);
    assert_eq!(sdm_effects(&mut sdm, 2_100 * S, SdmInput::Tick), []);
}

#[test]
fn a_single_change_ends_its_process_only_while_it_runs() {
    let holding = || {
        let mut sdm = Sdm::once(10);
        sdm_effects(&mut sdm, 0, change(1, true));
        sdm_effects(&mut sdm, 0, SdmInput::Took(Took::Yes));
        sdm
    };
    for ill in [SdmInput::LeaseLost, SdmInput::ChangeHangs] {
        let mut sdm = holding();
        assert_eq!(sdm_effects(&mut sdm, S, ill), [SdmEffect::KillWriter]);
        assert!(!sdm.permits(RequestId(1)));
    }
    let mut sdm = holding();
    let late = sdm_effects(&mut sdm, 3_600 * S, SdmInput::Tick);
    assert_eq!(late, [SdmEffect::KillWriter]);

    // The change is over: closing the connection is enough.
    let mut sdm = holding();
    sdm_effects(&mut sdm, S, SdmInput::Ran(RequestId(1)));
    let closed = sdm_effects(&mut sdm, S, SdmInput::Released(false));
    assert_eq!(closed, [SdmEffect::HangUp]);
    let refused = |number| SdmEffect::Ended(RequestId(number), SdmEnd::Refused);
    assert_eq!(sdm_effects(&mut sdm, 2 * S, change(2, true)), [refused(2)]);

    // It has not begun, and may not.
    let mut sdm = Sdm::once(10);
    sdm_effects(&mut sdm, 0, change(1, true));
    let unknown = sdm_effects(&mut sdm, S, SdmInput::Took(Took::Unknown));
    assert_eq!(unknown, [SdmEffect::HangUp, refused(1)]);
    let mut sdm = Sdm::once(10);
    sdm_effects(&mut sdm, 0, change(1, true));
    let late = sdm_effects(&mut sdm, 200 * S, SdmInput::Tick);
    assert_eq!(late[..1], [SdmEffect::Ended(RequestId(1), SdmEnd::Busy)]);
    assert_eq!(late[1..], [SdmEffect::HangUp]);
    assert!(sdm.may_hold() && !sdm.permits(RequestId(1)));
}
