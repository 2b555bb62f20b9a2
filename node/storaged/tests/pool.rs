//! Pools of file domains between hosts with lease daemons, ours and the original.

#![allow(clippy::unwrap_used, reason = "tests")]

mod pool_support;

use std::collections::BTreeMap;

use control::storage::FailureKind;
use disk_format::vdsm::domain::{DomainClass, DomainRole};
use disk_format::vdsm::pool::PoolDomainStatus;
use disk_format::vdsm::uuid::PoolId;
use disk_format::vdsm::version::DomainVersion;
use pool_support::{Host, Kind, Losses, POOL, Storage, cluster, until};
use storaged::authority::Authority;
use storaged::job::Context;
use storaged::pool::{
    Directory, Manager, Migration, StartError, Step, attach, choose_master, detach, force_detach,
    reconstruct, set_status,
};
use storaged::writer::{Commits, LockPlace, Owner, Single};

fn refused(outcome: Result<Manager, StartError>) -> control::storage::Failure {
    match outcome {
        Err(StartError::Refused(failure)) => failure,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_role_is_one_hosts_until_it_is_gone() {
    for kinds in [(Kind::Ours, Kind::Original), (Kind::Original, Kind::Ours)] {
        let (one, two) = (Host::start(kinds.0, "one"), Host::start(kinds.1, "two"));
        let storage = Storage::new(&one, 2);
        storage.pool(&one, 1);
        let place = LockPlace::of(storage.open(0).as_ref()).unwrap();
        assert!(matches!(
            cluster(&one, 1).owner(&place).unwrap(),
            Owner::Free { .. }
        ));

        let manager = storage.start(&one, 1, 0).unwrap();
        let lver = manager.authority().master().lver().unwrap();
        let keys = storage.open(0).metadata().unwrap().pool_keys().unwrap();
        assert_eq!((keys.spm_id, keys.spm_lver), (Some(1), Some(1)));
        for index in 0..2 {
            manager
                .authority()
                .check(&storage.domains[index].to_string())
                .unwrap();
        }
        let stranger = manager.authority().check("somebody else's");
        assert_eq!(stranger.unwrap_err().kind, FailureKind::LeaseNotHeld);

        let busy = refused(storage.start(&two, 2, 0));
        assert_eq!(busy.kind, FailureKind::InUse);
        assert!(busy.message.contains("host 1"), "{busy}");
        let seen = cluster(&two, 2).owner(&place).unwrap();
        assert!(
            matches!(seen, Owner::Held { host_id: 1, lver: found, .. } if found == lver),
            "{seen:?}"
        );

        // A crash: nothing is put in order, the connection closes.
        drop(manager);
        let next = until("the second host takes the role", || {
            match storage.start(&two, 2, 0) {
                Ok(manager) => Some(manager),
                Err(StartError::Refused(failure)) => {
                    assert_eq!(failure.kind, FailureKind::InUse, "{failure}");
                    None
                }
                Err(StartError::Fatal(fatal)) => panic!("{fatal:?}"),
            }
        });
        let keys = storage.open(0).metadata().unwrap().pool_keys().unwrap();
        assert_eq!((keys.spm_id, keys.spm_lver), (Some(2), Some(2)));
        assert_eq!(next.authority().master().lver().unwrap(), lver + 1);
        next.stop().unwrap();
        assert!(matches!(
            cluster(&one, 1).owner(&place).unwrap(),
            Owner::Free { .. }
        ));
        let keys = storage.open(0).metadata().unwrap().pool_keys().unwrap();
        assert_eq!(keys.spm_id, Some(-1));
    }
}

#[test]
fn a_master_that_is_not_the_pools_is_refused() {
    let host = Host::start(Kind::Ours, "one");
    let storage = Storage::new(&host, 2);
    let wrong = refused(storage.start(&host, 1, 0));
    assert_eq!(wrong.kind, FailureKind::WrongState);
    storage.pool(&host, 1);
    let wrong = refused(storage.start(&host, 1, 1));
    assert!(wrong.message.contains("role is Regular"), "{wrong}");
    let choice = choose_master(POOL, &storage.metadata()).unwrap();
    assert_eq!((choice.master, choice.version), (storage.domains[0], 1));
    let other = choose_master(PoolId::from_bytes([1; 16]), &storage.metadata());
    assert_eq!(other.unwrap_err().kind, FailureKind::NotFound);
}

#[test]
fn a_lost_lease_is_told_and_no_check_succeeds_any_more() {
    let mut host = Some(Host::start(Kind::Ours, "one"));
    let daemon = host.as_ref().unwrap();
    let storage = Storage::new(daemon, 1);
    storage.pool(daemon, 1);
    let losses = Losses::default();
    let manager = storage.start_with(daemon, 1, 0, losses.handler()).unwrap();
    let domain = storage.domains[0].to_string();
    manager.authority().check(&domain).unwrap();
    // The daemon dies: its answer of a moment ago counts for nothing.
    drop(host.take());
    let failure = manager.authority().check(&domain).unwrap_err();
    assert_eq!(failure.kind, FailureKind::LeaseNotHeld);
    until("the loss is told", || losses.first());
    let written = storage
        .open(0)
        .change_metadata(manager.authority(), &mut |metadata| {
            metadata.set_master_version(77);
            Ok(())
        });
    assert_eq!(written.unwrap_err().kind, FailureKind::LeaseNotHeld);
    assert_eq!(
        storage
            .open(0)
            .metadata()
            .unwrap()
            .master_version()
            .unwrap(),
        Some(1)
    );
}

#[test]
fn domains_join_rest_and_leave() {
    let host = Host::start(Kind::Ours, "one");
    let mut storage = Storage::new(&host, 1);
    storage.pool(&host, 1);
    let old = storage.make(&host, 2, DomainClass::Data, DomainVersion::V4);
    let iso = storage.make(&host, 3, DomainClass::Iso, DomainVersion::V5);
    storage.make(&host, 4, DomainClass::Iso, DomainVersion::V5);
    let manager = storage.start(&host, 1, 0).unwrap();
    let (context, cluster) = (Context::quiet(), cluster(&host, 1));
    let master = storage.open(0);
    let join = |index: usize| {
        attach(
            &context,
            manager.authority(),
            &cluster,
            POOL,
            master.as_ref(),
            &storage.metadata(),
            storage.open(index).as_ref(),
        )
    };
    let list = |directory: &Directory| -> BTreeMap<_, _> { directory.domains.clone() };

    let directory = join(1).unwrap();
    assert_eq!(directory.domains[&old], PoolDomainStatus::Attached);
    let attached = storage.open(1).metadata().unwrap();
    assert_eq!(attached.pools(), [POOL]);
    assert_eq!(
        attached.version(),
        DomainVersion::V5,
        "upgraded to the pool's"
    );
    assert_eq!(list(&join(1).unwrap()), list(&directory), "again, harmless");
    join(2).unwrap();
    let second = join(3).unwrap_err();
    assert_eq!(second.kind, FailureKind::WrongState, "{second}");
    assert!(storage.open(3).metadata().unwrap().pools().is_empty());

    let status = |target, status| {
        set_status(
            manager.authority(),
            POOL,
            master.as_ref(),
            &storage.metadata(),
            target,
            status,
        )
    };
    let active = status(old, PoolDomainStatus::Active).unwrap();
    assert_eq!(active.domains[&old], PoolDomainStatus::Active);
    let stored = master.metadata().unwrap().pool_keys().unwrap().domains;
    assert_eq!(stored.unwrap(), active.domains);
    let refused = status(storage.domains[0], PoolDomainStatus::Attached).unwrap_err();
    assert_eq!(refused.kind, FailureKind::WrongState);

    let leave = |index: usize| {
        detach(
            manager.authority(),
            &cluster,
            POOL,
            master.as_ref(),
            &storage.metadata(),
            storage.open(index).as_ref(),
        )
    };
    assert_eq!(
        leave(1).unwrap_err().kind,
        FailureKind::WrongState,
        "in use"
    );
    assert_eq!(
        leave(0).unwrap_err().kind,
        FailureKind::WrongState,
        "master"
    );
    status(old, PoolDomainStatus::Attached).unwrap();
    let left = leave(1).unwrap();
    assert!(!left.domains.contains_key(&old));
    assert!(storage.open(1).metadata().unwrap().pools().is_empty());
    assert!(left.domains.contains_key(&iso));

    // Another pool's domain is nobody's to take, but by force.
    manager.stop().unwrap();
    let foreign = PoolId::from_bytes([9; 16]);
    let own = cluster.take(
        &LockPlace::of(storage.open(1).as_ref()).unwrap(),
        true,
        pool_support::DEADLINE,
    );
    let own = own.unwrap();
    storage
        .open(1)
        .change_metadata(&own, &mut |metadata| {
            metadata.set_pool(Some(foreign));
            Ok(())
        })
        .unwrap();
    let busy = force_detach(&cluster, storage.open(1).as_ref()).unwrap_err();
    assert_eq!(busy.kind, FailureKind::InUse, "its lease is held");
    own.release().unwrap();
    let manager = storage.start(&host, 1, 0).unwrap();
    let taken = attach(
        &context,
        manager.authority(),
        &cluster,
        POOL,
        master.as_ref(),
        &storage.metadata(),
        storage.open(1).as_ref(),
    );
    assert_eq!(taken.unwrap_err().kind, FailureKind::InUse);
    force_detach(&cluster, storage.open(1).as_ref()).unwrap();
    assert!(storage.open(1).metadata().unwrap().pools().is_empty());
    manager.stop().unwrap();
}

/// The files a task of the old master left must be there whatever happens.
fn put_task(manager: &Manager) {
    let dir = manager.files().unwrap().tasks().join("a-task");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("a-task.task"), "state = running\n").unwrap();
}

fn has_task(storage: &Storage, index: usize) -> bool {
    storage
        .root(index)
        .join("master/tasks/a-task/a-task.task")
        .exists()
}

#[test]
fn a_migration_may_crash_after_every_step() {
    const STEPS: [Step; 7] = [
        Step::Lease,
        Step::Mailboxes,
        Step::Files,
        Step::Roles,
        Step::Watch,
        Step::Demoted,
        Step::Left,
    ];
    let host = Host::start(Kind::Ours, "one");
    for crash_after in STEPS {
        let storage = Storage::new(&host, 2);
        storage.pool(&host, 1);
        let mut manager = storage.start(&host, 1, 0).unwrap();
        put_task(&manager);
        let mut migration = Migration::new(&mut manager, storage.domains[1], None).unwrap();
        for step in STEPS {
            assert_eq!(migration.step(&Context::quiet()).unwrap(), Some(step));
            // At every moment somebody is the master, and it is clear who.
            let choice = choose_master(POOL, &storage.metadata()).unwrap();
            let expected = usize::from(step >= Step::Roles);
            assert_eq!(choice.master, storage.domains[expected], "{step:?}");
            if step == crash_after {
                break;
            }
        }
        drop(migration);
        drop(manager);

        let choice = choose_master(POOL, &storage.metadata()).unwrap();
        let master = storage.index(choice.master);
        let manager = until("the role is free again", || {
            storage.start(&host, 1, master).ok()
        });
        assert!(has_task(&storage, master), "after {crash_after:?}");
        let roles: Vec<_> = storage.metadata().iter().map(|one| one.role()).collect();
        let masters = roles.iter().filter(|role| **role == DomainRole::Master);
        assert_eq!(masters.count(), 1, "after {crash_after:?}: {roles:?}");
        let directory = manager.directory().unwrap();
        assert_eq!(directory.domains.len(), 2, "after {crash_after:?}");
        if master == 1 {
            assert!(!has_task(&storage, 0), "cleaned after {crash_after:?}");
        }
        manager.stop().unwrap();
        leave_all(&host, &storage);
    }
}

fn leave_all(host: &Host, storage: &Storage) {
    for domain in storage.all() {
        let place = LockPlace::of(domain.as_ref()).unwrap();
        until("the lockspace is left", || {
            cluster(host, 1).leave(&place).ok()
        });
    }
}

#[test]
fn a_migration_moves_role_lease_and_files() {
    let (one, two) = (
        Host::start(Kind::Ours, "one"),
        Host::start(Kind::Original, "two"),
    );
    let storage = Storage::new(&one, 2);
    storage.pool(&one, 1);
    let mut manager = storage.start(&one, 1, 0).unwrap();
    put_task(&manager);
    let same = Migration::new(&mut manager, storage.domains[0], None).map(drop);
    assert_eq!(same.unwrap_err().kind, FailureKind::WrongState);
    let lower = Migration::new(&mut manager, storage.domains[1], Some(1)).map(drop);
    assert_eq!(lower.unwrap_err().kind, FailureKind::BadRequest);
    Migration::new(&mut manager, storage.domains[1], None)
        .unwrap()
        .run(&Context::quiet())
        .unwrap();
    assert_eq!(manager.master().id(), storage.domains[1]);
    for index in 0..2 {
        let domain = storage.domains[index].to_string();
        manager.authority().check(&domain).unwrap();
    }
    let metadata = storage.metadata();
    assert_eq!(metadata[0].role(), DomainRole::Regular);
    assert_eq!(metadata[0].master_version().unwrap(), Some(0));
    assert_eq!(metadata[1].role(), DomainRole::Master);
    assert_eq!(metadata[1].master_version().unwrap(), Some(2));
    assert!(has_task(&storage, 1) && !has_task(&storage, 0));
    // The old lease is free, the new one is held: seen by the other host.
    let other = cluster(&two, 2);
    let owner = |index| {
        let place = LockPlace::of(storage.open(index).as_ref()).unwrap();
        other.join(&place, pool_support::DEADLINE).unwrap();
        other.owner(&place).unwrap()
    };
    assert!(matches!(owner(0), Owner::Free { .. }));
    assert!(matches!(owner(1), Owner::Held { host_id: 1, .. }));
    let busy = refused(storage.start(&two, 2, 1));
    assert_eq!(busy.kind, FailureKind::InUse);
    manager.stop().unwrap();
}

#[test]
fn a_failure_before_the_point_of_no_return_changes_nothing() {
    let (one, two) = (
        Host::start(Kind::Ours, "one"),
        Host::start(Kind::Ours, "two"),
    );
    let storage = Storage::new(&one, 2);
    storage.pool(&one, 1);
    let mut manager = storage.start(&one, 1, 0).unwrap();
    // Another host holds the target's lease.
    let place = LockPlace::of(storage.open(1).as_ref()).unwrap();
    let other = cluster(&two, 2);
    other.join(&place, pool_support::DEADLINE).unwrap();
    let held = other.take(&place, true, pool_support::DEADLINE).unwrap();
    let failed = Migration::new(&mut manager, storage.domains[1], None)
        .unwrap()
        .run(&Context::quiet());
    assert!(
        matches!(&failed, Err(StartError::Refused(failure)) if failure.kind == FailureKind::InUse),
        "{failed:?}"
    );
    assert_eq!(manager.master().id(), storage.domains[0]);
    manager
        .authority()
        .check(&storage.domains[0].to_string())
        .unwrap();
    held.release().unwrap();
    Migration::new(&mut manager, storage.domains[1], None)
        .unwrap()
        .run(&Context::quiet())
        .unwrap();
    manager.stop().unwrap();
}

#[test]
fn a_lost_master_is_replaced_and_demoted_when_it_returns() {
    let host = Host::start(Kind::Ours, "one");
    let storage = Storage::new(&host, 2);
    storage.pool(&host, 1);
    let hidden = storage.root(0).with_extension("away");
    std::fs::rename(storage.root(0), &hidden).unwrap();
    let known = BTreeMap::from([
        (storage.domains[0], PoolDomainStatus::Active),
        (storage.domains[1], PoolDomainStatus::Active),
    ]);
    let directory = reconstruct(
        &cluster(&host, 1),
        POOL,
        Some("a pool"),
        storage.open(1).as_ref(),
        &known,
        1,
    )
    .unwrap();
    assert_eq!(directory.domains, known);
    std::fs::rename(&hidden, storage.root(0)).unwrap();
    let choice = choose_master(POOL, &storage.metadata()).unwrap();
    assert_eq!((choice.master, choice.version), (storage.domains[1], 2));
    assert_eq!(choice.stale, [storage.domains[0]]);
    let manager = storage.start(&host, 1, 1).unwrap();
    assert_eq!(storage.metadata()[0].role(), DomainRole::Regular);
    manager.stop().unwrap();
}

#[test]
fn a_single_change_is_one_hosts_and_nothing_without_its_lease() {
    let mut one = Some(Host::start(Kind::Ours, "one"));
    let two = Host::start(Kind::Original, "two");
    let storage = Storage::new(one.as_ref().unwrap(), 1);
    let place = LockPlace::of(storage.open(0).as_ref()).unwrap();
    let name = storage.domains[0].to_string();
    let losses = Losses::default();
    let single = |host: &Host, host_id: u16| {
        let cluster = cluster(host, host_id).ended_by(losses.handler());
        cluster.join(&place, pool_support::DEADLINE).unwrap();
        Single::take(&Context::quiet(), &cluster, &place, pool_support::DEADLINE)
    };
    let held = single(one.as_ref().unwrap(), 1).unwrap();
    held.check(&name).unwrap();
    let other = held.check(&POOL.to_string()).unwrap_err();
    assert_eq!(other.kind, FailureKind::LeaseNotHeld);
    let busy = single(&two, 2).unwrap_err();
    assert_eq!(busy.kind, FailureKind::InUse);
    assert!(busy.message.contains("by host 1"), "{busy}");
    held.release().unwrap();
    single(&two, 2).unwrap().release().unwrap();

    let held = single(one.as_ref().unwrap(), 1).unwrap();
    assert!(losses.first().is_none());
    drop(one.take());
    let lost = held.check(&name).unwrap_err();
    assert_eq!(lost.kind, FailureKind::LeaseNotHeld);
    until("the process is to end", || losses.first());
    let written = storage.open(0).change_metadata(&held, &mut |metadata| {
        metadata.set_master_version(77);
        Ok(())
    });
    assert_eq!(written.unwrap_err().kind, FailureKind::LeaseNotHeld);
}

#[test]
fn hosts_commit_in_turn_where_each_domain_has_its_own_manager() {
    let (one, two) = (
        Host::start(Kind::Ours, "one"),
        Host::start(Kind::Original, "two"),
    );
    let storage = Storage::new(&one, 1);
    let place = LockPlace::of(storage.open(0).as_ref()).unwrap();
    let name = storage.domains[0].to_string();
    let commits = |host: &Host, host_id: u16| {
        let cluster = cluster(host, host_id);
        cluster.join(&place, pool_support::DEADLINE).unwrap();
        let lost = Losses::default().handler();
        Commits::new(
            &cluster,
            &place,
            pool_support::DEADLINE,
            &Context::quiet(),
            lost,
        )
        .unwrap()
    };
    let (first, second) = (commits(&one, 1), commits(&two, 2));
    let bump = |authority: &Commits, index: u64| {
        storage
            .open(0)
            .change_metadata(authority, &mut |metadata| {
                let before = metadata.master_version().unwrap().unwrap_or(0);
                metadata.set_master_version(before + index);
                Ok(())
            })
            .unwrap();
    };
    // Taken by the first check, given back at the rest, and not before.
    first.check(&name).unwrap();
    assert!(matches!(
        cluster(&two, 2).owner(&place).unwrap(),
        Owner::Held { host_id: 1, .. }
    ));
    first.rest(&name);
    assert!(matches!(
        cluster(&two, 2).owner(&place).unwrap(),
        Owner::Free { .. }
    ));
    // Both at once: no change is lost.
    std::thread::scope(|scope| {
        for (authority, count) in [(&first, 5), (&second, 5)] {
            let (bump, name) = (&bump, &name);
            scope.spawn(move || {
                for _ in 0..count {
                    // The whole of read, change and write is under the lease.
                    authority.check(name).unwrap();
                    bump(authority, 1);
                    authority.rest(name);
                }
            });
        }
    });
    assert_eq!(
        storage
            .open(0)
            .metadata()
            .unwrap()
            .master_version()
            .unwrap(),
        Some(10)
    );
    drop((first, second));
    assert!(matches!(
        cluster(&one, 1).owner(&place).unwrap(),
        Owner::Free { .. }
    ));
}
