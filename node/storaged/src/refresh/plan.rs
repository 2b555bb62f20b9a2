//! Which table a volume's map should have, and whether to load it. Decisions only.

use std::io;
use std::path::Path;

use linux::dm::{Map, TargetLine};

use crate::block::{Group, Logical};

/// Sectors of device-mapper.
const SECTOR_BYTES: u64 = 512;
const LINEAR: &str = "linear";

/// Why a table is not ours to load; LVM may do it.
pub type Reason = String;

/// What to do with a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It has its table already.
    Nothing,
    /// It is to get this one.
    Load(Vec<TargetLine>),
}

/// The table of a volume as its group's metadata tell it: a line a segment, in
/// their order, as LVM loads it. `number` finds the number of a device by its
/// path.
///
/// # Errors
/// A segment that is not linear, a device that is not there: a table that is not
/// wholly known is not loaded.
pub fn wanted(
    group: &Group,
    volume: &Logical,
    number: impl Fn(&Path) -> io::Result<(u32, u32)>,
) -> Result<Vec<TargetLine>, Reason> {
    let extent_sectors = group.extent_bytes / SECTOR_BYTES;
    let mut start = 0u64;
    let mut lines = Vec::with_capacity(volume.segments.len());
    for segment in &volume.segments {
        let Some((name, extent)) = &segment.linear else {
            return Err(format!("a segment of {} is not linear", volume.name));
        };
        let physical = group
            .physical(name)
            .ok_or_else(|| format!("physical volume {name} is not known"))?;
        let Some(path) = &physical.device else {
            return Err(format!("physical volume {} is missing", physical.uuid));
        };
        if extent
            .checked_add(segment.count)
            .is_none_or(|end| end > physical.extents)
        {
            return Err(format!(
                "a segment of {} ends behind {}",
                volume.name, physical.uuid
            ));
        }
        let (major, minor) =
            number(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let far = || format!("a segment of {} is too far away", volume.name);
        let sectors = segment.count.checked_mul(extent_sectors).ok_or_else(far)?;
        let at = extent
            .checked_mul(extent_sectors)
            .and_then(|at| at.checked_add(physical.start_bytes / SECTOR_BYTES))
            .ok_or_else(far)?;
        lines.push(TargetLine {
            start_sector: start,
            sectors,
            kind: LINEAR.to_owned(),
            parameters: format!("{major}:{minor} {at}"),
        });
        start = start.checked_add(sectors).ok_or_else(far)?;
    }
    if lines.is_empty() {
        return Err(format!("{} has no segment", volume.name));
    }
    Ok(lines)
}

/// The uuid of a volume's map: `LVM-`, then both ids without their dashes.
#[must_use]
pub fn uuid(group: &Group, volume: &Logical) -> String {
    let bare = |id: &str| id.replace('-', "");
    format!("LVM-{}{}", bare(&group.uuid), bare(&volume.uuid))
}

/// Whether a map that has `loaded` is to get `wanted`.
///
/// Only a table that goes on from the one loaded is taken: every sector that the
/// guest can reach now stays where it is. Anything else (another uuid, moved
/// extents, a smaller volume, a map that somebody is working on) is LVM's.
///
/// # Errors
/// Why not.
pub fn plan(
    map: &Map,
    uuid: &str,
    loaded: &[TargetLine],
    wanted: &[TargetLine],
) -> Result<Plan, Reason> {
    if map.uuid != uuid {
        return Err(format!(
            "map {} has uuid {:?}, not {uuid}",
            map.name, map.uuid
        ));
    }
    if map.suspended {
        return Err(format!("map {} is suspended", map.name));
    }
    if map.has_inactive_table || !map.has_table {
        return Err(format!("somebody is loading a table for map {}", map.name));
    }
    if map.read_only {
        return Err(format!("map {} is read-only", map.name));
    }
    if loaded == wanted {
        return Ok(Plan::Nothing);
    }
    let mut pieces = pieces(wanted)?.into_iter();
    let mut piece = pieces.next();
    for old in self::pieces(loaded)? {
        let mut at = old;
        while at.sectors > 0 {
            let Some(new) = &mut piece else {
                return Err(format!("map {} is larger than its volume", map.name));
            };
            if new.device != at.device || new.sector != at.sector {
                return Err(format!(
                    "sectors of map {} from {} on have moved",
                    map.name, at.start
                ));
            }
            let both = new.sectors.min(at.sectors);
            at.advance(both);
            new.advance(both);
            if new.sectors == 0 {
                piece = pieces.next();
            }
        }
    }
    Ok(Plan::Load(wanted.to_vec()))
}

/// A run of sectors of a map, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    sectors: u64,
    device: (u32, u32),
    sector: u64,
}

impl Place {
    fn advance(&mut self, sectors: u64) {
        self.start += sectors;
        self.sector += sectors;
        self.sectors -= sectors;
    }
}

/// A table as runs that follow each other from sector 0.
fn pieces(lines: &[TargetLine]) -> Result<Vec<Place>, Reason> {
    let mut next = 0u64;
    let mut places = Vec::with_capacity(lines.len());
    for line in lines {
        let place = place(line).ok_or_else(|| format!("not a linear line: {line}"))?;
        if place.start != next || place.sectors == 0 {
            return Err(format!("a line starts at {}, expected {next}", place.start));
        }
        next = place
            .start
            .checked_add(place.sectors)
            .filter(|_| place.sector.checked_add(place.sectors).is_some())
            .ok_or_else(|| format!("a line that does not end: {line}"))?;
        places.push(place);
    }
    Ok(places)
}

fn place(line: &TargetLine) -> Option<Place> {
    if line.kind != LINEAR {
        return None;
    }
    let mut words = line.parameters.split_ascii_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let sector = words.next()?.parse().ok()?;
    words.next().is_none().then_some(())?;
    Some(Place {
        start: line.start_sector,
        sectors: line.sectors,
        device: (major.parse().ok()?, minor.parse().ok()?),
        sector,
    })
}
