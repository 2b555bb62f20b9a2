//! The steps a plan is made of, in words, and what each does to the kernel's
//! state: planning works on a model that is changed step by step.

use std::fmt;
use std::net::IpAddr;

use control::config::BondMode;

use crate::net::observed::{Address, Ipv6Settings, Kind, Link, Mac, Observed, Origin, Route};

/// An IPv6 setting of one link (`/proc/sys/net/ipv6/conf/LINK/…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Key {
    /// `disable_ipv6`.
    Disable,
    /// `accept_ra`.
    AcceptRa,
    /// `autoconf`.
    Autoconf,
}

impl Ipv6Key {
    /// The kernel's file name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable_ipv6",
            Self::AcceptRa => "accept_ra",
            Self::Autoconf => "autoconf",
        }
    }
}

/// One step. Links are named, since a step may speak of a link that an earlier
/// step creates.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the nouns of each variant's sentence"
)]
pub enum Action {
    /// Delete a software link; its ports become free.
    Delete { link: String },
    /// Create a bond, down, with our parameters.
    CreateBond {
        link: String,
        mode: BondMode,
        mac: Mac,
    },
    /// Create a VLAN on `lower`, down.
    CreateVlan {
        link: String,
        lower: String,
        id: u16,
    },
    /// Create a bridge, down, without spanning tree and forward delay.
    CreateBridge { link: String, mac: Mac },
    /// Turn off spanning tree and forward delay of an existing bridge.
    AdjustBridge { link: String },
    /// Give a link another address.
    SetMac { link: String, mac: Mac },
    /// Set a link's MTU in bytes.
    SetMtu { link: String, mtu: u32 },
    /// Make a link a port of a bridge or bond.
    Attach { link: String, master: String },
    /// Free a link from its bridge or bond.
    Detach { link: String },
    /// Bring a link up.
    Up { link: String },
    /// Take a link down.
    Down { link: String },
    /// Change an IPv6 setting.
    SetIpv6 {
        link: String,
        key: Ipv6Key,
        value: i32,
    },
    /// Add an address.
    AddAddress {
        link: String,
        address: IpAddr,
        prefix: u8,
    },
    /// Remove an address.
    RemoveAddress {
        link: String,
        address: IpAddr,
        prefix: u8,
    },
    /// Add a route.
    AddRoute {
        link: String,
        destination: IpAddr,
        prefix: u8,
        gateway: Option<IpAddr>,
    },
    /// Remove a route.
    RemoveRoute {
        link: String,
        destination: IpAddr,
        prefix: u8,
        gateway: Option<IpAddr>,
    },
}

/// Name of a bond mode as the kernel prints it.
fn mode_name(mode: BondMode) -> &'static str {
    match mode {
        BondMode::ActiveBackup => "active-backup",
        BondMode::BalanceXor => "balance-xor",
        BondMode::Lacp => "802.3ad",
    }
}

/// `default` or `net/prefix`, with its gateway.
fn route_in_words(destination: &IpAddr, prefix: u8, gateway: Option<&IpAddr>) -> String {
    let network = if prefix == 0 {
        "default".to_owned()
    } else {
        format!("{destination}/{prefix}")
    };
    match gateway {
        Some(gateway) => format!("{network} via {gateway}"),
        None => network,
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { link } => write!(f, "delete {link}"),
            Self::CreateBond { link, mode, mac } => {
                write!(f, "create bond {link} mode {} mac {mac}", mode_name(*mode))
            }
            Self::CreateVlan { link, lower, id } => {
                write!(f, "create vlan {link} on {lower} id {id}")
            }
            Self::CreateBridge { link, mac } => write!(f, "create bridge {link} mac {mac}"),
            Self::AdjustBridge { link } => write!(f, "{link}: no spanning tree, no forward delay"),
            Self::SetMac { link, mac } => write!(f, "{link}: mac {mac}"),
            Self::SetMtu { link, mtu } => write!(f, "{link}: mtu {mtu}"),
            Self::Attach { link, master } => write!(f, "{link}: attach to {master}"),
            Self::Detach { link } => write!(f, "{link}: detach"),
            Self::Up { link } => write!(f, "{link}: up"),
            Self::Down { link } => write!(f, "{link}: down"),
            Self::SetIpv6 { link, key, value } => write!(f, "{link}: {} = {value}", key.name()),
            Self::AddAddress {
                link,
                address,
                prefix,
            } => {
                write!(f, "{link}: add address {address}/{prefix}")
            }
            Self::RemoveAddress {
                link,
                address,
                prefix,
            } => {
                write!(f, "{link}: remove address {address}/{prefix}")
            }
            Self::AddRoute {
                link,
                destination,
                prefix,
                gateway,
            } => {
                write!(
                    f,
                    "{link}: add route {}",
                    route_in_words(destination, *prefix, gateway.as_ref())
                )
            }
            Self::RemoveRoute {
                link,
                destination,
                prefix,
                gateway,
            } => {
                write!(
                    f,
                    "{link}: remove route {}",
                    route_in_words(destination, *prefix, gateway.as_ref())
                )
            }
        }
    }
}

