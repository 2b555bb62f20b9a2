//! Two hosts that want one lease in the same moment: one owner, whoever it is,
//! and both know.

mod resource_world;

use disk_format::paxos;
use lease::Code;
use lease::resource::{Input, ReleaseOptions};
use resource_world::{Next, World, options};

use disk_format::Geometry::Sector512Align1M as SMALL;

fn two() -> World {
    World::new(SMALL, 7).with_hosts(2)
}

/// Writes host `host`'s next own block, and does nothing more of it.
fn up_to(world: &mut World, host: usize, next: Next) {
    world.step_to(host, next);
    world.step(host);
}

#[test]
fn a_higher_ballot_makes_the_lower_one_stand_back() {
    let mut world = two();
    world.acquire(0, options(false));
    world.acquire(1, options(false));
    up_to(&mut world, 0, Next::WritePhase1);
    up_to(&mut world, 1, Next::WritePhase1);
    // Host 1 sees ballot 2 of host 2 above its own 1.
    world.step(0);
    assert!(!world.has_io(0), "it waits");
    assert!(world.op(0).deadline().is_some());
    let outcome = world.run(1);
    assert_eq!(outcome.code, Code::OK);
    // Then finds that the version has been decided.
    assert_eq!(world.drain(0).code, Code::ACQUIRE_OWNED);
    assert_eq!(world.leader().owner_id, 2);
}

#[test]
fn a_loser_in_phase_two_comes_back_with_a_higher_ballot_and_its_value_lives() {
    let mut world = two();
    world.acquire(0, options(false));
    world.acquire(1, options(false));
    up_to(&mut world, 0, Next::WritePhase2);
    up_to(&mut world, 1, Next::WritePhase1);
    world.step(0);
    assert!(!world.has_io(0), "phase two is lost to ballot 2");
    // Host 2 adopts what host 1 had accepted, and commits host 1.
    let outcome = world.run(1);
    assert_eq!(outcome.code, Code::ACQUIRE_OTHER);
    let leader = world.leader();
    assert_eq!((leader.owner_id, leader.write_id, leader.lver), (1, 2, 1));
    // Host 1 finds itself the owner, without writing the leader.
    world.ios();
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::OK);
    assert_eq!(world.ios(), ["R 1 @0"]);
    assert_eq!(world.leader(), leader);
    let held = outcome.held.expect("held");
    assert_eq!(held.leader.write_id, 2);

    // Its release is the mark in its own sector; host 2 looks there.
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    assert_eq!(
        world.ios(),
        ["R 16 @0", "R 1 delta 1", "R 1 @2"].map(|io| {
            // The first reading knows nothing of the number of hosts.
            io.replace("R 16 @0", "R area @0")
        })
    );
    world.release(0, &held, ReleaseOptions::default());
    assert_eq!(world.drain(0).code, Code::OK);
    assert_ne!(
        world.leader().timestamp,
        0,
        "the leader is as host 2 wrote it"
    );
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::OK);
    assert_eq!(world.leader().lver, 2);
}

#[test]
fn a_newer_version_under_way_aborts_and_starts_over() {
    let mut world = two();
    world.acquire(0, options(false));
    // Host 1 has read that nobody holds it, and stops there.
    world.step(0);
    // Meanwhile host 2 holds versions 1 and 2 and lets go, and is about to
    // decide 3.
    for _ in 0..2 {
        let held = world.hold(1, false);
        world.release(1, &held, ReleaseOptions::default());
        world.drain(1);
    }
    world.acquire(1, options(false));
    up_to(&mut world, 1, Next::WritePhase1);
    // Host 1's ballot for version 1 meets a block for version 3.
    up_to(&mut world, 0, Next::WritePhase1);
    world.step(0);
    assert!(!world.has_io(0));
    // It looks again, sees the leader changed, reads all, and goes for 3.
    world.wait(0);
    world.step(0);
    up_to(&mut world, 0, Next::WritePhase1);
    assert_eq!(world.own(1).0.lver, 3);
    let (one, two) = (world.drain(0).code, world.drain(1).code);
    let owners = usize::from(one == Code::OK) + usize::from(two == Code::OK);
    assert_eq!(owners, 1, "{one}, {two}");
}

#[test]
fn a_chosen_value_survives_its_chooser() {
    let mut world = two();
    world.acquire(1, options(false));
    // Host 2 is through with both phases and dies before the leader.
    world.step_to(1, Next::WriteLeader);
    world.acquire(0, options(false));
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::ACQUIRE_OTHER);
    let leader = world.leader();
    assert_eq!((leader.owner_id, leader.write_id, leader.lver), (2, 1, 1));
    assert_eq!(leader.timestamp, world.own(2).0.inp3);
}

#[test]
fn the_value_of_the_highest_ballot_is_adopted() {
    let mut world = World::new(SMALL, 7).with_hosts(3);
    // Hosts 1 and 2 both got as far as a value; 2's ballot is the higher one.
    world.acquire(0, options(false));
    world.acquire(1, options(false));
    world.step(1);
    world.step_to(0, Next::WritePhase2);
    let late = world.take(0);
    up_to(&mut world, 1, Next::WritePhase2);
    world.land(0, &late);
    assert_eq!(world.own(1).0.bal, 1);
    assert_eq!(world.own(2).0.bal, 2);
    world.acquire(2, options(false));
    assert_eq!(world.drain(2).code, Code::ACQUIRE_OTHER);
    assert_eq!(world.leader().owner_id, 2);
}

