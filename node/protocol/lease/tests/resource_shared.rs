//! Several hosts hold one lease shared; one wants it alone.

mod resource_world;

use std::sync::Arc;

use disk_format::Geometry::Sector512Align1M as SMALL;
use disk_format::{ModeBlock, paxos};
use lease::Code;
use lease::resource::{AcquireOptions, ConvertOptions, Held, Input, ReleaseOptions};
use resource_world::{MS, Next, S, World, options};

fn three() -> World {
    World::new(SMALL, 7).with_hosts(3)
}

fn up() -> ConvertOptions {
    ConvertOptions::default()
}

fn down() -> ConvertOptions {
    ConvertOptions {
        shared: true,
        ..ConvertOptions::default()
    }
}

fn let_go(world: &mut World, host: usize, held: &Held) {
    world.release(host, held, ReleaseOptions::default());
    assert_eq!(world.drain(host).code, Code::OK);
}

#[test]
fn hosts_share_and_keep_others_from_owning() {
    let mut world = three();
    let one = world.hold(0, true);
    let two = world.hold(1, true);
    assert_eq!((one.lver(), two.lver()), (1, 2));
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::EAGAIN);
    let leader = world.leader();
    assert_eq!((leader.owner_id, leader.timestamp), (3, 0), "given back");
    assert!(world.own(3).0.is_released());
    let_go(&mut world, 0, &one);
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::EAGAIN);
    let_go(&mut world, 1, &two);
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::OK);
}

#[test]
fn an_owner_keeps_others_from_sharing() {
    let mut world = three();
    world.hold(0, false);
    world.acquire(1, options(true));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
}

#[test]
fn a_host_caught_sharing_is_waited_for_a_moment() {
    let mut world = three();
    world.acquire(0, options(true));
    world.step_to(0, Next::WriteReleased);
    // Its leader says SHORT_HOLD: host 2 tries again soon.
    world.acquire(1, options(true));
    while world.has_io(1) {
        world.step(1);
    }
    assert_eq!(world.code(1), None);
    let due = world.op(1).deadline().expect("tries again").0 - world.now;
    assert!((20 * MS..=40 * MS).contains(&due), "{due} ns");
    let began = world.now;
    world.run(0);
    assert_eq!(world.drain(1).code, Code::OK);
    assert!(world.now - began <= 40 * MS);
}

/// Host 1 proposed itself, host 2 adopted that and committed it: the leader
/// does not say what host 1 wants.
fn committed_by_the_other(shared: bool) -> World {
    let mut world = three();
    world.acquire(0, options(shared));
    world.step_to(0, Next::WritePhase2);
    let effect = world.take(0);
    world.land(0, &effect);
    world.acquire(1, options(true));
    while world.has_io(1) {
        world.step(1);
    }
    let leader = world.leader();
    assert_eq!((leader.owner_id, leader.write_id), (1, 2));
    assert_eq!(leader.flags & paxos::SHORT_HOLD, 0);
    world.told(0, effect.io(), None);
    world
}

#[test]
fn an_owner_that_did_not_write_its_leader_itself_is_waited_for_as_well() {
    let mut world = committed_by_the_other(true);
    for _ in 0..5 {
        assert_eq!(world.code(1), None);
        world.wait(1);
        while world.has_io(1) {
            world.step(1);
        }
    }
    assert_eq!(world.code(1), None);
    world.run(0);
    assert_eq!(world.drain(1).code, Code::OK);
    // One that keeps it is in the end what it looks like.
    let mut world = committed_by_the_other(false);
    let began = world.now;
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    assert!(world.now - began < 8 * S);
    assert_eq!(world.run(0).code, Code::OK);
}

#[test]
fn a_host_that_goes_on_sharing_for_ever_exhausts_the_retries() {
    let mut world = three();
    world.acquire(0, options(true));
    world.step_to(0, Next::WriteReleased);
    let began = world.now;
    world.acquire(1, options(true));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_SHRETRY);
    let looks = world.ios().iter().filter(|io| *io == "R 1 delta 1").count();
    assert_eq!(looks, 9, "once, and eight retries");
    assert!(world.now - began < 8 * S);
    // An exclusive acquire does not retry.
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::ACQUIRE_IDLIVE);
}

