//! Storage that fails, is slow, or does what it was told long ago.

mod resource_world;

use std::sync::Arc;

use disk_format::Geometry::Sector512Align1M as SMALL;
use disk_format::ModeBlock;
use lease::resource::{AcquireOptions, ConvertOptions, Erase, Held, Input, ReleaseOptions};
use lease::{Code, IoOutcome};
use resource_world::{Next, S, T, World, options};

fn two() -> World {
    World::new(SMALL, 7).with_hosts(2)
}

/// Lets the I/O that is under way run into its time-out.
fn time_out(world: &mut World, host: usize) {
    world.now += u64::from(T) * S;
    world.input(host, Input::Tick);
}

#[test]
fn a_first_reading_that_fails_is_reported_as_it_is() {
    let mut world = two();
    world.acquire(0, options(false));
    let effect = world.take(0);
    world.fail(0, &effect);
    assert_eq!(world.code(0), Some(Code::EIO));
    assert!(world.op(0).is_drained());

    world.acquire(0, options(false));
    let effect = world.take(0);
    time_out(&mut world, 0);
    assert_eq!(world.code(0), Some(Code::AIO_TIMEOUT));
    assert!(world.op(0).is_drained(), "a late read changes nothing");
    world.told(0, effect.io(), Some(&[]));

    world.acquire(0, options(false));
    let effect = world.take(0);
    world.told(0, effect.io(), Some(&[0; 512]));
    assert_eq!(world.code(0), Some(Code::EMSGSIZE));
}

#[test]
fn a_failed_phase_one_ends_with_nothing_to_undo() {
    let mut world = two();
    world.acquire(0, options(false));
    world.step(0);
    let effect = world.take(0);
    world.fail(0, &effect);
    assert_eq!(world.code(0), Some(Code::DBLOCK_WRITE));
    assert!(world.op(0).is_drained());
    world.acquire(0, options(false));
    world.step(0);
    world.step(0);
    let effect = world.take(0);
    world.fail(0, &effect);
    assert_eq!(world.code(0), Some(Code::DBLOCK_READ));
    assert!(world.op(0).is_drained());
}

#[test]
fn a_late_phase_one_keeps_the_operation_until_it_has_landed() {
    let mut world = two();
    world.acquire(0, options(false));
    world.step(0);
    let late = world.take(0);
    time_out(&mut world, 0);
    assert_eq!(world.code(0), Some(Code::DBLOCK_WRITE));
    assert!(!world.op(0).is_drained());
    assert_eq!(world.op(0).writes_in_flight(), 1);
    assert_eq!(
        world.op(0).deadline(),
        None,
        "only its outcome is waited for"
    );
    world.now += 100 * S;
    world.finish(0, &late);
    assert!(world.op(0).is_drained());
    assert_eq!(world.code(0), Some(Code::DBLOCK_WRITE));
}

#[test]
fn a_failed_phase_two_is_undone() {
    for fails in ["write", "late write", "read"] {
        let mut world = two();
        world.acquire(0, options(false));
        world.step_to(0, Next::WritePhase2);
        let write = world.take(0);
        match fails {
            "write" => {
                world.fail(0, &write);
                assert_eq!(world.code(0), Some(Code::DBLOCK_WRITE));
            }
            "late write" => {
                time_out(&mut world, 0);
                assert_eq!(world.code(0), Some(Code::DBLOCK_WRITE));
                assert!(!world.has_io(0), "no mark while the write may still land");
                world.now += 30 * S;
                world.finish(0, &write);
            }
            _ => {
                world.finish(0, &write);
                let read = world.take(0);
                world.fail(0, &read);
                assert_eq!(world.code(0), Some(Code::DBLOCK_READ));
            }
        }
        assert!(!world.op(0).is_drained());
        world.ios();
        world.drain(0);
        assert_eq!(world.ios(), ["W 1 @2", "R 1 @0"], "{fails}");
        let own = world.own(1).0;
        assert!(own.is_released() && own.bal == own.mbal, "{fails}");
        // Whoever comes next may find our value chosen, and need not wait for us.
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, Code::ACQUIRE_OTHER);
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, Code::OK);
        assert_eq!(world.leader().lver, 2);
    }
}

