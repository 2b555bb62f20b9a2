//! Every sector of a lease's life, byte by byte as the original writes it.

mod resource_world;

use disk_format::{Geometry, paxos};
use lease::Code;
use lease::resource::{ConvertOptions, ReleaseOptions, Request, RequestOptions};
use resource_world::{S, World, options};

const SMALL: Geometry = Geometry::Sector512Align1M;

fn golden(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/../disk-format/tests/golden/{name}.bin",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn assert_disk(world: &World, name: &str) {
    let want = golden(name);
    assert_eq!(world.disks[0][..want.len()], want, "as in {name}");
}

#[test]
fn an_exclusive_lease_is_written_as_the_original_writes_it() {
    let mut world = World::new(SMALL, 0).with_hosts(1);
    let held = world.hold(0, false);
    assert_disk(&world, "paxos_acquired_ex");
    assert_eq!(held.lver(), 1);
    world.now += S;
    world.release(0, &held, ReleaseOptions::default());
    assert_eq!(world.drain(0).code, Code::OK);
    assert_disk(&world, "paxos_released_ex");
}

#[test]
fn a_shared_lease_is_written_as_the_original_writes_it() {
    let mut world = World::named(SMALL, 0, "R2", 1).with_hosts(1);
    world.now = 2422 * S;
    world.acquire(0, options(true));
    world.step(0);
    world.step(0);
    let phase1 = world.own(1).0;
    assert_eq!((phase1.mbal, phase1.checksum), (1, 0x9e4f_b861));
    world.step_to(0, resource_world::Next::WriteLeader);
    world.step(0);
    let short = golden("paxos_leader_short_hold");
    assert_eq!(world.disks[0][..512], short, "short hold");
    let held = world.drain(0).held.expect("held");
    assert!(held.shared);
    assert_disk(&world, "paxos_shared_held");
    world.release(0, &held, ReleaseOptions::default());
    assert_eq!(world.drain(0).code, Code::OK);
    assert_disk(&world, "paxos_shared_released");
}

#[test]
fn a_whole_life_of_a_lease_is_written_as_the_original_writes_it() {
    let mut world = World::new(SMALL, 0).with_hosts(2);
    for _ in 0..3 {
        let held = world.hold(0, false);
        world.release(0, &held, ReleaseOptions::default());
        world.drain(0);
    }
    world.now = 2587 * S;
    let held = world.hold(0, false);
    let ask = RequestOptions {
        lver: 5,
        next_lver: false,
        force_mode: 2,
    };
    let op = Request::new(world.hosts[1].us, world.target, ask);
    world.begin(1, op);
    world.drain(1);
    assert_disk(&world, "paxos_request_graceful");
    world.release(0, &held, ReleaseOptions::default());
    world.drain(0);

    world.now = 2750 * S;
    let held = world.hold(0, false);
    let down = ConvertOptions {
        shared: true,
        ..ConvertOptions::default()
    };
    world.convert(0, &held, down);
    let one = world.drain(0).held.expect("held");
    world.now = 2782 * S;
    let two = world.hold(1, true);
    assert_disk(&world, "paxos_shared_two_hosts");

    world.convert(0, &one, ConvertOptions::default());
    let outcome = world.drain(0);
    assert_eq!(outcome.code, Code::EAGAIN);
    world.release(1, &two, ReleaseOptions::default());
    world.drain(1);
    world.now = 2791 * S;
    let one = outcome.held.expect("still shared");
    world.convert(0, &one, ConvertOptions::default());
    assert_eq!(world.drain(0).code, Code::OK);
    assert_disk(&world, "paxos_ex_converted");
}

#[test]
fn phase_one_is_written_as_the_original_writes_it() {
    let mut world = World::new(SMALL, 0).with_hosts(1);
    world.acquire(0, options(false));
    world.step(0);
    world.step(0);
    assert_eq!(world.disks[0][1024..1536], golden("paxos_dblock_phase1"));
}

#[test]
fn the_large_geometry_is_written_as_the_original_writes_it() {
    let mut world = World::new(Geometry::Sector4096Align8M, 0);
    world.target.lockspace = disk_format::LockspaceName::new("L8").expect("valid");
    let leader = paxos::initial(
        world.target.lockspace.field(),
        world.target.resource.field(),
        world.geometry,
        0,
    );
    paxos::fill_initial(&leader, world.geometry, 0, &mut world.disks[0]);
    let mut world = world.with_hosts(1);
    world.now = 4679 * S;
    world.hold(0, false);
    assert_disk(&world, "paxos_acquired_4096_8M");
}
