//! Merging a volume into its parent while no guest uses them.
//!
//! ```text
//! prepare   (manager)                base gets room for both, and the top's capacity
//! commit    (any host, base's lease) base ILLEGAL ─▶ top's data into base ─▶ LEGAL
//! finalize  (manager)                child's parent is base; top ILLEGAL; base LEAF if top was
//! ```
//!
//! Until `finalize` the guest sees the same with or without the top: after a crash
//! each part can be done again. The top is deleted afterwards like any volume.

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeType};

use super::chain::{Link, View};
use super::copy::Hold;
use super::leases::Leases;
use super::operation::{self, Job};
use super::sync::{self, Correction};
use super::wipe::{self, Disposal};
use super::{Work, bitmap, delete, prepare, qemu, size};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::layout::Layout;

/// Two neighbours of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// Their image.
    pub image: ImageId,
    /// The lower one, which stays.
    pub base: VolumeId,
    /// The upper one, whose data go into it.
    pub top: VolumeId,
}

struct Pair {
    base: Link,
    top: Link,
    /// On top of the top.
    child: Option<Link>,
}

/// Reads and checks the two. After `finalize` the child's parent is already the
/// base.
fn look(domain: &dyn Domain, merge: Merge) -> Result<Pair> {
    let wrong = |what: String| Failure::new(FailureKind::WrongState, what);
    let view = View::of_image(domain, merge.image)?;
    let base = view.link(merge.base)?.clone();
    let top = view.link(merge.top)?.clone();
    for link in [&base, &top] {
        if link.metadata.image != merge.image {
            return Err(wrong(format!(
                "volume {} belongs to image {}",
                link.entry.id, link.metadata.image
            )));
        }
        if link.metadata.volume_type == VolumeType::Shared {
            return Err(wrong(format!("volume {} is a template", link.entry.id)));
        }
    }
    if top.metadata.parent != merge.base {
        return Err(wrong(format!(
            "volume {}: its parent is {}",
            merge.top, top.metadata.parent
        )));
    }
    let mut children = view.children(merge.top);
    if children.is_empty() {
        children = view.children(merge.base);
        children.retain(|link| link.entry.id != merge.top);
    }
    if let [_, another, ..] = children.as_slice() {
        return Err(wrong(format!(
            "volume {} is a second child",
            another.entry.id
        )));
    }
    let child = children.first().map(|link| (*link).clone());
    Ok(Pair { base, top, child })
}

/// Gives the base room for the data of both, and the top's capacity. By the pool
/// manager.
///
/// # Errors
///
/// `WrongState` for volumes that cannot be merged; `NoSpace`; I/O.
pub fn prepare_merge(work: &Work<'_>, merge: Merge) -> Result<()> {
    let Pair { base, top, .. } = look(work.domain, merge)?;
    for link in [&base, &top] {
        if link.metadata.legality != Legality::Legal {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("volume {} is {}", link.entry.id, link.metadata.legality),
            ));
        }
    }
    let capacity = top
        .metadata
        .capacity_bytes
        .max(base.metadata.capacity_bytes);
    let grows = capacity > base.metadata.capacity_bytes;
    let raw = base.metadata.format == VolumeFormat::Raw;
    let to_bytes = match (raw, work.domain.kind().is_block()) {
        (true, _) => capacity,
        (false, true) => (base.entry.size_bytes.saturating_add(top.entry.size_bytes))
            .min(size::cow_maximum(capacity)),
        (false, false) => 0,
    };
    let to_bytes = if to_bytes > 0 && !raw {
        to_bytes.saturating_add(bitmaps_bytes(work, merge, &top, capacity)?)
    } else {
        to_bytes
    };
    if to_bytes > base.entry.size_bytes {
        work.domain.extend(work.authority, &base.entry, to_bytes)?;
    }
    if grows && raw && work.domain.kind().is_block() {
        // The merge writes only what the top has; the rest of the new room has to
        // show zeros as it did, not what was there before.
        zero_tail(work, &base)?;
    }
    if grows {
        let mut metadata = base.metadata.clone();
        metadata.capacity_bytes = capacity;
        if raw && !work.domain.kind().is_block() {
            // What the file has more is a hole.
            metadata.allocation = Allocation::Sparse;
        }
        work.domain
            .write_volume_metadata(work.authority, &base.entry, &metadata)?;
    }
    Ok(())
}

