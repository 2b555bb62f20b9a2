//! Another host owns the lease: alive, dead, gone, or not to be known yet.

mod resource_world;

use disk_format::Geometry::Sector512Align1M as SMALL;
use lease::Code;
use lease::resource::{AcquireOptions, Input};
use resource_world::{MS, S, T, W, World, id, options};

/// 8T + W: how long an owner must have been silent.
const DEAD_S: u64 = 8 * T as u64 + W as u64;

/// Host 1 holds the lease, host 2's monitoring knows it and has looked since.
fn held() -> World {
    let mut world = World::new(SMALL, 7).with_hosts(2);
    world.hold(0, false);
    world.ios();
    world.now += 4 * S;
    world
}

fn no_wait() -> AcquireOptions {
    AcquireOptions {
        no_wait: true,
        ..options(false)
    }
}

#[test]
fn a_living_owner_is_seen_at_once() {
    let mut world = held();
    // It renewed, our monitoring has not looked yet: the record differs.
    world.renew(1, 1);
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    assert_eq!(world.ios(), ["R area @0", "R 1 delta 1"]);
    // Our latest look showed the change: no need for another.
    world.look();
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
}

#[test]
fn a_silent_owner_is_waited_for_until_it_is_surely_dead_and_no_longer() {
    let mut world = held();
    let silent_since = world.now;
    world.renew(1, 1);
    world.look();
    world.now += 4 * S;
    world.look();
    world.acquire(1, options(false));
    while world.result(1).is_none() {
        if world.has_io(1) {
            world.step(1);
        } else {
            let waiting = world.op(1).waiting();
            world.wait(1);
            if let Some(waiting) = waiting {
                assert_eq!(waiting.owner, id(1));
                assert_eq!(waiting.until.0, silent_since + DEAD_S * S);
            }
        }
    }
    assert_eq!(world.code(1), Some(Code::OK));
    let over = world.now - (silent_since + DEAD_S * S);
    assert!(
        (1..10 * MS).contains(&over),
        "taken {over} ns after the bound"
    );
    // Two small reads every 2T at most, not every second.
    let looks = world.ios().iter().filter(|io| *io == "R 1 delta 1").count();
    assert!(looks <= 3 + 72 / 4, "{looks} looks");
    assert_eq!(world.leader().owner_id, 2);
}

#[test]
fn an_owner_that_renews_while_we_wait_is_alive() {
    let mut world = held();
    world.look();
    world.acquire(1, options(false));
    world.step(1);
    world.step(1);
    assert!(world.op(1).waiting().is_some());
    world.now += 4 * S;
    world.renew(1, 1);
    world.look();
    world.input(1, Input::OwnerChanged);
    assert!(world.has_io(1), "news end the pause");
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
}

#[test]
fn a_freed_delta_lease_ends_the_wait_at_once() {
    let mut world = held();
    world.look();
    world.acquire(1, options(false));
    world.step(1);
    world.step(1);
    world.now += S;
    world.free_delta(1, 1);
    world.look();
    world.input(1, Input::OwnerChanged);
    assert_eq!(world.drain(1).code, Code::OK);
    assert_eq!(world.leader().owner_id, 2);
}

#[test]
fn a_newer_generation_of_the_owner_ends_the_wait_at_once() {
    let mut world = held();
    world.look();
    world.acquire(1, options(false));
    world.step(1);
    world.step(1);
    world.now += S;
    world.renew(1, 2);
    world.look();
    world.input(1, Input::OwnerChanged);
    assert_eq!(world.drain(1).code, Code::OK);
}

#[test]
fn a_release_during_the_wait_is_noticed() {
    let mut world = held();
    world.look();
    world.acquire(1, options(false));
    world.step(1);
    world.step(1);
    let held = lease::resource::Held {
        leader: world.leader(),
        dblock: world.own(1).0,
        shared: false,
        geometry: SMALL,
    };
    world.release(0, &held, lease::resource::ReleaseOptions::default());
    world.drain(0);
    world.ios();
    // Nobody told us; the look every 2T finds it, and reads all again.
    world.wait(1);
    assert_eq!(world.drain(1).code, Code::OK);
    assert_eq!(world.ios()[..3], ["R 1 delta 1", "R 1 @0", "R 16 @0"]);
}

