//! Plans as pictures: configuration and cards in, steps out.

use std::net::{IpAddr, Ipv4Addr};

use control::config::BondMode;
use expect_test::{Expect, expect};

use super::planner::vlan_name;
use super::*;
use crate::net::dhcp::LeaseRoute;
use crate::net::observed::{Address, Ipv6Settings, Origin, Route};

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

#[test]
fn over_one_card_before_there_is_a_lease() {
    check(
        &over_nic(named("eth0")),
        None,
        expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        eth0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
    "#]],
    );
}

#[test]
fn over_one_card_with_a_lease() {
    check(
        &over_nic(named("eth0")),
        Some(&lease()),
        expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        eth0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
        ovirtmgmt: add address 10.0.0.50/24
        ovirtmgmt: add route default via 10.0.0.1
    "#]],
    );
}

#[test]
fn static_addresses_of_both_families_and_a_large_mtu() {
    let network = Network {
        ipv4: fixed_v4(),
        ipv6: fixed_v6(),
        mtu: Some(9000),
        ..over_nic(named("eth0"))
    };
    check(
        &network,
        None,
        expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: mtu 9000
        eth0: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        eth0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
        ovirtmgmt: mtu 9000
        ovirtmgmt: add address 10.0.0.7/24
        ovirtmgmt: add address 2001:db8::7/64
        ovirtmgmt: add route default via 10.0.0.1
        ovirtmgmt: add route default via fe80::1
    "#]],
    );
}

#[test]
fn autoconfiguration_alone() {
    let network = Network {
        ipv4: Ipv4::None,
        ipv6: Ipv6::Slaac,
        ..over_nic(named("eth0"))
    };
    check(
        &network,
        None,
        expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        eth0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 2
        ovirtmgmt: up
    "#]],
    );
}

#[test]
fn a_vlan_over_one_card() {
    check(
        &Network {
            vlan: Some(100),
            ipv4: fixed_v4(),
            mtu: Some(1400),
            ..over_nic(named("eth0"))
        },
        None,
        expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: mtu 1400
        eth0: up
        create vlan eth0.100 on eth0 id 100
        eth0.100: disable_ipv6 = 1
        eth0.100: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        eth0.100: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
        ovirtmgmt: mtu 1400
        ovirtmgmt: add address 10.0.0.7/24
        ovirtmgmt: add route default via 10.0.0.1
    "#]],
    );
}

