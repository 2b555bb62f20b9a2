//! One of two hosts, ours and the original, dies or restarts. The waits are
//! the protocol's own: with an io_timeout of 1 s a host counts as alive for
//! 68 s after its last renewal, so all that needs such a wait shares it.

mod support;

use std::sync::Arc;
use std::thread;

use support::client::{code, flag};
use support::host::{Cluster, Host, every_setting, monotonic_s};
use support::wait_for;

/// Results that mean "somebody may hold it still".
fn is_held(result: i32) -> bool {
    matches!(result, code::EAGAIN | -247..=-243)
}

#[test]
fn what_a_killed_host_held_is_taken_over_after_the_bound_and_never_before() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 5);
        let lease = |index| cluster.disk.resource(index);
        let held = [1, 2, 3].map(lease);
        let shared = [4, 5].map(|index| lease(index).shared());
        let mut holder = cluster.first.registered();
        assert_eq!(holder.acquire(&held, 0), code::OK);
        assert_eq!(holder.acquire(&shared, 0), code::OK);
        // Shared by both: the survivor's own share is no obstacle to it.
        let mut sharer = cluster.second.registered();
        wait_for("the survivor shares too", || {
            let result = sharer.acquire(&[lease(5).shared()], 0);
            (result == code::OK).then_some(())
        });
        let bound_s = cluster.dead_after_s();
        let Cluster {
            first,
            second: survivor,
            disk,
            ..
        } = cluster;
        first.kill();
        // Nothing writes there any more.
        let last = disk.renewed_at(1);
        assert!(last > 0);
        let no_sooner = |what: &str| {
            let now = monotonic_s();
            assert!(
                now >= last + bound_s,
                "{what} {} s after the last renewal",
                now - last
            );
        };

        let (survivor, disk) = (&survivor, &disk);
        thread::scope(|scope| {
            // A patient client: one command, answered when it is decided.
            scope.spawn(|| {
                let mut client = survivor.registered();
                wait_for("a patient client", || {
                    let result = client.acquire(&[disk.resource(1)], 0);
                    if is_held(result) {
                        return None;
                    }
                    assert_eq!(result, code::OK);
                    Some(())
                });
                no_sooner("a patient client got it");
                assert_eq!(survivor.owner_ids(&disk.resource(1)), [2]);
                assert_eq!(survivor.lver(&disk.resource(1)), 2);
            });
            // An impatient one, which asks again and again.
            scope.spawn(|| {
                let mut client = survivor.registered();
                let mut refused = 0;
                wait_for("an impatient client", || {
                    let result = client.acquire(&[disk.resource(2)], flag::ACQUIRE_NOWAIT);
                    if is_held(result) {
                        refused += u64::from(result == code::ACQUIRE_OWNED_RETRY);
                        return None;
                    }
                    assert_eq!(result, code::OK);
                    Some(())
                });
                no_sooner("an impatient client got it");
                assert!(refused > 0, "was told that it is undecided");
            });
            // One who wants to share what was held alone.
            scope.spawn(|| {
                let mut client = survivor.registered();
                wait_for("a sharing client", || {
                    let result = client.acquire(&[disk.resource(3).shared()], 0);
                    if is_held(result) {
                        return None;
                    }
                    assert_eq!(result, code::OK);
                    Some(())
                });
                no_sooner("a sharing client got it");
            });
            // What the dead host shared, wanted alone.
            scope.spawn(|| {
                let wanted = disk.resource(4);
                let mut client = survivor.registered();
                let mut refused = 0;
                wait_for("what was shared", || {
                    let result = client.acquire(&wanted, 0);
                    if is_held(result) {
                        refused += u64::from(result == code::EAGAIN);
                        return None;
                    }
                    assert_eq!(result, code::OK);
                    Some(())
                });
                no_sooner("exclusive after a shared holder");
                assert!(refused > 0, "was told that it is shared");
                let sector = disk.host_sector(&wanted, 1);
                assert!(sector.iter().all(|byte| *byte == 0), "dead share wiped");
            });
            // What both shared, converted by the survivor.
            scope.spawn(|| {
                wait_for("conversion", || {
                    let result = sharer.convert(&disk.resource(5));
                    if is_held(result) {
                        return None;
                    }
                    assert_eq!(result, code::OK);
                    Some(())
                });
                no_sooner("converted");
            });
            // How the survivor sees it.
            scope.spawn(|| {
                survivor.until_state(&disk.space(), 1, flag::HOST_FAIL);
                survivor.until_state(&disk.space(), 1, flag::HOST_DEAD);
                no_sooner("called dead");
            });
        });
    });
}

