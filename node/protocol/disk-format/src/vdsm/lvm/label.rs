//! What LVM writes at the start of a device, and where its text is.
//!
//! ```text
//! sectors 0–3   label in one of them: id, device size, list of areas
//! area          512 bytes header, then a ring of texts:
//!               | header | … text of the last commit … |
//!                    +--- offset, size, checksum of it
//! ```
//!
//! A text that reaches the end of its area goes on behind the header.

use super::text::{TEXT_BYTES_MAX, Vg};
use crate::vdsm::error::FormatError;

/// Bytes at the start of a device that may hold the label.
pub const SCAN_BYTES: usize = 2048;
/// Bytes of the header of a metadata area.
pub const HEADER_BYTES: usize = 512;
/// Areas of a device that are looked at.
const AREAS_MAX: usize = 8;

const SECTOR: usize = 512;
const LABEL: &str = "LVM label";
const HEADER: &str = "header of a metadata area";
const LABEL_ID: &[u8] = b"LABELONE";
const LABEL_TYPE: &[u8] = b"LVM2 001";
const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const IGNORED: u32 = 1;
const SEED: u32 = 0xf597_a6cf;

/// LVM's checksum: CRC-32 with a seed of its own and no inversions.
#[must_use]
pub fn lvm_checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!SEED);
    for part in parts {
        hasher.update(part);
    }
    !hasher.finalize()
}

/// A piece of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Area {
    /// Where, in bytes.
    pub offset: u64,
    /// Bytes; 0 for a data area that reaches to the end.
    pub bytes: u64,
}

/// The label of a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// LVM's id.
    pub uuid: String,
    /// Bytes of the device when it became a physical volume.
    pub device_bytes: u64,
    /// Where the extents are.
    pub data: Vec<Area>,
    /// Metadata areas.
    pub metadata: Vec<Area>,
}

impl Label {
    /// Finds the label in the first [`SCAN_BYTES`] bytes of a device.
    ///
    /// # Errors
    /// [`FormatError::Empty`] when there is none: not a physical volume. Another
    /// when it is damaged.
    pub fn find(start: &[u8]) -> Result<Self, FormatError> {
        for (number, sector) in start.as_chunks::<SECTOR>().0.iter().take(4).enumerate() {
            if sector.starts_with(LABEL_ID) && sector.get(24..32) == Some(LABEL_TYPE) {
                return Self::decode(sector, number);
            }
        }
        Err(FormatError::Empty { record: LABEL })
    }

    fn decode(sector: &[u8; SECTOR], number: usize) -> Result<Self, FormatError> {
        let damaged = |what: &str| FormatError::syntax(LABEL, what);
        if u64::try_from(number) != Ok(u64_at(sector, 8)) {
            return Err(damaged("it says that it is of another sector"));
        }
        let found = u32_at(sector, 16);
        let computed = lvm_checksum(&[sector.get(20..).unwrap_or_default()]);
        if found != computed {
            return Err(FormatError::Checksum {
                record: LABEL,
                found: format!("{found:#010x}"),
                computed: format!("{computed:#010x}"),
            });
        }
        let header = usize::try_from(u32_at(sector, 20))
            .ok()
            .and_then(|offset| sector.get(offset..))
            .ok_or_else(|| damaged("its header lies outside"))?;
        let uuid = header
            .get(..32)
            .filter(|uuid| uuid.iter().all(u8::is_ascii_graphic))
            .ok_or_else(|| damaged("its id is no text"))?;
        let (data, rest) = areas(header.get(40..).unwrap_or_default())
            .ok_or_else(|| damaged("its list of data areas does not end"))?;
        let (metadata, _) =
            areas(rest).ok_or_else(|| damaged("its list of metadata areas does not end"))?;
        Ok(Self {
            uuid: hyphenated(uuid),
            device_bytes: u64_at(header, 32),
            data,
            metadata,
        })
    }
}

/// Areas up to the one that is all zeros, and what follows it.
fn areas(mut bytes: &[u8]) -> Option<(Vec<Area>, &[u8])> {
    let mut areas = Vec::new();
    loop {
        let (entry, rest) = bytes.split_first_chunk::<16>()?;
        bytes = rest;
        let area = Area {
            offset: u64_at(entry, 0),
            bytes: u64_at(entry, 8),
        };
        if area.offset == 0 {
            return Some((areas, bytes));
        }
        if areas.len() < AREAS_MAX {
            areas.push(area);
        }
    }
}

/// The id as LVM prints it: 6-4-4-4-4-4-6.
fn hyphenated(uuid: &[u8]) -> String {
    let mut text = String::with_capacity(38);
    for (place, &byte) in uuid.iter().enumerate() {
        if matches!(place, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(char::from(byte));
    }
    text
}

/// Where a text is in its area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From the start of the area, in bytes.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// [`lvm_checksum`] of the text.
    pub checksum: u32,
}

/// The header of a metadata area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MdaHeader {
    /// The area, by its own account.
    pub area: Area,
    /// Whether LVM keeps no metadata here.
    pub ignored: bool,
    /// The text of the last commit; none when there never was one.
    pub committed: Option<Place>,
    /// The text of a commit that was under way.
    pub precommitted: Option<Place>,
}

