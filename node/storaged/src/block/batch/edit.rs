//! Changing LVM's text metadata and nothing else of it.
//!
//! The text is not written anew from what was understood of it: only the numbers
//! of the segments that grow are replaced and new segments inserted, so whatever
//! else is in it (flags, times, words of a newer LVM) stays byte for byte.

use std::ops::Range;

use super::plan::Piece;

/// Why a text was not edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotPlain(pub(super) String);

/// A logical volume that grows, by what is in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Growth {
    /// Its name.
    pub(super) name: String,
    /// Where its new extents are, in order. The first may continue its last segment.
    pub(super) pieces: Vec<Piece>,
}

/// The text with the volumes grown.
pub(super) fn grow(text: &str, group: &str, growths: &[Growth]) -> Result<String, NotPlain> {
    let root = Section::parse(text)?;
    let group = root.section(group)?;
    let volumes = group.section("logical_volumes")?;
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for growth in growths {
        let volume = volumes.section(&growth.name)?;
        let (count, count_at) = volume.number("segment_count")?;
        let last = volume.section(&format!("segment{count}"))?;
        let (start, _) = last.number("start_extent")?;
        let (extents, extents_at) = last.number("extent_count")?;
        let (device, first) = last.stripe()?;
        let mut next_start = start + extents;
        let mut next_number = count + 1;
        let mut inserted = String::new();
        for (index, piece) in growth.pieces.iter().enumerate() {
            if index == 0 && piece.device == device && piece.first == first + extents {
                edits.push((extents_at.clone(), (extents + piece.count).to_string()));
            } else {
                inserted.push_str(&format!(
                    "\nsegment{next_number} {{\nstart_extent = {next_start}\n\
                     extent_count = {}\n\ntype = \"striped\"\nstripe_count = 1\n\n\
                     stripes = [\n\"{}\", {}\n]\n}}\n",
                    piece.count, piece.device, piece.first
                ));
                next_number += 1;
            }
            next_start += piece.count;
        }
        if !inserted.is_empty() {
            edits.push((count_at, (next_number - 1).to_string()));
            edits.push((volume.end..volume.end, inserted));
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut edited = String::with_capacity(text.len() + edits.len() * 160);
    let mut copied = 0;
    for (range, new) in edits {
        let kept = text.get(copied..range.start);
        edited.push_str(kept.ok_or_else(|| NotPlain("the same value grows twice".to_owned()))?);
        edited.push_str(&new);
        copied = range.end;
    }
    edited.push_str(text.get(copied..).unwrap_or_default());
    Ok(edited)
}

/// `name { … }` and the positions of what is in it.
#[derive(Debug, Default)]
struct Section<'a> {
    entries: Vec<(&'a str, Entry<'a>)>,
    /// Where its closing brace is.
    end: usize,
}

#[derive(Debug)]
enum Entry<'a> {
    Section(Section<'a>),
    /// The words of a value, and where it is.
    Value(Vec<&'a str>, Range<usize>),
}

impl<'a> Section<'a> {
    fn parse(text: &'a str) -> Result<Self, NotPlain> {
        let mut words = Words { text, at: 0 };
        let mut open: Vec<(&str, Section<'_>)> = Vec::new();
        let mut current = Section::default();
        while let Some((word, at)) = words.next()? {
            if word == "}" {
                let (name, mut outer) = open
                    .pop()
                    .ok_or_else(|| NotPlain(format!("byte {}: closes nothing", at.start)))?;
                current.end = at.start;
                outer.entries.push((name, Entry::Section(current)));
                current = outer;
                continue;
            }
            match words.must("a value or a section")?.0 {
                "{" => open.push((word, std::mem::take(&mut current))),
                "=" => {
                    let value = words.value()?;
                    current.entries.push((word, value));
                }
                other => {
                    return Err(NotPlain(format!(
                        "{word} {other}: neither value nor section"
                    )));
                }
            }
        }
        if !open.is_empty() {
            return Err(NotPlain("ends within a section".to_owned()));
        }
        current.end = text.len();
        Ok(current)
    }

    fn find(&self, name: &str) -> Result<&Entry<'a>, NotPlain> {
        let mut found = self.entries.iter().filter(|(known, _)| *known == name);
        match (found.next(), found.next()) {
            (Some((_, entry)), None) => Ok(entry),
            (None, _) => Err(NotPlain(format!("{name}: not in it"))),
            (Some(_), Some(_)) => Err(NotPlain(format!("{name}: twice in it"))),
        }
    }

    fn section(&self, name: &str) -> Result<&Section<'a>, NotPlain> {
        match self.find(name)? {
            Entry::Section(section) => Ok(section),
            Entry::Value(..) => Err(NotPlain(format!("{name}: not a section"))),
        }
    }

    fn value(&self, name: &str) -> Result<(&[&'a str], Range<usize>), NotPlain> {
        match self.find(name)? {
            Entry::Value(words, at) => Ok((words, at.clone())),
            Entry::Section(_) => Err(NotPlain(format!("{name}: not a value"))),
        }
    }

    fn number(&self, name: &str) -> Result<(u64, Range<usize>), NotPlain> {
        let (words, at) = self.value(name)?;
        match words {
            [word] => word
                .parse()
                .map(|number| (number, at))
                .map_err(|_| NotPlain(format!("{name}: {word} is no number"))),
            _ => Err(NotPlain(format!("{name}: not one number"))),
        }
    }

    /// Device and first extent of a linear segment.
    fn stripe(&self) -> Result<(&'a str, u64), NotPlain> {
        let (kind, _) = self.value("type")?;
        let (stripes, _) = self.number("stripe_count")?;
        let (words, _) = self.value("stripes")?;
        match (kind, stripes, words) {
            (["\"striped\""], 1, [device, first]) => {
                let first = first
                    .parse()
                    .map_err(|_| NotPlain(format!("stripe at {first}: no number")))?;
                Ok((device.trim_matches('"'), first))
            }
            _ => Err(NotPlain("a segment is not linear".to_owned())),
        }
    }
}

/// Cuts the text in words: names, numbers, strings with their quotes, `{ } = [ ] ,`.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<Option<(&'a str, Range<usize>)>, NotPlain> {
        let bytes = self.text.as_bytes();
        let byte = |at: usize| bytes.get(at).copied();
        loop {
            match byte(self.at) {
                // LVM pads its text with NUL bytes.
                Some(b' ' | b'\t' | b'\n' | b'\r' | 0) => self.at += 1,
                Some(b'#') => {
                    while byte(self.at).is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
        let start = self.at;
        match byte(start) {
            None => return Ok(None),
            Some(b'{' | b'}' | b'=' | b'[' | b']' | b',') => self.at += 1,
            Some(b'"') => {
                self.at += 1;
                loop {
                    match byte(self.at) {
                        None => return Err(NotPlain("ends within a string".to_owned())),
                        Some(b'\\') => self.at += 2,
                        Some(b'"') => break,
                        Some(_) => self.at += 1,
                    }
                }
                self.at += 1;
            }
            Some(_) => {
                while byte(self.at).is_some_and(|byte| {
                    !matches!(
                        byte,
                        b' ' | b'\t'
                            | b'\n'
                            | b'\r'
                            | 0
                            | b'{'
                            | b'}'
                            | b'='
                            | b'['
                            | b']'
                            | b','
                            | b'#'
                            | b'"'
                    )
                }) {
                    self.at += 1;
                }
            }
        }
        let word = self.text.get(start..self.at);
        let word = word.ok_or_else(|| NotPlain(format!("byte {start}: cuts a character")))?;
        Ok(Some((word, start..self.at)))
    }

    fn must(&mut self, what: &str) -> Result<(&'a str, Range<usize>), NotPlain> {
        self.next()?
            .ok_or_else(|| NotPlain(format!("ends before {what}")))
    }

    fn value(&mut self) -> Result<Entry<'a>, NotPlain> {
        let (word, at) = self.must("a value")?;
        if word != "[" {
            return Ok(Entry::Value(vec![word], at));
        }
        let mut words = Vec::new();
        loop {
            match self.must("the end of a list")? {
                ("]", end) => return Ok(Entry::Value(words, at.start..end.end)),
                (",", _) => {}
                (word, _) => words.push(word),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "vg {\nid = \"a\" # note { \nseqno = 3\ntags = [\"x{\", \"y\\\"}\"]\n\
        logical_volumes {\n\none {\nsegment_count = 1\n\nsegment1 {\nstart_extent = 0\n\
        extent_count = 4\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", 7\n]\n}\n}\n\
        two {\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 1\n\
        type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 0]\n}\n}\n}\n}\n\
        # Generated\ncontents = \"Text Format Volume Group\"\n";

    fn piece(device: &str, first: u64, count: u64) -> Piece {
        Piece {
            device: device.to_owned(),
            first,
            count,
        }
    }

    #[test]
    fn only_what_grows_is_changed() {
        let growths = [
            Growth {
                name: "one".to_owned(),
                pieces: vec![piece("pv0", 11, 2), piece("pv1", 0, 5)],
            },
            Growth {
                name: "two".to_owned(),
                pieces: vec![piece("pv0", 40, 1)],
            },
        ];
        let edited = grow(TEXT, "vg", &growths).unwrap();
        let segment = |number, start, count, device, first| {
            format!(
                "\nsegment{number} {{\nstart_extent = {start}\nextent_count = {count}\n\n\
                 type = \"striped\"\nstripe_count = 1\n\nstripes = [\n\"{device}\", {first}\n]\n}}\n"
            )
        };
        let expected = TEXT
            .replacen("segment_count = 1", "segment_count = 2", 2)
            .replacen("extent_count = 4", "extent_count = 6", 1)
            .replacen(
                "\"pv0\", 7\n]\n}\n}",
                &format!("\"pv0\", 7\n]\n}}\n{}}}", segment(2, 6, 5, "pv1", 0)),
                1,
            )
            .replacen(
                "[\"pv0\", 0]\n}\n}",
                &format!("[\"pv0\", 0]\n}}\n{}}}", segment(2, 1, 1, "pv0", 40)),
                1,
            );
        assert_eq!(edited, expected);
    }

    #[test]
    fn what_is_not_understood_is_not_edited() {
        let growth = |name: &str| {
            [Growth {
                name: name.to_owned(),
                pieces: vec![piece("pv0", 11, 2)],
            }]
        };
        assert!(grow(TEXT, "vg", &growth("three")).is_err());
        assert!(grow(TEXT, "other", &growth("one")).is_err());
        let mirror = TEXT.replacen("\"striped\"", "\"mirror\"", 1);
        assert!(grow(&mirror, "vg", &growth("one")).is_err());
        for cut in 1..TEXT.len() {
            if let Some(text) = TEXT.get(..cut) {
                // Never a panic; a text cut within the group is refused.
                let edited = grow(text, "vg", &growth("one"));
                assert!(edited.is_err() || text.contains("]\n}\n}\n}\n}"));
            }
        }
        let twice: Vec<_> = [growth("one"), growth("one")].concat();
        assert!(grow(TEXT, "vg", &twice).is_err());
    }
}
