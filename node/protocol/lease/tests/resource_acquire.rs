//! One host alone with a lease: what it reads and writes, byte by byte.

mod resource_world;

use std::sync::Arc;

use disk_format::{Geometry, Leader, ResourceName, paxos};
use lease::Code;
use lease::resource::{
    AcquireOptions, ConvertOptions, Examine, Release, ReleaseOptions, Request, RequestOptions,
};
use resource_world::{T, World, id, options};

const SMALL: Geometry = Geometry::Sector512Align1M;

#[test]
fn no_operation_needs_more_than_the_originals_ios() {
    let mut world = World::new(SMALL, 0).with_hosts(2);
    let mut held = world.hold(0, false);
    assert_eq!(
        world.ios(),
        [
            "R area @0",
            "W 1 @2",
            "R area @0",
            "W 1 @2",
            "R area @0",
            "W 1 @0"
        ]
    );
    let down = ConvertOptions {
        shared: true,
        ..ConvertOptions::default()
    };
    let up = ConvertOptions::default();
    world.convert(0, &held, down.clone());
    held = world.drain(0).held.expect("held");
    assert!(held.shared);
    assert_eq!(world.ios(), ["W 1 @2", "R 1 @0", "W 1 @0"]);
    world.convert(0, &held, up.clone());
    held = world.drain(0).held.expect("held");
    assert!(!held.shared);
    assert_eq!(
        world.ios(),
        [
            "R area @0",
            "W 1 @2",
            "R area @0",
            "W 1 @2",
            "R area @0",
            "W 1 @0",
            "W 1 @2"
        ]
    );
    world.release(0, &held, ReleaseOptions::default());
    world.drain(0);
    assert_eq!(world.ios(), ["W 1 @2", "R 1 @0", "W 1 @0"]);

    let held = world.hold(0, false);
    world.ios();
    let unmarked = ReleaseOptions {
        unmarked: true,
        ..ReleaseOptions::default()
    };
    world.release(0, &held, unmarked);
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.ios(), ["R 1 @0", "W 1 @0"], "of a resource index");

    let held = world.hold(0, true);
    assert_eq!(world.ios().len(), 9);
    let other = world.hold(1, true);
    world.ios();
    world.convert(1, &other, up);
    assert_eq!(world.drain(1).code, Code::EAGAIN);
    assert_eq!(world.ios()[6..], ["R 1 @2", "R 1 @0", "W 1 @0"]);
    world.release(0, &held, ReleaseOptions::default());
    world.drain(0);
    assert_eq!(world.ios(), ["W 1 @2"]);
}

#[test]
fn a_lease_for_few_hosts_costs_few_bytes() {
    let mut world = World::new(SMALL, 7).with_hosts(1);
    let held = world.hold(0, false);
    assert_eq!(
        world.ios(),
        [
            "R area @0",
            "W 1 @2",
            "R 16 @0",
            "W 1 @2",
            "R 16 @0",
            "W 1 @0"
        ]
    );
    world.release(0, &held, ReleaseOptions::default());
    world.drain(0);
    world.ios();
    // Once known, the number of hosts limits the first reading too.
    world.acquire(
        0,
        AcquireOptions {
            expected_hosts: Some(held.num_hosts()),
            ..options(false)
        },
    );
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.ios()[0], "R 16 @0");
    assert_eq!(world.leader().lver, 2);
}

