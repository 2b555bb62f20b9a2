//! Making and removing the volume group of a domain.

use std::path::PathBuf;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{Marker, PvMapping, TAG_UNREADY};

use super::devices::{self, NEW_BYTES_MIN};
use super::group::Group;
use super::reader;
use crate::authority::{Authority, Unattached};
use crate::job::{Context, Result};
use crate::lvm::{Change, Lvm};

/// Makes the group on devices proved usable, as a domain that is not ready.
///
/// # Errors
/// What the checks or LVM say. Whatever was made is left, marked not ready.
pub(super) fn create(
    lvm: &Lvm,
    context: &Context,
    authority: &Unattached,
    devices: &[PathBuf],
    force: bool,
) -> Result<()> {
    let name = &authority.domain;
    match reader::read(lvm, name) {
        Ok(found) => {
            let state = match found.marker() {
                Marker::Unready => "half-made; remove it first",
                Marker::Ready | Marker::Foreign => "there already",
            };
            return Err(Failure::new(
                FailureKind::Exists,
                format!("domain {name}: {state}"),
            ));
        }
        Err(failure) if failure.kind == FailureKind::NotFound => {}
        Err(failure) => return Err(failure),
    }
    let bytes = devices::usable(lvm, context, name, devices, 0, force)?;
    if bytes < NEW_BYTES_MIN {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!(
                "domain {name}: its LUNs have {} GiB, smallest allowed is {} GiB",
                bytes >> 30,
                NEW_BYTES_MIN >> 30
            ),
        ));
    }
    let change = |change: Change<'_>| lvm.change(context, authority, name, &change).map(drop);
    change(Change::CreatePhysical { devices, force })?;
    context.go_on()?;
    if let Some(first) = devices.first() {
        change(Change::UseMetadataAreas { device: first })?;
    }
    context.go_on()?;
    let made = change(Change::CreateGroup {
        devices,
        tags: &[TAG_UNREADY.to_owned()],
    });
    match (made, reader::read(lvm, name)) {
        (_, Ok(group)) if group.marker() == Marker::Unready => Ok(()),
        (Err(failure), _) | (Ok(()), Err(failure)) => Err(failure),
        (Ok(()), Ok(_)) => Err(Failure::new(
            FailureKind::Damaged,
            format!("domain {name}: its volume group has no marker after it was made"),
        )),
    }
}

/// Removes a domain's group, complete or half-made, and the labels of its devices.
/// Can be repeated.
///
/// # Errors
/// `NotFound`; `Foreign` for a group that is no domain; authority; LVM.
pub(super) fn remove(
    lvm: &Lvm,
    context: &Context,
    authority: &dyn Authority,
    group: &Group,
) -> Result<()> {
    let name = group.name.as_str();
    if group.marker() == Marker::Foreign {
        return Err(Failure::new(
            FailureKind::Foreign,
            format!("volume group {name}: not a storage domain, left alone"),
        ));
    }
    if group.is_partial() {
        return Err(Failure::new(
            FailureKind::Io,
            format!("domain {name}: one of its LUNs is missing; connect it before removing"),
        ));
    }
    if let Ok(id) = name.parse() {
        super::take_down(lvm, context, id)?;
    }
    lvm.learn(name, group.paths());
    lvm.change(context, authority, name, &Change::RemoveGroup)?;
    for device in group.paths() {
        let removed = lvm.change(
            context,
            authority,
            name,
            &Change::RemovePhysical { device: &device },
        );
        if let Err(failure) = removed {
            // The LUN is free all the same: a label without group.
            tracing::warn!(device = %device.display(), %failure, "label not removed");
        }
    }
    Ok(())
}

/// The mapping that a domain's metadata has of its devices, the metadata device first.
///
/// # Errors
/// `Damaged` without metadata device, `Io` when one is missing.
pub(super) fn mapping(group: &Group) -> Result<Vec<PvMapping>> {
    let first = group.metadata_device().ok_or_else(|| {
        Failure::new(
            FailureKind::Damaged,
            format!("domain {}: no device has its metadata", group.name),
        )
    })?;
    let others = group
        .devices
        .iter()
        .filter(|device| device.uuid != first.uuid);
    let mut offset = 0;
    std::iter::once(first)
        .chain(others)
        .map(|physical| {
            let path = physical.device.as_ref().ok_or_else(|| {
                Failure::new(
                    FailureKind::Io,
                    format!(
                        "domain {}: device of physical volume {} is missing",
                        group.name, physical.uuid
                    ),
                )
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mapping = PvMapping {
                device: name.into_owned(),
                uuid: physical.uuid.clone(),
                start: 0,
                extents: physical.extents,
                offset,
            };
            offset += physical.extents;
            Ok(mapping)
        })
        .collect()
}
