//! What goes over sockets is pinned here: other programs, and other versions of
//! these, speak it too.

use control::request::{LeasedReply, LeasedRequest, Reply, Request};
use control::status::{HostState, LockspaceState, PhaseState, Snapshot};
use control::wdmd::{Command, MESSAGE_BYTES, Message, test_interval_s};
use expect_test::expect;
use proptest::prelude::*;

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("JSON")
}

#[test]
fn requests_are_spelled_like_this() {
    let requests = [
        Request::Status,
        Request::Boot,
        Request::Log { lines: 5 },
        Request::NetApply {
            toml: "version = 1\n".to_owned(),
        },
        Request::Shutdown,
        Request::Reboot,
    ];
    let lines: Vec<String> = requests.iter().map(json).collect();
    expect![[r#"
        {"request":"status"}
        {"request":"boot"}
        {"request":"log","lines":5}
        {"request":"net-apply","toml":"version = 1\n"}
        {"request":"shutdown"}
        {"request":"reboot"}"#]]
    .assert_eq(&lines.join("\n"));
    for (line, request) in lines.iter().zip(&requests) {
        assert_eq!(
            &serde_json::from_str::<Request>(line).expect("a request"),
            request
        );
    }
    assert_eq!(json(&LeasedRequest::Status), r#"{"request":"status"}"#);
    for line in &lines {
        let more = line.replace('}', r#","colour":"red"}"#);
        let refused = serde_json::from_str::<Request>(&more);
        assert!(refused.is_err(), "{more}: {refused:?}");
    }
    let more = r#"{"request":"status","of":"LS"}"#;
    assert!(serde_json::from_str::<LeasedRequest>(more).is_err());
    assert!(serde_json::from_str::<Request>(r#"{"request":"dance"}"#).is_err());
}

#[test]
fn replies_come_back_as_they_were() {
    let replies = [
        Reply::Status(Box::default()),
        Reply::Boot { phases: Vec::new() },
        Reply::Log {
            lines: vec!["a\nb".to_owned()],
        },
        Reply::Done {
            message: "done".to_owned(),
        },
        Reply::Error {
            message: "no".to_owned(),
        },
    ];
    for reply in replies {
        let line = json(&reply);
        assert!(!line.contains('\n'), "one line: {line}");
        assert_eq!(
            serde_json::from_str::<Reply>(&line).expect("a reply"),
            reply
        );
    }
    let reply = LeasedReply::Status {
        lockspaces: Vec::new(),
    };
    assert_eq!(
        serde_json::from_str::<LeasedReply>(&json(&reply)).expect("a reply"),
        reply
    );
}

#[test]
fn a_snapshot_of_another_version_is_read_as_far_as_it_is_known() {
    let text = r#"{"hostname":"node1","network":{"state":"ready","speed":1},"new":{"thing":[]}}"#;
    let snapshot: Snapshot = serde_json::from_str(text).expect("a snapshot");
    assert_eq!(
        (snapshot.hostname.as_str(), snapshot.network.state.as_str()),
        ("node1", "ready")
    );
}

#[test]
fn states_are_these_words() {
    use HostState::{Dead, Fail, Free, Live, Unknown};
    assert_eq!(
        json(&[Unknown, Free, Live, Fail, Dead]),
        r#"["unknown","free","live","fail","dead"]"#
    );
    use LockspaceState as L;
    let states = [
        L::Waiting,
        L::Acquiring,
        L::Busy,
        L::Held,
        L::Failing,
        L::Lost,
        L::Released,
    ];
    assert_eq!(
        json(&states),
        r#"["waiting","acquiring","busy","held","failing","lost","released"]"#
    );
    use PhaseState as P;
    let states = [P::Waiting, P::Running, P::Done, P::Failed, P::Skipped];
    assert_eq!(
        json(&states),
        r#"["waiting","running","done","failed","skipped"]"#
    );
}

#[test]
fn the_watchdogs_message_has_its_fields_where_the_original_has_them() {
    let message = Message {
        command: Command::TestLive.to_wire(),
        test_interval_s: 0x0102_0304,
        fire_timeout_s: 60,
        last_keepalive_s: 0x1122_3344_5566_7788,
        renewal_time_s: 1000,
        expire_time_s: 1080,
        name: b"sanlock_LS:1".to_vec(),
    };
    let bytes = message.encode();
    assert_eq!(
        bytes[0..16],
        [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(bytes[16..24], [4, 3, 2, 1, 60, 0, 0, 0]);
    assert_eq!(
        bytes[24..32],
        [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]
    );
    assert_eq!(
        bytes[32..48],
        [0xe8, 3, 0, 0, 0, 0, 0, 0, 0x38, 4, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(&bytes[48..61], b"sanlock_LS:1\0");
    assert_eq!(Message::decode(&bytes), message);
}

#[test]
fn a_watchdog_name_always_ends_within_its_field() {
    let long = Message {
        name: vec![b'n'; 500],
        ..Message::new(Command::Register)
    };
    let bytes = long.encode();
    assert_eq!((bytes[174], bytes[175]), (b'n', 0));
    assert_eq!(Message::decode(&bytes).name.len(), 127);
    assert_eq!(
        Message::decode(&[0xff; MESSAGE_BYTES]).name.len(),
        128,
        "a foreign one need not end"
    );
}

#[test]
fn watchdog_commands_are_numbered_like_the_originals() {
    let numbers: Vec<u32> = (1..=7)
        .map(|n| Command::from_wire(n).expect("known").to_wire())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        (Command::from_wire(0), Command::from_wire(8)),
        (Err(0), Err(8))
    );
    assert_eq!(Command::from_wire(7), Ok(Command::OpenWatchdog));
    assert_eq!(
        [9, 10, 29, 30, 59, 60, 600].map(test_interval_s),
        [1, 2, 2, 5, 5, 10, 10]
    );
}

proptest! {
    #[test]
    fn any_watchdog_message_is_read_and_its_fields_survive(bytes in prop::collection::vec(any::<u8>(), MESSAGE_BYTES)) {
        let bytes: [u8; MESSAGE_BYTES] = bytes.try_into().expect("that long");
        let message = Message::decode(&bytes);
        let mut expected = message.clone();
        expected.name.truncate(127);
        prop_assert_eq!(Message::decode(&message.encode()), expected);
    }
}
