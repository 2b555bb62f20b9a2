//! LUNs that shall become part of a domain.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{Marker, PVS_MAX};
use disk_format::vdsm::uuid::DomainId;
use linux::disk::{Access, BlockDevice};
use linux::probe::Places;
use linux::probe::content::Kind;

use super::reader;
use crate::job::{Context, Result};
use crate::lvm::{Candidates, Lvm, Report, Scope};

/// Bytes that the devices of a new domain must have together.
pub(super) const NEW_BYTES_MIN: u64 = 10 << 30;

/// Bytes that each of them must have: 129 MiB before the first extent, 128 MiB for
/// the metadata area at the end, and one extent.
const LUN_BYTES_MIN: u64 = 385 << 20;

/// The path of a LUN named by its map or by a path: the one name that LVM and the
/// metadata of domains know it by, whichever of its names was given.
///
/// # Errors
/// `BadRequest` for a name that is neither.
pub fn lun_path(lvm: &Lvm, lun: &str) -> Result<PathBuf> {
    let is_path = lun.starts_with('/');
    if lun.is_empty() || lun.contains(',') || (!is_path && lun.contains('/')) {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!("LUN {lun:?}: neither the name of a multipath map nor a path"),
        ));
    }
    let given = if is_path {
        lun.into()
    } else {
        lvm.layout().mapper(lun)
    };
    let Some(wanted) = number(&given) else {
        return Ok(given);
    };
    let known = lvm.env().candidates.list(lvm.layout())?;
    let same = known.into_iter().find(|path| number(path) == Some(wanted));
    Ok(same.unwrap_or(given))
}

/// The number of a block device, whatever it is called; `None` for anything else.
fn number(path: &Path) -> Option<u64> {
    let found = std::fs::metadata(path).ok()?;
    found.file_type().is_block_device().then(|| found.rdev())
}

/// Proves that devices may be taken for the domain `group`.
///
/// Never allowed: what belongs to a domain that is there, what is no multipath map
/// (on a node), sectors other than 512 bytes, fewer bytes than [`LUN_BYTES_MIN`],
/// more than [`PVS_MAX`] devices. With `force` everything else that is on them may
/// be overwritten.
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
    // One LUN has many names.
    let numbers: BTreeSet<u64> = devices.iter().filter_map(|path| number(path)).collect();
    let all: BTreeSet<_> = devices.iter().collect();
    let nameless = devices.iter().filter(|path| number(path).is_none()).count();
    if devices.is_empty() || all.len() != devices.len() || numbers.len() + nameless != all.len() {
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
        if open.size() < LUN_BYTES_MIN {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!(
                    "LUN {}: has {} MiB, smallest allowed is {} MiB",
                    device.display(),
                    open.size() >> 20,
                    LUN_BYTES_MIN >> 20
                ),
            ));
        }
        bytes += open.size();
    }
    maps(lvm, devices)?;
    of_domains(lvm, devices)?;
    members(lvm, context, devices, force)?;
    if !force {
        for device in devices {
            unsigned(device)?;
        }
    }
    Ok(bytes)
}

/// Refuses what is no multipath map, where domains have to be on maps: a path of a
/// LUN, which every host names in its own way, or a disk of this machine.
fn maps(lvm: &Lvm, devices: &[PathBuf]) -> Result<()> {
    let candidates = &lvm.env().candidates;
    if !matches!(candidates, Candidates::Multipath { .. }) {
        return Ok(());
    }
    let known = candidates.list(lvm.layout())?;
    match devices.iter().find(|device| !known.contains(device)) {
        None => Ok(()),
        Some(device) => Err(Failure::new(
            FailureKind::BadRequest,
            format!(
                "LUN {}: not a multipath map; name it as `nodectl storage luns` does",
                device.display()
            ),
        )),
    }
}

/// Refuses devices of domains that this host sees, of whichever of their LUNs: only
/// the first one says itself whose it is.
fn of_domains(lvm: &Lvm, devices: &[PathBuf]) -> Result<()> {
    for (owner, group) in reader::all(lvm)? {
        let Ok(group) = group else {
            continue;
        };
        if group.marker() == Marker::Foreign {
            continue;
        }
        let of_group: Vec<u64> = group
            .paths()
            .iter()
            .filter_map(|path| number(path))
            .collect();
        let taken = devices
            .iter()
            .find(|device| number(device).is_some_and(|number| of_group.contains(&number)));
        if let Some(device) = taken {
            return Err(Failure::new(
                FailureKind::Foreign,
                format!(
                    "LUN {}: belongs to storage domain {owner}; \
                     remove that domain first if nobody needs it",
                    device.display()
                ),
            ));
        }
    }
    Ok(())
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
            // Two groups of one name, damaged metadata: by its name alone.
            Err(_) => owner.parse::<DomainId>().is_ok(),
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
