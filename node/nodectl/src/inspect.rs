//! A look at a disk: its partition table, what fills the partitions, lockspaces
//! and resource leases; or at a storage domain ([`domain`]). Damage is reported
//! and walked past.

mod directory;
mod domain;
mod group;

use std::path::{Path, PathBuf};

use anyhow::Result;
use control::disk::{AreaReport, ContentReport, DiskReport, PartitionReport};
use disk_format::{Content, Geometry, delta};
use leased::area;
use linux::probe::content::{self, START_LEN};
use linux::probe::table::{self, GptFault, GptHeader, Partition};

use crate::disk::Disk;
use crate::session::{Ending, Session};
use crate::{lockspace, render};

/// How far from the start lockspaces and resources are looked for, in bytes:
/// storage domains keep theirs at the very beginning.
const SEARCH_BYTES: u64 = 1 << 30;
/// They begin at multiples of this.
const SEARCH_STEP: u64 = 1 << 20;
/// Bytes read at each step: enough for the records of two hosts.
const PROBE_BYTES: usize = 8192;
/// Most things of one sort listed; how many more there are is told.
const LISTED_MAX: usize = 256;

/// Shows what is there: storage domains, or one disk.
pub(crate) fn run(paths: &[PathBuf], json: bool, session: &mut Session<'_>) -> Result<Ending> {
    let found = domain::find(paths)?;
    if let ([], [path]) = (found.as_slice(), paths) {
        return disk(path, json, session);
    }
    let reports: Vec<_> = found.iter().map(domain::report).collect();
    if json {
        session.print_json(&reports)?;
    } else {
        session.print(&render::domains(&reports))?;
    }
    let sound = found.iter().all(domain::Found::is_sound);
    Ok(if sound { Ending::Done } else { Ending::No })
}

/// Shows what is on a disk.
fn disk(path: &Path, json: bool, session: &mut Session<'_>) -> Result<Ending> {
    let disk = Disk::open(path)?;
    let mut report = DiskReport {
        path: path.display().to_string(),
        size: disk.size(),
        sector_size: disk.sector_size(),
        searched: disk.size().min(SEARCH_BYTES),
        ..DiskReport::default()
    };
    partitions(&disk, &mut report);
    file_systems(&disk, &mut report);
    areas(&disk, path, &mut report);
    report.contents.sort_by_key(|content| content.offset);
    if json {
        session.print_json(&report)?;
    } else {
        session.print(&render::disk(&report))?;
    }
    Ok(Ending::Done)
}

/// Reads, or notes why not.
fn read(disk: &Disk, offset: u64, length: usize, report: &mut DiskReport) -> Option<Vec<u8>> {
    match disk.read(offset, length) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            note(&mut report.faults, format!("{error:#}"));
            None
        }
    }
}

/// Adds to a list up to its limit, at which it says so once.
fn note(list: &mut Vec<String>, text: String) {
    match list.len() {
        0..LISTED_MAX => list.push(text),
        LISTED_MAX => list.push("more of them, not listed".to_owned()),
        _ => {}
    }
}

fn partitions(disk: &Disk, report: &mut DiskReport) {
    let Some(first) = read(disk, 0, 512, report) else {
        return;
    };
    let claimed = table::claims_gpt(&first);
    // An image file does not tell for which sector size it was made.
    let blocks = disk
        .sector_size()
        .map_or_else(|| vec![512, 4096], |size| vec![u64::from(size)]);
    let mut faults = Vec::new();
    for block in blocks {
        let last = (disk.size() / block).saturating_sub(1);
        let (primary, backup) = (gpt(disk, block, 1), gpt(disk, block, last));
        let entries = match (primary, backup) {
            (Ok(entries), Ok(_)) => entries,
            (Ok(entries), Err(fault)) => {
                faults = vec![format!("backup partition table: {fault}")];
                entries
            }
            (Err(fault), Ok(entries)) => {
                faults = vec![format!("partition table: {fault}; shown is its backup")];
                entries
            }
            (Err(fault), Err(_)) => {
                if claimed || !fault.is_absence() {
                    faults.push(format!(
                        "partition table in blocks of {block} bytes: {fault}"
                    ));
                }
                continue;
            }
        };
        report.table = Some("gpt".to_owned());
        report.partitions = entries
            .iter()
            .map(|entry| partition(entry, block))
            .collect();
        break;
    }
    if report.table.is_none()
        && content::identify(&first).is_none()
        && let Some(entries) = table::parse_mbr(&first)
    {
        report.table = Some("mbr".to_owned());
        report.partitions = entries.iter().map(|entry| partition(entry, 512)).collect();
    }
    report.faults.extend(faults);
}

/// Why there is no table at a place.
#[derive(Debug, thiserror::Error)]
enum TableFault {
    #[error(transparent)]
    Gpt(#[from] GptFault),
    #[error("{0:#}")]
    Read(anyhow::Error),
}

impl TableFault {
    /// Whether nothing at all speaks for a table.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Gpt(GptFault::NoSignature))
    }
}

