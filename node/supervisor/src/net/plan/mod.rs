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
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::config::{BondMode, Ipv4, Ipv6, Network, NicSelector, Uplink};

pub use action::{Action, Ipv6Key, contains, simulate};

use super::dhcp::Lease;
use super::observed::{Kind, Link, Mac, Observed, Origin};

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

/// The model so far and the steps that led to it.
struct Planner {
    model: Observed,
    actions: Vec<Action>,
}

impl Planner {
    /// Takes one step.
    fn step(&mut self, action: Action) {
        simulate(&mut self.model, &action);
        self.actions.push(action);
    }

    /// A copy of the link called `name`; the callers know that it is there.
    fn link(&self, name: &str) -> Option<Link> {
        self.model.named(name).cloned()
    }

    /// Everything up to the bridge; returns the names of the links, cards first.
    fn links(&mut self, network: &Network, cards: &[Link], mtu: u32) -> Vec<String> {
        let bond = match &network.uplink {
            Uplink::Bond { name, mode, .. } => Some((name.as_str(), *mode)),
            Uplink::Nic(_) => None,
        };
        self.remove_stale(network, bond);
        let mut chain: Vec<String> = cards.iter().map(|card| card.name.clone()).collect();
        let base = match bond {
            Some((name, mode)) => {
                self.bond(name, mode, cards, mtu);
                chain.push(name.to_owned());
                name.to_owned()
            }
            None => cards
                .first()
                .map(|card| card.name.clone())
                .unwrap_or_default(),
        };
        self.lower(&base, mtu);
        let uplink = match network.vlan {
            Some(id) => {
                let vlan = self.vlan(&base, id, mtu);
                chain.push(vlan.clone());
                vlan
            }
            None => base,
        };
        self.bridge(network, &uplink);
        chain.push(network.bridge.clone());
        chain
    }

    /// Deletes what we created for an earlier configuration, from the bridge down.
    fn remove_stale(&mut self, network: &Network, bond: Option<(&str, BondMode)>) {
        let wanted = |link: &Link| match link.kind {
            Kind::Bridge { .. } => link.name == network.bridge,
            Kind::Vlan { id, .. } => Some(id) == network.vlan,
            Kind::Bond { .. } => bond.is_some_and(|(name, _)| name == link.name),
            Kind::Nic | Kind::Other => true,
        };
        let rank = |link: &Link| match link.kind {
            Kind::Bridge { .. } => 0,
            Kind::Vlan { .. } => 1,
            _ => 2,
        };
        let mut stale: Vec<Link> = self
            .model
            .links
            .iter()
            .filter(|link| link.ours && !wanted(link))
            .cloned()
            .collect();
        stale.sort_by_key(rank);
        for link in stale {
            // A VLAN goes with the bond below it.
            if self.model.named(&link.name).is_some() {
                self.step(Action::Delete { link: link.name });
            }
        }
    }

    /// The bond with its members attached.
    fn bond(&mut self, name: &str, mode: BondMode, cards: &[Link], mtu: u32) {
        let kind = Kind::Bond {
            mode: Some(mode),
            miimon_ms: MIIMON_MS,
            hash_layer23: mode != BondMode::ActiveBackup,
        };
        // The mode of a bond in use cannot be changed; an active-backup bond does not hash.
        let fits = |link: &Link| match (&link.kind, &kind) {
            (
                Kind::Bond {
                    mode: Some(BondMode::ActiveBackup),
                    miimon_ms,
                    ..
                },
                _,
            ) => mode == BondMode::ActiveBackup && *miimon_ms == MIIMON_MS,
            (own, wanted) => own == wanted,
        };
        if self.link(name).is_some_and(|link| !fits(&link)) {
            self.step(Action::Delete {
                link: name.to_owned(),
            });
        }
        let mac = self.bond_mac(name, cards);
        match self.link(name) {
            None => self.step(Action::CreateBond {
                link: name.to_owned(),
                mode,
                mac,
            }),
            Some(bond) if bond.mac != mac => self.step(Action::SetMac {
                link: name.to_owned(),
                mac,
            }),
            Some(_) => {}
        }
        let Some(bond) = self.link(name) else { return };
        let strays: Vec<String> = self
            .model
            .cards()
            .filter(|link| {
                link.master == Some(bond.index)
                    && !cards.iter().any(|card| card.index == link.index)
            })
            .map(|link| link.name.clone())
            .collect();
        for link in strays {
            self.step(Action::Detach { link });
        }
        for card in cards {
            self.quiet(&card.name);
            if self
                .link(&card.name)
                .is_some_and(|card| card.master != Some(bond.index))
            {
                // A bond takes no port that is up.
                if self.link(&card.name).is_some_and(|card| card.up) {
                    self.step(Action::Down {
                        link: card.name.clone(),
                    });
                }
                self.step(Action::Attach {
                    link: card.name.clone(),
                    master: name.to_owned(),
                });
            }
        }
        self.mtu(name, mtu);
        for card in cards {
            self.mtu(&card.name, mtu);
            self.up(&card.name);
        }
    }

