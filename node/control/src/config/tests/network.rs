//! The network sections.

use super::*;

#[test]
fn a_network_needs_one_uplink_and_an_address_decision() {
    check(
        "version = 1\n\n[network]\nmtu = 1500\n",
        &expect![[r#"
        line 3: network: no card; add [network.nic] or [network.bond]
        line 3: network: no address; add [network.ipv4] or [network.ipv6] with method = "static", "dhcp", "slaac" or, for a bridge without one, "none"
    "#]],
    );
    check(
        "version = 1\nnetwork = 3\n",
        &expect![[r#"
        line 2: network: the number 3: must be a section, [network]
    "#]],
    );
    check(
        "version = 1\n[network.nic]\n[network.ipv4]\nmethod = \"none\"\n",
        &expect![[r#"
            line 2: network.nic: names no card; give mac, name or pci
        "#]],
    );
    check(
        "version = 1\n[network.nic]\nmac = \"52:54:00:12:34:56\"\nname = \"e\"\n[network.ipv4]\nmethod = \"none\"\n",
        &expect![[r#"
            line 2: network.nic: mac and name together; give exactly one
        "#]],
    );
    check(
        "version = 1\n[network.nic]\nname = \"ovirtmgmt\"\n[network.ipv4]\nmethod = \"none\"\n",
        &expect![[r#"
            line 3: network.nic.name: ovirtmgmt: is the name of the bridge or bond over it
        "#]],
    );
    check(
        "version = 1\n[network.bond]\nmembers = []\nname = \"ovirtmgmt\"\n[network.ipv4]\nmethod = \"none\"\n",
        &expect![[r#"
            line 2: network.bond.mode: missing; one of "active-backup", "802.3ad", "balance-xor"
            line 3: network.bond.members: no card in it; at least one
            line 4: network.bond.name: ovirtmgmt: is the name of the bridge
        "#]],
    );
}

#[test]
fn ipv4_addresses_must_fit_an_interface() {
    for (lines, expected) in [
        (
            "method = \"static\"",
            expect![[r#"
            line 4: network.ipv4.address: missing; for instance address = "192.0.2.10/24"
        "#]],
        ),
        (
            "address = \"192.0.2.10/24\"",
            expect![[r#"
            line 4: network.ipv4.method: missing; one of "static", "dhcp", "none"
        "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10\"",
            expect![[r#"
            line 6: network.ipv4.address: "192.0.2.10": prefix length missing, write it as 192.0.2.10/24
        "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10/33\"",
            expect![[r#"
                line 6: network.ipv4.address: "192.0.2.10/33": prefix length must be 1 to 32
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10/+8\"",
            expect![[r#"
                line 6: network.ipv4.address: "192.0.2.10/+8": prefix length must be 1 to 32
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.0/24\"",
            expect![[r#"
                line 6: network.ipv4.address: "192.0.2.0/24": the address of the network itself, not of a host in it
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.255/24\"",
            expect![[r#"
                line 6: network.ipv4.address: "192.0.2.255/24": the broadcast address of its network
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"127.0.0.1/8\"",
            expect![[r#"
                line 6: network.ipv4.address: 127.0.0.1: a loopback address, not the address of one host
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"2001:db8::1/64\"",
            expect![[r#"
                line 6: network.ipv4.address: "2001:db8::1/64": not an IPv4 address, write it as 192.0.2.10/24
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10/31\"\ngateway = \"192.0.2.11\"",
            expect!["valid"],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10/24\"\ngateway = \"192.0.3.1\"",
            expect![[r#"
                line 7: network.ipv4.gateway: 192.0.3.1: outside 192.0.2.10/24, so it could not be reached
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10/24\"\ngateway = \"192.0.2.10\"",
            expect![[r#"
                line 7: network.ipv4.gateway: 192.0.2.10: the node's own address
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"192.0.2.10/24\"\ngateway = \"192.0.2.255\"",
            expect![[r#"
                line 7: network.ipv4.gateway: 192.0.2.255: network or broadcast address of 192.0.2.10/24
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"wrong\"\ngateway = \"also wrong\"",
            expect![[r#"
                line 6: network.ipv4.address: "wrong": prefix length missing, write it as 192.0.2.10/24
                line 7: network.ipv4.gateway: "also wrong": not an IPv4 address
            "#]],
        ),
        (
            "method = \"none\"\ngateway = \"192.0.2.1\"",
            expect![[r#"
            line 6: network.ipv4.gateway: not with method = "none"; only with "static"
        "#]],
        ),
    ] {
        check(&format!("{NETWORK}{lines}\n"), &expected);
    }
}

#[test]
fn ipv6_addresses_must_fit_an_interface() {
    let head = "version = 1\n[network.nic]\nname = \"eno1\"\n[network.ipv6]\n";
    for (lines, expected) in [
        (
            "method = \"slaac\"\naddress = \"2001:db8::1/64\"",
            expect![[r#"
                line 6: network.ipv6.address: not with method = "slaac"; only with "static"
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"fe80::1/64\"",
            expect![[r#"
            line 6: network.ipv6.address: fe80::1: link-local addresses come by themselves, give a routable one
        "#]],
        ),
        (
            "method = \"static\"\naddress = \"::/64\"",
            expect![[r#"
            line 6: network.ipv6.address: ::: the unspecified address, not the address of one host
        "#]],
        ),
        (
            "method = \"static\"\naddress = \"::ffff:192.0.2.1/96\"",
            expect![[r#"
                line 6: network.ipv6.address: ::ffff:192.0.2.1: an IPv4 address in IPv6 form, not the address of one host
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"2001:db8::1/64\"\ngateway = \"2001:db9::1\"",
            expect![[r#"
                line 7: network.ipv6.gateway: 2001:db9::1: neither link-local nor inside 2001:db8::1/64, so it could not be reached
            "#]],
        ),
        (
            "method = \"static\"\naddress = \"2001:db8::1/64\"\ngateway = \"2001:db8::2\"",
            expect!["valid"],
        ),
        (
            "method = \"static\"\naddress = \"2001:db8::1/129\"",
            expect![[r#"
                line 6: network.ipv6.address: "2001:db8::1/129": prefix length must be 1 to 128
            "#]],
        ),
    ] {
        check(&format!("{head}{lines}\n"), &expected);
    }
    check(
        "version = 1\n[network]\nmtu = 1279\n[network.nic]\nname = \"e\"\n[network.ipv6]\nmethod = \"slaac\"\n",
        &expect![[r#"
            line 3: network.mtu: 1279: smallest allowed with IPv6 is 1280
        "#]],
    );
}

#[test]
fn cards_are_named_in_one_spelling() {
    let selector = |line: &str| {
        let text =
            format!("version = 1\n[network.nic]\n{line}\n[network.ipv4]\nmethod = \"none\"\n");
        match parse(&text) {
            Ok(config) => format!("{:?}", config.network.expect("has one").uplink),
            Err(_) => mistakes(&text),
        }
    };
    for (line, expected) in [
        (
            "pci = \"0000:3B:1F.7\"",
            expect![[r#"Nic(Pci("0000:3b:1f.7"))"#]],
        ),
        (
            "pci = \"3b:00.0\"",
            expect![[r#"Nic(Pci("0000:3b:00.0"))"#]],
        ),
        (
            "pci = \"3b:00\"",
            expect![[r#"
            line 3: network.nic.pci: "3b:00": a PCI address is written 0000:00:1f.6
        "#]],
        ),
        (
            "pci = \"0000:00:00.8\"",
            expect![[r#"
            line 3: network.nic.pci: "0000:00:00.8": largest PCI function number is 7
        "#]],
        ),
        (
            "pci = \"0000:00:+0.1\"",
            expect![[r#"
            line 3: network.nic.pci: "0000:00:+0.1": a PCI address is written 0000:00:1f.6
        "#]],
        ),
        (
            "mac = \"52-54-00-AB-cd-EF\"",
            expect!["Nic(Mac([82, 84, 0, 171, 205, 239]))"],
        ),
        (
            "mac = \"52:54:00:ab:cd\"",
            expect![[r#"
            line 3: network.nic.mac: "52:54:00:ab:cd": a MAC address is written 52:54:00:12:34:56
        "#]],
        ),
        (
            "mac = \"52:54:00:ab:cd:ef:00\"",
            expect![[r#"
            line 3: network.nic.mac: "52:54:00:ab:cd:ef:00": a MAC address is written 52:54:00:12:34:56
        "#]],
        ),
        (
            "mac = \"00:00:00:00:00:00\"",
            expect![[r#"
            line 3: network.nic.mac: "00:00:00:00:00:00": the null address, no card has it
        "#]],
        ),
        (
            "mac = \"ff:ff:ff:ff:ff:ff\"",
            expect![[r#"
            line 3: network.nic.mac: "ff:ff:ff:ff:ff:ff": a group address, no card has it
        "#]],
        ),
        (
            "name = \"a234567890123456\"",
            expect![[r#"
            line 3: network.nic.name: "a234567890123456": 16 bytes, longest interface name is 15
        "#]],
        ),
        (
            "name = \"eth%d\"",
            expect![[r#"
            line 3: network.nic.name: "eth%d": no spaces, slashes, colons, quotes or percent signs in an interface name
        "#]],
        ),
        (
            "name = \"..\"",
            expect![[r#"
            line 3: network.nic.name: "..": reserved by the kernel
        "#]],
        ),
        (
            "name = \"\"",
            expect![[r#"
            line 3: network.nic.name: is empty
        "#]],
        ),
        (
            "name = \"a/b\"",
            expect![[r#"
            line 3: network.nic.name: "a/b": no spaces, slashes, colons, quotes or percent signs in an interface name
        "#]],
        ),
    ] {
        expected.assert_eq(&selector(line));
    }
}
