//! Questions out, answers in: dhcproto's messages reduced to what the client needs.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};

use super::{Lease, LeaseRoute};

/// Name servers kept of a lease (resolv.conf takes no more).
const DNS_MAX: usize = 3;
/// Search domains kept of a lease.
const SEARCH_MAX: usize = 6;
/// Routes kept of a lease; a hostile server must not fill the routing table.
const ROUTES_MAX: usize = 64;
/// Smallest MTU every IPv4 host must take, in bytes (RFC 791).
const MTU_MIN: u16 = 576;
/// Bytes of an answer we take: an Ethernet frame less the IP and UDP headers.
const ANSWER_MAX: u16 = 1472;
/// Shortest lease honoured, in seconds: shorter ones would make us ask all the time.
const VALID_MIN_S: u32 = 10;
/// Smallest BOOTP message some servers and relays let through, in bytes.
const MESSAGE_MIN: usize = 300;

/// A DISCOVER or REQUEST.
pub(super) struct Question<'a> {
    pub(super) mac: [u8; 6],
    pub(super) hostname: Option<&'a str>,
    pub(super) transaction: u32,
    /// Seconds since the exchange began.
    pub(super) seconds: u16,
    /// REQUEST, not DISCOVER.
    pub(super) request: bool,
    /// The address we have (renewing, rebinding).
    pub(super) own: Option<Ipv4Addr>,
    /// The address we would like (option 50).
    pub(super) wanted: Option<Ipv4Addr>,
    /// The server whose offer we take (option 54).
    pub(super) server: Option<Ipv4Addr>,
}

impl Question<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Some(mut message) = blank() else {
            return Vec::new();
        };
        message
            .set_xid(self.transaction)
            .set_secs(self.seconds)
            .set_chaddr(&self.mac);
        message.set_ciaddr(self.own.unwrap_or(Ipv4Addr::UNSPECIFIED));
        let kind = if self.request {
            MessageType::Request
        } else {
            MessageType::Discover
        };
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::MaxMessageSize(ANSWER_MAX));
        options.insert(DhcpOption::ParameterRequestList(vec![
            // RFC 3442: 121 before 3.
            OptionCode::SubnetMask,
            OptionCode::ClasslessStaticRoute,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::DomainName,
            OptionCode::DomainSearch,
            OptionCode::InterfaceMtu,
        ]));
        if let Some(hostname) = self.hostname {
            options.insert(DhcpOption::Hostname(hostname.to_owned()));
        }
        if let Some(wanted) = self.wanted {
            options.insert(DhcpOption::RequestedIpAddress(wanted));
        }
        if let Some(server) = self.server {
            options.insert(DhcpOption::ServerIdentifier(server));
        }
        // Encoding into memory fails only for lengths that none of ours has;
        // an empty message would be dropped by the server and repeated.
        let mut bytes = message.to_vec().unwrap_or_default();
        if bytes.len() < MESSAGE_MIN {
            bytes.resize(MESSAGE_MIN, 0);
        }
        bytes
    }
}

/// An empty message of a client, decoded: dhcproto's constructors draw a random
/// transaction id, and early in the boot that blocks until the kernel has
/// gathered entropy.
fn blank() -> Option<Message> {
    const FIXED_BYTES: usize = 236;
    let mut bytes = [0_u8; FIXED_BYTES + 5];
    // A request, over Ethernet, with addresses of six bytes.
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    // The magic cookie and the end of the options (RFC 2131 §3, RFC 2132 §3.2).
    bytes[FIXED_BYTES..].copy_from_slice(&[99, 130, 83, 99, 255]);
    Message::decode(&mut Decoder::new(&bytes)).ok()
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerKind {
    Offer,
    Ack,
    Nak,
}

/// An answer to our question.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: AnswerKind,
    /// Present when an offer or acknowledgement is usable.
    pub(super) lease: Option<Lease>,
    pub(super) server: Option<Ipv4Addr>,
    /// The server's words, made printable and cut at 80 characters.
    pub(super) text: Option<String>,
}

