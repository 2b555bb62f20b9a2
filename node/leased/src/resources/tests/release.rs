//! Leases on their way back.

use lease::code::Code;
use sanlock_wire::{Release, ReleaseFlags, Resource};

use super::super::Ending;
use super::rig::{Asked, T, lockspace, node, resource};

const WRITES: super::rig::Rule = Asked::is_write;

#[test]
fn what_is_not_held_is_an_error_that_spares_the_others() {
    let mut a = node();
    for index in 1..=3 {
        a.init(index);
    }
    a.acquire(1, &["R1", "R2"]);
    a.acquire(2, &["R3"]);
    let nothing = a.release(1, &["R3"]);
    assert_eq!(a.code(nothing), Code::EPERM, "as the original");
    let some = a.release(1, &["R9", "R1"]);
    assert_eq!(a.code(some), Code::EPERM);
    assert_eq!(a.inquire(1), "LS:R2:disk:16777216:1");
    assert_eq!(a.inquire(2), "LS:R3:disk:25165824:1");
    assert_eq!(a.code(some), Code::EPERM);
    let nobody = a.release(77, &["R1"]);
    assert_eq!(a.code(nobody), Code::EPERM);
    let none = a.release(1, &[]);
    assert_eq!(a.code(none), Code::OK);
}

/// The original has room for 8 and writes beyond.
#[test]
fn all_leases_are_released_however_many_there_are() {
    let mut a = node();
    for index in 1..=40 {
        a.init(index);
        let name = format!("R{index}{}", if index % 3 == 0 { ":SH" } else { "" });
        let got = a.acquire(1, &[&name]);
        assert_eq!(a.code(got), Code::OK);
    }
    assert_eq!(a.leases.client_leases(super::super::ClientId(1)), 40);
    let all = a.release_what(1, &Release::All);
    assert_eq!(a.code(all), Code::OK);
    assert_eq!(a.inquire(1), "");
    assert!(!a.leases.is_used(&lockspace()));
    for index in 1..=40 {
        assert_eq!(a.leader(index).timestamp, 0);
    }
    let again = a.release_what(1, &Release::All);
    assert_eq!(a.code(again), Code::OK, "nothing left is no error");
}

#[test]
fn a_released_lease_may_get_another_name() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let rename = |old: &str, new: &str| Release::Rename {
        old: resource(old),
        new: resource(new),
    };
    let renamed = a.release_what(1, &rename("R1", "R2"));
    assert_eq!(a.code(renamed), Code::OK);
    assert_eq!(a.leader(1).resource_name.to_string(), "R2");
    let gone = a.acquire(1, &["R1"]);
    assert_eq!(a.code(gone), Code::LEADER_RESOURCE);
    let missing = a.release_what(1, &rename("R1", "R3"));
    assert_eq!(a.code(missing), Code::EPERM);
    let mut other = rename("R1", "R3");
    if let Release::Rename { new, .. } = &mut other {
        *new = Resource::default();
    }
    let unnamed = a.release_what(1, &other);
    assert_eq!(a.code(unnamed), Code::EINVAL);
}

#[test]
fn whoever_ends_leaves_nothing_but_orphans() {
    let mut a = node();
    for index in 1..=4 {
        a.init(index);
    }
    a.acquire(1, &["R1", "R2:P", "R3:SH", "R4:SH:P"]);
    a.acquire(2, &["R4:SH"]);
    a.gone(1);
    assert_eq!(
        a.lists(),
        ["held R4 1002", "orphan R2 1001"],
        "what is shared goes on"
    );
    assert_eq!(a.leader(1).timestamp, 0);
    assert_ne!(a.leader(2).timestamp, 0);
    let back = a.release(2, &["R4"]);
    assert_eq!(a.code(back), Code::OK);
    assert_eq!(
        a.lists(),
        ["orphan R4 1001", "orphan R2 1001"],
        "the persistent share of it stays"
    );
    assert!(a.leases.has_orphans(&lockspace()));
    assert_eq!(a.leases.holders(&lockspace()).count(), 0);
}

