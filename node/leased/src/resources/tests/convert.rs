//! `CONVERT`, and lock value blocks.

use std::rc::Rc;

use disk_format::{Geometry, paxos};
use lease::code::Code;
use sanlock_wire::AcquireFlags;

use super::super::{Ending, Resources, Settings};
use super::rig::{Asked, Node, S, T, node};

const WRITES: super::rig::Rule = Asked::is_write;

#[test]
fn a_lease_goes_shared_and_exclusive_again() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.ios();
    let shared = a.convert(1, "R1:SH");
    assert_eq!(a.code(shared), Code::OK);
    assert!(a.ios() <= 3);
    assert_eq!(a.inquire(1), "LS:R1:disk:8388608:SH");
    assert_eq!(a.leader(1).timestamp, 0);
    let joined = a.acquire(2, &["R1:SH"]);
    assert_eq!(a.code(joined), Code::OK);
    a.release(2, &["R1"]);
    a.ios();
    let exclusive = a.convert(1, "R1");
    assert_eq!(a.code(exclusive), Code::OK);
    assert!(a.ios() <= 7);
    assert_eq!(a.inquire(1), "LS:R1:disk:8388608:2");
    assert_eq!(a.leases.metrics().conversions.count, 2);
}

#[test]
fn what_cannot_be_converted() {
    let mut a = node();
    a.init(1);
    let missing = a.convert(1, "R1");
    assert_eq!(a.code(missing), Code::ENOENT);
    a.acquire(1, &["R1"]);
    let same = a.convert(1, "R1");
    assert_eq!(a.code(same), Code::EALREADY);
    let others = a.convert(2, "R1:SH");
    assert_eq!(a.code(others), Code::ENOENT);
    a.convert(1, "R1:SH");
    let same = a.convert(1, "R1:SH");
    assert_eq!(a.code(same), Code::EALREADY);
    a.dying(Ending::Leaving);
    let dying = a.convert(1, "R1");
    assert_eq!(a.code(dying), Code::ENOSPC);
}

/// The original says yes, and has two processes that believe different things.
#[test]
fn a_lease_shared_by_processes_of_this_host_does_not_become_exclusive() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1:SH"]);
    a.acquire(2, &["R1:SH"]);
    a.ios();
    let refused = a.convert(1, "R1");
    assert_eq!(a.code(refused), Code::EAGAIN);
    assert_eq!(a.ios(), 0);
    a.release(2, &["R1"]);
    let converted = a.convert(1, "R1");
    assert_eq!(a.code(converted), Code::OK);
}

#[test]
fn a_lease_shared_with_a_live_host_does_not_become_exclusive() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1:SH"]);
    let mut b = a.peer(2);
    let joined = b.acquire(1, &["R1:SH"]);
    assert_eq!(b.code(joined), Code::OK);
    a.see(2, 1, a.now / S, a.now);
    let refused = a.convert(1, "R1");
    assert_eq!(a.code(refused), Code::EAGAIN);
    assert_eq!(a.inquire(1), "LS:R1:disk:8388608:SH", "still shared");
    assert_eq!(a.leader(1).timestamp, 0);
    b.release(1, &["R1"]);
    let converted = a.convert(1, "R1");
    assert_eq!(a.code(converted), Code::OK);
}

#[test]
fn nobody_joins_while_the_mode_changes() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1"]);
    a.hold = Some(WRITES);
    let converting = a.convert(1, "R1:SH");
    let early = a.acquire(2, &["R1:SH"]);
    assert_eq!(a.code(early), Code::EBUSY);
    a.land_all();
    assert_eq!(a.code(converting), Code::OK);
}

#[test]
fn a_client_that_ends_while_converting_is_cleaned_up_afterwards() {
    for name in ["R1:SH", "R1"] {
        let mut a = node();
        a.init(1);
        a.acquire(1, &[if name == "R1" { "R1:SH" } else { "R1" }]);
        a.hold = Some(WRITES);
        let converting = a.convert(1, name);
        a.gone(1);
        assert_eq!(a.answer(converting), None);
        a.land_all();
        a.pass(5);
        assert!(a.answer(converting).is_some());
        assert!(a.lists().is_empty(), "{:?}", a.lists());
        assert_eq!(a.leader(1).timestamp, 0);
        let got = a.acquire(2, &["R1"]);
        assert_eq!(a.code(got), Code::OK, "no mark of the dead is left");
    }
}

#[test]
fn a_conversion_that_hangs_keeps_what_is_surely_held() {
    let mut a = node();
    a.init(1);
    a.acquire(1, &["R1:SH"]);
    a.hold = Some(WRITES);
    let converting = a.convert(1, "R1");
    a.pass(u64::from(T) + 1);
    assert_ne!(a.code(converting), Code::OK);
    assert_eq!(a.inquire(1), "LS:R1:disk:8388608:SH");
    let again = a.convert(1, "R1");
    assert_eq!(a.code(again), Code::EAGAIN);
    let back = a.release(1, &["R1"]);
    assert_eq!(a.answer(back), None, "after the write that is on its way");
    a.pass(u64::from(T) + 1);
    assert_eq!(a.code(back), Code::AIO_TIMEOUT);
    a.land_all();
    a.pass(10);
    assert!(a.lists().is_empty());
    let mut b = a.peer(2);
    let got = b.acquire(1, &["R1"]);
    assert_eq!(b.code(got), Code::OK, "no mark is left");
}

