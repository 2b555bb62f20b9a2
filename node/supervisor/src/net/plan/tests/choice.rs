//! Which links a set is built on, and what is left alone.

use super::*;

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
