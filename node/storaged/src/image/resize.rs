//! Larger and smaller volumes.

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::VolumeId;
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat, VolumeType};

use super::copy::Hold;
use super::{Work, preallocate, prepare, qemu, size};
use crate::file::failed;
use crate::job::Result;

fn wrong(volume: VolumeId, what: &str) -> Failure {
    Failure::new(FailureKind::WrongState, format!("volume {volume}: {what}"))
}

/// Makes a volume at least `to_bytes` long: room, not capacity. Absolute, so
/// repeating it is harmless; the most a volume may need is the limit. Returns its
/// size.
///
/// # Errors
///
/// `WrongState` for a template; `NoSpace`; authority; I/O.
pub fn extend(work: &Work<'_>, volume: VolumeId, to_bytes: u64) -> Result<u64> {
    let entry = work.domain.volume(volume)?;
    let metadata = work.domain.volume_metadata(&entry)?;
    if metadata.volume_type == VolumeType::Shared {
        return Err(wrong(volume, "a template; it is never changed"));
    }
    if !work.domain.kind().is_block() {
        // Files grow by themselves.
        return Ok(entry.size_bytes);
    }
    let most = match metadata.format {
        VolumeFormat::Cow => size::cow_maximum(metadata.capacity_bytes),
        VolumeFormat::Raw => metadata.capacity_bytes,
    };
    work.domain
        .extend(work.authority, &entry, to_bytes.min(most))
}

/// Gives the guest more: a volume of `capacity_bytes`. Repeating it is harmless.
///
/// # Errors
///
/// `BadRequest` for less than it has; `WrongState` for anything but a legal leaf;
/// `NoSpace`; authority; I/O.
pub fn set_capacity(work: &Work<'_>, volume: VolumeId, capacity_bytes: u64) -> Result<u64> {
    let entry = work.domain.volume(volume)?;
    let mut metadata = work.domain.volume_metadata(&entry)?;
    if metadata.volume_type != VolumeType::Leaf || metadata.legality != Legality::Legal {
        return Err(wrong(
            volume,
            &format!(
                "{} and {}; only a legal leaf grows",
                metadata.volume_type, metadata.legality
            ),
        ));
    }
    let capacity = size::capacity(capacity_bytes).map_err(|what| {
        Failure::new(FailureKind::BadRequest, format!("volume {volume}: {what}"))
    })?;
    if capacity < metadata.capacity_bytes {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!(
                "volume {volume}: capacity {capacity}; it has {} and never gets less",
                metadata.capacity_bytes
            ),
        ));
    }
    let block = work.domain.kind().is_block();
    let mut now = capacity;
    match (metadata.format, block) {
        (VolumeFormat::Raw, true) => {
            now = work.domain.extend(work.authority, &entry, capacity)?;
        }
        (VolumeFormat::Raw, false) => {
            if metadata.allocation == Allocation::Preallocated {
                work.authority.rest(&work.domain.id().to_string());
                let path = work.domain.path(&entry);
                let file = std::fs::File::options()
                    .write(true)
                    .open(&path)
                    .map_err(|e| failed("open", &path, &e))?;
                preallocate::extend_allocated(
                    work.context,
                    &path,
                    &file,
                    entry.size_bytes,
                    capacity,
                )?;
            }
            work.domain.extend(work.authority, &entry, capacity)?;
        }
        (VolumeFormat::Cow, _) => {
            let held = Hold::take(work.domain, work.layout, metadata.image, volume)?;
            // Never less: a QCOW2 volume may be larger than what is stored.
            let header = prepare::cow_capacity(&held.prepared.path)?.unwrap_or(0);
            if header < capacity {
                qemu::resize(work.context, &held.prepared.path, capacity)?;
            }
            now = capacity.max(header);
        }
    }
    if now != metadata.capacity_bytes {
        metadata.capacity_bytes = now;
        work.domain
            .write_volume_metadata(work.authority, &entry, &metadata)?;
    }
    Ok(now)
}

/// Gives back room that a QCOW2 volume on a block domain does not use. Never below
/// the end `qemu-img check` reports. Returns its size.
///
/// # Errors
///
/// `InUse` while it is prepared on this host (for all hosts the caller answers);
/// `WrongState` when there is nothing of the kind to reduce; `Damaged` for a
/// corrupt image; authority; I/O.
pub fn reduce(work: &Work<'_>, volume: VolumeId) -> Result<u64> {
    let entry = work.domain.volume(volume)?;
    let metadata = work.domain.volume_metadata(&entry)?;
    if !work.domain.kind().is_block() {
        return Ok(entry.size_bytes);
    }
    if metadata.format != VolumeFormat::Cow || metadata.allocation == Allocation::Preallocated {
        return Err(wrong(volume, "RAW or preallocated; its size is its own"));
    }
    if metadata.volume_type == VolumeType::Shared {
        return Err(wrong(volume, "a template; it is never changed"));
    }
    if metadata.legality != Legality::Legal {
        return Err(wrong(volume, "ILLEGAL; a job on it has not ended well"));
    }
    prepare::refuse_prepared(work.layout, work.domain, &entry)?;
    let end = {
        let held = Hold::take(work.domain, work.layout, metadata.image, volume)?;
        qemu::end_offset(work.context, &held.prepared.path)?
    };
    let best = if metadata.volume_type == VolumeType::Leaf {
        size::optimal_leaf(&work.growth, end, metadata.capacity_bytes)
    } else {
        size::optimal_internal(end)
    };
    if best >= entry.size_bytes {
        return Ok(entry.size_bytes);
    }
    assert!(
        best >= end,
        "a volume is never cut below the end of its data"
    );
    work.domain.reduce(work.authority, &entry, best)
}
