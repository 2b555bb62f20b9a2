//! Leases named on the command line, and orders about one on disk.

use anyhow::{Context, Result, bail};
use control::lease::OwnerReport;
use disk_format::{Content, NameField, ResourceName};
use linux::disk::{Access, AlignedBuffer, BlockDevice};
use sanlock_wire::{Disk, DiskPath, ReplyBody, Request, Resource, ResourceFlags, WriteFlags};

use super::{AT_ONCE, PATIENT, lockspace_name, order, result};
use crate::args::ResourcePlace;
use crate::render;
use crate::session::{Ending, Session};

/// Bytes looked at before a lease is written; every record begins in them.
const LOOK_BYTES: usize = 4096;

/// `LOCKSPACE:NAME`.
pub(super) fn named(lease: &str) -> Result<Resource> {
    let Some((lockspace, name)) = lease.split_once(':') else {
        bail!("lease {lease}: must be LOCKSPACE:NAME");
    };
    let name: NameField = *ResourceName::new(name)?.field();
    Ok(Resource {
        lockspace_name: lockspace_name(lockspace)?,
        name,
        ..Resource::default()
    })
}

/// The same, with where it lies.
pub(super) fn with_disk(place: &ResourcePlace) -> Result<Resource> {
    let disk = Disk {
        path: DiskPath::new(place.path.as_os_str().as_encoded_bytes())?,
        offset: place.offset,
    };
    Ok(Resource {
        disks: vec![disk],
        ..named(&place.lease)?
    })
}

/// Writes a new, free lease.
pub(super) fn create(
    place: &ResourcePlace,
    num_hosts: u32,
    force: Option<&str>,
    session: &mut Session<'_>,
) -> Result<Ending> {
    let resource = with_disk(place)?;
    let device = BlockDevice::open(&place.path, Access::Read)?;
    let mut start = AlignedBuffer::new(LOOK_BYTES);
    device
        .read_at(&mut start, place.offset)
        .with_context(|| format!("{}: read at byte {}", place.path.display(), place.offset))?;
    let content = Content::of(&start);
    if !matches!(content, Content::Zeros) && force != Some(place.lease.as_str()) {
        return Ok(session.refuse(&format!(
            "{}: offset {} holds {content}; it is lost when a lease is written there; to do so, add --force {}",
            place.path.display(),
            place.offset,
            place.lease
        )));
    }
    let request = Request::WriteResource {
        resource,
        max_hosts: num_hosts,
        num_hosts,
        flags: WriteFlags::NONE,
    };
    let done = format!(
        "lease {} on {} at offset {}",
        place.lease,
        place.path.display(),
        place.offset
    );
    order(&request, PATIENT, &done, session)
}

/// Shows who holds a lease, by what is on disk.
pub(super) fn owners(
    place: &ResourcePlace,
    json: bool,
    session: &mut Session<'_>,
) -> Result<Ending> {
    let request = Request::ReadResourceOwners {
        resource: with_disk(place)?,
    };
    let reply = session.sanlock.call(&request, PATIENT)?;
    if let Err(refusal) = result(&reply) {
        return Ok(session.refuse(&refusal));
    }
    let ReplyBody::Owners { resource, owners } = reply.body else {
        bail!("lease daemon gave no owners");
    };
    let hosts = Request::GetHosts {
        lockspace: resource.lockspace_name.into(),
    };
    // Without the lockspace nothing is known of the hosts, which is no failure.
    let known = match session.sanlock.call(&hosts, AT_ONCE)?.body {
        ReplyBody::Hosts(hosts) => hosts,
        _ => Vec::new(),
    };
    let report: Vec<OwnerReport> = owners
        .iter()
        .map(|owner| OwnerReport {
            host_id: owner.host_id,
            generation: owner.generation,
            timestamp: owner.timestamp,
            shared: resource.has(ResourceFlags::SHARED),
            state: known
                .iter()
                .find(|host| host.host_id == owner.host_id && host.generation == owner.generation)
                .and_then(sanlock_wire::Host::state)
                .map(|state| format!("{state:?}").to_lowercase()),
        })
        .collect();
    if json {
        session.print_json(&report)?;
    } else {
        session.print(&render::owners(&report))?;
    }
    Ok(Ending::Done)
}
