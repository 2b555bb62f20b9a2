//! What others see of it.

use lease::code::Code;
use sanlock_wire::{AcquireFlags, ResourceFlags, RestrictFlags, StateBody};

use super::super::ClientId;
use super::rig::{Asked, lockspace, node, process};

#[test]
fn status_records_have_the_originals_keys() {
    let mut a = node();
    for index in 1..=3 {
        a.init(index);
    }
    let mut careful = process(1);
    careful.restricted = RestrictFlags::SIGKILL;
    a.acquire_as(careful, &["R1"], AcquireFlags::NONE, None);
    a.acquire(2, &["R2:SH"]);
    a.acquire(3, &["R2:SH"]);
    let texts: Vec<String> = a
        .leases
        .status()
        .iter()
        .map(|one| one.record().text)
        .collect();
    assert_eq!(
        texts,
        [
            "list=held flags=1 sector_size=512 align_size=1048576 lver=1 reused=0 res_id=2 token_id=3",
            "list=held flags=1 sector_size=512 align_size=1048576 lver=1 reused=0 res_id=2 token_id=2",
            "list=held flags=8 sector_size=512 align_size=1048576 lver=1 reused=0 res_id=1 token_id=1",
        ]
    );
    let record = a.leases.status()[0].record();
    assert_eq!(record.data32, 1003);
    assert_eq!(record.data64, 1);
    assert!(matches!(
        record.body,
        StateBody::Resource(resource)
            if resource.has(ResourceFlags::SHARED) && resource.disks.len() == 1
    ));
    a.release(1, &["R1"]);
    a.acquire(1, &["R1"]);
    assert!(
        a.leases.status()[0]
            .record()
            .text
            .contains("lver=2 reused=1 res_id=1")
    );
}

#[test]
fn what_is_on_its_way_is_listed_with_its_process() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1"]);
    a.hold = Some(Asked::is_write);
    a.acquire(2, &["R2:SH"]);
    a.gone(1);
    let status = a.leases.status();
    let texts: Vec<_> = status
        .iter()
        .map(|one| (one.list.name(), one.pid, one.token_id, one.shared))
        .collect();
    assert_eq!(texts, [("add", 1002, 2, true), ("rem", 1001, 0, false)]);
    assert!(a.leases.is_busy(&lockspace()));
    assert_eq!(a.leases.in_flight(), 2);
}

#[test]
fn holders_are_those_whose_acquire_is_finished() {
    let mut a = node();
    for index in 1..=3 {
        a.init(index);
    }
    a.acquire(1, &["R1", "R2:SH"]);
    a.acquire(2, &["R2:SH"]);
    a.hold = Some(Asked::is_write);
    a.acquire(3, &["R3"]);
    let holders: Vec<_> = a.leases.holders(&lockspace()).collect();
    assert_eq!(
        holders,
        [(ClientId(1), 1001, 2), (ClientId(2), 1002, 1)],
        "client 3 has none yet"
    );
    a.land_all();
    a.release(1, &["R1"]);
    let holders: Vec<_> = a.leases.holders(&lockspace()).collect();
    assert_eq!(
        holders,
        [
            (ClientId(1), 1001, 1),
            (ClientId(2), 1002, 1),
            (ClientId(3), 1003, 1)
        ]
    );
}

#[test]
fn the_report_says_who_has_what_since_when() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1:SH"]);
    a.acquire(2, &["R1:SH"]);
    a.hold = Some(Asked::is_write);
    a.acquire(3, &["R2"]);
    a.now += 1_000_000_000;
    let (leases, waits) = a.leases.report(lease::Monotonic(a.now));
    assert_eq!(leases.len(), 2);
    assert_eq!(leases[0].name, "R1");
    assert_eq!(leases[0].pids, [1002, 1001]);
    assert_eq!(leases[0].age_ms, 1000);
    assert_eq!(leases[0].ballots, 1);
    assert_eq!(leases[0].disks, ["disk:8388608"]);
    assert_eq!(leases[1].state, "acquiring");
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0].waits_for, "disk");
    assert_eq!(waits[0].pid, 1003);
}

#[test]
fn numbers_are_kept_for_each_resource() {
    let mut a = node();
    a.init(1);
    for _ in 0..3 {
        a.acquire(1, &["R1"]);
        a.release(1, &["R1"]);
    }
    let (_, _, metrics) = a.leases.metrics_of_each().next().unwrap();
    assert_eq!(metrics.acquires.count, 3);
    assert_eq!(metrics.releases.count, 3);
    assert!(metrics.reads + metrics.writes <= 27);
    assert_eq!(a.leases.metrics().acquires.count, 3);
    let refused = a.acquire(1, &["R7"]);
    assert_ne!(a.code(refused), Code::OK);
    assert_eq!(a.leases.metrics().failed, 1);
}

#[test]
fn few_released_resources_are_remembered() {
    let mut a = node();
    for index in 1..=1100 {
        a.init_as(index, a.geometry, 1);
        let name = format!("R{index}");
        a.acquire(1, &[&name]);
        a.release(1, &[&name]);
    }
    assert_eq!(a.leases.metrics_of_each().count(), 1024);
    assert_eq!(a.leases.metrics().releases.count, 1100);
}
