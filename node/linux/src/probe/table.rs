//! Partition tables: GPT, and the four primary entries of an MBR.

use crate::probe::content::{guid_text, printable, u32_at, u64_at};

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// GUID partition table.
    Gpt(Vec<Partition>),
    /// Master boot record, primary partitions only.
    Mbr(Vec<Partition>),
}

impl Table {
    /// `gpt` or `mbr`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gpt(_) => "gpt",
            Self::Mbr(_) => "mbr",
        }
    }

    /// The partition the kernel gives this number.
    #[must_use]
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        let (Self::Gpt(partitions) | Self::Mbr(partitions)) = self;
        partitions
            .iter()
            .find(|partition| partition.number == number)
    }
}

/// One used entry of a partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1, as the kernel counts.
    pub number: u32,
    /// What the kernel calls PARTUUID, lower case.
    pub uuid: String,
    /// Name, empty in an MBR. Control characters are replaced by `?`.
    pub name: String,
    /// First block.
    pub first_block: u64,
    /// Last block, included.
    pub last_block: u64,
}

/// Why bytes are not a GPT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GptFault {
    /// No header here.
    #[error("no GPT signature")]
    NoSignature,
    /// The header says it is elsewhere.
    #[error("header is for block {0}")]
    WrongBlock(u64),
    /// Header size out of range.
    #[error("header size {0}: must be 92 to 512 bytes")]
    HeaderSize(u32),
    /// The header is damaged.
    #[error("header checksum does not match")]
    HeaderChecksum,
    /// Entry size out of range.
    #[error("entry size {0}: must be 128 to 4096 bytes, a multiple of 128")]
    EntrySize(u32),
    /// Too many entries.
    #[error("entry count {0}: largest allowed is {max}", max = ENTRY_COUNT_MAX)]
    EntryCount(u32),
    /// The entries are damaged.
    #[error("entries checksum does not match")]
    EntriesChecksum,
    /// The device ends before the table does.
    #[error("table is cut off")]
    Truncated,
}

/// Most entries of a table that is accepted; the usual table has 128.
const ENTRY_COUNT_MAX: u32 = 1024;

/// The part of a GPT header that is needed to read its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptHeader {
    /// First block of the entries.
    pub entries_at: u64,
    entry_count: u32,
    entry_size: u32,
    entries_checksum: u32,
}

impl GptHeader {
    /// Parses and checks the header read from block `at`.
    ///
    /// # Errors
    /// Anything that makes it unusable; see [`GptFault`].
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self, GptFault> {
        if bytes.get(..8) != Some(b"EFI PART") {
            return Err(GptFault::NoSignature);
        }
        let size = u32_at(bytes, 12).ok_or(GptFault::Truncated)?;
        if !(92..=512).contains(&size) {
            return Err(GptFault::HeaderSize(size));
        }
        let size = usize::try_from(size).map_err(|_wide| GptFault::HeaderSize(size))?;
        let mut covered = bytes.get(..size).ok_or(GptFault::Truncated)?.to_vec();
        let stored = u32_at(&covered, 16).ok_or(GptFault::Truncated)?;
        // The checksum covers itself as zeros.
        covered[16..20].fill(0);
        if crc32fast::hash(&covered) != stored {
            return Err(GptFault::HeaderChecksum);
        }
        let field = |offset| u64_at(bytes, offset).ok_or(GptFault::Truncated);
        if field(24)? != at {
            return Err(GptFault::WrongBlock(field(24)?));
        }
        let small = |offset| u32_at(bytes, offset).ok_or(GptFault::Truncated);
        let entry_count = small(80)?;
        if entry_count > ENTRY_COUNT_MAX {
            return Err(GptFault::EntryCount(entry_count));
        }
        let entry_size = small(84)?;
        if !(128..=4096).contains(&entry_size) || entry_size % 128 != 0 {
            return Err(GptFault::EntrySize(entry_size));
        }
        Ok(Self {
            entries_at: field(72)?,
            entry_count,
            entry_size,
            entries_checksum: small(88)?,
        })
    }

    /// How many bytes the entries take: at most 4 MiB.
    #[must_use]
    pub fn entries_len(&self) -> usize {
        // Both factors are bounded by `parse`.
        usize::try_from(u64::from(self.entry_count) * u64::from(self.entry_size)).unwrap_or(0)
    }

    /// Parses and checks the entries; unused ones are left out.
    ///
    /// # Errors
    /// Too few bytes, or their checksum does not match.
    pub fn parse_entries(&self, bytes: &[u8]) -> Result<Vec<Partition>, GptFault> {
        let bytes = bytes.get(..self.entries_len()).ok_or(GptFault::Truncated)?;
        if crc32fast::hash(bytes) != self.entries_checksum {
            return Err(GptFault::EntriesChecksum);
        }
        let size = usize::try_from(self.entry_size).map_err(|_wide| GptFault::Truncated)?;
        Ok((1..)
            .zip(bytes.chunks_exact(size))
            .filter_map(|(number, entry)| parse_entry(number, entry))
            .collect())
    }
}

/// `None` for an unused entry.
fn parse_entry(number: u32, entry: &[u8]) -> Option<Partition> {
    let kind = entry.get(..16)?;
    if kind.iter().all(|byte| *byte == 0) {
        return None;
    }
    let letters = entry
        .get(56..128)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|letter| *letter != 0);
    let name: String = char::decode_utf16(letters)
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Some(Partition {
        number,
        uuid: guid_text(entry.get(16..32)?)?,
        name: printable(&name),
        first_block: u64_at(entry, 32)?,
        last_block: u64_at(entry, 40)?,
    })
}

/// True if the first sector says that the disk has a GPT: a protective (or
/// hybrid) MBR. Only then is a damaged GPT worth reporting.
#[must_use]
pub fn claims_gpt(sector: &[u8]) -> bool {
    mbr_entries(sector).is_some_and(|mut entries| entries.any(|entry| entry[4] == PROTECTIVE))
}

const PROTECTIVE: u8 = 0xEE;

/// Parses the primary partitions of an MBR. `None` if the bytes are not an MBR,
/// or a boot sector of a file system, or one that only protects a GPT.
#[must_use]
pub fn parse_mbr(sector: &[u8]) -> Option<Vec<Partition>> {
    if claims_gpt(sector) {
        return None;
    }
    let id = u32_at(sector, 440)?;
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(mbr_entries(sector)?) {
        let (kind, count) = (entry[4], u64::from(u32_at(entry, 12)?));
        // The status byte of a real table is one of two values; program code in
        // its place is how other boot sectors give themselves away.
        if !matches!(entry[0], 0 | 0x80) {
            return None;
        }
        if kind == 0 || count == 0 {
            continue;
        }
        let first_block = u64::from(u32_at(entry, 8)?);
        partitions.push(Partition {
            number,
            uuid: format!("{id:08x}-{number:02x}"),
            name: String::new(),
            first_block,
            last_block: first_block + count - 1,
        });
    }
    (!partitions.is_empty()).then_some(partitions)
}

fn mbr_entries(sector: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    if sector.get(510..512)? != [0x55, 0xAA] {
        return None;
    }
    Some(sector.get(446..510)?.chunks_exact(16))
}
