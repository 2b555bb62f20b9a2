//! Resources and lockspaces as strings.

use disk_format::NameField;
use disk_format::id::NAME_BYTES;

use crate::flags::ResourceFlags;
use crate::reply::{BUFFER_MAX, ReplyBody};
use crate::structs::{DISKS_MAX, Disk, DiskPath, Lockspace, PATH_MAX, Rentry, Resource, Rindex};

/// A string that is no resource or lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too short for any.
    #[error("resource string of {0} bytes: shortest allowed is 3")]
    Short(usize),
    /// Not that many fields.
    #[error("resource string with {0} fields: allowed are 2, or 4 to 11")]
    Fields(usize),
    /// More than four.
    #[error("resource string with {0} disks: largest allowed is {DISKS_MAX}")]
    Disks(usize),
    /// No number where one must be.
    #[error("resource string without a number for an offset or version")]
    Number,
    /// A name too long.
    #[error("name has {0} bytes: allowed are at most {NAME_BYTES}")]
    NameLength(usize),
    /// A path too long, or none.
    #[error("path has {0} bytes: allowed are 1 to {PATH_MAX}")]
    PathLength(usize),
    /// A NUL inside.
    #[error("path contains a NUL byte")]
    Nul,
}

impl TextError {
    /// The number that the original's library has for it.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Short(_) => -6,
            Self::Disks(_) => -2,
            Self::Fields(_)
            | Self::Number
            | Self::NameLength(_)
            | Self::PathLength(_)
            | Self::Nul => -1,
        }
    }
}

/// A name field from bytes, which need not be printable.
///
/// # Errors
/// When it is longer than 48 bytes.
pub fn parse_name(text: &[u8]) -> Result<NameField, TextError> {
    let mut field = [0; NAME_BYTES];
    match field.get_mut(..text.len()) {
        Some(place) => place.copy_from_slice(text),
        None => return Err(TextError::NameLength(text.len())),
    }
    Ok(NameField(field))
}

/// Splits at colons that no `\` makes ordinary; keeps each `\`.
fn fields(text: &[u8]) -> Vec<&[u8]> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (place, &byte) in text.iter().enumerate() {
        if byte == b':' && !escaped {
            fields.extend(text.get(start..place));
            start = place + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    fields.extend(text.get(start..));
    fields
}

/// Each `\` gone, and the byte after it kept whatever it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            byte => out.push(byte),
        }
    }
    out
}

/// The decimal number at the start of a field, after white space and with a
/// sign, as C reads it: too large is the largest, negative wraps around.
fn number(field: &[u8], largest: u64) -> Option<u64> {
    let field = field.trim_ascii_start();
    let (negative, digits) = match field {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let mut value: Option<u64> = None;
    for digit in digits
        .iter()
        .map_while(|byte| char::from(*byte).to_digit(10))
    {
        let next = value
            .unwrap_or(0)
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit)));
        value = Some(next.unwrap_or(u64::MAX));
        if next.is_none() {
            break;
        }
    }
    let value = value?.min(largest);
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// `<lockspace>:<resource>[:<path>:<offset>]…[:<lver>|:SH]`, up to four disks;
/// `\` makes the next byte ordinary.
///
/// # Errors
/// When the number of fields is wrong, a field too long, or an offset no number.
pub fn parse_resource(text: &[u8]) -> Result<Resource, TextError> {
    if text.len() < 3 {
        return Err(TextError::Short(text.len()));
    }
    let fields = fields(text);
    let colons = fields.len() - 1;
    let disks = colons.saturating_sub(1) / 2;
    if colons == 0 || colons == 2 {
        return Err(TextError::Fields(fields.len()));
    }
    if disks > DISKS_MAX {
        return Err(TextError::Disks(disks));
    }
    let mut fields = fields.into_iter();
    let mut next = || fields.next().unwrap_or_default();
    let mut resource = Resource {
        lockspace_name: parse_name(&unescape(next()))?,
        name: parse_name(&unescape(next()))?,
        ..Resource::default()
    };
    for _ in 0..disks {
        let path = DiskPath::new(&unescape(next()))?;
        if path.is_empty() {
            return Err(TextError::PathLength(0));
        }
        resource.disks.push(Disk {
            path,
            offset: number(next(), u64::MAX).ok_or(TextError::Number)?,
        });
    }
    if (colons - 1) % 2 == 1 {
        match next() {
            [] => return Err(TextError::Number),
            [b'S', b'H', ..] => resource.flags |= ResourceFlags::SHARED.0,
            version => {
                resource.flags |= ResourceFlags::LVER.0;
                resource.lver = number(version, u64::MAX).unwrap_or(0);
            }
        }
    }
    Ok(resource)
}