#[test]
fn a_failed_commit_is_undone_once_its_fate_is_known() {
    for landed in [true, false] {
        let mut world = two();
        world.acquire(0, options(false));
        world.step_to(0, Next::WriteLeader);
        let write = world.take(0);
        time_out(&mut world, 0);
        assert_eq!(world.code(0), Some(Code::AIO_TIMEOUT));
        assert!(!world.has_io(0) && !world.op(0).is_drained());
        // Until then nobody else gets past us: the value is chosen.
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, Code::ACQUIRE_OTHER);
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
        if landed {
            world.finish(0, &write);
        } else {
            world.fail(0, &write);
        }
        world.drain(0);
        assert!(world.own(1).0.is_released());
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, Code::OK, "landed: {landed}");
    }
}

#[test]
fn a_write_never_begun_is_not_waited_for() {
    let mut world = two();
    world.acquire(0, options(false));
    world.step(0);
    let write = world.take(0);
    world.input(0, Input::Io(write.io(), IoOutcome::NotStarted));
    assert_eq!(world.code(0), Some(Code::DBLOCK_WRITE));
    assert!(world.op(0).is_drained());
}

#[test]
fn writes_carry_the_latest_moment_at_which_they_may_begin() {
    let mut world = two();
    world.acquire(0, options(false));
    world.step(0);
    let lease::resource::Effect::Write { not_after, .. } = world.take(0) else {
        panic!("a write");
    };
    assert_eq!(not_after.0, world.now + u64::from(T) * S);
}

#[test]
fn a_release_whose_mark_cannot_be_written_frees_the_leader_all_the_same() {
    let mut world = two();
    let held = world.hold(0, false);
    world.release(0, &held, ReleaseOptions::default());
    let mark = world.take(0);
    world.fail(0, &mark);
    assert_eq!(world.run(0).code, Code::OK);
    assert_eq!(world.leader().timestamp, 0);
    // The mark is made up for: another host may yet write the leader for us.
    assert!(!world.op(0).is_drained());
    world.drain(0);
    assert!(world.own(1).0.is_released());
}

#[test]
fn a_release_that_times_out_is_told_at_once_and_done_later() {
    let mut world = two();
    let held = world.hold(0, false);
    world.release(0, &held, ReleaseOptions::default());
    world.step(0);
    world.step(0);
    let write = world.take(0);
    time_out(&mut world, 0);
    assert_eq!(world.code(0), Some(Code::AIO_TIMEOUT));
    assert!(!world.op(0).is_drained());
    // Not tried again while the first may land.
    for _ in 0..10 {
        time_out(&mut world, 0);
        assert!(!world.has_io(0));
    }
    world.fail(0, &write);
    let before = world.now;
    world.drain(0);
    assert_eq!(world.code(0), Some(Code::AIO_TIMEOUT), "the result stands");
    assert_eq!(world.leader().timestamp, 0);
    assert!(world.now - before <= 2 * u64::from(T) * S);
}

#[test]
fn a_release_whose_late_write_landed_finds_it_done() {
    let mut world = two();
    let held = world.hold(0, false);
    world.release(0, &held, ReleaseOptions::default());
    world.step(0);
    world.step(0);
    let write = world.take(0);
    time_out(&mut world, 0);
    world.finish(0, &write);
    // Another host may have it by now; it is not disturbed.
    let other = world.hold(1, false);
    world.drain(0);
    assert_eq!(world.leader(), other.leader);
}

#[test]
fn a_release_goes_on_trying_as_long_as_the_storage_fails() {
    let mut world = two();
    let held = world.hold(0, false);
    world.release(0, &held, ReleaseOptions::default());
    let began = world.now;
    let mut tries = 0;
    while tries < 5 {
        if !world.has_io(0) {
            world.wait(0);
            continue;
        }
        tries += usize::from(world.hosts[0].queue.len() == 2);
        let effect = world.take(0);
        world.fail(0, &effect);
    }
    assert_eq!(world.code(0), Some(Code::EIO));
    let spent_s = (world.now - began) / S;
    assert_eq!(spent_s, u64::from(T) * (1 + 2 + 2 + 2), "T, then every 2T");
    world.drain(0);
    assert_eq!(world.leader().timestamp, 0);
}

#[test]
fn a_value_block_that_may_still_land_keeps_the_lease() {
    let mut world = two();
    let held = world.hold(0, false);
    let release = ReleaseOptions {
        lvb: Some(Arc::from(&[3; 512][..])),
        ..ReleaseOptions::default()
    };
    world.release(0, &held, release);
    let write = world.take(0);
    time_out(&mut world, 0);
    assert_eq!(world.code(0), Some(Code::AIO_TIMEOUT));
    assert!(!world.has_io(0));
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    world.finish(0, &write);
    world.drain(0);
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::OK);
    // A failure that is known is not worth keeping the lease for.
    let held = world
        .result(1)
        .and_then(|outcome| outcome.held)
        .expect("held");
    let release = ReleaseOptions {
        lvb: Some(Arc::from(&[3; 512][..])),
        ..ReleaseOptions::default()
    };
    world.release(1, &held, release);
    let write = world.take(1);
    world.fail(1, &write);
    assert_eq!(world.drain(1).code, Code::OK);
}

