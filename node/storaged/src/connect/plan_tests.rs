use super::*;
use proptest::prelude::*;

fn local(name: &str) -> Connection {
    Connection::Local {
        path: format!("/{name}"),
    }
}

fn nfs(hard: bool) -> Connection {
    Connection::Nfs {
        export: "s:/x".into(),
        version: None,
        timeo: None,
        retrans: None,
        options: Vec::new(),
        hard,
    }
}

fn failed(text: &str) -> Outcome {
    Outcome::Failed(Failure::new(FailureKind::Timeout, text))
}

fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Connect { id, .. } => format!("connect {id}"),
        Action::Check { id, .. } => format!("check {id}"),
        Action::Disconnect { id, .. } => format!("disconnect {id}"),
    };
    actions.iter().map(word).collect()
}

fn connected() -> Outcome {
    Outcome::Connected(Connected::default())
}

#[test]
fn what_to_do_follows_from_who_wants_it_and_how_it_is() {
    // users, state, expected
    for (users, state, expected) in [
        (1, State::Unknown, Some(Doing::Connect)),
        (1, State::Absent, Some(Doing::Connect)),
        (1, State::Connected, Some(Doing::Check)),
        (1, State::Degraded, Some(Doing::Connect)),
        (1, State::Broken, Some(Doing::Connect)),
        (0, State::Unknown, Some(Doing::Disconnect)),
        (0, State::Absent, None),
        (0, State::Connected, Some(Doing::Disconnect)),
        (0, State::Degraded, Some(Doing::Disconnect)),
        (0, State::Broken, Some(Doing::Disconnect)),
    ] {
        let users = (0..users).map(|n| format!("user {n}")).collect();
        let mut entry = Entry::new(local("a"), users, state);
        entry.due_ms = 100;
        assert_eq!(entry.next(99), None, "not due");
        assert_eq!(entry.next(100), expected, "{state:?}");
        entry.doing = Some(Doing::Check);
        assert_eq!(entry.next(100), None, "one at a time");
    }
}

#[test]
fn connections_are_made_together_and_dropped_with_their_last_user() {
    let mut keeper = Keeper::default();
    keeper.hold(local("a"), "configuration").unwrap();
    keeper.hold(local("b"), "domain 1").unwrap();
    keeper.hold(local("b"), "domain 2").unwrap();
    assert_eq!(
        words(&keeper.actions(0)),
        ["connect local:/a", "connect local:/b"]
    );
    assert!(keeper.actions(0).is_empty());
    keeper.done(5, "local:/a", connected());
    keeper.done(5, "local:/b", connected());
    assert!(keeper.is_connected("local:/b"));
    assert_eq!(keeper.deadline(), Some(5 + CHECK_MS));
    keeper.release("local:/b", "domain 1").unwrap();
    assert!(keeper.actions(6).is_empty(), "domain 2 has it");
    assert!(keeper.release("local:/b", "domain 1").is_err());
    keeper.release("local:/b", "domain 2").unwrap();
    let actions = keeper.actions(7);
    assert_eq!(words(&actions), ["disconnect local:/b"]);
    let Action::Disconnect { still_wanted, .. } = &actions[0] else {
        panic!("{actions:?}");
    };
    assert_eq!(*still_wanted, [local("a")]);
    keeper.done(8, "local:/b", Outcome::Disconnected);
    assert!(keeper.actions(8).is_empty());
    assert_eq!(keeper.document().connections.len(), 1);
    assert!(keeper.release("local:/b", "domain 2").is_err());
}

#[test]
fn failures_are_tried_again_ever_later_and_said() {
    let mut keeper = Keeper::default();
    keeper.hold(local("a"), "u").unwrap();
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(words(&keeper.actions(now)), ["connect local:/a"]);
        keeper.done(now, "local:/a", failed("no route"));
        let next = keeper.deadline().unwrap();
        pauses.push((next - now) / 1000);
        assert!(keeper.actions(next - 1).is_empty());
        now = next;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let report = &keeper.reports()[0];
    assert_eq!(
        (report.state.as_str(), report.reason.as_deref()),
        ("broken", Some("no route"))
    );
    // A new user does not wait.
    keeper.actions(now);
    keeper.done(now, "local:/a", failed("no route"));
    keeper.hold(local("a"), "other").unwrap();
    assert_eq!(words(&keeper.actions(now)), ["connect local:/a"]);
    keeper.done(now, "local:/a", connected());
    assert_eq!(keeper.reports()[0].reason, None);
}

#[test]
fn what_went_away_is_made_again() {
    for health in [Health::Absent, Health::Broken("stale".into())] {
        let mut keeper = Keeper::default();
        keeper.hold(local("a"), "u").unwrap();
        keeper.actions(0);
        keeper.done(0, "local:/a", connected());
        assert_eq!(words(&keeper.actions(CHECK_MS)), ["check local:/a"]);
        keeper.done(CHECK_MS, "local:/a", Outcome::Checked(health));
        assert!(!keeper.is_connected("local:/a"));
        assert_eq!(words(&keeper.actions(CHECK_MS)), ["connect local:/a"]);
    }
}

