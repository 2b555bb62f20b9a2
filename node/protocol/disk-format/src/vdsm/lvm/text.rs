//! LVM's text metadata of a volume group, read only.

use std::collections::BTreeMap;

use nom::branch::alt;
use nom::bytes::complete::{is_not, tag, take_while1};
use nom::character::complete::{char, multispace1, not_line_ending, one_of};
use nom::combinator::{map, map_res, opt, recognize, value};
use nom::multi::many0_count;
use nom::sequence::{delimited, pair, preceded};
use nom::{IResult, Parser};

use crate::vdsm::error::FormatError;

/// Bytes of text beyond which it is not read: what a metadata area of a domain
/// can hold.
pub const TEXT_BYTES_MAX: usize = 128 << 20;
/// Levels of sections.
const DEPTH_MAX: usize = 8;

const RECORD: &str = "LVM metadata";

/// A physical volume as the text has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pv {
    /// LVM's id.
    pub uuid: String,
    /// The device it was last seen on: a hint only.
    pub device_hint: String,
    /// Sectors of 512 bytes of the device.
    pub dev_sectors: u64,
    /// Where extents begin, in sectors.
    pub pe_start_sectors: u64,
    /// Extents.
    pub pe_count: u64,
    /// `ALLOCATABLE`, `MISSING`, …
    pub status: Vec<String>,
}

/// A place on a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripe {
    /// The text's name of the PV: a key of [`Vg::pvs`].
    pub pv: String,
    /// First extent there.
    pub extent: u64,
}

/// A run of extents of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First extent in the LV.
    pub start: u64,
    /// Extents.
    pub count: u64,
    /// `striped` for plain ones, with one stripe when linear.
    pub kind: String,
    /// Where the extents are; empty for kinds without stripes.
    pub stripes: Vec<Stripe>,
}

impl Segment {
    /// The place of a linear segment.
    #[must_use]
    pub fn linear(&self) -> Option<&Stripe> {
        match self.stripes.as_slice() {
            [stripe] if self.kind == "striped" => Some(stripe),
            _ => None,
        }
    }
}

/// A logical volume as the text has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lv {
    /// LVM's id.
    pub uuid: String,
    /// `READ`, `WRITE`, `VISIBLE`, …
    pub status: Vec<String>,
    /// Flags that old versions may pass over.
    pub flags: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// In the order of their start; they cover the LV without holes.
    pub segments: Vec<Segment>,
}

impl Lv {
    /// Extents.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.segments
            .iter()
            .fold(0, |sum, segment| sum.saturating_add(segment.count))
    }
}

/// A volume group as the text has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vg {
    /// Its name.
    pub name: String,
    /// LVM's id.
    pub uuid: String,
    /// Number of the commit.
    pub seqno: u64,
    /// `RESIZEABLE`, `READ`, `WRITE`, …
    pub status: Vec<String>,
    /// `NOAUTOACTIVATE`, …
    pub flags: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Sectors of 512 bytes of an extent.
    pub extent_sectors: u64,
    /// By the text's name (`pv0`), which only this text uses.
    pub pvs: BTreeMap<String, Pv>,
    /// By name.
    pub lvs: BTreeMap<String, Lv>,
}

impl Vg {
    /// Reads the text. What follows its first NUL is not looked at.
    ///
    /// # Errors
    /// When it is not LVM's text of one VG, or an LV has holes.
    pub fn parse(text: &[u8]) -> Result<Self, FormatError> {
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        if text.len() > TEXT_BYTES_MAX {
            return Err(FormatError::TooLong {
                noun: RECORD,
                found: text.len(),
                largest: TEXT_BYTES_MAX,
                unit: "bytes",
            });
        }
        let text = std::str::from_utf8(text)
            .map_err(|error| FormatError::syntax(RECORD, format!("not UTF-8 text: {error}")))?;
        let root = parse(text)?;
        if root.text("contents")? != "Text Format Volume Group" {
            return Err(FormatError::syntax(RECORD, "not of a volume group"));
        }
        let (name, vg) = match root.sections().as_slice() {
            [only] => *only,
            others => {
                return Err(FormatError::syntax(
                    RECORD,
                    format!("{} volume groups in one text", others.len()),
                ));
            }
        };
        let extent_sectors = vg.number("extent_size")?;
        if extent_sectors == 0 {
            return Err(FormatError::value("extent_size", "0", "more than 0"));
        }
        Ok(Self {
            name: name.to_owned(),
            uuid: vg.text("id")?.to_owned(),
            seqno: vg.number("seqno")?,
            status: vg.list("status")?,
            flags: vg.list("flags")?,
            tags: vg.list("tags")?,
            extent_sectors,
            pvs: vg.children("physical_volumes", pv)?,
            lvs: vg.children("logical_volumes", lv)?,
        })
    }