#[test]
fn a_shared_acquire_that_cannot_mark_itself_is_undone() {
    for fails in ["mark", "leader"] {
        let mut world = two();
        world.acquire(0, options(true));
        world.step_to(0, Next::WriteReleased);
        let mark = world.take(0);
        if fails == "mark" {
            world.fail(0, &mark);
            world.step(0);
        } else {
            world.finish(0, &mark);
            let read = world.take(0);
            world.fail(0, &read);
        }
        assert_eq!(world.code(0), Some(Code::EIO), "{fails}");
        world.drain(0);
        assert_eq!(world.own(1).1, ModeBlock::NONE, "{fails}");
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, Code::OK, "{fails}");
    }
}

#[test]
fn an_unreadable_shared_holder_is_not_taken_for_gone() {
    let mut world = two();
    world.hold(0, true);
    world.acquire(1, options(false));
    world.step_to(1, Next::WriteLeader);
    world.step(1);
    let read = world.take(1);
    world.fail(1, &read);
    assert_eq!(world.code(1), Some(Code::EIO));
    world.drain(1);
    assert_eq!(world.leader().timestamp, 0);
    assert!(world.own(1).1.is_shared());
}

#[test]
fn a_conversion_that_fails_leaves_what_was_held() {
    let mut world = two();
    let held = world.hold(0, true);
    world.convert(0, &held, ConvertOptions::default());
    world.step_to(0, Next::WritePhase2);
    let write = world.take(0);
    time_out(&mut world, 0);
    let outcome = world.result(0).expect("told");
    assert_eq!(outcome.code, Code::DBLOCK_WRITE);
    assert!(outcome.held.expect("held").shared);
    world.finish(0, &write);
    world.drain(0);
    assert_eq!(world.own(1).1, ModeBlock::shared(1), "still marked");
    world.acquire(1, options(false));
    world.drain(1);
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::EAGAIN);
}

#[test]
fn going_shared_is_told_when_it_is_known() {
    let down = ConvertOptions {
        shared: true,
        ..ConvertOptions::default()
    };
    // The mark may be on disk, and it may be what releases the lease: not
    // known is not told.
    let mut world = two();
    let held = world.hold(0, false);
    world.convert(0, &held, down.clone());
    let mark = world.take(0);
    world.step(0);
    time_out(&mut world, 0);
    assert_eq!(world.code(0), None);
    assert!(!world.has_io(0));
    world.fail(0, &mark);
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::OK);
    assert!(outcome.held.expect("held").shared);
    assert!(world.own(1).1.is_shared());
    assert_eq!(world.leader().timestamp, 0);

    // With the mark written it is shared, whatever becomes of the leader.
    let mut world = two();
    let held = world.hold(0, false);
    world.convert(0, &held, down);
    world.step(0);
    world.step(0);
    let write = world.take(0);
    time_out(&mut world, 0);
    let outcome = world.result(0).expect("told");
    assert_eq!(outcome.code, Code::OK);
    assert!(outcome.held.expect("held").shared);
    assert!(!world.op(0).is_drained());
    world.fail(0, &write);
    world.drain(0);
    assert_eq!(world.leader().timestamp, 0);
    world.hold(1, true);
}

#[test]
fn a_lost_lockspace_stops_everything_but_the_memory_of_late_writes() {
    let mut world = two();
    world.acquire(0, options(false));
    world.step_to(0, Next::WritePhase2);
    let write = world.take(0);
    world.input(0, Input::Abandon);
    assert_eq!(world.code(0), Some(Code::ENOSPC));
    assert!(!world.op(0).is_drained() && !world.has_io(0));
    world.finish(0, &write);
    assert!(world.op(0).is_drained() && !world.has_io(0));
    assert!(!world.own(1).0.is_released());
}

