//! The policy's life as stories, in a world of one card, one cable, one DHCP
//! server and some gateways, with time by hand.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use control::config::{NicSelector, Uplink};

use super::*;
use crate::net::dhcp::tests::serve;
use crate::net::observed::{Ipv6Settings, Kind, Mac};
use crate::net::plan::simulate;

const DEADLINE_MS: u64 = 30_000;
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

fn gateway(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn network(card: &str, ipv4: Ipv4) -> Network {
    Network {
        bridge: "ovirtmgmt".to_owned(),
        uplink: Uplink::Nic(NicSelector::Name(card.to_owned())),
        vlan: None,
        mtu: None,
        ipv4,
        ipv6: Ipv6::None,
        dns: Vec::new(),
        search: Vec::new(),
    }
}

/// Address 10.0.0.`last` with gateway 10.0.0.`gw`.
fn fixed(last: u8, gw: u8) -> Network {
    let ipv4 = Ipv4::Static {
        address: gateway(last),
        prefix: 24,
        gateway: Some(gateway(gw)),
    };
    network("eth0", ipv4)
}

struct World {
    policy: Policy,
    now: Millis,
    kernel: Observed,
    cable: bool,
    /// Whether duplicate address detection is under way.
    detecting: bool,
    server: bool,
    /// Gateways that answer.
    alive: Vec<Ipv4Addr>,
    /// When each gateway was last asked.
    asked: BTreeMap<IpAddr, Millis>,
    /// Why steps fail, if they do.
    broken: Option<&'static str>,
    /// Steps that the kernel says it took but did not.
    ignored: bool,
    batches: Vec<Millis>,
    address_ready: u32,
    report: NetworkReport,
    resolv: String,
}

impl World {
    fn new() -> Self {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let eth0 = Link {
            index: 2,
            name: "eth0".to_owned(),
            kind: Kind::Nic,
            mac,
            permanent_mac: Some(mac),
            pci: None,
            mtu: 1500,
            mtu_max: None,
            up: false,
            carrier: false,
            master: None,
            ours: false,
            ipv6: Some(Ipv6Settings::FRESH),
        };
        let mut world = Self {
            policy: Policy::new(DEADLINE_MS, 7),
            now: 1_000,
            kernel: Observed {
                links: vec![eth0],
                ..Observed::default()
            },
            cable: true,
            detecting: false,
            server: true,
            alive: vec![gateway(1)],
            asked: BTreeMap::new(),
            broken: None,
            ignored: false,
            batches: Vec::new(),
            address_ready: 0,
            report: NetworkReport::default(),
            resolv: String::new(),
        };
        world.look();
        world
    }

    /// The kernel tells its state.
    fn look(&mut self) {
        for link in &mut self.kernel.links {
            if link.kind == Kind::Nic {
                link.carrier = link.up && self.cable;
            }
        }
        let carrying: Vec<u32> = self
            .kernel
            .links
            .iter()
            .filter(|l| l.carrier)
            .filter_map(|l| l.master)
            .collect();
        for link in &mut self.kernel.links {
            if matches!(link.kind, Kind::Bridge { .. }) {
                link.carrier = link.up && carrying.contains(&link.index);
            }
        }
        for address in &mut self.kernel.addresses {
            address.tentative = address.address.is_ipv6() && self.detecting;
        }
        let observed = self.kernel.clone();
        self.input(Input::Observed(observed));
    }

    fn apply(&mut self, network: &Network) {
        self.input(Input::Apply {
            network: network.clone(),
            hostname: None,
        });
    }

    /// One input and everything that follows from it at this moment.
    fn input(&mut self, input: Input<'_>) {
        self.policy.handle(self.now, input);
        while let Some(effect) = self.policy.next_effect() {
            match effect {
                Effect::Execute(actions) => {
                    self.batches.push(self.now);
                    if self.broken.is_none() && !self.ignored {
                        for action in &actions {
                            simulate(&mut self.kernel, action);
                        }
                    }
                    let outcome = self.broken.map_or(Ok(()), |why| Err(why.to_owned()));
                    self.policy.handle(self.now, Input::Executed(outcome));
                    self.look();
                }
                Effect::Broadcast { message, .. } | Effect::Unicast { message, .. } => {
                    assert!(self.cable, "nothing is sent into a pulled cable");
                    if self.server {
                        let answer = serve(&message, [2, 0, 0, 0, 0, 9], LEASED);
                        self.policy.handle(self.now, Input::Dhcp(&answer));
                    }
                }
                Effect::Probe { gateway, .. } => drop(self.asked.insert(gateway, self.now)),
                Effect::Look { gateway, .. } => {
                    let since = self
                        .asked
                        .get(&gateway)
                        .copied()
                        .expect("asked before looked at");
                    let alive =
                        self.cable && self.alive.iter().any(|alive| IpAddr::V4(*alive) == gateway);
                    let reach = match (alive, self.now - since) {
                        (true, _) => Reach::Answered,
                        (false, 3_000..) => Reach::Silent,
                        (false, _) => Reach::Pending,
                    };
                    self.policy.handle(self.now, Input::Gateway(gateway, reach));
                }
                Effect::Resolv(text) => self.resolv = text,
                Effect::Publish(report) => self.report = report,
                Effect::AddressReady => self.address_ready += 1,
            }
        }
        let next = self.policy.deadline();
        assert!(
            next.is_none_or(|at| at > self.now),
            "would spin: {next:?} is not after {}",
            self.now
        );
    }

    /// Lets time pass.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(at) = self.policy.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.input(Input::Tick);
        }
        self.now = end;
        self.input(Input::Tick);
    }

    fn state(&self) -> &str {
        &self.report.state
    }

    fn reason(&self) -> &str {
        self.report.reason.as_deref().unwrap_or_default()
    }
}

