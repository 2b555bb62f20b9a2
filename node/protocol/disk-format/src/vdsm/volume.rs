//! Metadata of a volume: a 512-byte slot on block domains, a `.meta` file on
//! file domains.

use std::fmt;
use std::str::FromStr;

use super::error::{FormatError, decimal};
use super::slot::SLOT_BYTES;
use super::uuid::{DomainId, ImageId, VolumeId};
use super::version::DomainVersion;

/// Bytes to which descriptions are cut, so that a slot always has room.
pub const DESCRIPTION_BYTES: usize = 210;
/// Generations wrap to 0 after this one.
pub const GENERATION_MAX: u16 = 999;
/// Bytes of a `.meta` file beyond which it is not read.
pub const META_BYTES_MAX: usize = 4096;

const RECORD: &str = "volume metadata";

macro_rules! words {
    ($name:ident, $noun:literal, $allowed:literal, $doc:literal, $($variant:ident = $word:literal, $about:literal;)+) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = $about] $variant,)+ }

        impl $name {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on disk.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = FormatError;

            fn from_str(text: &str) -> Result<Self, FormatError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(FormatError::value($noun, text, $allowed)),
                }
            }
        }
    };
}
pub(super) use words;

words! { VolumeFormat, "volume format", "COW or RAW", "How the data are laid out.",
    Cow = "COW", "A QCOW2 image.";
    Raw = "RAW", "The bytes themselves.";
}
words! { Allocation, "allocation", "PREALLOCATED or SPARSE", "Whether all room is taken at creation.",
    Preallocated = "PREALLOCATED", "All of it.";
    Sparse = "SPARSE", "As it is needed.";
}
words! { Legality, "legality", "LEGAL, ILLEGAL or FAKE", "Whether the volume may be used.",
    Legal = "LEGAL", "Yes.";
    Illegal = "ILLEGAL", "No: half-made, half-removed, or replaced.";
    Fake = "FAKE", "Stands for a template that is not here.";
}
words! { VolumeType, "volume type", "LEAF, INTERNAL or SHARED", "Place in the chain.",
    Leaf = "LEAF", "The one that is written to.";
    Internal = "INTERNAL", "Has a child in the same image.";
    Shared = "SHARED", "A template: children in other images.";
}
words! { DiskType, "disk type", "DATA, ISOF, MEMD, MEMM, OVFS, HEVD, HESD, HEMD, HECI, SCRD, 1 or 2", "What the disk is for.",
    Data = "DATA", "Data.";
    Iso = "ISOF", "An ISO image.";
    MemoryData = "MEMD", "Memory of a saved guest.";
    MemoryMetadata = "MEMM", "Configuration of a saved guest.";
    OvfStore = "OVFS", "The manager's store of configurations.";
    EngineVm = "HEVD", "Disk of the engine's guest.";
    EngineSanlock = "HESD", "Lockspace of the engine's agents.";
    EngineMetadata = "HEMD", "Metadata of the engine's agents.";
    EngineConfiguration = "HECI", "Configuration of the engine's deployment.";
    Scratch = "SCRD", "Scratch disk of a backup.";
    LegacySystem = "1", "Data, as old managers write it.";
    LegacyData = "2", "Data, as old managers write it.";
}

impl DiskType {
    /// Whether it is a data disk, in any spelling.
    #[must_use]
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data | Self::LegacySystem | Self::LegacyData)
    }
}

/// Which capacity keys a record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotFormat {
    /// `SIZE` and `MTIME`: versions 3 and 4.
    V4,
    /// Both: of a domain that is being converted from 4 to 5.
    Converting,
    /// `CAP` and `SEQ`: version 5.
    V5,
}

impl SlotFormat {
    /// What a domain of this version stores.
    #[must_use]
    pub fn of(version: DomainVersion) -> Self {
        if version >= DomainVersion::V5 {
            Self::V5
        } else {
            Self::V4
        }
    }

    /// Which one these bytes are, by their keys.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        let lines = lines(bytes).ok()?;
        let has = |wanted: &str| pairs(&lines).any(|(key, _)| key == wanted);
        match (has("SIZE"), has("CAP")) {
            (true, true) => Some(Self::Converting),
            (true, false) => Some(Self::V4),
            (false, true) => Some(Self::V5),
            (false, false) => None,
        }
    }
}

