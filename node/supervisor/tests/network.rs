//! The management network against the real kernel: a network namespace of its
//! own for each test, a veth pair as the cable, dnsmasq at its other end.
//!
//! ```text
//!   this test's namespace                │ namespace "far"
//!   ovirtmgmt ── eth0 ═══════ veth ═══════ far0  10.77.0.1/24, dnsmasq
//! ```
//!
//! Bonds and VLANs need kernel modules that a build machine may lack: their
//! plans are in `net::plan`'s snapshots, their kernel side in the QEMU scenarios.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control::config::{Ipv4, Ipv6, Network, NicSelector, Uplink};
use control::status::NetworkReport;
use supervisor::net::bootstrap::bootstrap;
use supervisor::net::{Event, Manager, Options};

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "HOLDFAST_NETWORK_TEST";
/// How long to wait for anything before giving up.
const PATIENCE: Duration = Duration::from_secs(60);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);

/// Runs this test again in network, mount and process namespaces of its own,
/// so that nothing of it can outlive it. True inside.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("mount -t sysfs sysfs /sys");
        run("mount -t tmpfs tmpfs /run");
        run("ip netns add far");
        return true;
    }
    for (tool, package) in [
        ("ip", "iproute2"),
        ("dnsmasq", "dnsmasq-base"),
        ("unshare", "util-linux"),
    ] {
        let found = Command::new(tool)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(
            found.is_ok(),
            "{tool} is missing: apt-get install -y {package}"
        );
    }
    let status = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--uts",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(
        status.success(),
        "inside its namespaces the test failed ({status}); this needs root"
    );
    false
}

/// Runs a command line without quoting; it must succeed.
fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn in_far(line: &str) -> String {
    run(&format!("ip netns exec far {line}"))
}

/// A refused connection came back from the other end.
fn assert_reaches(address: &str) {
    let to = SocketAddr::new(address.parse().unwrap(), 9);
    let refused = TcpStream::connect_timeout(&to, PATIENCE).unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "{address}"
    );
}

/// Plugs a new cable in.
fn plug() {
    run("ip link add eth0 address 02:00:00:00:77:20 type veth peer name far0 netns far");
    in_far("ip address add 10.77.0.1/24 dev far0");
    in_far("ip -6 address add fd77::1/64 dev far0 nodad");
    in_far("ip link set far0 up");
}

/// A running child, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its namespace ends it anyway.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// dnsmasq at the other end of the cable, as a DHCP server for one address.
fn dhcp_server(extra: &[&str]) -> Running {
    let child = Command::new("ip")
        .args([
            "netns",
            "exec",
            "far",
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
        ])
        .args([
            "--interface=far0",
            "--bind-dynamic",
            "--leasefile-ro",
            "--user=root",
            "--log-facility=-",
            "--no-ping",
        ])
        .args([
            "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,1h",
            "--dhcp-authoritative",
        ])
        .args([
            "--pid-file=/run/dnsmasq.pid",
            "--dhcp-option=option:dns-server,10.77.0.1",
            "--domain=test.example",
        ])
        .args(extra)
        .spawn()
        .unwrap();
    Running(child)
}

fn network(ipv4: Ipv4) -> Network {
    Network {
        bridge: "ovirtmgmt".to_owned(),
        uplink: Uplink::Nic(NicSelector::Name("eth0".to_owned())),
        vlan: None,
        mtu: None,
        ipv4,
        ipv6: Ipv6::None,
        dns: Vec::new(),
        search: Vec::new(),
    }
}

fn fixed(address: Ipv4Addr, gateway: Ipv4Addr) -> Network {
    network(Ipv4::Static {
        address,
        prefix: 24,
        gateway: Some(gateway),
    })
}

struct Node {
    manager: Manager,
    folder: tempfile::TempDir,
}

impl Node {
    fn start(change_deadline_ms: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            resolv_conf: folder.path().join("resolv.conf"),
            change_deadline_ms,
        };
        Self {
            manager: Manager::start(options).unwrap(),
            folder,
        }
    }

    fn resolv_conf(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    /// Waits until the report is as `good` wants it.
    fn wait(&self, what: &str, good: impl Fn(&NetworkReport) -> bool) -> NetworkReport {
        let events = self.manager.events();
        let end = Instant::now() + PATIENCE;
        loop {
            let report = self.manager.report();
            if good(&report) {
                return report;
            }
            assert!(
                Instant::now() < end,
                "{what}: not within {PATIENCE:?}; {report:#?}"
            );
            let look_again = async {
                smol::Timer::after(Duration::from_millis(20)).await;
            };
            let event = async {
                drop(events.recv().await);
            };
            smol::block_on(smol::future::or(event, look_again));
        }
    }

    fn wait_ready(&self) -> NetworkReport {
        self.wait("ready", |report| report.state == "ready")
    }
}

