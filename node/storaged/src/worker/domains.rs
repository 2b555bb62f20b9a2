//! Work on domains.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use control::storage::connection::Connection;
use control::storage::report::{DomainReport, HeldFile, LeaseReport};
use control::storage::request::{Class, LeaseRequest, NewDomain, NewPlace};
use control::storage::{Answer, Failure, FailureKind};
use disk_format::Geometry;
use disk_format::vdsm::domain::{DomainClass, DomainType};
use disk_format::vdsm::uuid::LeaseId;
use disk_format::vdsm::version::DomainVersion;
use sanlock_client::Joined;

use super::describe;
use super::dispatch::{bad, done, is_local};
use super::host::{Host, Opened, domain_id};
use super::work::{Carrier, Place};
use crate::authority::{Authority, Unattached};
use crate::block::{self, BlockDomain, Group, NewBlockDomain, lun_path};
use crate::connect::{self, multipath};
use crate::domain::Domain;
use crate::file::{FileDomain, NewFileDomain};
use crate::image::leases::LeaseName;
use crate::job::{Context, Result};
use crate::pool;
use crate::writer::LockPlace;
use crate::xlease::{DaemonResources, Xleases};

/// Hosts of a domain, as VDSM has it; leases of n MiB have room for n times as many.
const HOSTS_MAX: u32 = 250;

/// For how many hosts a file domain is made: by the size of leases asked for.
fn hosts_max(new: &NewDomain, mount: &Path) -> Result<u32> {
    let Some(mib) = new.alignment_mib else {
        return Ok(HOSTS_MAX);
    };
    let sector = match new.block_size {
        Some(size) => size,
        None => crate::file::probe_block_size(mount)?,
    };
    match Geometry::new(sector, mib << 20) {
        Ok(_) => Ok(HOSTS_MAX * mib),
        Err(_) => Err(bad(format!(
            "alignment {mib} MiB: with sectors of {sector} bytes leases have 1 MiB"
        ))),
    }
}

/// Refuses what domains on LUNs cannot be made with.
fn check_block_shape(new: &NewDomain) -> Result<()> {
    let sector = new.block_size.unwrap_or(512);
    let mib = new.alignment_mib.unwrap_or(1);
    if (sector, mib) == (512, 1) {
        return Ok(());
    }
    Err(bad(format!(
        "sectors of {sector} bytes and leases of {mib} MiB: domains on LUNs have 512 bytes and 1 MiB"
    )))
}

/// A domain's LUNs by the names of their maps.
pub(super) fn luns(group: &Group) -> Vec<String> {
    group
        .paths()
        .iter()
        .map(|path| {
            let name = path.strip_prefix("/dev/mapper").unwrap_or(path);
            name.display().to_string()
        })
        .collect()
}