/// What the bitmaps of the top will take in the base.
fn bitmaps_bytes(work: &Work<'_>, merge: Merge, top: &Link, capacity: u64) -> Result<u64> {
    if top.metadata.format != VolumeFormat::Cow || work.domain.version() < DomainVersion::V4 {
        return Ok(0);
    }
    let found = bitmap::list(
        work.context,
        work.layout,
        work.domain,
        merge.image,
        merge.top,
    )?;
    Ok(found
        .iter()
        .map(|bitmap| bitmap.size_bytes(capacity))
        .fold(0, u64::saturating_add))
}

fn zero_tail(work: &Work<'_>, base: &Link) -> Result<()> {
    let entry = work.domain.volume(base.entry.id)?;
    work.domain.activate(&[&entry])?;
    let zeroed = wipe::zero_from(
        work.context,
        &work.domain.path(&entry),
        base.metadata.capacity_bytes,
        None,
    );
    if prepare::users(work.domain, work.layout, entry.id)?.is_empty() {
        work.domain.deactivate(&[&entry])?;
    }
    zeroed
}

/// Writes the top's data into the base, under the lease of the base; any host may.
/// Tells progress; when cancelled or failed the base stays ILLEGAL, and the same
/// request made again repairs it: the top still has all its data.
///
/// # Errors
///
/// Those of the lease, of `qemu-img`, I/O.
pub fn commit(
    context: &Context,
    layout: &Layout,
    domain: &dyn Domain,
    leases: &dyn Leases,
    merge: Merge,
    job: &Job,
) -> Result<()> {
    let Pair { base, top, .. } = look(domain, merge)?;
    if prepare::users(domain, layout, merge.top)?.contains(&merge.image) {
        return Err(Failure::new(
            FailureKind::InUse,
            format!(
                "image {}: prepared on this host; tear it down first",
                merge.image
            ),
        ));
    }
    operation::change_content(domain, leases, merge.base, job, |_, _| {
        let held = Hold::take_for_writing(domain, layout, merge.image, merge.top)?;
        let into = held.volume(merge.base)?;
        let from = held.volume(merge.top)?;
        if base.metadata.format == VolumeFormat::Cow
            && top.metadata.capacity_bytes > cow_capacity(&into.path)?
        {
            qemu::resize(context, &into.path, top.metadata.capacity_bytes)?;
        }
        qemu::commit(context, &into.path, &from.path, top.metadata.format)?;
        if base.metadata.format == VolumeFormat::Cow && domain.version() >= DomainVersion::V4 {
            bitmap::merge(context, &into.path, &from.path)?;
        }
        Ok(())
    })
}

fn cow_capacity(path: &std::path::Path) -> Result<u64> {
    prepare::cow_capacity(path)?.ok_or_else(|| {
        Failure::new(
            FailureKind::Damaged,
            format!("{}: no QCOW2 header", path.display()),
        )
    })
}

/// Takes the top out of the chain. By the pool manager.
///
/// # Errors
///
/// `WrongState` while the base is not LEGAL (the commit has not ended well); I/O.
pub fn finalize(work: &Work<'_>, merge: Merge) -> Result<()> {
    let Pair { base, top, child } = look(work.domain, merge)?;
    if base.metadata.legality != Legality::Legal {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "volume {} is {}; its data are not yet merged",
                merge.base, base.metadata.legality
            ),
        ));
    }
    let make_illegal = || {
        let mut metadata = top.metadata.clone();
        metadata.legality = Legality::Illegal;
        work.domain
            .write_volume_metadata(work.authority, &top.entry, &metadata)
    };
    match child {
        Some(child) => {
            adopt(work, merge, &child, base.metadata.format)?;
            make_illegal()
        }
        None => {
            // First of all nobody may start on the old leaf any more.
            make_illegal()?;
            let mut metadata = base.metadata.clone();
            metadata.volume_type = VolumeType::Leaf;
            work.domain
                .write_volume_metadata(work.authority, &base.entry, &metadata)
        }
    }
}

