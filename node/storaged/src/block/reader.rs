//! Reading groups from their devices, without starting a program.
//!
//! Of all whole copies of a group's text in areas that are in use, the one with
//! the highest sequence number counts, as LVM has it. A commit that is under way
//! is not seen: the header names the text of the last commit, and that text is
//! never overwritten by the next one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::lvm::label::{
    Area, HEADER_BYTES, Label, MdaHeader, Place, SCAN_BYTES, lvm_checksum,
};
use disk_format::vdsm::lvm::text::Vg;
use linux::disk::{Access, AlignedBuffer, BlockDevice};

use super::group::{Group, Logical, Physical, Segment};
use crate::job::Result;
use crate::lvm::Lvm;

/// How often a text that changed while it was read is read again.
const RACES_MAX: u32 = 2;

/// A group, and which commit of it this is.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) group: Arc<Group>,
    places: Vec<(PathBuf, Area, Place)>,
}

/// Reads a group by name.
///
/// # Errors
/// `NotFound`; `Damaged` when there are two of the name, or its text cannot be
/// read.
pub(super) fn read(lvm: &Lvm, name: &str) -> Result<Arc<Group>> {
    read_again(lvm, name, None).map(|seen| seen.group)
}

/// As [`read`]; when nothing was committed since `before`, that is the answer.
pub(super) fn read_again(lvm: &Lvm, name: &str, before: Option<&Seen>) -> Result<Seen> {
    let mut read = read_once(lvm, name, before);
    // Two commits between the header and the text may overwrite the text.
    for _ in 0..RACES_MAX {
        if !matches!(&read, Err(failure) if failure.kind == FailureKind::Damaged) {
            break;
        }
        read = read_once(lvm, name, None);
    }
    read
}

fn read_once(lvm: &Lvm, name: &str, before: Option<&Seen>) -> Result<Seen> {
    if let Some(known) = lvm.devices_of(name) {
        let (labels, _) = labels(&known);
        if labels.len() == known.len()
            && let Some(before) = before
            // What was lacking may have come since, without a commit.
            && before.group.is_all_here()
            && places(&labels, None) == before.places
        {
            return Ok(before.clone());
        }
        let mut found = groups(&labels, Some(name));
        if let Some(Ok(seen)) = found.remove(name)
            && !seen.group.is_partial()
        {
            return Ok(seen);
        }
        lvm.learn(name, Vec::new());
    }
    let candidates = lvm.env().candidates.list(lvm.layout())?;
    let (labels, faults) = labels(&candidates);
    let seen = groups(&labels, Some(name)).remove(name).ok_or_else(|| {
        let unread = if faults.is_empty() {
            String::new()
        } else {
            format!(
                "; {} could not be read: {}",
                faults.len(),
                faults.join("; ")
            )
        };
        Failure::new(
            FailureKind::NotFound,
            format!(
                "domain {name}: none of {} LUNs has a volume group of this name{unread}",
                candidates.len()
            ),
        )
    })??;
    lvm.learn(name, seen.group.paths());
    Ok(seen)
}

/// All groups on the devices that may carry domains, by name.
///
/// # Errors
/// The devices cannot be listed.
pub(super) fn all(lvm: &Lvm) -> Result<BTreeMap<String, Result<Arc<Group>>>> {
    let candidates = lvm.env().candidates.list(lvm.layout())?;
    let (labels, faults) = labels(&candidates);
    for fault in faults {
        tracing::warn!(fault, "LUN not read");
    }
    Ok(groups(&labels, None)
        .into_iter()
        .map(|(name, seen)| (name, seen.map(|seen| seen.group)))
        .collect())
}

/// A physical volume as its device shows it.
struct Labelled {
    path: PathBuf,
    device: BlockDevice,
    label: Label,
    /// Headers of the areas that are in use.
    headers: Vec<MdaHeader>,
}