pub(super) fn create(
    new: &NewDomain,
    mount: Option<&Path>,
    local: bool,
    connection: Option<&Connection>,
    host: &Host,
    context: &Context,
) -> Result<Answer> {
    let id = domain_id(new.id.as_deref().unwrap_or_default())?;
    let number = new.version.unwrap_or(5);
    let version = DomainVersion::from_number(number.into())
        .filter(|version| version.is_supported())
        .ok_or_else(|| bad(format!("domain version {number}: allowed are 3, 4 and 5")))?;
    let class = match new.class {
        Class::Data => DomainClass::Data,
        Class::Iso => DomainClass::Iso,
        Class::Export => DomainClass::Backup,
    };
    match (&new.place, mount) {
        (NewPlace::Block { luns }, _) => {
            check_block_shape(new)?;
            await_luns(luns, host, context)?;
            let devices = luns
                .iter()
                .map(|lun| lun_path(&host.lvm, lun))
                .collect::<Result<Vec<_>>>()?;
            let places = host.places();
            let kind = if devices.iter().any(|lun| connect::is_iscsi(&places, lun)) {
                DomainType::Iscsi
            } else {
                DomainType::Fcp
            };
            let new = NewBlockDomain {
                id,
                version,
                kind,
                class,
                description: new.name.clone(),
                devices,
                force: new.force,
            };
            let leases = host.leases(&Carrier::Block);
            block::create(&host.lvm, context, leases.as_ref(), &new)?;
        }
        (NewPlace::File { .. }, Some(mount)) => {
            let (kind, remote_path) = match connection {
                Some(connection) => (file_type(connection)?, remote_path(connection)),
                None => (DomainType::LocalFs, mount.display().to_string()),
            };
            let carrier = if local {
                Carrier::Local {
                    mount: mount.to_owned(),
                }
            } else {
                Carrier::File {
                    mount: mount.to_owned(),
                }
            };
            let hosts_max = hosts_max(new, mount)?;
            let new = NewFileDomain {
                id,
                version,
                kind,
                class,
                description: new.name.clone(),
                remote_path,
                block_size: new.block_size,
                hosts_max,
            };
            let leases = host.leases(&carrier);
            FileDomain::create(context, mount, &new, leases.as_ref())?;
        }
        (NewPlace::File { connection }, None) => {
            return Err(bad(format!("{connection}: has no directory")));
        }
    }
    Ok(Answer::Made {
        what: "domain".to_owned(),
        id: id.to_string(),
    })
}

/// Waits until LUNs that are named by their world-wide names are there. Without
/// multipath, as on machines that build, devices are named by paths.
fn await_luns(luns: &[String], host: &Host, context: &Context) -> Result<()> {
    if !host.lvm.env().device_mapper {
        return Ok(());
    }
    multipath::await_luns(context, &host.places(), luns)
}

fn file_type(connection: &Connection) -> Result<DomainType> {
    Ok(match connection {
        Connection::Nfs { .. } => DomainType::Nfs,
        Connection::Posix { .. } => DomainType::PosixFs,
        Connection::Local { .. } => DomainType::LocalFs,
        Connection::Gluster { .. } => DomainType::GlusterFs,
        Connection::Iscsi { .. } | Connection::Fc {} => {
            return Err(bad(format!(
                "{}: LUNs; give them with --lun",
                connection.id()
            )));
        }
    })
}

fn remote_path(connection: &Connection) -> String {
    match connection {
        Connection::Nfs { export, .. } => export.clone(),
        Connection::Posix { spec, .. } => spec.clone(),
        Connection::Local { path } => path.clone(),
        Connection::Gluster { volume, .. } => volume.clone(),
        Connection::Iscsi { .. } | Connection::Fc {} => String::new(),
    }
}

fn report(opened: &Opened) -> Result<DomainReport> {
    let domain = opened.domain();
    let read = domain.metadata()?;
    let mut report = describe::domain(domain.as_ref(), &read);
    if let Opened::Block(block) = opened {
        let group = block.group()?;
        report.luns = luns(&group);
        report.missing_luns = group.lacking(&read);
    }
    Ok(report)
}

pub(super) fn look(place: &Place, host: &Host, context: &Context) -> Result<Answer> {
    // As it is now, not as it was when somebody opened it.
    host.forget(place);
    let opened = host.open(place, context)?;
    let domain = opened.domain();
    let mut report = report(&opened)?;
    match domain.space() {
        Ok(space) => describe::space(&mut report, space),
        Err(failure) => report.findings.push(failure.message),
    }
    if let Opened::Block(block) = &opened {
        match block.health(context, true) {
            Ok(health) => report.findings.extend(health.findings),
            Err(failure) => report.findings.push(failure.message),
        }
    }
    match crate::image::chain::View::of_domain(domain.as_ref()) {
        Ok(view) => report.findings.extend(
            view.broken()
                .map(|(volume, failure)| format!("volume {volume}: {failure}")),
        ),
        Err(failure) => report.findings.push(failure.message),
    }
    if let Opened::File(file) = &opened {
        match held(file, domain.metadata()?.class()) {
            Ok(held) => report.held = held,
            Err(failure) => report.findings.push(failure.message),
        }
    }
    Ok(Answer::Domain(report))
}