#[test]
fn a_lease_held_before_is_looked_at_shortly_first() {
    let mut world = World::new(SMALL, 0).with_hosts(3);
    let again = |held: &lease::resource::Held| AcquireOptions {
        expected_hosts: Some(held.num_hosts()),
        expected_mbal: Some(held.dblock.mbal),
        ..options(false)
    };
    let first = world.hold(0, false);
    world.release(0, &first, ReleaseOptions::default());
    world.drain(0);
    let held = world.hold(2, false);
    world.release(2, &held, ReleaseOptions::default());
    world.drain(2);
    world.ios();
    // Host 1 has missed host 3's ballot 2003, and needs not know of it.
    world.acquire(0, again(&first));
    let held = world.drain(0).held.expect("held");
    assert_eq!((held.dblock.mbal, held.lver()), (2001, 3));
    assert_eq!(world.ios()[..3], ["R 3 @0", "W 1 @2", "R area @0"]);
    world.release(0, &held, ReleaseOptions::default());
    world.drain(0);
    // A ballot under way with a higher number is met in the first phase.
    world.acquire(2, options(false));
    world.step(2);
    world.step(2);
    world.acquire(0, again(&held));
    world.step(0);
    world.step(0);
    world.step(0);
    assert!(!world.has_io(0) && world.code(0).is_none(), "stands back");
    world.drain(2);
    assert_eq!(world.drain(0).code, Code::ACQUIRE_OWNED);
    // Damage is found all the same.
    let held = world.result(2).and_then(|outcome| outcome.held);
    world.release(2, &held.expect("held"), ReleaseOptions::default());
    world.drain(2);
    world.disks[0][512 * 30] = 1;
    world.acquire(0, again(&first));
    assert_eq!(world.drain(0).code, Code::DBLOCK_CHECKSUM);
}

#[test]
fn a_wrong_guess_of_the_hosts_skips_nobody() {
    let mut world = World::new(SMALL, 100).with_hosts(1);
    world.acquire(
        0,
        AcquireOptions {
            expected_hosts: Some(3),
            ..options(false)
        },
    );
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.ios()[..2], ["R 8 @0", "R 128 @0"]);
}

#[test]
fn ballot_numbers_go_up_as_observed() {
    let mut world = World::new(SMALL, 0).with_hosts(2);
    for want in [1, 2001, 4001, 6001] {
        let held = world.hold(0, false);
        assert_eq!(held.dblock.mbal, want);
        world.release(0, &held, ReleaseOptions::default());
        world.drain(0);
    }
    let held = world.hold(1, false);
    assert_eq!(held.dblock.mbal, 8002);
    assert_eq!(held.lver(), 5);
}

#[test]
fn another_version_than_demanded_is_refused() {
    let mut world = World::new(SMALL, 0).with_hosts(1);
    let wants = |lver| AcquireOptions {
        lver: Some(lver),
        ..options(false)
    };
    world.acquire(0, wants(1));
    assert_eq!(world.drain(0).code, Code::ACQUIRE_LVER);
    assert_eq!(world.ios(), ["R area @0"]);
    world.acquire(0, wants(0));
    assert_eq!(world.drain(0).code, Code::OK);
}

#[test]
fn what_is_not_this_lease_is_refused_with_the_originals_number() {
    type Spoil = fn(&mut Leader);
    let spoils: [(Spoil, Code); 9] = [
        (|leader| leader.magic = 7, Code::LEADER_MAGIC),
        (
            |leader| leader.magic = paxos::MAGIC_CLEARED,
            Code::LEADER_MAGIC,
        ),
        (|leader| leader.version = 0x0007_0000, Code::LEADER_VERSION),
        (
            |leader| leader.space_name.0[0] = b'x',
            Code::LEADER_LOCKSPACE,
        ),
        (
            |leader| leader.resource_name.0[0] = b'x',
            Code::LEADER_RESOURCE,
        ),
        (|leader| leader.num_hosts = 1, Code::LEADER_NUMHOSTS),
        (|leader| leader.num_hosts = 2001, Code::LEADER_NUMHOSTS),
        (|leader| leader.max_hosts = 0, Code::LEADER_NUMHOSTS),
        (|leader| leader.max_hosts = 1999, Code::LEADER_NUMHOSTS),
    ];
    for (spoil, code) in spoils {
        let mut world = World::new(SMALL, 0).with_hosts(2);
        let mut leader = world.leader();
        spoil(&mut leader);
        world.disks[0][..200].copy_from_slice(&leader.sealed().encode());
        world.acquire(1, options(false));
        assert_eq!(world.drain(1).code, code);
        assert_eq!(world.ios(), ["R area @0"]);
    }
    let mut world = World::new(SMALL, 0).with_hosts(2);
    world.disks[0][160] = 1;
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::LEADER_CHECKSUM);

    let mut world = World::new(SMALL, 0).with_hosts(2);
    world.disks[0][512 * 30] = 1;
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::DBLOCK_CHECKSUM);
}