    /// Bytes of an extent.
    #[must_use]
    pub fn extent_bytes(&self) -> u64 {
        self.extent_sectors.saturating_mul(512)
    }

    /// Extents of all PVs.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.pvs
            .values()
            .fold(0, |sum, pv| sum.saturating_add(pv.pe_count))
    }

    /// Extents that no LV uses.
    #[must_use]
    pub fn free_extents(&self) -> u64 {
        self.lvs
            .values()
            .fold(self.extents(), |free, lv| free.saturating_sub(lv.extents()))
    }

    /// Bytes of an LV.
    #[must_use]
    pub fn lv_bytes(&self, lv: &Lv) -> u64 {
        lv.extents().saturating_mul(self.extent_bytes())
    }
}

fn pv(section: &Section<'_>) -> Result<Pv, FormatError> {
    Ok(Pv {
        uuid: section.text("id")?.to_owned(),
        device_hint: section.text("device").unwrap_or_default().to_owned(),
        dev_sectors: section.number("dev_size").unwrap_or(0),
        pe_start_sectors: section.number("pe_start")?,
        pe_count: section.number("pe_count")?,
        status: section.list("status")?,
    })
}

fn lv(section: &Section<'_>) -> Result<Lv, FormatError> {
    let mut segments = Vec::new();
    let count = section.number("segment_count")?;
    let found = section.sections();
    for (name, part) in found {
        if !name.starts_with("segment") {
            continue;
        }
        let kind = part.text("type")?.to_owned();
        segments.push(Segment {
            start: part.number("start_extent")?,
            count: part.number("extent_count")?,
            stripes: part.stripes()?,
            kind,
        });
    }
    segments.sort_by_key(|segment| segment.start);
    if u64::try_from(segments.len()) != Ok(count) {
        return Err(FormatError::syntax(
            RECORD,
            format!("{} segments, segment_count is {count}", segments.len()),
        ));
    }
    let mut next = 0;
    for segment in &segments {
        if segment.start != next || segment.count == 0 {
            return Err(FormatError::syntax(
                RECORD,
                format!(
                    "a segment starts at extent {}, expected {next}",
                    segment.start
                ),
            ));
        }
        next = segment.start.saturating_add(segment.count);
    }
    Ok(Lv {
        uuid: section.text("id")?.to_owned(),
        status: section.list("status")?,
        flags: section.list("flags")?,
        tags: section.list("tags")?,
        segments,
    })
}

/// One value, list or section of the text.
#[derive(Debug)]
enum Item<'a> {
    Number(i64),
    Text(String),
    List(Vec<Item<'a>>),
    Section(Section<'a>),
}

#[derive(Debug, Default)]
struct Section<'a>(Vec<(&'a str, Item<'a>)>);

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Option<&Item<'a>> {
        self.0
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, item)| item)
    }

    fn sections(&self) -> Vec<(&'a str, &Section<'a>)> {
        self.0
            .iter()
            .filter_map(|(name, item)| match item {
                Item::Section(section) => Some((*name, section)),
                Item::Number(_) | Item::Text(_) | Item::List(_) => None,
            })
            .collect()
    }

    fn children<T>(
        &self,
        key: &str,
        make: fn(&Section<'_>) -> Result<T, FormatError>,
    ) -> Result<BTreeMap<String, T>, FormatError> {
        let mut children = BTreeMap::new();
        // Without LVs, the section is not there.
        if let Some(Item::Section(section)) = self.get(key) {
            for (name, child) in section.sections() {
                let made = make(child).map_err(|error| {
                    FormatError::syntax(RECORD, format!("{key}/{name}: {error}"))
                })?;
                if children.insert(name.to_owned(), made).is_some() {
                    return Err(FormatError::Twice {
                        record: RECORD,
                        key: name.to_owned(),
                    });
                }
            }
        }
        Ok(children)
    }

    fn text(&self, key: &'static str) -> Result<&str, FormatError> {
        match self.get(key) {
            Some(Item::Text(text)) => Ok(text),
            Some(_) => Err(FormatError::value(key, "something else", "text")),
            None => Err(FormatError::Missing {
                record: RECORD,
                key,
            }),
        }
    }

    fn number(&self, key: &'static str) -> Result<u64, FormatError> {
        match self.get(key) {
            Some(Item::Number(number)) => u64::try_from(*number)
                .map_err(|_| FormatError::value(key, &number.to_string(), "0 or more")),
            Some(_) => Err(FormatError::value(key, "something else", "a number")),
            None => Err(FormatError::Missing {
                record: RECORD,
                key,
            }),
        }
    }

    /// A list of texts, empty when it is not there.
    fn list(&self, key: &'static str) -> Result<Vec<String>, FormatError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Item::Text(text)) => Ok(vec![text.clone()]),
            Some(Item::List(items)) => items
                .iter()
                .map(|item| match item {
                    Item::Text(text) => Ok(text.clone()),
                    Item::Number(_) | Item::List(_) | Item::Section(_) => {
                        Err(FormatError::value(key, "something else", "texts"))
                    }
                })
                .collect(),
            Some(Item::Number(_) | Item::Section(_)) => {
                Err(FormatError::value(key, "something else", "a list"))
            }
        }
    }

    fn stripes(&self) -> Result<Vec<Stripe>, FormatError> {
        let items = match self.get("stripes") {
            None => return Ok(Vec::new()),
            Some(Item::List(items)) => items,
            Some(_) => return Err(FormatError::value("stripes", "something else", "a list")),
        };
        items
            .chunks(2)
            .map(|pair| match pair {
                [Item::Text(pv), Item::Number(extent)] => Ok(Stripe {
                    pv: pv.clone(),
                    extent: u64::try_from(*extent).map_err(|_| {
                        FormatError::value("stripe", &extent.to_string(), "0 or more")
                    })?,
                }),
                _ => Err(FormatError::value(
                    "stripes",
                    "something else",
                    "names and extents in turn",
                )),
            })
            .collect()
    }
}

