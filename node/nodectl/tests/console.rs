//! The console on a real pseudo-terminal: it prompts, answers, and stays.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use common::Node;
use control::request::{Reply, Request};
use control::status::{ConfigReport, NetworkReport, Snapshot};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const PROMPT: &str = "holdfast> ";
const PATIENCE: Duration = Duration::from_secs(60);

/// A console on a terminal, and what it has written so far.
struct Console {
    child: Child,
    master: File,
    written: Receiver<Vec<u8>>,
    text: String,
    /// How much of it was looked at.
    seen: usize,
}

impl Console {
    fn start(node: &Node) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("name");
        let name = name.to_str().expect("a path").to_owned();
        let side = || -> OwnedFd {
            let flags =
                rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).expect("terminal opened")
        };
        let child = node
            .command(["console"])
            .stdin(Stdio::from(side()))
            .stdout(Stdio::from(side()))
            .stderr(Stdio::from(side()))
            .spawn()
            .expect("nodectl runs");
        let master = File::from(master);
        let mut reader = master.try_clone().expect("second handle");
        let (sender, written) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            master,
            written,
            text: String::new(),
            seen: 0,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).expect("typed");
    }

    /// Waits for `wanted` in what was not looked at yet and returns it all up to its end.
    fn wait(&mut self, wanted: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text[self.seen..].find(wanted) {
                let from = self.seen;
                self.seen += at + wanted.len();
                return self.text[from..self.seen].replace('\r', "");
            }
            match self
                .written
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {wanted:?} in time, but: {}", self.text)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("console ended before {wanted:?}: {}", self.text)
                }
            }
        }
    }

    /// Types a line and returns what came between it and the next prompt.
    fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes());
        self.wait(&format!("{line}\r\n"));
        let answer = self.wait(PROMPT);
        answer.trim_end_matches(PROMPT).to_owned()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        version: "0.1.0+test".to_owned(),
        hostname: "node1".to_owned(),
        phase: "degraded".to_owned(),
        config: ConfigReport {
            source: Some("fw_cfg".to_owned()),
            mistakes: vec!["line 7: network.mtu: 90000: largest allowed is 9216".to_owned()],
        },
        network: NetworkReport {
            addresses: vec!["192.0.2.10/24".to_owned()],
            ..NetworkReport::default()
        },
        ..Snapshot::default()
    }
}

fn answer(request: &str) -> Option<String> {
    let reply = match serde_json::from_str(request).expect("a request") {
        Request::Status => Reply::Status(Box::new(snapshot())),
        Request::Shutdown => Reply::Done {
            message: "shutting down".to_owned(),
        },
        other => Reply::Error {
            message: format!("{other:?} is not for tests; ask something else"),
        },
    };
    Some(serde_json::to_string(&reply).expect("JSON"))
}

#[test]
fn the_greeting_names_the_node_and_what_is_wrong_with_it() {
    let node = Node::new();
    node.supervisor(answer);
    let mut console = Console::start(&node);
    let greeting = console.wait(PROMPT);
    assert!(
        greeting.contains(
            "Holdfast 0.1.0+test on node1, 192.0.2.10/24, degraded. Type help for the commands.\n"
        ),
        "{greeting}"
    );
    assert!(
        greeting.contains("!! CONFIGURATION from fw_cfg REFUSED: 1 mistake,"),
        "{greeting}"
    );
    assert!(
        greeting.contains("!!   line 7: network.mtu: 90000: largest allowed is 9216\n"),
        "{greeting}"
    );
}

#[test]
fn each_line_is_a_command_and_json_is_one_line() {
    let node = Node::new();
    node.supervisor(answer);
    let mut console = Console::start(&node);
    console.wait(PROMPT);
    let json = console.ask("status --json");
    assert_eq!(json.matches('\n').count(), 1, "{json}");
    assert_eq!(
        serde_json::from_str::<Snapshot>(&json).expect("JSON"),
        snapshot()
    );
    assert!(console.ask("nodectl status").contains("node1  degraded"));
    assert!(console.ask("help").contains("Commands:"));
    assert!(console.ask("boot").contains("ask something else"));
    assert!(
        console
            .ask("nonsense")
            .contains("unrecognized subcommand 'nonsense'")
    );
    assert!(
        console
            .ask("status 'x")
            .contains("the quote ' is not closed")
    );
    assert!(console.ask("console").contains("already"));
    assert_eq!(console.ask(""), "");
}