#[test]
fn a_lease_of_another_geometry_is_read_again_by_its_own() {
    // A lockspace of 1 MiB areas, a resource of 8 MiB.
    let mut world = World::new(Geometry::Sector4096Align8M, 0);
    world.target.geometry = Geometry::Sector4096Align1M;
    let mut world = world.with_hosts(1);
    let held = world.hold(0, false);
    assert_eq!(held.geometry, Geometry::Sector4096Align8M);
    assert_eq!(
        world.ios(),
        [
            "R 256 @0",
            "R area @0",
            "W 1 @2",
            "R area @0",
            "W 1 @2",
            "R area @0",
            "W 1 @0"
        ]
    );
    // And the other way round, down to the sector size.
    let mut world = World::new(SMALL, 0);
    world.target.geometry = Geometry::Sector4096Align8M;
    let mut world = world.with_hosts(1);
    assert_eq!(world.hold(0, false).geometry, SMALL);
}

#[test]
fn a_value_block_survives_its_writer() {
    let mut world = World::new(SMALL, 0).with_hosts(2);
    let wants = AcquireOptions {
        lvb: true,
        ..options(false)
    };
    world.acquire(0, wants.clone());
    let outcome = world.drain(0);
    assert_eq!(outcome.lvb.as_deref(), Some(&[0; 512][..]));
    let ios = world.ios();
    assert_eq!(ios.len(), 7);
    assert_eq!(ios[6], "R 1 @2002");
    let mut block = vec![0; 512];
    block[..5].copy_from_slice(b"hello");
    let release = ReleaseOptions {
        lvb: Some(Arc::from(&block[..])),
        ..ReleaseOptions::default()
    };
    world.release(0, &outcome.held.expect("held"), release);
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.ios(), ["W 1 @2002", "W 1 @2", "R 1 @0", "W 1 @0"]);
    world.acquire(
        1,
        AcquireOptions {
            shared: true,
            ..wants
        },
    );
    assert_eq!(world.drain(1).lvb.as_deref(), Some(&block[..]));
    assert_eq!(world.ios().len(), 10);
}

#[test]
fn a_value_block_that_would_lie_in_a_neighbours_area_is_refused() {
    for geometry in Geometry::ALL {
        let mut world = World::new(geometry, 0).with_hosts(1);
        let before = world.disks[0].clone();
        let wants = AcquireOptions {
            lvb: true,
            ..options(false)
        };
        world.acquire(0, wants.clone());
        let code = world.drain(0).code;
        if paxos::lvb_allowed(geometry) {
            assert_eq!(code, Code::OK);
            continue;
        }
        assert_eq!(code, Code::EINVAL, "{geometry:?}");
        assert_eq!(world.disks[0], before);
        world.acquire(
            0,
            AcquireOptions {
                lvb_outside: true,
                ..wants
            },
        );
        let held = world.drain(0).held.expect("as the original does");
        let write = |outside| ReleaseOptions {
            lvb: Some(Arc::from(&[1; 512][..])),
            lvb_outside: outside,
            ..ReleaseOptions::default()
        };
        world.ios();
        let op = Release::new(world.hosts[0].us, world.target, &held, write(false));
        world.begin(0, op);
        world.drain(0);
        assert_eq!(world.ios().len(), 3, "nothing outside is written");
    }
}

