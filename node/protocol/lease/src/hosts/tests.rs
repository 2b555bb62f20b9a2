use disk_format::{HostBitmap, Leader};

use super::*;

const OURS: u64 = 3;

const fn at(seconds: u64) -> Monotonic {
    Monotonic(seconds * 1_000_000_000)
}

fn id(number: u64) -> HostId {
    HostId::new(number).expect("valid")
}

fn hosts_of(geometry: Geometry) -> Hosts {
    let view = Viewpoint {
        lockspace: LockspaceName::new("LS").expect("valid"),
        geometry,
        host_id: id(OURS),
        io_timeout_s: 10,
        fire_timeout_s: 60,
        bitmap_s: 60,
    };
    Hosts::new(view, &Names::default())
}

fn hosts() -> Hosts {
    hosts_of(Geometry::Sector512Align1M)
}

fn record(generation: u64, timestamp: u64) -> Vec<u8> {
    calling(generation, timestamp, None)
}

/// A record of host 1 with T = 2, calling us or not.
fn calling(generation: u64, timestamp: u64, call: Option<HostExtras>) -> Vec<u8> {
    let lockspace = LockspaceName::new("LS").expect("valid");
    let mut bytes = vec![0; delta::RECORD_BYTES];
    let leader = Leader {
        owner_id: 1,
        owner_generation: generation,
        timestamp,
        ..delta::initial(&lockspace, Geometry::Sector512Align1M, 2)
    };
    let leader = call.unwrap_or_default().stored_in(leader).sealed();
    let mut bitmap = HostBitmap::EMPTY;
    if call.is_some() {
        bitmap.insert(id(OURS));
    }
    delta::encode_sector(&leader, &bitmap, &mut bytes);
    bytes
}

fn look(hosts: &mut Hosts, bytes: &[u8], second: u64) -> Belief {
    hosts.observe(at(second), at(second), 0, bytes);
    hosts.belief(id(1), at(second))
}

#[test]
fn a_killed_host_goes_from_live_to_fail_to_dead_by_its_own_timeout() {
    let mut hosts = hosts();
    assert_eq!(look(&mut hosts, &record(1, 500), 100), Belief::Unknown);
    assert_eq!(look(&mut hosts, &record(1, 500), 104), Belief::Unknown);
    assert_eq!(look(&mut hosts, &record(1, 504), 108), Belief::Live);
    // Observed with the original for T = 2: live until +16 s, fail until +76 s.
    assert_eq!(look(&mut hosts, &record(1, 504), 124), Belief::Live);
    assert_eq!(look(&mut hosts, &record(1, 504), 125), Belief::Fail);
    assert_eq!(look(&mut hosts, &record(1, 504), 184), Belief::Fail);
    assert!(hosts.may_live(id(1), Generation(1), at(184)));
    assert_eq!(look(&mut hosts, &record(1, 504), 185), Belief::Dead);
    assert!(!hosts.may_live(id(1), Generation(1), at(185)));
    // It comes back with the next generation.
    assert_eq!(look(&mut hosts, &record(2, 3), 200), Belief::Live);
    assert!(!hosts.may_live(id(1), Generation(1), at(200)));
    assert!(hosts.may_live(id(1), Generation(2), at(200)));
    assert_eq!(look(&mut hosts, &record(2, 0), 210), Belief::Free);
    assert!(!hosts.may_live(id(1), Generation(2), at(210)));
    // It may have come back since we last looked.
    assert!(hosts.may_live(id(1), Generation(3), at(210)));
}

#[test]
fn a_host_never_seen_alive_is_unknown_then_fail_then_dead() {
    let mut hosts = hosts();
    assert!(
        hosts.may_live(id(1), Generation(1), at(100)),
        "never looked"
    );
    assert_eq!(look(&mut hosts, &record(1, 500), 100), Belief::Unknown);
    assert_eq!(look(&mut hosts, &record(1, 500), 116), Belief::Unknown);
    assert_eq!(look(&mut hosts, &record(1, 500), 117), Belief::Fail);
    assert_eq!(look(&mut hosts, &record(1, 500), 177), Belief::Dead);
}

#[test]
fn who_did_not_look_for_a_while_does_not_bury_the_living() {
    let mut hosts = hosts();
    look(&mut hosts, &record(1, 500), 100);
    assert_eq!(look(&mut hosts, &record(1, 504), 104), Belief::Live);
    // We stand still for an hour, the other renews all the time.
    assert_eq!(hosts.belief(id(1), at(3704)), Belief::Fail);
    assert!(hosts.may_live(id(1), Generation(1), at(3704)));
    assert_eq!(look(&mut hosts, &record(1, 4104), 3705), Belief::Live);
}

#[test]
fn damage_keeps_what_was_known() {
    let mut hosts = hosts();
    look(&mut hosts, &record(4, 500), 100);
    let belief = look(&mut hosts, &[0; delta::RECORD_BYTES], 101);
    assert_eq!(belief, Belief::Unknown, "wiped is not free");
    let host = hosts.get(id(1));
    assert!(host.damaged);
    assert_eq!(host.generation, Generation(4));
    assert!(hosts.may_live(id(1), Generation(4), at(101)));
    assert_eq!(hosts.seen().count(), 1);
    assert_eq!(look(&mut hosts, &record(4, 501), 102), Belief::Live);
    assert!(!hosts.get(id(1)).damaged);
}