impl MdaHeader {
    /// Reads the header of the area that the label says is there.
    ///
    /// # Errors
    /// When it is damaged, or of another area.
    pub fn decode(bytes: &[u8], area: Area) -> Result<Self, FormatError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Truncated {
            record: HEADER,
            bytes: bytes.len(),
            needed: HEADER_BYTES,
        })?;
        let found = u32_at(header, 0);
        let computed = lvm_checksum(&[header.get(4..).unwrap_or_default()]);
        if found != computed {
            return Err(FormatError::Checksum {
                record: HEADER,
                found: format!("{found:#010x}"),
                computed: format!("{computed:#010x}"),
            });
        }
        if header.get(4..20) != Some(MAGIC.as_slice()) {
            return Err(FormatError::syntax(HEADER, "the magic text is another"));
        }
        let version = u32_at(header, 20);
        if version != 1 {
            return Err(FormatError::value(
                "version of the metadata area",
                &version.to_string(),
                "1",
            ));
        }
        let own = Area {
            offset: u64_at(header, 24),
            bytes: u64_at(header, 32),
        };
        if own != area || area.bytes <= 512 {
            return Err(FormatError::syntax(
                HEADER,
                format!(
                    "it says that the area is {} bytes at {}, the label says {} at {}",
                    own.bytes, own.offset, area.bytes, area.offset
                ),
            ));
        }
        let place = |at: usize| -> Result<(Option<Place>, bool), FormatError> {
            let place = Place {
                offset: u64_at(header, at),
                bytes: u64_at(header, at + 8),
                checksum: u32_at(header, at + 16),
            };
            let ignored = u32_at(header, at + 20) & IGNORED != 0;
            if place.offset == 0 || place.bytes == 0 {
                return Ok((None, ignored));
            }
            let fits = place.offset >= 512
                && place.offset < area.bytes
                && place.bytes <= area.bytes - 512
                && place.bytes <= u64::try_from(TEXT_BYTES_MAX).unwrap_or(u64::MAX);
            if fits {
                Ok((Some(place), ignored))
            } else {
                Err(FormatError::syntax(
                    HEADER,
                    format!(
                        "its text of {} bytes at {} does not fit in the area",
                        place.bytes, place.offset
                    ),
                ))
            }
        };
        let (committed, ignored) = place(40)?;
        let (precommitted, _) = place(64)?;
        Ok(Self {
            area,
            ignored,
            committed,
            precommitted,
        })
    }

    /// The pieces of the device that make up a text, in order: two when it
    /// wraps around.
    #[must_use]
    pub fn pieces(&self, place: Place) -> Vec<Area> {
        let to_end = self.area.bytes.saturating_sub(place.offset);
        let first = Area {
            offset: self.area.offset.saturating_add(place.offset),
            bytes: place.bytes.min(to_end),
        };
        let mut pieces = vec![first];
        if place.bytes > to_end {
            pieces.push(Area {
                offset: self.area.offset.saturating_add(512),
                bytes: place.bytes - to_end,
            });
        }
        pieces
    }
}

/// One metadata area as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Which area.
    pub area: Area,
    /// Whether LVM keeps no metadata here.
    pub ignored: bool,
    /// Bytes of the last commit's text; `None` when there is none.
    pub text_bytes: Option<u64>,
    /// The VG; `None` for an area that never had one; or why it cannot be read.
    pub vg: Result<Option<Vg>, FormatError>,
}

/// What LVM has on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its label.
    pub label: Label,
    /// Its metadata areas, in order.
    pub copies: Vec<Copy>,
}

/// Reads what LVM has on a device. `read` gives the bytes of a piece of the
/// device, or why it cannot.
///
/// # Errors
/// When the label cannot be read or there is none. An area that cannot be read
/// is told in [`Copy::vg`].
pub fn read_device(
    mut read: impl FnMut(Area) -> Result<Vec<u8>, String>,
) -> Result<Device, FormatError> {
    let start = read(Area {
        offset: 0,
        bytes: 2048,
    })
    .map_err(|error| FormatError::syntax(LABEL, error))?;
    let label = Label::find(&start)?;
    let copies = label
        .metadata
        .iter()
        .map(|&area| {
            let header = read(Area {
                offset: area.offset,
                bytes: 512,
            })
            .map_err(|error| FormatError::syntax(HEADER, error))
            .and_then(|bytes| MdaHeader::decode(&bytes, area));
            let header = match header {
                Ok(header) => header,
                Err(error) => {
                    return Copy {
                        area,
                        ignored: false,
                        text_bytes: None,
                        vg: Err(error),
                    };
                }
            };
            Copy {
                area,
                ignored: header.ignored,
                text_bytes: header.committed.map(|place| place.bytes),
                vg: header
                    .committed
                    .map(|place| read_text(&header, place, &mut read))
                    .transpose(),
            }
        })
        .collect();
    Ok(Device { label, copies })
}

fn read_text(
    header: &MdaHeader,
    place: Place,
    read: &mut impl FnMut(Area) -> Result<Vec<u8>, String>,
) -> Result<Vg, FormatError> {
    let mut text = Vec::new();
    for piece in header.pieces(place) {
        let bytes = read(piece).map_err(|error| FormatError::syntax("LVM metadata", error))?;
        text.extend_from_slice(&bytes);
    }
    let computed = lvm_checksum(&[&text]);
    if computed != place.checksum {
        return Err(FormatError::Checksum {
            record: "LVM metadata",
            found: format!("{:#010x}", place.checksum),
            computed: format!("{computed:#010x}"),
        });
    }
    Vg::parse(&text)
}

/// The VG to believe: the one with the highest commit number of all whole
/// copies that are in use. Copies of ignored areas are old.
#[must_use]
pub fn newest<'a>(devices: impl IntoIterator<Item = &'a Device>) -> Option<&'a Vg> {
    devices
        .into_iter()
        .flat_map(|device| &device.copies)
        .filter(|copy| !copy.ignored)
        .filter_map(|copy| copy.vg.as_ref().ok()?.as_ref())
        .fold(None, |best: Option<&Vg>, vg| match best {
            Some(best) if best.seqno >= vg.seqno => Some(best),
            Some(_) | None => Some(vg),
        })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
