//! One story each.

use thin::size::{GIB, MIB};
use thin::{
    Config, Drive, Effect, ExtendOutcome, GuestInput, Input, Monotonic, Notice, Sample, State,
    Target, ThresholdOutcome,
};

use crate::world::{DRIVE, Run, World};

const PLAIN: Config = Config {
    policy: thin::Policy::DEFAULT,
    predict: false,
    measured_bytes: 0,
};

fn world() -> World {
    let mut world = World::new(PLAIN, 50 * GIB, 2560 * MIB);
    world.idle_for(500);
    world
}

fn drive(world: &mut World, input: Input) {
    world.tell(GuestInput::Drive(DRIVE, input));
}

#[test]
fn a_new_drive_gets_its_threshold_and_is_left_alone() {
    let world = world();
    assert_eq!(world.status().state, State::Set);
    assert_eq!(world.threshold, Some(512 * MIB));
    assert!(world.asked.is_empty());
    assert_eq!(world.guest.deadline(), None, "idle costs nothing");
}

#[test]
fn threshold_extend_refresh_new_threshold() {
    let mut world = world();
    world.write(600 * MIB);
    world.idle_for(3000);
    assert_eq!(world.asked, [(Target::Source, 5120 * MIB)]);
    assert_eq!(world.mapped, 5120 * MIB);
    assert_eq!(world.threshold, Some(3072 * MIB));
    assert_eq!(world.status().state, State::Set);
    assert_eq!(world.status().extends, 1);
    assert_eq!(world.pauses, 0);
}

#[test]
fn a_drive_that_is_nearly_full_at_the_start_needs_no_event() {
    let mut world = World::new(PLAIN, 50 * GIB, 2560 * MIB);
    world.written = 1000 * MIB;
    world.idle_for(3000);
    assert_eq!(world.asked, [(Target::Source, 5120 * MIB)]);
    assert_eq!(world.status().state, State::Set);
}

#[test]
fn full_volume_stops_the_guest_and_more_space_continues_it() {
    let mut world = world();
    world.run_for(4000, |_| 20 * GIB);
    assert!(world.pauses >= 1);
    world.idle_for(5000);
    assert_eq!(world.run, Run::Running);
    assert!(world.guest.status().continued >= 1);
    assert!(world.notices.contains(&Notice::NoSpace));
}

#[test]
fn a_disk_error_is_never_continued_even_when_space_comes_at_that_time() {
    let mut world = world();
    world.write(600 * MIB);
    world.stop(Run::Eio);
    world.idle_for(20_000);
    assert_eq!(world.mapped, 5120 * MIB, "space was added all the same");
    assert_eq!(world.run, Run::Eio);
    // The operator mends it; from then on it is as before.
    world.cont();
    world.run_for(4000, |_| 20 * GIB);
    world.idle_for(8000);
    assert_eq!(world.run, Run::Running);
}

#[test]
fn disk_error_beside_lack_of_space_keeps_the_guest_stopped() {
    let mut world = world();
    world.delays.extend_ms = 3000;
    world.run_for(1000, |_| 20 * GIB);
    assert_eq!(world.run, Run::NoSpace);
    world.stop(Run::Eio);
    world.idle_for(20_000);
    assert_eq!(world.run, Run::Eio);
}

#[test]
fn a_guest_stopped_by_hand_stays_stopped() {
    let mut world = world();
    world.run_for(1000, |_| 20 * GIB);
    assert_eq!(world.run, Run::NoSpace);
    world.stop(Run::ByHand);
    world.idle_for(20_000);
    assert_eq!(world.run, Run::ByHand);
}

#[test]
fn held_guest_is_continued_when_the_hold_ends() {
    let mut world = world();
    world.tell(GuestInput::Hold(true));
    world.run_for(1000, |_| 20 * GIB);
    world.idle_for(10_000);
    assert_eq!(world.run, Run::NoSpace);
    assert!(world.mapped >= 5120 * MIB);
    world.tell(GuestInput::Hold(false));
    world.idle_for(1000);
    assert_eq!(world.run, Run::Running);
}

#[test]
fn refused_extend_is_asked_for_again_with_growing_pauses() {
    let mut world = world();
    world.pool = 0;
    world.write(600 * MIB);
    world.idle_for(30_000);
    let asked = world.asked.len();
    assert!((8..=30).contains(&asked), "{asked}");
    assert!(world.asked.iter().all(|ask| ask.1 == 5120 * MIB));
    assert_eq!(world.status().state, State::Exceeded);
    world.pool = 100 * GIB;
    world.idle_for(5000);
    assert_eq!(world.mapped, 5120 * MIB);
    assert_eq!(world.status().attempts, 0);
}

