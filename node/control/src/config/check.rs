//! From document to [`Config`]: each section is read in full whatever is wrong
//! in it. Where a value cannot be had, a stand-in takes its place so that the
//! rest is still checked; none ever leaves [`parse`], since the mistake that
//! made it necessary refuses the whole document.

use std::net::{Ipv4Addr, Ipv6Addr};

use toml::de::DeTable;

use super::document::{At, Mistakes, Section, closest, entry_name, shown};
use super::names::{self, Read};
use super::{
    BondMode, Config, DOCUMENT_BYTES_MAX, Ipv4, Ipv6, Lockspace, Mistake, Network, NicSelector,
    Uplink, VERSION, Watchdog,
};
use crate::wdmd::test_interval_s;

/// Most cards in one bond.
const BOND_MEMBERS_MAX: usize = 16;
/// Most name servers resolv.conf takes.
const NAME_SERVERS_MAX: usize = 3;
/// Most search domains resolv.conf takes everywhere.
const SEARCH_DOMAINS_MAX: usize = 6;
/// Smallest MTU every IPv6 link must carry (RFC 8200 §5), in bytes.
const IPV6_MTU_MIN: u32 = 1280;
/// Areas are 1 MiB at least and stand at multiples of it.
const OFFSET_STEP: u64 = 1024 * 1024;

/// Reads a configuration document.
///
/// # Errors
///
/// Every mistake in it, sorted by line, at most [`super::MISTAKES_MAX`].
pub fn parse(text: &str) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = Mistakes::new(text);
    if text.len() > DOCUMENT_BYTES_MAX {
        mistakes.add(
            None,
            "",
            format!(
                "document of {} bytes: largest allowed is {DOCUMENT_BYTES_MAX}",
                text.len()
            ),
        );
        return Err(mistakes.into_sorted());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        mistakes.add_syntax(text, error);
    }
    let root = Section::root(document.get_ref());
    let config = if version_is_known(&root, &mut mistakes) {
        read(&root, &mut mistakes)
    } else {
        Config::default()
    };
    let mistakes = mistakes.into_sorted();
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes)
    }
}

/// Reads a configuration document as it came from a file or a device.
///
/// # Errors
///
/// As [`parse`]; bytes that are no UTF-8 are a mistake with its line.
pub fn parse_bytes(bytes: &[u8]) -> Result<Config, Vec<Mistake>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            Err(vec![Mistake {
                line: Some(good.iter().filter(|&&byte| byte == b'\n').count() + 1),
                key: String::new(),
                message: "not UTF-8 text".to_owned(),
            }])
        }
    }
}

/// A document of another version has other keys: nothing in it can be judged.
fn version_is_known(root: &Section<'_, '_>, mistakes: &mut Mistakes) -> bool {
    match root.integer("version", 0..=u64::MAX, mistakes) {
        Some(At { value: VERSION, .. }) => true,
        Some(At { value, offset }) => {
            mistakes.add(
                Some(offset),
                "version",
                format!("{value}: this node reads version {VERSION}"),
            );
            false
        }
        None => {
            if !root.has("version") {
                mistakes.add_missing(
                    None,
                    "version",
                    format!("missing; begin the document with version = {VERSION}"),
                );
            }
            true
        }
    }
}

fn read(root: &Section<'_, '_>, mistakes: &mut Mistakes) -> Config {
    root.refuse_unknown("", mistakes);
    let hostname = root.section("node", mistakes).and_then(|node| {
        node.refuse_unknown("node", mistakes);
        optional(&node, "hostname", names::hostname, mistakes)
    });
    let network = root
        .section("network", mistakes)
        .map(|section| network(&section, mistakes));
    let watchdog = root
        .section("watchdog", mistakes)
        .map(|section| watchdog(&section, mistakes))
        .unwrap_or_default();
    let lockspace = root
        .section("lockspace", mistakes)
        .map(|section| lockspace(&section, &watchdog, mistakes));
    Config {
        hostname,
        network,
        watchdog,
        lockspace,
    }
}

/// A string read by `reader`, if the key is there and right.
fn optional<T>(
    section: &Section<'_, '_>,
    key: &str,
    reader: impl FnOnce(&str) -> Read<T>,
    mistakes: &mut Mistakes,
) -> Option<T> {
    let At { value, offset } = section.string(key, mistakes)?;
    reader(value)
        .map_err(|message| mistakes.add(Some(offset), section.key(key), message))
        .ok()
}

