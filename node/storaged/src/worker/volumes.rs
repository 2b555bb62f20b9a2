//! Work on volumes and images.

use control::storage::report::{BitmapReport, PreparedReport, PreparedVolume, VolumeReport};
use control::storage::request::{BitmapChange, CopyTarget, Format, NewVolume, VolumeRequest};
use control::storage::{Answer, Failure, FailureKind, VolumeName};
use disk_format::vdsm::domain::DomainClass;
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::volume::{Allocation, DiskType, Legality, VolumeFormat};

use super::dispatch::{bad, done};
use super::host::Host;
use super::work::Place;
use super::{describe, domains};
use crate::authority::Authority;
use crate::domain::{Domain, VolumeEntry};
use crate::image::chain::View;
use crate::image::copy::{CopyOptions, NewCopy, Source, copy_image};
use crate::image::create::{CreateVolume, create};
use crate::image::leases::LeaseName;
use crate::image::merge::{Merge, merge};
use crate::image::operation::{self, Job, Update};
use crate::image::prepare::{self, Prepared, Wanted};
use crate::image::wipe::Disposal;
use crate::image::{Work, bitmap, delete, resize};
use crate::job::{Context, Result};

/// Does a request about volumes.
pub(super) fn run(
    place: &Place,
    target: Option<&Place>,
    request: &VolumeRequest,
    host: &Host,
    authority: Option<&dyn Authority>,
    context: &Context,
) -> Result<Answer> {
    let domain = host.open(place, context)?.domain();
    let domain = domain.as_ref();
    let layout = &host.settings.layout;
    match request {
        VolumeRequest::List { image, .. } => return list(domain, image.as_deref()),
        VolumeRequest::Show { volume } => return show(domain, volume),
        VolumeRequest::Prepare {
            image,
            leaf,
            allow_illegal,
            ..
        } => {
            let wanted = Wanted {
                image: image_id(image)?,
                leaf: leaf.as_deref().map(volume_id).transpose()?,
                allow_illegal: *allow_illegal,
            };
            let prepared = prepare::prepare(domain, layout, wanted, authority)?;
            return Ok(Answer::Prepared(prepared_report(&prepared)));
        }
        VolumeRequest::Teardown { image, .. } => {
            prepare::teardown(domain, layout, image_id(image)?)?;
            return Ok(done(format!("image {image} is torn down")));
        }
        VolumeRequest::LeaseShow { volume } => {
            let entry = named(domain, volume, Reach::Links)?;
            let name = LeaseName::of_entry(domain, &entry);
            return Ok(Answer::Lease(domains::owners(&name, host)));
        }
        VolumeRequest::Bitmaps { volume } => {
            let (image, id) = (image_id(&volume.image)?, volume_id(&volume.volume)?);
            let found = bitmap::list(context, layout, domain, image, id)?;
            return Ok(Answer::Bitmaps(
                found.into_iter().map(bitmap_report).collect(),
            ));
        }
        VolumeRequest::Refresh { volume } => return refresh(place, volume, host, context),
        VolumeRequest::Watch { .. }
        | VolumeRequest::Unwatch { .. }
        | VolumeRequest::Guest { .. } => {
            return Err(bad("watches are the daemon's own"));
        }
        _ => {}
    }
    let leases = host.leases(&place.carrier);
    let work = host.image_work(context, domain, authority, leases.as_ref())?;
    change(&work, target, request, host)
}

