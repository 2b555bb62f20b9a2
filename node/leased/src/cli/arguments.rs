//! Options: `-x value`, two words each; only `-D` stands alone.

use std::collections::BTreeMap;
use std::io::Write;

use disk_format::Geometry;
use sanlock_wire::{
    Lockspace, Rentry, Resource, Rindex, geometry_flags, parse_lockspace, parse_rentry,
    parse_resource, parse_rindex,
};

use super::line;
use super::numbers::{int, unsigned};

/// Options that are known. Each is accepted wherever any is.
const KNOWN: &[u8] = b"abcdefghilmnoprstuwxzADFGHLOPQRSUZ";
/// Most resources of one command line.
const RESOURCES_MAX: usize = 8;
/// Bytes of the suffix `M` of an offset.
const MEBIBYTE: u64 = 1 << 20;

/// What the first word chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ask a daemon.
    Client,
    /// Use storage without one.
    Direct,
    /// Be one.
    Daemon,
}

impl Kind {
    /// Its word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Direct => "direct",
            Self::Daemon => "daemon",
        }
    }

    /// The action of this name, if the kind has it.
    pub(super) fn action(self, word: &[u8]) -> Option<&'static str> {
        let actions = match self {
            Self::Client => super::client::ACTIONS,
            Self::Direct => &super::direct::ACTIONS,
            Self::Daemon => &[],
        };
        actions
            .iter()
            .copied()
            .find(|action| action.as_bytes() == word)
    }
}

/// The options of a command line.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    /// `-D`.
    pub(super) debug: bool,
    /// `-s`, the last one.
    pub(super) lockspace: Lockspace,
    /// `-r`, each one that could be read.
    pub(super) resources: Vec<Resource>,
    /// `-x`, the last one.
    pub(super) rindex: Rindex,
    /// `-e`, as an entry of an index.
    pub(super) rentry: Rentry,
    /// `-c`: a program and its arguments.
    pub(super) command: Vec<Vec<u8>>,
    /// The word that `direct dump` and `direct next_free` begin with.
    pub(super) position: Vec<u8>,
    /// `-Z` and `-A` as flags of a resource; at most one of each.
    pub(super) geometry_flags: u32,
    /// The last value of every option.
    values: BTreeMap<u8, Vec<u8>>,
}

impl Arguments {
    /// Reads the words after the action; `None` when they are wrong, which has
    /// then been said.
    pub(super) fn parse(
        kind: Kind,
        action: &str,
        words: &[Vec<u8>],
        out: &mut dyn Write,
    ) -> Option<Self> {
        let mut arguments = Self::default();
        let mut words = words.iter();
        if kind == Kind::Direct && matches!(action, "dump" | "next_free") {
            arguments.position = words.next().cloned().unwrap_or_default();
        }
        while let Some(word) = words.next() {
            let &[b'-', option] = word.as_slice() else {
                let mut text = b"unknown option ".to_vec();
                text.extend_from_slice(word);
                line(out, text);
                line(out, "space required before option value");
                return None;
            };
            if option == b'D' {
                arguments.debug = true;
                continue;
            }
            let letter = char::from(option);
            let Some(value) = words.next() else {
                line(out, format!("option '{letter}' requires arg"));
                return None;
            };
            if !KNOWN.contains(&option) {
                line(out, format!("unknown option: {letter}"));
                return None;
            }
            arguments.take(option, value, out);
            if option == b'c' {
                arguments.command = std::iter::once(value).chain(words).cloned().collect();
                break;
            }
        }
        arguments.check_geometry(out).then_some(arguments)
    }

    fn take(&mut self, option: u8, value: &[u8], out: &mut dyn Write) {
        match option {
            b's' => self.lockspace = parse_lockspace(&in_bytes(value, 3)),
            b'x' => self.rindex = parse_rindex(&in_bytes(value, 2)),
            b'e' => self.rentry = parse_rentry(&in_bytes(value, 1)),
            b'r' if self.resources.len() >= RESOURCES_MAX => {
                line(out, format!("resource args over max {RESOURCES_MAX}"));
            }
            b'r' => match parse_resource(&in_bytes(value, 3)) {
                Ok(resource) => self.resources.push(resource),
                Err(error) => {
                    line(out, format!("resource arg parse error {}\n", error.code()));
                }
            },
            _ => {}
        }
        self.values.insert(option, value.to_vec());
    }

    /// Turns `-Z` and `-A` into flags, unless they contradict each other.
    fn check_geometry(&mut self, out: &mut dyn Write) -> bool {
        let sector_size = self.int(b'Z');
        let align_size: u32 = match self.text(b'A').unwrap_or_default() {
            b"1M" => 1 << 20,
            b"2M" => 2 << 20,
            b"4M" => 4 << 20,
            b"8M" => 8 << 20,
            _ => 0,
        };
        let chosen = Geometry::ALL.into_iter().find(|geometry| {
            geometry.align_size() == align_size
                && u32::try_from(sector_size) == Ok(geometry.sector_size())
        });
        self.geometry_flags = match (chosen, align_size) {
            (Some(geometry), _) => geometry_flags(geometry),
            (None, 0) => match sector_size {
                512 => 0x100,
                4096 => 0x200,
                _ => 0,
            },
            (None, _) => {
                line(
                    out,
                    format!(
                        "Invalid sector_size/align_size combination ({sector_size}/{align_size})\n\
                         Use one of: 512/1M, 4096/1M, 4096/2M, 4096/4M, 4096/8M."
                    ),
                );
                return false;
            }
        };
        true
    }

