//! What a request must be before anybody works on it.

use control::storage::request::{GuestChange, NewDomain, VolumeRequest};
use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};

use crate::job::Result;

/// Longest text people may give.
const TEXT_BYTES_MAX: usize = 1024;
/// Most LUNs of one request.
const LUNS_MAX: usize = 64;

pub(super) fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadRequest, message)
}

pub(super) fn not_uuid(what: &str, text: &str) -> Failure {
    let shown: String = text.chars().take(60).collect();
    bad(format!(
        "{what} {shown:?}: must be a UUID in lower case, 8-4-4-4-12 digits"
    ))
}

pub(super) fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(bad(format!(
            "{what}: {} bytes, longest allowed is {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(bad(format!("{what}: has control characters")));
    }
    Ok(())
}

/// The name of a domain, connection or other thing, which an answer repeats.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(bad(format!("{what}: no name is given")));
    }
    check_text(what, name)
}

/// Sectors and leases of a new domain, as far as they do not depend on where it is.
pub(super) fn check_shape(new: &NewDomain) -> Result<()> {
    match (new.block_size, new.alignment_mib) {
        (Some(size), _) if !matches!(size, 512 | 4096) => {
            Err(bad(format!("block size {size}: must be 512 or 4096 bytes")))
        }
        (_, Some(mib)) if !matches!(mib, 1 | 2 | 4 | 8) => {
            Err(bad(format!("alignment {mib}: must be 1, 2, 4 or 8 MiB")))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_lun(lun: &str) -> Result<()> {
    check_text("LUN", lun)?;
    if lun.is_empty() || lun.starts_with('-') {
        return Err(bad(format!("LUN {lun:?}: a map name or a path is needed")));
    }
    Ok(())
}

pub(super) fn check_luns(luns: &[String]) -> Result<()> {
    if luns.is_empty() || luns.len() > LUNS_MAX {
        return Err(bad(format!("{} LUNs: must be 1 to {LUNS_MAX}", luns.len())));
    }
    luns.iter().try_for_each(|lun| check_lun(lun))
}

/// Refuses what cannot be right, and makes ids that were left out, so that a
/// task that is repeated after a crash means the same volume.
pub(super) fn check_volume_request(request: &mut VolumeRequest) -> Result<()> {
    let image = |id: &str| {
        id.parse::<ImageId>()
            .map(drop)
            .map_err(|_| not_uuid("image", id))
    };
    let volume = |id: &str| {
        id.parse::<VolumeId>()
            .map(drop)
            .map_err(|_| not_uuid("volume", id))
    };
    let make = |id: &mut Option<String>| -> Result<()> {
        if id.is_none() {
            *id = Some(crate::random::uuid()?);
        }
        Ok(())
    };
    match request {
        VolumeRequest::Create(new) => {
            make(&mut new.image)?;
            make(&mut new.volume)?;
            check_text("description", &new.description)?;
            for id in [&new.image, &new.parent_image].into_iter().flatten() {
                image(id)?;
            }
            for id in [&new.volume, &new.parent].into_iter().flatten() {
                volume(id)?;
            }
            if new.parent.is_none() && new.capacity_bytes == 0 {
                return Err(bad(
                    "capacity: 0 bytes; a volume without a parent needs one",
                ));
            }
        }
        VolumeRequest::List { image: of, .. } => {
            if let Some(of) = of {
                image(of)?;
            }
        }
        VolumeRequest::DeleteImage { image: of, .. }
        | VolumeRequest::Teardown { image: of, .. } => {
            image(of)?;
        }
        VolumeRequest::Prepare {
            image: of, leaf, ..
        } => {
            image(of)?;
            if let Some(leaf) = leaf {
                volume(leaf)?;
            }
        }
        VolumeRequest::Snapshot {
            image: of,
            volume: new,
            ..
        } => {
            image(of)?;
            make(new)?;
            if let Some(new) = new {
                volume(new)?;
            }
        }
        VolumeRequest::Copy { source, target } | VolumeRequest::Template { source, target } => {
            image(&source.image)?;
            volume(&source.volume)?;
            make(&mut target.image)?;
            make(&mut target.volume)?;
            for id in target.image.iter() {
                image(id)?;
            }
            for id in target.volume.iter() {
                volume(id)?;
            }
            if target.mib_per_s == Some(0) {
                return Err(bad("rate: 0 MiB/s; smallest is 1"));
            }
        }
        VolumeRequest::Set {
            volume: name,
            description,
            ..
        } => {
            image(&name.image)?;
            volume(&name.volume)?;
            if let Some(description) = description {
                check_text("description", description)?;
            }
        }
        VolumeRequest::Extend {
            volume: name,
            capacity_bytes,
            size_bytes,
        } => {
            image(&name.image)?;
            volume(&name.volume)?;
            if capacity_bytes.is_none() && size_bytes.is_none() {
                return Err(bad("extend: neither a capacity nor a size is given"));
            }
        }
        VolumeRequest::Show { volume: name }
        | VolumeRequest::Shrink { volume: name }
        | VolumeRequest::Delete { volume: name, .. }
        | VolumeRequest::Merge { volume: name, .. }
        | VolumeRequest::Bitmaps { volume: name }
        | VolumeRequest::Bitmap { volume: name, .. }
        | VolumeRequest::Refresh { volume: name }
        | VolumeRequest::LeaseShow { volume: name } => {
            image(&name.image)?;
            volume(&name.volume)?;
        }
        VolumeRequest::Watch { qmp, drives } => {
            check_text("QMP socket", qmp)?;
            if drives.is_empty() || drives.len() > 128 {
                return Err(bad(format!("{} drives: must be 1 to 128", drives.len())));
            }
            for drive in drives {
                image(&drive.volume.image)?;
                volume(&drive.volume.volume)?;
            }
        }
        VolumeRequest::Unwatch { qmp } => check_text("QMP socket", qmp)?,
        VolumeRequest::Guest { qmp, change } => {
            check_text("QMP socket", qmp)?;
            match change {
                GuestChange::Migrating {
                    destination: Some(socket),
                } => check_text("socket of the destination", socket)?,
                GuestChange::Resized { node } | GuestChange::Replicated { node } => {
                    check_text("node", node)?;
                }
                GuestChange::Replicating { node, replica } => {
                    check_text("node", node)?;
                    image(&replica.image)?;
                    volume(&replica.volume)?;
                }
                GuestChange::Migrating { destination: None }
                | GuestChange::Stayed
                | GuestChange::Hold
                | GuestChange::Release => {}
            }
        }
    }
    Ok(())
}
