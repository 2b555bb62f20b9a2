//! Maps on this host what a volume has become, without starting `lvm`.
//!
//! `lvchange --refresh` reads all metadata of a group, computes a table, loads it
//! and resumes the map: of a second or so, all but a millisecond is not the table.
//! Here the metadata is read with direct I/O, the table computed, and compared
//! with the one in use. Only if both are linear, and the new one goes on from the
//! old one, it is loaded; in all other cases `lvm` does it.
//!
//! ```text
//!  metadata ─▶ wanted ─┐
//!                      ├─ plan ─▶ nothing │ load, compare what was loaded, resume
//!  map ──────▶ loaded ─┘        └▶ not ours: lvchange --refresh
//! ```
//!
//! That the tables are those of LVM is proved by loading both ways on a node and
//! comparing (`storaged refresh-table --check`).

mod command;
mod plan;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use linux::dm::{CONTROL, Control, Name, TargetLine, Which};

pub use command::command;
pub use plan::{Plan, Reason, plan, uuid, wanted};

use crate::block::{Group, Logical};
use crate::job::{Context, Result};
use crate::lvm::{Lvm, Mapping};

/// The tables of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// In use by the kernel.
    pub loaded: Vec<TargetLine>,
    /// By the metadata.
    pub wanted: Vec<TargetLine>,
    /// What a refresh would do, or why it would leave it to `lvm`.
    pub plan: std::result::Result<Plan, Reason>,
}

/// Maps the present size of active volumes of a group; by `lvm` for those whose
/// tables are not simple. `group` is to be read after the change that made the
/// refresh necessary.
///
/// # Errors
/// What LVM says.
pub fn refresh(lvm: &Lvm, context: &Context, group: &Group, volumes: &[&str]) -> Result<()> {
    let mut left = Vec::new();
    match Control::open(Path::new(CONTROL)) {
        Ok(control) => {
            for &name in volumes {
                if let Err(reason) = direct(&control, group, name) {
                    tracing::info!(group = group.name, volume = name, reason, "left to lvm");
                    left.push(name);
                }
            }
        }
        Err(error) => {
            let reason = linux::error::chain(&error);
            tracing::info!(group = group.name, reason, "left to lvm");
            left.extend(volumes);
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    lvm.map(context, Mapping::Refresh, &group.name, &left)
}

/// Loads a volume's table if it goes on from the one in use.
///
/// # Errors
/// Why it was not done; the map is as it was, or has the table wanted.
pub fn direct(control: &Control, group: &Group, volume: &str) -> std::result::Result<Plan, Reason> {
    let tables = explain(control, group, volume)?;
    let plan = tables.plan?;
    let Plan::Load(lines) = &plan else {
        return Ok(plan);
    };
    let name = name_of(group, volume)?;
    let said = |error: linux::error::Error| linux::error::chain(&error);
    control.load(&name, lines, false).map_err(said)?;
    // What the kernel understood is what counts. Somebody else may also have
    // loaded a table in between: then it is theirs to go on.
    if control.table(&name, Which::Inactive).map_err(said)? != *lines {
        control.clear(&name).map_err(said)?;
        return Err("the kernel has another table than was loaded".to_owned());
    }
    control.resume(&name).map_err(said)?;
    if control.table(&name, Which::Active).map_err(said)? != *lines {
        return Err("the map has another table than was loaded".to_owned());
    }
    Ok(plan)
}

/// The tables of a volume, and what a refresh would do. Changes nothing.
///
/// # Errors
/// The volume is unknown, not active, or its table cannot be told.
pub fn explain(
    control: &Control,
    group: &Group,
    volume: &str,
) -> std::result::Result<Tables, Reason> {
    let said = |error: linux::error::Error| linux::error::chain(&error);
    let logical = logical(group, volume)?;
    let name = name_of(group, volume)?;
    let wanted = wanted(group, logical, device_number)?;
    let map = control.status(&name).map_err(said)?;
    let loaded = control.table(&name, Which::Active).map_err(said)?;
    let plan = plan(&map, &uuid(group, logical), &loaded, &wanted);
    Ok(Tables {
        loaded,
        wanted,
        plan,
    })
}

fn logical<'a>(group: &'a Group, volume: &str) -> std::result::Result<&'a Logical, Reason> {
    group
        .volume(volume)
        .ok_or_else(|| format!("domain {} has no volume {volume}", group.name))
}

fn name_of(group: &Group, volume: &str) -> std::result::Result<Name, Reason> {
    Name::of_volume(&group.name, volume)
        .ok_or_else(|| format!("{}/{volume}: too long for a map's name", group.name))
}

/// Major and minor of the device a path leads to; does not open it.
fn device_number(path: &Path) -> std::io::Result<(u32, u32)> {
    let number = path.metadata()?.rdev();
    if number == 0 {
        return Err(std::io::Error::other("not a device"));
    }
    Ok((rustix::fs::major(number), rustix::fs::minor(number)))
}