#[test]
fn hosts_that_never_acquired_cost_nothing_and_are_free() {
    let lockspace = LockspaceName::new("LS").expect("valid");
    for geometry in Geometry::ALL {
        let mut hosts = hosts_of(geometry);
        let size = usize::try_from(geometry.align_size()).expect("fits");
        let mut area = vec![0; size];
        delta::fill_initial(&lockspace, geometry, 10, 0, true, &mut area);
        let last = id(u64::from(geometry.max_hosts()));
        let sector_bytes = geometry.sector_bytes();
        let place = last.index() * sector_bytes;
        area[place..place + 512].copy_from_slice(&record(7, 99));
        assert!(!hosts.is_complete());
        for (number, part) in area.chunks(Hosts::PART_BYTES).enumerate() {
            hosts.observe(at(5), at(5), number, part);
        }
        assert!(hosts.is_complete());
        let used = area.chunks(Hosts::PART_BYTES).enumerate();
        let used = used.map(|(number, part)| used_bytes(geometry, number, part));
        assert_eq!(used.max(), Some(place + sector_bytes), "{geometry:?}");
        assert_eq!(hosts.entries.len(), 1, "{geometry:?}");
        let (host, seen) = hosts.seen().next().expect("one");
        assert_eq!((host, seen.generation), (last, Generation(7)));
        assert_eq!(hosts.belief(id(1), at(5)), Belief::Free);
        assert_eq!(hosts.get(id(1)).last_check, Some(at(5)));
    }
}

#[test]
fn who_was_not_looked_at_is_not_said_to_have_been() {
    let mut hosts = hosts();
    let area = vec![0; Hosts::PART_BYTES];
    let (near, far) = (id(256), id(257));
    hosts.observe(at(1), at(1), 0, &area[..Hosts::HEAD_BYTES]);
    assert_eq!(hosts.get(near).last_check, Some(at(1)));
    assert_eq!(hosts.get(far).last_check, None);
    assert!(!hosts.is_complete());
    hosts.observe(at(2), at(2), 0, &area);
    assert!(hosts.is_complete());
    hosts.observe(at(3), at(3), 0, &area[..Hosts::HEAD_BYTES]);
    assert_eq!(hosts.get(near).last_check, Some(at(3)));
    assert_eq!(hosts.get(far).last_check, Some(at(2)));
}

#[test]
fn only_a_freed_or_reacquired_lease_ends_waits() {
    let mut hosts = hosts();
    let mut changes = |record: &[u8], second| {
        let changes = hosts.observe(at(second), at(second), 0, record);
        (changes.renewed, changes.replaced)
    };
    assert_eq!(changes(&record(1, 500), 100), (1, 1), "first seen");
    assert_eq!(changes(&record(1, 500), 104), (0, 0));
    assert_eq!(changes(&record(1, 504), 108), (1, 0));
    assert_eq!(changes(&record(2, 504), 112), (1, 1));
    assert_eq!(changes(&record(2, 0), 116), (1, 1));
}

#[test]
fn an_event_is_delivered_once_while_the_bit_stays_and_again_when_it_came_back() {
    let event = |number| {
        Some(HostExtras {
            generation: 1,
            event: number,
            data: 0x23,
        })
    };
    let mut hosts = hosts();
    let mut events = |timestamp, call| {
        hosts
            .observe(
                at(timestamp),
                at(timestamp),
                0,
                &calling(1, timestamp, call),
            )
            .notices
            .into_iter()
            .filter_map(|notice| match notice {
                Notice::Event { from, extras, .. } => Some((from, extras.event)),
                Notice::Request { .. } => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(events(100, event(0x13)), [(id(1), 0x13)]);
    assert_eq!(events(104, event(0x13)), []);
    assert_eq!(events(108, event(0x14)), [(id(1), 0x14)]);
    assert_eq!(events(112, None), []);
    assert_eq!(events(116, event(0x14)), [(id(1), 0x14)]);
}

#[test]
fn a_request_counts_once_in_bitmap_seconds_and_only_with_our_bit() {
    let call = Some(HostExtras::NONE);
    let mut hosts = hosts();
    let mut requests = |timestamp, call| {
        hosts
            .observe(
                at(timestamp),
                at(timestamp),
                0,
                &calling(1, timestamp, call),
            )
            .notices
            .len()
    };
    assert_eq!(requests(100, None), 0);
    assert_eq!(requests(104, call), 1);
    assert_eq!(requests(163, call), 0);
    assert_eq!(requests(164, call), 1);
    assert_eq!(hosts.get(id(1)).last_request, Some(at(164)));
}

#[test]
fn our_own_record_calls_nobody() {
    let mut hosts = hosts();
    let mut area = vec![0; 3 * 512];
    area[1024..].copy_from_slice(&calling(1, 100, Some(HostExtras::NONE)));
    assert_eq!(hosts.observe(at(100), at(100), 0, &area).notices, []);
    assert_eq!(hosts.belief(id(OURS), at(100)), Belief::Live);
}
