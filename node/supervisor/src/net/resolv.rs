//! Name servers: from configuration or lease to resolv.conf.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use control::config::Network;

use super::dhcp::Lease;

/// Name servers a resolver reads from the file; further ones it ignores.
const SERVERS_MAX: usize = 3;

/// The configured name servers, or else the lease's and then those that
/// routers advertised.
#[must_use]
pub fn servers(
    network: &Network,
    lease: Option<&Lease>,
    advertised: impl Iterator<Item = Ipv6Addr>,
) -> Vec<IpAddr> {
    if !network.dns.is_empty() {
        return network.dns.clone();
    }
    let leased = lease.into_iter().flat_map(|lease| &lease.dns);
    leased
        .map(|server| IpAddr::V4(*server))
        .chain(advertised.map(IpAddr::V6))
        .take(SERVERS_MAX)
        .collect()
}

/// The configured search domains, or else the lease's.
#[must_use]
pub fn search(network: &Network, lease: Option<&Lease>) -> Vec<String> {
    if network.search.is_empty() {
        lease.map(|lease| lease.search.clone()).unwrap_or_default()
    } else {
        network.search.clone()
    }
}

/// resolv.conf for these servers and domains.
#[must_use]
pub fn text(servers: &[IpAddr], search: &[String]) -> String {
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str("search ");
        text.push_str(&search.join(" "));
        text.push('\n');
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

/// Replaces the file at `path` in one step: readers see the old or the new one.
///
/// # Errors
/// The file system's.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("conf.next");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::create(&next)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    std::fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_domains_and_servers_in_order() {
        let servers: Vec<IpAddr> =
            vec!["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let search = vec!["a.example".to_owned(), "b.example".to_owned()];
        expect_test::expect![[r"
            search a.example b.example
            nameserver 10.0.0.1
            nameserver 2001:db8::1
        "]]
        .assert_eq(&text(&servers, &search));
    }
}