#[test]
fn a_host_id_changes_hands_only_when_its_holder_is_surely_dead() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        let space = &cluster.disk.space();
        let (of_the_living, of_the_dead) = (cluster.disk.resource(1), cluster.disk.resource(2));
        let mut living = cluster.first.registered();
        assert_eq!(living.acquire(&of_the_living, 0), code::OK);
        let third = Host::start(kinds.0, "host-three");
        assert_eq!(third.join(space, 3, 1), code::OK);
        let mut dying = third.registered();
        assert_eq!(dying.acquire(&of_the_dead, 0), code::OK);
        third.kill();
        let (of_one, of_three) = (cluster.disk.generation(1), cluster.disk.generation(3));
        let last = cluster.disk.renewed_at(3);
        assert!(last > 0);

        let [thief, heir] = ["thief", "heir"].map(|name| Host::start(kinds.1, name));
        thread::scope(|scope| {
            // Watches for as long as a dead host would need, then gives up.
            scope.spawn(|| {
                assert_eq!(thief.join(space, 1, 1), code::HOSTID_BUSY);
                assert_eq!(thief.inq_lockspace(space, 1), code::ENOENT);
            });
            scope.spawn(|| {
                assert_eq!(heir.join(space, 3, 1), code::OK);
                assert!(monotonic_s() >= last + cluster.dead_after_s());
            });
        });
        let entry = cluster.second.state_of(space, 1).expect("known");
        assert_eq!((entry.generation, entry.state()), (of_one, flag::HOST_LIVE));
        assert_eq!(cluster.second.owner_ids(&of_the_living), [1]);

        // A later generation of the owner proves the earlier one over.
        let entry = cluster.second.until_state(space, 3, flag::HOST_LIVE);
        assert!(entry.generation > of_three, "{entry:?}");
        let mut client = heir.registered();
        assert_eq!(client.acquire(&of_the_dead, 0), code::OK);
        let owner = cluster.second.owners(&of_the_dead).0[0];
        assert_eq!(owner.generation, entry.generation);
        assert_eq!(living.release(&[of_the_living]), code::OK);
    });
}

#[test]
fn a_host_that_left_is_replaced_at_once_and_its_leases_are_free() {
    every_setting(|kinds, storage| {
        let mut cluster = Cluster::start(kinds, storage, 1);
        let space = cluster.disk.space();
        let lease = cluster.disk.resource(1);
        let mut holder = cluster.first.registered();
        assert_eq!(holder.acquire(&lease, 0), code::OK);
        assert_eq!(holder.release(&lease), code::OK);
        let before = cluster.disk.generation(1);
        assert_eq!(cluster.first.leave(&space, 1), code::OK);
        cluster.second.until_state(&space, 1, flag::HOST_FREE);
        assert_eq!(cluster.disk.renewed_at(1), 0, "freed on the disk");

        // Another machine, running what the other host runs.
        cluster.first = Host::start(kinds.1, "host-three");
        assert_eq!(cluster.first.join(&space, 1, 1), code::OK);
        let entry = cluster.second.until_state(&space, 1, flag::HOST_LIVE);
        assert!(entry.generation > before, "{entry:?}");
        let mut client = cluster.first.registered();
        assert_eq!(client.acquire(&lease, 0), code::OK);
        let owner = cluster.second.owners(&lease).0[0];
        assert_eq!(owner.generation, entry.generation);
    });
}

#[test]
fn a_waiting_client_gets_the_lease_when_the_dead_host_is_back() {
    every_setting(|kinds, storage| {
        let mut cluster = Cluster::start(kinds, storage, 2);
        let space = cluster.disk.space();
        let leases = [cluster.disk.resource(1), cluster.disk.resource(2)];
        let mut holder = cluster.first.registered();
        assert_eq!(holder.acquire(&leases, 0), code::OK);
        let other = Host::start(kinds.0, "unused");
        let victim = std::mem::replace(&mut cluster.first, other);
        let run_dir = victim.kill();
        let killed_at = cluster.disk.renewed_at(1);
        let before = cluster.disk.generation(1);

        // The same host again, what ran there replaced by what runs on the
        // other: socket and pid file of the first are in its way.
        cluster.first = Host::start_in(Arc::clone(&run_dir), kinds.1, "host-one", &["-w", "0"]);
        let mut waiting = cluster.second.registered();
        thread::scope(|scope| {
            scope.spawn(|| {
                wait_for("the waiting client", || {
                    let result = waiting.acquire(&leases[..1], 0);
                    if is_held(result) {
                        return None;
                    }
                    assert_eq!(result, code::OK);
                    Some(())
                });
            });
            // Its own name in the record saves it the wait.
            assert_eq!(cluster.first.join(&space, 1, 1), code::OK);
            assert!(
                monotonic_s() < killed_at + cluster.dead_after_s(),
                "waited for itself to die"
            );
        });
        let entry = cluster.second.until_state(&space, 1, flag::HOST_LIVE);
        assert!(entry.generation > before, "{entry:?}");
        // Its own former lease, by the new generation.
        let mut client = cluster.first.registered();
        assert_eq!(client.acquire(&leases[1..], 0), code::OK);
        let owner = cluster.second.owners(&leases[1]).0[0];
        assert_eq!(owner.generation, entry.generation);
        assert_eq!(cluster.second.owner_ids(&leases[0]), [2]);
    });
}