/// The same, noting its absence.
fn required<T>(
    section: &Section<'_, '_>,
    key: &str,
    example: &str,
    reader: impl FnOnce(&str) -> Read<T>,
    mistakes: &mut Mistakes,
) -> Option<T> {
    if !section.has(key) {
        mistakes.add_missing(
            section.offset(),
            section.key(key),
            format!("missing; for instance {key} = {example}"),
        );
    }
    optional(section, key, reader, mistakes)
}

/// One of a few words, noting its absence.
fn choice<T: Copy>(
    section: &Section<'_, '_>,
    key: &str,
    choices: &[(&str, T)],
    mistakes: &mut Mistakes,
) -> Option<T> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let listed = words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    if !section.has(key) {
        mistakes.add_missing(
            section.offset(),
            section.key(key),
            format!("missing; one of {listed}"),
        );
    }
    let reader = |text: &str| {
        choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| {
                let hint = closest(text, &words)
                    .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
                format!("{}: must be one of {listed}{hint}", shown(text))
            })
    };
    optional(section, key, reader, mistakes)
}

fn network(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Network {
    section.refuse_unknown("network", mistakes);
    let bridge = optional(section, "bridge", names::interface, mistakes)
        .unwrap_or_else(|| "ovirtmgmt".to_owned());
    let mtu = section
        .integer("mtu", 576..=9216, mistakes)
        .and_then(|mtu| u32::try_from(mtu.value).ok());
    let vlan = vlan(section, mistakes);
    let uplink = uplink(section, &bridge, mistakes);
    let ipv4 = section
        .section("ipv4", mistakes)
        .map(|section| ipv4(&section, mistakes));
    let ipv6 = section
        .section("ipv6", mistakes)
        .map(|section| ipv6(&section, mistakes));
    if !section.has("ipv4") && !section.has("ipv6") {
        mistakes.add_missing(
            section.offset(),
            section.path(),
            "no address; add [network.ipv4] or [network.ipv6] with method = \"static\", \"dhcp\", \"slaac\" or, for a bridge without one, \"none\"",
        );
    }
    if let (Some(Ipv6::Static { .. } | Ipv6::Slaac), Some(mtu)) = (&ipv6, mtu)
        && mtu < IPV6_MTU_MIN
    {
        mistakes.add(
            section.offset_of("mtu"),
            section.key("mtu"),
            format!("{mtu}: smallest allowed with IPv6 is {IPV6_MTU_MIN}"),
        );
    }
    Network {
        bridge,
        uplink,
        vlan,
        mtu,
        ipv4: ipv4.unwrap_or(Ipv4::None),
        ipv6: ipv6.unwrap_or(Ipv6::None),
        dns: list(
            section,
            "dns",
            NAME_SERVERS_MAX,
            names::name_server,
            mistakes,
        ),
        search: list(
            section,
            "search",
            SEARCH_DOMAINS_MAX,
            names::search_domain,
            mistakes,
        ),
    }
}

fn vlan(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Option<u16> {
    let At { value, offset } = section.integer("vlan", 0..=4094, mistakes)?;
    if value == 0 {
        mistakes.add(
            Some(offset),
            section.key("vlan"),
            "0: means no VLAN; leave the key out for that, smallest id is 1",
        );
    }
    u16::try_from(value).ok()
}

/// A list of strings, all different.
fn list<T: PartialEq>(
    section: &Section<'_, '_>,
    key: &str,
    longest: usize,
    reader: impl Fn(&str) -> Read<T>,
    mistakes: &mut Mistakes,
) -> Vec<T> {
    let mut list = Vec::new();
    for (index, At { value, offset }) in section
        .strings(key, longest, mistakes)
        .into_iter()
        .enumerate()
    {
        match reader(value) {
            Ok(item) if list.contains(&item) => {
                mistakes.add(
                    Some(offset),
                    section.key(key),
                    format!("{}: listed twice", shown(value)),
                );
            }
            Ok(item) => list.push(item),
            Err(message) => {
                mistakes.add(Some(offset), section.key(&entry_name(key, index)), message)
            }
        }
    }
    list
}

fn uplink(section: &Section<'_, '_>, bridge: &str, mistakes: &mut Mistakes) -> Uplink {
    let nic = section.section("nic", mistakes).map(|section| {
        section.refuse_unknown("network.nic", mistakes);
        let nic = nic(&section, mistakes);
        refuse_own_name(&section, nic.as_ref(), &[bridge], mistakes);
        nic
    });
    let bond = section
        .section("bond", mistakes)
        .map(|section| bond(&section, bridge, mistakes));
    if section.has("nic") && section.has("bond") {
        mistakes.add(
            section.offset_of("bond"),
            section.key("bond"),
            "[network.nic] and [network.bond] exclude each other; keep one",
        );
    }
    if !section.has("nic") && !section.has("bond") {
        mistakes.add_missing(
            section.offset(),
            section.path(),
            "no card; add [network.nic] or [network.bond]",
        );
    }
    match (nic.flatten(), bond) {
        (_, Some(bond)) => bond,
        (Some(nic), None) => Uplink::Nic(nic),
        (None, None) => Uplink::Nic(NicSelector::Name(String::new())),
    }
}

/// Exactly one of `mac`, `name`, `pci`.
fn nic(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Option<NicSelector> {
    let given: Vec<&str> = ["mac", "name", "pci"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect();
    match given.as_slice() {
        [] => mistakes.add_missing(
            section.offset(),
            section.path(),
            "names no card; give mac, name or pci",
        ),
        [_] => {}
        several => mistakes.add(
            section.offset(),
            section.path(),
            format!("{} together; give exactly one", several.join(" and ")),
        ),
    }
    let mac = optional(section, "mac", names::mac, mistakes).map(NicSelector::Mac);
    let name = optional(section, "name", names::interface, mistakes).map(NicSelector::Name);
    let pci = optional(section, "pci", names::pci, mistakes).map(NicSelector::Pci);
    mac.or(name).or(pci)
}

/// A card cannot bear the name of a device that is to be built over it.
fn refuse_own_name(
    section: &Section<'_, '_>,
    nic: Option<&NicSelector>,
    taken: &[&str],
    mistakes: &mut Mistakes,
) {
    if let Some(NicSelector::Name(name)) = nic
        && taken.contains(&name.as_str())
    {
        mistakes.add(
            section.offset_of("name"),
            section.key("name"),
            format!("{name}: is the name of the bridge or bond over it"),
        );
    }
}

fn bond(section: &Section<'_, '_>, bridge: &str, mistakes: &mut Mistakes) -> Uplink {
    section.refuse_unknown("network.bond", mistakes);
    let name =
        optional(section, "name", names::interface, mistakes).unwrap_or_else(|| "bond0".to_owned());
    if name == bridge {
        mistakes.add(
            section.offset_of("name").or(section.offset()),
            section.key("name"),
            format!("{name}: is the name of the bridge"),
        );
    }
    let modes = [
        ("active-backup", BondMode::ActiveBackup),
        ("802.3ad", BondMode::Lacp),
        ("balance-xor", BondMode::BalanceXor),
    ];
    let mode = choice(section, "mode", &modes, mistakes).unwrap_or(BondMode::ActiveBackup);
    if !section.has("members") {
        mistakes.add_missing(
            section.offset(),
            section.key("members"),
            "missing; for instance members = [{ name = \"eno1\" }, { name = \"eno2\" }]",
        );
    }
    let mut members = Vec::new();
    let entries = section.sections("members", BOND_MEMBERS_MAX, mistakes);
    if entries.is_empty() && section.has("members") {
        mistakes.add_missing(
            section.offset_of("members"),
            section.key("members"),
            "no card in it; at least one",
        );
    }
    for entry in &entries {
        entry.refuse_unknown("network.nic", mistakes);
        let Some(member) = nic(entry, mistakes) else {
            continue;
        };
        refuse_own_name(entry, Some(&member), &[bridge, &name], mistakes);
        if members.contains(&member) {
            mistakes.add(entry.offset(), entry.path(), "the same card again");
        } else {
            members.push(member);
        }
    }
    Uplink::Bond {
        name,
        mode,
        members,
    }
}

/// What an address section asks for, before its address is read.
#[derive(Clone, Copy)]
enum Method {
    None,
    Static,
    Automatic,
}

/// The method of an address section. Keys that only `static` has are refused
/// with any other.
fn method(section: &Section<'_, '_>, automatic: &str, mistakes: &mut Mistakes) -> Method {
    let choices = [
        ("static", Method::Static),
        (automatic, Method::Automatic),
        ("none", Method::None),
    ];
    let Some(method) = choice(section, "method", &choices, mistakes) else {
        // Either is possible: check the address if there is one.
        return if section.has("address") {
            Method::Static
        } else {
            Method::None
        };
    };
    let word = match method {
        Method::Static => return method,
        Method::Automatic => automatic,
        Method::None => "none",
    };
    for key in ["address", "gateway"] {
        if let Some(offset) = section.offset_of(key) {
            mistakes.add(
                Some(offset),
                section.key(key),
                format!("not with method = {word:?}; only with \"static\""),
            );
        }
    }
    method
}

fn ipv4(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Ipv4 {
    section.refuse_unknown("network.ipv4", mistakes);
    match method(section, "dhcp", mistakes) {
        Method::None => Ipv4::None,
        Method::Automatic => Ipv4::Dhcp,
        Method::Static => {
            let from = required(
                section,
                "address",
                "\"192.0.2.10/24\"",
                names::ipv4_with_prefix,
                mistakes,
            );
            let gateway = optional(
                section,
                "gateway",
                |text| names::ipv4_gateway(text, from),
                mistakes,
            );
            let (address, prefix) = from.unwrap_or((Ipv4Addr::UNSPECIFIED, 32));
            Ipv4::Static {
                address,
                prefix,
                gateway,
            }
        }
    }
}

fn ipv6(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Ipv6 {
    section.refuse_unknown("network.ipv6", mistakes);
    match method(section, "slaac", mistakes) {
        Method::None => Ipv6::None,
        Method::Automatic => Ipv6::Slaac,
        Method::Static => {
            let from = required(
                section,
                "address",
                "\"2001:db8::10/64\"",
                names::ipv6_with_prefix,
                mistakes,
            );
            let gateway = optional(
                section,
                "gateway",
                |text| names::ipv6_gateway(text, from),
                mistakes,
            );
            let (address, prefix) = from.unwrap_or((Ipv6Addr::UNSPECIFIED, 128));
            Ipv6::Static {
                address,
                prefix,
                gateway,
            }
        }
    }
}

fn watchdog(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Watchdog {
    section.refuse_unknown("watchdog", mistakes);
    let default = Watchdog::default();
    let device = optional(section, "device", names::path, mistakes);
    let fire_timeout = section.integer("fire_timeout", 10..=600, mistakes);
    Watchdog {
        device,
        fire_timeout_s: fire_timeout
            .and_then(|s| u32::try_from(s.value).ok())
            .unwrap_or(default.fire_timeout_s),
        required: section
            .boolean("required", mistakes)
            .unwrap_or(default.required),
    }
}

fn lockspace(section: &Section<'_, '_>, watchdog: &Watchdog, mistakes: &mut Mistakes) -> Lockspace {
    section.refuse_unknown("lockspace", mistakes);
    let name =
        required(section, "name", "\"cluster1\"", names::lockspace, mistakes).unwrap_or_default();
    let path = required(
        section,
        "path",
        "\"/dev/disk/by-id/…\"",
        names::path,
        mistakes,
    )
    .unwrap_or_default();
    let offset = section.integer(
        "offset",
        0..=u64::try_from(i64::MAX).unwrap_or(u64::MAX),
        mistakes,
    );
    if let Some(At { value, offset }) = offset
        && value % OFFSET_STEP != 0
    {
        mistakes.add(
            Some(offset),
            section.key("offset"),
            format!("{value}: must be a multiple of {OFFSET_STEP} (1 MiB)"),
        );
    }
    if !section.has("host_id") {
        mistakes.add_missing(
            section.offset(),
            section.key("host_id"),
            "missing; a number from 1 to 2000 that no other node of the lockspace has",
        );
    }
    let host_id = section
        .integer("host_id", 1..=2000, mistakes)
        .and_then(|id| u32::try_from(id.value).ok());
    let io_timeout = section.integer("io_timeout", 1..=255, mistakes);
    let io_timeout_s = io_timeout
        .and_then(|s| u32::try_from(s.value).ok())
        .unwrap_or(10);
    check_io_timeout(section, io_timeout_s, watchdog.fire_timeout_s, mistakes);
    Lockspace {
        name,
        path,
        offset: offset.map_or(0, |offset| offset.value),
        host_id: host_id.unwrap_or(0),
        io_timeout_s,
        host_name: optional(section, "host_name", names::lease_name, mistakes),
    }
}

/// The watchdog looks at the lease's expiry once every test interval and
/// already stops petting one interval before it. A lease expires 8 × io_timeout
/// after a renewal and is renewed every 2 × io_timeout; unless the one exceeds
/// the other by the interval and a second of slack, a healthy node is reset.
fn check_io_timeout(
    section: &Section<'_, '_>,
    io_timeout_s: u32,
    fire_timeout_s: u32,
    mistakes: &mut Mistakes,
) {
    let interval_s = test_interval_s(fire_timeout_s);
    let works = |io_timeout_s: u32| 8 * io_timeout_s > interval_s + 2 * io_timeout_s + 1;
    if works(io_timeout_s) {
        return;
    }
    let smallest = (io_timeout_s..=255)
        .find(|&candidate| works(candidate))
        .unwrap_or(255);
    mistakes.add(
        section.offset_of("io_timeout").or(section.offset()),
        section.key("io_timeout"),
        format!(
            "{io_timeout_s}: with a watchdog that fires after {fire_timeout_s} s and looks every {interval_s} s a healthy node would be reset; smallest allowed is {smallest}"
        ),
    );
}
