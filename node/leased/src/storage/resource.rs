//! Resource areas.

use disk_format::paxos::{self, Area};
use disk_format::{Geometry, HostId, Leader, NameField};
use lease::code::Code;
use linux::disk::Access;
use sanlock_wire::{
    DISKS_MAX, Disk, Host, Resource, ResourceFlags, geometry_of, sizes_of, with_geometry,
};

use super::device::Device;
use super::sector_of;

/// Bytes to read at a resource's start when its sector size is not known.
const PROBE_BYTES: usize = 4096;

/// Makes a resource on each of its disks, or clears it. `num_hosts` below 1
/// means all hosts of the geometry, as does more than that.
#[must_use]
pub fn write_resource(resource: &Resource, num_hosts: i32, clear: bool) -> Code {
    write(resource, num_hosts, clear).err().unwrap_or(Code::OK)
}

fn write(resource: &Resource, num_hosts: i32, clear: bool) -> Result<(), Code> {
    if resource.disks.is_empty() || resource.disks.len() > DISKS_MAX {
        return Err(Code::ERANGE);
    }
    let num_hosts = u32::try_from(num_hosts).unwrap_or(0);
    for disk in &resource.disks {
        let device = Device::open(disk, Access::ReadWrite)?;
        let geometry = geometry_of(resource.flags)
            .map_err(|_| Code::EPERM)?
            .unwrap_or_else(|| device.default_geometry());
        let names = (&resource.lockspace_name, &resource.name);
        let leader = if clear {
            cleared(names, geometry, num_hosts)
        } else {
            paxos::initial(names.0, names.1, geometry, num_hosts)
        };
        write_leader_area(&device, disk.offset, geometry, &leader)?;
    }
    Ok(())
}

/// The leader of a resource that is cleared now.
pub(super) fn cleared(
    (lockspace, resource): (&NameField, &NameField),
    geometry: Geometry,
    num_hosts: u32,
) -> Leader {
    let now_s = linux::clock::monotonic_ns() / 1_000_000_000;
    paxos::cleared(lockspace, resource, geometry, num_hosts, now_s)
}

/// Writes a whole resource area with this leader and nothing else in it.
pub(super) fn write_leader_area(
    device: &Device,
    offset: u64,
    geometry: Geometry,
    leader: &Leader,
) -> Result<(), Code> {
    let uncommitted = Leader {
        magic: 0,
        ..*leader
    };
    device.write_area(offset, geometry, false, &|first_sector, committed, part| {
        let leader = if committed { leader } else { &uncommitted };
        paxos::fill_initial(leader, geometry, first_sector, part);
    })
}

/// Reads a resource's leader: names, version and geometry are filled in. After
/// a failure the resource is as it was given.
#[must_use]
pub fn read_resource(resource: &Resource) -> (Code, Resource) {
    match read(resource) {
        Ok(found) => (Code::OK, found),
        Err(code) => (code, resource.clone()),
    }
}

fn read(resource: &Resource) -> Result<Resource, Code> {
    let disk = first_disk(resource)?;
    let device = Device::open(disk, Access::Read)?;
    let sector = sector_of(resource.flags);
    if let Some(sector) = sector {
        device.check_sector(sector)?;
    }
    let bytes = sector.and_then(|sector| usize::try_from(sector).ok());
    let start = device.read(disk.offset, bytes.unwrap_or(PROBE_BYTES))?;
    let leader = paxos::leader(&start)?;
    verify(&leader, resource)?;
    let geometry = Geometry::from_leader(leader.sector_size, leader.flags)?;
    let mut found = resource.clone();
    found.lockspace_name = leader.space_name.cleaned();
    found.name = leader.resource_name.cleaned();
    found.lver = leader.lver;
    found.flags = with_geometry(resource.flags, geometry);
    Ok(found)
}