#[test]
fn the_number_of_hosts_changes_but_never_hides_anybody() {
    let mut world = World::new(SMALL, 7).with_hosts(7);
    let wants = |num_hosts| AcquireOptions {
        num_hosts: Some(num_hosts),
        ..options(false)
    };
    world.acquire(0, wants(20));
    let held = world.drain(0).held.expect("held");
    assert_eq!(world.leader().num_hosts, 20);
    world.release(0, &held, ReleaseOptions::default());
    world.drain(0);
    world.acquire(4, wants(2));
    let held = world.drain(4).held.expect("held");
    assert_eq!(world.leader().num_hosts, 5, "host 5 itself stays in sight");
    world.release(4, &held, ReleaseOptions::default());
    world.drain(4);
    world.acquire(0, wants(0));
    world.drain(0);
    assert_eq!(world.leader().num_hosts, 2000);
}

#[test]
fn a_release_can_rename() {
    let mut world = World::new(SMALL, 0).with_hosts(1);
    let held = world.hold(0, false);
    let rename = ReleaseOptions {
        rename: Some(ResourceName::new("new").expect("valid")),
        ..ReleaseOptions::default()
    };
    world.release(0, &held, rename);
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.leader().resource_name.to_string(), "new");
    world.acquire(0, options(false));
    assert_eq!(world.drain(0).code, Code::LEADER_RESOURCE);
}

#[test]
fn a_lease_that_is_not_ours_any_more_is_not_freed() {
    type Spoil = fn(&mut Leader);
    let spoils: [(Spoil, Code, bool); 5] = [
        (|leader| leader.lver += 1, Code::RELEASE_LVER, false),
        (|leader| leader.timestamp = 0, Code::RELEASE_OWNER, false),
        (
            |leader| leader.owner_generation += 1,
            Code::RELEASE_OWNER,
            false,
        ),
        (
            |leader| leader.write_timestamp += 1,
            Code::RELEASE_OWNER,
            false,
        ),
        // Somebody else wrote it for us: the mark in our sector is the release.
        (|leader| leader.write_id = 2, Code::OK, false),
    ];
    for (spoil, code, _) in spoils {
        let mut world = World::new(SMALL, 0).with_hosts(2);
        let held = world.hold(0, false);
        let mut leader = world.leader();
        spoil(&mut leader);
        let leader = leader.sealed();
        world.disks[0][..200].copy_from_slice(&leader.encode());
        world.ios();
        world.release(0, &held, ReleaseOptions::default());
        assert_eq!(world.drain(0).code, code);
        assert_eq!(world.ios(), ["W 1 @2", "R 1 @0"]);
        assert_eq!(world.leader(), leader);
        assert!(world.own(1).0.is_released());
    }
}

#[test]
fn a_release_without_a_mark_leaves_one_where_another_host_wrote_the_leader() {
    let mut world = World::new(SMALL, 0).with_hosts(2);
    let held = world.hold(0, false);
    let leader = Leader {
        write_id: 2,
        ..world.leader()
    };
    world.disks[0][..200].copy_from_slice(&leader.sealed().encode());
    world.ios();
    let unmarked = ReleaseOptions {
        unmarked: true,
        ..ReleaseOptions::default()
    };
    world.release(0, &held, unmarked);
    assert_eq!(world.drain(0).code, Code::OK);
    assert_eq!(world.ios(), ["R 1 @0", "W 1 @2"]);
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::OK);
}

#[test]
fn a_lease_left_from_an_earlier_life_is_taken_at_once() {
    let mut world = World::new(SMALL, 0).with_hosts(1);
    world.hold(0, false);
    let reborn = world.join(1, 2);
    world.acquire(reborn, options(false));
    let outcome = world.drain(reborn);
    assert_eq!(outcome.code, Code::OK);
    assert_eq!(world.leader().owner_generation, 2);
    assert_eq!(world.leader().lver, 2);
}