fn parse(text: &str) -> Result<Section<'_>, FormatError> {
    let wrong = |rest: &str| {
        let line = text
            .get(..text.len() - rest.len())
            .map_or(0, |read| read.matches('\n').count() + 1);
        let near: String = rest.chars().take(40).collect();
        FormatError::syntax(RECORD, format!("line {line}: unexpected {near:?}"))
    };
    match entries(text, 0) {
        Ok(("", section)) => Ok(section),
        Ok((rest, _)) => Err(wrong(rest)),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(wrong(error.input)),
        Err(nom::Err::Incomplete(_)) => Err(wrong("")),
    }
}

/// White space and comments.
fn blank(input: &str) -> IResult<&str, ()> {
    value(
        (),
        many0_count(alt((
            value((), multispace1),
            value((), pair(char('#'), not_line_ending)),
        ))),
    )
    .parse(input)
}

fn name(input: &str) -> IResult<&str, &str> {
    take_while1(|letter: char| letter.is_ascii_alphanumeric() || "_+.-/".contains(letter))
        .parse(input)
}

fn entries(input: &str, depth: usize) -> IResult<&str, Section<'_>> {
    let (mut input, ()) = blank(input)?;
    let mut section = Section::default();
    while let Ok((rest, key)) = name(input) {
        let (rest, ()) = blank(rest)?;
        let (rest, item) = if let Ok((rest, _)) = brace(rest) {
            if depth >= DEPTH_MAX {
                return Err(nom::Err::Failure(nom::error::Error::new(
                    rest,
                    nom::error::ErrorKind::TooLarge,
                )));
            }
            let (rest, inner) = entries(rest, depth + 1)?;
            let (rest, _) = char('}').parse(rest)?;
            (rest, Item::Section(inner))
        } else {
            let (rest, _) = char('=').parse(rest)?;
            let (rest, ()) = blank(rest)?;
            alt((list, scalar)).parse(rest)?
        };
        section.0.push((key, item));
        (input, ()) = blank(rest)?;
    }
    Ok((input, section))
}

fn brace(input: &str) -> IResult<&str, char> {
    char('{').parse(input)
}

fn list(input: &str) -> IResult<&str, Item<'_>> {
    let (input, _) = char('[').parse(input)?;
    let (mut input, ()) = blank(input)?;
    let mut items = Vec::new();
    loop {
        if let Ok((rest, _)) = tag::<_, _, nom::error::Error<&str>>("]").parse(input) {
            return Ok((rest, Item::List(items)));
        }
        let (rest, item) = scalar(input)?;
        items.push(item);
        let (rest, ()) = blank(rest)?;
        let (rest, comma) = opt(char(',')).parse(rest)?;
        (input, ()) = blank(rest)?;
        if comma.is_none() && !input.starts_with(']') {
            return Err(nom::Err::Error(nom::error::Error::new(
                input,
                nom::error::ErrorKind::Char,
            )));
        }
    }
}

fn scalar(input: &str) -> IResult<&str, Item<'_>> {
    alt((
        map(quoted, Item::Text),
        map(
            map_res(
                recognize(pair(
                    opt(char('-')),
                    take_while1(|c: char| c.is_ascii_digit()),
                )),
                str::parse,
            ),
            Item::Number,
        ),
    ))
    .parse(input)
}

fn quoted(input: &str) -> IResult<&str, String> {
    delimited(
        char('"'),
        nom::multi::fold_many0(
            alt((
                map(is_not("\"\\"), |part: &str| part),
                preceded(char('\\'), recognize(one_of("\"\\"))),
                recognize(char('\\')),
            )),
            String::new,
            |mut text, part| {
                text.push_str(part);
                text
            },
        ),
        char('"'),
    )
    .parse(input)
}