#[test]
fn not_waiting_says_that_it_is_undecided() {
    let mut world = held();
    world.look();
    world.acquire(1, no_wait());
    assert_eq!(world.drain(1).code, Code::ACQUIRE_OWNED_RETRY);
    assert_eq!(world.ios(), ["R area @0", "R 1 delta 1"]);
    world.now += (DEAD_S + 1) * S;
    world.acquire(1, no_wait());
    assert_eq!(world.drain(1).code, Code::OK);
}

#[test]
fn an_owner_our_monitoring_does_not_know_is_watched_from_the_first_look() {
    let mut world = held();
    world.hosts[1].monitor.seen.clear();
    let began = world.now;
    world.acquire(1, options(false));
    assert_eq!(world.run(1).code, Code::OK);
    assert!(world.now > began + DEAD_S * S);
    // Alive: seen by looking ourselves, each second.
    let mut world = held();
    world.hosts[1].monitor.seen.clear();
    world.acquire(1, no_wait());
    world.step(1);
    world.step(1);
    world.renew(1, 1);
    world.now += S;
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
}

#[test]
fn death_needs_a_fresh_reading_of_the_owner() {
    let mut world = held();
    world.look();
    world.now += (DEAD_S + 20) * S;
    world.acquire(1, options(false));
    world.step(1);
    // Our area readings had stopped; the owner's record is newer than all we saw.
    world.renew(1, 1);
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    // And a reading that fails proves nothing.
    let mut world = held();
    world.look();
    world.now += (DEAD_S + 20) * S;
    world.acquire(1, options(false));
    world.step(1);
    let effect = world.take(1);
    world.fail(1, &effect);
    assert_eq!(world.drain(1).code, Code::EIO);
    assert_eq!(world.leader().owner_id, 1);
}

#[test]
fn a_slow_reading_does_not_make_the_owner_older() {
    let mut world = held();
    world.look();
    // It was last seen to change 4 s ago.
    world.now += DEAD_S * S - 5 * S;
    world.acquire(1, options(false));
    world.step(1);
    // Asked for a second before the bound, answered after it.
    let effect = world.take(1);
    let seen = world.land(1, &effect);
    world.now += S + 500 * MS;
    world.told(1, effect.io(), seen.as_deref());
    assert!(world.op(1).waiting().is_some(), "not dead yet");
    assert_eq!(world.run(1).code, Code::OK);
}

#[test]
fn an_owner_in_a_lockspace_we_are_not_in_cannot_be_judged() {
    let mut world = held();
    world.hosts[1].monitor.joined = false;
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_LOCKSPACE);
}

#[test]
fn a_damaged_record_of_the_owner_is_reported_as_it_is() {
    let mut world = held();
    world.deltas.get_mut(&id(1)).expect("there")[0] = 0;
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::LEADER_MAGIC);
}

#[test]
fn waiting_can_be_given_up_and_changes_nothing() {
    let mut world = held();
    world.look();
    let before = world.disks.clone();
    world.acquire(1, options(false));
    world.step(1);
    world.step(1);
    world.input(1, Input::Cancel);
    assert_eq!(world.code(1), Some(Code::ERROR));
    assert!(world.op(1).is_drained());
    assert_eq!(world.disks, before);
}

#[test]
fn a_lost_lockspace_ends_the_wait() {
    let mut world = held();
    world.look();
    world.acquire(1, options(false));
    world.step(1);
    world.step(1);
    world.input(1, Input::Abandon);
    assert_eq!(world.code(1), Some(Code::ENOSPC));
    assert!(world.op(1).is_drained());
}

#[test]
fn an_owners_own_timeout_counts_not_ours() {
    let mut world = held();
    // The owner renews four times as slowly as we do.
    let slow = 8;
    let mut sector = world.deltas[&id(1)].clone();
    let mut record = disk_format::delta::leader(&sector).expect("there");
    record.io_timeout = slow;
    sector[..200].copy_from_slice(&record.sealed().encode());
    world.deltas.insert(id(1), sector);
    world.look();
    let began = world.now - 4 * S;
    world.acquire(1, options(false));
    assert_eq!(world.run(1).code, Code::OK);
    assert!(world.now - began > (8 * u64::from(slow) + u64::from(W)) * S);
}