fn change(
    work: &Work<'_>,
    target: Option<&Place>,
    request: &VolumeRequest,
    host: &Host,
) -> Result<Answer> {
    // Before anything is read on which the change rests: with a manager per domain
    // another host may be changing it until the lease is ours.
    let changed = target.map_or_else(
        || work.domain.id().to_string(),
        |target| target.domain.clone(),
    );
    work.authority.check(&changed)?;
    match request {
        VolumeRequest::Create(new) => {
            let request = create_volume(work.domain, new)?;
            create(work, &request)?;
            Ok(made(work.domain, request.image, request.volume))
        }
        VolumeRequest::Snapshot { image, volume, .. } => {
            let image = image_id(image)?;
            let view = View::of_image(work.domain, image)?;
            let leaf = view.leaf(image)?;
            let volume = volume_id(volume.as_deref().unwrap_or_default())?;
            let request = CreateVolume {
                parent: Some(leaf.entry.id),
                again: true,
                ..CreateVolume::new(image, volume, 0)
            };
            create(work, &request)?;
            Ok(made(work.domain, image, volume))
        }
        VolumeRequest::Extend {
            volume,
            capacity_bytes,
            size_bytes,
        } => {
            let id = named(work.domain, volume, Reach::Own)?.id;
            if let Some(capacity) = capacity_bytes {
                resize::set_capacity(work, id, *capacity)?;
            }
            if let Some(size) = size_bytes {
                resize::extend(work, id, *size)?;
            }
            show(work.domain, volume)
        }
        VolumeRequest::Shrink { volume } => {
            let id = named(work.domain, volume, Reach::Own)?.id;
            resize::reduce(work, id)?;
            show(work.domain, volume)
        }
        VolumeRequest::Delete {
            volume,
            wipe,
            discard,
        } => {
            let disposal = disposal(host, *wipe, *discard);
            let id = named(work.domain, volume, Reach::Removed)?.id;
            delete::delete_volume(work, id, disposal)?;
            Ok(done(format!("volume {} is gone", volume.volume)))
        }
        VolumeRequest::DeleteImage {
            image,
            wipe,
            discard,
            ..
        } => {
            delete::delete_image(work, image_id(image)?, disposal(host, *wipe, *discard))?;
            Ok(done(format!("image {image} is gone")))
        }
        VolumeRequest::Copy {
            source,
            target: new,
        } => copy(work, target, source, new, false, host),
        VolumeRequest::Template {
            source,
            target: new,
        } => copy(work, target, source, new, true, host),
        VolumeRequest::Merge {
            volume,
            wipe,
            discard,
        } => {
            let image = image_id(&volume.image)?;
            let top = volume_id(&volume.volume)?;
            let view = View::of_image(work.domain, image)?;
            let base = view.link(top)?.metadata.parent;
            if base.is_blank() {
                return Err(bad(format!(
                    "volume {top}: has no parent to be merged into"
                )));
            }
            let pair = Merge { image, base, top };
            merge(work, pair, &job(host), disposal(host, *wipe, *discard))?;
            Ok(done(format!("volume {top} is merged into {base}")))
        }
        VolumeRequest::Set {
            volume,
            legal,
            description,
        } => {
            let update = Update {
                legality: legal.map(|legal| {
                    if legal {
                        Legality::Legal
                    } else {
                        Legality::Illegal
                    }
                }),
                description: description.clone(),
                ..Update::default()
            };
            let id = named(work.domain, volume, Reach::Own)?.id;
            operation::update(work.domain, work.leases, id, &update)?;
            show(work.domain, volume)
        }
        VolumeRequest::Bitmap { volume, change } => {
            let (image, id) = (image_id(&volume.image)?, volume_id(&volume.volume)?);
            bitmap::change(
                work.context,
                work.layout,
                work.domain,
                work.leases,
                (image, id),
                &job(host),
                &bitmap_change(change),
            )?;
            Ok(done(format!("bitmaps of volume {id} are changed")))
        }
        VolumeRequest::List { .. }
        | VolumeRequest::Show { .. }
        | VolumeRequest::Prepare { .. }
        | VolumeRequest::Teardown { .. }
        | VolumeRequest::LeaseShow { .. }
        | VolumeRequest::Bitmaps { .. }
        | VolumeRequest::Refresh { .. }
        | VolumeRequest::Watch { .. }
        | VolumeRequest::Unwatch { .. }
        | VolumeRequest::Guest { .. } => Err(bad("changes nothing")),
    }
}

fn copy(
    work: &Work<'_>,
    target: Option<&Place>,
    source: &VolumeName,
    new: &CopyTarget,
    template: bool,
    host: &Host,
) -> Result<Answer> {
    let place = target.ok_or_else(|| bad("copy: no target domain"))?;
    let domain = host.open(place, work.context)?.domain();
    refuse_among_media(domain.as_ref())?;
    let leases = host.leases(&place.carrier);
    let into = Work {
        domain: domain.as_ref(),
        leases: leases.as_ref(),
        ..*work
    };
    let copy = NewCopy {
        image: image_id(new.image.as_deref().unwrap_or_default())?,
        volume: volume_id(new.volume.as_deref().unwrap_or_default())?,
        format: new.format.map(volume_format),
        allocation: allocation(new.preallocated),
        description: None,
        template,
        options: CopyOptions {
            job: job(host),
            bitmaps: new.bitmaps,
            mib_per_s: new.mib_per_s,
            ..CopyOptions::default()
        },
        again: false,
    };
    let from = Source {
        domain: work.domain,
        image: image_id(&source.image)?,
        volume: volume_id(&source.volume)?,
    };
    copy_image(&into, from, &copy)?;
    Ok(made(into.domain, copy.image, copy.volume))
}

