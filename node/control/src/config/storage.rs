//! The storage section: pool, manager's role, connections.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Watchdog;
use super::check::{check_io_timeout, choice, optional, required};
use super::document::{At, Mistakes, Section, shown};
use super::names::{self, Read};
use crate::storage::connection::{Chap, Secret};
use crate::storage::{Connection, remote as storage_remote};

/// Most connections in a document.
const CONNECTIONS_MAX: usize = 64;
/// Most portals of a target, and most mount options.
const LIST_MAX: usize = 32;
/// Fastest rate of a wipe that can be set, in MiB/s: faster is no limit.
const WIPE_MIB_PER_S_MAX: u64 = 1 << 20;
/// Longest password of CHAP, in bytes: what the kernel's initiator takes.
const PASSWORD_BYTES_MAX: usize = 255;

/// Shared storage of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Pool to connect, a UUID; `None`: only the connections are made.
    pub pool: Option<String>,
    /// This node's number in the pool, 1–250.
    pub host_id: u16,
    /// Who decides about the manager's role.
    pub spm: SpmMode,
    /// What a manager manages.
    pub manager: Manager,
    /// Seconds (1–255, default 10) of every domain's lockspace.
    pub io_timeout_s: u32,
    /// Name of this node's iSCSI initiator; `None`: from the machine id.
    pub initiator_name: Option<String>,
    /// How thin volumes grow.
    #[serde(default)]
    pub thin: Thin,
    /// How the room of volumes is given back.
    #[serde(default)]
    pub giving_back: GivingBack,
    /// Connections to keep.
    pub connections: Vec<Connection>,
}

/// How thin volumes on LUNs grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thin {
    /// What an extend adds and a new thin volume begins with, in MiB: whole
    /// extents of 128, up to [`Self::CHUNK_MIB_MAX`].
    pub chunk_mib: u32,
    /// How much of a chunk may be used before the next is asked for, 1–99.
    pub utilization_percent: u8,
    /// Whether a guest that writes fast is given more, and earlier.
    pub predict: bool,
}

impl Thin {
    /// An extent of a domain on LUNs, in MiB: nothing smaller can be given.
    pub const EXTENT_MIB: u32 = 128;
    /// Largest chunk, in MiB: 1 TiB.
    pub const CHUNK_MIB_MAX: u32 = 1 << 20;
}

impl Default for Thin {
    /// What other hosts of a pool use.
    fn default() -> Self {
        Self {
            chunk_mib: 2560,
            utilization_percent: 20,
            predict: true,
        }
    }
}

/// How the room of removed volumes is given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivingBack {
    /// MiB a second that one wipe zeroes at most; as fast as it goes when absent.
    pub wipe_mib_per_s: Option<u32>,
    /// Whether the array is told of all room that is given back, also where the
    /// request does not ask for it.
    pub discard: bool,
}

/// Who decides about the manager's role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpmMode {
    /// `nodectl spm`, or a manager of the cluster: right for pools with other kinds of hosts.
    #[default]
    Manual,
    /// The hosts among themselves.
    Auto,
}

/// What a manager manages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// The pool: one host changes metadata (SPM).
    #[default]
    Pool,
    /// A domain: each host takes a domain's lease for each change (SDM). Only
    /// for pools in which every host does so.
    Domain,
}