#[test]
fn a_dead_shared_holder_is_cleared_a_living_one_is_not() {
    let mut world = three();
    world.hold(0, true);
    let two = world.hold(1, true);
    world.ios();
    // Host 1 dies; hosts 2 and 3 go on renewing.
    for _ in 0..20 {
        world.now += 4 * S;
        world.renew(2, 1);
        world.renew(3, 1);
        world.look();
    }
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::EAGAIN);
    let ios = world.ios();
    assert!(ios.contains(&"W 1 @2".to_owned()), "{ios:?}");
    assert!(!ios.contains(&"W 1 @3".to_owned()), "{ios:?}");
    assert_eq!(world.own(1).1, ModeBlock::NONE);
    assert!(world.own(2).1.is_shared());
    let_go(&mut world, 1, &two);
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::OK);
    // What was cleared was never live again: a fresh acquire of host 1's next
    // life goes through as usual.
    let three = world
        .result(2)
        .and_then(|outcome| outcome.held)
        .expect("held");
    let_go(&mut world, 2, &three);
    let reborn = world.join(1, 2);
    world.hold(reborn, true);
}

#[test]
fn a_living_mark_on_one_disk_saves_the_sector_on_all() {
    let mut world = World::named(SMALL, 7, "R1", 3).with_hosts(2);
    world.hold(0, true);
    let old = world.disks[1][1024..1536].to_vec();
    let reborn = world.join(1, 2);
    world.look();
    world.hold(reborn, true);
    // The second life's mark never reached the second disk.
    world.disks[1][1024..1536].copy_from_slice(&old);
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::EAGAIN);
    assert_eq!(world.own(1).1, ModeBlock::shared(2));
}

#[test]
fn a_mark_of_an_earlier_life_counts_as_dead() {
    let mut world = three();
    world.hold(0, true);
    world.now += 4 * S;
    world.renew(1, 2);
    world.look();
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::OK);
}

#[test]
fn a_host_we_know_nothing_of_counts_as_alive() {
    let mut world = three();
    world.hold(0, true);
    world.hosts[2].monitor.seen.clear();
    world.now += 1000 * S;
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::EAGAIN);
}

#[test]
fn many_shared_holders_are_looked_at_in_one_go() {
    let mut world = World::new(SMALL, 40).with_hosts(40);
    for host in 1..40 {
        world.hold(host, true);
    }
    world.now += 4 * S;
    for number in 3..=40 {
        world.renew(number, 2);
    }
    world.look();
    world.ios();
    world.acquire(0, options(false));
    assert_eq!(world.drain(0).code, Code::EAGAIN, "host 2 is alive");
    let ios = world.ios();
    let reads = ios.iter().filter(|io| io.starts_with("R 1 @")).count();
    let zeroed = (3..=40)
        .filter(|number| ios.contains(&format!("W 1 @{}", number + 1)))
        .count();
    assert_eq!((reads, zeroed), (39 + 1, 38));
}

#[test]
fn a_conversion_keeps_the_mark_until_it_is_alone() {
    let mut world = three();
    let one = world.hold(0, true);
    world.convert(0, &one, up());
    for next in [Next::WritePhase1, Next::WritePhase2] {
        world.step_to(0, next);
        world.step(0);
        assert_eq!(world.own(1).1, ModeBlock::shared(1), "{next:?}");
    }
    let held = world.drain(0).held.expect("held");
    assert!(!held.shared);
    assert_eq!(world.own(1).1, ModeBlock::NONE);
    assert_eq!(world.leader(), held.leader);
    world.acquire(1, options(true));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    // And back.
    world.convert(0, &held, down());
    let shared = world.drain(0).held.expect("held");
    assert!(shared.shared && world.own(1).0.is_released());
    world.hold(1, true);
}