/// Loads the present size of an active volume.
pub(super) fn refresh(
    place: &Place,
    volume: &VolumeName,
    host: &Host,
    context: &Context,
) -> Result<Answer> {
    let domain = host.open(place, context)?.domain();
    let domain = domain.as_ref();
    let entry = named(domain, volume, Reach::Links)?;
    domain.refresh(&[&entry])?;
    // Loading its size works whatever its metadata are.
    let mut report = match domain.volume_metadata(&entry) {
        Ok(metadata) => describe::volume(domain, &entry, &metadata),
        Err(_) => describe::entry(domain, &entry),
    };
    // What this host maps counts, not what the metadata say.
    let path = domain.path(&entry);
    if let Ok(size) = crate::thin::size_bytes(&path, &host.settings.layout.sys) {
        report.size_bytes = size;
    }
    Ok(Answer::Volume(report))
}

fn list(domain: &dyn Domain, image: Option<&str>) -> Result<Answer> {
    let image = image.map(image_id).transpose()?;
    let view = match image {
        Some(image) => View::of_image(domain, image)?,
        None => View::of_domain(domain)?,
    };
    let mut reports: Vec<VolumeReport> = view
        .entries
        .iter()
        .filter(|entry| image.is_none_or(|image| entry.image == image))
        .map(|entry| {
            if !entry.is_live() {
                return describe::entry(domain, entry);
            }
            match view.link(entry.id) {
                Ok(link) => describe::volume(domain, entry, &link.metadata),
                Err(failure) => VolumeReport {
                    state: "broken".to_owned(),
                    reason: Some(failure.message),
                    ..describe::entry(domain, entry)
                },
            }
        })
        .collect();
    reports
        .sort_by(|a, b| (&a.image, a.sequence, &a.volume).cmp(&(&b.image, b.sequence, &b.volume)));
    Ok(Answer::Volumes(reports))
}

fn show(domain: &dyn Domain, name: &VolumeName) -> Result<Answer> {
    let entry = named(domain, name, Reach::Links)?;
    let metadata = domain.volume_metadata(&entry)?;
    let mut report = describe::volume(domain, &entry, &metadata);
    let path = domain.path(&entry);
    if path.exists() {
        report.path = Some(path.display().to_string());
    }
    Ok(Answer::Volume(report))
}

/// Which volumes a name may be of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Live ones of the image.
    Own,
    /// Those, and a template's that the image has links to.
    Links,
    /// Live ones of the image, and those whose removal has not ended.
    Removed,
}

/// The volume of this name. One of another image is not it: whoever mistook the
/// image meant another volume, perhaps.
fn named(domain: &dyn Domain, name: &VolumeName, reach: Reach) -> Result<VolumeEntry> {
    let (image, id) = (image_id(&name.image)?, volume_id(&name.volume)?);
    let entry = match domain.volume(id) {
        Err(failure) if failure.kind == FailureKind::NotFound && reach == Reach::Removed => {
            let left = domain.volumes()?.into_iter().find(|entry| entry.id == id);
            left.ok_or(failure)?
        }
        found => found?,
    };
    let linked = reach == Reach::Links && entry.shared_with.contains(&image);
    if entry.image == image || linked {
        return Ok(entry);
    }
    Err(Failure::new(
        FailureKind::NotFound,
        format!("volume {id}: of image {}, not of {image}", entry.image),
    ))
}

fn prepared_report(prepared: &Prepared) -> PreparedReport {
    PreparedReport {
        path: prepared.path.display().to_string(),
        chain: prepared
            .chain
            .iter()
            .map(|volume| {
                let lease = volume.lease.as_ref();
                PreparedVolume {
                    volume: volume.id.to_string(),
                    path: volume.path.display().to_string(),
                    lease_path: lease.map_or_else(String::new, |at| at.path.display().to_string()),
                    lease_offset: lease.map_or(0, |at| at.offset),
                }
            })
            .collect(),
    }
}