#[test]
fn without_a_set_nothing_is_touched() {
    let mut world = World::new();
    world.pass(100_000);
    assert_eq!((world.state(), world.batches.len()), ("unconfigured", 0));
}

#[test]
fn a_fixed_set_is_ready_once_its_gateway_answers() {
    let mut world = World::new();
    world.apply(&fixed(7, 1));
    assert_eq!(world.state(), "configuring");
    assert_eq!(world.reason(), "waiting for gateway 10.0.0.1 to answer");
    assert_eq!(
        world.address_ready, 1,
        "the address does not wait for the gateway"
    );
    world.pass(100);
    assert_eq!((world.state(), world.reason()), ("ready", ""));
    assert_eq!(world.report.addresses, ["10.0.0.7/24"]);
    assert_eq!(world.report.gateway_reachable, Some(true));
    assert_eq!(world.batches.len(), 1, "one batch is enough");
}

#[test]
fn a_leased_set_asks_writes_name_servers_and_is_ready() {
    let mut world = World::new();
    world.apply(&network("eth0", Ipv4::Dhcp));
    world.pass(100);
    assert_eq!((world.state(), world.reason()), ("ready", ""));
    assert_eq!(world.report.addresses, ["10.0.0.50/24"]);
    assert_eq!(world.report.gateways, ["10.0.0.1"]);
    assert_eq!(
        (world.address_ready, world.report.address_at_ms),
        (1, Some(1_000))
    );
    world.pass(7 * 24 * 3_600_000);
    assert_eq!(
        (world.state(), world.batches.len()),
        ("ready", 2),
        "a week of renewals changes nothing"
    );
    assert_eq!(world.address_ready, 1);
}

#[test]
fn a_silent_dhcp_server_is_named_and_outlived() {
    let mut world = World::new();
    world.server = false;
    world.apply(&network("eth0", Ipv4::Dhcp));
    world.pass(200_000);
    assert_eq!(
        (world.state(), world.reason()),
        ("configuring", "no DHCP server has offered an address yet")
    );
    world.server = true;
    world.pass(100_000);
    assert_eq!(world.state(), "ready");
}

#[test]
fn a_lease_that_ends_takes_the_address_off_the_bridge() {
    let mut world = World::new();
    world.apply(&network("eth0", Ipv4::Dhcp));
    world.pass(100);
    world.server = false;
    world.pass(3_700_000);
    assert_eq!(world.state(), "configuring");
    assert_eq!(world.report.addresses, Vec::<String>::new());
    assert!(world.reason().contains("lease ended"), "{}", world.reason());
}

