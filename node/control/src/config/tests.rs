use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

mod network;
mod storage;

const FULL: &str = r#"version = 1

[node]
hostname = "node1.example.com"

[network]
bridge = "ovirtmgmt"
mtu = 9000
vlan = 42
dns = ["192.0.2.53", "2001:db8::53"]
search = ["example.com", "example.net."]

[network.bond]
name = "bond0"
mode = "802.3ad"
members = [
    { mac = "52:54:00:12:34:56" },
    { name = "eno2" },
    { pci = "0000:3B:00.1" },
]

[network.ipv4]
method = "static"
address = "192.0.2.10/24"
gateway = "192.0.2.1"

[network.ipv6]
method = "static"
address = "2001:db8::10/64"
gateway = "fe80::1"

[watchdog]
device = "/dev/watchdog1"
fire_timeout = 30
required = true

[lockspace]
name = "cluster1"
path = "/dev/disk/by-path/pci-0000:00:05.0"
offset = 1_048_576
host_id = 7
io_timeout = 2
host_name = "node1"
"#;

/// The smallest document with a network, to which tests append.
const NETWORK: &str = "version = 1\n[network.nic]\nname = \"eno1\"\n[network.ipv4]\n";

fn mistakes(text: &str) -> String {
    match parse(text) {
        Ok(_) => "valid".to_owned(),
        Err(mistakes) => mistakes.iter().fold(String::new(), |mut all, mistake| {
            writeln!(all, "{mistake}").expect("a string takes everything");
            all
        }),
    }
}

fn check(text: &str, expected: &Expect) {
    expected.assert_eq(&mistakes(text));
}

fn network(text: &str) -> Network {
    let config = parse(text).unwrap_or_else(|_| panic!("{}", mistakes(text)));
    config.network.expect("the document has a network")
}

#[test]
fn a_version_alone_is_a_whole_document() {
    let config = parse("version = 1").expect("valid");
    assert_eq!(config, Config::default());
    assert_eq!(
        config.watchdog,
        Watchdog {
            device: None,
            fire_timeout_s: 60,
            required: true
        }
    );
}

