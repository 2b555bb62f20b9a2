//! `ACQUIRE`: the table of checks, and all or nothing.

use disk_format::NameField;
use lease::code::Code;
use sanlock_wire::AcquireFlags;

use super::super::{Ending, Input};
use super::rig::{Asked, S, lockspace, node, process, resource};

const ALL: super::rig::Rule = |_| true;
const WRITES: super::rig::Rule = Asked::is_write;

#[test]
fn one_lease_costs_six_reads_and_writes_and_three_to_give_back() {
    let mut a = node();
    a.init(1);
    a.ios();
    let got = a.acquire(1, &["R1"]);
    assert_eq!(a.code(got), Code::OK);
    assert!(a.ios() <= 6);
    assert_eq!(a.leader(1).owner_id, 1);
    assert_ne!(a.leader(1).timestamp, 0);
    assert_eq!(a.inquire(1), "LS:R1:disk:8388608:1");
    let back = a.release(1, &["R1"]);
    assert_eq!(a.code(back), Code::OK);
    assert!(a.ios() <= 3);
    assert_eq!(a.leader(1).timestamp, 0);
    assert_eq!(a.inquire(1), "");
    assert!(a.lists().is_empty());
    assert_eq!(a.leases.deadline(), None);
}

#[test]
fn while_a_release_runs_everything_is_answered_try_again() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.hold = Some(ALL);
    let back = a.release(1, &["R1"]);
    assert_eq!(a.answer(back), None);
    assert_eq!(a.lists(), ["rem R1 1001"]);
    let got = a.acquire(2, &["R1"]);
    assert_eq!(a.code(got), Code::EAGAIN);
    a.land_all();
    assert_eq!(a.code(back), Code::OK);
    let got = a.acquire(2, &["R1"]);
    assert_eq!(a.code(got), Code::OK);
}

#[test]
fn while_an_acquire_runs_another_is_answered_busy() {
    let mut a = node();
    a.init(1);
    a.hold = Some(ALL);
    let first = a.acquire(1, &["R1:SH"]);
    assert_eq!(a.lists(), ["add R1 1001"]);
    let second = a.acquire(2, &["R1:SH"]);
    assert_eq!(a.code(second), Code::EBUSY);
    a.land_all();
    assert_eq!(a.code(first), Code::OK);
}

#[test]
fn processes_of_one_host_share_a_shared_lease_without_touching_the_disk() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1:SH"]);
    a.ios();
    let joined = a.acquire(2, &["R1:SH"]);
    assert_eq!(a.code(joined), Code::OK);
    let again = a.acquire(2, &["R1:SH"]);
    assert_eq!(a.code(again), Code::OK, "the original allows it");
    assert_eq!(a.inquire(2), "LS:R1:disk:8388608:SH LS:R1:disk:8388608:SH");
    let back = a.release(1, &["R1"]);
    assert_eq!(a.code(back), Code::OK);
    assert_eq!(a.ios(), 0, "the others still share it");
    a.release(2, &["R1"]);
    assert_eq!(a.ios(), 0);
    a.release(2, &["R1"]);
    assert_eq!(a.ios(), 1, "the last one takes the mark off the disk");
}

#[test]
fn what_is_held_otherwise_exists() {
    let mut a = node();
    for index in 1..=2 {
        a.init(index);
    }
    a.acquire(1, &["R1", "R2:SH"]);
    for (client, name) in [(2, "R1"), (2, "R1:SH"), (1, "R1"), (2, "R2")] {
        let refused = a.acquire(client, &[name]);
        assert_eq!(a.code(refused), Code::EEXIST, "{name}");
    }
}

#[test]
fn an_orphan_is_only_for_those_who_ask_for_it_in_its_mode() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1:P", "R2:SH:P"]);
    a.gone(1);
    assert_eq!(a.lists(), ["orphan R2 1001", "orphan R1 1001"]);
    a.ios();
    let orphan = AcquireFlags::ORPHAN;
    for (name, flags) in [
        ("R1", AcquireFlags::NONE),
        ("R1:SH", orphan),
        ("R2", orphan),
        ("R2:SH", AcquireFlags::LVB),
    ] {
        let refused = a.acquire_with(2, &[name], flags);
        assert_eq!(a.code(refused), Code::EUCLEAN, "{name} {flags:?}");
    }
    let adopted = a.acquire_with(2, &["R1"], orphan);
    assert_eq!(a.code(adopted), Code::OK);
    let adopted = a.acquire_with(3, &["R2:SH"], AcquireFlags::ORPHAN_ONLY);
    assert_eq!(a.code(adopted), Code::OK);
    assert_eq!(a.ios(), 0);
    assert_eq!(a.lists(), ["held R2 1003", "held R1 1002"]);
    let back = a.release(2, &["R1"]);
    assert_eq!(a.code(back), Code::OK);
    assert_eq!(a.leader(1).timestamp, 0);
}