/// `<lockspace>[:<host id>[:<path>[:<offset>]]]`. What is missing is zero or
/// empty and what is too long is cut, as in the original; a `\` stays in the
/// name and vanishes from the path.
#[must_use]
pub fn parse_lockspace(text: &[u8]) -> Lockspace {
    let mut fields = fields(text).into_iter();
    let mut next = || fields.next().unwrap_or_default();
    Lockspace {
        name: cut_name(next()),
        host_id: number(next(), LONG_MAX).unwrap_or(0),
        flags: 0,
        disk: cut_disk(next(), next()),
    }
}

/// `<lockspace>:<path>[:<offset>]`, as [`parse_lockspace`].
#[must_use]
pub fn parse_rindex(text: &[u8]) -> Rindex {
    let mut fields = fields(text).into_iter();
    let mut next = || fields.next().unwrap_or_default();
    Rindex {
        lockspace_name: cut_name(next()),
        disk: cut_disk(next(), next()),
        ..Rindex::default()
    }
}

/// `<name>[:<offset>]`; either may be missing.
#[must_use]
pub fn parse_rentry(text: &[u8]) -> Rentry {
    let mut fields = text.split(|&byte| byte == b':');
    let mut next = || fields.next().unwrap_or_default();
    Rentry {
        name: cut_name(next()),
        offset: number(next(), LONG_MAX).unwrap_or(0),
        flags: 0,
    }
}

/// Largest number that C's `atoll` returns.
const LONG_MAX: u64 = i64::MAX.cast_unsigned();

fn cut_name(field: &[u8]) -> NameField {
    let field = field.get(..NAME_BYTES).unwrap_or(field);
    parse_name(field).unwrap_or(NameField::EMPTY)
}

fn cut_disk(path: &[u8], offset: &[u8]) -> Disk {
    let mut path = path.to_vec();
    path.retain(|&byte| byte != b'\\' && byte != 0);
    path.truncate(PATH_MAX);
    Disk {
        path: DiskPath::new(&path).unwrap_or_default(),
        offset: number(offset, LONG_MAX).unwrap_or(0),
    }
}

impl DiskPath {
    /// The path with `\` before each space and colon.
    #[must_use]
    pub fn escaped(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.as_bytes().len());
        for &byte in self.as_bytes() {
            if matches!(byte, b' ' | b':') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out
    }
}

impl Resource {
    /// The resource as a string, with its version or `SH` at the end.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(self.lockspace_name.bytes());
        out.push(b':');
        out.extend_from_slice(self.name.bytes());
        for disk in &self.disks {
            out.push(b':');
            out.extend_from_slice(&disk.path.escaped());
            out.push(b':');
            out.extend_from_slice(disk.offset.to_string().as_bytes());
        }
        out.push(b':');
        if self.has(ResourceFlags::SHARED) {
            out.extend_from_slice(b"SH");
        } else {
            out.extend_from_slice(self.lver.to_string().as_bytes());
        }
        out
    }
}

impl Lockspace {
    /// The lockspace as a string.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(self.name.bytes());
        out.extend_from_slice(format!(":{}:", self.host_id).as_bytes());
        out.extend_from_slice(&self.disk.path.escaped());
        out.extend_from_slice(format!(":{}", self.disk.offset).as_bytes());
        out
    }
}

impl ReplyBody {
    /// The body of an `INQUIRE` reply: strings joined by one space. Ends
    /// before the resource whose string would make it longer than 1 MiB.
    #[must_use]
    pub fn inquiry<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        let mut out = Vec::new();
        let mut count = 0;
        for resource in resources {
            let text = resource.to_text();
            if out.len() + text.len() + 1 > BUFFER_MAX {
                break;
            }
            if count > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(&text);
            count += 1;
        }
        Self::Inquiry { count, text: out }
    }
}