/// Waits until the output of a command is as `good` wants it.
fn wait_for_output(line: &str, good: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = run(line);
        if good(&output) {
            return output;
        }
        assert!(Instant::now() < end, "{line}: {output}");
        std::thread::yield_now();
    }
}

#[test]
fn dhcp_gives_the_bridge_address_route_and_name_servers() {
    if !inside("dhcp_gives_the_bridge_address_route_and_name_servers") {
        return;
    }
    plug();
    // The card comes with what a careless firmware or initrd left on it.
    run("ip address add 192.0.2.9/24 dev eth0");
    let _server = dhcp_server(&[
        "--dhcp-option=option:mtu,1400",
        "--dhcp-option=121,10.99.0.0/16,10.77.0.3,0.0.0.0/0,10.77.0.1",
    ]);
    let node = Node::start(60_000);
    let events = node.manager.events();
    node.manager.apply(network(Ipv4::Dhcp));
    let mut address_at = None;
    while address_at.is_none() {
        if let Event::AddressReady { at_ms } = smol::block_on(events.recv()).unwrap() {
            address_at = Some(at_ms);
        }
    }
    let report = node.wait_ready();
    assert_eq!(report.addresses, ["10.77.0.50/24"]);
    assert_eq!(report.gateways, ["10.77.0.1"]);
    assert_eq!(report.dns, ["10.77.0.1"]);
    assert_eq!(report.gateway_reachable, Some(true));
    assert!(
        report
            .address_at_ms
            .is_some_and(|at| Some(at) <= address_at)
    );
    assert_eq!(
        report
            .links
            .iter()
            .map(|link| link.name.as_str())
            .collect::<Vec<_>>(),
        ["eth0", "ovirtmgmt"]
    );
    assert_eq!(
        report.links[0].mac, report.links[1].mac,
        "the bridge has the card's identity"
    );
    assert_eq!(report.links[0].master.as_deref(), Some("ovirtmgmt"));

    assert_eq!(
        run("ip -o address show dev eth0"),
        "",
        "no address below the bridge, not even link-local"
    );
    let routes = run("ip route show dev ovirtmgmt");
    assert!(routes.contains("default via 10.77.0.1"), "{routes}");
    assert!(routes.contains("10.99.0.0/16 via 10.77.0.3"), "{routes}");
    let bridge = run("ip -d -o link show dev ovirtmgmt");
    assert!(
        bridge.contains("mtu 1400")
            && bridge.contains("stp_state 0")
            && bridge.contains("forward_delay 0"),
        "{bridge}"
    );
    let resolv = std::fs::read_to_string(node.resolv_conf()).unwrap();
    assert_eq!(resolv, "search test.example\nnameserver 10.77.0.1\n");
}

#[test]
fn a_card_that_goes_and_comes_back_is_taken_again() {
    if !inside("a_card_that_goes_and_comes_back_is_taken_again") {
        return;
    }
    let _server = dhcp_server(&[]);
    let node = Node::start(60_000);
    node.manager.apply(network(Ipv4::Dhcp));
    let report = node.wait("waiting for the card", |report| {
        report.state == "waiting-for-link"
    });
    assert_eq!(
        report.reason.as_deref(),
        Some("no network card name eth0; cards found: none")
    );
    plug();
    node.wait_ready();
    run("ip link delete eth0");
    node.wait("waiting again", |report| report.state == "waiting-for-link");
    plug();
    let report = node.wait_ready();
    assert_eq!(report.addresses, ["10.77.0.50/24"]);
}

#[test]
fn a_pulled_cable_is_reported_and_survived() {
    if !inside("a_pulled_cable_is_reported_and_survived") {
        return;
    }
    plug();
    let _server = dhcp_server(&[]);
    let node = Node::start(60_000);
    node.manager.apply(network(Ipv4::Dhcp));
    node.wait_ready();
    in_far("ip link set far0 down");
    let report = node.wait("no carrier", |report| report.state == "waiting-for-link");
    assert_eq!(
        report.reason.as_deref(),
        Some("no carrier on ovirtmgmt (over eth0)")
    );
    assert_eq!(
        report.addresses,
        ["10.77.0.50/24"],
        "the lease is still good"
    );
    in_far("ip link set far0 up");
    node.wait_ready();
}

