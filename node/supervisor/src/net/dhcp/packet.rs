//! DHCP messages in IPv4 and UDP headers, for a socket that has no address yet.

use std::net::Ipv4Addr;

/// UDP port of the client.
pub const CLIENT_PORT: u16 = 68;
/// UDP port of the server.
pub const SERVER_PORT: u16 = 67;

const IP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// The Internet checksum (RFC 1071) over `parts`, each of an even length but the last.
fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// `message` from 0.0.0.0:68 to 255.255.255.255:67, or from `source` when given.
#[must_use]
pub fn wrap(source: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(UDP_HEADER_BYTES + message.len()).unwrap_or(u16::MAX);
    let total = u16::try_from(IP_HEADER_BYTES)
        .unwrap_or(0)
        .saturating_add(udp_len);
    let destination = Ipv4Addr::BROADCAST;

    let mut ip = [0_u8; IP_HEADER_BYTES];
    ip[0] = 0x45;
    // Precedence "internetwork control": a loaded switch should drop others first.
    ip[1] = 0xc0;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[6] = 0x40; // do not fragment
    ip[8] = 64;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    let sum = internet_checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut udp = [0_u8; UDP_HEADER_BYTES];
    udp[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
    let length = udp_len.to_be_bytes();
    let pseudo = [&[0, PROTOCOL_UDP][..], &length].concat();
    let sum = internet_checksum(&[
        &source.octets(),
        &destination.octets(),
        &pseudo,
        &udp,
        message,
    ]);
    // A sum of zero is written as all ones: zero means "not computed".
    udp[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());

    [&ip[..], &udp, message].concat()
}

/// The DHCP message in an IPv4 packet from port 67 to port 68; `None` for
/// anything else. The UDP checksum is not looked at: between two ends of one
/// machine (a veth pair, a virtual card) the kernel leaves it unfinished.
#[must_use]
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < IP_HEADER_BYTES {
        return None;
    }
    let ip = packet.get(..header)?;
    let word = |bytes: &[u8], at: usize| -> Option<u16> {
        Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
    };
    let total = usize::from(word(ip, 2)?);
    let fragment = word(ip, 6)? & 0x3fff;
    if ip[9] != PROTOCOL_UDP || fragment != 0 || internet_checksum(&[ip]) != 0 {
        return None;
    }
    let udp = packet.get(header..total)?;
    let length = usize::from(word(udp, 4)?);
    if word(udp, 0)? != SERVER_PORT || word(udp, 2)? != CLIENT_PORT {
        return None;
    }
    udp.get(UDP_HEADER_BYTES..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same packet with ports and addresses of an answer.
    fn answer(message: &[u8]) -> Vec<u8> {
        let mut packet = wrap(Ipv4Addr::new(10, 0, 0, 1), message);
        packet[20..22].copy_from_slice(&SERVER_PORT.to_be_bytes());
        packet[22..24].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        packet
    }

    #[test]
    fn checksums_are_those_of_a_known_packet() {
        let packet = wrap(Ipv4Addr::UNSPECIFIED, b"abc");
        assert_eq!(internet_checksum(&[&packet[..20]]), 0, "header checksum");
        // Pseudo header: addresses, protocol, UDP length; then the datagram with its checksum.
        let pseudo = [0, 0, 0, 0, 255, 255, 255, 255, 0, 17, 0, 11];
        assert_eq!(
            internet_checksum(&[&pseudo, &packet[20..]]),
            0,
            "UDP checksum"
        );
        // RFC 1071's example, §3.
        assert_eq!(
            internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
    }

    #[test]
    fn an_answer_is_unwrapped_without_the_padding_behind_it() {
        let mut packet = answer(b"message");
        packet.extend_from_slice(&[0; 20]);
        assert_eq!(unwrap(&packet), Some(&b"message"[..]));
    }

    #[test]
    fn other_and_damaged_packets_are_refused() {
        let good = answer(b"message");
        assert!(unwrap(&good).is_some());
        for cut in 0..good.len() {
            assert_eq!(unwrap(&good[..cut]), None, "cut to {cut}");
        }
        for at in 0..IP_HEADER_BYTES {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(unwrap(&bad), None, "flipped a bit in byte {at}");
        }
        assert_eq!(
            unwrap(&wrap(Ipv4Addr::UNSPECIFIED, b"message")),
            None,
            "a question is no answer"
        );
    }
}
