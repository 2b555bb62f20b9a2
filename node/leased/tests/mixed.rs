//! Ours and the original as two hosts of one lockspace: who gets a lease, who
//! does not, and what each finds on the disk that the other wrote.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use support::client::{Connection, Resource, code, flag};
use support::host::{Cluster, Host, every_setting};
use support::wait_for;

const NOBODY: [u64; 0] = [];

/// Acquires although the lease may be in somebody's hands for a moment yet.
fn acquire_soon(connection: &mut Connection, resource: &Resource, flags: u32) {
    wait_for(&format!("{} acquired", resource.name), || {
        let result = connection.acquire(resource, flags);
        assert!(
            matches!(result, code::OK | code::EAGAIN | -247..=-243),
            "acquire of {}: {result}",
            resource.name
        );
        (result == code::OK).then_some(())
    });
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

/// Both ways round: holder, its host id, contender, its host id, number of a
/// resource that nobody else uses.
fn both_ways(cluster: &Cluster) -> [(&Host, u64, &Host, u64, u64); 2] {
    [
        (&cluster.first, 1, &cluster.second, 2, 1),
        (&cluster.second, 2, &cluster.first, 1, 2),
    ]
}

#[test]
fn an_exclusive_holder_refuses_every_contender_until_it_releases() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        for (holder, holder_id, contender, contender_id, index) in both_ways(&cluster) {
            let lease = cluster.disk.resource(index);
            let (mut one, mut two) = (holder.registered(), contender.registered());
            assert_eq!(one.acquire(&lease, 0), code::OK);
            for wanted in [lease.clone(), lease.shared()] {
                for flags in [0, flag::ACQUIRE_NOWAIT] {
                    let result = two.acquire(&wanted, flags);
                    assert_eq!(result, code::ACQUIRE_IDLIVE, "{wanted:?}");
                }
            }
            for reader in [holder, contender] {
                let (owners, shared) = reader.owners(&lease);
                assert_eq!(owners.len(), 1, "{owners:?}");
                assert_eq!(owners[0].host_id, holder_id);
                assert_eq!(owners[0].generation, cluster.disk.generation(holder_id));
                assert!(owners[0].timestamp > 0 && !shared, "{owners:?}");
                assert_eq!(reader.lver(&lease), 1);
            }
            assert_eq!(one.release(&lease), code::OK);
            assert_eq!(contender.owner_ids(&lease), NOBODY);
            assert_eq!(two.acquire(&lease, 0), code::OK);
            assert_eq!(holder.owner_ids(&lease), [contender_id]);
            assert_eq!(holder.lver(&lease), 2);
            assert_eq!(one.acquire(&lease, 0), code::ACQUIRE_IDLIVE);
            assert_eq!(two.release(&lease), code::OK);
        }
    });
}

#[test]
fn a_closed_connection_gives_its_leases_to_the_other_host() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        for (holder, _, contender, contender_id, index) in both_ways(&cluster) {
            let lease = cluster.disk.resource(index);
            let mut one = holder.registered();
            assert_eq!(one.acquire(&lease, 0), code::OK);
            drop(one);
            let mut two = contender.registered();
            acquire_soon(&mut two, &lease, 0);
            assert_eq!(holder.owner_ids(&lease), [contender_id]);
        }
    });
}

#[test]
fn many_share_and_none_may_be_exclusive_meanwhile() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        for (holder, holder_id, contender, contender_id, index) in both_ways(&cluster) {
            let lease = cluster.disk.resource(index);
            let (mut one, mut two) = (holder.registered(), contender.registered());
            acquire_soon(&mut one, &lease.shared(), 0);
            assert_eq!(two.acquire(&lease, 0), code::EAGAIN);
            assert_eq!(contender.owner_ids(&lease), [holder_id]);
            acquire_soon(&mut two, &lease.shared(), 0);
            for reader in [holder, contender] {
                assert_eq!(sorted(reader.owner_ids(&lease)), [1, 2]);
                assert!(reader.owners(&lease).1, "shared");
            }
            let mut three = contender.registered();
            assert_eq!(three.acquire(&lease, 0), code::EEXIST);
            assert_eq!(three.acquire(&[lease.shared()], 0), code::OK);
            assert_eq!(two.release(&lease), code::OK);
            assert_eq!(
                sorted(holder.owner_ids(&lease)),
                [1, 2],
                "another client of that host has it still"
            );
            assert_eq!(one.release(&lease), code::OK);
            assert_eq!(one.acquire(&lease, 0), code::EAGAIN);
            assert_eq!(three.release(&lease), code::OK);
            assert_eq!(holder.owner_ids(&lease), NOBODY);
            assert_eq!(one.acquire(&lease, 0), code::OK);
            assert_eq!(two.acquire(&[lease.shared()], 0), code::ACQUIRE_IDLIVE);
            assert_eq!(contender.owner_ids(&lease), [holder_id]);
            assert_eq!(one.release(&lease), code::OK);
            assert_ne!(contender_id, holder_id);
        }
    });
}

