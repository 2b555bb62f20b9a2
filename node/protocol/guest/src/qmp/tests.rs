use proptest::prelude::*;
use serde_json::json;

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

fn ready() -> Session {
    let mut session = Session::new();
    session
        .receive(format!("{GREETING}\r\n").as_bytes())
        .unwrap();
    assert_eq!(
        session.transmit(),
        b"{\"execute\":\"qmp_capabilities\",\"id\":1}\n"
    );
    let sent = session.transmit().len();
    session.transmitted(sent);
    session.receive(b"{\"return\": {}, \"id\": 1}\r\n").unwrap();
    assert_eq!(
        session.next_message(),
        Some(Message::Ready(Version {
            major: 10,
            minor: 0,
            micro: 2
        }))
    );
    session
}

#[test]
fn nothing_is_sent_before_qemu_has_agreed() {
    let mut session = Session::new();
    assert_eq!(
        session.execute("query-status", Value::Null),
        Err(NotSent::NotReady)
    );
    assert!(session.transmit().is_empty());
    session.receive(GREETING.as_bytes()).unwrap();
    assert!(session.transmit().is_empty(), "half a line");
    session.receive(b"\n").unwrap();
    assert_eq!(
        session.execute("query-status", Value::Null),
        Err(NotSent::NotReady)
    );
}

#[test]
fn answers_come_under_the_id_of_their_command_in_any_order() {
    let mut session = ready();
    let first = session.execute("query-status", Value::Null).unwrap();
    let second = session
        .execute(
            "block-set-write-threshold",
            json!({"node-name": "a b", "write-threshold": 7}),
        )
        .unwrap();
    assert_eq!(session.pending(), 2);
    let text = String::from_utf8(session.transmit().to_vec()).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains(r#""arguments":{"node-name":"a b","write-threshold":7}"#));
    session
        .receive(
            b"{\"id\": 3, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\r\n\
              {\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n\
              {\"return\": null, \"id\": 2}\r\n",
        )
        .unwrap();
    let Some(Message::Reply {
        id,
        outcome: Err(error),
    }) = session.next_message()
    else {
        panic!("an error first");
    };
    assert_eq!(id, second);
    assert!(error.is_unknown_command());
    assert_eq!(
        session.next_message(),
        Some(Message::Event(Event {
            name: "STOP".into(),
            data: Value::Null,
            at_us: Some(1_000_002),
        }))
    );
    assert_eq!(
        session.next_message(),
        Some(Message::Reply {
            id: first,
            outcome: Ok(Value::Null)
        })
    );
    assert_eq!(session.next_message(), None);
    assert_eq!(session.pending(), 0);
}

#[test]
fn events_between_greeting_and_agreement_are_kept() {
    let mut session = Session::new();
    session
        .receive(
            format!("{GREETING}\n{{\"event\":\"RESUME\"}}\n{{\"return\":{{}},\"id\":1}}\n")
                .as_bytes(),
        )
        .unwrap();
    assert!(matches!(session.next_message(), Some(Message::Event(_))));
    assert!(matches!(session.next_message(), Some(Message::Ready(_))));
}

#[test]
fn what_is_not_understood_ends_the_session_for_good() {
    for bad in [
        &b"garbage\n"[..],
        b"[]\n",
        b"{}\n",
        b"{\"return\": 1, \"error\": {\"class\": \"a\", \"desc\": \"b\"}, \"id\": 2}\n",
        b"{\"return\": {}, \"id\": 99}\n",
        b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n",
        b"{\"event\": 3}\n",
        b"\xff\xfe\n",
    ] {
        let mut session = ready();
        let error = session.receive(bad).unwrap_err();
        assert_eq!(session.receive(b"{\"event\":\"STOP\"}\n"), Err(error));
        assert_eq!(session.next_message(), None);
        assert_eq!(session.execute("cont", Value::Null), Err(NotSent::Broken));
    }
    let mut session = Session::new();
    assert_eq!(
        session.receive(b"{\"event\":\"STOP\"}\n"),
        Err(Error::Unexpected {
            while_doing: "waiting for the greeting"
        })
    );
    let mut session = Session::new();
    session.receive(format!("{GREETING}\n").as_bytes()).unwrap();
    assert!(matches!(
        session.receive(b"{\"id\":1,\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n"),
        Err(Error::Refused(_))
    ));
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let mut session = ready();
    let deep = format!(
        "{{\"return\": {}1{}, \"id\": 2}}\n",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    session.execute("query-status", Value::Null).unwrap();
    assert!(matches!(
        session.receive(deep.as_bytes()),
        Err(Error::Syntax(_))
    ));
}

#[test]
fn a_line_without_end_is_refused() {
    let mut session = ready();
    let piece = vec![b' '; 1 << 20];
    let mut outcome = Ok(());
    for _ in 0..9 {
        outcome = session.receive(&piece);
    }
    assert_eq!(outcome, Err(Error::LineTooLong));
    let mut session = ready();
    let mut line = vec![b' '; LINE_BYTES_MAX + 1];
    line.push(b'\n');
    assert_eq!(session.receive(&line), Err(Error::LineTooLong));
}

#[test]
fn commands_without_answer_are_bounded() {
    let mut session = ready();
    for _ in 0..PENDING_MAX {
        session.execute("query-status", Value::Null).unwrap();
    }
    assert_eq!(
        session.execute("query-status", Value::Null),
        Err(NotSent::Busy(PENDING_MAX))
    );
    session.receive(b"{\"return\":1,\"id\":2}\n").unwrap();
    session.execute("query-status", Value::Null).unwrap();
}

#[test]
fn messages_nobody_takes_are_counted_instead_of_kept() {
    let mut session = ready();
    for _ in 0..MESSAGES_MAX + 5 {
        session.receive(b"{\"event\":\"RTC_CHANGE\"}\n").unwrap();
    }
    let mut events = 0;
    while let Some(message) = session.next_message() {
        match message {
            Message::Event(_) => events += 1,
            other => assert_eq!(other, Message::Lost(5)),
        }
    }
    assert_eq!(events, MESSAGES_MAX);
}

proptest! {
    #[test]
    fn bytes_may_be_cut_anywhere(cuts in prop::collection::vec(1..40usize, 1..60)) {
        let text = format!(
            "{GREETING}\r\n{{\"return\": {{}}, \"id\": 1}}\r\n{{\"event\":\"A\",\"data\":{{\"b\":\"\\u00e9\"}}}}\n\n{{\"event\":\"C\"}}\n"
        );
        let mut session = Session::new();
        let mut rest = text.as_bytes();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let at = (*cuts.next().unwrap_or(&1)).min(rest.len());
            let (piece, after) = rest.split_at(at);
            session.receive(piece).unwrap();
            rest = after;
        }
        let mut names = Vec::new();
        while let Some(message) = session.next_message() {
            if let Message::Event(event) = message {
                names.push(event.name);
            }
        }
        prop_assert_eq!(names, ["A", "C"]);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), early in any::<bool>()) {
        let mut session = if early { Session::new() } else { ready() };
        drop(session.receive(&bytes));
        drop(session.receive(b"\n"));
        while session.next_message().is_some() {}
    }
}