#[test]
fn a_value_for_an_earlier_life_is_committed_and_then_taken_over() {
    let mut world = two();
    // Host 1, generation 1, proposes itself; host 2 has adopted that, and dies.
    world.acquire(0, options(false));
    world.acquire(1, options(false));
    up_to(&mut world, 0, Next::WritePhase2);
    up_to(&mut world, 1, Next::WritePhase2);
    assert_eq!(world.own(2).0.inp, 1);
    let reborn = world.join(1, 2);
    world.acquire(reborn, options(false));
    let outcome = world.drain(reborn);
    assert_eq!(outcome.code, Code::OK);
    let leader = world.leader();
    assert_eq!((leader.owner_generation, leader.lver), (2, 2));
}

#[test]
fn a_damaged_block_is_passed_over_inside_a_ballot() {
    let mut world = two();
    world.acquire(0, options(false));
    up_to(&mut world, 0, Next::WritePhase1);
    let sector = 512 * 5;
    world.disks[0][sector] = 0xff;
    assert_eq!(world.drain(0).code, Code::OK);
}

#[test]
fn a_stand_back_is_short_and_the_hosts_do_not_go_in_step() {
    let mut world = two();
    let mut pauses = Vec::new();
    for round in 0..20 {
        world.acquire(0, options(false));
        world.step(0);
        let mut block = world.own(2).0;
        block.lver = world.leader().lver + 1;
        block.mbal = 1_000_000 * (round + 1) + 2;
        let mut sector = [0; 512];
        paxos::encode_host_sector(&block.sealed(), &paxos::ModeBlock::NONE, &mut sector);
        world.disks[0][512 * 3..512 * 4].copy_from_slice(&sector);
        world.step(0);
        world.step(0);
        let due = world.op(0).deadline().expect("stands back");
        pauses.push((due.0 - world.now) / 1000);
        world.input(0, Input::Cancel);
        assert_eq!(world.drain(0).code, Code::ERROR);
        world.hosts[0].us.host_id = resource_world::id(1);
        world.hosts[0].op = None;
        world.now += resource_world::MS;
        let seed = round;
        let op =
            lease::resource::Acquire::new(world.hosts[0].us, world.target, options(false), seed);
        world.begin(0, op);
        world.step(0);
        world.input(0, Input::Cancel);
        world.drain(0);
    }
    // Instant I/O: the smallest window, 20 ms.
    assert!(pauses.iter().all(|pause| *pause < 20_000), "{pauses:?}");
}

#[test]
fn endless_contention_ends() {
    let mut world = two();
    world.acquire(0, options(false));
    let began = world.now;
    let mut ballots = 0;
    while world.result(0).is_none() {
        if !world.has_io(0) {
            world.wait(0);
            continue;
        }
        let effect = world.take(0);
        // Somebody is always faster.
        if world.kind(0, &effect) == Next::WritePhase1 {
            ballots += 1;
            let mut block = world.own(2).0;
            block.lver = 1;
            block.mbal = 10_000 * ballots + 2;
            let mut sector = [0; 512];
            paxos::encode_host_sector(&block.sealed(), &paxos::ModeBlock::NONE, &mut sector);
            world.disks[0][512 * 3..512 * 4].copy_from_slice(&sector);
        }
        world.now += 30 * resource_world::MS;
        world.finish(0, &effect);
    }
    assert_eq!(world.code(0), Some(Code::EAGAIN));
    assert!(ballots > 10);
    let took_s = (world.now - began) / resource_world::S;
    assert!((12..15).contains(&took_s), "six I/O time-outs: {took_s} s");
}

#[test]
fn forged_ballot_numbers_do_not_overflow() {
    let mut world = two();
    let mut block = world.own(2).0;
    block.mbal = u64::MAX;
    block.lver = 1;
    let mut sector = [0; 512];
    paxos::encode_host_sector(&block.sealed(), &paxos::ModeBlock::NONE, &mut sector);
    world.disks[0][512 * 3..512 * 4].copy_from_slice(&sector);
    world.acquire(0, options(false));
    assert_eq!(world.drain(0).code, Code::DBLOCK_MBAL);
}

#[test]
fn a_leader_thrown_back_by_a_late_write_is_mended() {
    let mut world = two();
    let old = {
        let held = world.hold(0, false);
        world.release(0, &held, ReleaseOptions::default());
        world.drain(0);
        world.leader()
    };
    for _ in 0..3 {
        let held = world.hold(1, false);
        world.release(1, &held, ReleaseOptions::default());
        world.drain(1);
    }
    assert_eq!(world.leader().lver, 4);
    // A write given up long ago lands.
    world.disks[0][..200].copy_from_slice(&old.encode());
    world.acquire(0, options(false));
    let code = world.drain(0).code;
    // Version 4 is decided again, and decided the same.
    assert_eq!(code, Code::ACQUIRE_OTHER);
    assert_eq!((world.leader().lver, world.leader().owner_id), (4, 2));
    world.acquire(0, options(false));
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.leader().lver, 5);
}