#[test]
fn half_a_connection_is_used_and_completed_later() {
    let mut keeper = Keeper::default();
    keeper.hold(local("a"), "u").unwrap();
    keeper.actions(0);
    let half = Connected {
        path: Some("/mnt/a".into()),
        warnings: vec!["second portal: no answer".into()],
        ..Connected::default()
    };
    keeper.done(0, "local:/a", Outcome::Connected(half));
    assert!(keeper.is_connected("local:/a"));
    let report = &keeper.reports()[0];
    assert_eq!(report.state, "degraded");
    assert_eq!(report.path.as_deref(), Some("/mnt/a"));
    assert_eq!(words(&keeper.actions(RETRY_MS_MIN)), ["connect local:/a"]);
}

#[test]
fn after_a_restart_what_is_there_is_adopted_and_what_nobody_wants_is_dropped() {
    let mut first = Keeper::default();
    for name in ["a", "b", "c"] {
        first.hold(local(name), "configuration").unwrap();
    }
    first.actions(0);
    for name in ["a", "b", "c"] {
        first.done(0, &format!("local:/{name}"), connected());
    }
    first.release("local:/c", "configuration").unwrap();
    first.hold(local("b"), "request").unwrap();
    let text = serde_json::to_string(&first.document()).unwrap();
    // The configuration has changed meanwhile: b is no more in it, and d is new.
    let mut second = Keeper::default();
    second.hold(local("a"), "configuration").unwrap();
    second.hold(local("d"), "configuration").unwrap();
    second.adopt(serde_json::from_str(&text).unwrap(), |user| {
        user != "configuration"
    });
    assert!(second.is_untried("local:/a"));
    assert_eq!(second.users("local:/b"), ["request"]);
    assert_eq!(
        words(&second.actions(0)),
        [
            "connect local:/a",
            "connect local:/b",
            "disconnect local:/c",
            "connect local:/d"
        ]
    );
    second.done(0, "local:/a", connected());
    second.done(0, "local:/b", failed("no answer"));
    second.done(0, "local:/c", Outcome::Disconnected);
    assert!(second.is_connected("local:/a"));
    assert!(!second.is_untried("local:/b"));
    assert!(second.is_untried("local:/d"));
    assert_eq!(second.actions(0), []);
    second.hurry("local:/b");
    assert_eq!(words(&second.actions(0)), ["connect local:/b"]);
}

#[test]
fn other_options_are_taken_only_from_the_only_user() {
    let mut keeper = Keeper::default();
    keeper.hold(nfs(false), "configuration").unwrap();
    keeper.actions(0);
    keeper.done(0, "nfs:s:/x", connected());
    keeper.hold(nfs(true), "configuration").unwrap();
    assert_eq!(words(&keeper.actions(0)), ["connect nfs:s:/x"]);
    keeper.done(0, "nfs:s:/x", connected());
    keeper.hold(nfs(true), "domain d").unwrap();
    let failure = keeper.hold(nfs(false), "configuration").unwrap_err();
    assert_eq!(
        failure.message,
        "connection nfs:s:/x: used with other options by configuration, domain d"
    );
    keeper.release("nfs:s:/x", "domain d").unwrap();
    assert!(keeper.hold(nfs(false), "configuration").is_ok());
}

#[test]
fn a_disconnect_that_fails_is_tried_again_and_can_be_taken_back() {
    let mut keeper = Keeper::default();
    keeper.hold(local("a"), "u").unwrap();
    keeper.actions(0);
    keeper.done(0, "local:/a", connected());
    keeper.release("local:/a", "u").unwrap();
    keeper.actions(0);
    keeper.done(0, "local:/a", failed("in use"));
    assert!(keeper.actions(RETRY_MS_MIN - 1).is_empty());
    assert_eq!(
        words(&keeper.actions(RETRY_MS_MIN)),
        ["disconnect local:/a"]
    );
    // Wanted again while it goes: made again afterwards.
    keeper.hold(local("a"), "u").unwrap();
    keeper.done(2000, "local:/a", Outcome::Disconnected);
    assert_eq!(words(&keeper.actions(2000)), ["connect local:/a"]);
}

#[test]
fn actions_in_flight_and_connections_are_bounded() {
    let mut keeper = Keeper::default();
    for number in 0..CONNECTIONS_MAX {
        keeper.hold(local(&number.to_string()), "u").unwrap();
    }
    let failure = keeper.hold(local("more"), "u").unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoSpace);
    let actions = keeper.actions(0);
    assert_eq!(actions.len(), ACTIONS_MAX);
    assert_eq!(keeper.deadline(), None);
    keeper.done(0, actions[0].id(), connected());
    assert_eq!(keeper.actions(0).len(), 1);
}