/// Makes the base the parent of `child`: in its header, its metadata, its tag.
fn adopt(work: &Work<'_>, merge: Merge, child: &Link, format: VolumeFormat) -> Result<()> {
    if child.metadata.parent == merge.top {
        work.domain.activate(&[&child.entry])?;
        let rebased = qemu::rebase(
            work.context,
            &work.domain.path(&child.entry),
            Some((&merge.base.to_string(), format)),
        );
        if prepare::users(work.domain, work.layout, child.entry.id)?.is_empty() {
            work.domain.deactivate(&[&child.entry])?;
        }
        rebased?;
        let mut metadata = child.metadata.clone();
        metadata.parent = merge.base;
        work.domain
            .write_volume_metadata(work.authority, &child.entry, &metadata)?;
    }
    work.domain
        .set_parent_tag(work.authority, &child.entry, merge.base)
}

/// All of it on one host, the top's deletion included.
///
/// # Errors
///
/// Those of the parts. The same request made again goes on.
pub fn merge(work: &Work<'_>, merge: Merge, job: &Job, disposal: Disposal) -> Result<()> {
    let doing =
        |failure: Failure| failure.while_doing(format!("merge {} into {}", merge.top, merge.base));
    let view = View::of_image(work.domain, merge.image)?;
    let finalized = match view.link(merge.top) {
        Ok(top) => top.metadata.legality == Legality::Illegal,
        Err(failure) if failure.kind == FailureKind::NotFound => true,
        Err(failure) => return Err(doing(failure)),
    };
    if !finalized {
        let base = view.link(merge.base).map_err(doing)?;
        if base.metadata.legality == Legality::Legal {
            prepare_merge(work, merge).map_err(doing)?;
        }
        work.authority.rest(&work.domain.id().to_string());
        commit(
            work.context,
            work.layout,
            work.domain,
            work.leases,
            merge,
            job,
        )
        .map_err(doing)?;
    }
    if view.find(merge.top).is_some() {
        finalize(work, merge).map_err(doing)?;
    }
    delete::delete_volume(work, merge.top, disposal)
}

/// Makes the metadata of a chain agree with what the hypervisor has open: after a
/// live merge, and when one is recovered. By any host; a tag that names an old
/// parent stays until the pool manager deletes that one. Returns what was
/// corrected; repeating it corrects nothing.
///
/// # Errors
///
/// `WrongState` for chains that cannot be one another: nothing is changed then;
/// authority; I/O.
pub fn sync_chain(
    domain: &dyn Domain,
    authority: &dyn Authority,
    image: ImageId,
    leaf: VolumeId,
    actual: &[VolumeId],
) -> Result<Vec<Correction>> {
    let view = View::of_image(domain, image)?;
    let chain = view.chain(leaf)?;
    let stored: Vec<VolumeId> = chain.iter().map(|link| link.entry.id).collect();
    let legal = view.link(leaf)?.metadata.legality == Legality::Legal;
    let corrections = sync::corrections(&stored, legal, actual).map_err(|error| {
        Failure::new(FailureKind::WrongState, format!("image {image}: {error}"))
    })?;
    for correction in &corrections {
        let (id, change): (_, &dyn Fn(&mut VolumeMetadata)) = match correction {
            Correction::MarkIllegal { leaf } => (leaf, &|m| m.legality = Legality::Illegal),
            Correction::MarkLegal { leaf } => (leaf, &|m| m.legality = Legality::Legal),
            Correction::SetParent { child, parent } => (child, &|m| m.parent = *parent),
        };
        let link = view.link(*id)?;
        let mut metadata = link.metadata.clone();
        change(&mut metadata);
        domain.write_volume_metadata(authority, &link.entry, &metadata)?;
    }
    Ok(corrections)
}
