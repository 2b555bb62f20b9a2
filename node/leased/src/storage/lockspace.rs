//! Lockspace areas.

use disk_format::{Geometry, Leader, delta};
use lease::code::Code;
use linux::disk::Access;
use sanlock_wire::{Disk, Lockspace, geometry_of, with_geometry};

use super::device::Device;
use super::sector_of;

/// Seconds stored when none are given.
const IO_TIMEOUT_DEFAULT_S: u32 = 10;

/// The align size in bytes (positive) that an area on this disk gets.
#[must_use]
pub fn align(disk: &Disk) -> Code {
    match Device::open_lockspace(disk, Access::Read) {
        Ok(device) => {
            let bytes = device.default_geometry().align_size();
            Code(i32::try_from(bytes).unwrap_or(i32::MAX))
        }
        Err(code) => code,
    }
}

/// Makes a lockspace: all its hosts' records, free. `io_timeout_s` 0 stores 10;
/// as in the original the lower 16 bits are stored.
#[must_use]
pub fn write_lockspace(lockspace: &Lockspace, io_timeout_s: u32) -> Code {
    write(lockspace, io_timeout_s).err().unwrap_or(Code::OK)
}

fn write(lockspace: &Lockspace, io_timeout_s: u32) -> Result<(), Code> {
    let device = Device::open_lockspace(&lockspace.disk, Access::ReadWrite)?;
    let geometry = geometry_of(lockspace.flags)
        .map_err(|_| Code::EPERM)?
        .unwrap_or_else(|| device.default_geometry());
    let seconds = if io_timeout_s == 0 {
        IO_TIMEOUT_DEFAULT_S
    } else {
        io_timeout_s
    };
    let stored = u16::try_from(seconds & 0xffff).unwrap_or(u16::MAX);
    let record = delta::initial_named(&lockspace.name, geometry, stored);
    device.write_area(
        lockspace.disk.offset,
        geometry,
        true,
        &|first_sector, committed, part| {
            let first_sector = usize::try_from(first_sector).unwrap_or(usize::MAX);
            delta::fill_with(&record, geometry, first_sector, committed, part);
        },
    )
}

/// Reads a host's record: its lockspace with name and geometry filled in, and
/// the I/O timeout stored. After a failure the lockspace is as it was given.
#[must_use]
pub fn read_lockspace(lockspace: &Lockspace) -> (Code, Lockspace, u32) {
    match read(lockspace) {
        Ok((found, io_timeout)) => (Code::OK, found, io_timeout),
        Err(code) => (code, lockspace.clone(), 0),
    }
}

fn read(lockspace: &Lockspace) -> Result<(Lockspace, u32), Code> {
    let leader = read_leader(lockspace)?;
    delta::verify_kind(&leader)?;
    let mut found = lockspace.clone();
    found.host_id = lockspace.host_id.max(1);
    if found.name.is_empty() {
        found.name = leader.space_name.cleaned();
    } else if !found.name.same_name(&leader.space_name) {
        return Err(Code::LEADER_LOCKSPACE);
    }
    delta::verify_checksum(&leader)?;
    let geometry = Geometry::from_leader(leader.sector_size, leader.flags)?;
    // A sector beyond the last host's belongs to nobody, or to a neighbour.
    if found.host_id > u64::from(geometry.max_hosts()) {
        return Err(Code::LEADER_MAGIC);
    }
    found.flags = with_geometry(lockspace.flags, geometry);
    Ok((found, u32::from(leader.io_timeout)))
}

/// The record of the lockspace's host as it is on disk, not judged.
fn read_leader(lockspace: &Lockspace) -> Result<Leader, Code> {
    let device = Device::open_lockspace(&lockspace.disk, Access::Read)?;
    let offset = lockspace.disk.offset;
    let sector = match sector_of(lockspace.flags) {
        Some(sector) => sector,
        None => delta::discover(&device.read(offset, delta::PROBE_BYTES)?)?.sector_size(),
    };
    device.check_sector(sector)?;
    let place = (lockspace.host_id.max(1) - 1)
        .checked_mul(u64::from(sector))
        .and_then(|distance| offset.checked_add(distance))
        .ok_or(Code::EINVAL)?;
    let bytes = device.read(place, usize::try_from(sector).unwrap_or(delta::PROBE_BYTES))?;
    delta::leader(&bytes).ok_or(Code::LEADER_MAGIC)
}