/// What domains of classes without volumes hold.
fn held(domain: &FileDomain, class: DomainClass) -> Result<Vec<HeldFile>> {
    let file = |name, bytes| HeldFile {
        name,
        size_bytes: bytes,
    };
    Ok(match class {
        DomainClass::Data => Vec::new(),
        DomainClass::Iso => domain
            .iso_files()?
            .into_iter()
            .map(|medium| file(medium.name, medium.size_bytes))
            .collect(),
        DomainClass::Backup => domain
            .exported_guests()?
            .into_iter()
            .map(|guest| {
                let bytes = u64::try_from(guest.ovf.len()).unwrap_or(u64::MAX);
                file(format!("{}.ovf", guest.id), bytes)
            })
            .collect(),
    })
}

pub(super) fn check(
    place: &Place,
    thorough: bool,
    host: &Host,
    context: &Context,
) -> Result<Answer> {
    let outcome = check_opened(place, thorough, host, context);
    if outcome.is_err() || thorough {
        // What is open may be what has changed.
        host.forget(place);
    }
    outcome
}

fn check_opened(place: &Place, thorough: bool, host: &Host, context: &Context) -> Result<Answer> {
    let opened = host.open(place, context)?;
    let domain = opened.domain();
    let look = pool::look(domain.as_ref(), thorough);
    let mut report = report(&opened)?;
    report.valid = Some(true);
    let mut wrong = |failure: Failure| {
        report.valid = Some(false);
        report.reason.get_or_insert(failure.message);
    };
    match look.read {
        Ok(took) => {
            report.read_delay_us = Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        Err(failure) => wrong(failure),
    }
    match look.domain {
        Ok(space) => describe::space(&mut report, space),
        Err(failure) => wrong(failure),
    }
    if let Opened::Block(block) = &opened {
        let health = block.health(context, thorough)?;
        if health.is_partial {
            report.valid = Some(false);
            report.reason = health.findings.first().cloned();
        }
        report.findings = health.findings;
    }
    Ok(Answer::Domain(report))
}

pub(super) fn join(place: &Place, host: &Host, context: &Context) -> Result<Answer> {
    let domain = host.open(place, context)?.domain();
    let lock = LockPlace::of(domain.as_ref())?;
    let cluster = host.cluster()?;
    let state = match cluster.joined(&lock)? {
        Joined::Yes => "held",
        Joined::Changing => "joining",
        Joined::No => {
            cluster.begin_join(&lock)?;
            "joining"
        }
    };
    Ok(done(state))
}

pub(super) fn leave(place: &Place, host: &Host, context: &Context) -> Result<Answer> {
    // A domain of this host alone has no lockspace.
    let left = if is_local(&place.carrier) {
        Ok(())
    } else {
        leave_lockspace(place, host, context)
    };
    host.forget(place);
    // A lease that is still used keeps the domain; LUNs that do not answer must not.
    let goes = !matches!(&left, Err(failure) if failure.kind == FailureKind::InUse);
    if place.carrier == Carrier::Block && goes {
        // Else the LUNs stay busy, and cannot be disconnected.
        block::take_down(&host.lvm, context, domain_id(&place.domain)?)?;
    }
    left?;
    Ok(done("left"))
}

fn leave_lockspace(place: &Place, host: &Host, context: &Context) -> Result<()> {
    let domain = host.open(place, context)?.domain();
    let lock = LockPlace::of(domain.as_ref())?;
    host.cluster()?.leave(&lock)
}

/// Takes away what is mapped of domains, as far as nobody has it open.
pub(super) fn take_down(domains: &[String], host: &Host, context: &Context) -> Result<Answer> {
    let mut kept = Vec::new();
    for domain in domains {
        if let Err(failure) = block::take_down(&host.lvm, context, domain_id(domain)?) {
            kept.push(failure.message);
        }
    }
    if kept.is_empty() {
        return Ok(done("nothing of them is mapped any more"));
    }
    Err(Failure::new(FailureKind::InUse, kept.join("; ")))
}

pub(super) fn remove(place: &Place, host: &Host, context: &Context) -> Result<Answer> {
    let id = domain_id(&place.domain)?;
    let authority = Unattached {
        domain: place.domain.clone(),
    };
    host.forget(place);
    match &place.carrier {
        Carrier::Block => block::remove(&host.lvm, context, &authority, id)?,
        Carrier::File { mount } | Carrier::Local { mount } => {
            FileDomain::open(&mount.join(&place.domain))?.destroy(&authority)?;
        }
    }
    Ok(done(format!("domain {id} is gone")))
}

fn block_domain(
    place: &Place,
    host: &Host,
    context: &Context,
) -> Result<std::sync::Arc<BlockDomain>> {
    match host.open(place, context)? {
        Opened::Block(domain) => Ok(domain),
        Opened::File(_) => Err(Failure::new(
            FailureKind::Unsupported,
            format!("domain {}: made of files, it has no LUNs", place.domain),
        )),
    }
}

pub(super) fn extend(
    place: &Place,
    luns: &[String],
    force: bool,
    host: &Host,
    authority: &dyn Authority,
    context: &Context,
) -> Result<Answer> {
    let domain = block_domain(place, host, context)?;
    await_luns(luns, host, context)?;
    let paths = luns
        .iter()
        .map(|lun| lun_path(&host.lvm, lun))
        .collect::<Result<Vec<_>>>()?;
    let before = domain.group()?.devices.len();
    domain.add_devices(context, authority, &paths, force)?;
    let added = domain.group()?.devices.len().saturating_sub(before);
    Ok(done(format!(
        "domain {} has {} {} more and {} in all; the other hosts of its pool look for what they \
         lack of it by themselves, if they are connected to the same storage",
        place.domain,
        added,
        if added == 1 { "LUN" } else { "LUNs" },
        size(domain.space()?.total_bytes),
    )))
}

pub(super) fn grow(
    place: &Place,
    lun: &str,
    host: &Host,
    authority: &dyn Authority,
    context: &Context,
) -> Result<Answer> {
    let domain = block_domain(place, host, context)?;
    if host.lvm.env().device_mapper {
        // The disks are asked for their size, then the map grows with them.
        context.tell(0, 2, "looking for the LUN's new size");
        connect::rescan(context, &host.places())?;
        multipath::alike(&host.places(), lun)?;
    }
    context.tell(1, 2, "using it");
    let before = domain.space()?.total_bytes;
    domain.grow_device(authority, lun)?;
    let after = domain.space()?.total_bytes;
    if after == before {
        return Ok(done(format!(
            "domain {} uses all of LUN {lun} already: this host sees no more of it; if it has \
             grown at the storage, `nodectl storage luns --rescan` shows whether each path does",
            place.domain
        )));
    }
    Ok(done(format!(
        "domain {} has {} now, {} more; the other hosts of its pool ask the LUN for its new size \
         by themselves",
        place.domain,
        size(after),
        size(after.saturating_sub(before)),
    )))
}

pub(super) fn reduce(
    place: &Place,
    lun: &str,
    host: &Host,
    authority: &dyn Authority,
    context: &Context,
) -> Result<Answer> {
    let domain = block_domain(place, host, context)?;
    let name = lun_path(&host.lvm, lun)?;
    let lun = name.to_str().unwrap_or(lun);
    if domain.extents_on(lun)? > 0 {
        domain.unused_by_others(context, host.settings.host_id)?;
    }
    domain.remove_device(context, authority, lun)?;
    Ok(done(format!(
        "domain {} is without LUN {} and has {} now; the LUN may be taken away at the storage \
         once no host of the pool maps it",
        place.domain,
        lun.strip_prefix("/dev/mapper/").unwrap_or(lun),
        size(domain.space()?.total_bytes),
    )))
}

/// Bytes in whole GiB, which extents of domains come near to.
fn size(bytes: u64) -> String {
    format!("{} GiB", bytes >> 30)
}

// --- External leases ---

pub(super) fn lease(
    place: &Place,
    request: &LeaseRequest,
    host: &Host,
    authority: Option<&dyn Authority>,
    context: &Context,
) -> Result<Answer> {
    if is_local(&place.carrier) {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!("domain {}: local, it has no leases", place.domain),
        ));
    }
    let opened = host.open(place, context)?;
    let leases = match &opened {
        Opened::Block(domain) => Xleases::of_block(domain)?,
        Opened::File(domain) => Xleases::of_file(domain.as_ref())?,
    };
    let resources = DaemonResources::new(host.client(), 0);
    let need = || {
        authority
            .ok_or_else(|| Failure::new(FailureKind::LeaseNotHeld, "only the writer may do it"))
    };
    match request {
        LeaseRequest::Add { lease, .. } => {
            let name = leases.add(need()?, &resources, lease_id(lease)?)?;
            Ok(Answer::Lease(describe::lease(&name)))
        }
        LeaseRequest::List { .. } => {
            let found = leases.list()?;
            Ok(Answer::Leases(
                found
                    .iter()
                    .map(|(_, name)| describe::lease(name))
                    .collect(),
            ))
        }
        LeaseRequest::Show { lease, .. } => {
            let name = leases.lookup(lease_id(lease)?)?;
            Ok(Answer::Lease(owners(&name, host)))
        }
        LeaseRequest::Remove { lease, .. } => {
            let id = lease_id(lease)?;
            let name = leases.lookup(id)?;
            let held = owners(&name, host);
            if let Some(owner) = held.owners.first() {
                return Err(Failure::new(
                    FailureKind::InUse,
                    format!("lease {lease}: held by host {owner}"),
                ));
            }
            leases.remove(need()?, &resources, id)?;
            Ok(done(format!("lease {lease} is gone")))
        }
        LeaseRequest::Rebuild { .. } => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            let count = leases.rebuild(context, need()?, &resources, now)?;
            Ok(done(format!("index is whole, {count} leases were changed")))
        }
    }
}