/// Hosts used to learn of a refusal only from the size after the refresh.
#[test]
fn an_answer_without_space_is_noticed_by_the_size() {
    let mut world = world();
    world.silent_refusals = 3;
    world.write(600 * MIB);
    world.idle_for(10_000);
    assert_eq!(
        world.notices.first(),
        Some(&Notice::TooSmall {
            wanted_bytes: 5120 * MIB,
            size_bytes: 2560 * MIB
        })
    );
    assert_eq!(world.mapped, 5120 * MIB);
    assert_eq!(world.status().state, State::Set);
}

#[test]
fn lost_request_is_made_again() {
    let mut world = world();
    world.answers = vec![None, None];
    world.write(600 * MIB);
    world.idle_for(12_000);
    assert_eq!(world.asked.len(), 3);
    assert_eq!(world.mapped, 5120 * MIB);
}

#[test]
fn late_answer_to_the_first_request_is_as_good() {
    let mut world = world();
    world.delays.extend_ms = 2500;
    world.write(600 * MIB);
    world.idle_for(8000);
    assert_eq!(world.mapped, 5120 * MIB);
    assert_eq!(world.status().extends, 1);
    assert_eq!(world.status().state, State::Set);
}

#[test]
fn at_the_largest_size_nothing_is_watched_until_the_disk_is_resized() {
    let mut world = World::new(PLAIN, 10 * GIB, 2560 * MIB);
    world.run_for(40_000, |_| 400 * MIB);
    assert_eq!(world.status().state, State::Disabled);
    assert_eq!(world.asked.last(), Some(&(Target::Source, 11_264 * MIB)));
    assert_eq!(world.pauses, 0);
    let asked = world.asked.len();
    world.idle_for(5000);
    assert_eq!(world.asked.len(), asked);
    assert_eq!(world.guest.deadline(), None);
    world.capacity = 20 * GIB;
    drive(&mut world, Input::Resized);
    world.idle_for(5000);
    assert_eq!(world.status().state, State::Set);
}

#[test]
fn full_at_the_largest_size_is_told_and_ends_when_somebody_makes_it_larger() {
    let mut world = World::new(PLAIN, 10 * GIB, 11_264 * MIB);
    world.idle_for(500);
    world.capacity = 10 * GIB;
    world.written = 11_264 * MIB;
    world.capacity = 12 * GIB;
    world.write(MIB);
    world.capacity = 10 * GIB;
    assert_eq!(world.run, Run::NoSpace);
    world.idle_for(30_000);
    let told = |world: &World| {
        let full = |notice: &&Notice| matches!(notice, Notice::AtMaximum { .. });
        world.notices.iter().filter(full).count()
    };
    assert_eq!(told(&world), 1);
    assert_eq!(world.run, Run::NoSpace);
    world.volume += GIB;
    world.mapped = world.volume;
    world.idle_for(15_000);
    assert_eq!(world.run, Run::Running);
}

#[test]
fn disk_resized_while_the_last_extend_is_under_way_goes_on_being_watched() {
    let mut world = World::new(PLAIN, 10 * GIB, 10_240 * MIB);
    world.idle_for(500);
    world.write(9 * GIB);
    world.idle_for(500);
    assert_eq!(world.asked, [(Target::Source, 11_264 * MIB)]);
    world.capacity = 20 * GIB;
    drive(&mut world, Input::Resized);
    world.idle_for(5000);
    assert_eq!(world.status().state, State::Set);
}

#[test]
fn measured_need_above_the_rule_is_given() {
    let config = Config {
        measured_bytes: 12 * GIB,
        ..PLAIN
    };
    let mut world = World::new(config, 10 * GIB, 2560 * MIB);
    world.run_for(40_000, |_| 400 * MIB);
    assert_eq!(world.asked.last(), Some(&(Target::Source, 12 * GIB)));
}

#[test]
fn improbable_offset_stops_the_guest_and_asks_for_nothing() {
    let mut world = World::new(PLAIN, 50 * GIB, 2560 * MIB);
    world.written = 5121 * MIB;
    world.idle_for(10_000);
    assert_eq!(world.pauses_ordered, 1);
    assert_eq!(world.run, Run::ByHand);
    assert!(world.asked.is_empty());
    assert_eq!(world.status().state, State::Disabled);
    assert!(matches!(world.notices[..], [Notice::Improbable { .. }]));
}

#[test]
fn capacity_of_zero_is_ignored_and_asked_again() {
    let mut world = World::new(PLAIN, 0, 2560 * MIB);
    world.idle_for(5000);
    assert_eq!(world.pauses_ordered, 0);
    assert!(world.asked.is_empty());
    assert_eq!(world.threshold, None);
    world.capacity = 50 * GIB;
    world.idle_for(3000);
    assert_eq!(world.status().state, State::Set);
}

#[test]
fn copying_doubles_the_chunk_and_extends_the_replica_first() {
    let mut world = world();
    drive(&mut world, Input::Replicating(true));
    world.write(200 * MIB);
    world.idle_for(5000);
    assert_eq!(
        world.asked,
        [(Target::Replica, 7680 * MIB), (Target::Source, 7680 * MIB)]
    );
    assert_eq!(world.refreshed, [Target::Replica, Target::Source]);
    assert_eq!(world.threshold, Some((7680 - 4096) * MIB));
}