#[test]
fn conversion_goes_up_only_when_nobody_else_shares() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        for (holder, holder_id, contender, contender_id, index) in both_ways(&cluster) {
            let lease = cluster.disk.resource(index);
            let (mut one, mut two) = (holder.registered(), contender.registered());
            acquire_soon(&mut one, &lease.shared(), 0);
            acquire_soon(&mut two, &lease.shared(), 0);
            assert_eq!(one.convert(&lease), code::EAGAIN);
            assert_eq!(
                sorted(contender.owner_ids(&lease)),
                [1, 2],
                "still shared after a refused conversion"
            );
            assert_eq!(two.release(&lease), code::OK);
            assert_eq!(one.convert(&lease), code::OK);
            assert_eq!(two.acquire(&[lease.shared()], 0), code::ACQUIRE_IDLIVE);
            let (owners, shared) = contender.owners(&lease);
            assert_eq!(
                (owners.len(), owners[0].host_id, shared),
                (1, holder_id, false)
            );

            assert_eq!(one.convert(&lease.shared()), code::OK);
            acquire_soon(&mut two, &lease.shared(), 0);
            assert_eq!(one.release(&lease), code::OK);
            assert_eq!(two.convert(&lease), code::OK);
            assert_eq!(holder.owner_ids(&lease), [contender_id]);
            assert_eq!(two.release(&lease), code::OK);
        }
    });
}

#[test]
fn a_value_written_by_one_is_read_by_the_next_holder() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        let sector = usize::try_from(storage.sector()).expect("small");
        for (holder, _, contender, _, index) in both_ways(&cluster) {
            let lease = cluster.disk.resource(index);
            let (mut one, mut two) = (holder.registered(), contender.registered());
            assert_eq!(one.acquire(&lease, flag::ACQUIRE_LVB), code::OK);
            assert_eq!(one.get_lvb(&lease).expect("a value"), vec![0; sector]);
            assert_eq!(one.set_lvb(&lease, b"from the first holder"), code::OK);
            assert_eq!(one.release(&lease), code::OK);

            assert_eq!(two.acquire(&lease, flag::ACQUIRE_LVB), code::OK);
            let mut expected = b"from the first holder".to_vec();
            expected.resize(sector, 0);
            assert_eq!(two.get_lvb(&lease).expect("a value"), expected);

            // Going shared publishes it; a shorter value leaves the rest.
            assert_eq!(two.set_lvb(&lease, b"FROM"), code::OK);
            assert_eq!(two.convert(&lease.shared()), code::OK);
            acquire_soon(&mut one, &lease.shared(), flag::ACQUIRE_LVB);
            expected[..4].copy_from_slice(b"FROM");
            assert_eq!(one.get_lvb(&lease).expect("a value"), expected);
            let at = lease.offset + 2002 * storage.sector();
            assert_eq!(cluster.disk.bytes(at, storage.sector()), expected);
            assert_eq!(one.release_all(), code::OK);
            assert_eq!(two.release_all(), code::OK);
        }
    });
}

#[test]
fn several_leases_are_taken_all_or_none() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 4);
        for (holder, holder_id, contender, contender_id, index) in both_ways(&cluster) {
            let leases: Vec<_> = (1..=4).map(|index| cluster.disk.resource(index)).collect();
            let held = &leases[usize::try_from(index).expect("small")];
            let (mut one, mut two) = (holder.registered(), contender.registered());
            assert_eq!(one.acquire(held, 0), code::OK);
            assert_eq!(two.acquire(&leases, 0), code::ACQUIRE_IDLIVE);
            assert_eq!(two.inquire().expect("an answer"), "");
            for lease in &leases {
                let expected: &[u64] = if lease.name == held.name {
                    &[holder_id]
                } else {
                    &[]
                };
                assert_eq!(holder.owner_ids(lease), expected, "{}", lease.name);
            }
            assert_eq!(one.release_all(), code::OK);
            assert_eq!(two.acquire(&leases, 0), code::OK);
            let said = two.inquire().expect("an answer");
            let names: Vec<_> = said
                .split(' ')
                .map(|one| one.split(':').nth(1).expect("a name"))
                .collect();
            assert_eq!(names, ["R1", "R2", "R3", "R4"], "{said}");
            for lease in &leases {
                assert_eq!(holder.owner_ids(lease), [contender_id]);
            }
            assert_eq!(two.release_all(), code::OK);
        }
    });
}

