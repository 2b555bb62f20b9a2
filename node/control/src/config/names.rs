//! Names and addresses as people write them: each function reads one kind and
//! says what is wrong with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::document::shown;

/// Result of reading one value; the error is the message shown.
pub(super) type Read<T> = Result<T, String>;

/// Longest host name Linux takes, in bytes.
const HOST_NAME_BYTES_MAX: usize = 64;
/// Longest interface name, in bytes (the kernel's 16 less the NUL).
const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// Longest lockspace and host name in a lease record, in bytes.
const LEASE_NAME_BYTES_MAX: usize = 48;
/// Longest device path sanlock's protocol carries, in bytes.
const PATH_BYTES_MAX: usize = 1023;

/// A host name (RFC 1123).
pub(super) fn hostname(text: &str) -> Read<String> {
    domain(text, HOST_NAME_BYTES_MAX)?;
    if text
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(format!(
            "{}: last part is a number, which reads as an address",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

/// A search domain.
pub(super) fn search_domain(text: &str) -> Read<String> {
    domain(text.strip_suffix('.').unwrap_or(text), 253)?;
    Ok(text.to_owned())
}

fn domain(text: &str, longest: usize) -> Read<()> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > longest {
        return Err(format!(
            "{}: {} bytes, longest allowed is {longest}",
            shown(text),
            text.len()
        ));
    }
    for label in text.split('.') {
        let wrong = if label.is_empty() {
            "has an empty part between dots"
        } else if label.len() > 63 {
            "has a part of more than 63 bytes"
        } else if label.starts_with('-') || label.ends_with('-') {
            "has a part that begins or ends with a hyphen"
        } else if !label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            "may hold only letters, digits, hyphens and dots"
        } else {
            continue;
        };
        return Err(format!("{}: {wrong}", shown(text)));
    }
    Ok(())
}

/// A network interface name the kernel accepts.
pub(super) fn interface(text: &str) -> Read<String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > INTERFACE_NAME_BYTES_MAX {
        return Err(format!(
            "{}: {} bytes, longest interface name is {INTERFACE_NAME_BYTES_MAX}",
            shown(text),
            text.len()
        ));
    }
    // '%' is legal in the kernel but turns a name into a numbered pattern.
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"/:%\\\"'".contains(&byte))
    {
        return Err(format!(
            "{}: no spaces, slashes, colons, quotes or percent signs in an interface name",
            shown(text)
        ));
    }
    if [".", "..", "lo", "all", "default", "bonding_masters"].contains(&text) {
        return Err(format!("{}: reserved by the kernel", shown(text)));
    }
    Ok(text.to_owned())
}

/// A MAC address of one card.
pub(super) fn mac(text: &str) -> Read<[u8; 6]> {
    let malformed = || {
        format!(
            "{}: a MAC address is written 52:54:00:12:34:56",
            shown(text)
        )
    };
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut address = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut address {
        let part = parts.next().ok_or_else(malformed)?;
        *byte =
            u8::try_from(hexadecimal(part, 2).ok_or_else(malformed)?).map_err(|_| malformed())?;
    }
    if parts.next().is_some() {
        return Err(malformed());
    }
    if address == [0xff; 6] || address[0] & 1 == 1 {
        return Err(format!("{}: a group address, no card has it", shown(text)));
    }
    if address == [0; 6] {
        return Err(format!("{}: the null address, no card has it", shown(text)));
    }
    Ok(address)
}