#[test]
fn neither_interrupt_nor_end_of_input_ends_it() {
    let node = Node::new();
    node.supervisor(answer);
    let mut console = Console::start(&node);
    console.wait(PROMPT);
    // With ISIG the terminal would turn Ctrl-C into a signal on a real console.
    let modes = tcgetattr(console.master.as_fd()).expect("modes");
    assert!(!modes.local_modes.contains(LocalModes::ISIG));
    console.send(b"shutdown --yes\x03");
    console.wait(PROMPT);
    console.send(b"\x04\x04");
    console.wait(PROMPT);
    console.wait(PROMPT);
    assert!(console.ask("status").contains("degraded"));
}

#[test]
fn a_power_order_wants_the_nodes_name() {
    let node = Node::new();
    let requests = node.supervisor(answer);
    let mut console = Console::start(&node);
    console.wait(PROMPT);
    for wrong in ["node2\n", "\n", "\x03", "\x04"] {
        console.send(b"shutdown\n");
        console.wait("This powers off node1. Type its name to go on: ");
        console.send(wrong.as_bytes());
        console.wait("nothing was done");
        console.wait(PROMPT);
    }
    assert!(
        !requests
            .lock()
            .expect("lock")
            .iter()
            .any(|request| request.contains("shutdown"))
    );
    console.send(b"shutdown\n");
    console.wait("go on: ");
    console.send(b"node1\n");
    console.wait("shutting down");
    assert!(
        requests
            .lock()
            .expect("lock")
            .iter()
            .any(|request| request.contains("shutdown"))
    );
}

#[test]
fn a_document_typed_at_the_console_ends_with_a_dot() {
    let node = Node::new();
    node.supervisor(answer);
    let mut console = Console::start(&node);
    console.wait(PROMPT);
    console.send(b"config check -\n");
    console.send(b"version = 1\n[watchdog]\nfire_timeout = 5\n.\n");
    assert!(
        console
            .wait(PROMPT)
            .contains("line 3: watchdog.fire_timeout: 5: smallest allowed is 10")
    );
}

#[test]
fn a_silent_supervisor_leaves_the_console_working() {
    let node = Node::new();
    node.supervisor(|_| None);
    let mut console = Console::start(&node);
    // Somebody who presses Enter need not wait for the boot to end.
    console.wait("press Enter");
    console.send(b"\n");
    let greeting = console.wait(PROMPT);
    assert!(
        greeting.contains("Type help for the commands.\n"),
        "{greeting}"
    );
    assert!(greeting.contains("supervisor silent for "), "{greeting}");
    let status = console.ask("status");
    assert!(
        status.contains("supervisor silent for ") && status.contains("nodectl inspect DISK"),
        "{status}"
    );
    let file = node.file("good.toml", "version = 1\n");
    assert_eq!(console.ask(&format!("config check {}", file.display())), "");
}

#[test]
fn a_booting_node_is_greeted_when_it_is_ready() {
    let node = Node::new();
    let asked = std::sync::atomic::AtomicU32::new(0);
    node.supervisor(move |_| {
        let early = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
        let phase = if early { "booting" } else { "ready" }.to_owned();
        let reply = Reply::Status(Box::new(Snapshot {
            phase,
            ..snapshot()
        }));
        Some(serde_json::to_string(&reply).expect("JSON"))
    });
    let mut console = Console::start(&node);
    let greeting = console.wait(PROMPT);
    assert!(greeting.contains("192.0.2.10/24, ready."), "{greeting}");
}

#[test]
fn what_is_typed_before_the_prompt_gets_one_prompt_at_most() {
    let node = Node::new();
    node.supervisor(|_| None);
    let mut console = Console::start(&node);
    console.wait("press Enter");
    console.send(b"\n\n\nconfig check /none\n");
    console.wait(PROMPT);
    let answer = console.wait(PROMPT);
    assert!(answer.contains("/none: cannot be read"), "{answer}");
    console.send(b"help\n");
    assert!(
        console.wait(PROMPT).contains("Commands:"),
        "no prompt was left over"
    );
}

#[test]
fn commands_from_a_pipe_end_with_it() {
    let node = Node::new();
    node.supervisor(answer);
    let ran = node.run_with(["console"], "status --json\nconfig check /none");
    assert_eq!(ran.status, 0);
    assert!(ran.out.contains("holdfast> {\"version\""), "{}", ran.out);
    assert!(ran.err.contains("/none: cannot be read"), "{}", ran.err);
}