#[test]
fn fixed_addresses_of_both_families_are_set() {
    if !inside("fixed_addresses_of_both_families_are_set") {
        return;
    }
    plug();
    let node = Node::start(60_000);
    let ipv6 = Ipv6::Static {
        address: "fd77::20".parse().unwrap(),
        prefix: 64,
        gateway: Some("fd77::1".parse().unwrap()),
    };
    let dns: Vec<IpAddr> = vec!["10.77.0.1".parse().unwrap(), "fd77::1".parse().unwrap()];
    node.manager.apply(Network {
        ipv6,
        dns,
        mtu: Some(1400),
        ..fixed(OURS, FAR)
    });
    let report = node.wait_ready();
    assert_eq!(report.addresses, ["10.77.0.20/24", "fd77::20/64"]);
    assert_eq!(report.gateways, ["10.77.0.1", "fd77::1"]);
    assert_eq!(report.gateway_reachable, Some(true));
    assert!(
        report.links.iter().all(|link| link.mtu == 1400),
        "{:?}",
        report.links
    );
    assert_reaches("10.77.0.1");
    assert_reaches("fd77::1");
    // The loopback interface, which no configuration speaks of.
    assert_reaches("127.0.0.1");
    assert_eq!(
        std::fs::read_to_string(node.resolv_conf()).unwrap(),
        "nameserver 10.77.0.1\nnameserver fd77::1\n"
    );
}

#[test]
fn routers_give_the_bridge_address_gateway_and_name_server() {
    if !inside("routers_give_the_bridge_address_gateway_and_name_server") {
        return;
    }
    plug();
    let _router = dhcp_server(&[
        "--enable-ra",
        "--dhcp-range=fd77::,ra-only",
        "--dhcp-option=option6:dns-server,[fd77::53]",
    ]);
    let node = Node::start(60_000);
    node.manager.apply(Network {
        ipv6: Ipv6::Slaac,
        ..network(Ipv4::None)
    });
    let report = node.wait_ready();
    assert!(
        report.addresses[0].starts_with("fd77::") && report.addresses[0].ends_with("/64"),
        "{report:?}"
    );
    let report = node.wait("the name server", |report| !report.dns.is_empty());
    assert_eq!(report.dns, ["fd77::53"]);
    assert!(report.gateways[0].starts_with("fe80::"), "{report:?}");
    assert_eq!(
        std::fs::read_to_string(node.resolv_conf()).unwrap(),
        "nameserver fd77::53\n"
    );
}

#[test]
fn an_address_of_another_machine_is_found_out() {
    if !inside("an_address_of_another_machine_is_found_out") {
        return;
    }
    plug();
    in_far("ip -6 address add fd77::20/64 dev far0 nodad");
    let node = Node::start(60_000);
    node.manager.apply(Network {
        ipv6: Ipv6::Static {
            address: "fd77::20".parse().unwrap(),
            prefix: 64,
            gateway: Some("fd77::1".parse().unwrap()),
        },
        ..network(Ipv4::None)
    });
    let failed = node.wait("found out", |report| report.state == "failed");
    let reason = failed.reason.unwrap();
    assert!(
        reason.starts_with("another machine on this network has address fd77::20"),
        "{reason}"
    );
}

