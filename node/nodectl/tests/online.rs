//! The commands that ask the node, against a peer that speaks its protocol.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::process::Stdio;

use common::Node;
use control::request::{LeasedReply, Reply, Request};
use control::status::{
    ChildReport, HostReport, HostState, LockspaceReport, LockspaceState, NetworkReport,
    PhaseReport, PhaseState, Snapshot,
};

fn snapshot() -> Snapshot {
    Snapshot {
        version: "0.1.0+test".to_owned(),
        hostname: "node1".to_owned(),
        uptime_ms: 61_000,
        phase: "ready".to_owned(),
        network: NetworkReport {
            state: "ready".to_owned(),
            bridge: Some("ovirtmgmt".to_owned()),
            addresses: vec!["192.0.2.10/24".to_owned()],
            ..NetworkReport::default()
        },
        children: vec![ChildReport {
            name: "leased".to_owned(),
            ..ChildReport::default()
        }],
        lockspace: Some(lockspace()),
        ..Snapshot::default()
    }
}

fn lockspace() -> LockspaceReport {
    let host = |host_id, name: &str, state| HostReport {
        host_id,
        name: name.to_owned(),
        state,
        ..HostReport::default()
    };
    LockspaceReport {
        name: "cluster1".to_owned(),
        host_id: 1,
        host_name: "node1".to_owned(),
        state: LockspaceState::Held,
        hosts: vec![
            host(1, "node1", HostState::Live),
            host(2, "node2", HostState::Dead),
        ],
        ..LockspaceReport::default()
    }
}

fn phases() -> Vec<PhaseReport> {
    vec![PhaseReport {
        name: "mounts".to_owned(),
        state: PhaseState::Done,
        ..PhaseReport::default()
    }]
}

/// A supervisor that knows everything and agrees to anything.
fn answer(request: &str) -> Option<String> {
    let reply = match serde_json::from_str(request).expect("a request") {
        Request::Status => Reply::Status(Box::new(snapshot())),
        Request::Boot => Reply::Boot { phases: phases() },
        Request::Log { lines } => Reply::Log {
            lines: vec![format!("{lines} lines"), "\u{1b}[2Jcleared".to_owned()],
        },
        Request::NetApply { .. } => Reply::Done {
            message: "applied, the gateway answers".to_owned(),
        },
        Request::Shutdown => Reply::Done {
            message: "shutting down".to_owned(),
        },
        Request::Reboot => Reply::Error {
            message: "an update is being written; try again when it is done".to_owned(),
        },
    };
    Some(serde_json::to_string(&reply).expect("JSON"))
}

fn one_json_line<T: serde::de::DeserializeOwned>(out: &str) -> T {
    assert_eq!(out.matches('\n').count(), 1, "one line: {out}");
    serde_json::from_str(out).expect("JSON")
}