#[test]
fn migrating_out_the_destination_refreshes_first() {
    let mut world = world();
    drive(&mut world, Input::Migrating(true));
    world.write(600 * MIB);
    world.idle_for(5000);
    assert_eq!(world.refreshed, [Target::Destination, Target::Source]);
}

#[test]
fn destination_that_cannot_refresh_ends_extends_until_the_migration_has() {
    let mut world = world();
    world.destination_can = false;
    drive(&mut world, Input::Migrating(true));
    world.write(600 * MIB);
    world.idle_for(20_000);
    assert_eq!(world.asked.len(), 1);
    assert_eq!(
        world.mapped,
        2560 * MIB,
        "the source maps nothing the other lacks"
    );
    drive(&mut world, Input::Migrating(false));
    world.idle_for(5000);
    assert_eq!(world.status().state, State::Set);
    assert_eq!(world.mapped, 5120 * MIB);
}

#[test]
fn lack_of_space_elsewhere_is_continued_less_and_less_often() {
    let mut world = world();
    for _ in 0..200 {
        if world.run == Run::Running {
            world.pauses += 1;
            world.run = Run::NoSpace;
            drive(&mut world, Input::NoSpace);
            world.tell(GuestInput::Stopped);
        }
        world.idle_for(500);
    }
    assert!(world.asked.is_empty(), "more of this volume would not help");
    assert!((5..12).contains(&world.pauses), "{}", world.pauses);
    assert!(
        world
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::NoSpaceElsewhere { .. }))
    );
}

#[test]
fn a_stop_heard_of_after_the_space_came_leaves_the_drive_well() {
    let mut world = world();
    assert!(world.status().is_well());
    world.write(2500 * MIB);
    world.idle_for(1000);
    assert!(!world.status().is_well(), "space is being asked for");
    world.idle_for(3000);
    assert!(world.status().is_well());
    world.run = Run::NoSpace;
    drive(&mut world, Input::NoSpace);
    assert!(!world.status().is_well(), "the guest lacks space");
    world.tell(GuestInput::Stopped);
    world.idle_for(1000);
    assert_eq!(world.run, Run::Running);
    assert!(world.status().is_well());
    assert_eq!(world.asked.len(), 1, "there was room");
}

#[test]
fn connection_made_anew_finds_a_guest_that_stopped_meanwhile() {
    let mut world = world();
    world.threshold = None;
    world.written = 2560 * MIB;
    world.run = Run::NoSpace;
    world.tell(GuestInput::Connected);
    world.idle_for(5000);
    assert_eq!(world.run, Run::Running);
    assert_eq!(world.mapped, 5120 * MIB);
}

#[test]
fn threshold_that_cannot_be_set_is_tried_again_and_the_guest_goes_on() {
    let mut drive = Drive::new(PLAIN);
    let mut now = Monotonic(0).plus_ms(1);
    let mut set = 0;
    drive.handle(now, Input::NoSpace);
    let mut resumed = false;
    for _ in 0..40 {
        let mut queue = Vec::new();
        while let Some(effect) = drive.next_effect() {
            queue.push(effect);
        }
        for effect in queue {
            let answer = match effect {
                Effect::QueryStats { ticket } => Input::Sampled {
                    ticket,
                    sample: Some(Sample {
                        capacity_bytes: 50 * GIB,
                        allocation_bytes: MIB,
                        physical_bytes: 5120 * MIB,
                        written_bytes: None,
                    }),
                },
                Effect::SetThreshold { ticket, .. } => {
                    set += 1;
                    let outcome = if set < 4 {
                        ThresholdOutcome::Failed
                    } else {
                        ThresholdOutcome::Set
                    };
                    Input::ThresholdSet { ticket, outcome }
                }
                Effect::Resume => {
                    resumed = true;
                    continue;
                }
                Effect::Tell(_) => continue,
                other => panic!("{other:?}"),
            };
            drive.handle(now, answer);
        }
        now = now.plus_ms(1000);
        drive.handle(now, Input::Tick);
    }
    assert!(resumed);
    assert_eq!(set, 4);
    assert_eq!(drive.status().state, State::Set);
}

#[test]
fn answers_to_other_questions_change_nothing() {
    let mut world = world();
    world.write(600 * MIB);
    world.idle_for(200);
    let before = world.status();
    let wrong = thin::Ticket(u64::MAX / 2);
    drive(
        &mut world,
        Input::Extended {
            ticket: wrong,
            outcome: ExtendOutcome::Refused,
        },
    );
    drive(
        &mut world,
        Input::Sampled {
            ticket: wrong,
            sample: None,
        },
    );
    drive(
        &mut world,
        Input::ThresholdSet {
            ticket: wrong,
            outcome: ThresholdOutcome::Failed,
        },
    );
    assert_eq!(world.status(), before);
}
