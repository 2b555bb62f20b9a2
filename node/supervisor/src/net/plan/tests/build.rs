//! From a bare machine to each kind of set.

use super::*;

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
