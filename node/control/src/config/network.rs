//! The network sections: what carries the bridge, and which addresses it has.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::check::{choice, optional, required};
use super::document::{At, Mistakes, Section, entry_name, shown};
use super::names::{self, Read};
use super::{BondMode, Ipv4, Ipv6, Network, NicSelector, Uplink};

/// Most cards in one bond.
const BOND_MEMBERS_MAX: usize = 16;
/// Most name servers resolv.conf takes.
const NAME_SERVERS_MAX: usize = 3;
/// Most search domains resolv.conf takes everywhere.
const SEARCH_DOMAINS_MAX: usize = 6;
/// Smallest MTU every IPv6 link must carry (RFC 8200 §5), in bytes.
const IPV6_MTU_MIN: u32 = 1280;

pub(super) fn network(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Network {
    section.refuse_unknown("network", mistakes);
    let bridge = optional(section, "bridge", names::interface, mistakes)
        .unwrap_or_else(|| "ovirtmgmt".to_owned());
    let mtu = section
        .integer("mtu", 576..=9216, mistakes)
        .and_then(|mtu| u32::try_from(mtu.value).ok());
    let vlan = vlan(section, mistakes);
    let uplink = uplink(section, &bridge, mistakes);
    let ipv4 = section
        .section("ipv4", mistakes)
        .map(|section| ipv4(&section, mistakes));
    let ipv6 = section
        .section("ipv6", mistakes)
        .map(|section| ipv6(&section, mistakes));
    if !section.has("ipv4") && !section.has("ipv6") {
        mistakes.add_missing(
            section.offset(),
            section.path(),
            "no address; add [network.ipv4] or [network.ipv6] with method = \"static\", \"dhcp\", \"slaac\" or, for a bridge without one, \"none\"",
        );
    }
    if let (Some(Ipv6::Static { .. } | Ipv6::Slaac), Some(mtu)) = (&ipv6, mtu)
        && mtu < IPV6_MTU_MIN
    {
        mistakes.add(
            section.offset_of("mtu"),
            section.key("mtu"),
            format!("{mtu}: smallest allowed with IPv6 is {IPV6_MTU_MIN}"),
        );
    }
    Network {
        bridge,
        uplink,
        vlan,
        mtu,
        ipv4: ipv4.unwrap_or(Ipv4::None),
        ipv6: ipv6.unwrap_or(Ipv6::None),
        dns: list(
            section,
            "dns",
            NAME_SERVERS_MAX,
            names::name_server,
            mistakes,
        ),
        search: list(
            section,
            "search",
            SEARCH_DOMAINS_MAX,
            names::search_domain,
            mistakes,
        ),
    }
}

fn vlan(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Option<u16> {
    let At { value, offset } = section.integer("vlan", 0..=4094, mistakes)?;
    if value == 0 {
        mistakes.add(
            Some(offset),
            section.key("vlan"),
            "0: means no VLAN; leave the key out for that, smallest id is 1",
        );
    }
    u16::try_from(value).ok()
}

/// A list of strings, all different.
fn list<T: PartialEq>(
    section: &Section<'_, '_>,
    key: &str,
    longest: usize,
    reader: impl Fn(&str) -> Read<T>,
    mistakes: &mut Mistakes,
) -> Vec<T> {
    let mut list = Vec::new();
    for (index, At { value, offset }) in section
        .strings(key, longest, mistakes)
        .into_iter()
        .enumerate()
    {
        match reader(value) {
            Ok(item) if list.contains(&item) => {
                mistakes.add(
                    Some(offset),
                    section.key(key),
                    format!("{}: listed twice", shown(value)),
                );
            }
            Ok(item) => list.push(item),
            Err(message) => {
                mistakes.add(Some(offset), section.key(&entry_name(key, index)), message)
            }
        }
    }
    list
}

fn uplink(section: &Section<'_, '_>, bridge: &str, mistakes: &mut Mistakes) -> Uplink {
    let nic = section.section("nic", mistakes).map(|section| {
        section.refuse_unknown("network.nic", mistakes);
        let nic = nic(&section, mistakes);
        refuse_own_name(&section, nic.as_ref(), &[bridge], mistakes);
        nic
    });
    let bond = section
        .section("bond", mistakes)
        .map(|section| bond(&section, bridge, mistakes));
    if section.has("nic") && section.has("bond") {
        mistakes.add(
            section.offset_of("bond"),
            section.key("bond"),
            "[network.nic] and [network.bond] exclude each other; keep one",
        );
    }
    if !section.has("nic") && !section.has("bond") {
        mistakes.add_missing(
            section.offset(),
            section.path(),
            "no card; add [network.nic] or [network.bond]",
        );
    }
    match (nic.flatten(), bond) {
        (_, Some(bond)) => bond,
        (Some(nic), None) => Uplink::Nic(nic),
        (None, None) => Uplink::Nic(NicSelector::Name(String::new())),
    }
}

/// Exactly one of `mac`, `name`, `pci`.
fn nic(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Option<NicSelector> {
    let given: Vec<&str> = ["mac", "name", "pci"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect();
    match given.as_slice() {
        [] => mistakes.add_missing(
            section.offset(),
            section.path(),
            "names no card; give mac, name or pci",
        ),
        [_] => {}
        several => mistakes.add(
            section.offset(),
            section.path(),
            format!("{} together; give exactly one", several.join(" and ")),
        ),
    }
    let mac = optional(section, "mac", names::mac, mistakes).map(NicSelector::Mac);
    let name = optional(section, "name", names::interface, mistakes).map(NicSelector::Name);
    let pci = optional(section, "pci", names::pci, mistakes).map(NicSelector::Pci);
    mac.or(name).or(pci)
}

/// A card cannot bear the name of a device that is to be built over it.
fn refuse_own_name(
    section: &Section<'_, '_>,
    nic: Option<&NicSelector>,
    taken: &[&str],
    mistakes: &mut Mistakes,
) {
    if let Some(NicSelector::Name(name)) = nic
        && taken.contains(&name.as_str())
    {
        mistakes.add(
            section.offset_of("name"),
            section.key("name"),
            format!("{name}: is the name of the bridge or bond over it"),
        );
    }
}

fn bond(section: &Section<'_, '_>, bridge: &str, mistakes: &mut Mistakes) -> Uplink {
    section.refuse_unknown("network.bond", mistakes);
    let name =
        optional(section, "name", names::interface, mistakes).unwrap_or_else(|| "bond0".to_owned());
    if name == bridge {
        mistakes.add(
            section.offset_of("name").or(section.offset()),
            section.key("name"),
            format!("{name}: is the name of the bridge"),
        );
    }
    let modes = [
        ("active-backup", BondMode::ActiveBackup),
        ("802.3ad", BondMode::Lacp),
        ("balance-xor", BondMode::BalanceXor),
    ];
    let mode = choice(section, "mode", &modes, mistakes).unwrap_or(BondMode::ActiveBackup);
    if !section.has("members") {
        mistakes.add_missing(
            section.offset(),
            section.key("members"),
            "missing; for instance members = [{ name = \"eno1\" }, { name = \"eno2\" }]",
        );
    }
    let mut members = Vec::new();
    let entries = section.sections("members", BOND_MEMBERS_MAX, mistakes);
    if entries.is_empty() && section.has("members") {
        mistakes.add_missing(
            section.offset_of("members"),
            section.key("members"),
            "no card in it; at least one",
        );
    }
    for entry in &entries {
        entry.refuse_unknown("network.nic", mistakes);
        let Some(member) = nic(entry, mistakes) else {
            continue;
        };
        refuse_own_name(entry, Some(&member), &[bridge, &name], mistakes);
        if members.contains(&member) {
            mistakes.add(entry.offset(), entry.path(), "the same card again");
        } else {
            members.push(member);
        }
    }
    Uplink::Bond {
        name,
        mode,
        members,
    }
}

/// What an address section asks for, before its address is read.
#[derive(Clone, Copy)]
enum Method {
    None,
    Static,
    Automatic,
}

/// The method of an address section. Keys that only `static` has are refused
/// with any other.
fn method(section: &Section<'_, '_>, automatic: &str, mistakes: &mut Mistakes) -> Method {
    let choices = [
        ("static", Method::Static),
        (automatic, Method::Automatic),
        ("none", Method::None),
    ];
    let Some(method) = choice(section, "method", &choices, mistakes) else {
        // Either is possible: check the address if there is one.
        return if section.has("address") {
            Method::Static
        } else {
            Method::None
        };
    };
    let word = match method {
        Method::Static => return method,
        Method::Automatic => automatic,
        Method::None => "none",
    };
    for key in ["address", "gateway"] {
        if let Some(offset) = section.offset_of(key) {
            mistakes.add(
                Some(offset),
                section.key(key),
                format!("not with method = {word:?}; only with \"static\""),
            );
        }
    }
    method
}

fn ipv4(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Ipv4 {
    section.refuse_unknown("network.ipv4", mistakes);
    match method(section, "dhcp", mistakes) {
        Method::None => Ipv4::None,
        Method::Automatic => Ipv4::Dhcp,
        Method::Static => {
            let from = required(
                section,
                "address",
                "\"192.0.2.10/24\"",
                names::ipv4_with_prefix,
                mistakes,
            );
            let gateway = optional(
                section,
                "gateway",
                |text| names::ipv4_gateway(text, from),
                mistakes,
            );
            let (address, prefix) = from.unwrap_or((Ipv4Addr::UNSPECIFIED, 32));
            Ipv4::Static {
                address,
                prefix,
                gateway,
            }
        }
    }
}

fn ipv6(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Ipv6 {
    section.refuse_unknown("network.ipv6", mistakes);
    match method(section, "slaac", mistakes) {
        Method::None => Ipv6::None,
        Method::Automatic => Ipv6::Slaac,
        Method::Static => {
            let from = required(
                section,
                "address",
                "\"2001:db8::10/64\"",
                names::ipv6_with_prefix,
                mistakes,
            );
            let gateway = optional(
                section,
                "gateway",
                |text| names::ipv6_gateway(text, from),
                mistakes,
            );
            let (address, prefix) = from.unwrap_or((Ipv6Addr::UNSPECIFIED, 128));
            Ipv6::Static {
                address,
                prefix,
                gateway,
            }
        }
    }
}