fn gpt(disk: &Disk, block: u64, at: u64) -> Result<Vec<Partition>, TableFault> {
    let bytes = |offset, length| disk.read(offset, length).map_err(TableFault::Read);
    let header = GptHeader::parse(&bytes(at.saturating_mul(block), 512)?, at)?;
    let offset = header
        .entries_at
        .checked_mul(block)
        .ok_or(GptFault::Truncated)?;
    Ok(header.parse_entries(&bytes(offset, header.entries_len())?)?)
}

fn partition(entry: &Partition, block: u64) -> PartitionReport {
    let blocks = entry
        .last_block
        .saturating_sub(entry.first_block)
        .saturating_add(1);
    PartitionReport {
        number: entry.number,
        offset: entry.first_block.saturating_mul(block),
        size: blocks.saturating_mul(block),
        uuid: entry.uuid.clone(),
        name: entry.name.clone(),
    }
}

/// What fills the disk and each partition. Lockspaces are found elsewhere.
fn file_systems(disk: &Disk, report: &mut DiskReport) {
    let mut places = vec![(None, 0)];
    places.extend(
        report
            .partitions
            .iter()
            .map(|partition| (Some(partition.number), partition.offset)),
    );
    for (partition, offset) in places {
        if let Some(number) = partition
            && offset >= disk.size()
        {
            note(
                &mut report.faults,
                format!("partition {number}: begins at byte {offset}, beyond the end of the disk"),
            );
            continue;
        }
        let Some(start) = read(disk, offset, START_LEN, report) else {
            continue;
        };
        let Some(mut found) = content::identify(&start) else {
            continue;
        };
        if matches!(
            found.kind,
            content::Kind::SanlockLockspace | content::Kind::SanlockResource
        ) {
            continue;
        }
        if let Some(directory) = content::fat_root_directory(&start)
            && let Some(bytes) = read(
                disk,
                offset.saturating_add(directory.offset),
                directory.len,
                report,
            )
            && let Some(label) = content::fat_directory_label(&bytes)
        {
            found.label = Some(label);
        }
        report.contents.push(ContentReport {
            offset,
            partition,
            kind: found.kind.name().to_owned(),
            label: found.label,
            uuid: found.uuid,
        });
    }
}

/// Lockspace areas and resource leases, at every step of the searched part and
/// at the start of every partition.
fn areas(disk: &Disk, path: &Path, report: &mut DiskReport) {
    let mut places: Vec<u64> = (0..report.searched)
        .step_by(usize::try_from(SEARCH_STEP).unwrap_or(usize::MAX))
        .collect();
    places.extend(
        report
            .partitions
            .iter()
            .map(|partition| partition.offset)
            .filter(|&offset| offset < disk.size()),
    );
    places.sort_unstable();
    places.dedup();
    // The inside of an area is full of records that look like the start of one.
    let mut inside_until = 0;
    for offset in places {
        if offset < inside_until {
            continue;
        }
        let Some(probe) = read(disk, offset, PROBE_BYTES, report) else {
            continue;
        };
        match Content::of(&probe) {
            Content::DeltaLease { .. } => match area::inspect(path, offset) {
                Ok(found) => {
                    inside_until = offset + u64::from(found.geometry.align_size());
                    list_area(lockspace::report(&found), report);
                }
                Err(error) => {
                    inside_until = offset
                        + area_without_start(&probe)
                            .map_or(0, |(_, geometry)| geometry.align_size().into());
                    note(&mut report.faults, error.to_string());
                }
            },
            resource @ (Content::PaxosResource { .. }
            | Content::ClearedResource { .. }
            | Content::ResourceIndex { .. }) => {
                if report.contents.len() < LISTED_MAX {
                    report.contents.push(ContentReport {
                        offset,
                        kind: resource.to_string(),
                        ..ContentReport::default()
                    });
                } else {
                    note(&mut report.faults, format!("offset {offset}: {resource}"));
                }
            }
            Content::Zeros | Content::Known(_) | Content::Unknown => {
                if let Some((name, geometry)) = area_without_start(&probe) {
                    inside_until = offset + u64::from(geometry.align_size());
                    note(
                        &mut report.faults,
                        format!(
                            "offset {offset}: lockspace \"{name}\" without a valid first record; its initialisation was interrupted or the record of host 1 is destroyed"
                        ),
                    );
                }
            }
        }
    }
}

fn list_area(area: AreaReport, report: &mut DiskReport) {
    if report.areas.len() < LISTED_MAX {
        report.areas.push(area);
    } else {
        note(
            &mut report.faults,
            format!("offset {}: lockspace \"{}\"", area.offset, area.name),
        );
    }
}

/// The lockspace whose second host's record is intact, whatever the first's is.
fn area_without_start(probe: &[u8]) -> Option<(String, Geometry)> {
    [512, 4096].into_iter().find_map(|sector_size| {
        let leader = delta::leader(probe.get(sector_size..)?)?;
        delta::verify_kind(&leader)
            .and_then(|()| delta::verify_checksum(&leader))
            .ok()?;
        let geometry = Geometry::from_leader(leader.sector_size, leader.flags).ok()?;
        Some((leader.space_name.to_string(), geometry))
    })
}
