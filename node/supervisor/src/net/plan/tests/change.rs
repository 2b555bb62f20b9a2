//! From one set to another, and what comes and goes with leases and routers.

use super::*;

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