/// Whether `address` lies in `network/prefix`; false across families.
#[must_use]
pub fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (
            u128::from(u32::from(network)),
            u128::from(u32::from(address)),
            32_u32,
        ),
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (u128::from(network), u128::from(address), 128)
        }
        _ => return false,
    };
    let shift = width.saturating_sub(u32::from(prefix));
    network.checked_shr(shift) == address.checked_shr(shift)
}

/// Does to `model` what the kernel does for `action`, as far as a plan looks.
/// Unknown links are ignored.
pub fn simulate(model: &mut Observed, action: &Action) {
    match action {
        Action::Delete { link } => delete(model, link),
        Action::CreateBond { link, mode, mac } => {
            let hash_layer23 = *mode != BondMode::ActiveBackup;
            create(
                model,
                link,
                Kind::Bond {
                    mode: Some(*mode),
                    miimon_ms: super::MIIMON_MS,
                    hash_layer23,
                },
                *mac,
            );
        }
        Action::CreateVlan { link, lower, id } => {
            if let Some((index, mac, mtu)) = model.named(lower).map(|l| (l.index, l.mac, l.mtu)) {
                create(
                    model,
                    link,
                    Kind::Vlan {
                        lower: index,
                        id: *id,
                    },
                    mac,
                );
                change(model, link, |vlan| vlan.mtu = mtu);
            }
        }
        Action::CreateBridge { link, mac } => {
            create(
                model,
                link,
                Kind::Bridge {
                    stp: false,
                    forward_delay_cs: 0,
                },
                *mac,
            );
        }
        Action::AdjustBridge { link } => {
            change(model, link, |l| {
                l.kind = Kind::Bridge {
                    stp: false,
                    forward_delay_cs: 0,
                }
            });
        }
        Action::SetMac { link, mac } => set_mac(model, link, *mac),
        Action::SetMtu { link, mtu } => set_mtu(model, link, *mtu),
        Action::Attach { link, master } => attach(model, link, master),
        Action::Detach { link } => {
            let master = model
                .named(link)
                .and_then(|l| l.master)
                .and_then(|m| model.indexed(m))
                .cloned();
            change(model, link, |l| release(l, master.as_ref()));
        }
        Action::Up { link } => change(model, link, |l| l.up = true),
        Action::Down { link } => change(model, link, |l| l.up = false),
        Action::SetIpv6 { link, key, value } => set_ipv6(model, link, *key, *value),
        Action::AddAddress {
            link,
            address,
            prefix,
        } => {
            if let Some(index) = model.named(link).map(|l| l.index) {
                let origin = Origin::Program;
                model.addresses.push(Address {
                    link: index,
                    address: *address,
                    prefix: *prefix,
                    origin,
                    tentative: false,
                    duplicate: false,
                });
            }
        }
        Action::RemoveAddress {
            link,
            address,
            prefix,
        } => remove_address(model, link, *address, *prefix),
        Action::AddRoute {
            link,
            destination,
            prefix,
            gateway,
        } => {
            if let Some(index) = model.named(link).map(|l| l.index) {
                let (destination, prefix, gateway) = (*destination, *prefix, *gateway);
                model.routes.push(Route {
                    link: index,
                    destination,
                    prefix,
                    gateway,
                    origin: Origin::Program,
                });
            }
        }
        Action::RemoveRoute {
            link,
            destination,
            prefix,
            gateway,
        } => {
            let index = model.named(link).map(|l| l.index);
            model.routes.retain(|r| {
                Some(r.link) != index
                    || (r.destination, r.prefix, r.gateway) != (*destination, *prefix, *gateway)
            });
        }
    }
}

/// Applies `with` to the link called `name`, if there is one.
fn change(model: &mut Observed, name: &str, with: impl FnOnce(&mut Link)) {
    if let Some(link) = model.links.iter_mut().find(|link| link.name == name) {
        with(link);
    }
}