#[test]
fn giving_up_in_the_middle_is_undone() {
    let mut world = two();
    for next in [Next::WritePhase1, Next::WritePhase2, Next::WriteLeader] {
        world.acquire(0, options(false));
        world.step_to(0, next);
        world.input(0, Input::Cancel);
        let outcome = world.drain(0);
        match outcome.held {
            // Too late to give up: the caller releases it.
            Some(held) => {
                assert_eq!(next, Next::WriteLeader);
                world.release(0, &held, ReleaseOptions::default());
                world.drain(0);
            }
            None => assert_eq!(outcome.code, Code::ERROR),
        }
        let mut code = Code::ACQUIRE_OTHER;
        for _ in 0..2 {
            if code == Code::ACQUIRE_OTHER {
                world.acquire(1, options(false));
                code = world.drain(1).code;
            }
        }
        assert_eq!(code, Code::OK, "{next:?}");
        let held = world
            .result(1)
            .and_then(|outcome| outcome.held)
            .expect("held");
        world.release(1, &held, ReleaseOptions::default());
        world.drain(1);
    }
}

#[test]
fn erasing_frees_what_we_may_own_and_nothing_else() {
    let mut world = two();
    let held = world.hold(0, false);
    let erase = |world: &mut World, held: &Held| {
        let op = Erase::new(world.hosts[0].us, world.target, &held.dblock, SMALL);
        world.begin(0, op);
        world.drain(0).code
    };
    assert_eq!(erase(&mut world, &held), Code::OK);
    assert_eq!(world.leader().timestamp, 0);
    let other = world.hold(1, false);
    // The leader is another's: only the mark is written.
    assert_eq!(erase(&mut world, &held), Code::OK);
    assert_eq!(world.leader(), other.leader);
}

#[test]
fn a_value_block_that_cannot_be_read_does_not_spoil_the_lease() {
    let mut world = two();
    let wants = AcquireOptions {
        lvb: true,
        ..options(false)
    };
    world.acquire(0, wants);
    world.step_to(0, Next::WriteLeader);
    world.step(0);
    assert_eq!(world.code(0), None, "the block is waited for");
    let read = world.take(0);
    world.fail(0, &read);
    let outcome = world.drain(0);
    assert_eq!((outcome.code, outcome.lvb), (Code::OK, None));
}

#[test]
fn a_value_block_is_not_written_again_once_another_may_own_the_lease() {
    let mut world = two();
    let held = world.hold(0, false);
    let with = |byte: u8| ReleaseOptions {
        lvb: Some(Arc::from(&[byte; 512][..])),
        ..ReleaseOptions::default()
    };
    world.release(0, &held, with(1));
    world.step_to(0, Next::WriteLeader);
    // Freed, but told as failed: the release goes on in the background.
    let write = world.take(0);
    world.land(0, &write);
    world.fail(0, &write);
    assert_eq!(world.code(0), Some(Code::EIO));
    let other = world.hold(1, false);
    world.release(1, &other, with(2));
    world.drain(1);
    world.drain(0);
    assert_eq!(world.disks[0][2002 * 512], 2);
}

#[test]
fn a_version_given_up_before_is_stepped_over_not_granted_again() {
    let mut world = two();
    let mut old = None;
    for _ in 0..2 {
        let held = world.hold(0, false);
        world.release(0, &held, ReleaseOptions::default());
        world.drain(0);
        old.get_or_insert(world.leader());
    }
    // A write given up long ago throws the leader back to version 1.
    world.disks[0][..200].copy_from_slice(&old.expect("released").encode());
    let wants = AcquireOptions {
        lvb: true,
        ..options(false)
    };
    world.acquire(0, wants);
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::OK);
    assert_eq!(outcome.held.expect("held").lver(), 3);
    assert!(outcome.lvb.is_some());
    let reads = world.ios().iter().filter(|io| *io == "R 1 @2002").count();
    assert_eq!(reads, 1, "the block of the version held");
}

#[test]
fn a_newer_life_of_our_own_host_id_is_waited_for_like_any_other() {
    let mut world = two();
    world.hold(0, false);
    // Our host id's record was thrown back; generation 1 is the newest again.
    let leader = disk_format::Leader {
        owner_generation: 4,
        ..world.leader()
    };
    world.disks[0][..200].copy_from_slice(&leader.sealed().encode());
    let began = world.now;
    world.acquire(0, options(false));
    let mut renewed = began;
    while world.result(0).is_none() {
        if world.now > renewed + 4 * S {
            renewed = world.now;
            world.renew(1, 1);
            world.look();
        }
        if world.has_io(0) {
            world.step(0);
        } else {
            world.wait(0);
        }
    }
    let outcome = world.drain(0);
    let held = outcome.held.expect("held in the end");
    assert_eq!((held.lver(), held.leader.owner_generation), (2, 1));
    let waited_s = (world.now - began) / S;
    assert!((76..80).contains(&waited_s), "8T + W: {waited_s} s");
}
