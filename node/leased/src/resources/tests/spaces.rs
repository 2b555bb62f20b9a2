//! Lockspaces that come back, and hosts that die.

use lease::code::Code;
use sanlock_wire::AcquireFlags;

use super::super::{Ending, Input, WaitFor};
use super::rig::{Asked, S, T, W, host, lockspace, node};

#[test]
fn the_next_life_of_a_lockspace_starts_without_leases() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1", "R2:P"]);
    a.gone(1);
    assert!(a.leases.is_used(&lockspace()));
    a.dying(Ending::Leaving);
    a.input(Input::SpaceGone(lockspace()));
    assert!(!a.leases.is_used(&lockspace()));
    a.join(2);
    assert!(a.lists().is_empty());
    let got = a.acquire(2, &["R1", "R2"]);
    assert_eq!(a.code(got), Code::OK, "ours from an earlier life");
    assert_eq!(a.leader(2).owner_generation, 2);
}

#[test]
fn a_write_of_an_earlier_life_keeps_the_resource_closed_in_the_next() {
    let mut a = node();
    a.init(1);
    a.hold = Some(Asked::is_write);
    let lost = a.acquire(1, &["R1"]);
    a.dying(Ending::Lost);
    assert_eq!(a.code(lost), Code::ENOSPC);
    a.input(Input::SpaceGone(lockspace()));
    a.join(2);
    let refused = a.acquire(1, &["R1"]);
    assert_eq!(a.code(refused), Code::EAGAIN);
    a.land_all();
    let got = a.acquire(1, &["R1"]);
    assert_eq!(a.code(got), Code::OK);
}

#[test]
fn lost_is_final_and_leaving_may_still_become_lost() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.dying(Ending::Leaving);
    a.dying(Ending::Lost);
    a.dying(Ending::Leaving);
    a.ios();
    a.gone(1);
    assert_eq!(a.ios(), 0);
}

#[test]
fn a_dead_owner_is_waited_for_and_shown() {
    let mut b = node();
    b.init(1);
    b.acquire(1, &["R1"]);
    let mut a = b.peer(2);
    let died = a.now;
    a.see(1, 1, died / S, died);
    a.now += 20 * S;
    a.see(1, 1, died / S, died);
    let waits = a.acquire(1, &["R1"]);
    assert_eq!(a.answer(waits), None);
    let shown = a.leases.waits();
    assert_eq!(shown.len(), 1);
    let dead_s = 8 * u64::from(T) + u64::from(W);
    assert!(
        matches!(
            shown[0].wait_for,
            WaitFor::Host { host_id, until, .. }
                if host_id == host(1) && until.0 >= died + dead_s * S && until.0 <= died + (dead_s + 1) * S
        ),
        "{shown:?}"
    );
    let hurry = a.acquire_with(2, &["R1"], AcquireFlags::OWNER_NOWAIT);
    assert_eq!(a.code(hurry), Code::EBUSY, "the first one is still at it");
    a.pass(dead_s - 25);
    assert_eq!(a.answer(waits), None);
    a.pass(10);
    assert_eq!(a.code(waits), Code::OK);
    assert!(a.leases.waits().is_empty());
}

#[test]
fn a_wait_ends_when_the_owners_delta_lease_is_freed() {
    let mut b = node();
    b.init(1);
    b.acquire(1, &["R1"]);
    let mut a = b.peer(2);
    let died = a.now;
    a.now += 20 * S;
    a.see(1, 1, died / S, died);
    let waits = a.acquire(1, &["R1"]);
    a.pass(5);
    assert_eq!(a.answer(waits), None);
    a.delta(1, 1, 0);
    a.see(1, 1, 0, a.now);
    a.pass(1);
    assert_eq!(a.code(waits), Code::OK);
}

#[test]
fn a_wait_ends_with_its_client() {
    let mut b = node();
    b.init(1);
    b.acquire(1, &["R1"]);
    let mut a = b.peer(2);
    let died = a.now;
    a.now += 20 * S;
    a.see(1, 1, died / S, died);
    let waits = a.acquire(1, &["R1"]);
    a.gone(1);
    assert_eq!(a.code(waits), Code::ENOTTY);
    assert!(!a.leases.is_busy(&lockspace()));
    let waits = a.acquire(2, &["R1"]);
    a.dying(Ending::Leaving);
    assert_eq!(a.code(waits), Code::ENOSPC);
}