#[test]
fn a_value_goes_to_the_next_holder() {
    let mut a = node();
    a.init(1);
    a.acquire_with(1, &["R1"], AcquireFlags::LVB);
    assert_eq!(a.get_lvb("R1", 0), Ok(vec![0; 512]));
    assert_eq!(a.set_lvb("R1", b"hello"), Code::OK);
    assert_eq!(a.get_lvb("R1", 5), Ok(b"hello".to_vec()));
    assert_eq!(a.set_lvb("R1", &[7; 513]), Code::E2BIG);
    assert_eq!(a.set_lvb("R1", b"HE"), Code::OK);
    a.release(1, &["R1"]);
    assert_eq!(a.get_lvb("R1", 5), Err(Code::ENOENT));
    let mut b = a.peer(2);
    b.acquire_with(1, &["R1:SH"], AcquireFlags::LVB);
    assert_eq!(b.get_lvb("R1", 5), Ok(b"HEllo".to_vec()));
    assert_eq!(b.get_lvb("R1", 600).map(|bytes| bytes.len()), Ok(600));
    assert_eq!(b.get_lvb("R1", u32::MAX).map(|bytes| bytes.len()), Ok(4096));
}

#[test]
fn a_value_is_written_when_the_lease_becomes_shared() {
    let mut a = node();
    a.init(1);
    a.acquire_with(1, &["R1"], AcquireFlags::LVB);
    a.set_lvb("R1", b"value");
    assert_eq!(a.sector(1, paxos::LVB_SECTOR)[..5], [0; 5], "not yet");
    a.convert(1, "R1:SH");
    assert_eq!(a.sector(1, paxos::LVB_SECTOR)[..5], *b"value");
    // Shared holders' values stay in memory.
    assert_eq!(a.set_lvb("R1", b"VALUE"), Code::OK);
    a.release(1, &["R1"]);
    assert_eq!(a.sector(1, paxos::LVB_SECTOR)[..5], *b"value");
}

#[test]
fn a_value_that_was_not_set_is_not_written() {
    let mut a = node();
    a.init(1);
    a.acquire_with(1, &["R1"], AcquireFlags::LVB);
    a.ios();
    a.release(1, &["R1"]);
    assert!(a.ios() <= 3);
    a.acquire(1, &["R1"]);
    assert_eq!(a.set_lvb("R1", b"x"), Code::EINVAL, "without the flag");
    assert_eq!(a.get_lvb("R1", 0), Err(Code::EINVAL));
    assert_eq!(a.set_lvb("R2", b"x"), Code::ENOENT);
}

/// The original reads and overwrites a neighbour's area.
#[test]
fn a_value_outside_the_area_is_refused() {
    let narrow = Geometry::Sector4096Align1M;
    let mut a = Node::new(1, narrow, Rc::default());
    a.init(1);
    let refused = a.acquire_with(1, &["R1"], AcquireFlags::LVB);
    assert_eq!(a.code(refused), Code::EINVAL);
    assert!(a.lists().is_empty());
    a.pass(5);
    let outside = 8 * super::rig::MIB + u64::from(paxos::LVB_SECTOR) * 4096;
    assert!(a.done.iter().all(|asked| asked.offset() != outside));
    let got = a.acquire(1, &["R1:SH"]);
    assert_eq!(a.code(got), Code::OK, "nothing of it is left on disk");
    let joined = a.acquire_with(2, &["R1:SH"], AcquireFlags::LVB);
    assert_eq!(a.code(joined), Code::EINVAL, "nor by joining");
    a.release(1, &["R1"]);
    let unsafe_lvb = Settings {
        unsafe_lvb: true,
        ..Settings::default()
    };
    a.leases = Resources::new(unsafe_lvb);
    a.join(2);
    let got = a.acquire_with(1, &["R1"], AcquireFlags::LVB);
    assert_eq!(a.code(got), Code::OK, "unless the administrator insists");
    let wide = Geometry::Sector4096Align8M;
    let mut b = Node::new(1, wide, Rc::default());
    b.init(1);
    let got = b.acquire_with(1, &["R1"], AcquireFlags::LVB);
    assert_eq!(b.code(got), Code::OK);
    assert_eq!(b.get_lvb("R1", 0).map(|bytes| bytes.len()), Ok(4096));
}

#[test]
fn a_resource_may_have_another_geometry_than_its_lockspace() {
    let mut a = Node::new(1, Geometry::Sector4096Align1M, Rc::default());
    a.init_as(1, Geometry::Sector4096Align8M, 2000);
    let got = a.acquire_with(1, &["R1"], AcquireFlags::LVB);
    assert_eq!(
        a.code(got),
        Code::OK,
        "its own geometry has room for a value"
    );
    let back = a.release(1, &["R1"]);
    assert_eq!(a.code(back), Code::OK);
}
