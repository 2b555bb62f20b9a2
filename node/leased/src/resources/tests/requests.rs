//! Requests, made and received.

use disk_format::RequestRecord;
use lease::code::Code;
use sanlock_wire::{AcquireFlags, RestrictFlags};

use super::super::{Ending, Input, ReplyTo, Signal};
use super::rig::{Asked, S, T, host, lockspace, node, process, resource};

#[test]
fn a_request_marks_the_owner_and_reaches_it() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let mut b = a.peer(2);
    b.ios();
    let asked = b.request("R1", RequestRecord::GRACEFUL);
    assert_eq!(b.code(asked), Code::OK);
    assert!(b.ios() <= 3);
    assert_eq!(b.marked, [host(1)]);
    a.ios();
    a.examine();
    assert_eq!(a.ios(), 1);
    assert_eq!(a.killpaths, [(1001, Signal::Term)]);
    assert!(a.signals.is_empty());
    assert_eq!(a.leases.metrics().requested, 1);
    assert_eq!(
        a.lists(),
        ["held R1 1001"],
        "the process must let go itself"
    );
}

#[test]
fn a_request_for_a_free_lease_is_not_written() {
    let mut a = node();
    a.init(1);
    let asked = a.request("R1", RequestRecord::FORCE);
    assert_eq!(a.code(asked), Code::OK);
    assert!(a.done.iter().all(|io| !io.is_write()));
    assert!(a.marked.is_empty());
}

#[test]
fn what_cannot_be_requested() {
    let mut a = node();
    a.init(1);
    let mut bare = resource("R1");
    bare.disks.clear();
    let mut foreign = resource("R1");
    foreign.lockspace_name = disk_format::NameField::from_bytes(b"OTHER");
    for (wanted, code) in [(bare, Code::ERANGE), (foreign, Code::ENOSPC)] {
        let reply = ReplyTo(900 + u64::from(code == Code::ERANGE));
        a.input(Input::Request {
            reply,
            flags: sanlock_wire::RequestFlags::NEXT_LVER,
            force_mode: 1,
            resource: &wanted,
        });
        assert_eq!(a.code(reply), code);
    }
    a.dying(Ending::Leaving);
    let dying = a.request("R1", RequestRecord::FORCE);
    assert_eq!(a.code(dying), Code::ENOSPC);
}

#[test]
fn a_request_whose_write_hangs_keeps_others_away() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    let mut b = a.peer(2);
    b.hold = Some(Asked::is_write);
    let hangs = b.request("R1", RequestRecord::FORCE);
    b.pass(u64::from(T) + 1);
    assert_eq!(b.code(hangs), Code::AIO_TIMEOUT);
    let early = b.request("R1", RequestRecord::GRACEFUL);
    assert_eq!(b.code(early), Code::EAGAIN);
    b.land_all();
    let later = b.request("R1", RequestRecord::GRACEFUL);
    assert_eq!(b.code(later), Code::OK);
}

/// The original signals process 0: its own group.
#[test]
fn every_process_that_shares_a_lease_gets_the_signal() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1:SH"]);
    a.acquire(2, &["R1:SH"]);
    a.acquire(2, &["R1:SH"]);
    let mut careful = process(3);
    careful.restricted = RestrictFlags::SIGKILL;
    a.acquire_as(careful, &["R1:SH"], AcquireFlags::NONE, None);
    a.put_request(1, RequestRecord::new(1000, RequestRecord::FORCE));
    a.examine();
    assert_eq!(
        a.signals,
        [
            (1001, Signal::Kill),
            (1002, Signal::Kill),
            (1003, Signal::Term)
        ],
        "each once, never anybody else"
    );
}

#[test]
fn restrictions_change_the_signal() {
    let mut a = node();
    a.init(1);
    let mut stubborn = process(1);
    stubborn.restricted = RestrictFlags::SIGTERM;
    a.acquire_as(stubborn, &["R1"], AcquireFlags::NONE, None);
    a.put_request(1, RequestRecord::new(2, RequestRecord::GRACEFUL));
    a.examine();
    assert_eq!(a.killpaths, [(1001, Signal::Kill)]);
    a.put_request(1, RequestRecord::new(2, RequestRecord::FORCE));
    a.examine();
    assert_eq!(a.signals, [(1001, Signal::Kill)]);
}

#[test]
fn requests_that_ask_for_nothing_new_are_ignored() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    for record in [
        RequestRecord::new(1, RequestRecord::FORCE),
        RequestRecord::new(0, RequestRecord::FORCE),
        RequestRecord::new(9, 0),
        RequestRecord::new(9, 77),
    ] {
        a.put_request(1, record);
        a.examine();
    }
    let damaged = RequestRecord {
        magic: 1,
        ..RequestRecord::new(9, RequestRecord::FORCE)
    };
    a.put_request(1, damaged);
    a.examine();
    assert!(a.signals.is_empty() && a.killpaths.is_empty());
    assert!(
        a.log.iter().any(|line| line.contains("-270")),
        "{:?}",
        a.log
    );
}

#[test]
fn an_examination_of_many_leases_is_bounded_and_complete() {
    let mut a = node();
    for index in 1..=100 {
        a.init_as(index, a.geometry, 1);
        a.acquire(1, &[&format!("R{index}")]);
    }
    a.put_request(100, RequestRecord::new(5, RequestRecord::FORCE));
    a.hold = Some(|_| true);
    a.examine();
    a.examine();
    assert_eq!(a.held.len(), 32);
    a.ios();
    a.land_all();
    assert!(a.ios() <= 132, "each once, those under way again");
    assert!(a.signals.contains(&(1001, Signal::Kill)));
}

#[test]
fn one_resource_is_examined_by_name_and_the_answer_is_always_yes() {
    let mut a = node();
    a.init(1);
    a.init(2);
    a.acquire(1, &["R1", "R2"]);
    a.put_request(2, RequestRecord::new(5, RequestRecord::FORCE));
    for (number, name) in [(900, "R1"), (901, "R7"), (902, "R2")] {
        let reply = ReplyTo(number);
        a.input(Input::Examine {
            reply: Some(reply),
            lockspace: *lockspace().field(),
            resource: Some(resource(name).name),
        });
        assert_eq!(a.code(reply), Code::OK);
        assert_eq!(a.signals.len(), usize::from(name == "R2"));
    }
    a.release(1, &["R1", "R2"]);
    a.ios();
    a.examine();
    assert_eq!(a.ios(), 0, "nothing held, nothing read");
    assert!(a.now > S);
}
