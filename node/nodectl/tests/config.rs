//! `nodectl config` works on any machine: no node, no sockets.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use common::Node;

#[test]
fn a_good_document_is_answered_with_silence() {
    let node = Node::new();
    let file = node.file("good.toml", "version = 1\n[node]\nhostname = \"node1\"\n");
    let ran = node.run(["config".as_ref(), "check".as_ref(), file.as_os_str()]);
    assert_eq!(
        (ran.status, ran.out.as_str(), ran.err.as_str()),
        (0, "", "")
    );
}

#[test]
fn every_mistake_is_printed_on_a_line_of_its_own() {
    let node = Node::new();
    let file = node.file(
        "bad.toml",
        "version = 1\nnodes = 1\n[watchdog]\nfire_timeout = 5\n[lockspace]\nname = \"x\n",
    );
    let ran = node.run(["config".as_ref(), "check".as_ref(), file.as_os_str()]);
    assert_eq!(ran.status, 1);
    assert_eq!(
        ran.out,
        "line 2: nodes: unknown key; did you mean node?\n\
         line 4: watchdog.fire_timeout: 5: smallest allowed is 10\n\
         line 6: not TOML at column 10: invalid basic string, expected `\"`\n"
    );
    assert_eq!(
        ran.err,
        "nodectl: 3 mistakes; correct them and check again\n"
    );
}

#[test]
fn standard_input_may_be_anything() {
    let node = Node::new();
    assert_eq!(
        node.run_with(["config", "check", "-"], "version = 1")
            .status,
        0
    );
    let ran = node.run_with(["config", "check", "-"], "");
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (1, "version: missing; begin the document with version = 1\n")
    );
    let latin = node.file("latin.toml", b"version = 1\n# \xe9\n");
    let ran = node.run(["config".as_ref(), "check".as_ref(), latin.as_os_str()]);
    assert_eq!(
        (ran.status, ran.out.as_str()),
        (1, "line 2: not UTF-8 text\n")
    );
    let huge = node.run_with(["config", "check", "-"], &"#".repeat(70_000));
    assert_eq!(huge.status, 1);
    assert!(
        huge.out.contains("largest allowed is 65536"),
        "{}",
        huge.out
    );
}

#[test]
fn a_file_that_is_not_there_is_a_failure() {
    let node = Node::new();
    let ran = node.run([
        "config".as_ref(),
        "check".as_ref(),
        node.path("none").as_os_str(),
    ]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    assert!(
        ran.err.contains("none: cannot be read; give a file, or -"),
        "{}",
        ran.err
    );
}

#[test]
fn the_example_uses_every_key_and_is_valid() {
    let node = Node::new();
    let example = node.run(["config", "example"]);
    assert_eq!(example.status, 0);
    let config = control::config::parse(&example.out).expect("the example is valid");
    assert!(config.hostname.is_some() && config.lockspace.is_some());
    let network = config.network.expect("the example has a network");
    assert!(
        network.mtu.is_some()
            && network.vlan.is_some()
            && !network.dns.is_empty()
            && !network.search.is_empty()
    );
}
