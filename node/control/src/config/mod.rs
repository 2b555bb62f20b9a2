//! The configuration document (TOML, version 1): raw text in, a validated
//! [`Config`] or every mistake at once with its line out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod check;
mod document;
mod names;
mod network;
mod storage;
#[cfg(test)]
mod tests;

pub use check::{parse, parse_bytes};
pub use storage::{GivingBack, Manager, SpmMode, Storage, Thin};

/// The document version this crate reads.
pub const VERSION: u64 = 1;
/// Longest document accepted, in bytes; a longer one is refused unread.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Most mistakes reported; the last one then says how many more there are.
pub const MISTAKES_MAX: usize = 100;

/// One thing wrong with a document. Its text form is
/// `line 7: network.mtu: 90000: largest allowed is 9216`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line it stands on, counted from 1; `None` when it concerns the whole document.
    pub line: Option<usize>,
    /// Dotted key it concerns; empty for text that is not TOML.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

/// A validated configuration, built by [`parse`]; the default is the one of a
/// document that says nothing but its version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Host name of the node (RFC 1123, at most 64 bytes).
    pub hostname: Option<String>,
    /// The bridge and what is below it; `None` leaves the network alone.
    pub network: Option<Network>,
    /// The watchdog.
    pub watchdog: Watchdog,
    /// The lockspace to join, if any.
    pub lockspace: Option<Lockspace>,
    /// Shared storage; `None`: the storage daemon does not run.
    pub storage: Option<Storage>,
}

/// The management network: one bridge over a NIC, a bond, or a VLAN of either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Bridge name, `ovirtmgmt` unless said otherwise (1–15 bytes).
    pub bridge: String,
    /// What carries the bridge's traffic.
    pub uplink: Uplink,
    /// VLAN id 1–4094 between uplink and bridge.
    pub vlan: Option<u16>,
    /// MTU in bytes of bridge and everything below it, 576–9216 (1280 at least with IPv6).
    pub mtu: Option<u32>,
    /// IPv4 of the bridge.
    pub ipv4: Ipv4,
    /// IPv6 of the bridge.
    pub ipv6: Ipv6,
    /// Name servers, in order; at most 3 (resolv.conf's limit). Empty: DHCP's.
    pub dns: Vec<IpAddr>,
    /// Search domains, at most 6.
    pub search: Vec<String>,
}

/// The physical side of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// One network card.
    Nic(NicSelector),
    /// Several cards bonded.
    Bond {
        /// Name of the bond device (`bond0` unless said otherwise).
        name: String,
        /// Bonding mode.
        mode: BondMode,
        /// Members, at least one, all different.
        members: Vec<NicSelector>,
    },
}

/// How a network card is chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NicSelector {
    /// By permanent MAC address.
    Mac([u8; 6]),
    /// By kernel interface name.
    Name(String),
    /// By PCI address, `dddd:bb:dd.f`.
    Pci(String),
}

/// Bonding modes offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BondMode {
    /// One active card at a time (kernel mode 1).
    ActiveBackup,
    /// Static hash over all cards (kernel mode 2).
    BalanceXor,
    /// LACP (kernel mode 4).
    Lacp,
}

/// IPv4 of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipv4 {
    /// No IPv4.
    None,
    /// A fixed address.
    Static {
        /// The bridge's address.
        address: Ipv4Addr,
        /// Prefix length 1–32.
        prefix: u8,
        /// Default gateway, inside the prefix.
        gateway: Option<Ipv4Addr>,
    },
    /// DHCPv4 (RFC 2131).
    Dhcp,
}

/// IPv6 of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipv6 {
    /// No IPv6 beyond the link-local address.
    None,
    /// A fixed address.
    Static {
        /// The bridge's address.
        address: Ipv6Addr,
        /// Prefix length 1–128.
        prefix: u8,
        /// Default gateway: inside the prefix or link-local.
        gateway: Option<Ipv6Addr>,
    },
    /// Stateless autoconfiguration (RFC 4862), done by the kernel.
    Slaac,
}

/// The watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// Device path; `None` takes the first of `/dev/watchdog0`, `/dev/watchdog1`.
    pub device: Option<String>,
    /// Seconds after the last ping until the machine resets (10–600, default 60).
    /// Must be equal on every host of a lockspace.
    pub fire_timeout_s: u32,
    /// Whether leases may be held only with a watchdog (default true).
    pub required: bool,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            device: None,
            fire_timeout_s: 60,
            required: true,
        }
    }
}

/// The lockspace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockspace {
    /// Lockspace name, 1–48 bytes, no white space, colon or slash.
    pub name: String,
    /// Absolute path of the block device or file.
    pub path: String,
    /// Byte offset of the area on it, a multiple of 1 MiB.
    pub offset: u64,
    /// This node's host id, 1–2000.
    pub host_id: u32,
    /// Seconds (1–255, default 10); every other timing follows from it.
    pub io_timeout_s: u32,
    /// Unique host name written into the lease; `None`: from the machine id.
    pub host_name: Option<String>,
}