#[test]
fn applying_the_set_in_force_does_nothing() {
    let mut world = World::new();
    let set = fixed(7, 1);
    world.apply(&set);
    world.pass(100);
    let before = (
        world.kernel.clone(),
        world.batches.len(),
        world.policy.deadline(),
    );
    world.apply(&set);
    assert_eq!(
        (
            world.kernel.clone(),
            world.batches.len(),
            world.policy.deadline()
        ),
        before
    );
    assert_eq!(world.state(), "ready");
}

#[test]
fn a_silent_gateway_at_boot_is_asked_on_and_nothing_is_restored() {
    let mut world = World::new();
    world.apply(&fixed(7, 2));
    world.pass(10 * DEADLINE_MS);
    assert_eq!(
        (world.state(), world.reason()),
        ("gateway-unreachable", "gateway 10.0.0.2 does not answer")
    );
    assert_eq!(world.report.gateway_reachable, Some(false));
    assert_eq!(world.report.addresses, ["10.0.0.7/24"]);
    world.alive.push(gateway(2));
    world.pass(5_000);
    assert_eq!(world.state(), "ready");
}

#[test]
fn a_change_that_loses_the_gateway_is_taken_back_at_its_deadline() {
    let mut world = World::new();
    world.apply(&fixed(7, 1));
    world.pass(100);
    world.apply(&fixed(8, 2));
    world.pass(DEADLINE_MS - 1);
    assert_eq!(
        world.report.addresses,
        ["10.0.0.8/24"],
        "it is given its time"
    );
    assert_eq!(world.state(), "gateway-unreachable");
    world.pass(200);
    assert_eq!(world.state(), "restored");
    assert_eq!(world.report.addresses, ["10.0.0.7/24"]);
    assert_eq!(
        world.reason(),
        "the previous set is back: the new one was not ready within 30 s: gateway 10.0.0.2 does not answer"
    );
    world.pass(10 * DEADLINE_MS);
    assert_eq!(world.state(), "restored", "it stays");
}

#[test]
fn a_change_that_works_in_time_stays() {
    let mut world = World::new();
    world.apply(&fixed(7, 1));
    world.pass(100);
    world.apply(&fixed(8, 2));
    world.pass(DEADLINE_MS / 2);
    world.alive.push(gateway(2));
    world.pass(10 * DEADLINE_MS);
    assert_eq!((world.state(), world.reason()), ("ready", ""));
    assert_eq!(world.report.addresses, ["10.0.0.8/24"]);
    // A gateway that falls silent later is no reason to go back.
    world.alive.clear();
    world.pass(10 * DEADLINE_MS);
    assert_eq!(world.state(), "gateway-unreachable");
    assert_eq!(world.report.addresses, ["10.0.0.8/24"]);
}

#[test]
fn a_change_to_a_card_that_is_not_there_is_taken_back() {
    let mut world = World::new();
    world.apply(&fixed(7, 1));
    world.pass(100);
    world.apply(&network("eth9", Ipv4::Dhcp));
    assert_eq!(world.state(), "waiting-for-link");
    world.pass(DEADLINE_MS + 200);
    assert_eq!(world.state(), "restored");
    assert!(
        world
            .reason()
            .contains("no network card name eth9; cards found: eth0"),
        "{}",
        world.reason()
    );
}

#[test]
fn a_change_to_dhcp_without_a_server_is_taken_back_and_one_with_it_stays() {
    let mut world = World::new();
    world.server = false;
    world.apply(&fixed(7, 1));
    world.pass(100);
    world.apply(&network("eth0", Ipv4::Dhcp));
    world.pass(DEADLINE_MS + 200);
    assert_eq!(
        (world.state(), world.report.addresses.as_slice()),
        ("restored", &["10.0.0.7/24".to_owned()][..])
    );
    world.server = true;
    world.apply(&network("eth0", Ipv4::Dhcp));
    world.pass(10 * DEADLINE_MS);
    assert_eq!((world.state(), world.reason()), ("ready", ""));
}

