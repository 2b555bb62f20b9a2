//! Resources and lockspaces as strings.

use disk_format::NameField;
use disk_format::id::NAME_BYTES;

use crate::flags::ResourceFlags;
use crate::reply::{BUFFER_MAX, ReplyBody};
use crate::structs::{DISKS_MAX, Disk, DiskPath, Lockspace, PATH_MAX, Resource};

/// A string that is no resource or lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not that many fields.
    #[error("resource string with {0} fields: allowed are 2, or 4 to 11")]
    Fields(usize),
    /// A name too long.
    #[error("name has {0} bytes: allowed are at most {NAME_BYTES}")]
    NameLength(usize),
    /// A path too long.
    #[error("path has {0} bytes: allowed are at most {PATH_MAX}")]
    PathLength(usize),
    /// A NUL inside.
    #[error("path contains a NUL byte")]
    Nul,
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

/// Splits at unescaped colons; `\` makes the next byte ordinary and vanishes.
fn fields(text: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let byte = match byte {
            b'\\' => match bytes.next() {
                Some(&escaped) => escaped,
                None => break,
            },
            b':' => {
                fields.push(Vec::new());
                continue;
            }
            byte => byte,
        };
        if let Some(field) = fields.last_mut() {
            field.push(byte);
        }
    }
    fields
}

/// The number at the start of a text, as C's `strtoull` with base 0 reads it:
/// decimal, octal after `0`, hexadecimal after `0x`; 0 when there is none.
fn number(text: &[u8]) -> u64 {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        [b'0', digits @ ..] => (digits, 8),
        digits => (digits, 10),
    };
    let mut value = 0u64;
    for digit in digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(radix))
    {
        match value
            .checked_mul(u64::from(radix))
            .and_then(|value| value.checked_add(u64::from(digit)))
        {
            Some(next) => value = next,
            None => return u64::MAX,
        }
    }
    value
}

/// `<lockspace>:<resource>[:<path>:<offset>]…[:<lver>|:SH]`, up to four disks.
///
/// # Errors
/// When the number of fields is wrong or a field is too long.
pub fn parse_resource(text: &[u8]) -> Result<Resource, TextError> {
    let fields = fields(text);
    let colons = fields.len() - 1;
    let disks = colons.saturating_sub(1) / 2;
    if colons == 0 || colons == 2 || disks > DISKS_MAX {
        return Err(TextError::Fields(fields.len()));
    }
    let mut fields = fields.into_iter();
    let mut next = || fields.next().unwrap_or_default();
    let mut resource = Resource {
        lockspace_name: parse_name(&next())?,
        name: parse_name(&next())?,
        ..Resource::default()
    };
    for _ in 0..disks {
        resource.disks.push(Disk {
            path: DiskPath::new(&next())?,
            offset: number(&next()),
        });
    }
    if (colons - 1) % 2 == 1 {
        let last = next();
        if last.starts_with(b"SH") {
            resource.flags |= ResourceFlags::SHARED.0;
        } else {
            resource.flags |= ResourceFlags::LVER.0;
            resource.lver = number(&last);
        }
    }
    Ok(resource)
}

/// `<lockspace>[:<host id>[:<path>[:<offset>]]]`; what is missing is zero or empty.
///
/// # Errors
/// When a field is too long.
pub fn parse_lockspace(text: &[u8]) -> Result<Lockspace, TextError> {
    let mut fields = fields(text).into_iter();
    let mut next = || fields.next().unwrap_or_default();
    Ok(Lockspace {
        name: parse_name(&next())?,
        host_id: number(&next()),
        flags: 0,
        disk: Disk {
            path: DiskPath::new(&next())?,
            offset: number(&next()),
        },
    })
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
