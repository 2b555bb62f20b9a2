//! The protocol's promises, one story each.

mod world;

use disk_format::{Generation, Leader, RecordError};
use lease::hosts::Belief;
use lease::{Failure, Input, Loss, Note, RenewalFailure, State};
use world::{EIO, Fate, S, World};

const T: u8 = 10;
const W: u32 = 60;

/// Two machines that want host id 1; only the first is on, and holds it.
fn held() -> (World, usize, usize) {
    let mut world = World::new(T, W);
    let (a, b) = (world.add("a", 1), world.add("b", 1));
    world.boot(a);
    world.until(60, "a holds", |world| world.is(a, State::Held));
    // The first renewal follows at once, since acquiring took 2T.
    world.until(1, "a has renewed", |world| {
        world.status(a).is_some_and(|status| status.renewals == 1)
    });
    (world, a, b)
}

fn losses(world: &World, machine: usize) -> Vec<Loss> {
    let notes = &world.machines[machine].notes;
    notes
        .iter()
        .filter_map(|(_, note)| {
            if let Note::Lost(loss) = note {
                Some(*loss)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn a_free_lease_is_held_after_2t_and_renewed_every_2t() {
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.boot(a);
    let took = world.until(60, "a holds", |world| world.is(a, State::Held));
    assert_eq!(took, 20);
    assert_eq!(world.generation(a), Some(1));
    let first = world.record(1);
    assert_eq!(
        (first.owner_id, first.owner_generation, first.io_timeout),
        (1, 1, 10)
    );
    world.run(201);
    assert_eq!(world.status(a).expect("runs").renewals, 11);
    assert!(world.record(1).timestamp >= first.timestamp + 200);
}

#[test]
fn of_two_hosts_with_one_id_exactly_one_gets_it_and_the_other_says_who() {
    let (mut world, a, b) = held();
    world.boot(b);
    let took = world.until(60, "b knows that a is alive", |world| {
        world.is(b, State::Busy)
    });
    assert!(took <= 31, "a renews every 2T, b looks every T: {took}");
    let rival = world.status(b).expect("runs").rival.expect("known");
    assert_eq!(
        (rival.name.to_string().as_str(), rival.generation),
        ("a", Generation(1))
    );
    world.run(1000);
    assert!(world.is(a, State::Held) && world.is(b, State::Busy));
}

#[test]
fn two_hosts_that_start_at_the_same_moment_do_not_both_hold() {
    for b_lags_ms in [0, 1, 3, 5, 10, 4000, 9000] {
        let mut world = World::new(T, W);
        let (a, b) = (world.add("a", 1), world.add("b", 1));
        world.rule = Box::new(move |io| {
            let lag = if io.machine == b {
                b_lags_ms * world::MS
            } else {
                0
            };
            Fate::late(io.now, 5 * world::MS + lag)
        });
        world.boot(a);
        world.boot(b);
        world.until(300, "one holds", |world| {
            world.is(a, State::Held) || world.is(b, State::Held)
        });
        world.run(300);
        let holders = [a, b]
            .into_iter()
            .filter(|&machine| world.is(machine, State::Held))
            .count();
        assert_eq!(holders, 1, "b lags {b_lags_ms} ms");
        assert_eq!(losses(&world, a).len() + losses(&world, b).len(), 0);
    }
}

#[test]
fn a_dead_hosts_lease_is_taken_over_after_8t_and_the_watchdogs_time_and_no_sooner() {
    let (mut world, a, b) = held();
    world.run(5);
    world.cut_power(a);
    world.boot(b);
    let took = world.until(300, "b holds", |world| world.is(b, State::Held));
    assert_eq!(took, 140 + 20);
    assert_eq!(world.generation(b), Some(2));
}

#[test]
fn a_restarted_host_gets_its_own_lease_back_in_2t() {
    let (mut world, a, _) = held();
    world.run(5);
    world.cut_power(a);
    world.boot(a);
    let took = world.until(60, "a holds again", |world| world.is(a, State::Held));
    assert_eq!((took, world.generation(a)), (20, Some(2)));
}

#[test]
fn a_released_lease_is_free_at_once_and_the_watchdog_is_cleared() {
    let (mut world, a, b) = held();
    world.boot(b);
    world.until(60, "b waits", |world| world.is(b, State::Busy));
    world.input(a, Input::Release);
    world.until(5, "a has released", |world| {
        world.machines[a]
            .lease
            .as_ref()
            .is_some_and(lease::DeltaLease::is_released)
    });
    assert_eq!(world.machines[a].reset_at, None);
    let freed = world.record(1);
    assert_eq!(
        (freed.timestamp, freed.owner_id, freed.owner_generation),
        (0, 1, 1)
    );
    let took = world.until(60, "b holds", |world| world.is(b, State::Held));
    assert!(took <= 31, "{took}");
    assert_eq!(world.generation(b), Some(2));
}

#[test]
fn the_successor_of_a_killed_process_does_not_overtake_what_that_one_guarded() {
    let (mut world, a, b) = held();
    world.run(5);
    world.kill(a);
    world.start_process(a);
    world.boot(b);
    // What the killed process guarded runs until its watchdog fires. A new
    // generation before that would let others have it.
    world.until(300, "the watchdog fires", |world| {
        assert_eq!(world.record(1).owner_generation, 1);
        world.machines[a].resets > 0
    });
    world.boot(a);
    let took = world.until(60, "a holds again", |world| world.is(a, State::Held));
    assert_eq!(took, 20, "started anew, nothing is left to wait for");
    assert_eq!(world.generation(a), Some(2));
}

#[test]
fn without_a_watchdog_there_is_nothing_a_successor_would_have_to_wait_for() {
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.machines[a].config.watchdog = false;
    world.boot(a);
    world.until(60, "registered", |world| world.generation(a).is_some());
    world.kill(a);
    world.start_process(a);
    world.until(30, "a holds again", |world| world.generation(a) == Some(2));
}

#[test]
fn after_a_sleep_the_watchdog_is_told_when_the_lease_really_ends() {
    let (mut world, a, _) = held();
    world.until(100, "renewed", |world| {
        world.status(a).is_some_and(|status| status.renewals > 0)
    });
    let wakes = world.now + 30 * S;
    world.suspend(a, 30 * S);
    world.until(60, "it wakes up", |world| world.now >= wakes);
    let expires = world.status(a).and_then(|status| status.expires);
    let left = expires.expect("held").0 - world.clock(a).boottime.0;
    let reset_at = world.machines[a].reset_at.expect("registered");
    let due = world.now + left + u64::from(W) * S;
    assert!(
        reset_at <= due && due - reset_at < 2 * S,
        "{reset_at}, due {due}"
    );
    // And one that slept through its lease is as good as reset.
    world.suspend(a, 100 * S);
    world.until(200, "lost", |world| world.is(a, State::Lost));
}

#[test]
fn the_peers_timeout_decides_how_long_it_is_waited_for() {
    let mut world = World::new(2, W);
    let (a, b) = (world.add("a", 1), world.add("b", 1));
    world.machines[a].config.io_timeout_s = 20;
    world.boot(a);
    world.until(200, "a holds", |world| world.is(a, State::Held));
    world.cut_power(a);
    world.boot(b);
    // 8 × 20 + 60, then 2 × 20 to settle, then once more with our own 2 × 2,
    // because by then the first claim would have expired.
    let took = world.until(400, "b holds", |world| world.is(b, State::Held));
    assert_eq!(took, 220 + 40 + 4);
    assert!(world.record(1).io_timeout == 2 && losses(&world, b).is_empty());
}

#[test]
fn a_claim_made_anew_after_a_long_settle_time_has_the_next_generation() {
    // The area was initialised with 10 s, the node runs with 2 s: it settles
    // for 2 × 10 s, by when a lease of 8 × 2 s has run out, and claims anew.
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.machines[a].config.io_timeout_s = 2;
    let (initial, others) = (world.record(1), world.disk[1..].to_vec());
    world.boot(a);
    world.run(10);
    let first = world.disk[0];
    let took = world.until(60, "a holds", |world| world.is(a, State::Held));
    assert_eq!(10 + took, 20 + 4);
    // Others may think the first one's generation dead before they look again.
    assert_eq!(world.generation(a), Some(2));
    let second = world.disk[0];
    let differing: Vec<usize> = (0..second.len())
        .filter(|&byte| first[byte] != second[byte])
        .collect();
    let expected = |byte: &usize| {
        // Generation, timestamp, checksum.
        (40..48).contains(byte) || (152..160).contains(byte) || (168..172).contains(byte)
    };
    assert!(
        !differing.is_empty() && differing.iter().all(expected),
        "bytes {differing:?}"
    );
    let claimed = world.record(1);
    assert_eq!((initial.owner_generation, claimed.owner_generation), (0, 2));
    assert!(claimed.timestamp >= 22 && claimed.io_timeout == 2);
    assert!(world.disk[1..] == others, "nobody else's sector is touched");
    // Restarted, it is the next acquisition, and in one step.
    world.cut_power(a);
    world.boot(a);
    world.until(60, "a holds again", |world| world.is(a, State::Held));
    assert_eq!(world.generation(a), Some(3));
}

#[test]
fn a_claim_made_anew_soon_is_the_same_acquisition() {
    // Settling takes 2 × 10 s, in which a lease of 8 × 4 s has not run out.
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.machines[a].config.io_timeout_s = 4;
    world.boot(a);
    let took = world.until(200, "a holds", |world| world.is(a, State::Held));
    assert_eq!((took, world.generation(a)), (20 + 8, Some(1)));
}

#[test]
fn a_record_taken_over_is_lost_at_the_next_look() {
    let (mut world, a, _) = held();
    let record = world.record(1);
    world.overwrite(
        1,
        &Leader {
            owner_generation: 7,
            ..record
        }
        .sealed(),
    );
    world.until(21, "a has lost it", |world| world.is(a, State::Lost));
    let loss = losses(&world, a)[0];
    assert_eq!((loss.code().0, world.record(1).owner_generation), (-260, 7));
    let reset = world.until(200, "the watchdog fires", |world| {
        world.machines[a].resets == 1
    });
    assert!(reset <= 140);
}

#[test]
fn a_record_changed_by_somebody_else_is_lost() {
    let (mut world, a, _) = held();
    let record = world.record(1);
    world.overwrite(
        1,
        &Leader {
            write_timestamp: 1,
            ..record
        }
        .sealed(),
    );
    world.until(21, "a has lost it", |world| world.is(a, State::Lost));
    assert_eq!(losses(&world, a), [Loss::Changed]);
}

#[test]
fn garbage_in_the_record_is_lost_and_not_repaired() {
    let (mut world, a, _) = held();
    world.disk[0] = [0xa5; 512];
    world.until(21, "a has lost it", |world| world.is(a, State::Lost));
    assert!(matches!(
        losses(&world, a)[0],
        Loss::Damaged(RecordError::Magic { .. })
    ));
    world.run(60);
    assert_eq!(world.disk[0], [0xa5; 512]);
}

#[test]
fn garbage_before_the_acquire_is_reported_and_not_overwritten() {
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.disk[0] = [0xa5; 512];
    world.boot(a);
    world.run(1);
    let failed = world.machines[a].notes.iter().any(|(_, note)| {
        matches!(
            note,
            Note::Failed(Failure::Record(RecordError::Magic { .. }))
        )
    });
    assert!(failed && world.disk[0] == [0xa5; 512]);
}

#[test]
fn io_errors_are_retried_warned_of_at_6t_and_lost_at_8t() {
    let (mut world, a, _) = held();
    let renewed = world.now;
    world.rule = Box::new(|io| Fate::failed(io.now));
    world.until(100, "a is failing", |world| world.is(a, State::Failing));
    assert_eq!(
        (world.now - renewed) / S,
        59,
        "counted from the submission, a moment earlier"
    );
    assert_eq!(
        world.status(a).expect("runs").trouble,
        Some(RenewalFailure::ReadFailed(EIO))
    );
    world.until(100, "a has lost it", |world| world.is(a, State::Lost));
    assert_eq!((world.now - renewed) / S, 79);
    // Lost is final: working storage does not bring it back.
    world.rule = Box::new(|io| Fate::prompt(io.now));
    world.until(100, "the watchdog fires", |world| {
        world.machines[a].resets == 1
    });
    assert_eq!(losses(&world, a), [Loss::Expired(80)]);
}

#[test]
fn storage_that_comes_back_before_8t_is_as_if_nothing_happened() {
    let (mut world, a, _) = held();
    world.rule = Box::new(|io| Fate::failed(io.now));
    world.until(100, "a is failing", |world| world.is(a, State::Failing));
    world.rule = Box::new(|io| Fate::prompt(io.now));
    world.until(2, "a is renewed", |world| world.is(a, State::Held));
    assert!(world.status(a).expect("runs").renewal_failures > 10);
    assert!(
        world.machines[a]
            .notes
            .iter()
            .any(|(_, note)| matches!(note, Note::Recovered { .. }))
    );
    world.run(500);
    assert!(world.is(a, State::Held));
}

#[test]
fn a_stall_of_30_s_is_survived_and_counted_from_when_the_write_was_submitted() {
    let (mut world, a, _) = held();
    let stall_until = world.now + 50 * S;
    world.rule = Box::new(move |io| {
        if io.write && io.now < stall_until {
            Fate::late(io.now, stall_until - io.now)
        } else {
            Fate::prompt(io.now)
        }
    });
    world.run(49);
    let before = world.status(a).expect("runs");
    assert_eq!((before.state, before.renewals), (State::Held, 1));
    world.until(2, "the stalled write is done", |world| {
        world.status(a).is_some_and(|status| status.renewals == 2)
    });
    let last_renewal = world.status(a).and_then(|status| status.last_renewal);
    let age_ms = last_renewal.map(|at| world.clock(a).boottime.ms_since(at));
    assert_eq!(
        age_ms.map(|age| age / 1000),
        Some(30),
        "a success counts from its submission"
    );
    // So the next one is due at once.
    world.until(1, "renewed again", |world| {
        world.status(a).is_some_and(|status| status.renewals == 3)
    });
    world.run(500);
    assert!(world.is(a, State::Held));
}

#[test]
fn a_read_slower_than_t_is_used_when_it_comes_within_2t() {
    let (mut world, a, _) = held();
    let mut slow = Some(());
    world.rule = Box::new(move |io| match slow.take() {
        Some(()) => Fate::late(io.now, 15 * S),
        None => Fate::prompt(io.now),
    });
    world.run(36);
    let status = world.status(a).expect("runs");
    assert_eq!((status.renewals, status.renewal_failures), (2, 1));
}

#[test]
fn a_read_that_never_comes_back_is_replaced_after_2t() {
    let (mut world, a, _) = held();
    let mut hung = Some(());
    world.rule = Box::new(move |io| match hung.take() {
        Some(()) => Fate {
            told: None,
            lands: None,
            begins: io.now,
            ok: true,
        },
        None => Fate::prompt(io.now),
    });
    world.run(42);
    let status = world.status(a).expect("runs");
    assert_eq!(status.state, State::Held);
    assert_eq!((status.renewals, status.renewal_failures), (2, 2));
}

#[test]
fn a_renewal_told_as_failed_but_landed_is_only_checked_for_ownership() {
    let (mut world, a, _) = held();
    let mut once = true;
    world.rule = Box::new(move |io| {
        let prompt = Fate::prompt(io.now);
        if io.write && std::mem::take(&mut once) {
            Fate {
                ok: false,
                ..prompt
            }
        } else {
            prompt
        }
    });
    world.run(100);
    let status = world.status(a).expect("runs");
    assert_eq!((status.state, status.renewal_failures), (State::Held, 1));
}

#[test]
fn a_claim_that_lands_after_it_was_given_up_never_gives_two_holders() {
    // b reads "free", its write hangs; a acquires; b's write lands on top.
    let mut world = World::new(T, W);
    let (a, b) = (world.add("a", 1), world.add("b", 1));
    let mut hung = false;
    world.rule = Box::new(move |io| {
        if io.machine == b && io.write && !std::mem::replace(&mut hung, true) {
            Fate::late(io.now, 45 * S)
        } else {
            Fate::prompt(io.now)
        }
    });
    world.boot(b);
    world.run(1);
    world.boot(a);
    world.until(30, "a holds", |world| world.is(a, State::Held));
    world.until(60, "a sees that its record was overwritten", |world| {
        world.is(a, State::Lost)
    });
    assert_eq!(losses(&world, a)[0].code().0, -260);
    // b finds its own name on disk, and waits all the same.
    let took = world.until(300, "b holds", |world| world.is(b, State::Held));
    assert!(took > 100, "{took}");
    assert_eq!(world.machines[a].resets, 1);
}

#[test]
fn a_host_that_stood_still_between_reading_and_writing_reads_again() {
    let mut world = World::new(T, W);
    let (a, b) = (world.add("a", 1), world.add("b", 1));
    // b's first write waits in its queue while b is frozen.
    world.rule = Box::new(move |io| {
        if io.machine == b && io.write {
            Fate {
                begins: io.now + 500 * world::MS,
                ..Fate::late(io.now, S)
            }
        } else {
            Fate::prompt(io.now)
        }
    });
    world.boot(b);
    world.run(0);
    world.step(world.now + 100 * world::MS);
    world.until(1, "b has queued its write", |world| {
        world.is(b, State::Acquiring)
    });
    world.run(0);
    while world.now % S < 100 * world::MS {
        world.step(world.now + 100 * world::MS);
    }
    world.freeze(b, 60 * S);
    world.boot(a);
    world.until(40, "a holds", |world| world.is(a, State::Held));
    world.run(200);
    assert!(world.is(a, State::Held) && world.is(b, State::Busy));
    assert!(
        world.machines[b]
            .notes
            .iter()
            .any(|(_, note)| *note == Note::Failed(Failure::Stalled))
    );
}

#[test]
fn a_frozen_holder_that_wakes_up_knows_at_once_that_it_lost() {
    let (mut world, a, _) = held();
    world.freeze(a, 90 * S);
    world.run(91);
    assert!(world.is(a, State::Lost));
    assert_eq!(losses(&world, a), [Loss::Expired(80)]);
}

#[test]
fn a_machine_that_slept_through_its_lease_knows_although_its_monotonic_clock_stood_still() {
    let (mut world, a, _) = held();
    world.suspend(a, 90 * S);
    world.run(91);
    assert!(world.is(a, State::Lost));
}

#[test]
fn a_clock_reading_from_the_past_changes_nothing() {
    let (mut world, a, _) = held();
    let early = lease::Now::default();
    let lease = world.machines[a].lease.as_mut().expect("runs");
    lease.handle(early, Input::Tick);
    assert_eq!(lease.status().state, State::Held);
    world.run(100);
    assert!(world.is(a, State::Held));
}

#[test]
fn without_the_watchdogs_registration_nothing_is_held_and_the_record_is_freed() {
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.machines[a].watchdog_works = false;
    world.boot(a);
    world.until(60, "the registration fails", |world| {
        world.machines[a]
            .notes
            .iter()
            .any(|(_, note)| *note == Note::Failed(Failure::Watchdog))
    });
    world.until(1, "the record is free", |world| {
        world.record(1).timestamp == 0
    });
    assert!(
        !world.machines[a]
            .notes
            .iter()
            .any(|(_, note)| matches!(note, Note::Acquired { .. }))
    );
    world.machines[a].watchdog_works = true;
    world.until(60, "a holds", |world| world.is(a, State::Held));
}

#[test]
fn a_release_in_the_middle_of_acquiring_frees_the_record() {
    let mut world = World::new(T, W);
    let a = world.add("a", 1);
    world.boot(a);
    world.run(5);
    world.input(a, Input::Release);
    world.run(1);
    assert!(world.is(a, State::Released));
    assert_eq!(
        (world.record(1).timestamp, world.record(1).owner_generation),
        (0, 1)
    );
}

#[test]
fn a_doubtful_lease_is_not_freed_on_disk() {
    let (mut world, a, _) = held();
    world.rule = Box::new(|io| {
        if io.write {
            Fate::failed(io.now)
        } else {
            Fate::prompt(io.now)
        }
    });
    world.run(5);
    world.input(a, Input::Release);
    world.run(5);
    assert!(world.is(a, State::Released));
    assert_ne!(world.record(1).timestamp, 0);
    assert!(
        world.machines[a]
            .notes
            .iter()
            .any(|(_, note)| *note == Note::Released { clean: false })
    );
}

#[test]
fn each_host_sees_the_other_live_then_fail_then_dead_then_back_with_a_higher_generation() {
    let mut world = World::new(T, W);
    let (a, b) = (world.add("a", 1), world.add("b", 2));
    world.boot(a);
    world.boot(b);
    let belief = |world: &World, of: u64| {
        let hosts = &world.machines[a].hosts;
        let host = hosts.get(disk_format::HostId::new(of).expect("valid"));
        (host.belief(world.clock(a).boottime, W), host.generation)
    };
    world.until(100, "a sees b live", |world| {
        belief(world, 2) == (Belief::Live, Generation(1))
    });
    world.cut_power(b);
    let cut = world.now;
    world.until(120, "a sees b fail", |world| {
        belief(world, 2).0 == Belief::Fail
    });
    let fail = (world.now - cut) / S;
    assert!((60..=101).contains(&fail), "{fail}");
    world.until(120, "a sees b dead", |world| {
        belief(world, 2).0 == Belief::Dead
    });
    let dead = (world.now - cut) / S;
    assert!((120..=161).contains(&dead), "{dead}");
    world.boot(b);
    world.until(100, "a sees b back", |world| {
        belief(world, 2) == (Belief::Live, Generation(2))
    });
}