/// Checks the leader; a name that was not given is not compared.
fn verify(leader: &Leader, resource: &Resource) -> Result<(), Code> {
    paxos::verify_kind(leader)?;
    let differs = |given: &NameField, found| !given.is_empty() && !given.same_name(found);
    if differs(&resource.lockspace_name, &leader.space_name) {
        return Err(Code::LEADER_LOCKSPACE);
    }
    if differs(&resource.name, &leader.resource_name) {
        return Err(Code::LEADER_RESOURCE);
    }
    disk_format::delta::verify_checksum(leader)?;
    Ok(())
}

/// Reads who holds a resource: its owner, if it is held exclusively, and the
/// hosts that hold it shared. The resource comes back with its version, and
/// flagged shared if it is; after a failure as it was given.
#[must_use]
pub fn read_resource_owners(resource: &Resource) -> (Code, Resource, Vec<Host>) {
    match read_owners(resource) {
        Ok((found, hosts)) => (Code::OK, found, hosts),
        Err(code) => (code, resource.clone(), Vec::new()),
    }
}

fn read_owners(resource: &Resource) -> Result<(Resource, Vec<Host>), Code> {
    let disk = first_disk(resource)?;
    let device = Device::open(disk, Access::Read)?;
    if let Some(sector) = sector_of(resource.flags) {
        device.check_sector(sector)?;
    }
    let start = device.read(disk.offset, PROBE_BYTES)?;
    let leader = paxos::leader(&start)?;
    // Sizes that make no sense are reported as such before anything else.
    let geometry =
        Geometry::from_leader(leader.sector_size, leader.flags).map_err(|_| Code::EINVAL)?;
    if !agrees(resource.flags, geometry) {
        return Err(Code::EINVAL);
    }
    verify_names(&leader, resource)?;
    let sectors = usize::try_from(paxos::ballot_sectors(leader.num_hosts, geometry)).unwrap_or(0);
    let bytes = device.read(disk.offset, sectors * geometry.sector_bytes())?;
    let area = Area::new(&bytes, geometry);
    let leader = area.leader()?;
    verify_names(&leader, resource)?;

    let mut hosts = Vec::new();
    if leader.timestamp != 0 {
        hosts.push(owner(
            leader.owner_id,
            leader.owner_generation,
            leader.timestamp,
        ));
    }
    let mut shared = false;
    for index in 0..usize::from(geometry.max_hosts()) {
        let Some(host) = HostId::from_index(index) else {
            break;
        };
        if u64::from(host.get()) > leader.num_hosts {
            break;
        }
        let Ok((_, mode)) = area.host(host) else {
            break;
        };
        if mode.is_shared() {
            shared = true;
            let id = u64::from(host.get());
            if hosts.iter().all(|known| known.host_id != id) {
                hosts.push(owner(id, mode.generation, 0));
            }
        }
    }
    let mut found = resource.clone();
    found.lver = leader.lver;
    if shared {
        found.flags |= ResourceFlags::SHARED.0;
    }
    Ok((found, hosts))
}

fn owner(host_id: u64, generation: u64, timestamp: u64) -> Host {
    Host {
        host_id,
        generation,
        timestamp,
        io_timeout: 0,
        flags: 0,
    }
}

/// Checks the leader; here a name that was not given is wrong.
fn verify_names(leader: &Leader, resource: &Resource) -> Result<(), Code> {
    paxos::verify_kind(leader)?;
    if !leader.space_name.same_name(&resource.lockspace_name) {
        return Err(Code::LEADER_LOCKSPACE);
    }
    if !leader.resource_name.same_name(&resource.name) {
        return Err(Code::LEADER_RESOURCE);
    }
    disk_format::delta::verify_checksum(leader)?;
    Ok(())
}

/// Whether each size that the flags state is the geometry's.
fn agrees(flags: u32, geometry: Geometry) -> bool {
    let (sector, align) = sizes_of(flags);
    sector.is_none_or(|sector| sector == geometry.sector_size())
        && align.is_none_or(|align| align == geometry.align_size())
}

fn first_disk(resource: &Resource) -> Result<&Disk, Code> {
    match resource.disks.as_slice() {
        [] => Err(Code::ERANGE),
        disks if disks.len() > DISKS_MAX => Err(Code::ERANGE),
        [first, ..] => Ok(first),
    }
}