/// The original does as told only with the LVB flag, too.
#[test]
fn orphan_only_never_acquires_anything_else() {
    let mut a = node();
    a.init(1);
    let only = AcquireFlags::ORPHAN_ONLY;
    for flags in [only, only | AcquireFlags::LVB, only | AcquireFlags::ORPHAN] {
        let refused = a.acquire_with(1, &["R1"], flags);
        assert_eq!(a.code(refused), Code::ENOENT);
    }
    assert_eq!(a.ios(), 0);
    let got = a.acquire_with(1, &["R1"], AcquireFlags::ORPHAN);
    assert_eq!(a.code(got), Code::OK, "ORPHAN alone takes what there is");
}

#[test]
fn without_a_healthy_lockspace_there_is_no_room() {
    let mut a = node();
    a.init(1);
    a.init(2);
    let mut foreign = resource("R1");
    foreign.lockspace_name = NameField::from_bytes(b"OTHER");
    let reply = super::super::ReplyTo(900);
    a.input(Input::Acquire {
        reply,
        process: process(1),
        flags: AcquireFlags::NONE,
        resources: vec![foreign],
        patience: None,
    });
    assert_eq!(a.code(reply), Code::ENOSPC);
    a.acquire(1, &["R1:SH"]);
    a.dying(Ending::Leaving);
    let refused = a.acquire(2, &["R2"]);
    assert_eq!(a.code(refused), Code::ENOSPC);
    let refused = a.acquire(2, &["R1:SH"]);
    assert_eq!(a.code(refused), Code::ENOSPC, "no share either");
    assert_eq!(a.lists(), ["held R1 1001"]);
}

#[test]
fn limits_are_checked_before_anything_else() {
    let mut a = node();
    let many = ["R1"; 9];
    let refused = a.acquire(1, &many);
    assert_eq!(a.code(refused), Code::E2BIG);
    let mut bare = resource("R1");
    bare.disks.clear();
    let reply = super::super::ReplyTo(900);
    a.input(Input::Acquire {
        reply,
        process: process(1),
        flags: AcquireFlags::NONE,
        resources: vec![bare],
        patience: None,
    });
    assert_eq!(a.code(reply), Code::ERANGE);
    let nothing = a.acquire(1, &[]);
    assert_eq!(a.code(nothing), Code::OK);
}

#[test]
fn several_ballots_run_at_once() {
    let mut a = node();
    for index in 1..=3 {
        a.init(index);
    }
    a.hold = Some(ALL);
    let got = a.acquire(1, &["R1", "R2", "R3:SH"]);
    assert_eq!(a.held.len(), 3, "one reading of each at once");
    a.land_all();
    assert_eq!(a.code(got), Code::OK);
    assert_eq!(
        a.inquire(1),
        "LS:R1:disk:8388608:1 LS:R2:disk:16777216:1 LS:R3:disk:25165824:SH"
    );
}

#[test]
fn all_or_nothing_with_the_first_failure_in_order() {
    let mut a = node();
    for index in 1..=4 {
        a.init(index);
    }
    a.acquire(9, &["R4"]);
    // R3 fails on disk, R4 at once: R3 comes first.
    let refused = a.acquire(1, &["R1", "R2:SH", "R3@7", "R4"]);
    assert_eq!(a.code(refused), Code::ACQUIRE_LVER);
    let refused = a.acquire(1, &["R1", "R4", "R3@7"]);
    assert_eq!(a.code(refused), Code::EEXIST);
    assert_eq!(a.lists(), ["held R4 1009"]);
    for index in 1..=3 {
        assert_eq!(a.leader(index).timestamp, 0, "R{index} was given back");
    }
    assert_eq!(a.inquire(1), "");
    let got = a.acquire(1, &["R1", "R2", "R3"]);
    assert_eq!(a.code(got), Code::OK, "at once afterwards");
}

#[test]
fn the_answer_to_a_failed_acquire_comes_after_the_rest_is_given_back() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.hold = Some(|asked| asked.is_write() && asked.offset() < 16 << 20);
    let refused = a.acquire(1, &["R1", "R2@5"]);
    assert_eq!(a.answer(refused), None);
    a.land_all();
    assert_eq!(a.code(refused), Code::ACQUIRE_LVER);
    let got = a.acquire(2, &["R1"]);
    assert_eq!(a.code(got), Code::OK);
}

#[test]
fn one_resource_twice_in_a_command_is_shared_or_refused() {
    let mut a = node();
    a.init(1);
    let refused = a.acquire(1, &["R1", "R1"]);
    assert_eq!(a.code(refused), Code::EEXIST);
    assert!(a.lists().is_empty());
    let shared = a.acquire(1, &["R1:SH", "R1:SH"]);
    assert_eq!(a.code(shared), Code::OK);
    assert_eq!(a.lists(), ["held R1 1001", "held R1 1001"]);
    let all = a.release_what(1, &sanlock_wire::Release::All);
    assert_eq!(a.code(all), Code::OK);
    assert!(a.lists().is_empty());
}

