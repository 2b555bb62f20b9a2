//! Walking the TOML document: every key fetched with the line it stands on,
//! every mistake noted and walked past, so that one reading finds them all.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{MISTAKES_MAX, Mistake};

/// Every section and the keys it may hold; the one list from which unknown
/// keys are told and the nearest known one is proposed.
const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "version",
            "node",
            "network",
            "watchdog",
            "lockspace",
            "storage",
        ],
    ),
    ("node", &["hostname"]),
    (
        "network",
        &[
            "bridge", "mtu", "vlan", "dns", "search", "nic", "bond", "ipv4", "ipv6",
        ],
    ),
    ("network.nic", &["mac", "name", "pci"]),
    ("network.bond", &["name", "mode", "members"]),
    ("network.ipv4", &["method", "address", "gateway"]),
    ("network.ipv6", &["method", "address", "gateway"]),
    ("watchdog", &["device", "fire_timeout", "required"]),
    (
        "lockspace",
        &[
            "name",
            "path",
            "offset",
            "host_id",
            "io_timeout",
            "host_name",
        ],
    ),
    (
        "storage",
        &[
            "pool",
            "host_id",
            "spm",
            "manager",
            "io_timeout",
            "initiator_name",
            "thin_chunk_mib",
            "thin_utilization_percent",
            "thin_predict",
            "wipe_mib_per_s",
            "discard",
            "connection",
        ],
    ),
    (
        "storage.connection",
        &[
            "type",
            "portals",
            "target",
            "user",
            "password",
            "mutual_user",
            "mutual_password",
            "interface",
            "export",
            "nfs_version",
            "timeo",
            "retrans",
            "hard",
            "spec",
            "vfs_type",
            "path",
            "volume",
            "options",
        ],
    ),
];

/// The mistakes found so far, and what is needed to give them their lines.
pub(super) struct Mistakes {
    found: Vec<Mistake>,
    line_starts: Vec<usize>,
    /// Lines that are not TOML: what was recovered from them proves nothing.
    broken_lines: BTreeSet<usize>,
}

