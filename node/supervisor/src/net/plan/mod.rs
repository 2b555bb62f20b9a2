//! From configuration and what the kernel has to the steps between them.
//!
//! [`plan`] is pure. It works on a model of the kernel's state, changing the
//! model with every step it decides on, so that a later step sees what an
//! earlier one did. Planning on the resulting state therefore gives no steps.
//!
//! ```text
//!   card ─┐                                      addresses,
//!   card ─┴─ bond ──[ vlan ]──▶ bridge ◀── routes, name servers
//!   (or one card)
//! ```
//!
//! Below the bridge no link keeps an address, and IPv6 is off there. The
//! bridge has the uplink's MAC address, so a DHCP server always meets the same
//! client. Links we create carry an alias, which is how stale ones are known.

mod action;
mod planner;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::config::{Ipv4, Ipv6, Network, NicSelector, Uplink};

pub use action::{Action, Ipv6Key, contains, simulate};

use super::dhcp::Lease;
use super::observed::{Kind, Link, Mac, Observed};
use planner::Planner;

/// How often a bond looks at its ports' carrier, in milliseconds.
pub const MIIMON_MS: u32 = 100;

/// MTU in bytes when the configuration names none: Ethernet's own.
const MTU_DEFAULT: u32 = 1500;

/// What planning came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// Steps to take, none when everything is as configured.
    Steps(Plan),
    /// A card is missing; the reason names it and the cards there are.
    Waiting(String),
}

/// Steps and what they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In the order to take them.
    pub actions: Vec<Action>,
    /// Names of the links from the cards to the bridge.
    pub chain: Vec<String>,
    /// Members of the bond that are not there, in words.
    pub missing: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A name we need belongs to something else.
    #[error("link {name} is there and is not a {wanted}: choose another name for the {wanted}")]
    NameTaken {
        /// The name.
        name: String,
        /// `bridge` or `bond`.
        wanted: &'static str,
    },
    /// A selector matches more than one card.
    #[error("network card {selector} matches {cards}: choose one by name")]
    Ambiguous {
        /// The selector in words.
        selector: String,
        /// The cards it matches.
        cards: String,
    },
    /// A card cannot carry the configured MTU.
    #[error("mtu {mtu}: card {card} takes at most {mtu_max}")]
    MtuTooLarge {
        /// Configured, in bytes.
        mtu: u32,
        /// Name of the card.
        card: String,
        /// Its limit in bytes.
        mtu_max: u32,
    },
}

/// Plans the way from `observed` to `network`, with the DHCP lease in force.
///
/// # Errors
/// [`PlanError`] when the configuration cannot be met on this machine as it is.
pub fn plan(
    network: &Network,
    lease: Option<&Lease>,
    observed: &Observed,
) -> Result<Planned, PlanError> {
    let selectors: &[NicSelector] = match &network.uplink {
        Uplink::Nic(selector) => std::slice::from_ref(selector),
        Uplink::Bond { members, .. } => members,
    };
    let mut cards: Vec<Link> = Vec::new();
    let mut missing = Vec::new();
    for selector in selectors {
        match select(selector, observed)? {
            Some(card) if !cards.iter().any(|known| known.index == card.index) => {
                cards.push(card.clone())
            }
            Some(_) => {}
            None => missing.push(in_words(selector)),
        }
    }
    let missing = (!missing.is_empty()).then(|| {
        format!(
            "no network card {}; cards found: {}",
            missing.join(" and no "),
            observed.cards_in_words()
        )
    });
    if cards.is_empty() {
        return Ok(Planned::Waiting(missing.unwrap_or_default()));
    }
    let mtu = mtu_of(network, &cards)?;
    check_names(network, observed)?;

    let mut planner = Planner {
        model: observed.clone(),
        actions: Vec::new(),
    };
    let chain = planner.links(network, &cards, mtu);
    planner.bridge_mtu(network, lease, mtu);
    planner.layer3(network, lease, &chain);
    Ok(Planned::Steps(Plan {
        actions: planner.actions,
        chain,
        missing,
    }))
}

/// A selector in words.
#[must_use]
pub fn in_words(selector: &NicSelector) -> String {
    match selector {
        NicSelector::Mac(mac) => format!("mac {}", Mac(*mac)),
        NicSelector::Name(name) => format!("name {name}"),
        NicSelector::Pci(pci) => format!("pci {pci}"),
    }
}

