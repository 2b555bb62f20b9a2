//! One record of the index.

use super::RECORD_BYTES;
use crate::id::NameField;
use crate::vdsm::error::decimal;
use crate::vdsm::uuid::LeaseId;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// No lease.
    Free,
    /// A lease.
    Lease {
        /// Which.
        id: LeaseId,
        /// Where it was thought to be, in bytes: for people, never used.
        offset: u64,
        /// Left half-made or half-removed by an old version: not to be found.
        updating: bool,
    },
    /// Neither.
    Corrupt([u8; RECORD_BYTES]),
}

/// A name in its field of 48 bytes.
pub(super) fn field(name: &str) -> NameField {
    NameField::from_bytes(name.as_bytes())
}

impl Record {
    /// What the bytes say. Only what [`Record::encode`] makes is taken for a
    /// lease or a free record.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        parse(bytes)
            .filter(|record| record.encode() == *bytes)
            .unwrap_or(Self::Corrupt(*bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let (name, offset, state) = match self {
            Self::Corrupt(bytes) => return *bytes,
            Self::Free => (NameField::EMPTY, 0, b'-'),
            Self::Lease {
                id,
                offset,
                updating,
            } => (
                field(&id.to_string()),
                *offset,
                if *updating { b'u' } else { b'-' },
            ),
        };
        let offset = format!("{offset:011}");
        let tail = [0, state, b'-', b'\n'];
        let parts: [&[u8]; 4] = [&name.0, &[0], offset.as_bytes(), &tail];
        let mut bytes = [0; RECORD_BYTES];
        for (place, &byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *place = byte;
        }
        bytes
    }
}

fn parse(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
    let name = NameField::from_bytes(bytes.get(..48)?);
    let offset = std::str::from_utf8(bytes.get(49..60)?).ok()?;
    let offset = decimal("lease offset", offset).ok()?;
    if name.is_empty() {
        return Some(Record::Free);
    }
    Some(Record::Lease {
        id: std::str::from_utf8(name.bytes()).ok()?.parse().ok()?,
        offset,
        updating: *bytes.get(61)? == b'u',
    })
}