/// Reads the section.
pub(super) fn storage(
    section: &Section<'_, '_>,
    watchdog: &Watchdog,
    mistakes: &mut Mistakes,
) -> Storage {
    section.refuse_unknown("storage", mistakes);
    let pool = optional(section, "pool", uuid, mistakes);
    if section.has("pool") && !section.has("host_id") {
        mistakes.add_missing(
            section.offset(),
            section.key("host_id"),
            "missing; a number from 1 to 250 that no other node of the pool has",
        );
    }
    let host_id = section.integer("host_id", 1..=250, mistakes);
    let spm = word(
        section,
        "spm",
        &[("manual", SpmMode::Manual), ("auto", SpmMode::Auto)],
        mistakes,
    );
    let manager = word(
        section,
        "manager",
        &[("pool", Manager::Pool), ("domain", Manager::Domain)],
        mistakes,
    );
    let io_timeout_s = section
        .integer("io_timeout", 1..=255, mistakes)
        .and_then(|s| u32::try_from(s.value).ok())
        .unwrap_or(10);
    check_io_timeout(section, io_timeout_s, watchdog.fire_timeout_s, mistakes);
    let connections = connections(section, mistakes);
    Storage {
        pool,
        host_id: host_id
            .and_then(|id| u16::try_from(id.value).ok())
            .unwrap_or(0),
        spm,
        manager,
        io_timeout_s,
        initiator_name: optional(section, "initiator_name", target, mistakes),
        thin: thin(section, mistakes),
        giving_back: GivingBack {
            wipe_mib_per_s: number(section, "wipe_mib_per_s", 1..=WIPE_MIB_PER_S_MAX, mistakes),
            discard: section.boolean("discard", mistakes).unwrap_or_default(),
        },
        connections,
    }
}

fn thin(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Thin {
    let default = Thin::default();
    let extent = u64::from(Thin::EXTENT_MIB);
    let sizes = extent..=u64::from(Thin::CHUNK_MIB_MAX);
    let chunk = section.integer("thin_chunk_mib", sizes, mistakes);
    if let Some(At { value, offset }) = &chunk
        && value % extent != 0
    {
        mistakes.add(
            Some(*offset),
            section.key("thin_chunk_mib"),
            format!(
                "{value}: must be a multiple of {extent}, the extent of a domain; {} would do",
                value.next_multiple_of(extent)
            ),
        );
    }
    Thin {
        chunk_mib: chunk
            .and_then(|chunk| u32::try_from(chunk.value).ok())
            .unwrap_or(default.chunk_mib),
        utilization_percent: section
            .integer("thin_utilization_percent", 1..=99, mistakes)
            .and_then(|percent| u8::try_from(percent.value).ok())
            .unwrap_or(default.utilization_percent),
        predict: section
            .boolean("thin_predict", mistakes)
            .unwrap_or(default.predict),
    }
}

/// One of a few words, the default when absent.
fn word<T: Copy + Default>(
    section: &Section<'_, '_>,
    key: &str,
    choices: &[(&str, T)],
    mistakes: &mut Mistakes,
) -> T {
    if !section.has(key) {
        return T::default();
    }
    choice(section, key, choices, mistakes).unwrap_or_default()
}

/// The kinds of connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Iscsi,
    Nfs,
    Posix,
    Local,
    Gluster,
    Fc,
}

/// Each kind, and the keys it may have besides `type`.
const KINDS: &[(&str, Kind, &[&str])] = &[
    (
        "iscsi",
        Kind::Iscsi,
        &[
            "portals",
            "target",
            "user",
            "password",
            "mutual_user",
            "mutual_password",
            "interface",
        ],
    ),
    (
        "nfs",
        Kind::Nfs,
        &[
            "export",
            "nfs_version",
            "timeo",
            "retrans",
            "hard",
            "options",
        ],
    ),
    ("posix", Kind::Posix, &["spec", "vfs_type", "options"]),
    ("local", Kind::Local, &["path"]),
    ("gluster", Kind::Gluster, &["volume", "options"]),
    ("fc", Kind::Fc, &[]),
];