#[test]
fn every_key_is_read() {
    let config = parse(FULL).unwrap_or_else(|_| panic!("{}", mistakes(FULL)));
    expect![[r#"
        Config {
            hostname: Some(
                "node1.example.com",
            ),
            network: Some(
                Network {
                    bridge: "ovirtmgmt",
                    uplink: Bond {
                        name: "bond0",
                        mode: Lacp,
                        members: [
                            Mac(
                                [
                                    82,
                                    84,
                                    0,
                                    18,
                                    52,
                                    86,
                                ],
                            ),
                            Name(
                                "eno2",
                            ),
                            Pci(
                                "0000:3b:00.1",
                            ),
                        ],
                    },
                    vlan: Some(
                        42,
                    ),
                    mtu: Some(
                        9000,
                    ),
                    ipv4: Static {
                        address: 192.0.2.10,
                        prefix: 24,
                        gateway: Some(
                            192.0.2.1,
                        ),
                    },
                    ipv6: Static {
                        address: 2001:db8::10,
                        prefix: 64,
                        gateway: Some(
                            fe80::1,
                        ),
                    },
                    dns: [
                        192.0.2.53,
                        2001:db8::53,
                    ],
                    search: [
                        "example.com",
                        "example.net.",
                    ],
                },
            ),
            watchdog: Watchdog {
                device: Some(
                    "/dev/watchdog1",
                ),
                fire_timeout_s: 30,
                required: true,
            },
            lockspace: Some(
                Lockspace {
                    name: "cluster1",
                    path: "/dev/disk/by-path/pci-0000:00:05.0",
                    offset: 1048576,
                    host_id: 7,
                    io_timeout_s: 2,
                    host_name: Some(
                        "node1",
                    ),
                },
            ),
            storage: None,
        }
    "#]]
    .assert_debug_eq(&config);
}

#[test]
fn defaults_are_the_documented_ones() {
    let network = network(&format!("{NETWORK}method = \"dhcp\"\n"));
    assert_eq!(network.bridge, "ovirtmgmt");
    assert_eq!(
        network.uplink,
        Uplink::Nic(NicSelector::Name("eno1".to_owned()))
    );
    assert_eq!((network.vlan, network.mtu), (None, None));
    assert_eq!((network.ipv4, network.ipv6), (Ipv4::Dhcp, Ipv6::None));

    let text = "version = 1\n[lockspace]\nname = \"LS\"\npath = \"/dev/sda\"\nhost_id = 2000\n";
    let lockspace = parse(text).expect("valid").lockspace.expect("has one");
    assert_eq!(
        (
            lockspace.offset,
            lockspace.io_timeout_s,
            lockspace.host_name
        ),
        (0, 10, None)
    );
}

#[test]
fn a_document_must_say_its_version() {
    check(
        "",
        &expect![[r#"
        version: missing; begin the document with version = 1
    "#]],
    );
    check(
        "version = 2\n[nodes]\nx = 1\n",
        &expect![[r#"
        line 1: version: 2: this node reads version 1
    "#]],
    );
    check(
        "version = \"1\"\n[node]\nhostname = \"-\"\n",
        &expect![[r#"
        line 1: version: the string "1": must be a whole number
        line 3: node.hostname: "-": has a part that begins or ends with a hyphen
    "#]],
    );
    check(
        "version = -1",
        &expect![[r#"
        line 1: version: -1: smallest allowed is 0
    "#]],
    );
    check(
        "version = 99999999999999999999999999999999999999999999",
        &expect![[r#"
            line 1: version: "99999999999999999999999999999999999999999999": too large
        "#]],
    );
}

#[test]
fn unknown_keys_get_the_nearest_known_one_or_their_home() {
    check(
        r#"version = 1
hostname = "n1"
colour = "red"
[watchdgo]
fire_timeout = 60
[node]
host-name = "n1"
io_timeout = 3
[watchdog]
fire_timout = 60
"quoted key" = 1
"#,
        &expect![[r#"
            line 2: hostname: unknown key; it belongs in [node]
            line 3: colour: unknown key; known here: version, node, network, watchdog, lockspace, storage
            line 4: watchdgo: unknown key; did you mean watchdog?
            line 7: node.host-name: unknown key; did you mean hostname?
            line 8: node.io_timeout: unknown key; it belongs in [lockspace]
            line 10: watchdog.fire_timout: unknown key; did you mean fire_timeout?
            line 11: watchdog."quoted key": unknown key; known here: device, fire_timeout, required
        "#]],
    );
}

#[test]
fn everything_wrong_is_reported_at_once_by_line() {
    check(
        r#"version = 1
[node]
hostname = "node_1"
[network]
bridge = "ovirt mgmt"
mtu = 90000
vlan = 4095
dns = ["192.0.2.53", "ns1", 8, "192.0.2.53"]
search = "example.com"
[network.nic]
mac = "01:00:5e:00:00:01"
pci = "0000:00:20.0"
[network.bond]
mode = "lacp"
members = [{ name = "eno1" }, { name = "eno1" }, {}, { name = "ovirtmgmt" }, 5]
[network.ipv4]
method = "dhcp"
address = "192.0.2.10/24"
[network.ipv6]
method = "dhcp"
[watchdog]
fire_timeout = 5
required = "yes"
device = "watchdog0"
[lockspace]
name = "a:b"
host_id = 0
offset = 512
io_timeout = 1
"#,
        &expect![[r#"
            line 3: node.hostname: "node_1": may hold only letters, digits, hyphens and dots
            line 5: network.bridge: "ovirt mgmt": no spaces, slashes, colons, quotes or percent signs in an interface name
            line 6: network.mtu: 90000: largest allowed is 9216
            line 7: network.vlan: 4095: largest allowed is 4094
            line 8: network.dns: 4 entries: most allowed is 3
            line 8: network.dns entry 3: the number 8: must be a string in quotes
            line 8: network.dns entry 2: "ns1": not an IP address
            line 8: network.dns: "192.0.2.53": listed twice
            line 9: network.search: the string "example.com": must be a list in brackets
            line 10: network.nic: mac and pci together; give exactly one
            line 11: network.nic.mac: "01:00:5e:00:00:01": a group address, no card has it
            line 12: network.nic.pci: "0000:00:20.0": largest PCI device number is 1f
            line 13: network.bond: [network.nic] and [network.bond] exclude each other; keep one
            line 14: network.bond.mode: "lacp": must be one of "active-backup", "802.3ad", "balance-xor"
            line 15: network.bond.members entry 5: the number 5: must be a table in braces
            line 15: network.bond.members entry 2: the same card again
            line 15: network.bond.members entry 3: names no card; give mac, name or pci
            line 15: network.bond.members entry 4.name: ovirtmgmt: is the name of the bridge or bond over it
            line 18: network.ipv4.address: not with method = "dhcp"; only with "static"
            line 20: network.ipv6.method: "dhcp": must be one of "static", "slaac", "none"
            line 22: watchdog.fire_timeout: 5: smallest allowed is 10
            line 23: watchdog.required: the string "yes": must be true or false
            line 24: watchdog.device: "watchdog0": must be an absolute path
            line 25: lockspace.path: missing; for instance path = "/dev/disk/by-id/…"
            line 26: lockspace.name: "a:b": no colon or slash in a lockspace name
            line 27: lockspace.host_id: 0: smallest allowed is 1
            line 28: lockspace.offset: 512: must be a multiple of 1048576 (1 MiB)
            line 29: lockspace.io_timeout: 1: with a watchdog that fires after 60 s and looks every 10 s a healthy node would be reset; smallest allowed is 2
        "#]],
    );
}

#[test]
fn syntax_errors_have_line_and_column_and_do_not_hide_other_mistakes() {
    check(
        "version = 1\n[node\nhostname = \"x\"\n[watchdog]\nfire_timeout = 5\n",
        &expect![[r#"
            line 2: not TOML at column 6: unclosed table, expected `]`
            line 5: watchdog.fire_timeout: 5: smallest allowed is 10
        "#]],
    );
    check(
        "version = 1\n[lockspace]\nname = LS\nhost_id = 1\nhost_id = 2\n",
        &expect![[r#"
            line 3: not TOML at column 8: string values must be quoted, expected literal string
            line 5: not TOML at column 1: duplicate key
        "#]],
    );
    check(
        "version = 1\n[node]\nhostname = \"unterminated\n",
        &expect![[r#"
            line 3: not TOML at column 25: invalid basic string, expected `"`
        "#]],
    );
    check(
        "\u{feff}version = 1\r\n[node]\r\nhostnam = \"x\"\r\n",
        &expect![[r#"
            line 3: node.hostnam: unknown key; did you mean hostname?
        "#]],
    );
    check(
        "not toml at all\n\u{0}\n{}",
        &expect![[r#"
        line 1: not TOML at column 5: key with no value, expected `=`
        line 2: not TOML at column 2: key with no value, expected `=`
        line 3: not TOML at column 1: invalid key-value pair, expected key
    "#]],
    );
}

#[test]
fn bytes_that_are_no_text_are_a_mistake_on_their_line() {
    let mistakes = parse_bytes(b"version = 1\n[node]\nhostname = \"\xff\"\n").expect_err("latin-1");
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].to_string(), "line 3: not UTF-8 text");
    assert!(parse_bytes(b"version = 1").is_ok());
}

#[test]
fn host_names_follow_rfc_1123() {
    let long = format!("{}.example.com", "a".repeat(60));
    for (name, expected) in [
        ("n", expect!["valid"]),
        ("3com-node.example.com", expect!["valid"]),
        (
            "",
            expect![[r#"
            line 3: node.hostname: is empty
        "#]],
        ),
        (
            "-a",
            expect![[r#"
            line 3: node.hostname: "-a": has a part that begins or ends with a hyphen
        "#]],
        ),
        (
            "a..b",
            expect![[r#"
            line 3: node.hostname: "a..b": has an empty part between dots
        "#]],
        ),
        (
            "192.0.2.1",
            expect![[r#"
            line 3: node.hostname: "192.0.2.1": last part is a number, which reads as an address
        "#]],
        ),
        (
            "ünode",
            expect![[r#"
            line 3: node.hostname: "ünode": may hold only letters, digits, hyphens and dots
        "#]],
        ),
        (
            long.as_str(),
            expect![[r#"
            line 3: node.hostname: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…": 72 bytes, longest allowed is 64
        "#]],
        ),
    ] {
        check(
            &format!("version = 1\n[node]\nhostname = {name:?}\n"),
            &expected,
        );
    }
}

#[test]
fn lockspace_limits_are_the_formats() {
    let head = "version = 1\n[lockspace]\n";
    let long_name = format!("name = \"{}\"\npath = \"/a\"\nhost_id = 1", "n".repeat(49));
    for (lines, expected) in [
        (
            "",
            expect![[r#"
            line 2: lockspace.name: missing; for instance name = "cluster1"
            line 2: lockspace.path: missing; for instance path = "/dev/disk/by-id/…"
            line 2: lockspace.host_id: missing; a number from 1 to 2000 that no other node of the lockspace has
        "#]],
        ),
        (
            "name = \"LS\"\npath = \"dev/sda\"\nhost_id = 2001",
            expect![[r#"
                line 4: lockspace.path: "dev/sda": must be an absolute path
                line 5: lockspace.host_id: 2001: largest allowed is 2000
            "#]],
        ),
        (
            "name = \"a b\"\npath = \"/dev/\"\nhost_id = 1\nhost_name = \"\"",
            expect![[r#"
                line 3: lockspace.name: "a b": only visible ASCII characters, no white space
                line 4: lockspace.path: "/dev/": names a directory
                line 6: lockspace.host_name: is empty
            "#]],
        ),
        (
            "name = \"LS\"\npath = \"/a\\nb\"\nhost_id = 1\noffset = -1",
            expect![[r#"
                line 4: lockspace.path: "/a\nb": no control characters in a path
                line 6: lockspace.offset: -1: smallest allowed is 0
            "#]],
        ),
        (
            "name = \"LS\"\npath = \"/a\"\nhost_id = 1.5\nio_timeout = 256",
            expect![[r#"
                line 5: lockspace.host_id: the number 1.5: must be a whole number
                line 6: lockspace.io_timeout: 256: largest allowed is 255
            "#]],
        ),
        (
            long_name.as_str(),
            expect![[r#"
            line 3: lockspace.name: "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn": 49 bytes, longest allowed is 48
        "#]],
        ),
    ] {
        check(&format!("{head}{lines}\n"), &expected);
    }
}

#[test]
fn an_io_timeout_the_watchdog_would_mistake_for_a_failure_is_refused() {
    let smallest = |fire_timeout: u32| {
        (1..=255)
            .find(|io_timeout| {
                parse(&format!(
                    "version = 1\n[watchdog]\nfire_timeout = {fire_timeout}\n[lockspace]\nname = \"LS\"\npath = \"/a\"\nhost_id = 1\nio_timeout = {io_timeout}\n"
                ))
                .is_ok()
            })
            .expect("some value works")
    };
    assert_eq!([10, 29, 30, 59, 60, 600].map(smallest), [1, 1, 2, 2, 2, 2]);
    check(
        "version = 1\n[lockspace]\nname = \"LS\"\npath = \"/a\"\nhost_id = 1\nio_timeout = 1\n",
        &expect![[r#"
            line 6: lockspace.io_timeout: 1: with a watchdog that fires after 60 s and looks every 10 s a healthy node would be reset; smallest allowed is 2
        "#]],
    );
}

#[test]
fn a_flood_of_mistakes_is_bounded_and_counted() {
    let flood: String = (0..500).fold("version = 1\n".to_owned(), |text, n| {
        text + &format!("key{n} = 1\n")
    });
    let mistakes = parse(&flood).expect_err("500 unknown keys");
    assert_eq!(mistakes.len(), MISTAKES_MAX);
    assert_eq!(
        mistakes.last().map(ToString::to_string).as_deref(),
        Some("401 more mistakes: correct these first")
    );
    assert_eq!(mistakes[0].line, Some(2));

    let long = format!("version = 1\n#{}", "x".repeat(DOCUMENT_BYTES_MAX));
    check(
        &long,
        &expect![[r#"
        document too long: largest allowed is 65536 bytes
    "#]],
    );
}

#[test]
fn long_or_wild_values_are_cut_and_escaped() {
    let text = format!(
        "version = 1\n[node]\nhostname = \"{}\\u001b[31m\"\n[watchdog]\ndevice = \"\\u001b[2J\"\n",
        "x".repeat(500)
    );
    check(
        &text,
        &expect![[r#"
        line 3: node.hostname: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…": 505 bytes, longest allowed is 64
        line 5: watchdog.device: "\u{1b}[2J": must be an absolute path
    "#]],
    );
    assert!(!mistakes(&text).contains('\u{1b}'));
}

/// Pieces of documents, so that random sequences of them reach deep.
fn fragment() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "version = 1\n",
        "[network]\n",
        "[network.nic]\n",
        "[network.bond]\n",
        "[[network.bond.members]]\n",
        "[network.ipv4]\n",
        "[network.ipv6]\n",
        "[watchdog]\n",
        "[lockspace]\n",
        "[node]\n",
        "mtu",
        "vlan",
        "dns",
        "mac",
        "name",
        "pci",
        "mode",
        "members",
        "method",
        "address",
        "gateway",
        "io_timeout",
        " = ",
        "=",
        "\n",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'''",
        ",",
        ".",
        "1",
        "-7",
        "0x1F",
        "1e400",
        "true",
        "1979-05-27T07:32:00Z",
        "\"192.0.2.1/0\"",
        "\"::/0\"",
        "\"static\"",
        "\"52:54:00:12:34:56\"",
        "\"0:0.0\"",
        "\u{feff}",
        "\u{0}",
        "ü",
        "#",
    ];
    prop_oneof![
        8 => prop::sample::select(WORDS).prop_map(ToOwned::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _answer = parse(&text);
    }

    #[test]
    fn any_near_document_is_answered_with_lines_inside_it(parts in prop::collection::vec(fragment(), 0..60)) {
        let text = parts.concat();
        if let Err(mistakes) = parse(&text) {
            let lines = text.matches('\n').count() + 1;
            prop_assert!(!mistakes.is_empty());
            let mut last = None;
            for mistake in mistakes {
                prop_assert!(mistake.line.is_none_or(|line| (1..=lines).contains(&line)));
                prop_assert!(mistake.line >= last || mistake.line.is_none());
                last = mistake.line.or(last);
                prop_assert!(!mistake.to_string().contains(['\n', '\u{1b}']), "{mistake:?}");
            }
        }
    }

    /// Any one line of a good document replaced by rubbish is blamed on that line alone.
    #[test]
    fn a_damaged_line_is_the_one_named(at in 1..41_usize) {
        let damaged: String = FULL
            .lines()
            .enumerate()
            .map(|(n, line)| if n == at && line.contains(" = ") && !line.ends_with('[') { "rubbish!\n".to_owned() } else { format!("{line}\n") })
            .collect();
        if damaged.contains("rubbish") {
            let mistakes = parse(&damaged).expect_err("rubbish is not TOML");
            prop_assert_eq!(mistakes[0].line, Some(at + 1));
        }
    }
}