impl Mistakes {
    pub(super) fn new(text: &str) -> Self {
        let breaks = text
            .bytes()
            .enumerate()
            .filter(|&(_, byte)| byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            found: Vec::new(),
            line_starts: std::iter::once(0).chain(breaks).collect(),
            broken_lines: BTreeSet::new(),
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// Notes a mistake at a byte offset.
    pub(super) fn add(
        &mut self,
        at: Option<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        let line = at.map(|offset| self.line(offset));
        if line.is_some_and(|line| self.broken_lines.contains(&line)) {
            return;
        }
        self.found.push(Mistake {
            line,
            key: key.into(),
            message: message.into(),
        });
    }

    /// Notes that something is absent, unless part of the document could not be
    /// read: it may well stand there.
    pub(super) fn add_missing(
        &mut self,
        at: Option<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        if self.broken_lines.is_empty() {
            self.add(at, key, message);
        }
    }

    /// Notes text that is not TOML. Comes before any other mistake, so that
    /// nothing is concluded from a broken line.
    pub(super) fn add_syntax(&mut self, text: &str, error: &toml::de::Error) {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let line = self.line(offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = text
            .get(start..offset)
            .map_or(0, |before| before.chars().count())
            + 1;
        self.broken_lines.insert(line);
        self.found.push(Mistake {
            line: Some(line),
            key: String::new(),
            message: format!(
                "not TOML at column {column}: {}",
                lower_first(error.message())
            ),
        });
    }

    /// The mistakes by line, those about the whole document first, at most
    /// [`MISTAKES_MAX`]; empty when there are none.
    pub(super) fn into_sorted(self) -> Vec<Mistake> {
        let mut found = self.found;
        found.sort_by_key(|mistake| mistake.line);
        found.dedup();
        if found.len() > MISTAKES_MAX {
            let more = found.len() - (MISTAKES_MAX - 1);
            found.truncate(MISTAKES_MAX - 1);
            found.push(Mistake {
                line: None,
                key: String::new(),
                message: format!("{more} more mistakes: correct these first"),
            });
        }
        found
    }
}

/// A value and the byte offset it stands at.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) offset: usize,
}

/// One table of the document.
pub(super) struct Section<'a, 'i> {
    path: String,
    offset: Option<usize>,
    table: &'a DeTable<'i>,
}

impl<'a, 'i> Section<'a, 'i> {
    /// The document itself.
    pub(super) fn root(table: &'a DeTable<'i>) -> Self {
        Self {
            path: String::new(),
            offset: None,
            table,
        }
    }

    /// Dotted name of a key of this section.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Dotted name of the section itself.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where the section begins; `None` for the document.
    pub(super) fn offset(&self) -> Option<usize> {
        self.offset
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Where a key stands.
    pub(super) fn offset_of(&self, key: &str) -> Option<usize> {
        self.entry(key).map(|(offset, _)| offset)
    }

    fn entry(&self, key: &str) -> Option<(usize, &'a Spanned<DeValue<'i>>)> {
        self.table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(name, value)| (name.span().start, value))
    }

    /// Notes every key that `section` of [`KEYS`] does not know.
    pub(super) fn refuse_unknown(&self, section: &str, mistakes: &mut Mistakes) {
        let known = KEYS
            .iter()
            .find(|(name, _)| *name == section)
            .map_or(&[][..], |(_, keys)| keys);
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if known.contains(&key) {
                continue;
            }
            let hint = if let Some(near) = closest(key, known) {
                format!("did you mean {near}?")
            } else if let Some((home, _)) = KEYS.iter().find(|(_, keys)| keys.contains(&key)) {
                if home.is_empty() {
                    "it belongs at the top, before any section".to_owned()
                } else {
                    format!("it belongs in [{home}]")
                }
            } else {
                format!("known here: {}", known.join(", "))
            };
            mistakes.add(
                Some(name.span().start),
                self.key(&shown_key(key)),
                format!("unknown key; {hint}"),
            );
        }
    }

    /// A string, if the key is there and holds one.
    pub(super) fn string(&self, key: &str, mistakes: &mut Mistakes) -> Option<At<&'a str>> {
        let (offset, value) = self.entry(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, offset, value, "a string in quotes", mistakes);
            return None;
        };
        Some(At {
            value: text,
            offset,
        })
    }

    /// A whole number within `range`, if the key is there and holds one.
    pub(super) fn integer(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        mistakes: &mut Mistakes,
    ) -> Option<At<u64>> {
        let (offset, value) = self.entry(key)?;
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, offset, value, "a whole number", mistakes);
            return None;
        };
        // Wider than any TOML integer, so that "too large" is said as such.
        let Ok(number) = i128::from_str_radix(number.as_str(), number.radix()) else {
            mistakes.add(
                Some(offset),
                self.key(key),
                format!("{}: too large", shown(number.as_str())),
            );
            return None;
        };
        let (smallest, largest) = (i128::from(*range.start()), i128::from(*range.end()));
        let message = if number < smallest {
            format!("{number}: smallest allowed is {smallest}")
        } else if number > largest {
            format!("{number}: largest allowed is {largest}")
        } else {
            return u64::try_from(number).ok().map(|value| At { value, offset });
        };
        mistakes.add(Some(offset), self.key(key), message);
        None
    }

    /// A truth value, if the key is there and holds one.
    pub(super) fn boolean(&self, key: &str, mistakes: &mut Mistakes) -> Option<bool> {
        let (offset, value) = self.entry(key)?;
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            self.wrong_type(key, offset, value, "true or false", mistakes);
        }
        truth
    }

    /// A list of at most `longest` entries, if the key is there and holds one.
    pub(super) fn array(
        &self,
        key: &str,
        longest: usize,
        mistakes: &mut Mistakes,
    ) -> Option<&'a DeArray<'i>> {
        let (offset, value) = self.entry(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, offset, value, "a list in brackets", mistakes);
            return None;
        };
        if array.len() > longest {
            mistakes.add(
                Some(offset),
                self.key(key),
                format!("{} entries: most allowed is {longest}", array.len()),
            );
        }
        Some(array)
    }

    /// A list of strings, each with its place; wrong entries are noted and left out.
    pub(super) fn strings(
        &self,
        key: &str,
        longest: usize,
        mistakes: &mut Mistakes,
    ) -> Vec<At<&'a str>> {
        let mut strings = Vec::new();
        for (index, entry) in self
            .array(key, longest, mistakes)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let offset = entry.span().start;
            match entry.get_ref().as_str() {
                Some(value) => strings.push(At { value, offset }),
                None => self.wrong_type(
                    &entry_name(key, index),
                    offset,
                    entry,
                    "a string in quotes",
                    mistakes,
                ),
            }
        }
        strings
    }

    /// A section below this one, if it is there and is one.
    pub(super) fn section(&self, key: &str, mistakes: &mut Mistakes) -> Option<Section<'a, 'i>> {
        let (offset, value) = self.entry(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(
                key,
                offset,
                value,
                &format!("a section, [{}]", self.key(key)),
                mistakes,
            );
            return None;
        };
        Some(Section {
            path: self.key(key),
            offset: Some(offset),
            table,
        })
    }

    /// The tables of a list; entries that are none are noted and left out.
    pub(super) fn sections(
        &self,
        key: &str,
        longest: usize,
        mistakes: &mut Mistakes,
    ) -> Vec<Section<'a, 'i>> {
        let mut sections = Vec::new();
        for (index, entry) in self
            .array(key, longest, mistakes)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let offset = entry.span().start;
            match entry.get_ref().as_table() {
                Some(table) => sections.push(Section {
                    path: self.key(&entry_name(key, index)),
                    offset: Some(offset),
                    table,
                }),
                None => self.wrong_type(
                    &entry_name(key, index),
                    offset,
                    entry,
                    "a table in braces",
                    mistakes,
                ),
            }
        }
        sections
    }

    fn wrong_type(
        &self,
        key: &str,
        offset: usize,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        mistakes: &mut Mistakes,
    ) {
        let is = match value.get_ref() {
            DeValue::String(text) => format!("the string {}", shown(text)),
            DeValue::Integer(number) => format!("the number {}", cut(number.as_str())),
            DeValue::Float(number) => format!("the number {}", cut(number.as_str())),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a section".to_owned(),
        };
        mistakes.add(
            Some(offset),
            self.key(key),
            format!("{is}: must be {wanted}"),
        );
    }
}

/// How entry `index` of a list is named, counted from 1.
pub(super) fn entry_name(key: &str, index: usize) -> String {
    format!("{key} entry {}", index + 1)
}

/// A value from the document as it may stand in a message: quoted, control
/// characters escaped, cut at 60 characters.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A key as it may stand in a message: quoted only if it has to be.
fn shown_key(key: &str) -> String {
    let bare = !key.is_empty()
        && key.len() <= 60
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if bare { key.to_owned() } else { shown(key) }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

/// The candidate that `text` most likely stands for: a third of its letters
/// may be wrong, missing, doubled or swapped.
pub(super) fn closest<'c>(text: &str, candidates: &[&'c str]) -> Option<&'c str> {
    if text.len() > 40 {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|candidate| (distance(&text, &candidate.replace('-', "_")), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two short texts, a swap of neighbours counting one.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let differs = usize::from(one[i - 1] != other[j - 1]);
                let swapped =
                    i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
                let least = (rows[i - 1][j] + 1)
                    .min(rows[i][j - 1] + 1)
                    .min(rows[i - 1][j - 1] + differs);
                if swapped {
                    least.min(rows[i - 2][j - 2] + 1)
                } else {
                    least
                }
            };
        }
    }
    rows[one.len()][other.len()]
}