#[test]
fn only_a_set_that_was_ready_is_restored() {
    let mut world = World::new();
    world.apply(&fixed(7, 1));
    world.pass(100);
    // Two bad changes in a row, the second before the first was given up.
    world.apply(&fixed(8, 2));
    world.pass(DEADLINE_MS / 2);
    world.apply(&fixed(9, 3));
    world.pass(DEADLINE_MS - 1);
    assert_eq!(
        world.report.addresses,
        ["10.0.0.9/24"],
        "the second has a deadline of its own"
    );
    world.pass(200);
    assert_eq!(
        (world.state(), world.report.addresses.as_slice()),
        ("restored", &["10.0.0.7/24".to_owned()][..])
    );
}

#[test]
fn agreeing_with_the_restored_set_ends_the_matter_and_repeating_the_bad_one_tries_again() {
    let mut world = World::new();
    let good = fixed(7, 1);
    world.apply(&good);
    world.pass(100);
    world.apply(&fixed(8, 2));
    world.pass(DEADLINE_MS + 200);
    let batches = world.batches.len();
    world.apply(&good);
    assert_eq!(
        (world.state(), world.reason(), world.batches.len()),
        ("ready", "", batches)
    );
    world.apply(&fixed(8, 2));
    world.pass(5_000);
    assert_eq!(
        (world.state(), world.report.addresses.as_slice()),
        ("gateway-unreachable", &["10.0.0.8/24".to_owned()][..])
    );
}

#[test]
fn a_pulled_cable_is_no_gateways_fault() {
    let mut world = World::new();
    world.apply(&fixed(7, 1));
    world.pass(100);
    world.cable = false;
    world.look();
    assert_eq!(
        (world.state(), world.reason()),
        ("waiting-for-link", "no carrier on ovirtmgmt (over eth0)")
    );
    assert_eq!(world.report.gateway_reachable, None);
    world.pass(100_000);
    world.cable = true;
    world.look();
    world.pass(100);
    assert_eq!(world.state(), "ready");
}

#[test]
fn a_guest_on_the_bridge_does_not_hide_a_pulled_cable() {
    let mut world = World::new();
    world.apply(&network("eth0", Ipv4::Dhcp));
    world.pass(1_000);
    assert_eq!(world.state(), "ready");
    let bridge = world.kernel.named("ovirtmgmt").map(|bridge| bridge.index);
    let tap = Link {
        index: 77,
        name: "vnet0".to_owned(),
        kind: Kind::Other,
        master: bridge,
        up: true,
        carrier: true,
        ..world.kernel.links[0].clone()
    };
    world.kernel.links.push(tap);
    world.cable = false;
    world.look();
    assert_eq!(
        (world.state(), world.reason()),
        ("waiting-for-link", "no carrier on ovirtmgmt (over eth0)")
    );
    // Plugged in again it may be another network: the address is confirmed.
    world.pass(10_000);
    world.cable = true;
    world.server = false;
    world.look();
    world.server = true;
    world.pass(10_000);
    assert_eq!(world.state(), "ready");
}

#[test]
fn an_ipv6_address_that_another_machine_has_is_named_and_a_change_to_it_taken_back() {
    let mut world = World::new();
    let at = |last: u16| {
        let address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last);
        let ipv6 = Ipv6::Static {
            address,
            prefix: 64,
            gateway: None,
        };
        Network {
            ipv6,
            ..network("eth0", Ipv4::None)
        }
    };
    world.apply(&at(7));
    world.pass(100);
    assert_eq!(world.state(), "ready");
    world.detecting = true;
    world.apply(&at(8));
    assert_eq!(
        (world.state(), world.reason()),
        (
            "configuring",
            "making sure that no other machine has address fd77::8"
        )
    );
    world.detecting = false;
    world.kernel.addresses[0].duplicate = true;
    world.look();
    let why = "another machine on this network has address fd77::8: configure another, \
               or take it off that machine";
    assert_eq!((world.state(), world.reason()), ("failed", why));
    world.pass(DEADLINE_MS);
    assert_eq!(world.state(), "restored");
    assert!(world.reason().contains(why), "{}", world.reason());
    assert_eq!(world.report.addresses, ["fd77::7/64"]);
}