#[test]
fn versions_count_on_through_changes_of_holder() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 1);
        let lease = cluster.disk.resource(1);
        let (mut one, mut two) = (cluster.first.registered(), cluster.second.registered());
        for round in 0..5 {
            assert_eq!(one.acquire(&[lease.version(2 * round)], 0), code::OK);
            assert_eq!(one.release(&lease), code::OK);
            assert_eq!(
                two.acquire(&[lease.version(2 * round + 2)], 0),
                code::ACQUIRE_LVER
            );
            assert_eq!(two.acquire(&[lease.version(2 * round + 1)], 0), code::OK);
            let held = two.inquire().expect("an answer");
            assert!(held.ends_with(&format!(":{}", 2 * round + 2)), "{held}");
            assert_eq!(two.release(&lease), code::OK);
        }
        assert_eq!(cluster.first.lver(&lease), 10);
        assert_eq!(cluster.second.lver(&lease), 10);
    });
}

#[test]
fn fewer_hosts_on_a_lease_are_heeded_by_the_other() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        for (holder, _, contender, contender_id, index) in both_ways(&cluster) {
            let lease = cluster.disk.resource(index);
            let (mut one, mut two) = (holder.registered(), contender.registered());
            let fewer = Resource {
                data32: 7,
                ..lease.with(flag::NUM_HOSTS)
            };
            assert_eq!(one.acquire(&[fewer], 0), code::OK);
            assert_eq!(two.acquire(&lease, 0), code::ACQUIRE_IDLIVE);
            assert_eq!(one.release(&lease), code::OK);
            assert_eq!(two.acquire(&lease, 0), code::OK);
            let num_hosts = cluster.disk.bytes(lease.offset + 16, 1);
            assert_eq!(num_hosts, [7], "kept by the next holder");
            assert_eq!(holder.owner_ids(&lease), [contender_id]);
            assert_eq!(two.release(&lease), code::OK);
        }
    });
}

#[test]
fn contenders_never_hold_together_and_everybody_wins() {
    const WINS_EACH: u64 = 8;
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 1);
        let lease = cluster.disk.resource(1);
        let inside = AtomicU64::new(0);
        let wins = [AtomicU64::new(0), AtomicU64::new(0)];
        thread::scope(|scope| {
            for (index, host) in [(0, &cluster.first), (1, &cluster.second)] {
                // Two clients a host, so that a host's own are contenders too.
                for _ in 0..2 {
                    let (lease, inside, wins) = (&lease, &inside, &wins);
                    scope.spawn(move || {
                        let mut client = host.registered();
                        wait_for("enough wins for everybody", || {
                            let won = wins.iter().map(|wins| wins.load(Ordering::Relaxed));
                            if won.min().expect("two") >= WINS_EACH {
                                return Some(());
                            }
                            match client.acquire(lease, 0) {
                                code::OK => {
                                    let others = inside.fetch_add(1, Ordering::SeqCst);
                                    assert_eq!(others, 0, "held twice");
                                    thread::yield_now();
                                    inside.fetch_sub(1, Ordering::SeqCst);
                                    wins[index].fetch_add(1, Ordering::Relaxed);
                                    assert_eq!(client.release(lease), code::OK);
                                }
                                code::EAGAIN | code::EBUSY | code::EEXIST | -247..=-243 => {}
                                result => panic!("acquire: {result}\n{}", host.log()),
                            }
                            None
                        });
                    });
                }
            }
        });
        let won: u64 = wins.iter().map(|wins| wins.load(Ordering::Relaxed)).sum();
        let versions = cluster.first.lver(&lease);
        assert!(versions <= won, "{won} wins made {versions} versions");
        // Whatever the contest left on the disk, it is free for both.
        thread::scope(|scope| {
            for host in [&cluster.first, &cluster.second] {
                let lease = &lease;
                scope.spawn(move || {
                    let mut client = host.registered();
                    acquire_soon(&mut client, lease, 0);
                    assert_eq!(client.release(lease), code::OK);
                });
            }
        });
    });
}
