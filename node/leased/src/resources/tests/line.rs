//! Standing in line.

use lease::Monotonic;
use lease::code::Code;
use sanlock_wire::AcquireFlags;

use super::super::{Ending, Patience, WaitFor};
use super::rig::{Asked, S, node, process};

#[test]
fn those_in_line_get_the_lease_in_the_order_of_their_coming() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let waiting: Vec<_> = (2..=5)
        .map(|client| a.acquire_in_line(client, &["R1"], 100))
        .collect();
    assert!(waiting.iter().all(|&reply| a.answer(reply).is_none()));
    let barging = a.acquire(9, &["R1"]);
    assert_eq!(a.code(barging), Code::EEXIST);
    for (client, reply) in (1..=4).zip(&waiting) {
        a.release(client, &["R1"]);
        assert_eq!(a.code(*reply), Code::OK);
        let answered = waiting
            .iter()
            .filter(|&&one| a.answer(one).is_some())
            .count();
        assert_eq!(u64::try_from(answered), Ok(client), "one at a time");
    }
    a.gone(5);
    let free = a.acquire(9, &["R1"]);
    assert_eq!(a.code(free), Code::OK);
}

#[test]
fn without_patience_nobody_overtakes_a_line() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let waiting = a.acquire_in_line(2, &["R1"], 100);
    a.hold = Some(Asked::is_write);
    a.release(1, &["R1"]);
    let barging = a.acquire(3, &["R1"]);
    assert_eq!(a.code(barging), Code::EAGAIN, "a release runs");
    a.land_all();
    assert_eq!(a.code(waiting), Code::OK);
}

#[test]
fn what_can_be_shared_is_shared_in_line() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let first = a.acquire_in_line(2, &["R1:SH"], 100);
    let second = a.acquire_in_line(3, &["R1:SH"], 100);
    let exclusive = a.acquire_in_line(4, &["R1"], 100);
    let behind = a.acquire_in_line(5, &["R1:SH"], 100);
    a.release(1, &["R1"]);
    assert_eq!(a.code(first), Code::OK);
    assert_eq!(a.code(second), Code::OK);
    assert_eq!(a.answer(exclusive), None);
    assert_eq!(a.answer(behind), None, "not past the exclusive one");
    a.release(2, &["R1"]);
    a.gone(3);
    assert_eq!(a.code(exclusive), Code::OK);
    a.release(4, &["R1"]);
    assert_eq!(a.code(behind), Code::OK);
}

#[test]
fn two_that_want_the_same_two_never_wait_for_each_other() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1"]);
    let first = a.acquire_in_line(2, &["R1", "R2"], 100);
    let second = a.acquire_in_line(3, &["R2", "R1"], 100);
    assert_eq!(a.answer(second), None, "R2 is free, but not for the second");
    let barging = a.acquire(9, &["R2"]);
    assert_eq!(a.code(barging), Code::EBUSY, "nor for anybody else");
    a.release(1, &["R1"]);
    assert_eq!(a.code(first), Code::OK);
    assert_eq!(a.answer(second), None);
    a.release(2, &["R1", "R2"]);
    assert_eq!(a.code(second), Code::OK);
}

#[test]
fn patience_ends_with_the_answer_of_the_impatient() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1"]);
    let impatient = a.acquire_in_line(2, &["R2", "R1"], 10);
    let after = a.acquire_in_line(3, &["R2"], 100);
    a.pass(9);
    assert_eq!(a.answer(impatient), None);
    a.pass(2);
    assert_eq!(a.code(impatient), Code::EEXIST);
    assert_eq!(a.code(after), Code::OK, "whoever was behind goes on");
    assert_eq!(a.leases.deadline(), None);
}

#[test]
fn whoever_ends_leaves_the_line() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let dead = a.acquire_in_line(2, &["R1"], 100);
    let alive = a.acquire_in_line(3, &["R1"], 100);
    a.gone(2);
    assert_eq!(a.code(dead), Code::ENOTTY);
    a.release(1, &["R1"]);
    assert_eq!(a.code(alive), Code::OK);
}

#[test]
fn a_lockspace_that_ends_sends_everybody_home() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let waiting = a.acquire_in_line(2, &["R1"], 100);
    a.dying(Ending::Leaving);
    assert_eq!(a.code(waiting), Code::ENOSPC);
}

#[test]
fn nobody_waits_for_what_does_not_pass() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1", "R2:P"]);
    let own = a.acquire_in_line(1, &["R1"], 100);
    assert_eq!(a.code(own), Code::EEXIST, "not for itself");
    a.gone(1);
    let orphan = a.acquire_in_line(2, &["R2"], 100);
    assert_eq!(a.code(orphan), Code::EUCLEAN);
    let twice = a.acquire_in_line(2, &["R1", "R1"], 100);
    assert_eq!(a.code(twice), Code::EEXIST);
}

#[test]
fn it_shows_who_waits_for_whom_and_until_when() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.acquire_in_line(2, &["R1"], 100);
    let patience = Patience { until: None };
    a.acquire_as(process(3), &["R1"], AcquireFlags::NONE, Some(patience));
    let waits = a.leases.waits();
    assert_eq!(waits.len(), 2);
    assert_eq!(waits[0].pid, 1002);
    assert_eq!(
        waits[0].wait_for,
        WaitFor::Process {
            pid: Some(1001),
            until: Some(Monotonic(a.now + 100 * S)),
        }
    );
    assert_eq!(waits[1].pid, 1003);
}