#[test]
fn a_failing_step_is_named_and_repeated_ever_more_slowly() {
    let mut world = World::new();
    world.broken = Some("step \"create bridge\": operation not supported");
    world.apply(&fixed(7, 1));
    world.pass(10 * 60_000);
    assert_eq!(
        (world.state(), world.reason()),
        ("failed", "step \"create bridge\": operation not supported")
    );
    let gaps: Vec<u64> = world
        .batches
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    assert_eq!(gaps[..7], [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
    assert!(world.batches.len() < 40, "{}", world.batches.len());
    // News in between does not hurry it.
    let before = world.batches.len();
    world.look();
    assert_eq!(world.batches.len(), before);
    world.broken = None;
    world.pass(31_000);
    assert_eq!(world.state(), "ready");
}

#[test]
fn a_kernel_that_only_pretends_is_found_out() {
    let mut world = World::new();
    world.ignored = true;
    world.apply(&fixed(7, 1));
    world.pass(60_000);
    assert_eq!(world.state(), "failed");
    assert!(
        world
            .reason()
            .contains("did not keep \"eth0: disable_ipv6 = 1\""),
        "{}",
        world.reason()
    );
    assert!(world.batches.len() < 60, "{}", world.batches.len());
    world.ignored = false;
    world.pass(60_000);
    assert_eq!(world.state(), "ready");
}

#[test]
fn a_card_that_comes_late_and_goes_again_is_followed() {
    let mut world = World::new();
    let cards = std::mem::take(&mut world.kernel.links);
    world.look();
    world.apply(&network("eth0", Ipv4::Dhcp));
    assert_eq!(
        (world.state(), world.reason()),
        (
            "waiting-for-link",
            "no network card name eth0; cards found: none"
        )
    );
    world.kernel.links = cards;
    world.look();
    world.pass(100);
    assert_eq!(world.state(), "ready");
    let gone = world
        .kernel
        .links
        .iter()
        .position(|link| link.name == "eth0")
        .expect("there");
    let mut card = world.kernel.links.remove(gone);
    world.look();
    assert_eq!(world.state(), "waiting-for-link");
    assert_eq!(
        world.report.addresses,
        ["10.0.0.50/24"],
        "the address outlives the card"
    );
    (card.index, card.master, card.up) = (77, None, false);
    world.pass(50_000);
    world.kernel.links.push(card);
    world.look();
    world.pass(100);
    assert_eq!(world.state(), "ready");
}

#[test]
fn advertised_name_servers_follow_the_leased_ones_and_go_with_their_time() {
    let mut world = World::new();
    let network = Network {
        ipv6: Ipv6::Slaac,
        ..network("eth0", Ipv4::Dhcp)
    };
    world.apply(&network);
    world.pass(1_000);
    let leased = world.resolv.clone();
    let bridge = world.kernel.named("ovirtmgmt").map(|bridge| bridge.index);
    let mut news = Advertisement {
        link: bridge.expect("made"),
        servers: vec![Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x53)],
        lifetime_s: 600,
    };
    world.input(Input::Advertised(&news));
    assert_eq!(world.resolv, format!("{leased}nameserver fd77::53\n"));
    assert_eq!(
        world.report.dns.last().map(String::as_str),
        Some("fd77::53")
    );
    world.pass(599_000);
    assert!(world.resolv.contains("fd77::53"));
    world.pass(2_000);
    assert_eq!(world.resolv, leased, "its time has passed");
    // Of another link, or with addresses set by hand, it is nobody's word.
    news.link += 1;
    world.input(Input::Advertised(&news));
    assert_eq!(world.resolv, leased);
    news.link -= 1;
    world.apply(&Network {
        ipv6: Ipv6::None,
        ..network
    });
    world.input(Input::Advertised(&news));
    world.pass(1_000);
    assert_eq!(world.resolv, leased);
}

#[test]
fn configured_name_servers_win() {
    let mut world = World::new();
    let dns = vec!["10.9.9.9".parse().expect("an address")];
    world.apply(&Network {
        dns,
        search: vec!["a.example".to_owned()],
        ..network("eth0", Ipv4::Dhcp)
    });
    world.pass(100);
    assert_eq!(world.resolv, "search a.example\nnameserver 10.9.9.9\n");
    assert_eq!(world.report.dns, ["10.9.9.9"]);
}