/// Media are files that people put there: nothing would find a volume beside them.
pub(super) fn refuse_among_media(domain: &dyn Domain) -> Result<()> {
    if domain.metadata()?.class() != DomainClass::Iso {
        return Ok(());
    }
    Err(bad(format!(
        "domain {}: of class iso, it holds media and no volumes",
        domain.id()
    )))
}

fn create_volume(domain: &dyn Domain, new: &NewVolume) -> Result<CreateVolume> {
    refuse_among_media(domain)?;
    let thin = domain.kind().is_block() && new.format == Format::Cow && !new.preallocated;
    if let Some(initial) = new.initial_bytes.filter(|_| !thin) {
        return Err(bad(format!(
            "initial size {initial}: only thin QCOW2 volumes on LUNs have one"
        )));
    }
    let image = image_id(new.image.as_deref().unwrap_or_default())?;
    let volume = volume_id(new.volume.as_deref().unwrap_or_default())?;
    Ok(CreateVolume {
        parent: new.parent.as_deref().map(volume_id).transpose()?,
        parent_image: new.parent_image.as_deref().map(image_id).transpose()?,
        initial_bytes: new.initial_bytes,
        format: volume_format(new.format),
        allocation: allocation(new.preallocated),
        description: new.description.clone(),
        disk_type: match &new.disk_type {
            Some(word) => word
                .parse::<DiskType>()
                .map_err(|error| bad(format!("{error}")))?,
            None => DiskType::Data,
        },
        again: true,
        ..CreateVolume::new(image, volume, new.capacity_bytes)
    })
}

fn made(domain: &dyn Domain, image: ImageId, volume: VolumeId) -> Answer {
    Answer::MadeVolume(VolumeName {
        domain: domain.id().to_string(),
        image: image.to_string(),
        volume: volume.to_string(),
    })
}

fn disposal(host: &Host, wipe: bool, discard: bool) -> Disposal {
    let by_configuration = Disposal::of(&host.settings.giving_back);
    Disposal {
        wipe,
        discard: discard || by_configuration.discard,
        ..by_configuration
    }
}

fn bitmap_change(change: &BitmapChange) -> bitmap::Change {
    match change.clone() {
        BitmapChange::Add {
            name,
            granularity_bytes,
            disabled,
        } => bitmap::Change::Add {
            name,
            granularity_bytes,
            enabled: !disabled,
        },
        BitmapChange::Remove { name } => bitmap::Change::Remove { name },
        BitmapChange::Clear => bitmap::Change::Clear,
    }
}

fn bitmap_report(bitmap: bitmap::Bitmap) -> BitmapReport {
    BitmapReport {
        name: bitmap.name,
        granularity_bytes: bitmap.granularity_bytes,
        enabled: bitmap.enabled,
        broken: bitmap.broken,
    }
}

fn job(host: &Host) -> Job {
    Job {
        host: host.settings.host_name.clone(),
        ..Job::default()
    }
}

fn volume_format(format: Format) -> VolumeFormat {
    match format {
        Format::Raw => VolumeFormat::Raw,
        Format::Cow => VolumeFormat::Cow,
    }
}

fn allocation(preallocated: bool) -> Allocation {
    if preallocated {
        Allocation::Preallocated
    } else {
        Allocation::Sparse
    }
}

fn image_id(text: &str) -> Result<ImageId> {
    text.parse().map_err(|error| bad(format!("{error}")))
}

fn volume_id(text: &str) -> Result<VolumeId> {
    text.parse().map_err(|error| bad(format!("{error}")))
}

#[cfg(test)]
mod tests {
    use disk_format::vdsm::domain::DomainType;
    use disk_format::vdsm::version::DomainVersion;

    use super::*;
    use crate::file::{FileDomain, NewFileDomain};
    use crate::image::leases::NoLeases;

    #[test]
    fn media_and_volumes_are_kept_apart() {
        for (class, taken) in [
            (DomainClass::Data, true),
            (DomainClass::Backup, true),
            (DomainClass::Iso, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let new = NewFileDomain {
                id: "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap(),
                version: DomainVersion::V5,
                kind: DomainType::LocalFs,
                class,
                description: "media".to_owned(),
                remote_path: "/media".to_owned(),
                block_size: None,
                hosts_max: 250,
            };
            let domain = FileDomain::create(&Context::quiet(), dir.path(), &new, &NoLeases);
            let answer = refuse_among_media(&domain.unwrap());
            assert_eq!(answer.is_ok(), taken, "{class:?}: {answer:?}");
        }
    }
}