/// A PCI address, in its long lower-case form.
pub(super) fn pci(text: &str) -> Read<String> {
    let malformed = || format!("{}: a PCI address is written 0000:00:1f.6", shown(text));
    let (rest, function) = text.rsplit_once('.').ok_or_else(malformed)?;
    let mut parts: Vec<&str> = rest.split(':').collect();
    if parts.len() == 2 {
        parts.insert(0, "0000");
    }
    let &[domain, bus, device] = parts.as_slice() else {
        return Err(malformed());
    };
    let domain = hexadecimal(domain, 4).ok_or_else(malformed)?;
    let bus = hexadecimal(bus, 2).ok_or_else(malformed)?;
    let device = hexadecimal(device, 2).ok_or_else(malformed)?;
    let function = hexadecimal(function, 1).ok_or_else(malformed)?;
    if device > 0x1f {
        return Err(format!("{}: largest PCI device number is 1f", shown(text)));
    }
    if function > 7 {
        return Err(format!("{}: largest PCI function number is 7", shown(text)));
    }
    Ok(format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

fn hexadecimal(text: &str, digits: usize) -> Option<u32> {
    let well_formed = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if well_formed {
        u32::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// A name server.
pub(super) fn name_server(text: &str) -> Read<IpAddr> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{}: not an IP address", shown(text)))?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(format!("{}: not the address of one host", shown(text)));
    }
    Ok(address)
}

/// `a.b.c.d/len`, fit for an interface.
pub(super) fn ipv4_with_prefix(text: &str) -> Read<(Ipv4Addr, u8)> {
    let (address, prefix) = with_prefix::<Ipv4Addr>(text, 32, "192.0.2.10/24", "IPv4")?;
    ipv4_unicast(address)?;
    if prefix <= 30 && host_bits(address, prefix) == 0 {
        return Err(format!(
            "{}: the address of the network itself, not of a host in it",
            shown(text)
        ));
    }
    if prefix <= 30 && host_bits(address, prefix) == host_bits(Ipv4Addr::BROADCAST, prefix) {
        return Err(format!(
            "{}: the broadcast address of its network",
            shown(text)
        ));
    }
    Ok((address, prefix))
}

/// An IPv4 gateway reachable from `address/prefix`.
pub(super) fn ipv4_gateway(text: &str, from: Option<(Ipv4Addr, u8)>) -> Read<Ipv4Addr> {
    let gateway: Ipv4Addr = text
        .parse()
        .map_err(|_| format!("{}: not an IPv4 address", shown(text)))?;
    ipv4_unicast(gateway)?;
    let Some((address, prefix)) = from else {
        return Ok(gateway);
    };
    let network = |ip: Ipv4Addr| ip.to_bits() ^ host_bits(ip, prefix);
    if gateway == address {
        return Err(format!("{gateway}: the node's own address"));
    }
    if network(gateway) != network(address) {
        return Err(format!(
            "{gateway}: outside {address}/{prefix}, so it could not be reached"
        ));
    }
    if prefix <= 30
        && (host_bits(gateway, prefix) == 0
            || host_bits(gateway, prefix) == host_bits(Ipv4Addr::BROADCAST, prefix))
    {
        return Err(format!(
            "{gateway}: network or broadcast address of {address}/{prefix}"
        ));
    }
    Ok(gateway)
}

fn host_bits(address: Ipv4Addr, prefix: u8) -> u32 {
    address.to_bits() & u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

fn ipv4_unicast(address: Ipv4Addr) -> Read<()> {
    let octets = address.octets();
    let kind = if octets[0] == 0 {
        "\"this network\""
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if octets[0] >= 240 {
        "a reserved address"
    } else {
        return Ok(());
    };
    Err(format!("{address}: {kind}, not the address of one host"))
}

/// `2001:db8::a/64`, fit for an interface.
pub(super) fn ipv6_with_prefix(text: &str) -> Read<(Ipv6Addr, u8)> {
    let (address, prefix) = with_prefix::<Ipv6Addr>(text, 128, "2001:db8::10/64", "IPv6")?;
    ipv6_unicast(address)?;
    if address.is_unicast_link_local() {
        return Err(format!(
            "{address}: link-local addresses come by themselves, give a routable one"
        ));
    }
    Ok((address, prefix))
}

/// An IPv6 gateway: link-local, or inside `address/prefix`.
pub(super) fn ipv6_gateway(text: &str, from: Option<(Ipv6Addr, u8)>) -> Read<Ipv6Addr> {
    let gateway: Ipv6Addr = text
        .parse()
        .map_err(|_| format!("{}: not an IPv6 address", shown(text)))?;
    ipv6_unicast(gateway)?;
    let Some((address, prefix)) = from else {
        return Ok(gateway);
    };
    if gateway == address {
        return Err(format!("{gateway}: the node's own address"));
    }
    let network =
        |ip: Ipv6Addr| ip.to_bits() & !u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    if !gateway.is_unicast_link_local() && network(gateway) != network(address) {
        return Err(format!(
            "{gateway}: neither link-local nor inside {address}/{prefix}, so it could not be reached"
        ));
    }
    Ok(gateway)
}

fn ipv6_unicast(address: Ipv6Addr) -> Read<()> {
    let kind = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "the loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address.to_ipv4_mapped().is_some() {
        "an IPv4 address in IPv6 form"
    } else {
        return Ok(());
    };
    Err(format!("{address}: {kind}, not the address of one host"))
}

fn with_prefix<A: std::str::FromStr>(
    text: &str,
    longest: u8,
    example: &str,
    family: &str,
) -> Read<(A, u8)> {
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(format!(
            "{}: prefix length missing, write it as {example}",
            shown(text)
        ));
    };
    let address = address.parse().map_err(|_| {
        format!(
            "{}: not an {family} address, write it as {example}",
            shown(text)
        )
    })?;
    let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    match prefix.parse::<u8>() {
        Ok(prefix) if plain && (1..=longest).contains(&prefix) => Ok((address, prefix)),
        Ok(_) | Err(_) => Err(format!(
            "{}: prefix length must be 1 to {longest}",
            shown(text)
        )),
    }
}

/// A lockspace name: it travels between colons and in socket file names.
pub(super) fn lockspace(text: &str) -> Read<String> {
    let name = lease_name(text)?;
    if text.contains([':', '/']) {
        return Err(format!(
            "{}: no colon or slash in a lockspace name",
            shown(text)
        ));
    }
    Ok(name)
}

/// A name as a lease record holds it.
pub(super) fn lease_name(text: &str) -> Read<String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > LEASE_NAME_BYTES_MAX {
        return Err(format!(
            "{}: {} bytes, longest allowed is {LEASE_NAME_BYTES_MAX}",
            shown(text),
            text.len()
        ));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{}: only visible ASCII characters, no white space",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

/// An absolute path.
pub(super) fn path(text: &str) -> Read<String> {
    if !text.starts_with('/') {
        return Err(format!("{}: must be an absolute path", shown(text)));
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(format!(
            "path of {} bytes: longest allowed is {PATH_BYTES_MAX}",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{}: no control characters in a path", shown(text)));
    }
    if text.ends_with('/') {
        return Err(format!("{}: names a directory", shown(text)));
    }
    Ok(text.to_owned())
}