#[test]
fn a_client_that_dies_while_acquiring_gets_nothing() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.hold = Some(WRITES);
    let got = a.acquire(1, &["R1", "R2:P"]);
    a.gone(1);
    a.land_all();
    assert_eq!(a.code(got), Code::ENOTTY);
    assert!(a.lists().is_empty(), "not even an orphan");
    a.pass(10);
    for index in 1..=2 {
        assert_eq!(a.leader(index).timestamp, 0);
    }
    let got = a.acquire(2, &["R1", "R2"]);
    assert_eq!(a.code(got), Code::OK);
}

#[test]
fn a_write_of_unknown_outcome_keeps_the_resource_closed() {
    let mut a = node();
    a.init(1);
    a.hold = Some(WRITES);
    let timed_out = a.acquire(1, &["R1"]);
    a.pass(u64::from(super::rig::T) + 1);
    assert!(matches!(
        a.code(timed_out),
        Code::AIO_TIMEOUT | Code::DBLOCK_WRITE
    ));
    let refused = a.acquire(2, &["R1"]);
    assert_eq!(a.code(refused), Code::EAGAIN);
    a.pass(100);
    let refused = a.acquire(2, &["R1"]);
    assert_eq!(a.code(refused), Code::EAGAIN, "for as long as it takes");
    a.land_all();
    a.pass(1);
    let got = a.acquire(2, &["R1"]);
    assert_eq!(a.code(got), Code::OK);
}

#[test]
fn another_name_for_the_same_place_is_closed_with_it() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    // The mark in our own sector hangs, the new name is written.
    a.hold = Some(|asked| asked.is_write() && asked.offset() > 8 << 20);
    let mut new = resource("R1");
    new.name = NameField::from_bytes(b"NEW");
    let rename = sanlock_wire::Release::Rename {
        old: resource("R1"),
        new: new.clone(),
    };
    a.release_what(1, &rename);
    a.pass(10);
    assert_eq!(a.leader(1).resource_name.to_string(), "NEW");
    assert_eq!(a.lists(), ["rem R1 1001"]);
    for (number, code) in [(900, Code::EAGAIN), (901, Code::OK)] {
        let reply = super::super::ReplyTo(number);
        a.input(Input::Acquire {
            reply,
            process: process(2),
            flags: AcquireFlags::NONE,
            resources: vec![new.clone()],
            patience: None,
        });
        assert_eq!(a.code(reply), code);
        a.land_all();
        a.pass(10);
    }
}

#[test]
fn a_lockspace_lost_while_acquiring_gives_nothing_out() {
    let mut a = node();
    a.init(1);
    a.init(2);
    // The last write of the first ballot is under way.
    a.hold = Some(|asked| asked.is_write() && asked.offset() == 8 << 20);
    let refused = a.acquire(1, &["R1", "R2"]);
    assert_eq!(a.answer(refused), None);
    a.dying(Ending::Lost);
    assert_eq!(a.code(refused), Code::ENOSPC);
    a.ios();
    a.land_all();
    assert_eq!(a.ios(), 1, "only what was on its way");
    assert_eq!(a.inquire(1), "");
    assert!(!a.leases.is_used(&lockspace()));
}

#[test]
fn leases_won_after_the_delta_lease_expired_are_not_given_out() {
    let mut a = node();
    a.init(1);
    let expires = lease::Monotonic(a.now + 16 * S);
    a.input(Input::SpaceRenewed(lockspace(), expires));
    a.hold = Some(|asked| !asked.is_write());
    let refused = a.acquire(1, &["R1"]);
    a.now += 20 * S;
    a.land_all();
    a.pass(3);
    assert_eq!(a.code(refused), Code::ENOSPC);
    assert_eq!(a.inquire(1), "");
}

#[test]
fn every_write_must_begin_before_the_delta_lease_expires() {
    let mut a = node();
    a.init(1);
    let expires = lease::Monotonic(a.now + S);
    a.input(Input::SpaceRenewed(lockspace(), expires));
    a.hold = Some(WRITES);
    a.acquire(1, &["R1"]);
    let asked = a.held.front().unwrap();
    assert!(
        matches!(&asked.io, super::super::DiskIo::Write { not_after, .. } if *not_after <= expires)
    );
}

#[test]
fn another_hosts_lease_is_refused_and_counted_as_contention() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let mut b = a.peer(2);
    b.see(1, 1, b.now / S, b.now);
    let refused = b.acquire(1, &["R1"]);
    assert_eq!(b.code(refused), Code::ACQUIRE_IDLIVE);
    assert_eq!(b.leases.metrics().contended, 1);
    assert!(b.lists().is_empty());
}