    /// A bond keeps the address it has, even when the card it is from has gone,
    /// so that the bridge keeps its identity; but not one that a card outside
    /// the bond uses, and not a made-up one.
    fn bond_mac(&self, name: &str, cards: &[Link]) -> Mac {
        let own = |card: &Link| card.permanent_mac.unwrap_or(card.mac);
        let elsewhere = |mac: Mac| {
            self.model
                .cards()
                .any(|link| own(link) == mac && !cards.iter().any(|card| card.index == link.index))
        };
        let first = cards.first().map(own).unwrap_or(Mac([0; 6]));
        match self.model.named(name) {
            Some(bond) if bond.ours && !elsewhere(bond.mac) => bond.mac,
            Some(bond) if cards.iter().any(|card| own(card) == bond.mac) => bond.mac,
            _ => first,
        }
    }

    /// Makes a link below the bridge ready to carry: no address, up, right MTU.
    fn lower(&mut self, name: &str, mtu: u32) {
        self.quiet(name);
        self.mtu(name, mtu);
        self.up(name);
    }

    /// The VLAN on `base`, whatever it is called; returns its name.
    fn vlan(&mut self, base: &str, id: u16, mtu: u32) -> String {
        let Some(lower) = self.link(base) else {
            return String::new();
        };
        // Only the VLAN may carry traffic to the bridge.
        if lower.master.is_some() {
            self.step(Action::Detach {
                link: base.to_owned(),
            });
        }
        let kind = Kind::Vlan {
            lower: lower.index,
            id,
        };
        let stale: Vec<String> = self
            .model
            .links
            .iter()
            .filter(|link| link.ours && matches!(link.kind, Kind::Vlan { .. }) && link.kind != kind)
            .map(|link| link.name.clone())
            .collect();
        for link in stale {
            self.step(Action::Delete { link });
        }
        let name = match self.model.links.iter().find(|link| link.kind == kind) {
            Some(vlan) => vlan.name.clone(),
            None => {
                let name = vlan_name(base, id);
                if self
                    .model
                    .named(&name)
                    .is_some_and(|link| matches!(link.kind, Kind::Vlan { .. }))
                {
                    self.step(Action::Delete { link: name.clone() });
                }
                self.step(Action::CreateVlan {
                    link: name.clone(),
                    lower: base.to_owned(),
                    id,
                });
                name
            }
        };
        if let Some(vlan) = self.link(&name)
            && let Some(lower) = self.link(base)
            && vlan.mac != lower.mac
        {
            self.step(Action::SetMac {
                link: name.clone(),
                mac: lower.mac,
            });
        }
        self.lower(&name, mtu);
        name
    }

    /// The bridge with `uplink` as its only port of ours, up.
    fn bridge(&mut self, network: &Network, uplink: &str) {
        let name = &network.bridge;
        let Some(mac) = self.link(uplink).map(|link| link.mac) else {
            return;
        };
        match self.link(name) {
            None => self.step(Action::CreateBridge {
                link: name.clone(),
                mac,
            }),
            Some(bridge) => {
                if bridge.kind
                    != (Kind::Bridge {
                        stp: false,
                        forward_delay_cs: 0,
                    })
                {
                    self.step(Action::AdjustBridge { link: name.clone() });
                }
                if bridge.mac != mac {
                    self.step(Action::SetMac {
                        link: name.clone(),
                        mac,
                    });
                }
            }
        }
        let Some(bridge) = self.link(name) else {
            return;
        };
        // Guests' taps stay; what carried the bridge before does not.
        let strays: Vec<String> = self
            .model
            .links
            .iter()
            .filter(|link| {
                link.master == Some(bridge.index) && link.name != uplink && link.kind != Kind::Other
            })
            .map(|link| link.name.clone())
            .collect();
        for link in strays {
            self.step(Action::Detach { link });
        }
        if self
            .link(uplink)
            .is_some_and(|link| link.master != Some(bridge.index))
        {
            self.step(Action::Attach {
                link: uplink.to_owned(),
                master: name.clone(),
            });
        }
        self.ipv6_of_bridge(network);
        self.up(name);
    }

    /// IPv6 settings of the bridge, before it goes up. The kernel asks routers
    /// only when IPv6 comes up on a link, so turning autoconfiguration on later
    /// takes IPv6 down and up once.
    fn ipv6_of_bridge(&mut self, network: &Network) {
        let name = &network.bridge;
        let Some(bridge) = self.link(name) else {
            return;
        };
        let Some(settings) = bridge.ipv6 else { return };
        let slaac = network.ipv6 == Ipv6::Slaac;
        let wanted = [
            (
                Ipv6Key::AcceptRa,
                settings.accept_ra,
                if slaac { 2 } else { 0 },
            ),
            (Ipv6Key::Autoconf, settings.autoconf, i32::from(slaac)),
        ];
        let differs = wanted.iter().any(|(_, is, should)| is != should);
        if slaac && differs && bridge.up && settings.disable == 0 {
            self.step(Action::SetIpv6 {
                link: name.clone(),
                key: Ipv6Key::Disable,
                value: 1,
            });
        }
        for (key, is, should) in wanted {
            if is != should {
                self.step(Action::SetIpv6 {
                    link: name.clone(),
                    key,
                    value: should,
                });
            }
        }
        if self
            .link(name)
            .and_then(|link| link.ipv6)
            .is_some_and(|settings| settings.disable != 0)
        {
            self.step(Action::SetIpv6 {
                link: name.clone(),
                key: Ipv6Key::Disable,
                value: 0,
            });
        }
    }

