//! Name servers that routers advertise (RFC 8106). The kernel makes addresses
//! and routes of a router advertisement itself, and passes on the options it
//! has no use for: this hears of them, and remembers them for their time.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::dhcp::Millis;

/// Servers remembered (resolv.conf takes no more); those that last longest stay.
const SERVERS_MAX: usize = 3;
/// `RTNLGRP_ND_USEROPT`, 20, in a mask of groups that counts from 1.
const GROUPS: u32 = 1 << 19;
/// `RTM_NEWNDUSEROPT`.
const NEW_USER_OPTION: u16 = 68;
/// Bytes of a netlink message's header, and of what precedes the options.
const HEADER_BYTES: usize = 16;
const PREFIX_BYTES: usize = 16;
/// ICMPv6 type of a router advertisement.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Recursive name servers (RFC 8106 §5.1): type, then its fixed part.
const OPTION_RDNSS: u8 = 25;
const RDNSS_FIXED_BYTES: usize = 8;
/// Unit of an option's length.
const OPTION_UNIT_BYTES: usize = 8;
/// A lifetime that does not end.
const FOR_EVER_S: u32 = u32::MAX;

/// Name servers out of one advertisement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// Index of the link it came in by.
    pub link: u32,
    /// The servers. Link-local ones are left out: they mean nothing without
    /// their link, which resolv.conf's readers seldom understand.
    pub servers: Vec<Ipv6Addr>,
    /// Seconds they may be used; 0 is no longer, 2³²−1 for ever.
    pub lifetime_s: u32,
}

impl Advertisement {
    /// Reads every name server option out of what one receive from the kernel
    /// gave. Whatever is cut short or of another kind is left out.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Some((length, kind)) = header(bytes) {
            let Some((message, rest)) = bytes.split_at_checked(length) else {
                break;
            };
            if kind == NEW_USER_OPTION
                && let Some(body) = message.get(HEADER_BYTES..)
            {
                found.extend(user_options(body));
            }
            // The next message begins at a multiple of four.
            bytes = rest
                .get(length.next_multiple_of(4) - length..)
                .unwrap_or(&[]);
        }
        found
    }
}

/// Length in bytes and type of the message that `bytes` begins with.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?);
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    (length >= HEADER_BYTES).then_some((length, kind))
}

fn user_options(body: &[u8]) -> Vec<Advertisement> {
    let prefix = || {
        let length = u16::from_ne_bytes(*body.get(2..)?.first_chunk()?);
        let link = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
        let icmp_type = *body.get(8)?;
        let options = body.get(PREFIX_BYTES..)?.get(..usize::from(length))?;
        (icmp_type == ROUTER_ADVERTISEMENT).then_some((link, options))
    };
    let Some((link, mut options)) = prefix() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * OPTION_UNIT_BYTES;
        // An option of no length would never end (RFC 4861 §4.6).
        let Some((option, rest)) = options.split_at_checked(length).filter(|_| length > 0) else {
            break;
        };
        if kind == OPTION_RDNSS {
            found.extend(name_servers(link, option));
        }
        options = rest;
    }
    found
}

fn name_servers(link: u32, option: &[u8]) -> Option<Advertisement> {
    let lifetime_s = u32::from_be_bytes(*option.get(4..)?.first_chunk()?);
    let (addresses, _) = option.get(RDNSS_FIXED_BYTES..)?.as_chunks::<16>();
    let usable = |server: &Ipv6Addr| {
        !server.is_unspecified()
            && !server.is_multicast()
            && !server.is_loopback()
            && !server.is_unicast_link_local()
    };
    let servers: Vec<Ipv6Addr> = addresses
        .iter()
        .map(|octets| Ipv6Addr::from(*octets))
        .filter(usable)
        .collect();
    (!servers.is_empty()).then_some(Advertisement {
        link,
        servers,
        lifetime_s,
    })
}

/// Where the kernel passes options on. Non-blocking.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Begins to listen in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is routing's.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { fd })
    }

    /// What has come in, at most one receive's worth.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; the kernel's when some were lost.
    pub fn receive(&self) -> io::Result<Vec<Advertisement>> {
        let mut buffer = [0; 8192];
        let (length, _) = recv(&self.fd, &mut buffer, RecvFlags::empty())?;
        Ok(Advertisement::decode(buffer.get(..length).unwrap_or(&[])))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    link: u32,
    server: Ipv6Addr,
    ends_at: Millis,
}

/// The servers advertised so far whose time has not passed.
#[derive(Debug, Default)]
pub struct NameServers {
    known: Vec<Known>,
}