#[test]
fn orphans_are_counted_and_released_in_the_background() {
    let mut a = node();
    for index in 1..=3 {
        a.init(index);
    }
    a.acquire(1, &["R1:P", "R2:P", "R3:SH:P"]);
    a.gone(1);
    let flags = ReleaseFlags::ORPHAN;
    assert_eq!(flags.0, 4);
    let one = a.release_what(2, &Release::Orphans(resource("R1")));
    assert_eq!(a.code(one), Code(1));
    let none = a.release_what(2, &Release::Orphans(resource("R1")));
    assert_eq!(a.code(none), Code(0));
    let mut all = resource("R1");
    all.name = disk_format::NameField::EMPTY;
    a.hold = Some(WRITES);
    let both = a.release_what(2, &Release::Orphans(all.clone()));
    assert_eq!(a.code(both), Code(2), "before anything is written");
    a.land_all();
    assert!(a.lists().is_empty());
    assert!(!a.leases.has_orphans(&lockspace()));
    assert_eq!(a.leader(2).timestamp, 0);
    all.lockspace_name = disk_format::NameField::from_bytes(b"OTHER");
    let foreign = a.release_what(2, &Release::Orphans(all));
    assert_eq!(a.code(foreign), Code(0));
}

#[test]
fn a_release_that_hangs_is_told_at_its_time_out_and_finished_later() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.hold = Some(WRITES);
    let back = a.release(1, &["R1"]);
    assert_eq!(a.answer(back), None);
    a.pass(3 * u64::from(T));
    assert_eq!(a.code(back), Code::AIO_TIMEOUT);
    assert_eq!(a.inquire(1), "", "the lease is given up all the same");
    assert_eq!(a.lists(), ["rem R1 1001"]);
    let refused = a.acquire(2, &["R1"]);
    assert_eq!(a.code(refused), Code::EAGAIN);
    a.pass(60);
    a.land_all();
    a.pass(20);
    assert!(a.lists().is_empty());
    assert_eq!(a.leader(1).timestamp, 0);
    let got = a.acquire(2, &["R1"]);
    assert_eq!(a.code(got), Code::OK);
}

#[test]
fn a_failed_release_is_tried_again_in_the_background() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.hold = Some(|_| true);
    let back = a.release(1, &["R1"]);
    while !a.held.is_empty() {
        a.fail_first(5);
    }
    assert!(a.answer(back).is_some_and(|code| code != Code::OK));
    a.hold = None;
    a.pass(30);
    assert_eq!(a.leader(1).timestamp, 0);
    assert!(a.lists().is_empty());
}

#[test]
fn the_leases_of_a_lost_lockspace_are_dropped_without_touching_the_disk() {
    let mut a = node();
    for index in 1..=3 {
        a.init(index);
    }
    a.acquire(1, &["R1", "R2:P"]);
    a.acquire(2, &["R3"]);
    a.ios();
    a.dying(Ending::Lost);
    let back = a.release(2, &["R3"]);
    assert_eq!(a.code(back), Code::OK);
    a.gone(1);
    assert_eq!(a.ios(), 0);
    assert_eq!(a.lists(), ["orphan R2 1001"], "it blocks USED_BY_ORPHANS");
    assert_eq!(a.leases.holders(&lockspace()).count(), 0);
    a.input(super::super::Input::SpaceGone(lockspace()));
    assert!(a.lists().is_empty());
    assert_ne!(a.leader(1).timestamp, 0);
    assert_eq!(a.leases.deadline(), None);
}

#[test]
fn a_lockspace_that_is_left_still_gets_its_leases_released() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.dying(Ending::Leaving);
    a.gone(1);
    assert_eq!(a.leader(1).timestamp, 0);
    assert!(!a.leases.is_busy(&lockspace()));
}

#[test]
fn a_background_release_ends_with_its_lockspace() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.hold = Some(WRITES);
    a.gone(1);
    a.pass(5);
    assert_eq!(a.lists(), ["rem R1 1001"]);
    a.dying(Ending::Lost);
    a.ios();
    a.land_all();
    a.pass(100);
    assert!(a.lists().is_empty());
    assert!(a.ios() <= 2, "only what was on its way");
    assert!(!a.leases.is_busy(&lockspace()));
}

#[test]
fn a_client_that_ends_during_its_release_leaves_no_trace() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.hold = Some(WRITES);
    let back = a.release(1, &["R1"]);
    a.gone(1);
    a.land_all();
    assert_eq!(a.code(back), Code::OK);
    assert!(a.lists().is_empty());
}

#[test]
fn a_thousand_leases_are_held_and_left() {
    let mut a = node();
    for index in 1..=1000 {
        a.init_as(index, a.geometry, 1);
        let got = a.acquire(1, &[&format!("R{index}")]);
        assert_eq!(a.code(got), Code::OK);
    }
    assert_eq!(a.lists().len(), 1000);
    a.gone(1);
    assert!(a.lists().is_empty());
    assert_eq!(a.leases.metrics().releases.count, 1000);
}
