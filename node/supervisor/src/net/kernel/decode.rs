//! From rtnetlink's messages to the plan's view.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use control::config::BondMode;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use rtnetlink::packet_route::link::{
    self as nl, AfSpecInet6, AfSpecUnspec, InfoBond, InfoBridge, InfoData, InfoKind, InfoVlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use super::OUR_ALIAS;
use crate::net::observed::{Address, Ipv6Settings, Kind, Link, Mac, Origin, Route};

/// One link; `sys` is where sysfs is.
pub(super) fn link(message: LinkMessage, sys: &Path) -> Link {
    let flags = message.header.flags;
    let physical = message.header.link_layer_type == LinkLayerType::Ether
        && !flags.contains(LinkFlags::Loopback);
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: if physical { Kind::Nic } else { Kind::Other },
        mac: Mac([0; 6]),
        permanent_mac: None,
        pci: None,
        mtu: 0,
        mtu_max: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        master: None,
        ours: false,
        ipv6: None,
    };
    let mut lower = 0;
    let mut info = Vec::new();
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = mac(&bytes).unwrap_or(link.mac),
            LinkAttribute::PermAddress(bytes) => {
                link.permanent_mac = mac(&bytes).filter(|m| *m != Mac([0; 6]))
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::MaxMtu(mtu) => link.mtu_max = Some(mtu).filter(|mtu| *mtu > 0),
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|m| *m > 0),
            LinkAttribute::Link(index) => lower = index,
            LinkAttribute::IfAlias(alias) => link.ours = alias == OUR_ALIAS,
            LinkAttribute::LinkInfo(infos) => info = infos,
            LinkAttribute::AfSpecUnspec(specs) => {
                link.ipv6 = link.ipv6.or_else(|| ipv6_settings(&specs))
            }
            _ => {}
        }
    }
    if let Some(kind) = kind(&info, lower) {
        link.kind = kind;
    }
    if link.kind == Kind::Nic {
        link.pci = pci(sys, &link.name);
    }
    link
}

/// The PCI address nearest to the card: a virtio card's device is not the
/// PCI device itself but sits on it.
fn pci(sys: &Path, name: &str) -> Option<String> {
    let device = std::fs::canonicalize(sys.join("class/net").join(name).join("device")).ok()?;
    device
        .iter()
        .rev()
        .filter_map(|part| part.to_str())
        .find(|part| is_pci(part))
        .map(str::to_owned)
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// `dddd:bb:dd.f`, hexadecimal.
fn is_pci(text: &str) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|t| t.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    text.len() == 12
        && (hex(0..4) && hex(5..7) && hex(8..10) && hex(11..12))
        && (text.get(4..5), text.get(7..8), text.get(10..11)) == (Some(":"), Some(":"), Some("."))
}

