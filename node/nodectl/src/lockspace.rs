//! Making and showing lockspace areas.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use control::disk::AreaReport;
use control::status::{HostReport, HostState};
use disk_format::{LockspaceName, RecordError};
use leased::area::{self, AreaError, HostRecord, InitOptions, Inspection, Progress};

use crate::args::LockspaceInit;
use crate::render;
use crate::session::{Ending, Session};
use crate::text::{count, duration, size};

/// Areas stand at multiples of it.
const OFFSET_STEP: u64 = 1 << 20;

/// Writes an empty lockspace area, after `leased` has made sure that nothing of
/// value is lost.
pub(crate) fn init(init: &LockspaceInit, session: &mut Session<'_>) -> Result<Ending> {
    let options = InitOptions {
        path: init.path.clone(),
        offset: init.offset,
        name: LockspaceName::new(&init.name)?,
        sector_size: init.sector_size,
        align_size: init.align_size,
        io_timeout_s: init.io_timeout,
        force: init.force.as_deref().map(LockspaceName::new).transpose()?,
        fire_timeout_s: init.fire_timeout,
    };
    let mut told_s = None;
    let made = area::init(&options, &mut |progress| {
        if let Progress::Watching { holders, left_s } = progress {
            // Once at the start, then every ten seconds.
            if told_s.is_none_or(|told| left_s + 10 <= told) {
                told_s = Some(*left_s);
                let left = duration(left_s * 1000);
                session.say(&format!(
                    "watching {} for {left} to be sure that it is dead\n",
                    count(holders.len(), "host")
                ));
            }
        }
    });
    match made {
        Ok(geometry) => {
            session.print(&format!(
                "lockspace {} on {} at offset {}: {} hosts, sectors of {} bytes, area of {}, io timeout {} s\n",
                init.name,
                init.path.display(),
                init.offset,
                geometry.max_hosts(),
                geometry.sector_size(),
                size(geometry.align_size().into()),
                init.io_timeout,
            ))?;
            Ok(Ending::Done)
        }
        Err(error @ AreaError::Refused { .. }) => {
            Ok(session.refuse(&format!("{error}; nothing was written")))
        }
        // Its text holds its source already.
        Err(error) => Err(anyhow!("{error}")),
    }
}

/// Shows the area at `offset`.
pub(crate) fn show(
    path: &Path,
    offset: u64,
    json: bool,
    session: &mut Session<'_>,
) -> Result<Ending> {
    // Every size of area stands at multiples of the smallest.
    if !offset.is_multiple_of(OFFSET_STEP) {
        bail!("offset {offset}: must be a multiple of {OFFSET_STEP} (1 MiB)");
    }
    let found = match area::inspect(path, offset) {
        Ok(found) => found,
        Err(error @ AreaError::NoLockspace { .. }) => return Ok(session.refuse(&error.to_string())),
        Err(error) => return Err(anyhow!("{error}")),
    };
    let report = report(&found);
    if json {
        session.print_json(&report)?;
    } else {
        session.print(&render::area(&report))?;
    }
    Ok(Ending::Done)
}

/// An area in the status snapshot's words.
pub(crate) fn report(found: &Inspection) -> AreaReport {
    AreaReport {
        name: found.lockspace.clone(),
        path: found.path.display().to_string(),
        offset: found.offset,
        sector_size: found.geometry.sector_size(),
        align_size: found.geometry.align_size(),
        max_hosts: found.geometry.max_hosts().into(),
        hosts: found
            .hosts
            .iter()
            .filter(|record| is_delta_lease(record))
            .map(host)
            .collect(),
        damage: found.hosts.iter().filter_map(damage).collect(),
    }
}

/// Whether the record's fields mean anything, damaged or not.
fn is_delta_lease(record: &HostRecord) -> bool {
    !matches!(
        record.damage,
        Some(RecordError::Magic { .. } | RecordError::Version { .. })
    ) && (record.owner_id != 0 || record.generation != 0)
}

fn host(record: &HostRecord) -> HostReport {
    HostReport {
        host_id: record.host_id.get().into(),
        name: record.name.clone(),
        generation: record.generation,
        timestamp: record.timestamp,
        state: if record.timestamp == 0 {
            HostState::Free
        } else {
            HostState::Unknown
        },
        last_change_age_ms: None,
        io_timeout_s: record.io_timeout_s.into(),
    }
}

fn damage(record: &HostRecord) -> Option<String> {
    let id = record.host_id.get();
    if let Some(error) = &record.damage {
        return Some(format!("record of host {id}: {error}"));
    }
    let owner = record.owner_id;
    (owner != u64::from(id)).then(|| format!("record of host {id}: owner in it is host {owner}"))
}
