//! Plans as pictures: configuration and cards in, steps out.

use std::net::{IpAddr, Ipv4Addr};

use control::config::BondMode;
use expect_test::{Expect, expect};

use super::planner::vlan_name;
use super::*;
use crate::net::dhcp::LeaseRoute;
use crate::net::observed::{Address, Ipv6Settings, Origin, Route};

mod build;
mod change;
mod choice;

/// A card as the kernel shows it after boot.
fn card(index: u32, name: &str) -> Link {
    let last = u8::try_from(index).unwrap();
    let mac = Mac([0x52, 0x54, 0, 0, 0, last]);
    Link {
        index,
        name: name.to_owned(),
        kind: Kind::Nic,
        mac,
        permanent_mac: Some(mac),
        pci: Some(format!("0000:00:{index:02x}.0")),
        mtu: 1500,
        mtu_max: Some(9000),
        up: false,
        carrier: true,
        master: None,
        ours: false,
        ipv6: Some(Ipv6Settings::FRESH),
    }
}

/// A machine with three cards, eth0 to eth2 with the indexes 2 to 4.
fn machine() -> Observed {
    let loopback = Link {
        kind: Kind::Other,
        name: "lo".to_owned(),
        mac: Mac([0; 6]),
        permanent_mac: None,
        pci: None,
        ..card(1, "lo")
    };
    Observed {
        links: vec![loopback, card(2, "eth0"), card(3, "eth1"), card(4, "eth2")],
        ..Observed::default()
    }
}

fn named(name: &str) -> NicSelector {
    NicSelector::Name(name.to_owned())
}

fn over_nic(selector: NicSelector) -> Network {
    Network {
        bridge: "ovirtmgmt".to_owned(),
        uplink: Uplink::Nic(selector),
        vlan: None,
        mtu: None,
        ipv4: Ipv4::Dhcp,
        ipv6: Ipv6::None,
        dns: Vec::new(),
        search: Vec::new(),
    }
}

fn over_bond(mode: BondMode) -> Network {
    let uplink = Uplink::Bond {
        name: "bond0".to_owned(),
        mode,
        members: vec![named("eth0"), named("eth1")],
    };
    Network {
        uplink,
        ..over_nic(named("eth0"))
    }
}

fn fixed_v4() -> Ipv4 {
    Ipv4::Static {
        address: Ipv4Addr::new(10, 0, 0, 7),
        prefix: 24,
        gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
    }
}

fn fixed_v6() -> Ipv6 {
    Ipv6::Static {
        address: "2001:db8::7".parse().unwrap(),
        prefix: 64,
        gateway: Some("fe80::1".parse().unwrap()),
    }
}

fn lease() -> Lease {
    Lease {
        address: Ipv4Addr::new(10, 0, 0, 50),
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 0, 1),
        routes: vec![LeaseRoute {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
        }],
        dns: Vec::new(),
        search: Vec::new(),
        mtu: None,
        valid_s: None,
        renew_s: None,
        rebind_s: None,
    }
}

fn steps(network: &Network, lease: Option<&Lease>, observed: &Observed) -> Vec<Action> {
    match plan(network, lease, observed) {
        Ok(Planned::Steps(plan)) => plan.actions,
        other => panic!("{other:?}"),
    }
}