/// Adds a link of ours with the next index.
fn create(model: &mut Observed, name: &str, kind: Kind, mac: Mac) {
    let index = model.links.iter().map(|link| link.index).max().unwrap_or(0) + 1;
    let ipv6 = model
        .links
        .iter()
        .any(|link| link.ipv6.is_some())
        .then_some(Ipv6Settings::FRESH);
    model.links.push(Link {
        index,
        name: name.to_owned(),
        kind,
        mac,
        permanent_mac: None,
        pci: None,
        mtu: 1500,
        mtu_max: None,
        up: false,
        carrier: false,
        master: None,
        ours: true,
        ipv6,
    });
}

/// A deleted link takes its addresses, its routes and the VLANs on it along.
fn delete(model: &mut Observed, name: &str) {
    let Some(gone) = model.named(name).cloned() else {
        return;
    };
    let index = gone.index;
    let above: Vec<String> = model
        .links
        .iter()
        .filter(|link| matches!(link.kind, Kind::Vlan { lower, .. } if lower == index))
        .map(|link| link.name.clone())
        .collect();
    for vlan in above {
        delete(model, &vlan);
    }
    model.links.retain(|link| link.index != index);
    model.addresses.retain(|address| address.link != index);
    model.routes.retain(|route| route.link != index);
    for port in model
        .links
        .iter_mut()
        .filter(|link| link.master == Some(index))
    {
        release(port, Some(&gone));
    }
}

/// A bond leaves its former ports down and with their own address.
fn release(port: &mut Link, master: Option<&Link>) {
    port.master = None;
    if master.is_some_and(|master| matches!(master.kind, Kind::Bond { .. })) {
        port.up = false;
        port.mac = port.permanent_mac.unwrap_or(port.mac);
    }
}

/// A bond hands its address and MTU to its ports.
fn attach(model: &mut Observed, name: &str, master: &str) {
    let Some(above) = model.named(master).cloned() else {
        return;
    };
    change(model, name, |link| {
        link.master = Some(above.index);
        if matches!(above.kind, Kind::Bond { .. }) {
            (link.mac, link.mtu, link.up) = (above.mac, above.mtu, true);
        }
    });
}

/// VLANs follow the address of the link below, ports that of their bond.
fn set_mac(model: &mut Observed, name: &str, mac: Mac) {
    let Some(link) = model.named(name).cloned() else {
        return;
    };
    for other in &mut model.links {
        let vlan = matches!(other.kind, Kind::Vlan { lower, .. } if lower == link.index)
            && other.mac == link.mac;
        let port = other.master == Some(link.index) && matches!(link.kind, Kind::Bond { .. });
        if other.index == link.index || vlan || port {
            other.mac = mac;
        }
    }
}

/// A smaller MTU below shrinks VLANs; a bond's reaches its ports.
fn set_mtu(model: &mut Observed, name: &str, mtu: u32) {
    let Some(link) = model.named(name).cloned() else {
        return;
    };
    for other in &mut model.links {
        let vlan = matches!(other.kind, Kind::Vlan { lower, .. } if lower == link.index)
            && other.mtu > mtu;
        let port = other.master == Some(link.index) && matches!(link.kind, Kind::Bond { .. });
        if other.index == link.index || vlan || port {
            other.mtu = mtu;
        }
    }
}

/// Turning IPv6 off removes every IPv6 address and route of the link.
fn set_ipv6(model: &mut Observed, name: &str, key: Ipv6Key, value: i32) {
    let Some(index) = model.named(name).map(|link| link.index) else {
        return;
    };
    change(model, name, |link| {
        if let Some(settings) = &mut link.ipv6 {
            match key {
                Ipv6Key::Disable => settings.disable = value,
                Ipv6Key::AcceptRa => settings.accept_ra = value,
                Ipv6Key::Autoconf => settings.autoconf = value,
            }
        }
    });
    if key == Ipv6Key::Disable && value != 0 {
        model
            .addresses
            .retain(|a| a.link != index || a.address.is_ipv4());
        model
            .routes
            .retain(|r| r.link != index || r.destination.is_ipv4());
    }
}

/// The last address of a family takes the routes of that family along.
fn remove_address(model: &mut Observed, name: &str, address: IpAddr, prefix: u8) {
    let Some(index) = model.named(name).map(|link| link.index) else {
        return;
    };
    model
        .addresses
        .retain(|a| (a.link, a.address, a.prefix) != (index, address, prefix));
    model.routes.retain(|route| {
        let gone = |at: IpAddr| {
            contains(address, prefix, at)
                && !model
                    .addresses
                    .iter()
                    .any(|a| a.link == index && contains(a.address, a.prefix, at))
        };
        route.link != index || !route.destination.is_ipv4() || !route.gateway.is_some_and(gone)
    });
}