#[test]
fn json_is_the_reports_themselves_on_one_line() {
    let node = Node::new();
    node.supervisor(answer);
    node.leased(|request| {
        assert_eq!(request, r#"{"request":"status"}"#);
        Some(
            serde_json::to_string(&LeasedReply::Status {
                lockspaces: vec![lockspace()],
            })
            .expect("JSON"),
        )
    });
    let json = |args: &[&str]| {
        let ran = node.run(args);
        assert_eq!(
            (ran.status, ran.err.as_str()),
            (0, ""),
            "{args:?}: {}",
            ran.err
        );
        ran.out
    };
    assert_eq!(
        one_json_line::<Snapshot>(&json(&["status", "--json"])),
        snapshot()
    );
    assert_eq!(
        one_json_line::<Vec<PhaseReport>>(&json(&["boot", "--json"])),
        phases()
    );
    assert_eq!(
        one_json_line::<NetworkReport>(&json(&["net", "--json"])),
        snapshot().network
    );
    assert_eq!(
        one_json_line::<Vec<LockspaceReport>>(&json(&["lease", "list", "--json"])),
        [lockspace()]
    );
    assert_eq!(
        one_json_line::<Vec<String>>(&json(&["log", "-n", "7", "--json"]))[0],
        "7 lines"
    );
}

#[test]
fn text_marks_our_own_host_and_tames_the_log() {
    let node = Node::new();
    node.supervisor(answer);
    node.leased(|_| {
        Some(
            serde_json::to_string(&LeasedReply::Status {
                lockspaces: vec![lockspace()],
            })
            .expect("JSON"),
        )
    });
    let ran = node.run(["lease", "list"]);
    assert!(
        ran.out.contains("node1 (this node)\n") && ran.out.contains("dead   not known    node2\n"),
        "{}",
        ran.out
    );
    let ran = node.run(["log"]);
    assert_eq!(ran.out, "100 lines\n\u{fffd}[2Jcleared\n");
    assert!(!node.run(["status"]).out.contains('\u{1b}'));
}

#[test]
fn nobody_listening_is_a_failure_with_a_next_step() {
    let ran = Node::new().run(["status"]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    assert!(
        ran.err.contains("supervisor does not listen on") && ran.err.contains("has it booted"),
        "{}",
        ran.err
    );
}

#[test]
fn a_silent_supervisor_is_given_up_within_the_deadline() {
    let node = Node::new();
    node.supervisor(|_| None);
    let ran = node.run(["boot"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.err
            .contains("supervisor silent for 5 s; `nodectl inspect DISK`"),
        "{}",
        ran.err
    );
}

#[test]
fn an_answer_that_makes_no_sense_is_said_to_be_one() {
    let node = Node::new();
    node.supervisor(|_| Some("who are you".to_owned()));
    let ran = node.run(["status"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("no proper answer"), "{}", ran.err);
}

#[test]
fn a_reply_to_another_question_is_a_failure() {
    let node = Node::new();
    node.supervisor(|_| {
        Some(serde_json::to_string(&Reply::Boot { phases: phases() }).expect("JSON"))
    });
    let ran = node.run(["status"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("different versions"), "{}", ran.err);
}

#[test]
fn a_power_order_without_terminal_needs_yes() {
    let node = Node::new();
    let requests = node.supervisor(answer);
    let ran = node.run_with(["shutdown"], "node1\n");
    assert_eq!(ran.status, 2);
    assert!(
        ran.err.contains("powers off node1") && ran.err.contains("add --yes"),
        "{}",
        ran.err
    );
    assert!(
        !requests
            .lock()
            .expect("lock")
            .iter()
            .any(|request| request.contains("shutdown"))
    );

    let ran = node.run(["shutdown", "--yes"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, "shutting down\n"));
    assert_eq!(
        requests.lock().expect("lock").last().map(String::as_str),
        Some(r#"{"request":"shutdown"}"#)
    );
}

#[test]
fn a_refused_order_is_a_no() {
    let node = Node::new();
    node.supervisor(answer);
    let ran = node.run(["reboot", "--yes"]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("an update is being written; try again"),
        "{}",
        ran.err
    );
}

#[test]
fn a_bad_document_is_not_sent_to_the_node() {
    let node = Node::new();
    let requests = node.supervisor(answer);
    let bad = node.file("bad.toml", "version = 1\n[network]\nmtu = 90000\n");
    let ran = node.run([
        "net".as_ref(),
        "apply".as_ref(),
        bad.as_os_str(),
        "--yes".as_ref(),
    ]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.out
            .contains("line 3: network.mtu: 90000: largest allowed is 9216\n"),
        "{}",
        ran.out
    );
    assert!(requests.lock().expect("lock").is_empty());

    let ran = node.run_with(["net", "apply", "-", "--yes"], GOOD);
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(
        ran.out
            .starts_with("network     ready, ovirtmgmt 192.0.2.10/24"),
        "{}",
        ran.out
    );
    let sent = requests.lock().expect("lock")[0].clone();
    assert_eq!(
        serde_json::from_str::<Request>(&sent).expect("JSON"),
        Request::NetApply {
            toml: GOOD.to_owned()
        }
    );
}

const GOOD: &str =
    "version = 1\n[network.nic]\nname = \"eno1\"\n[network.ipv4]\nmethod = \"dhcp\"\n";

#[test]
fn a_network_that_had_to_be_put_back_is_a_no_with_the_reason() {
    let node = Node::new();
    let looks = std::sync::atomic::AtomicU32::new(0);
    node.supervisor(move |request| {
        if request.contains("net-apply") {
            return answer(request);
        }
        let (state, reason) = match looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 | 1 => ("gateway-unreachable", "gateway 192.0.2.1 does not answer"),
            _ => ("restored", "the previous set is back"),
        };
        let network = NetworkReport {
            state: state.to_owned(),
            reason: Some(reason.to_owned()),
            ..NetworkReport::default()
        };
        let reply = Reply::Status(Box::new(Snapshot {
            network,
            ..snapshot()
        }));
        Some(serde_json::to_string(&reply).expect("JSON"))
    });
    let ran = node.run_with(["net", "apply", "-", "--yes"], GOOD);
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (1, "network     restored, the previous set is back\n")
    );
    assert_eq!(
        ran.err
            .matches("gateway-unreachable: gateway 192.0.2.1 does not answer\n")
            .count(),
        1,
        "{}",
        ran.err
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let node = Node::new();
    let long = serde_json::to_string(&Reply::Log {
        lines: vec!["x".repeat(100); 10_000],
    })
    .expect("JSON");
    node.supervisor(move |_| Some(long.clone()));
    let mut child = node
        .command(["log", "-n", "10000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}

#[test]
fn wrong_usage_is_two_and_names_the_near_miss() {
    let node = Node::new();
    let ran = node.run(["staus"]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("'status'"), "{}", ran.err);
    assert_eq!(node.run(["log", "-n", "0"]).status, 2);
    assert_eq!(node.run::<&str>([]).status, 2);
}

/// Every path of commands that takes no further command.
const COMMANDS: [&[&str]; 16] = [
    &[],
    &["status"],
    &["boot"],
    &["log"],
    &["net"],
    &["net", "apply"],
    &["lease", "list"],
    &["lockspace", "init"],
    &["lockspace", "show"],
    &["inspect"],
    &["config"],
    &["config", "check"],
    &["config", "example"],
    &["shutdown"],
    &["reboot"],
    &["console"],
];

#[test]
fn every_help_has_an_example() {
    let node = Node::new();
    for command in COMMANDS {
        let ran = node.run(command.iter().chain(&["--help"]));
        assert_eq!(ran.status, 0, "{command:?}");
        assert!(
            ran.out.contains("Example") && ran.out.contains("  nodectl "),
            "{command:?}: {}",
            ran.out
        );
    }
}

#[test]
fn a_refusal_given_before_the_question_is_shown() {
    let node = Node::new();
    let listener =
        std::os::unix::net::UnixListener::bind(node.path("control.sock")).expect("bound");
    // As the supervisor does with one client too many: it answers and hangs up.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connection");
        let reply = Reply::Error {
            message: "control socket: 32 clients are connected already".to_owned(),
        };
        let text = serde_json::to_string(&reply).expect("reply") + "\n";
        std::io::Write::write_all(&mut stream, text.as_bytes()).expect("written");
    });
    let ran = node.run(["boot"]);
    server.join().expect("server");
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("32 clients are connected already"),
        "{}",
        ran.err
    );
}
