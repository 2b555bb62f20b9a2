//! Paxos leases by hand.

use disk_format::paxos::{self, Area};
use disk_format::{Generation, Geometry, HostId, LockspaceName, ResourceName};
use lease::code::Code;
use lease::resource::{
    Acquire, AcquireOptions, Held, Observed, Owners, Release, ReleaseOptions, Target, Us,
};
use linux::disk::Access;
use sanlock_wire::{DISKS_MAX, Resource};

use super::leader::{Spot, verify_resource};
use super::resource;
use crate::cli::arguments::Arguments;
use crate::storage::device::Device;
use crate::storage::driver::Driver;

/// Seconds, where the command line says nothing.
const IO_TIMEOUT_DEFAULT_S: u8 = 10;
const FIRE_TIMEOUT_S: u32 = 60;

/// No lockspace is joined: nothing is known of any host, so a lease owned by
/// another is refused.
struct Nobody;

impl Owners for Nobody {
    fn observed(&self, _: &LockspaceName, _: HostId) -> Option<Observed> {
        None
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        false
    }
}

/// Takes the resource exclusively for the host id and generation given.
pub(super) fn acquire(arguments: &Arguments) -> Code {
    take(arguments).err().unwrap_or(Code::OK)
}

fn take(arguments: &Arguments) -> Result<(), Code> {
    let (resource, us) = subject(arguments)?;
    let spot = Spot::of_resource(&resource, Access::Read)?;
    let (leader, _) = spot.read()?;
    verify_resource(&leader, &resource)?;
    // A later life of this host id has it. A daemon, which holds the host id,
    // need not ask; here nobody is known to be dead.
    if leader.timestamp != 0
        && leader.owner_id == u64::from(us.host_id.get())
        && leader.owner_generation > us.generation.0
    {
        return Err(Code::ACQUIRE_LOCKSPACE);
    }
    let target = target(&resource, &leader)?;
    let driver = Driver::new(&resource.disks, &Nobody, &|| true, us.io_timeout_s)?;
    let mut acquire = Acquire::new(us, target, AcquireOptions::default(), seed());
    match driver.run(&mut acquire).code {
        Code::OK => Ok(()),
        code => Err(code),
    }
}

/// Gives up what [`acquire`] took. The original reads the leader and leaves it
/// as it is.
pub(super) fn release(arguments: &Arguments) -> Code {
    give(arguments).err().unwrap_or(Code::OK)
}

fn give(arguments: &Arguments) -> Result<(), Code> {
    let (resource, us) = subject(arguments)?;
    let spot = Spot::of_resource(&resource, Access::Read)?;
    let (leader, _) = spot.read()?;
    verify_resource(&leader, &resource)?;
    let ours = leader.owner_id == u64::from(us.host_id.get())
        && leader.owner_generation == us.generation.0;
    if !ours {
        return Err(Code::RELEASE_OWNER);
    }
    if leader.timestamp == 0 {
        return Ok(());
    }
    let target = target(&resource, &leader)?;
    let disk = resource.disks.first().ok_or(Code::EPERM)?;
    let device = Device::open(disk, Access::Read)?;
    let end = paxos::host_sector(us.host_id) + 1;
    let bytes = usize::try_from(end).unwrap_or(0) * target.geometry.sector_bytes();
    let area = device.read(disk.offset, bytes)?;
    let (dblock, _) = Area::new(&area, target.geometry).host(us.host_id)?;
    let held = Held {
        leader,
        dblock,
        shared: false,
        geometry: target.geometry,
    };
    let driver = Driver::new(&resource.disks, &Nobody, &|| true, us.io_timeout_s)?;
    let mut release = Release::new(us, target, &held, ReleaseOptions::default());
    match driver.run(&mut release).code {
        Code::OK => Ok(()),
        code => Err(code),
    }
}

fn subject(arguments: &Arguments) -> Result<(Resource, Us), Code> {
    let resource = resource(arguments).ok_or(Code::EINVAL)?;
    if resource.disks.is_empty() || resource.disks.len() > DISKS_MAX {
        return Err(Code::EPERM);
    }
    // Host 0 has no sector: the original writes it over the request record.
    let host_id = match arguments.unsigned(b'i') {
        0 => return Err(Code::EINVAL),
        number => HostId::new(number).map_err(|_| Code::LEADER_NUMHOSTS)?,
    };
    let io_timeout_s = match u8::try_from(arguments.unsigned(b'o') & 0xff) {
        Ok(0) | Err(_) => IO_TIMEOUT_DEFAULT_S,
        Ok(seconds) => seconds,
    };
    let us = Us {
        host_id,
        generation: Generation(arguments.unsigned(b'g')),
        io_timeout_s,
        fire_timeout_s: FIRE_TIMEOUT_S,
    };
    Ok((resource, us))
}

fn target(resource: &Resource, leader: &disk_format::Leader) -> Result<Target, Code> {
    Ok(Target {
        lockspace: LockspaceName::from_field(&resource.lockspace_name)
            .map_err(|_| Code::LEADER_LOCKSPACE)?,
        resource: ResourceName::from_field(&resource.name).map_err(|_| Code::LEADER_RESOURCE)?,
        geometry: Geometry::from_leader(leader.sector_size, leader.flags)?,
        disks: u8::try_from(resource.disks.len()).map_err(|_| Code::ERANGE)?,
    })
}

/// Different for every run, on every host.
fn seed() -> u64 {
    linux::clock::monotonic_ns() ^ u64::from(std::process::id()).rotate_left(32)
}