impl Answer {
    /// `None` unless `bytes` answers this transaction of this card.
    pub(super) fn decode(bytes: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Self> {
        let message = Message::decode(&mut Decoder::new(bytes)).ok()?;
        // `chaddr()` cuts by the length the packet claims.
        let ours = message.opcode() == Opcode::BootReply
            && message.xid() == transaction
            && message.hlen() == 6;
        if !ours || message.chaddr() != mac {
            return None;
        }
        let kind = match message.opts().msg_type()? {
            MessageType::Offer => AnswerKind::Offer,
            MessageType::Ack => AnswerKind::Ack,
            MessageType::Nak => AnswerKind::Nak,
            _ => return None,
        };
        let server = match message.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        let text = match message.opts().get(OptionCode::Message) {
            Some(DhcpOption::Message(text)) => {
                Some(text.chars().filter(|c| !c.is_control()).take(80).collect())
            }
            _ => None,
        };
        let lease = if kind == AnswerKind::Nak {
            None
        } else {
            server.and_then(|server| lease(&message, server))
        };
        Some(Self {
            kind,
            lease,
            server,
            text,
        })
    }
}

/// The lease in an offer or acknowledgement; `None` when it cannot be used.
fn lease(message: &Message, server: Ipv4Addr) -> Option<Lease> {
    let options = message.opts();
    let address = message.yiaddr();
    if address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback()
    {
        return None;
    }
    let prefix = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => prefix_of(*mask)?,
        _ => class_prefix(address),
    };
    let dns = match options.get(OptionCode::DomainNameServer) {
        Some(DhcpOption::DomainNameServer(servers)) => {
            servers.iter().copied().take(DNS_MAX).collect()
        }
        _ => Vec::new(),
    };
    let mtu = match options.get(OptionCode::InterfaceMtu) {
        Some(DhcpOption::InterfaceMtu(mtu)) if *mtu >= MTU_MIN => Some(*mtu),
        _ => None,
    };
    let seconds = |code| match options.get(code) {
        Some(
            DhcpOption::AddressLeaseTime(s) | DhcpOption::Renewal(s) | DhcpOption::Rebinding(s),
        ) if *s != u32::MAX => Some(*s),
        _ => None,
    };
    // A lease without a time does not end (servers for fixed addresses do that).
    let valid_s = seconds(OptionCode::AddressLeaseTime).map(|s| s.max(VALID_MIN_S));
    let (renew_s, rebind_s) = match valid_s {
        None => (None, None),
        Some(valid) => {
            let rebind = seconds(OptionCode::Rebinding)
                .filter(|s| *s < valid)
                .unwrap_or(valid - valid / 8);
            let renew = seconds(OptionCode::Renewal)
                .filter(|s| *s > 0 && *s < rebind)
                .unwrap_or((valid / 2).min(rebind));
            (Some(renew), Some(rebind))
        }
    };
    let search = search(message);
    Some(Lease {
        address,
        prefix,
        server,
        routes: routes(message),
        dns,
        search,
        mtu,
        valid_s,
        renew_s,
        rebind_s,
    })
}

/// Option 121 alone when present (RFC 3442), otherwise the first router of option 3.
fn routes(message: &Message) -> Vec<LeaseRoute> {
    if let Some(DhcpOption::ClasslessStaticRoute(routes)) =
        message.opts().get(OptionCode::ClasslessStaticRoute)
    {
        return routes
            .iter()
            .take(ROUTES_MAX)
            .map(|(network, gateway)| LeaseRoute {
                destination: network.network(),
                prefix: network.prefix_len(),
                gateway: *gateway,
            })
            .collect();
    }
    match message.opts().get(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => routers
            .iter()
            .take(1)
            .filter(|gateway| !gateway.is_unspecified())
            .map(|gateway| LeaseRoute {
                destination: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: *gateway,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Search domains: option 119, otherwise the domain of option 15. Names with
/// bytes that could break out of a line of resolv.conf are left out.
fn search(message: &Message) -> Vec<String> {
    let names: Vec<String> = match (
        message.opts().get(OptionCode::DomainSearch),
        message.opts().get(OptionCode::DomainName),
    ) {
        (Some(DhcpOption::DomainSearch(names)), _) => {
            names.iter().map(ToString::to_string).collect()
        }
        (_, Some(DhcpOption::DomainName(name))) => {
            name.split_whitespace().map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let plain = |name: &String| {
        !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    names
        .into_iter()
        .map(|name| name.trim_end_matches(['.', '\0']).to_owned())
        .filter(plain)
        .take(SEARCH_MAX)
        .collect()
}

/// Prefix length of a mask; `None` when it has holes or is empty.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let prefix = bits.leading_ones();
    (prefix > 0 && bits.count_ones() == prefix)
        .then(|| u8::try_from(prefix).ok())
        .flatten()
}

/// Prefix length by address class, for servers that send no mask.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}