/// What a software link is; `None` for a card.
fn kind(info: &[LinkInfo], lower: u32) -> Option<Kind> {
    let data = |want: fn(&InfoData) -> bool| {
        info.iter().find_map(|i| match i {
            LinkInfo::Data(data) if want(data) => Some(data),
            _ => None,
        })
    };
    let kind = info.iter().find_map(|i| match i {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    Some(match kind {
        InfoKind::Veth => Kind::Nic,
        InfoKind::Bridge => {
            let (mut stp, mut forward_delay_cs) = (false, 0);
            if let Some(InfoData::Bridge(infos)) = data(|d| matches!(d, InfoData::Bridge(_))) {
                for info in infos {
                    match info {
                        InfoBridge::StpState(state) => stp = *state != nl::BridgeStpState::Disabled,
                        InfoBridge::ForwardDelay(delay) => forward_delay_cs = *delay,
                        _ => {}
                    }
                }
            }
            Kind::Bridge {
                stp,
                forward_delay_cs,
            }
        }
        InfoKind::Vlan => {
            let mut vlan = 0;
            if let Some(InfoData::Vlan(infos)) = data(|d| matches!(d, InfoData::Vlan(_))) {
                for info in infos {
                    if let InfoVlan::Id(id) = info {
                        vlan = *id;
                    }
                }
            }
            Kind::Vlan { lower, id: vlan }
        }
        InfoKind::Bond => {
            let (mut mode, mut miimon_ms, mut hash_layer23) = (None, 0, false);
            if let Some(InfoData::Bond(infos)) = data(|d| matches!(d, InfoData::Bond(_))) {
                for info in infos {
                    match info {
                        InfoBond::Mode(nl::BondMode::ActiveBackup) => {
                            mode = Some(BondMode::ActiveBackup)
                        }
                        InfoBond::Mode(nl::BondMode::BalanceXor) => {
                            mode = Some(BondMode::BalanceXor)
                        }
                        InfoBond::Mode(nl::BondMode::Ieee8023Ad) => mode = Some(BondMode::Lacp),
                        InfoBond::MiiMon(interval) => miimon_ms = *interval,
                        InfoBond::XmitHashPolicy(policy) => {
                            hash_layer23 = *policy == nl::BondXmitHashPolicy::Layer23
                        }
                        _ => {}
                    }
                }
            }
            Kind::Bond {
                mode,
                miimon_ms,
                hash_layer23,
            }
        }
        _ => Kind::Other,
    })
}

fn ipv6_settings(specs: &[AfSpecUnspec]) -> Option<Ipv6Settings> {
    specs.iter().find_map(|spec| match spec {
        AfSpecUnspec::Inet6(parts) => parts.iter().find_map(|part| match part {
            AfSpecInet6::DevConf(conf) => Some(Ipv6Settings {
                disable: conf.disable_ipv6,
                accept_ra: conf.accept_ra,
                autoconf: conf.autoconf,
            }),
            _ => None,
        }),
        _ => None,
    })
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let mut found = None;
    let mut origin = Origin::Program;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Protocol(AddressProtocol::RouterAnnouncement) => {
                origin = Origin::Advertised
            }
            AddressAttribute::Protocol(AddressProtocol::LinkLocal | AddressProtocol::Loopback) => {
                origin = Origin::Kernel
            }
            _ => {}
        }
    }
    let address = found?;
    // Kernels before 5.18 do not say who set an address.
    if let IpAddr::V6(v6) = address
        && origin == Origin::Program
        && v6.is_unicast_link_local()
    {
        origin = Origin::Kernel;
    }
    // The kernel leaves a duplicate marked as tentative for ever.
    let duplicate = flags.contains(AddressFlags::Dadfailed);
    let tentative = flags.contains(AddressFlags::Tentative)
        && !flags.contains(AddressFlags::Optimistic)
        && !duplicate;
    Some(Address {
        link: message.header.index,
        address,
        prefix: message.header.prefix_len,
        origin,
        tentative,
        duplicate,
    })
}

/// A unicast route of the main table over one link.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let (mut link, mut gateway, mut table) = (None, None, u32::from(header.table));
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let plain = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => gateway = plain(address),
            RouteAttribute::Destination(address) => destination = plain(address)?,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    if header.kind != RouteType::Unicast || table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let origin = match header.protocol {
        RouteProtocol::Kernel | RouteProtocol::IcmpRedirect => Origin::Kernel,
        RouteProtocol::Ra => Origin::Advertised,
        _ => Origin::Program,
    };
    Some(Route {
        link: link?,
        destination,
        prefix: header.destination_prefix_length,
        gateway,
        origin,
    })
}

#[cfg(test)]
mod tests {
    use super::is_pci;

    #[test]
    fn pci_addresses_are_told_from_other_path_parts() {
        assert!(is_pci("0000:00:1f.6"));
        for other in [
            "pci0000:00",
            "virtio0",
            "0000:00:1f-6",
            "0000.00:1f.6",
            "g000:00:1f.6",
            "",
            "0000:00:1f.67",
        ] {
            assert!(!is_pci(other), "{other}");
        }
    }
}