/// What is stored about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMetadata {
    /// The domain it was written in.
    pub domain: DomainId,
    /// The image.
    pub image: ImageId,
    /// The volume below; blank for a base. This is the truth, the `PU_` tag
    /// may be stale.
    pub parent: VolumeId,
    /// Virtual size in bytes. Version 4 stores whole 512-byte units.
    pub capacity_bytes: u64,
    /// When it was made, in seconds since 1970.
    pub ctime_s: u64,
    /// Free text of one line, mostly JSON of the manager.
    pub description: String,
    /// What the disk is for.
    pub disk_type: DiskType,
    /// How the data are laid out.
    pub format: VolumeFormat,
    /// Counts the jobs that changed it, 0–999.
    pub generation: u16,
    /// Whether it may be used.
    pub legality: Legality,
    /// Position of creation within the image. Not stored by version 4.
    pub sequence: u32,
    /// Place in the chain.
    pub volume_type: VolumeType,
    /// Whether all room is taken at creation.
    pub allocation: Allocation,
}

/// What of the text is stored as a description: without spaces around it, at
/// most [`DESCRIPTION_BYTES`] bytes, no half character.
#[must_use]
pub fn cut_description(text: &str) -> &str {
    let text = text.trim();
    let mut end = text.len().min(DESCRIPTION_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // Cut behind a space, it would come back without it.
    text.get(..end).unwrap_or_default().trim_end()
}

impl VolumeMetadata {
    /// The next generation after this one.
    #[must_use]
    pub fn next_generation(&self) -> u16 {
        if self.generation >= GENERATION_MAX {
            0
        } else {
            self.generation + 1
        }
    }

    /// Reads a slot of a block domain.
    ///
    /// # Errors
    /// When it is empty, cleared, or not what a volume's metadata are.
    pub fn decode_slot(slot: &[u8]) -> Result<Self, FormatError> {
        let slot = slot.get(..SLOT_BYTES).ok_or(FormatError::Truncated {
            record: "metadata slot",
            bytes: slot.len(),
            needed: SLOT_BYTES,
        })?;
        Self::decode(slot)
    }

    /// Reads a `.meta` file of a file domain.
    ///
    /// # Errors
    /// When it is empty, cleared, or not what a volume's metadata are.
    pub fn decode_meta(file: &[u8]) -> Result<Self, FormatError> {
        if file.len() > META_BYTES_MAX {
            return Err(FormatError::TooLong {
                noun: "volume metadata file",
                found: file.len(),
                largest: META_BYTES_MAX,
                unit: "bytes",
            });
        }
        Self::decode(file)
    }

    /// The slot to be written with one direct write.
    ///
    /// # Errors
    /// When a value cannot be stored, or all do not fit in the slot.
    pub fn encode_slot(&self, format: SlotFormat) -> Result<[u8; SLOT_BYTES], FormatError> {
        let text = self.encode(format)?;
        let mut slot = [0; SLOT_BYTES];
        let room = slot.get_mut(..text.len()).ok_or(FormatError::TooLong {
            noun: RECORD,
            found: text.len(),
            largest: SLOT_BYTES,
            unit: "bytes",
        })?;
        room.copy_from_slice(text.as_bytes());
        Ok(slot)
    }

    /// The content of a `.meta` file.
    ///
    /// # Errors
    /// When a value cannot be stored, or all do not fit in a slot (kept to
    /// that size so that a volume can move to a block domain).
    pub fn encode_meta(&self, format: SlotFormat) -> Result<Vec<u8>, FormatError> {
        let text = self.encode(format)?;
        if text.len() > SLOT_BYTES {
            return Err(FormatError::TooLong {
                noun: RECORD,
                found: text.len(),
                largest: SLOT_BYTES,
                unit: "bytes",
            });
        }
        Ok(text.into_bytes())
    }

    fn encode(&self, format: SlotFormat) -> Result<String, FormatError> {
        let sized = format != SlotFormat::V5;
        if sized && !self.capacity_bytes.is_multiple_of(512) {
            return Err(FormatError::value(
                "capacity",
                &self.capacity_bytes.to_string(),
                "a multiple of 512 bytes before version 5",
            ));
        }
        if self.generation > GENERATION_MAX {
            return Err(FormatError::value(
                "generation",
                &self.generation.to_string(),
                "0 to 999",
            ));
        }
        storable_line("description", &self.description)?;
        let sequenced = format == SlotFormat::V5;
        let capped = format != SlotFormat::V4;
        let pairs: [(&str, bool, &dyn fmt::Display); 15] = [
            ("CAP", capped, &self.capacity_bytes),
            ("CTIME", true, &self.ctime_s),
            ("DESCRIPTION", true, &self.description),
            ("DISKTYPE", true, &self.disk_type),
            ("DOMAIN", true, &self.domain),
            ("FORMAT", true, &self.format),
            ("GEN", true, &self.generation),
            ("IMAGE", true, &self.image),
            ("LEGALITY", true, &self.legality),
            ("MTIME", sized, &0),
            ("PUUID", true, &self.parent),
            ("SEQ", sequenced, &self.sequence),
            ("SIZE", sized, &(self.capacity_bytes / 512)),
            ("TYPE", true, &self.allocation),
            ("VOLTYPE", true, &self.volume_type),
        ];
        let mut text = String::with_capacity(SLOT_BYTES);
        for (key, _, value) in pairs.iter().filter(|(_, stored, _)| *stored) {
            text.push_str(&format!("{key}={value}\n"));
        }
        text.push_str("EOF\n");
        Ok(text)
    }

    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(FormatError::Empty { record: RECORD });
        }
        let lines = lines(bytes)?;
        if pairs(&lines).any(|(key, _)| key == "NONE") {
            return Err(FormatError::Cleared);
        }
        // The last of several equal keys counts, as in the original.
        let find = |wanted: &str| {
            pairs(&lines)
                .filter(|(key, _)| *key == wanted)
                .last()
                .map(|(_, value)| value)
        };
        let need = |key: &'static str| {
            find(key).ok_or(FormatError::Missing {
                record: RECORD,
                key,
            })
        };
        let capacity_bytes = match (find("CAP"), find("SIZE")) {
            (Some(capacity), _) => decimal("capacity", capacity)?,
            (None, Some(size)) => decimal("size", size)?
                .checked_mul(512)
                .ok_or_else(|| FormatError::value("size", size, "below 2^55 units"))?,
            (None, None) => {
                return Err(FormatError::Missing {
                    record: RECORD,
                    key: "CAP",
                });
            }
        };
        let generation = find("GEN").map_or(Ok(0), |text| {
            u16::try_from(decimal("generation", text)?)
                .ok()
                .filter(|&generation| generation <= GENERATION_MAX)
                .ok_or_else(|| FormatError::value("generation", text, "0 to 999"))
        })?;
        let sequence = find("SEQ").map_or(Ok(0), |text| {
            u32::try_from(decimal("sequence", text)?)
                .map_err(|_| FormatError::value("sequence", text, "0 to 2^32 - 1"))
        })?;
        Ok(Self {
            domain: need("DOMAIN")?.parse()?,
            image: need("IMAGE")?.parse()?,
            parent: need("PUUID")?.parse()?,
            capacity_bytes,
            ctime_s: decimal("creation time", need("CTIME")?)?,
            description: need("DESCRIPTION")?.to_owned(),
            disk_type: need("DISKTYPE")?.parse()?,
            format: need("FORMAT")?.parse()?,
            generation,
            legality: need("LEGALITY")?.parse()?,
            sequence,
            volume_type: need("VOLTYPE")?.parse()?,
            allocation: need("TYPE")?.parse()?,
        })
    }
}

/// Refuses text that would not come back from a `KEY=VALUE` line.
pub(super) fn storable_line(noun: &'static str, text: &str) -> Result<(), FormatError> {
    let breaks = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    if text.chars().any(breaks) || text.trim() != text {
        return Err(FormatError::value(
            noun,
            text,
            "one line without control characters, not beginning or ending with a space",
        ));
    }
    Ok(())
}

/// The lines up to `EOF` or the first NUL.
fn lines(bytes: &[u8]) -> Result<Vec<&str>, FormatError> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text)
        .map_err(|error| FormatError::syntax(RECORD, format!("not UTF-8 text: {error}")))?;
    Ok(text
        .lines()
        .take_while(|line| !line.starts_with("EOF"))
        .collect())
}

fn pairs<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
    lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
}