/// What happens to a keeper of three connections, in any order.
#[derive(Debug, Clone)]
enum Event {
    Hold(usize, usize),
    Release(usize, usize),
    Ask,
    End(usize, bool),
    Wait(u64),
    Vanish(usize),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3_usize, 0..2_usize).prop_map(|(c, u)| Event::Hold(c, u)),
        (0..3_usize, 0..2_usize).prop_map(|(c, u)| Event::Release(c, u)),
        Just(Event::Ask),
        (0..4_usize, any::<bool>()).prop_map(|(n, ok)| Event::End(n, ok)),
        (0..70_000_u64).prop_map(Event::Wait),
        (0..3_usize).prop_map(Event::Vanish),
        Just(Event::Restart),
    ]
}

/// A host on which actions take effect when they end.
#[derive(Default)]
struct World {
    keeper: Keeper,
    now: u64,
    there: BTreeSet<String>,
    flying: Vec<Action>,
    users: BTreeMap<String, BTreeSet<String>>,
}

impl World {
    fn ask(&mut self) {
        for action in self.keeper.actions(self.now) {
            let wanted = self
                .users
                .get(action.id())
                .is_some_and(|users| !users.is_empty());
            assert_eq!(
                matches!(action, Action::Disconnect { .. }),
                !wanted,
                "{action:?} with users {:?}",
                self.users
            );
            assert!(
                self.flying.iter().all(|other| other.id() != action.id()),
                "two in flight: {action:?}"
            );
            self.flying.push(action);
        }
    }

    fn end(&mut self, index: usize, ok: bool) {
        if index >= self.flying.len() {
            return;
        }
        let action = self.flying.remove(index);
        let id = action.id().to_owned();
        let outcome = match action {
            // A failed connect may be there all the same.
            Action::Connect { .. } => {
                self.there.insert(id.clone());
                if ok { connected() } else { failed("unknown") }
            }
            Action::Check { .. } if !ok => failed("no answer"),
            Action::Check { .. } => Outcome::Checked(if self.there.contains(&id) {
                Health::Connected
            } else {
                Health::Absent
            }),
            Action::Disconnect { .. } if ok => {
                self.there.remove(&id);
                Outcome::Disconnected
            }
            Action::Disconnect { .. } => failed("in use"),
        };
        self.keeper.done(self.now, &id, outcome);
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Hold(connection, user) => {
                let (connection, user) = (local(&connection.to_string()), user.to_string());
                let id = self.keeper.hold(connection, &user).unwrap();
                self.users.entry(id).or_default().insert(user);
            }
            Event::Release(connection, user) => {
                let (id, user) = (format!("local:/{connection}"), user.to_string());
                let held = self
                    .users
                    .get_mut(&id)
                    .is_some_and(|users| users.remove(&user));
                assert_eq!(self.keeper.release(&id, &user).is_ok(), held);
            }
            Event::Ask => self.ask(),
            Event::End(index, ok) => self.end(*index, *ok),
            Event::Wait(ms) => self.now += ms,
            Event::Vanish(connection) => {
                self.there.remove(&format!("local:/{connection}"));
            }
            Event::Restart => {
                let document = self.keeper.document();
                self.flying.clear();
                self.keeper = Keeper::default();
                self.keeper.adopt(document, |_| true);
            }
        }
    }
}

proptest! {
    #[test]
    fn in_the_end_what_is_wanted_is_there_and_nothing_else(
        events in proptest::collection::vec(event(), 0..60)
    ) {
        let mut world = World::default();
        for event in &events {
            world.step(event);
        }
        // Nothing fails any more: within two checks everything is as wanted.
        for _ in 0..200 {
            world.ask();
            while !world.flying.is_empty() {
                world.end(0, true);
            }
            world.now += 1_000;
        }
        let wanted: BTreeSet<String> = world
            .users
            .iter()
            .filter(|(_, users)| !users.is_empty())
            .map(|(id, _)| id.clone())
            .collect();
        prop_assert_eq!(&world.there, &wanted);
        for id in &wanted {
            prop_assert!(world.keeper.is_connected(id));
        }
        prop_assert_eq!(world.keeper.document().connections.len(), wanted.len());
    }
}

#[test]
fn options_that_do_not_work_do_not_replace_those_that_do() {
    let mut keeper = Keeper::default();
    let id = keeper.hold(nfs(false), "u").unwrap();
    keeper.actions(0);
    keeper.done(0, &id, connected());
    keeper.hold(nfs(true), "u").unwrap();
    // A daemon that ends now goes on with what worked.
    assert_eq!(keeper.document().connections[0].connection, nfs(false));
    assert_eq!(words(&keeper.actions(1)), [format!("connect {id}")]);
    keeper.done(2, &id, failed("no such option"));
    assert_eq!(keeper.connection(&id), Some(&nfs(false)));
    assert_eq!(words(&keeper.actions(2)), [format!("connect {id}")]);
    keeper.done(3, &id, connected());
    assert!(keeper.is_connected(&id));

    keeper.hold(nfs(true), "u").unwrap();
    keeper.actions(4);
    keeper.done(5, &id, connected());
    assert_eq!(keeper.document().connections[0].connection, nfs(true));
}