    /// The bridge's MTU; DHCP may lower it, never raise it above what is below.
    fn bridge_mtu(&mut self, network: &Network, lease: Option<&Lease>, mtu: u32) {
        let offered = lease.and_then(|lease| lease.mtu).map(u32::from);
        let mtu = match (network.mtu, offered) {
            (None, Some(offered)) => offered.min(mtu),
            _ => mtu,
        };
        self.mtu(&network.bridge, mtu);
    }

    /// Addresses and routes: those configured on the bridge, none below it.
    fn layer3(&mut self, network: &Network, lease: Option<&Lease>, chain: &[String]) {
        let (addresses, routes) = wanted(network, lease);
        let Some(bridge) = self.link(&network.bridge) else {
            return;
        };
        let slaac = network.ipv6 == Ipv6::Slaac;
        let foreign = |origin| origin == Origin::Kernel || (origin == Origin::Advertised && slaac);
        let name = &network.bridge;

        let gone: Vec<_> = self
            .model
            .addresses
            .iter()
            .filter(|a| {
                a.link == bridge.index
                    && !foreign(a.origin)
                    && !addresses.contains(&(a.address, a.prefix))
            })
            .cloned()
            .collect();
        for a in gone {
            self.step(Action::RemoveAddress {
                link: name.clone(),
                address: a.address,
                prefix: a.prefix,
            });
        }
        for (address, prefix) in addresses {
            if !self
                .model
                .addresses
                .iter()
                .any(|a| (a.link, a.address, a.prefix) == (bridge.index, address, prefix))
            {
                self.step(Action::AddAddress {
                    link: name.clone(),
                    address,
                    prefix,
                });
            }
        }
        let below = chain
            .iter()
            .filter(|link| *link != name)
            .filter_map(|link| self.model.named(link))
            .map(|link| link.index)
            .collect::<Vec<_>>();
        let gone: Vec<_> = self
            .model
            .routes
            .iter()
            .filter(|r| {
                let unwanted = !routes.contains(&(r.destination, r.prefix, r.gateway));
                (r.link == bridge.index && unwanted && !foreign(r.origin))
                    || (below.contains(&r.link) && r.origin != Origin::Kernel)
            })
            .cloned()
            .collect();
        for r in gone {
            let Some(link) = self.model.indexed(r.link).map(|link| link.name.clone()) else {
                continue;
            };
            self.step(Action::RemoveRoute {
                link,
                destination: r.destination,
                prefix: r.prefix,
                gateway: r.gateway,
            });
        }
        for (destination, prefix, gateway) in routes {
            let there = self.model.routes.iter().any(|r| {
                (r.link, r.destination, r.prefix, r.gateway)
                    == (bridge.index, destination, prefix, gateway)
            });
            if !there {
                self.step(Action::AddRoute {
                    link: name.clone(),
                    destination,
                    prefix,
                    gateway,
                });
            }
        }
    }

    /// Takes addresses and IPv6 from a link below the bridge.
    fn quiet(&mut self, name: &str) {
        let Some(link) = self.link(name) else { return };
        if link.ipv6.is_some_and(|settings| settings.disable == 0) {
            self.step(Action::SetIpv6 {
                link: name.to_owned(),
                key: Ipv6Key::Disable,
                value: 1,
            });
        }
        let gone: Vec<_> = self
            .model
            .addresses
            .iter()
            .filter(|a| a.link == link.index && a.origin != Origin::Kernel)
            .cloned()
            .collect();
        for a in gone {
            self.step(Action::RemoveAddress {
                link: name.to_owned(),
                address: a.address,
                prefix: a.prefix,
            });
        }
    }

    /// Sets an MTU that differs.
    fn mtu(&mut self, name: &str, mtu: u32) {
        if self.link(name).is_some_and(|link| link.mtu != mtu) {
            self.step(Action::SetMtu {
                link: name.to_owned(),
                mtu,
            });
        }
    }

    /// Brings a link up that is down.
    fn up(&mut self, name: &str) {
        if self.link(name).is_some_and(|link| !link.up) {
            self.step(Action::Up {
                link: name.to_owned(),
            });
        }
    }
}

/// `base.id`, or `vlanID` where that is longer than an interface name may be.
fn vlan_name(base: &str, id: u16) -> String {
    const NAME_LEN_MAX: usize = 15;
    let name = format!("{base}.{id}");
    if name.len() <= NAME_LEN_MAX {
        name
    } else {
        format!("vlan{id}")
    }
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