#[test]
fn applying_the_set_in_force_changes_nothing_and_drift_is_repaired() {
    if !inside("applying_the_set_in_force_changes_nothing_and_drift_is_repaired") {
        return;
    }
    plug();
    let node = Node::start(60_000);
    node.manager.apply(fixed(OURS, FAR));
    node.wait_ready();
    let mut monitor = Running(
        Command::new("ip")
            .args(["-o", "monitor", "link", "address", "route"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(monitor.0.stdout.take().unwrap()).lines();
    // The monitor is listening once it tells of something.
    let listening = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&listening);
    let knocking = std::thread::spawn(move || {
        while !heard.load(Ordering::SeqCst) {
            run("ip address add 127.0.0.9/32 dev lo");
            run("ip address delete 127.0.0.9/32 dev lo");
        }
    });
    assert!(lines.next().unwrap().unwrap().contains("127.0.0.9"));
    listening.store(true, Ordering::SeqCst);
    knocking.join().unwrap();

    node.manager.apply(fixed(OURS, FAR));
    // Drift, the repair of which shows that the duplicate has been dealt with.
    run("ip address add 10.66.0.1/32 dev ovirtmgmt");
    wait_for_output("ip -o -4 address show dev ovirtmgmt", |out| {
        !out.contains("10.66.0.1")
    });
    run("ip address add 127.0.0.10/32 dev lo");
    let mut about_drift = 0;
    for line in lines {
        let line = line.unwrap();
        if line.contains("127.0.0.10") {
            break;
        }
        if !line.contains("127.0.0.9") {
            assert!(
                line.contains("10.66.0.1"),
                "changed by applying what is there already: {line}"
            );
            about_drift += 1;
        }
    }
    assert!(about_drift >= 2, "set and removed");
    node.wait_ready();
}

#[test]
fn a_change_that_loses_the_gateway_is_taken_back() {
    if !inside("a_change_that_loses_the_gateway_is_taken_back") {
        return;
    }
    plug();
    let node = Node::start(2_000);
    node.manager.apply(fixed(OURS, FAR));
    node.wait_ready();
    node.manager.apply(fixed(
        Ipv4Addr::new(10, 77, 0, 21),
        Ipv4Addr::new(10, 77, 0, 254),
    ));
    node.wait("the new set is tried", |report| {
        report.addresses == ["10.77.0.21/24"]
    });
    let report = node.wait("restored", |report| report.state == "restored");
    assert_eq!(report.addresses, ["10.77.0.20/24"]);
    assert_eq!(report.gateways, ["10.77.0.1"]);
    let reason = report.reason.unwrap();
    assert!(
        reason.contains("previous set is back") && reason.contains("10.77.0.254"),
        "{reason}"
    );
    // A set that works is taken, and nothing is said of the old failure.
    node.manager.apply(fixed(Ipv4Addr::new(10, 77, 0, 22), FAR));
    let report = node.wait("ready with the third set", |report| report.state == "ready");
    assert_eq!(
        (report.addresses.as_slice(), report.reason),
        (&["10.77.0.22/24".to_owned()][..], None)
    );
}

#[test]
fn a_silent_gateway_at_boot_is_reported_and_asked_until_it_answers() {
    if !inside("a_silent_gateway_at_boot_is_reported_and_asked_until_it_answers") {
        return;
    }
    plug();
    let node = Node::start(1_000);
    node.manager.apply(fixed(OURS, Ipv4Addr::new(10, 77, 0, 2)));
    let report = node.wait("unreachable", |report| {
        report.state == "gateway-unreachable"
    });
    assert_eq!(report.gateway_reachable, Some(false));
    assert_eq!(
        report.reason.as_deref(),
        Some("gateway 10.77.0.2 does not answer")
    );
    assert_eq!(
        report.addresses,
        ["10.77.0.20/24"],
        "there is nothing to go back to"
    );
    in_far("ip address add 10.77.0.2/24 dev far0");
    node.wait_ready();
}

#[test]
fn a_bare_card_gets_an_address_for_the_time_being() {
    if !inside("a_bare_card_gets_an_address_for_the_time_being") {
        return;
    }
    plug();
    let _server = dhcp_server(&[]);
    let folder = tempfile::tempdir().unwrap();
    let resolv = folder.path().join("resolv.conf");
    let lost = bootstrap(Some([2, 9, 9, 9, 9, 9]), &resolv, 50).unwrap_err();
    assert!(
        lost.to_string()
            .contains("cards found: eth0 (mac 02:00:00:00:77:20)"),
        "{lost}"
    );
    let got = bootstrap(Some([2, 0, 0, 0, 0x77, 0x20]), &resolv, 60_000).unwrap();
    assert_eq!(
        (got.card.as_str(), got.lease.address),
        ("eth0", Ipv4Addr::new(10, 77, 0, 50))
    );
    assert_reaches("10.77.0.1");
    assert!(run("ip route").contains("default via 10.77.0.1 dev eth0"));
    assert!(
        std::fs::read_to_string(&resolv)
            .unwrap()
            .contains("nameserver 10.77.0.1")
    );
    got.undo().unwrap();
    assert_eq!(run("ip -4 -o address show dev eth0"), "");
    assert_eq!(run("ip route"), "");
    // The bridge then gets the very same address.
    let node = Node::start(60_000);
    node.manager.apply(network(Ipv4::Dhcp));
    assert_eq!(node.wait_ready().addresses, ["10.77.0.50/24"]);
}
