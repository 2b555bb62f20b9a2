//! Names and numbers that cannot be wrong.

use std::fmt;

use crate::geometry::{Geometry, HOSTS_MAX};

/// Size of a name field on disk, in bytes. A name may fill it without a NUL.
pub const NAME_BYTES: usize = 48;

/// A host id, 1–2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u16);

/// A host id out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("host id {found}: allowed is 1 to {largest}")]
pub struct HostIdError {
    /// The number given.
    pub found: u64,
    /// Largest allowed here.
    pub largest: u16,
}

impl HostId {
    /// A host id valid in at least one geometry.
    ///
    /// # Errors
    /// When it is 0 or above 2000.
    pub fn new(number: u64) -> Result<Self, HostIdError> {
        match u16::try_from(number) {
            Ok(id @ 1..=HOSTS_MAX) => Ok(Self(id)),
            Ok(_) | Err(_) => Err(HostIdError {
                found: number,
                largest: HOSTS_MAX,
            }),
        }
    }

    /// Checks that this geometry has a sector for the host.
    ///
    /// # Errors
    /// When the id is above the geometry's largest.
    pub fn fits(self, geometry: Geometry) -> Result<(), HostIdError> {
        let largest = geometry.max_hosts();
        if self.0 > largest {
            Err(HostIdError {
                found: u64::from(self.0),
                largest,
            })
        } else {
            Ok(())
        }
    }

    /// The number, 1–2000.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// Index of the host's sector in a lockspace area: id − 1.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0 - 1)
    }

    /// The host whose sector has this index, if any geometry has it.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        u16::try_from(index)
            .ok()
            .filter(|&index| index < HOSTS_MAX)
            .map(|index| Self(index + 1))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// How often a host id's lease was acquired; never decreases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next acquire.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// A name field exactly as on disk, including whatever follows its NUL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameField(pub [u8; NAME_BYTES]);

impl NameField {
    /// All zeros: no name.
    pub const EMPTY: Self = Self([0; NAME_BYTES]);

    /// The bytes up to the first NUL or the end.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// The field holding these bytes: everything up to the first NUL, cut to
    /// 48 bytes as the original's tools do.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Self {
        let mut field = [0; NAME_BYTES];
        let name = name.iter().take_while(|&&byte| byte != 0);
        for (place, &byte) in field.iter_mut().zip(name) {
            *place = byte;
        }
        Self(field)
    }

    /// The same name with nothing but zeros behind it.
    #[must_use]
    pub fn cleaned(&self) -> Self {
        Self::from_bytes(&self.0)
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Whether both hold the same name, disregarding what follows a NUL.
    #[must_use]
    pub fn same_name(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

/// The name as text; bytes that are not printable ASCII appear as `\xNN`.
impl fmt::Display for NameField {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.bytes() {
            if byte == b' ' || (byte.is_ascii_graphic() && byte != b'\\') {
                write!(out, "{}", char::from(byte))?;
            } else {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for NameField {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

/// A name nobody may use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("{noun} is empty: allowed are 1 to {NAME_BYTES} bytes")]
    Empty {
        /// Whose name.
        noun: &'static str,
    },
    /// Too long.
    #[error("{noun} has {bytes} bytes: allowed are 1 to {NAME_BYTES}")]
    TooLong {
        /// Whose name.
        noun: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A character that would not survive the tools' own syntax.
    #[error("{noun} contains {found:?}: allowed is printable ASCII without {forbidden}")]
    Character {
        /// Whose name.
        noun: &'static str,
        /// The first offender.
        found: char,
        /// What is forbidden.
        forbidden: &'static str,
    },
}

fn check(
    noun: &'static str,
    text: &str,
    forbidden: &'static str,
    bad: fn(char) -> bool,
) -> Result<NameField, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { noun });
    }
    if text.len() > NAME_BYTES {
        return Err(NameError::TooLong {
            noun,
            bytes: text.len(),
        });
    }
    match text
        .chars()
        .find(|&letter| !letter.is_ascii_graphic() || bad(letter))
    {
        Some(found) => Err(NameError::Character {
            noun,
            found,
            forbidden,
        }),
        None => Ok(NameField::from_bytes(text.as_bytes())),
    }
}

fn not_empty(noun: &'static str, field: &NameField) -> Result<NameField, NameError> {
    if field.is_empty() {
        Err(NameError::Empty { noun })
    } else {
        Ok(field.cleaned())
    }
}

/// Name of a lockspace: 1–48 bytes without NUL. Names made here are printable
/// ASCII without space, colon or slash; names of others may have any bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockspaceName(NameField);

impl LockspaceName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character that is not allowed.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check("lockspace name", text, "space, colon and slash", |letter| {
            matches!(letter, ':' | '/')
        })
        .map(Self)
    }

    /// A name that came over a socket or from a disk: any bytes up to the NUL.
    ///
    /// # Errors
    /// When it is empty.
    pub fn from_field(field: &NameField) -> Result<Self, NameError> {
        not_empty("lockspace name", field).map(Self)
    }

    /// As on disk.
    #[must_use]
    pub fn field(&self) -> &NameField {
        &self.0
    }
}

impl fmt::Display for LockspaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Name of a resource: 1–48 bytes without NUL. Names made here are printable
/// ASCII without space and colon; names of others may have any bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(NameField);

impl ResourceName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character that is not allowed.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check("resource name", text, "space and colon", |letter| {
            letter == ':'
        })
        .map(Self)
    }

    /// A name that came over a socket or from a disk: any bytes up to the NUL.
    ///
    /// # Errors
    /// When it is empty.
    pub fn from_field(field: &NameField) -> Result<Self, NameError> {
        not_empty("resource name", field).map(Self)
    }

    /// As on disk.
    #[must_use]
    pub fn field(&self) -> &NameField {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Unique name of a host: 1–48 printable ASCII bytes without space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(NameField);

impl HostName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character that is not allowed.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check("host name", text, "space", |_| false).map(Self)
    }

    /// As on disk.
    #[must_use]
    pub fn field(&self) -> &NameField {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ids_outside_the_geometry_are_refused_with_the_limit() {
        assert!(HostId::new(0).is_err());
        assert!(HostId::new(2001).is_err());
        let id = HostId::new(251).unwrap();
        assert_eq!(
            id.fits(Geometry::Sector4096Align1M)
                .unwrap_err()
                .to_string(),
            "host id 251: allowed is 1 to 250"
        );
        assert_eq!(id.fits(Geometry::Sector4096Align2M), Ok(()));
        assert_eq!(HostId::from_index(2000), None);
    }

    #[test]
    fn names_fill_their_field_without_a_nul() {
        let text = "n".repeat(48);
        assert_eq!(LockspaceName::new(&text).unwrap().to_string(), text);
        assert!(LockspaceName::new(&"n".repeat(49)).is_err());
        assert!(LockspaceName::new("a:b").is_err());
        assert!(HostName::new("a b").is_err());
        assert!(HostName::new("8f1c.node-1").is_ok());
    }

    #[test]
    fn bytes_after_the_nul_do_not_make_another_name() {
        let name = LockspaceName::new("LS").unwrap();
        let mut dirty = *name.field();
        dirty.0[10] = 7;
        assert!(dirty.same_name(name.field()));
        assert_ne!(dirty, *name.field());
        assert_eq!(
            NameField(*b"a\x01\\b\0..........................................c").to_string(),
            "a\\x01\\x5cb"
        );
    }
}