#[test]
fn a_conversion_refused_by_others_leaves_the_lease_shared_and_free_to_share() {
    let mut world = three();
    let one = world.hold(0, true);
    let two = world.hold(1, true);
    world.convert(0, &one, up());
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::EAGAIN);
    let one = outcome.held.expect("still shared");
    assert!(one.shared);
    assert!(world.own(1).1.is_shared());
    assert_eq!(world.leader().timestamp, 0);
    let three = world.hold(2, true);
    for (host, held) in [(0, one), (1, two), (2, three)] {
        let_go(&mut world, host, &held);
    }
    assert!(world.own(1).0.is_released());
    world.hold(2, false);
}

#[test]
fn a_refused_conversion_that_another_host_committed_is_freed_by_the_mark() {
    let mut world = three();
    let one = world.hold(0, true);
    let two = world.hold(1, true);
    world.convert(0, &one, up());
    world.step_to(0, Next::WritePhase2);
    world.step(0);
    // Host 3 comes in between, and commits host 1.
    world.acquire(2, options(false));
    world.step_to(2, Next::WritePhase1);
    world.step(2);
    world.step(0);
    assert_eq!(world.drain(2).code, Code::ACQUIRE_OTHER);
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::EAGAIN);
    let leader = world.leader();
    assert_eq!((leader.owner_id, leader.write_id), (1, 3));
    assert_ne!(leader.timestamp, 0);
    assert!(world.own(1).0.is_released() && world.own(1).1.is_shared());
    let_go(&mut world, 1, &two);
    let_go(&mut world, 0, &outcome.held.expect("shared"));
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::OK);
}

#[test]
fn the_same_mode_is_no_conversion() {
    let mut world = three();
    let held = world.hold(0, false);
    world.ios();
    world.convert(0, &held, up());
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::EALREADY);
    assert_eq!(outcome.held, Some(held));
    assert!(world.ios().is_empty());
}

#[test]
fn a_value_block_is_written_before_others_may_read_it() {
    let mut world = three();
    let held = world.hold(0, false);
    world.ios();
    let options = ConvertOptions {
        lvb: Some(Arc::from(&[7; 512][..])),
        ..down()
    };
    world.convert(0, &held, options);
    world.drain(0);
    assert_eq!(world.ios(), ["W 1 @2002", "W 1 @2", "R 1 @0", "W 1 @0"]);
    assert_eq!(world.disks[0][2002 * 512], 7);
}

#[test]
fn two_shared_acquires_at_once_both_succeed() {
    let mut world = three();
    for host in [0, 1] {
        world.acquire(host, options(true));
    }
    // In lockstep, as badly as can be.
    for _ in 0..500 {
        if (0..2).all(|host| world.op(host).is_drained()) {
            break;
        }
        for host in [0, 1] {
            if world.has_io(host) {
                world.step(host);
            }
        }
        let due = (0..2)
            .filter(|host| !world.has_io(*host) && !world.op(*host).is_drained())
            .filter_map(|host| world.op(host).deadline())
            .min();
        if (0..2).all(|host| !world.has_io(host))
            && let Some(due) = due
        {
            world.now = world.now.max(due.0);
            for host in [0, 1] {
                world.input(host, Input::Tick);
            }
        }
    }
    assert_eq!(
        (world.code(0), world.code(1)),
        (Some(Code::OK), Some(Code::OK))
    );
    assert!(world.own(1).1.is_shared() && world.own(2).1.is_shared());
    assert_eq!(world.leader().timestamp, 0);
    assert_eq!(world.leader().flags & paxos::SHORT_HOLD, 0);
}

#[test]
fn a_shared_mark_survives_a_lease_for_fewer_hosts() {
    let mut world = three();
    let held = world.hold(2, true);
    world.acquire(
        0,
        AcquireOptions {
            num_hosts: Some(1),
            ..options(true)
        },
    );
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.leader().num_hosts, 3, "host 3 shares it");
    let_go(&mut world, 2, &held);
}