/// The devices that are physical volumes, and why others could not be read.
fn labels(devices: &[PathBuf]) -> (Vec<Labelled>, Vec<String>) {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for path in devices {
        match labelled(path) {
            Ok(Some(labelled)) => found.push(labelled),
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    (found, faults)
}

fn labelled(path: &Path) -> std::result::Result<Option<Labelled>, String> {
    let device = BlockDevice::open(path, Access::Read).map_err(|error| error.to_string())?;
    let start = read_bytes(&device, 0, SCAN_BYTES)?;
    let Ok(label) = Label::find(&start) else {
        return Ok(None);
    };
    let mut headers = Vec::new();
    for &area in &label.metadata {
        // Another host has let the LUN grow, which this one does not see yet: the
        // second area went with the end, and the first says the same.
        let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
        if area.offset.saturating_add(header_bytes) > device.size() {
            continue;
        }
        let bytes = read_bytes(&device, area.offset, HEADER_BYTES)?;
        // One damaged area of two is LVM's to repair; the other one counts.
        if let Ok(header) = MdaHeader::decode(&bytes, area)
            && !header.ignored
        {
            headers.push(header);
        }
    }
    Ok(Some(Labelled {
        path: path.to_path_buf(),
        device,
        label,
        headers,
    }))
}

/// Where the current texts of these devices are, of one group when its are known.
fn places(labels: &[Labelled], of: Option<&[PathBuf]>) -> Vec<(PathBuf, Area, Place)> {
    labels
        .iter()
        .filter(|labelled| of.is_none_or(|paths| paths.contains(&labelled.path)))
        .flat_map(|labelled| {
            labelled.headers.iter().filter_map(|header| {
                let place = header.committed?;
                Some((labelled.path.clone(), header.area, place))
            })
        })
        .collect()
}

/// The groups on these devices; with `only`, that one.
fn groups(labels: &[Labelled], only: Option<&str>) -> BTreeMap<String, Result<Seen>> {
    let mut texts: Vec<(Vg, Arc<str>, u64)> = Vec::new();
    let mut read: Vec<(u32, u64)> = Vec::new();
    let mut broken = Vec::new();
    for labelled in labels {
        for header in &labelled.headers {
            let Some(place) = header.committed else {
                continue;
            };
            // Both areas of a device have the same text: read and parsed once.
            if read.contains(&(place.checksum, place.bytes)) {
                continue;
            }
            match text(labelled, header, place, only) {
                Ok(Some((vg, text))) => {
                    read.push((place.checksum, place.bytes));
                    texts.push((vg, text, header.area.bytes));
                }
                Ok(None) => read.push((place.checksum, place.bytes)),
                Err(fault) => broken.push(fault),
            }
        }
    }
    let mut found: BTreeMap<String, Result<Seen>> = BTreeMap::new();
    for (vg, text, area_bytes) in texts {
        let group = assemble(&vg, text, area_bytes, labels);
        let better = match found.get(&group.name) {
            None | Some(Err(_)) => !found.contains_key(&group.name),
            Some(Ok(other)) if other.group.uuid != group.uuid => {
                let failure = Failure::new(
                    FailureKind::Damaged,
                    format!(
                        "domain {}: two volume groups have this name, {} and {}: a copied LUN? \
                         disconnect one",
                        group.name, other.group.uuid, group.uuid
                    ),
                );
                found.insert(group.name.clone(), Err(failure));
                false
            }
            Some(Ok(other)) => other.group.seqno < group.seqno,
        };
        if better {
            let places = places(labels, Some(&group.paths()));
            let name = group.name.clone();
            let seen = Seen {
                group: Arc::new(group),
                places,
            };
            found.insert(name, Ok(seen));
        }
    }
    if let Some(name) = only
        && !found.contains_key(name)
        && let Some(fault) = broken.into_iter().next()
    {
        found.insert(
            name.to_owned(),
            Err(Failure::new(
                FailureKind::Damaged,
                format!("domain {name}: not found, and LVM metadata is damaged: {fault}"),
            )),
        );
    }
    found
}

/// The text at a place, checked; `None` when it is of another group than asked for.
fn text(
    labelled: &Labelled,
    header: &MdaHeader,
    place: Place,
    only: Option<&str>,
) -> std::result::Result<Option<(Vg, Arc<str>)>, String> {
    let at = |what: &dyn std::fmt::Display| format!("{}: {what}", labelled.path.display());
    let mut bytes = Vec::new();
    for piece in header.pieces(place) {
        let length = usize::try_from(piece.bytes).unwrap_or(usize::MAX);
        bytes.extend(read_bytes(&labelled.device, piece.offset, length)?);
    }
    if lvm_checksum(&[&bytes]) != place.checksum {
        return Err(at(&"checksum of the metadata text is wrong"));
    }
    // The name is the first word: no need to parse what nobody asked for.
    if let Some(name) = only
        && !bytes.starts_with(format!("{name} {{").as_bytes())
    {
        return Ok(None);
    }
    let vg = Vg::parse(&bytes).map_err(|error| at(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| at(&error))?;
    Ok(Some((vg, text.into())))
}

/// Puts a group together from its text and the labels that are there.
fn assemble(vg: &Vg, text: Arc<str>, area_bytes: u64, labels: &[Labelled]) -> Group {
    let mut devices: Vec<Physical> = vg
        .pvs
        .iter()
        .map(|(name, pv)| {
            let labelled = labels
                .iter()
                .find(|labelled| labelled.label.uuid == pv.uuid);
            let says = |word: &str| pv.status.iter().any(|status| status == word);
            Physical {
                name: name.clone(),
                uuid: pv.uuid.clone(),
                device: labelled.map(|labelled| labelled.path.clone()),
                device_bytes: labelled.map_or(0, |labelled| labelled.device.size()),
                start_bytes: pv.pe_start_sectors.saturating_mul(512),
                extents: pv.pe_count,
                allocatable: says("ALLOCATABLE") && !says("MISSING") && labelled.is_some(),
                used_areas: labelled.map_or(0, |labelled| labelled.headers.len()),
            }
        })
        .collect();
    devices.sort_by_key(|device| {
        let number = device
            .name
            .trim_start_matches(|c: char| !c.is_ascii_digit());
        number.parse().unwrap_or(u64::MAX)
    });
    let volumes = vg
        .lvs
        .iter()
        .map(|(name, lv)| Logical {
            name: name.clone(),
            uuid: lv.uuid.clone(),
            tags: lv.tags.iter().cloned().collect(),
            segments: lv
                .segments
                .iter()
                .map(|segment| Segment {
                    count: segment.count,
                    linear: segment
                        .linear()
                        .map(|stripe| (stripe.pv.clone(), stripe.extent)),
                })
                .collect(),
        })
        .collect();
    Group {
        name: vg.name.clone(),
        uuid: vg.uuid.clone(),
        seqno: vg.seqno,
        tags: vg.tags.iter().cloned().collect(),
        extent_bytes: vg.extent_bytes(),
        devices,
        volumes,
        room_bytes: area_bytes.saturating_sub(512) / 2,
        text,
    }
}

/// Reads any bytes of a device by whole sectors.
fn read_bytes(
    device: &BlockDevice,
    offset: u64,
    length: usize,
) -> std::result::Result<Vec<u8>, String> {
    const SECTOR: u64 = 4096;
    let start = offset / SECTOR * SECTOR;
    let skip = usize::try_from(offset - start).unwrap_or(0);
    let whole = (skip + length).next_multiple_of(4096);
    // The end of a device need not be a multiple of 4096, of 512 it is.
    let room = device.size().saturating_sub(start);
    let whole = whole.min(usize::try_from(room).unwrap_or(usize::MAX));
    if whole < skip + length {
        return Err(format!(
            "{}: {length} bytes at {offset} lie behind its end",
            device.path().display()
        ));
    }
    let mut buffer = AlignedBuffer::new(whole);
    device
        .read_at(&mut buffer, start)
        .map_err(|error| format!("{}: {error}", device.path().display()))?;
    Ok(buffer.get(skip..skip + length).unwrap_or_default().to_vec())
}