/// The card a selector means. MAC addresses are compared with the permanent
/// one and only on cards: bonds and VLANs share the address of a card.
fn select<'a>(
    selector: &NicSelector,
    observed: &'a Observed,
) -> Result<Option<&'a Link>, PlanError> {
    let matches = |link: &&Link| match selector {
        NicSelector::Mac(mac) => link.permanent_mac.unwrap_or(link.mac) == Mac(*mac),
        NicSelector::Name(name) => link.name == *name,
        NicSelector::Pci(pci) => link
            .pci
            .as_deref()
            .is_some_and(|own| own.eq_ignore_ascii_case(pci)),
    };
    let found: Vec<&Link> = observed.cards().filter(matches).collect();
    if found.len() > 1 {
        let cards = found
            .iter()
            .map(|link| link.name.as_str())
            .collect::<Vec<_>>()
            .join(" and ");
        return Err(PlanError::Ambiguous {
            selector: in_words(selector),
            cards,
        });
    }
    Ok(found.first().copied())
}

/// The MTU of everything below the bridge. Without a configured one it is
/// Ethernet's, so that going back from a larger one really goes back.
fn mtu_of(network: &Network, cards: &[Link]) -> Result<u32, PlanError> {
    let limit = cards
        .iter()
        .filter_map(|card| card.mtu_max.filter(|max| *max > 0).map(|max| (max, card)))
        .min_by_key(|(max, _)| *max);
    match (network.mtu, limit) {
        (Some(mtu), Some((mtu_max, card))) if mtu > mtu_max => Err(PlanError::MtuTooLarge {
            mtu,
            card: card.name.clone(),
            mtu_max,
        }),
        (Some(mtu), _) => Ok(mtu),
        (None, Some((mtu_max, _))) => Ok(mtu_max.min(MTU_DEFAULT)),
        (None, None) => Ok(MTU_DEFAULT),
    }
}

/// Refuses to take over a card or tunnel that has a name we need. A bond or
/// VLAN with wrong parameters is replaced instead.
fn check_names(network: &Network, observed: &Observed) -> Result<(), PlanError> {
    let taken = |name: &String, wanted| {
        Err(PlanError::NameTaken {
            name: name.clone(),
            wanted,
        })
    };
    if let Some(link) = observed.named(&network.bridge)
        && !matches!(link.kind, Kind::Bridge { .. })
    {
        return taken(&network.bridge, "bridge");
    }
    if let Uplink::Bond { name, .. } = &network.uplink
        && let Some(link) = observed.named(name)
        && !matches!(link.kind, Kind::Bond { .. })
    {
        return taken(name, "bond");
    }
    Ok(())
}

/// Address and prefix length.
type WantedAddress = (IpAddr, u8);
/// Destination, prefix length, gateway.
type WantedRoute = (IpAddr, u8, Option<IpAddr>);

/// The addresses and routes the bridge should have.
fn wanted(network: &Network, lease: Option<&Lease>) -> (Vec<WantedAddress>, Vec<WantedRoute>) {
    let mut addresses: Vec<WantedAddress> = Vec::new();
    let mut routes: Vec<WantedRoute> = Vec::new();
    match &network.ipv4 {
        Ipv4::None => {}
        Ipv4::Static {
            address,
            prefix,
            gateway,
        } => {
            addresses.push(((*address).into(), *prefix));
            routes.extend(
                gateway.map(|gateway| (Ipv4Addr::UNSPECIFIED.into(), 0, Some(gateway.into()))),
            );
        }
        Ipv4::Dhcp => {
            if let Some(lease) = lease {
                addresses.push((lease.address.into(), lease.prefix));
                routes.extend(lease_routes(lease));
            }
        }
    }
    if let Ipv6::Static {
        address,
        prefix,
        gateway,
    } = &network.ipv6
    {
        addresses.push(((*address).into(), *prefix));
        routes
            .extend(gateway.map(|gateway| (Ipv6Addr::UNSPECIFIED.into(), 0, Some(gateway.into()))));
    }
    (addresses, routes)
}

/// The lease's routes. A gateway outside the leased network (clouds lease /32)
/// is reached by a route of its own, which has to come first.
#[must_use]
pub fn lease_routes(lease: &Lease) -> Vec<(IpAddr, u8, Option<IpAddr>)> {
    let mut routes: Vec<WantedRoute> = Vec::new();
    for route in &lease.routes {
        let gateway = (!route.gateway.is_unspecified()).then_some(IpAddr::V4(route.gateway));
        if let Some(gateway) = gateway
            && !contains(lease.address.into(), lease.prefix, gateway)
            && !routes
                .iter()
                .any(|(network, prefix, via)| via.is_none() && contains(*network, *prefix, gateway))
        {
            routes.push((gateway, 32, None));
        }
        let wanted = (IpAddr::V4(route.destination), route.prefix, gateway);
        if !routes.contains(&wanted) {
            routes.push(wanted);
        }
    }
    routes
}