/// All of them; two of one storage would undo each other's options.
fn connections(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Vec<Connection> {
    let sections = section.sections("connection", CONNECTIONS_MAX, mistakes);
    let mut seen = BTreeMap::new();
    let mut connections = Vec::new();
    for (section, number) in sections.iter().zip(1_usize..) {
        let Some(connection) = connection(section, mistakes) else {
            continue;
        };
        let id = connection.id();
        if let Some(first) = seen.get(&id) {
            let together = match &connection {
                Connection::Iscsi { .. } => ": name all portals in one",
                _ => "",
            };
            mistakes.add(
                section.offset(),
                section.key("type"),
                format!("connection {number} is {id}, and so is connection {first}{together}"),
            );
            continue;
        }
        seen.insert(id, number);
        connections.push(connection);
    }
    connections
}

fn connection(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Option<Connection> {
    section.refuse_unknown("storage.connection", mistakes);
    let choices: Vec<(&str, Kind)> = KINDS.iter().map(|&(name, kind, _)| (name, kind)).collect();
    let kind = choice(section, "type", &choices, mistakes)?;
    refuse_keys_of_others(section, kind, mistakes);
    Some(match kind {
        Kind::Iscsi => iscsi(section, mistakes)?,
        Kind::Nfs => Connection::Nfs {
            export: required(section, "export", "\"server:/path\"", export, mistakes)?,
            version: optional(section, "nfs_version", nfs_version, mistakes),
            timeo: number(section, "timeo", 1..=6000, mistakes),
            retrans: number(section, "retrans", 1..=100, mistakes),
            options: options(section, mistakes),
            hard: section.boolean("hard", mistakes).unwrap_or_default(),
        },
        Kind::Posix => Connection::Posix {
            spec: required(section, "spec", "\"/dev/sdb1\"", remote, mistakes)?,
            vfs_type: required(section, "vfs_type", "\"xfs\"", plain, mistakes)?,
            options: options(section, mistakes),
        },
        Kind::Fc => Connection::Fc {},
        Kind::Local => Connection::Local {
            path: required(section, "path", "\"/data/images\"", directory, mistakes)?,
        },
        Kind::Gluster => Connection::Gluster {
            volume: required(section, "volume", "\"server:volume\"", remote, mistakes)?,
            options: options(section, mistakes),
        },
    })
}

/// Notes keys that only another type has.
fn refuse_keys_of_others(section: &Section<'_, '_>, kind: Kind, mistakes: &mut Mistakes) {
    let own = KINDS
        .iter()
        .find(|(_, known, _)| *known == kind)
        .map_or(&[][..], |(_, _, keys)| keys);
    let mut others: Vec<&str> = KINDS
        .iter()
        .flat_map(|(_, _, keys)| keys.iter().copied())
        .filter(|key| !own.contains(key))
        .collect();
    others.sort_unstable();
    others.dedup();
    for key in others {
        let Some(offset) = section.offset_of(key) else {
            continue;
        };
        let types: Vec<&str> = KINDS
            .iter()
            .filter(|(_, _, keys)| keys.contains(&key))
            .map(|(name, _, _)| *name)
            .collect();
        mistakes.add(
            Some(offset),
            section.key(key),
            format!("only for type {}", types.join(", ")),
        );
    }
}

fn iscsi(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Option<Connection> {
    if !section.has("portals") {
        mistakes.add_missing(
            section.offset(),
            section.key("portals"),
            "missing; for instance portals = [\"192.0.2.20:3260\"]",
        );
        return None;
    }
    let mut portals = Vec::new();
    for At { value, offset } in section.strings("portals", LIST_MAX, mistakes) {
        match portal(value) {
            Ok(portal) => portals.push(portal),
            Err(message) => mistakes.add(Some(offset), section.key("portals"), message),
        }
    }
    if portals.is_empty() {
        mistakes.add(
            section.offset_of("portals"),
            section.key("portals"),
            "is empty",
        );
        return None;
    }
    Some(Connection::Iscsi {
        portals,
        target: optional(section, "target", target, mistakes),
        chap: chap(section, "user", "password", mistakes),
        mutual_chap: chap(section, "mutual_user", "mutual_password", mistakes),
        interface: optional(section, "interface", plain, mistakes),
    })
}

fn chap(
    section: &Section<'_, '_>,
    user: &str,
    password: &str,
    mistakes: &mut Mistakes,
) -> Option<Chap> {
    for (one, other) in [(user, password), (password, user)] {
        if section.has(one) && !section.has(other) {
            mistakes.add_missing(
                section.offset_of(one),
                section.key(other),
                format!("missing; {one} needs it"),
            );
        }
    }
    let secret = |text: &str| {
        if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
            // The value itself must not get into a log.
            return Err(format!(
                "{} bytes: must be 1 to {PASSWORD_BYTES_MAX}",
                text.len()
            ));
        }
        Ok(Secret(text.to_owned()))
    };
    Some(Chap {
        user: optional(section, user, plain, mistakes)?,
        password: optional(section, password, secret, mistakes)?,
    })
}

fn number(
    section: &Section<'_, '_>,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
    mistakes: &mut Mistakes,
) -> Option<u32> {
    section
        .integer(key, range, mistakes)
        .and_then(|number| u32::try_from(number.value).ok())
}

fn options(section: &Section<'_, '_>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut options = Vec::new();
    for At { value, offset } in section.strings("options", LIST_MAX, mistakes) {
        match plain(value) {
            Ok(option) => options.push(option),
            Err(message) => mistakes.add(Some(offset), section.key("options"), message),
        }
    }
    options
}

/// A UUID in lower case.
fn uuid(text: &str) -> Read<String> {
    let shape = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    let fits = parts.len() == shape.len()
        && parts.iter().zip(shape).all(|(part, length)| {
            part.len() == length
                && part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
    if !fits {
        return Err(format!(
            "{}: must be a UUID in lower case, 8-4-4-4-12 digits",
            shown(text)
        ));
    }
    if text.bytes().all(|b| matches!(b, b'0' | b'-')) {
        return Err("the UUID of zeroes means none".to_owned());
    }
    Ok(text.to_owned())
}

/// One word that may be handed to a program: printable, not taken for an option.
fn plain(text: &str) -> Read<String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > 1023 {
        return Err(format!(
            "{}: {} bytes, longest allowed is 1023",
            shown(text),
            text.len()
        ));
    }
    if text.starts_with('-') {
        return Err(format!("{}: may not begin with a hyphen", shown(text)));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{}: may hold only printable ASCII without spaces",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

/// What a file system is mounted from.
fn remote(text: &str) -> Read<String> {
    match storage_remote::check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(message) => Err(format!("{}: {message}", shown(text))),
    }
}

fn export(text: &str) -> Read<String> {
    match storage_remote::check_export(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(message) => Err(format!("{}: {message}", shown(text))),
    }
}

/// A directory of this host.
fn directory(text: &str) -> Read<String> {
    let path = match text.trim_end_matches('/') {
        "" => text,
        path => path,
    };
    names::path(path)
}

fn nfs_version(text: &str) -> Read<String> {
    const VERSIONS: [&str; 6] = ["auto", "3", "4", "4.0", "4.1", "4.2"];
    if VERSIONS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{}: must be one of {}",
        shown(text),
        VERSIONS.join(", ")
    ))
}

fn target(text: &str) -> Read<String> {
    let text = plain(text)?;
    let named = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|prefix| text.starts_with(prefix));
    if !named || text.len() > 223 {
        return Err(format!(
            "{}: an iSCSI name begins with iqn., eui. or naa. and has at most 223 bytes",
            shown(&text)
        ));
    }
    Ok(text)
}

fn portal(text: &str) -> Read<String> {
    let text = plain(text)?;
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address alone has colons, too; with a port it is in brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text.as_str(), None),
    };
    if host.is_empty() {
        return Err(format!("{}: no address", shown(&text)));
    }
    if let Some(port) = port
        && port.parse::<u16>().ok().filter(|&port| port > 0).is_none()
    {
        return Err(format!(
            "{}: the port must be a number from 1 to 65535",
            shown(&text)
        ));
    }
    Ok(text)
}
