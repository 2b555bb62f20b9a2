//! What the kernel has: links, addresses and routes at one moment, in the few
//! words the plan needs. Plain data, filled by `kernel` and by tests.

use std::fmt;
use std::net::IpAddr;

use control::config::BondMode;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a link is, with the parameters the plan cares about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A card: no software kind, or one end of a veth pair (the card of a container).
    Nic,
    /// A bond.
    Bond {
        /// Mode, when it is one we offer.
        mode: Option<BondMode>,
        /// Link monitoring interval in milliseconds; 0 is off.
        miimon_ms: u32,
        /// Whether the transmit hash looks at MAC and IP addresses (layer 2+3).
        hash_layer23: bool,
    },
    /// A VLAN on another link.
    Vlan {
        /// Index of the link below.
        lower: u32,
        /// VLAN id 1–4094.
        id: u16,
    },
    /// A bridge.
    Bridge {
        /// Whether it runs the spanning tree protocol.
        stp: bool,
        /// Forward delay in hundredths of a second.
        forward_delay_cs: u32,
    },
    /// Anything else (loopback, tap, tunnel…): never touched.
    Other,
}

/// The kernel's IPv6 settings of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// `disable_ipv6`.
    pub disable: i32,
    /// `accept_ra`: 0 never, 1 unless forwarding, 2 always.
    pub accept_ra: i32,
    /// `autoconf`: addresses from router advertisements.
    pub autoconf: i32,
}

impl Ipv6Settings {
    /// What a fresh link has.
    pub const FRESH: Self = Self {
        disable: 0,
        accept_ra: 1,
        autoconf: 1,
    };
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Address in force (all zero when it has none).
    pub mac: Mac,
    /// Address burnt into the card, which enslaving does not change.
    pub permanent_mac: Option<Mac>,
    /// PCI address `dddd:bb:dd.f` of the card.
    pub pci: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Largest MTU in bytes the driver takes, when it says so.
    pub mtu_max: Option<u32>,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub carrier: bool,
    /// Index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// Whether we created it (the link's alias says so).
    pub ours: bool,
    /// IPv6 settings; `None` when the kernel has no IPv6.
    pub ipv6: Option<Ipv6Settings>,
}

/// Where an address or route came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Set by a program.
    Program,
    /// The kernel's own (link-local addresses, routes that come with an address).
    Kernel,
    /// The kernel's answer to a router advertisement.
    Advertised,
}

/// One address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Index of its link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Where it came from.
    pub origin: Origin,
    /// Duplicate address detection has not ended yet (IPv6).
    pub tentative: bool,
    /// Duplicate address detection found it in use by another machine (IPv6):
    /// the kernel keeps it but does not use it.
    pub duplicate: bool,
}

/// One unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Index of its link.
    pub link: u32,
    /// Destination network; unspecified with prefix 0 is the default route.
    pub destination: IpAddr,
    /// Prefix length of the destination.
    pub prefix: u8,
    /// Gateway; `None` is on the link.
    pub gateway: Option<IpAddr>,
    /// Where it came from.
    pub origin: Origin,
}

/// Everything the plan looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Links in the order of their index.
    pub links: Vec<Link>,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
}

impl Observed {
    /// The link called `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with this index.
    #[must_use]
    pub fn indexed(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Every network card.
    pub fn cards(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.kind == Kind::Nic)
    }

    /// The cards in words, for reasons shown to the operator.
    #[must_use]
    pub fn cards_in_words(&self) -> String {
        let cards: Vec<String> = self
            .cards()
            .map(|link| {
                let mac = link.permanent_mac.unwrap_or(link.mac);
                let pci = link
                    .pci
                    .as_deref()
                    .map(|pci| format!(", pci {pci}"))
                    .unwrap_or_default();
                format!("{} (mac {mac}{pci})", link.name)
            })
            .collect();
        if cards.is_empty() {
            "none".to_owned()
        } else {
            cards.join(", ")
        }
    }
}