#[test]
fn a_request_is_written_for_the_owner_to_see() {
    let mut world = World::new(SMALL, 0).with_hosts(2);
    let ask = |world: &mut World, lver, next_lver, force_mode| {
        let options = RequestOptions {
            lver,
            next_lver,
            force_mode,
        };
        let op = Request::new(world.hosts[1].us, world.target, options);
        world.begin(1, op);
        world.drain(1)
    };
    // Nobody holds it: nothing to ask for.
    let outcome = ask(&mut world, 0, true, 2);
    assert_eq!((outcome.code, outcome.notify), (Code::OK, None));
    let held = world.hold(0, false);
    world.ios();
    let outcome = ask(&mut world, 0, true, 2);
    assert_eq!((outcome.code, outcome.notify), (Code::OK, Some(id(1))));
    assert_eq!(world.ios(), ["R 2 @0", "W 1 @1"]);
    let record = [
        0x11, 0x20, 0x29, 0x08, 1, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2,
    ];
    assert_eq!(world.disks[0][512..529], record);
    assert_eq!(ask(&mut world, 1, false, 1).code, Code::REQUEST_OLD);
    assert_eq!(ask(&mut world, 9, false, 1).code, Code::OK);
    assert_eq!(ask(&mut world, 8, false, 1).code, Code::REQUEST_LVER);
    world.ios();

    let look = |world: &mut World, lver| {
        let op = Examine::new(world.hosts[0].us, held.geometry, lver);
        world.begin(0, op);
        world.drain(0).request.map(|record| record.force_mode)
    };
    assert_eq!(look(&mut world, 1), Some(1));
    assert_eq!(world.ios(), ["R 1 @1"]);
    assert_eq!(look(&mut world, 9), None, "not newer than what is held");
    // Withdrawn.
    let outcome = ask(&mut world, 0, false, 0);
    assert_eq!((outcome.code, outcome.notify), (Code::OK, None));
    assert_eq!(look(&mut world, 1), None);

    world.disks[0][512] = 0;
    assert_eq!(ask(&mut world, 10, false, 1).code, Code::REQUEST_MAGIC);
    world.disks[0][512] = 0x11;
    world.disks[0][518] = 9;
    assert_eq!(ask(&mut world, 10, false, 1).code, Code::REQUEST_VERSION);
}

#[test]
fn a_majority_of_the_disks_is_enough() {
    let mut world = World::named(SMALL, 7, "R1", 3).with_hosts(2);
    world.acquire(0, options(false));
    // The third disk is dead.
    let mut dead = 0;
    while world.result(0).is_none() {
        let effect = world.take(0);
        let third = matches!(
            &effect,
            lease::resource::Effect::Read {
                place: lease::resource::Place::Disk(2),
                ..
            } | lease::resource::Effect::Write {
                place: lease::resource::Place::Disk(2),
                ..
            }
        );
        if third {
            dead += 1;
            world.fail(0, &effect);
        } else {
            world.finish(0, &effect);
        }
    }
    assert_eq!(dead, 6);
    let held = world.drain(0).held.expect("two of three");
    assert_eq!(world.disks[0][..4096], world.disks[1][..4096]);
    // The next host finds the same owner on a majority, and the third differs.
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::ACQUIRE_IDLIVE);
    world.release(0, &held, ReleaseOptions::default());
    assert_eq!(world.drain(0).code, Code::OK);
    world.acquire(1, options(false));
    assert_eq!(world.drain(1).code, Code::OK);
    assert_eq!(world.leader().lver, 2);

    let mut world = World::named(SMALL, 7, "R1", 2).with_hosts(1);
    let mut leader = world.leader();
    leader.lver = 9;
    world.disks[1][..200].copy_from_slice(&leader.sealed().encode());
    world.acquire(0, options(false));
    assert_eq!(world.drain(0).code, Code::LEADER_DIFF);
    assert_eq!(T, 2);
}