#[test]
fn an_active_backup_bond() {
    check(
        &over_bond(BondMode::ActiveBackup),
        None,
        expect![[r#"
        create bond bond0 mode active-backup mac 52:54:00:00:00:02
        eth0: disable_ipv6 = 1
        eth0: attach to bond0
        eth1: disable_ipv6 = 1
        eth1: attach to bond0
        bond0: disable_ipv6 = 1
        bond0: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        bond0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
    "#]],
    );
}

#[test]
fn an_lacp_bond_with_a_large_mtu_and_a_static_address() {
    let network = Network {
        mtu: Some(9000),
        ipv4: fixed_v4(),
        ..over_bond(BondMode::Lacp)
    };
    check(
        &network,
        None,
        expect![[r#"
        create bond bond0 mode 802.3ad mac 52:54:00:00:00:02
        eth0: disable_ipv6 = 1
        eth0: attach to bond0
        eth1: disable_ipv6 = 1
        eth1: attach to bond0
        bond0: mtu 9000
        bond0: disable_ipv6 = 1
        bond0: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        bond0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
        ovirtmgmt: mtu 9000
        ovirtmgmt: add address 10.0.0.7/24
        ovirtmgmt: add route default via 10.0.0.1
    "#]],
    );
}

#[test]
fn a_vlan_over_a_balance_xor_bond_with_autoconfiguration() {
    let network = Network {
        vlan: Some(4094),
        ipv6: Ipv6::Slaac,
        ..over_bond(BondMode::BalanceXor)
    };
    check(
        &network,
        Some(&lease()),
        expect![[r#"
        create bond bond0 mode balance-xor mac 52:54:00:00:00:02
        eth0: disable_ipv6 = 1
        eth0: attach to bond0
        eth1: disable_ipv6 = 1
        eth1: attach to bond0
        bond0: disable_ipv6 = 1
        bond0: up
        create vlan bond0.4094 on bond0 id 4094
        bond0.4094: disable_ipv6 = 1
        bond0.4094: up
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        bond0.4094: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 2
        ovirtmgmt: up
        ovirtmgmt: add address 10.0.0.50/24
        ovirtmgmt: add route default via 10.0.0.1
    "#]],
    );
}

#[test]
fn an_address_left_on_the_card_moves_to_the_bridge() {
    let mut observed = machine();
    let (address, gateway) = (
        IpAddr::from([10, 0, 0, 7]),
        Some(IpAddr::from([10, 0, 0, 1])),
    );
    observed.links[1].up = true;
    observed.addresses.push(Address {
        link: 2,
        address,
        prefix: 24,
        origin: Origin::Program,
        tentative: false,
        duplicate: false,
    });
    observed.routes.push(Route {
        link: 2,
        destination: Ipv4Addr::UNSPECIFIED.into(),
        prefix: 0,
        gateway,
        origin: Origin::Program,
    });
    let network = Network {
        ipv4: fixed_v4(),
        ..over_nic(named("eth0"))
    };
    expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: remove address 10.0.0.7/24
        create bridge ovirtmgmt mac 52:54:00:00:00:02
        eth0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
        ovirtmgmt: add address 10.0.0.7/24
        ovirtmgmt: add route default via 10.0.0.1
    "#]]
    .assert_eq(&text(&take(&network, None, &mut observed)));
}

#[test]
fn from_a_bond_with_a_vlan_to_a_single_card() {
    let mut observed = machine();
    take(
        &Network {
            vlan: Some(100),
            mtu: Some(9000),
            ..over_bond(BondMode::Lacp)
        },
        Some(&lease()),
        &mut observed,
    );
    expect![[r#"
        delete bond0.100
        delete bond0
        eth1: mtu 1500
        eth1: up
        ovirtmgmt: mac 52:54:00:00:00:03
        eth1: attach to ovirtmgmt
        ovirtmgmt: mtu 1500
    "#]]
    .assert_eq(&text(&take(
        &over_nic(named("eth1")),
        Some(&lease()),
        &mut observed,
    )));
}

#[test]
fn from_a_single_card_to_a_bond_of_another_mode_and_back_again() {
    let mut observed = machine();
    take(&over_nic(named("eth0")), None, &mut observed);
    expect![[r#"
        create bond bond0 mode active-backup mac 52:54:00:00:00:02
        eth0: down
        eth0: attach to bond0
        eth1: disable_ipv6 = 1
        eth1: attach to bond0
        bond0: disable_ipv6 = 1
        bond0: up
        bond0: attach to ovirtmgmt
    "#]]
    .assert_eq(&text(&take(
        &over_bond(BondMode::ActiveBackup),
        None,
        &mut observed,
    )));
    expect![[r#"
        delete bond0
        create bond bond0 mode 802.3ad mac 52:54:00:00:00:02
        eth0: attach to bond0
        eth1: attach to bond0
        bond0: disable_ipv6 = 1
        bond0: up
        bond0: attach to ovirtmgmt
    "#]]
    .assert_eq(&text(&take(
        &over_bond(BondMode::Lacp),
        None,
        &mut observed,
    )));
}

#[test]
fn a_renamed_bridge_and_vlan_leave_nothing_behind() {
    let mut observed = machine();
    take(
        &Network {
            vlan: Some(100),
            ..over_nic(named("eth0"))
        },
        Some(&lease()),
        &mut observed,
    );
    let network = Network {
        bridge: "mgmt".to_owned(),
        vlan: Some(200),
        ..over_nic(named("eth0"))
    };
    expect![[r#"
        delete ovirtmgmt
        delete eth0.100
        create vlan eth0.200 on eth0 id 200
        eth0.200: disable_ipv6 = 1
        eth0.200: up
        create bridge mgmt mac 52:54:00:00:00:02
        eth0.200: attach to mgmt
        mgmt: accept_ra = 0
        mgmt: autoconf = 0
        mgmt: up
        mgmt: add address 10.0.0.50/24
        mgmt: add route default via 10.0.0.1
    "#]]
    .assert_eq(&text(&take(&network, Some(&lease()), &mut observed)));
}

#[test]
fn a_lost_lease_takes_its_address_along() {
    let network = over_nic(named("eth0"));
    let mut observed = machine();
    take(&network, Some(&lease()), &mut observed);
    expect![[r#"
        ovirtmgmt: remove address 10.0.0.50/24
    "#]]
    .assert_eq(&text(&take(&network, None, &mut observed)));
}

#[test]
fn turning_autoconfiguration_on_later_asks_the_routers_anew() {
    let mut observed = machine();
    let network = Network {
        ipv4: fixed_v4(),
        ..over_nic(named("eth0"))
    };
    take(&network, None, &mut observed);
    let network = Network {
        ipv6: Ipv6::Slaac,
        ..network
    };
    expect![[r#"
        ovirtmgmt: disable_ipv6 = 1
        ovirtmgmt: accept_ra = 2
        ovirtmgmt: autoconf = 1
        ovirtmgmt: disable_ipv6 = 0
    "#]]
    .assert_eq(&text(&take(&network, None, &mut observed)));
}

#[test]
fn advertised_addresses_go_with_autoconfiguration() {
    let mut observed = machine();
    let network = Network {
        ipv6: Ipv6::Slaac,
        ..over_nic(named("eth0"))
    };
    take(&network, None, &mut observed);
    let bridge = observed.named("ovirtmgmt").unwrap().index;
    let address = "2001:db8::5054:ff:fe00:2".parse().unwrap();
    observed.addresses.push(Address {
        link: bridge,
        address,
        prefix: 64,
        origin: Origin::Advertised,
        tentative: false,
        duplicate: false,
    });
    assert_eq!(
        steps(&network, None, &observed),
        [],
        "left alone while wanted"
    );
    let network = over_nic(named("eth0"));
    expect![[r#"
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: remove address 2001:db8::5054:ff:fe00:2/64
    "#]]
    .assert_eq(&text(&take(&network, None, &mut observed)));
}

#[test]
fn a_gateway_outside_the_leased_network_gets_a_route_of_its_own_first() {
    let mut lease = lease();
    lease.prefix = 32;
    let actions = take(&over_nic(named("eth0")), Some(&lease), &mut machine());
    expect![[r#"
        ovirtmgmt: add address 10.0.0.50/32
        ovirtmgmt: add route 10.0.0.1/32
        ovirtmgmt: add route default via 10.0.0.1
    "#]]
    .assert_eq(&text(&actions[actions.len() - 3..]));
}

#[test]
fn dhcp_may_lower_the_bridges_mtu_but_not_raise_it() {
    let mtu = |offered, configured| {
        let mut observed = machine();
        let network = Network {
            mtu: configured,
            ..over_nic(named("eth0"))
        };
        take(
            &network,
            Some(&Lease {
                mtu: Some(offered),
                ..lease()
            }),
            &mut observed,
        );
        (
            observed.named("eth0").unwrap().mtu,
            observed.named("ovirtmgmt").unwrap().mtu,
        )
    };
    assert_eq!(mtu(1400, None), (1500, 1400));
    assert_eq!(mtu(9000, None), (1500, 1500));
    assert_eq!(
        mtu(1400, Some(9000)),
        (9000, 9000),
        "the configuration decides"
    );
}

#[test]
fn dhcp_does_not_lower_the_mtu_so_far_that_ipv6_is_lost() {
    let small = Lease {
        mtu: Some(576),
        ..lease()
    };
    for (ipv6, expected) in [(Ipv6::None, 576), (Ipv6::Slaac, 1280), (fixed_v6(), 1280)] {
        let mut observed = machine();
        let network = Network {
            ipv6,
            ..over_nic(named("eth0"))
        };
        take(&network, Some(&small), &mut observed);
        assert_eq!(observed.named("ovirtmgmt").unwrap().mtu, expected);
    }
}

#[test]
fn a_vlan_over_a_bond_grows_from_below_and_shrinks_with_it() {
    let network = |mtu| Network {
        vlan: Some(100),
        mtu,
        ..over_bond(BondMode::ActiveBackup)
    };
    let mut observed = machine();
    take(&network(None), None, &mut observed);
    expect![[r#"
        bond0: mtu 9000
        bond0.100: mtu 9000
        ovirtmgmt: mtu 9000
    "#]]
    .assert_eq(&text(&take(&network(Some(9000)), None, &mut observed)));
    expect![[r#"
        bond0: mtu 1400
        ovirtmgmt: mtu 1400
    "#]]
    .assert_eq(&text(&take(&network(Some(1400)), None, &mut observed)));
    // Somebody's mtu on one link alone is put right.
    for (name, mtu) in [("eth1", 1300), ("bond0.100", 1280), ("ovirtmgmt", 1500)] {
        let link = observed.links.iter_mut().find(|link| link.name == name);
        link.unwrap().mtu = mtu;
    }
    expect![[r#"
        eth1: mtu 1400
        bond0.100: mtu 1400
        ovirtmgmt: mtu 1400
    "#]]
    .assert_eq(&text(&take(&network(Some(1400)), None, &mut observed)));
}

#[test]
fn a_vlan_over_an_active_backup_bond_by_mac_and_pci_address_with_static_addresses() {
    let members = vec![
        NicSelector::Mac([0x52, 0x54, 0, 0, 0, 4]),
        NicSelector::Pci("0000:00:02.0".to_owned()),
    ];
    let network = Network {
        uplink: Uplink::Bond {
            name: "bond0".to_owned(),
            mode: BondMode::ActiveBackup,
            members,
        },
        vlan: Some(7),
        mtu: Some(9000),
        ipv4: fixed_v4(),
        ipv6: fixed_v6(),
        ..over_nic(named("eth0"))
    };
    check(
        &network,
        None,
        expect![[r#"
        create bond bond0 mode active-backup mac 52:54:00:00:00:04
        eth2: disable_ipv6 = 1
        eth2: attach to bond0
        eth0: disable_ipv6 = 1
        eth0: attach to bond0
        bond0: mtu 9000
        bond0: disable_ipv6 = 1
        bond0: up
        create vlan bond0.7 on bond0 id 7
        bond0.7: disable_ipv6 = 1
        bond0.7: up
        create bridge ovirtmgmt mac 52:54:00:00:00:04
        bond0.7: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
        ovirtmgmt: mtu 9000
        ovirtmgmt: add address 10.0.0.7/24
        ovirtmgmt: add address 2001:db8::7/64
        ovirtmgmt: add route default via 10.0.0.1
        ovirtmgmt: add route default via fe80::1
    "#]],
    );
}

#[test]
fn cards_are_found_by_permanent_mac_name_and_pci_address() {
    let mac = NicSelector::Mac([0x52, 0x54, 0, 0, 0, 3]);
    let pci = NicSelector::Pci("0000:00:03.0".to_owned());
    let by_name = text(&steps(&over_nic(named("eth1")), None, &machine()));
    assert!(by_name.contains("eth1: attach to ovirtmgmt"));
    assert_eq!(
        text(&steps(&over_nic(mac.clone()), None, &machine())),
        by_name
    );
    assert_eq!(text(&steps(&over_nic(pci), None, &machine())), by_name);

    // In a bond every member, the bond and the VLAN share eth0's address.
    let mut observed = machine();
    take(
        &Network {
            vlan: Some(5),
            ..over_bond(BondMode::ActiveBackup)
        },
        None,
        &mut observed,
    );
    let shared = observed
        .links
        .iter()
        .filter(|link| link.mac == Mac([0x52, 0x54, 0, 0, 0, 2]))
        .count();
    assert_eq!(shared, 5, "two cards, bond, VLAN, bridge");
    let Ok(Planned::Steps(found)) = plan(&over_nic(mac), None, &observed) else {
        panic!("eth1 was not found")
    };
    assert_eq!(found.chain, ["eth1", "ovirtmgmt"]);
}

#[test]
fn a_missing_card_is_waited_for_and_the_ones_found_are_listed() {
    let Ok(Planned::Waiting(reason)) = plan(&over_nic(named("eth9")), None, &machine()) else {
        panic!("not waiting")
    };
    expect!["no network card name eth9; cards found: eth0 (mac 52:54:00:00:00:02, pci 0000:00:02.0), eth1 (mac 52:54:00:00:00:03, pci 0000:00:03.0), eth2 (mac 52:54:00:00:00:04, pci 0000:00:04.0)"].assert_eq(&reason);
    let nothing = plan(
        &over_nic(NicSelector::Mac([2; 6])),
        None,
        &Observed::default(),
    );
    assert_eq!(
        nothing,
        Ok(Planned::Waiting(
            "no network card mac 02:02:02:02:02:02; cards found: none".to_owned()
        ))
    );
}

#[test]
fn a_bond_starts_with_the_members_there_are() {
    let mut observed = machine();
    let eth0 = observed.links.remove(1);
    let network = over_bond(BondMode::ActiveBackup);
    let Ok(Planned::Steps(first)) = plan(&network, None, &observed) else {
        panic!("not planned")
    };
    assert_eq!(first.chain, ["eth1", "bond0", "ovirtmgmt"]);
    assert!(
        first
            .missing
            .unwrap()
            .starts_with("no network card name eth0; cards found: eth1")
    );
    take(&network, None, &mut observed);
    // The late member joins without a change of the bridge's identity.
    observed.links.push(eth0);
    expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: attach to bond0
    "#]]
    .assert_eq(&text(&take(&network, None, &mut observed)));
}

#[test]
fn the_bridge_keeps_its_identity_when_the_bonds_first_card_goes() {
    let mut observed = machine();
    let network = over_bond(BondMode::ActiveBackup);
    take(&network, None, &mut observed);
    observed.links.retain(|link| link.name != "eth0");
    assert_eq!(steps(&network, None, &observed), []);
    assert_eq!(
        observed.named("ovirtmgmt").unwrap().mac,
        Mac([0x52, 0x54, 0, 0, 0, 2])
    );
}

#[test]
fn guests_stay_on_the_bridge_whatever_it_is_over() {
    let mut observed = machine();
    take(&over_nic(named("eth0")), None, &mut observed);
    let bridge = observed.named("ovirtmgmt").unwrap().index;
    observed.links.push(Link {
        kind: Kind::Other,
        master: Some(bridge),
        ..card(99, "vnet0")
    });
    let actions = take(&over_nic(named("eth1")), None, &mut observed);
    assert!(!text(&actions).contains("vnet0"), "{actions:?}");
    assert_eq!(
        observed.named("eth0").unwrap().master,
        None,
        "the old uplink is let go"
    );
}

#[test]
fn a_bridge_with_spanning_tree_is_put_right_and_kept() {
    let mut observed = machine();
    let kind = Kind::Bridge {
        stp: true,
        forward_delay_cs: 1500,
    };
    observed.links.push(Link {
        kind,
        permanent_mac: None,
        pci: None,
        ..card(9, "ovirtmgmt")
    });
    expect![[r#"
        eth0: disable_ipv6 = 1
        eth0: up
        ovirtmgmt: no spanning tree, no forward delay
        ovirtmgmt: mac 52:54:00:00:00:02
        eth0: attach to ovirtmgmt
        ovirtmgmt: accept_ra = 0
        ovirtmgmt: autoconf = 0
        ovirtmgmt: up
    "#]]
    .assert_eq(&text(&take(&over_nic(named("eth0")), None, &mut observed)));
}

#[test]
fn names_that_belong_to_something_else_are_not_taken() {
    let bridge = Network {
        bridge: "eth2".to_owned(),
        ..over_nic(named("eth0"))
    };
    let error = plan(&bridge, None, &machine()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "link eth2 is there and is not a bridge: choose another name for the bridge"
    );
    let mut bond = over_bond(BondMode::Lacp);
    if let Uplink::Bond { name, .. } = &mut bond.uplink {
        "eth2".clone_into(name);
    }
    assert!(matches!(
        plan(&bond, None, &machine()),
        Err(PlanError::NameTaken { wanted: "bond", .. })
    ));
}

#[test]
fn what_cannot_be_met_is_said_before_anything_is_touched() {
    let error = plan(
        &Network {
            mtu: Some(9001),
            ..over_nic(named("eth0"))
        },
        None,
        &machine(),
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "mtu 9001: card eth0 takes at most 9000");
    // A card with two ports in one PCI function.
    let mut observed = machine();
    observed.links[2].pci = observed.links[1].pci.clone();
    let error = plan(
        &over_nic(NicSelector::Pci("0000:00:02.0".to_owned())),
        None,
        &observed,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "network card pci 0000:00:02.0 matches eth0 and eth1: choose one by name"
    );
}

#[test]
fn a_long_card_name_gives_a_vlan_name_the_kernel_takes() {
    assert_eq!(vlan_name("bond0", 4094), "bond0.4094");
    assert_eq!(vlan_name("enp0s31f6", 10), "enp0s31f6.10");
    assert_eq!(vlan_name("enx525400123456", 4094), "vlan4094");
}

#[test]
fn without_ipv6_in_the_kernel_none_of_its_settings_is_touched() {
    let mut observed = machine();
    for link in &mut observed.links {
        link.ipv6 = None;
    }
    let actions = take(
        &Network {
            vlan: Some(7),
            ..over_bond(BondMode::Lacp)
        },
        Some(&lease()),
        &mut observed,
    );
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::SetIpv6 { .. })),
        "{actions:?}"
    );
}

/// Every small configuration.
fn every_network() -> Vec<Network> {
    let mut uplinks = vec![
        Uplink::Nic(named("eth0")),
        Uplink::Nic(NicSelector::Mac([0x52, 0x54, 0, 0, 0, 3])),
    ];
    for mode in [BondMode::ActiveBackup, BondMode::BalanceXor, BondMode::Lacp] {
        for members in [
            vec!["eth0"],
            vec!["eth0", "eth1"],
            vec!["eth2", "eth1", "eth9"],
        ] {
            let members = members.into_iter().map(named).collect();
            uplinks.push(Uplink::Bond {
                name: "bond0".to_owned(),
                mode,
                members,
            });
        }
    }
    let mut all = Vec::new();
    for uplink in uplinks {
        for vlan in [None, Some(100), Some(200)] {
            for mtu in [None, Some(1400), Some(9000)] {
                for (ipv4, ipv6) in [
                    (Ipv4::Dhcp, Ipv6::None),
                    (fixed_v4(), Ipv6::Slaac),
                    (Ipv4::None, fixed_v6()),
                ] {
                    let rest = over_nic(named("eth0"));
                    all.push(Network {
                        uplink: uplink.clone(),
                        vlan,
                        mtu,
                        ipv4,
                        ipv6,
                        ..rest
                    });
                }
            }
        }
    }
    all
}

#[test]
fn from_any_set_to_any_other_in_one_plan() {
    let all = every_network();
    let finals: Vec<Observed> = all
        .iter()
        .map(|network| {
            let mut observed = machine();
            take(network, Some(&lease()), &mut observed);
            observed
        })
        .collect();
    for (from, start) in all.iter().zip(&finals) {
        for (to, fresh) in all.iter().zip(&finals) {
            let mut observed = start.clone();
            take(to, Some(&lease()), &mut observed);
            // What was there before shows in nothing but the numbers of the links.
            let shape = |observed: &Observed| {
                let mut shape: Vec<String> = Vec::new();
                let name = |index: u32| {
                    observed
                        .indexed(index)
                        .map(|link| link.name.clone())
                        .unwrap_or_default()
                };
                for link in observed.links.iter().filter(|link| link.kind != Kind::Nic) {
                    let master = link.master.map(name);
                    shape.push(format!(
                        "{} {} {} {:?} {:?}",
                        link.name, link.mtu, link.up, master, link.ipv6
                    ));
                }
                shape.extend(
                    observed
                        .addresses
                        .iter()
                        .map(|a| format!("{} {}/{}", name(a.link), a.address, a.prefix)),
                );
                shape.extend(observed.routes.iter().map(|r| {
                    format!(
                        "{} {}/{} {:?}",
                        name(r.link),
                        r.destination,
                        r.prefix,
                        r.gateway
                    )
                }));
                shape.sort();
                shape
            };
            assert_eq!(shape(&observed), shape(fresh), "from {from:?} to {to:?}");
        }
    }
}