/// What the kernel refuses, so that no order of steps runs into it.
fn assert_taken(model: &Observed, action: &Action) {
    let link = |name: &String| {
        let found = model.named(name);
        found.unwrap_or_else(|| panic!("{action}: {name} is not there"))
    };
    match action {
        Action::CreateBond { link: name, .. } | Action::CreateBridge { link: name, .. } => {
            assert_eq!(model.named(name), None, "{action}");
        }
        Action::CreateVlan {
            link: name,
            lower,
            id,
        } => {
            assert_eq!(model.named(name), None, "{action}");
            let lower = link(lower).index;
            let kind = Kind::Vlan { lower, id: *id };
            assert!(
                model.links.iter().all(|l| l.kind != kind),
                "{action}: there already"
            );
        }
        Action::SetMtu { link: name, mtu } => match link(name).kind {
            // A VLAN's frames must fit the link below.
            Kind::Vlan { lower, .. } => {
                assert!(
                    model.indexed(lower).is_some_and(|l| l.mtu >= *mtu),
                    "{action}"
                );
            }
            Kind::Bond { .. } => {
                let index = link(name).index;
                let fits = |l: &&Link| l.mtu_max.is_none_or(|max| *mtu <= max);
                assert!(
                    model
                        .links
                        .iter()
                        .filter(|l| l.master == Some(index))
                        .all(|l| fits(&l))
                );
            }
            _ => assert!(link(name).mtu_max.is_none_or(|max| *mtu <= max), "{action}"),
        },
        Action::Attach { link: name, master } => {
            let (port, master) = (link(name), link(master));
            match master.kind {
                Kind::Bond { .. } => assert!(!port.up, "{action}: a bond takes no port that is up"),
                Kind::Bridge { .. } => {}
                _ => panic!("{action}: {master:?} takes no ports"),
            }
        }
        Action::AddAddress {
            link: name,
            address,
            ..
        } if address.is_ipv6() => {
            let bridge = link(name);
            assert!(
                bridge.ipv6.is_some_and(|settings| settings.disable == 0),
                "{action}"
            );
            assert!(
                bridge.mtu >= 1280,
                "{action}: no IPv6 on a link with mtu {}",
                bridge.mtu
            );
        }
        Action::AddRoute {
            link: name,
            gateway: Some(gateway),
            ..
        } => {
            let bridge = link(name);
            assert!(bridge.up, "{action}: a link that is down has no routes");
            let on_link = |network: IpAddr, prefix| contains(network, prefix, *gateway);
            let reached = model
                .addresses
                .iter()
                .any(|a| a.link == bridge.index && on_link(a.address, a.prefix))
                || model.routes.iter().any(|r| {
                    r.link == bridge.index
                        && r.gateway.is_none()
                        && on_link(r.destination, r.prefix)
                })
                || matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
            assert!(reached, "{action}: nothing leads to the gateway");
        }
        Action::Delete { link: name } => {
            assert!(matches!(
                link(name).kind,
                Kind::Bond { .. } | Kind::Vlan { .. } | Kind::Bridge { .. }
            ));
        }
        Action::AdjustBridge { link: name }
        | Action::SetMac { link: name, .. }
        | Action::Detach { link: name }
        | Action::Up { link: name }
        | Action::Down { link: name }
        | Action::SetIpv6 { link: name, .. }
        | Action::AddAddress { link: name, .. }
        | Action::RemoveAddress { link: name, .. }
        | Action::AddRoute { link: name, .. }
        | Action::RemoveRoute { link: name, .. } => {
            link(name);
        }
    }
}

/// Takes every step on `observed`; planning again must give none.
fn take(network: &Network, lease: Option<&Lease>, observed: &mut Observed) -> Vec<Action> {
    let actions = steps(network, lease, observed);
    for action in &actions {
        assert_taken(observed, action);
        simulate(observed, action);
    }
    assert_eq!(
        steps(network, lease, observed),
        [],
        "a second plan changes something"
    );
    actions
}

fn text(actions: &[Action]) -> String {
    actions.iter().map(|action| format!("{action}\n")).collect()
}

/// Checks the plan on a fresh machine; returns the machine afterwards.
#[expect(
    clippy::needless_pass_by_value,
    reason = "expectations are written in place"
)]
fn check(network: &Network, lease: Option<&Lease>, expected: Expect) -> Observed {
    let mut observed = machine();
    let actions = take(network, lease, &mut observed);
    expected.assert_eq(&text(&actions));
    observed
}