fn lease_id(text: &str) -> Result<LeaseId> {
    text.parse().map_err(|error| bad(format!("{error}")))
}

/// A lease with who holds it, as far as the lease daemon tells.
pub(super) fn owners(name: &LeaseName, host: &Host) -> LeaseReport {
    let mut report = describe::lease(name);
    let asked = || -> std::result::Result<Vec<u32>, String> {
        let align = u32::try_from(name.alignment).map_err(|error| error.to_string())?;
        let geometry = disk_format::Geometry::new(name.block_size, align)
            .map_err(|error| error.to_string())?;
        let resource = sanlock_client::lease(
            &name.lockspace.to_string(),
            &name.resource,
            &name.location.path,
            name.location.offset,
            Some(geometry),
        )
        .map_err(|error| error.to_string())?;
        let seen = host
            .client()
            .read_resource_owners(&resource, std::time::Duration::from_secs(30))
            .map_err(|error| error.to_string())?;
        Ok(seen
            .owners
            .iter()
            .filter(|owner| owner.host_id != 0)
            .filter_map(|owner| u32::try_from(owner.host_id).ok())
            .collect())
    };
    match asked() {
        Ok(owners) => report.owners = owners,
        Err(reason) => report.reason = Some(reason),
    }
    report
}

#[cfg(test)]
#[path = "domains_tests.rs"]
mod tests;
