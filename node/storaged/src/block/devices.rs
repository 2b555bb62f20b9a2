//! LUNs that shall become part of a domain.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{Marker, PVS_MAX};
use linux::disk::{Access, BlockDevice};
use linux::probe::Places;
use linux::probe::content::Kind;

use super::reader;
use crate::job::{Context, Result};
use crate::lvm::{Lvm, Report, Scope};

/// Bytes that the devices of a new domain must have together.
pub(super) const NEW_BYTES_MIN: u64 = 10 << 30;

/// The path of a LUN named by its map or by a path.
///
/// # Errors
/// `BadRequest` for a name that is neither.
pub fn lun_path(lvm: &Lvm, lun: &str) -> Result<PathBuf> {
    if lun.is_empty() || lun.contains(',') {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!("LUN {lun:?}: neither the name of a multipath map nor a path"),
        ));
    }
    if lun.starts_with('/') {
        return Ok(lun.into());
    }
    Ok(lvm.layout().mapper(lun))
}

/// Proves that devices may be taken for the domain `group`.
///
/// Never allowed: what belongs to a domain that is there, sectors other than 512
/// bytes, more than [`PVS_MAX`] devices. With `force` everything else that is on
/// them may be overwritten.
///
/// # Errors
/// `BadRequest`, `NotFound`, `Unsupported`, `InUse`, `Foreign`: which device, and
/// what is on it.
pub(super) fn usable(
    lvm: &Lvm,
    context: &Context,
    group: &str,
    devices: &[PathBuf],
    present: usize,
    force: bool,
) -> Result<u64> {
    let all: BTreeSet<_> = devices.iter().collect();
    if devices.is_empty() || all.len() != devices.len() {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!("domain {group}: needs at least one LUN, and none twice"),
        ));
    }
    if devices.len() + present > PVS_MAX {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!(
                "domain {group}: {} LUNs, largest allowed is {PVS_MAX}",
                devices.len() + present
            ),
        ));
    }
    let mut bytes = 0;
    for device in devices {
        let open = BlockDevice::open(device, Access::Read).map_err(|error| {
            let kind = match error {
                linux::disk::OpenError::Missing { .. } => FailureKind::NotFound,
                linux::disk::OpenError::WrongKind { .. } => FailureKind::BadRequest,
                linux::disk::OpenError::SectorSize { .. } => FailureKind::Unsupported,
                _ => FailureKind::Io,
            };
            Failure::new(kind, error.to_string())
        })?;
        match open.sector_size() {
            Some(512) => {}
            Some(size) => {
                return Err(Failure::new(
                    FailureKind::Unsupported,
                    format!(
                        "LUN {}: sectors of {size} bytes, block domains need 512",
                        device.display()
                    ),
                ));
            }
            None => {
                return Err(Failure::new(
                    FailureKind::BadRequest,
                    format!("LUN {}: not a block device", device.display()),
                ));
            }
        }
        bytes += open.size();
    }
    members(lvm, context, devices, force)?;
    if !force {
        for device in devices {
            unsigned(device)?;
        }
    }
    Ok(bytes)
}

/// Refuses devices of other groups.
fn members(lvm: &Lvm, context: &Context, devices: &[PathBuf], force: bool) -> Result<()> {
    let report = lvm.report(
        context,
        Scope::Devices(devices),
        Report::PhysicalVolumes,
        &[],
    )?;
    for line in report.lines() {
        let mut fields = line.trim().split('|').skip(1);
        let (Some(device), Some(owner)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if owner.is_empty() {
            continue;
        }
        let domain = match reader::read(lvm, owner) {
            Ok(found) => found.marker() != Marker::Foreign,
            // Its metadata may be on a device that is not among those looked at.
            Err(_) => false,
        };
        if domain {
            return Err(Failure::new(
                FailureKind::Foreign,
                format!(
                    "LUN {device}: belongs to storage domain {owner}; \
                     remove that domain first if nobody needs it"
                ),
            ));
        }
        if !force {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("LUN {device}: belongs to volume group {owner}; force overwrites it"),
            ));
        }
    }
    Ok(())
}

/// Refuses devices with a partition table, a file system or the like.
fn unsigned(device: &Path) -> Result<()> {
    let real = std::fs::canonicalize(device)
        .map_err(|error| Failure::new(FailureKind::Io, format!("{}: {error}", device.display())))?;
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let found = linux::probe::examine(&Places::default(), &name);
    let what = match (&found.content, found.table, &found.fault) {
        // A physical volume of no group: `members` saw that.
        (Some(content), _, _) if content.kind == Kind::LvmPv => return Ok(()),
        (Some(content), _, _) => content.kind.name(),
        (None, Some(table), _) => table,
        (None, None, Some(fault)) => {
            return Err(Failure::new(
                FailureKind::Io,
                format!("LUN {}: {fault}", device.display()),
            ));
        }
        (None, None, None) => return Ok(()),
    };
    Err(Failure::new(
        FailureKind::InUse,
        format!(
            "LUN {}: carries {what}; force overwrites it",
            device.display()
        ),
    ))
}
