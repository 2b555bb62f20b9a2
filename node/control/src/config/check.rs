//! From document to [`Config`]: each section is read in full whatever is wrong
//! in it. Where a value cannot be had, a stand-in takes its place so that the
//! rest is still checked; none ever leaves [`parse`], since the mistake that
//! made it necessary refuses the whole document.

use toml::de::DeTable;

use super::document::{At, Mistakes, Section, closest, shown};
use super::names::{self, Read};
use super::{Config, DOCUMENT_BYTES_MAX, Lockspace, Mistake, VERSION, Watchdog, network, storage};
use crate::wdmd::test_interval_s;

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
        return Err(too_long());
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

/// Reads a configuration document as it came from a file or a device, where one
/// byte more than [`DOCUMENT_BYTES_MAX`] is enough to read.
///
/// # Errors
///
/// As [`parse`]; bytes that are no UTF-8 are a mistake with its line.
pub fn parse_bytes(bytes: &[u8]) -> Result<Config, Vec<Mistake>> {
    // First of all: a long document was cut, perhaps within a character.
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(too_long());
    }
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

fn too_long() -> Vec<Mistake> {
    vec![Mistake {
        line: None,
        key: String::new(),
        message: format!("document too long: largest allowed is {DOCUMENT_BYTES_MAX} bytes"),
    }]
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
        .map(|section| network::network(&section, mistakes));
    let watchdog = root
        .section("watchdog", mistakes)
        .map(|section| watchdog(&section, mistakes))
        .unwrap_or_default();
    let lockspace = root
        .section("lockspace", mistakes)
        .map(|section| lockspace(&section, &watchdog, mistakes));
    let storage = root
        .section("storage", mistakes)
        .map(|section| storage::storage(&section, &watchdog, mistakes));
    Config {
        hostname,
        network,
        watchdog,
        lockspace,
        storage,
    }
}

/// A string read by `reader`, if the key is there and right.
pub(super) fn optional<T>(
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
pub(super) fn required<T>(
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
pub(super) fn choice<T: Copy>(
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
pub(super) fn check_io_timeout(
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
