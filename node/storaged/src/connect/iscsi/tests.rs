use super::*;
use std::fs;
use std::path::Path;

fn iscsi(portals: &[&str], target: Option<&str>) -> Connection {
    Connection::Iscsi {
        portals: portals.iter().map(|&portal| portal.to_owned()).collect(),
        target: target.map(str::to_owned),
        chap: None,
        mutual_chap: None,
        interface: None,
    }
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn session(sys: &Path, id: u32, target: &str, host: &str, state: &str) {
    let session = format!("class/iscsi_session/session{id}");
    put(sys, &format!("{session}/targetname"), target);
    put(sys, &format!("{session}/state"), state);
    let connection = format!("class/iscsi_connection/connection{id}:0");
    put(sys, &format!("{connection}/persistent_address"), host);
    put(sys, &format!("{connection}/persistent_port"), "3260");
}

fn places(folder: &Path) -> Places {
    Places {
        sys: folder.join("sys"),
        ..Places::under(folder)
    }
}

#[test]
fn health_is_told_by_the_sessions_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let both = iscsi(&["10.0.0.1", "10.0.0.2"], Some("iqn.a:one"));
    assert_eq!(check(&places, &both).unwrap(), Health::Absent);
    session(&places.sys, 1, "iqn.a:one", "10.0.0.1", "LOGGED_IN");
    session(&places.sys, 2, "iqn.a:other", "10.0.0.2", "LOGGED_IN");
    let health = check(&places, &both).unwrap();
    assert_eq!(
        health,
        Health::Degraded("target iqn.a:one at 10.0.0.2:3260 is not logged in".into())
    );
    session(&places.sys, 3, "iqn.a:one", "10.0.0.2", "FAILED");
    let health = check(&places, &both).unwrap();
    assert_eq!(
        health,
        Health::Degraded("target iqn.a:one at 10.0.0.2:3260 is FAILED".into())
    );
    session(&places.sys, 3, "iqn.a:one", "10.0.0.2", "LOGGED_IN");
    assert_eq!(check(&places, &both).unwrap(), Health::Connected);
}

#[test]
fn sessions_that_are_there_are_adopted_without_asking_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let both = iscsi(&["10.0.0.1", "10.0.0.2"], Some("iqn.a:one"));
    session(&places.sys, 1, "iqn.a:one", "10.0.0.1", "LOGGED_IN");
    session(&places.sys, 2, "iqn.a:one", "10.0.0.2", "FAILED");
    let made = connect(&Context::quiet(), &places, &both).unwrap();
    assert_eq!(
        made.warnings,
        ["target iqn.a:one at 10.0.0.2:3260 is FAILED"]
    );
    assert_eq!(pairs_of(&places, &both).len(), 2);
}

#[test]
fn sessions_of_a_connection_to_every_target_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let every = iscsi(&["10.0.0.1"], None);
    assert_eq!(pairs_of(&places, &every), Vec::new());
    assert_eq!(check(&places, &every).unwrap(), Health::Absent);
    let pair = |portal: &str| Pair {
        target: "iqn.a:one".into(),
        portal: portal.parse().unwrap(),
        interface: "default".into(),
    };
    remember(&places, &every, &[pair("10.0.0.9:3260,1")]).unwrap();
    remember(
        &places,
        &every,
        &[pair("10.0.0.9:3260,2"), pair("10.0.0.8")],
    )
    .unwrap();
    assert_eq!(
        pairs_of(&places, &every),
        [pair("10.0.0.9:3260,2"), pair("10.0.0.8")]
    );
    session(&places.sys, 1, "iqn.a:one", "10.0.0.9", "LOGGED_IN");
    assert!(matches!(
        check(&places, &every).unwrap(),
        Health::Degraded(_)
    ));
    forget(&places, &every).unwrap();
    assert_eq!(pairs_of(&places, &every), Vec::new());
    // What is on disk is a file that anything may have happened to.
    put(&places.state, "iscsi:10.0.0.1.sessions", "garbage");
    assert_eq!(pairs_of(&places, &every), Vec::new());
}

#[test]
fn a_connection_is_checked_before_anything_is_done() {
    for (portals, target) in [
        (&[][..], Some("iqn.a:b")),
        (&["-o"][..], Some("iqn.a:b")),
        (&["10.0.0.1"][..], Some("../../etc")),
    ] {
        let failure = Wanted::of(&iscsi(portals, target)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadRequest);
    }
    assert!(Wanted::of(&Connection::Fc {}).is_err());
}

