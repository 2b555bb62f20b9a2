//! Names of portals, targets and interfaces: checked, because they become file
//! names and arguments.

use std::fmt;
use std::str::FromStr;

use control::storage::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::job::Result;

/// Port of a portal that does not say.
pub const PORT: u16 = 3260;

/// Longest name of a target or initiator, in bytes (RFC 7143).
pub const NAME_BYTES_MAX: usize = 223;

/// Where a target answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Portal {
    /// Address or host name; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Portal group tag, when it is known.
    pub group: Option<u16>,
}

impl Portal {
    /// As open-iscsi names its directories: `host,port`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{},{}", self.host, self.port)
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn endpoint(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The same host and port, whatever the group.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint())?;
        self.group.map_or(Ok(()), |group| write!(f, ",{group}"))
    }
}

impl FromStr for Portal {
    type Err = Failure;

    /// `host`, `host:port`, `[address]:port`, each with `,group` after it.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Failure::new(
                FailureKind::BadRequest,
                format!(
                    "portal {text:?}: address, address:port or [IPv6 address]:port is expected"
                ),
            )
        };
        let (address, group) = match text.split_once(',') {
            // open-iscsi writes -1 for an unknown group.
            Some((address, "-1")) => (address, None),
            Some((address, group)) => (address, Some(group.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (host, port) = if let Some(rest) = address.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            match port {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':').ok_or_else(bad)?)),
            }
        } else if address.matches(':').count() > 1 {
            (address, None)
        } else {
            match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            }
        };
        let port = port.map_or(Ok(PORT), str::parse).map_err(|_| bad())?;
        let letter = |letter: char| letter.is_ascii_alphanumeric() || ".:-%_".contains(letter);
        if host.is_empty()
            || host.len() > 255
            || port == 0
            || host.starts_with(['-', '.'])
            || !host.chars().all(letter)
        {
            return Err(bad());
        }
        Ok(Self {
            host: canonical(host),
            port,
            group,
        })
    }
}

/// A host in its one spelling: an IPv6 address has many.
#[must_use]
pub fn canonical(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_owned(),
    }
}

impl TryFrom<String> for Portal {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Portal> for String {
    fn from(portal: Portal) -> Self {
        portal.to_string()
    }
}

/// Checks the name of a target or initiator.
///
/// # Errors
///
/// [`FailureKind::BadRequest`] for what no iSCSI name may be.
pub fn check_name(name: &str) -> Result<()> {
    let letter = |letter: char| letter.is_ascii_alphanumeric() || ".:-_".contains(letter);
    let known = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|start| name.to_ascii_lowercase().starts_with(start));
    if known && name.len() > 4 && name.len() <= NAME_BYTES_MAX && name.chars().all(letter) {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::BadRequest,
        format!(
            "iSCSI name {name:?}: iqn., eui. or naa. and at most {NAME_BYTES_MAX} letters, digits and .:-_ in all"
        ),
    ))
}

/// An interface record, and the network device it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name of the record.
    pub name: String,
    /// Network device; the kernel's choice when absent.
    pub device: Option<String>,
}

impl Default for Interface {
    /// The record that binds nothing.
    fn default() -> Self {
        Self {
            name: "default".into(),
            device: None,
        }
    }
}

impl FromStr for Interface {
    type Err = Failure;

    /// `name` or `name=device`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, device) = match text.split_once('=') {
            Some((name, device)) => (name, Some(device)),
            None => (text, None),
        };
        let word = |word: &str, max: usize| {
            !word.is_empty()
                && word.len() <= max
                && !word.starts_with(['-', '.'])
                && word
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || "._-:".contains(letter))
        };
        if !word(name, 64)
            || device.is_some_and(|device| !word(device, 15))
            || (name == "default" && device.is_some())
        {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("iSCSI interface {text:?}: name or name=device is expected"),
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            device: device.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn portals_are_read_in_every_spelling() {
        for (text, endpoint, group) in [
            ("10.0.0.1", "10.0.0.1:3260", None),
            ("10.0.0.1:3261", "10.0.0.1:3261", None),
            ("10.0.0.1:3260,1", "10.0.0.1:3260", Some(1)),
            ("10.0.0.1:3260,-1", "10.0.0.1:3260", None),
            ("storage.example", "storage.example:3260", None),
            ("[2001:db8::1]:3261,2", "[2001:db8::1]:3261", Some(2)),
            ("[fe80::1%eth0]", "[fe80::1%eth0]:3260", None),
            ("2001:db8::1", "[2001:db8::1]:3260", None),
            ("2001:DB8:0:0::1", "[2001:db8::1]:3260", None),
        ] {
            let portal: Portal = text.parse().unwrap();
            assert_eq!(portal.endpoint(), endpoint, "{text}");
            assert_eq!(portal.group, group, "{text}");
        }
        for text in [
            "",
            ":",
            "-x",
            "a:0",
            "a:b",
            "a:70000",
            "[::1",
            "[::1]3260",
            "a/b",
            "..",
            "a,x",
            "a b",
        ] {
            assert!(text.parse::<Portal>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_cannot_become_paths_or_options() {
        assert!(check_name("iqn.2026-11.example.holdfast:lab").is_ok());
        assert!(check_name("naa.600140500000").is_ok());
        for name in [
            "",
            "iqn.",
            "../etc",
            "iqn.x/../y",
            "iqn.a b",
            "abc",
            "iqn.\u{e4}",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&format!("iqn.{}", "x".repeat(220))).is_err());
        assert_eq!(
            "multi1=eth1"
                .parse::<Interface>()
                .unwrap()
                .device
                .as_deref(),
            Some("eth1")
        );
        for text in ["", "a/b", "-I", "default=eth0", "x=", "x=averyverylongname"] {
            assert!(text.parse::<Interface>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_alike(text in ".{0,40}") {
            if let Ok(portal) = text.parse::<Portal>() {
                prop_assert_eq!(portal.to_string().parse::<Portal>().unwrap(), portal);
            }
        }
    }
}
