//! The planner: link by link from the cards to the bridge, then its addresses.

use control::config::{BondMode, Ipv6, Network, Uplink};

use super::{Action, Ipv6Key, MIIMON_MS, simulate, wanted};
use crate::net::dhcp::Lease;
use crate::net::observed::{Kind, Link, Mac, Observed, Origin};

/// Smallest MTU of a link that carries IPv6, in bytes (RFC 8200).
const IPV6_MTU_MIN: u32 = 1280;

/// The model so far and the steps that led to it.
pub(super) struct Planner {
    pub(super) model: Observed,
    pub(super) actions: Vec<Action>,
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
    pub(super) fn links(&mut self, network: &Network, cards: &[Link], mtu: u32) -> Vec<String> {
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

    /// The bridge's MTU; DHCP may lower it, never raise it above what is below,
    /// nor lower it so far that the kernel would take IPv6 off the bridge.
    pub(super) fn bridge_mtu(&mut self, network: &Network, lease: Option<&Lease>, mtu: u32) {
        let least = match network.ipv6 {
            Ipv6::None => 0,
            Ipv6::Static { .. } | Ipv6::Slaac => IPV6_MTU_MIN,
        };
        let offered = lease.and_then(|lease| lease.mtu).map(u32::from);
        let mtu = match (network.mtu, offered) {
            (None, Some(offered)) => offered.max(least).min(mtu),
            _ => mtu,
        };
        self.mtu(&network.bridge, mtu);
    }

    /// Addresses and routes: those configured on the bridge, none below it.
    pub(super) fn layer3(&mut self, network: &Network, lease: Option<&Lease>, chain: &[String]) {
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
pub(super) fn vlan_name(base: &str, id: u16) -> String {
    const NAME_LEN_MAX: usize = 15;
    let name = format!("{base}.{id}");
    if name.len() <= NAME_LEN_MAX {
        name
    } else {
        format!("vlan{id}")
    }
}
