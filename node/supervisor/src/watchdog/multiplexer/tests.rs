use super::*;
use control::wdmd::MESSAGE_BYTES;

const FIRE_S: u32 = 60;
const INTERVAL_MS: Millis = 10_000;

fn live(expire_s: u64) -> Message {
    Message {
        expire_time_s: expire_s,
        ..Message::new(Command::TestLive)
    }
}

fn armed() -> Multiplexer {
    let mut core = Multiplexer::new();
    core.device_armed(0, FIRE_S);
    assert_eq!(core.next_effect(), Some(Effect::Pet));
    core
}

/// Runs from `from` to `until` as the driver would; returns when it petted.
fn pets(core: &mut Multiplexer, from: Millis, until: Millis) -> Vec<Millis> {
    let mut now = from;
    let mut given = Vec::new();
    while now <= until {
        core.tick(now);
        while let Some(effect) = core.next_effect() {
            if effect == Effect::Pet {
                core.petted(now);
                given.push(now);
            }
        }
        now = core.deadline().unwrap().max(now + 1);
    }
    given
}

#[test]
fn the_test_interval_follows_the_originals_table() {
    let table = [
        (5, 1),
        (9, 1),
        (10, 2),
        (29, 2),
        (30, 5),
        (59, 5),
        (60, 10),
        (600, 10),
    ];
    for (fire, interval) in table {
        assert_eq!(test_interval_s(fire), interval, "fire timeout {fire}");
        assert!(interval < fire, "it must be checked before it fires");
    }
}

#[test]
fn without_clients_it_is_petted_every_interval() {
    assert_eq!(pets(&mut armed(), 1, 35_000), [10_000, 20_000, 30_000]);
}

#[test]
fn no_pet_is_given_once_an_expiry_is_less_than_an_interval_away() {
    for expire_s in 1..120 {
        let mut core = armed();
        assert!(core.connected(1, 42));
        core.message(0, 1, &live(expire_s));
        let given = pets(&mut core, 1, 300_000);
        let last = given.last().copied().unwrap_or(0);
        assert!(
            last + INTERVAL_MS <= expire_s * 1000 || last == 0,
            "expiry {expire_s} s, petted at {last} ms"
        );
        // Thus it fires before expiry + fire timeout, which other hosts count on.
        assert!(
            core.withheld()
                .is_some_and(|why| why.contains("process 42"))
        );
    }
}

#[test]
fn a_client_that_recovers_in_time_gets_its_pets_back_within_a_second() {
    let mut core = armed();
    assert!(core.connected(1, 42));
    core.message(0, 1, &live(15));
    assert_eq!(pets(&mut core, 1, 20_000), [0; 0]);
    core.message(20_500, 1, &live(90));
    assert_eq!(pets(&mut core, 20_500, 22_000), [21_000]);
    assert_eq!(core.withheld(), None);
}

#[test]
fn an_expiry_left_by_a_closed_connection_cannot_be_renewed_by_anybody() {
    let mut core = armed();
    assert!(core.connected(1, 42));
    core.message(0, 1, &live(50));
    core.closed(1);
    assert_eq!(
        pets(&mut core, 1, 39_999),
        [10_000, 20_000, 30_000],
        "until it is near"
    );
    // Its successor's good news does not replace it, nor do late words from the dead.
    assert!(core.connected(2, 43));
    core.message(39_999, 2, &live(2_000_000));
    core.message(39_999, 1, &live(0));
    core.message(39_999, 1, &live(2_000_000));
    assert_eq!(pets(&mut core, 40_000, 600_000), [0; 0]);
    core.message(600_000, 2, &live(0));
    core.closed(2);
    assert_eq!(pets(&mut core, 600_001, 700_000), [0; 0]);
    assert!(core.in_use().is_some());
    assert!(
        core.withheld()
            .is_some_and(|why| why.contains("connection is closed"))
    );
}

#[test]
fn a_clean_close_leaves_nothing_behind() {
    let mut core = armed();
    for id in 0..1000 {
        assert!(core.connected(id, 42), "client {id}");
        core.message(
            0,
            id,
            &Message {
                name: b"sanlock_LS:1".to_vec(),
                ..Message::new(Command::Register)
            },
        );
        core.message(0, id, &Message::new(Command::RefcountSet));
        core.message(0, id, &live(90));
        assert!(core.in_use().is_some());
        core.message(0, id, &live(0));
        assert!(core.in_use().is_some(), "the reference is still held");
        core.message(0, id, &Message::new(Command::RefcountClear));
        core.closed(id);
    }
    assert_eq!(core.in_use(), None);
    assert_eq!(pets(&mut core, 1, 20_000), [10_000, 20_000]);
}

#[test]
fn one_failing_client_among_many_is_enough() {
    let mut core = armed();
    for id in 0..10 {
        assert!(core.connected(id, 100));
        core.message(0, id, &live(if id == 7 { 20 } else { 10_000 }));
    }
    assert_eq!(pets(&mut core, 1, 100_000), [0; 0]);
}

#[test]
fn too_many_connections_are_refused_and_the_rest_stay_as_they_are() {
    let mut core = armed();
    for id in 0..CLIENTS_MAX {
        assert!(core.connected(id as u64, 1));
    }
    assert!(!core.connected(1_000_000, 1));
    core.closed(0);
    assert!(core.connected(1_000_001, 1));
}

#[test]
fn status_and_open_answer_the_devices_time_and_zero_without_one() {
    let mut core = armed();
    assert!(core.connected(1, 42));
    let ask = |core: &mut Multiplexer, message: Message| {
        let bytes: [u8; MESSAGE_BYTES] = core
            .message(12_345, 1, &message)
            .unwrap()
            .try_into()
            .unwrap();
        Message::decode(&bytes)
    };
    core.petted(12_000);
    let status = ask(&mut core, Message::new(Command::Status));
    assert_eq!(
        (
            status.test_interval_s,
            status.fire_timeout_s,
            status.last_keepalive_s
        ),
        (10, 60, 12)
    );
    let open = |fire_timeout_s| Message {
        fire_timeout_s,
        ..Message::new(Command::OpenWatchdog)
    };
    assert_eq!(ask(&mut core, open(60)).fire_timeout_s, 60);
    assert_eq!(
        ask(&mut core, open(30)).fire_timeout_s,
        0,
        "it cannot have another time"
    );
    core.device_gone();
    assert_eq!(ask(&mut core, open(60)).fire_timeout_s, 0);
    assert_eq!(
        ask(&mut core, Message::new(Command::Status)).fire_timeout_s,
        0
    );
    assert_eq!(core.deadline(), None);
}

#[test]
fn unknown_commands_and_strange_numbers_do_no_harm() {
    let mut core = armed();
    assert!(core.connected(1, 42));
    for command in [0, 8, u32::MAX] {
        assert_eq!(core.message(0, 1, &Message { command, ..live(5) }), None);
    }
    assert_eq!(core.in_use(), None);
    core.message(0, 1, &live(u64::MAX));
    assert_eq!(
        pets(&mut core, 1, 20_000),
        [10_000, 20_000],
        "an expiry in the far future is not near"
    );
    assert_eq!(core.clients(0)[0].expires_in_ms, Some(i64::MAX));
    assert_eq!(core.message(0, 99, &live(5)), None, "a client nobody knows");
}
