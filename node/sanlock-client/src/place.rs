//! From names and paths to what requests carry.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use disk_format::{Geometry, LockspaceName, NameField, ResourceName};
use sanlock_wire::{Disk, DiskPath, Lockspace, Resource, with_geometry};

use crate::error::Error;

/// A lockspace area at the start of `path`; host id 0 asks about any.
///
/// # Errors
/// A name or path too long.
pub fn lockspace(
    name: &str,
    host_id: u64,
    path: &Path,
    geometry: Option<Geometry>,
) -> Result<Lockspace, Error> {
    Ok(Lockspace {
        name: *LockspaceName::new(name)?.field(),
        host_id,
        flags: flags(geometry),
        disk: disk(path, 0)?,
    })
}

/// A lease at `offset` of `path`.
///
/// # Errors
/// A name or path too long.
pub fn lease(
    lockspace: &str,
    name: &str,
    path: &Path,
    offset: u64,
    geometry: Option<Geometry>,
) -> Result<Resource, Error> {
    let name: NameField = *ResourceName::new(name)?.field();
    Ok(Resource {
        lockspace_name: *LockspaceName::new(lockspace)?.field(),
        name,
        flags: flags(geometry),
        disks: vec![disk(path, offset)?],
        ..Resource::default()
    })
}

fn flags(geometry: Option<Geometry>) -> u32 {
    geometry.map_or(0, |geometry| with_geometry(0, geometry))
}

fn disk(path: &Path, offset: u64) -> Result<Disk, Error> {
    Ok(Disk {
        path: DiskPath::new(path.as_os_str().as_bytes())?,
        offset,
    })
}