impl NameServers {
    /// Takes in an advertisement.
    pub fn hear(&mut self, now: Millis, news: &Advertisement) {
        let ends_at = match news.lifetime_s {
            FOR_EVER_S => Millis::MAX,
            seconds => now + u64::from(seconds) * 1000,
        };
        for server in &news.servers {
            let same = |known: &&mut Known| (known.link, known.server) == (news.link, *server);
            match self.known.iter_mut().find(same) {
                Some(known) => known.ends_at = ends_at,
                None => self.known.push(Known {
                    link: news.link,
                    server: *server,
                    ends_at,
                }),
            }
        }
        self.forget(now);
        while self.known.len() > SERVERS_MAX {
            // Of those that end first, the one heard of last.
            let shortest = (self.known.iter().enumerate().rev()).min_by_key(|(_, k)| k.ends_at);
            let Some((index, _)) = shortest else { return };
            self.known.remove(index);
        }
    }

    /// Drops what has ended.
    pub fn forget(&mut self, now: Millis) {
        self.known.retain(|known| known.ends_at > now);
    }

    /// The servers advertised on `link`, in the order they were heard of.
    pub fn on(&self, link: u32) -> impl Iterator<Item = Ipv6Addr> {
        let here = self.known.iter().filter(move |known| known.link == link);
        here.map(|known| known.server)
    }

    /// When the next one ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let ends = self.known.iter().map(|known| known.ends_at);
        ends.filter(|at| *at < Millis::MAX).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME_S: u32 = 600;

    fn server(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last)
    }

    fn rdnss(lifetime_s: u32, servers: &[Ipv6Addr]) -> Vec<u8> {
        let units = u8::try_from(1 + 2 * servers.len()).unwrap();
        let mut option = vec![OPTION_RDNSS, units, 0, 0];
        option.extend(lifetime_s.to_be_bytes());
        for server in servers {
            option.extend(server.octets());
        }
        option
    }

    fn message(icmp_type: u8, options: &[u8]) -> Vec<u8> {
        let mut body = vec![10, 0];
        body.extend(u16::try_from(options.len()).unwrap().to_ne_bytes());
        body.extend(5_u32.to_ne_bytes());
        body.extend([icmp_type, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(options);
        // The router's address follows, as an attribute.
        body.extend([20, 0, 1, 0]);
        body.extend([0xfe; 16]);
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        bytes.extend(NEW_USER_OPTION.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn heard(servers: &[Ipv6Addr]) -> Advertisement {
        Advertisement {
            link: 5,
            servers: servers.to_vec(),
            lifetime_s: LIFETIME_S,
        }
    }

    #[test]
    fn name_servers_are_read_out_of_the_kernels_messages() {
        let local = "fe80::1".parse().unwrap();
        let first = rdnss(LIFETIME_S, &[server(1), local, server(2)]);
        // A search list before it, another message after it.
        let mut options = vec![31, 1, 0, 0, 0, 0, 0, 0];
        options.extend(&first);
        let mut bytes = message(ROUTER_ADVERTISEMENT, &options);
        bytes.extend(message(ROUTER_ADVERTISEMENT, &rdnss(0, &[server(3)])));
        let expected = [
            heard(&[server(1), server(2)]),
            Advertisement {
                lifetime_s: 0,
                ..heard(&[server(3)])
            },
        ];
        assert_eq!(Advertisement::decode(&bytes), expected);
        let redirect = message(137, &first);
        assert_eq!(Advertisement::decode(&redirect), []);
    }

    #[test]
    fn whatever_is_cut_short_or_absurd_is_left_out() {
        let whole = message(ROUTER_ADVERTISEMENT, &rdnss(LIFETIME_S, &[server(1)]));
        for length in 0..whole.len() {
            assert_eq!(Advertisement::decode(&whole[..length]), [], "{length}");
        }
        for place in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = value;
                // Any answer will do, as long as there is one.
                assert!(Advertisement::decode(&bytes).len() <= 1);
            }
        }
        let nobody = rdnss(LIFETIME_S, &["ff02::1".parse().unwrap()]);
        let bytes = message(ROUTER_ADVERTISEMENT, &nobody);
        assert_eq!(Advertisement::decode(&bytes), []);
    }

    #[test]
    fn servers_last_for_their_time_and_the_number_is_bounded() {
        let mut servers = NameServers::default();
        let on = |servers: &NameServers| servers.on(5).collect::<Vec<_>>();
        servers.hear(0, &heard(&[server(1), server(2)]));
        assert_eq!(
            (on(&servers), servers.deadline()),
            (vec![server(1), server(2)], Some(600_000))
        );
        assert_eq!(servers.on(6).count(), 0, "of another link");
        servers.hear(300_000, &heard(&[server(2)]));
        servers.forget(600_000);
        assert_eq!(
            (on(&servers), servers.deadline()),
            (vec![server(2)], Some(900_000))
        );
        let ended = Advertisement {
            lifetime_s: 0,
            ..heard(&[server(2)])
        };
        servers.hear(600_001, &ended);
        assert_eq!((on(&servers), servers.deadline()), (vec![], None));
        let for_ever = Advertisement {
            lifetime_s: u32::MAX,
            ..heard(&[server(9)])
        };
        servers.hear(0, &for_ever);
        assert_eq!(servers.deadline(), None);
        servers.hear(0, &heard(&[server(1), server(2), server(3), server(4)]));
        assert_eq!(on(&servers), [server(9), server(1), server(2)]);
    }
}