#[test]
fn the_initiator_keeps_its_name_unless_another_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let name = || fs::read_to_string(&places.initiator_name).unwrap();
    write_initiator_name(&places, None, "Node_1.example").unwrap();
    assert_eq!(
        name(),
        "InitiatorName=iqn.2026-11.example.holdfast:node-1.example\n"
    );
    write_initiator_name(&places, None, "other").unwrap();
    assert!(name().contains("node-1"), "kept");
    write_initiator_name(&places, Some("iqn.2026-11.test:x"), "other").unwrap();
    assert_eq!(name(), "InitiatorName=iqn.2026-11.test:x\n");
    assert!(write_initiator_name(&places, Some("x\nInitiatorName=iqn.y"), "o").is_err());
    fs::remove_file(&places.initiator_name).unwrap();
    let uuid = "4c4c4544-0042-3510-8057-b4c04f4d3432";
    put(
        &places.sys,
        "class/dmi/id/product_uuid",
        &uuid.to_uppercase(),
    );
    // A link to where nothing is yet, as on the read-only root of a node.
    let target = folder.path().join("run/name");
    std::os::unix::fs::symlink(&target, &places.initiator_name).unwrap();
    write_initiator_name(&places, None, "other").unwrap();
    assert!(
        fs::read_to_string(target)
            .unwrap()
            .ends_with(&format!("{uuid}\n"))
    );
}

#[test]
fn work_in_parallel_keeps_its_order_and_its_bound() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let items: Vec<usize> = (0..35).collect();
    let later = Instant::now() + Duration::from_secs(600);
    let outcomes = in_parallel(&items, later, |item| {
        let running = now.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(running, Ordering::SeqCst);
        std::thread::yield_now();
        now.fetch_sub(1, Ordering::SeqCst);
        item * 2
    });
    assert_eq!(
        outcomes,
        items.iter().map(|item| Some(item * 2)).collect::<Vec<_>>()
    );
    assert!(most.into_inner() <= PARALLEL_MAX);
    // What there is no time for is left, and said to be.
    let none = in_parallel(&items, Instant::now(), |item| *item);
    assert_eq!(none, vec![None; 35]);
    assert_eq!(put_off("portal x").kind, FailureKind::Timeout);
}

#[test]
fn attempts_begin_elsewhere_and_leave_nobody_out() {
    let mut items = [1, 2, 3, 4, 5];
    begin_elsewhere(&mut items);
    items.sort_unstable();
    assert_eq!(items, [1, 2, 3, 4, 5]);
    begin_elsewhere::<u8>(&mut []);
}

#[test]
fn portals_are_counted_once_however_they_are_spelled() {
    let same = iscsi(
        &[
            "10.0.0.1",
            "10.0.0.1:3260",
            "2001:DB8::0:1",
            "[2001:db8::1]:3260",
        ],
        Some("iqn.a:one"),
    );
    let wanted = Wanted::of(&same).unwrap();
    let portals: Vec<String> = wanted.portals.iter().map(Portal::endpoint).collect();
    assert_eq!(portals, ["10.0.0.1:3260", "[2001:db8::1]:3260"]);
    let many: Vec<String> = (0..33).map(|n| format!("10.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let failure = Wanted::of(&iscsi(&many, None)).unwrap_err();
    assert_eq!(failure.message, "iSCSI connection: 33 portals, at most 32");
    // And so is a session, which the kernel tells as somebody spelled it.
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    session(&places.sys, 1, "iqn.a:one", "10.0.0.1", "LOGGED_IN");
    session(&places.sys, 2, "iqn.a:one", "2001:0db8::1", "LOGGED_IN");
    assert_eq!(check(&places, &same).unwrap(), Health::Connected);
}

#[test]
fn a_portal_that_is_not_wanted_any_more_is_kept_only_while_it_has_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let places = places(folder.path());
    let three = iscsi(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], Some("iqn.a:one"));
    let one = iscsi(&["10.0.0.1"], Some("iqn.a:one"));
    let pairs = Wanted::of(&three).unwrap().pairs().unwrap();
    remember(&places, &three, &pairs).unwrap();
    session(&places.sys, 1, "iqn.a:one", "10.0.0.1", "LOGGED_IN");
    session(&places.sys, 2, "iqn.a:one", "10.0.0.2", "FAILED");
    let made = connect(&Context::quiet(), &places, &one).unwrap();
    // Told alike by both, so that its state does not come and go.
    assert_eq!(
        made.warnings,
        ["target iqn.a:one at 10.0.0.2:3260 is FAILED"]
    );
    assert_eq!(
        made.sessions,
        ["iqn.a:one 10.0.0.1:3260", "iqn.a:one 10.0.0.2:3260"]
    );
    assert_eq!(
        check(&places, &one).unwrap(),
        Health::Degraded(made.warnings[0].clone())
    );
}

#[test]
fn a_refusal_is_shown_before_a_silence() {
    let failure = worst(vec![
        Failure::new(FailureKind::Timeout, "silent"),
        Failure::new(FailureKind::Denied, "refused"),
    ]);
    assert_eq!(failure.kind, FailureKind::Denied);
    assert_eq!(failure.message, "refused (1 more failed)");
}