    /// Whether the option was given.
    pub(super) fn given(&self, option: u8) -> bool {
        self.values.contains_key(&option)
    }

    /// The option's value, if it was given.
    pub(super) fn text(&self, option: u8) -> Option<&[u8]> {
        self.values.get(&option).map(Vec::as_slice)
    }

    /// The option's value as `atoi` reads it; 0 when it was not given.
    pub(super) fn int(&self, option: u8) -> i32 {
        int(self.text(option).unwrap_or_default())
    }

    /// The option's value as `strtoull` reads it; 0 when it was not given.
    pub(super) fn unsigned(&self, option: u8) -> u64 {
        unsigned(self.text(option).unwrap_or_default())
    }

    /// Whether the option's value is a number other than 0.
    pub(super) fn set(&self, option: u8) -> bool {
        self.int(option) != 0
    }
}

/// Replaces `<n>M` by bytes in the field after so many colons. What follows
/// the `M` in that field vanishes.
fn in_bytes(text: &[u8], colons: usize) -> Vec<u8> {
    let Some(start) = after_colons(text, colons) else {
        return text.to_vec();
    };
    let (head, tail) = text.split_at(start);
    let end = after_colons(tail, 1).map_or(tail.len(), |next| next - 1);
    let (field, rest) = tail.split_at(end);
    if !field.contains(&b'M') {
        return text.to_vec();
    }
    let mebibytes = u64::try_from(int(field)).unwrap_or(0);
    let mut out = head.to_vec();
    out.extend_from_slice((mebibytes * MEBIBYTE).to_string().as_bytes());
    out.extend_from_slice(rest);
    out
}

/// Where the field after so many colons begins that no `\` makes ordinary.
fn after_colons(text: &[u8], colons: usize) -> Option<usize> {
    let mut escaped = false;
    text.iter()
        .enumerate()
        .filter(|&(_, &byte)| {
            let ends = byte == b':' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })
        .nth(colons - 1)
        .map(|(place, _)| place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> (Option<Arguments>, String) {
        let words: Vec<Vec<u8>> = words.split(' ').map(|word| word.into()).collect();
        let mut out = Vec::new();
        let arguments = Arguments::parse(Kind::Client, "init", &words, &mut out);
        (arguments, String::from_utf8(out).unwrap())
    }

    #[test]
    fn offsets_may_be_in_mebibytes() {
        let cases = [
            ("LS:1:/x:3M", 3, "LS:1:/x:3145728"),
            ("LS:1:/x:3Mk", 3, "LS:1:/x:3145728"),
            ("LS:R:/x:1M:/y:2M", 3, "LS:R:/x:1048576:/y:2M"),
            (r"LS:R:/M\:x:1M", 3, r"LS:R:/M\:x:1048576"),
            ("LS:R:/M:1", 3, "LS:R:/M:1"),
            ("LS:/x:1M", 2, "LS:/x:1048576"),
            ("name:5M", 1, "name:5242880"),
            (":5M", 1, ":5242880"),
            ("M", 1, "M"),
        ];
        for (text, colons, expected) in cases {
            assert_eq!(in_bytes(text.as_bytes(), colons), expected.as_bytes());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = [
            (
                "-D x",
                "unknown option x\nspace required before option value\n",
            ),
            (
                "-",
                "unknown option -\nspace required before option value\n",
            ),
            ("-y", "option 'y' requires arg\n"),
            ("-y 1", "unknown option: y\n"),
            (
                "-Z 512 -A 2M",
                "Invalid sector_size/align_size combination (512/2097152)\n\
                 Use one of: 512/1M, 4096/1M, 4096/2M, 4096/4M, 4096/8M.\n",
            ),
        ];
        for (words, expected) in wrong {
            let (arguments, said) = parse(words);
            assert!(arguments.is_none());
            assert_eq!(said, expected);
        }
        let (arguments, said) = parse("-r x -r LS:R:/x:1M");
        assert_eq!(said, "resource arg parse error -6\n\n");
        assert_eq!(arguments.unwrap().resources.len(), 1);
    }

    #[test]
    fn half_a_geometry_is_left_to_the_daemon_to_refuse() {
        for (words, flags) in [
            ("-Z 512", 0x100),
            ("-Z 4096 -A 1048576", 0x200),
            ("-Z 513", 0),
            ("-Z 4096 -A 8M", 0x280),
        ] {
            assert_eq!(parse(words).0.unwrap().geometry_flags, flags, "{words}");
        }
    }

    #[test]
    fn a_command_takes_all_that_follows() {
        let arguments = parse("-c /bin/sh -D -y").0.unwrap();
        assert_eq!(arguments.command, [&b"/bin/sh"[..], b"-D", b"-y"]);
        assert!(!arguments.debug);
    }
}
