//! Deleting volumes and images.
//!
//! A volume goes through these states, each left by one atomic step, so that the
//! same request made again goes on from any of them:
//!
//! ```text
//! live ─▶ ILLEGAL ─▶ (parent LEAF again) ─▶ marked for removal ─▶ zeroed ─▶ gone
//! ```

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::volume::{Legality, VolumeType};

use super::chain::{Link, View};
use super::wipe::{self, Disposal};
use super::{Work, prepare};
use crate::domain::{EntryState, VolumeEntry};
use crate::job::Result;

/// Deletes a volume that has no children.
///
/// # Errors
///
/// `NotFound`; `InUse` while it has a child, or is prepared on this host;
/// `Damaged` when it cannot be told whether it has; authority; I/O.
pub fn delete_volume(work: &Work<'_>, volume: VolumeId, disposal: Disposal) -> Result<()> {
    let doing = |failure: Failure| failure.while_doing(format!("delete volume {volume}"));
    let entries = work.domain.volumes()?;
    let Some(entry) = entries.iter().find(|e| e.id == volume && e.is_live()) else {
        // Marked by an attempt that did not end.
        let Some(rest) = entries.iter().find(|e| e.id == volume) else {
            return Err(doing(Failure::new(
                FailureKind::NotFound,
                format!("volume {volume}: not in domain {}", work.domain.id()),
            )));
        };
        return wipe::finish(work, rest, disposal).map_err(doing);
    };
    delete_live(work, entry, disposal).map_err(doing)
}

fn delete_live(work: &Work<'_>, entry: &VolumeEntry, disposal: Disposal) -> Result<()> {
    let view = View::of_image(work.domain, entry.image)?;
    let link = match view.link(entry.id) {
        Ok(link) => Some(link.clone()),
        // Unreadable metadata are no reason to keep it for ever.
        Err(failure) if failure.kind == FailureKind::Damaged => None,
        Err(failure) => return Err(failure),
    };
    // A template's children are in other images; without metadata it may be one.
    let shared = link
        .as_ref()
        .is_none_or(|l| l.metadata.volume_type == VolumeType::Shared);
    let all;
    let around = if shared {
        all = View::of_domain(work.domain)?;
        &all
    } else {
        &view
    };
    refuse_children(around, entry)?;
    prepare::refuse_prepared(work.layout, work.domain, entry)?;
    repair_tags(work, around, entry)?;
    if let Some(link) = &link {
        match make_illegal(work, link) {
            // On a full file system nothing can be written, and deleting is what
            // makes room. With no parent to be told, marking it is one step anyway.
            Err(failure)
                if failure.kind == FailureKind::NoSpace
                    && parent_to_release(&view, link).is_none() =>
            {
                tracing::info!(volume = %entry.id, %failure, "deleted without being ILLEGAL first");
            }
            done => done?,
        }
        release_parent(work, &view, link)?;
    }
    let marked = work
        .domain
        .mark_removed(work.authority, entry, disposal.wipe)?;
    wipe::finish(work, &marked, disposal)?;
    work.domain.forget_image(work.authority, entry.image)
}

fn refuse_children(view: &View, entry: &VolumeEntry) -> Result<()> {
    if let Some(child) = view.children(entry.id).first() {
        return Err(Failure::new(
            FailureKind::InUse,
            format!(
                "volume {}: is the parent of volume {} of image {}",
                entry.id, child.entry.id, child.metadata.image
            ),
        ));
    }
    if let Some(other) = view.suspected_children(entry).first() {
        return Err(Failure::new(
            FailureKind::Damaged,
            format!(
                "volume {}: metadata of volume {other} cannot be read, it may be its child",
                entry.id
            ),
        ));
    }
    Ok(())
}

/// Corrects tags that still name `entry` as parent: a host that merged could only
/// write the metadata.
fn repair_tags(work: &Work<'_>, view: &View, entry: &VolumeEntry) -> Result<()> {
    for link in view.links() {
        if link.entry.parent_tag == Some(entry.id) && link.metadata.parent != entry.id {
            tracing::info!(volume = %link.entry.id, parent = %link.metadata.parent, "tag of the parent corrected");
            work.domain
                .set_parent_tag(work.authority, &link.entry, link.metadata.parent)?;
        }
    }
    Ok(())
}

fn make_illegal(work: &Work<'_>, link: &Link) -> Result<()> {
    if link.metadata.legality == Legality::Illegal {
        return Ok(());
    }
    let mut metadata = link.metadata.clone();
    metadata.legality = Legality::Illegal;
    work.domain
        .write_volume_metadata(work.authority, &link.entry, &metadata)
}

/// The parent that is a leaf again when this last child of its is gone.
fn parent_to_release<'a>(view: &'a View, link: &Link) -> Option<&'a Link> {
    let parent = view.link(link.metadata.parent).ok()?;
    let others = view
        .children(parent.entry.id)
        .iter()
        .any(|child| child.entry.id != link.entry.id);
    if others
        || parent.metadata.volume_type != VolumeType::Internal
        || parent.metadata.image != link.metadata.image
        || !view.suspected_children(&parent.entry).is_empty()
    {
        return None;
    }
    Some(parent)
}

/// Makes the parent a leaf again when this was its last child.
fn release_parent(work: &Work<'_>, view: &View, link: &Link) -> Result<()> {
    let Some(parent) = parent_to_release(view, link) else {
        return Ok(());
    };
    let mut metadata = parent.metadata.clone();
    metadata.volume_type = VolumeType::Leaf;
    work.domain
        .write_volume_metadata(work.authority, &parent.entry, &metadata)
}

/// Deletes an image with all its volumes.
///
/// # Errors
///
/// `NotFound`; `InUse` while another image stands on one of its volumes, or it is
/// prepared on this host; authority; I/O. What is marked by then is finished by
/// the same request, or by [`wipe::resume_wipes`].
pub fn delete_image(work: &Work<'_>, image: ImageId, disposal: Disposal) -> Result<()> {
    let doing = |failure: Failure| failure.while_doing(format!("delete image {image}"));
    delete_all(work, image, disposal).map_err(doing)
}

fn delete_all(work: &Work<'_>, image: ImageId, disposal: Disposal) -> Result<()> {
    let view = View::of_domain(work.domain)?;
    let own = |entry: &&VolumeEntry| entry.image == image;
    let known = view
        .entries
        .iter()
        .filter(own)
        .any(|e| e.state != EntryState::HalfMade);
    if !known {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("image {image}: not in domain {}", work.domain.id()),
        ));
    }
    for entry in view.entries.iter().filter(own).filter(|e| e.is_live()) {
        let child = view
            .children(entry.id)
            .into_iter()
            .find(|child| child.metadata.image != image);
        if let Some(child) = child {
            return Err(Failure::new(
                FailureKind::InUse,
                format!(
                    "volume {}: is the parent of volume {} of image {}",
                    entry.id, child.entry.id, child.metadata.image
                ),
            ));
        }
        // In another image, and unreadable: its tag decides.
        let other = view
            .suspected_children(entry)
            .into_iter()
            .find(|id| view.find(*id).is_some_and(|e| e.image != image));
        if let Some(other) = other {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!(
                    "volume {}: metadata of volume {other} cannot be read, it may be its child",
                    entry.id
                ),
            ));
        }
        prepare::refuse_prepared(work.layout, work.domain, entry)?;
    }
    if work.domain.kind().is_block() {
        mark_from_the_top(work, &view, image, disposal)?;
    }
    let marked = work
        .domain
        .mark_image_removed(work.authority, image, disposal.wipe)?;
    let total = u64::try_from(marked.len()).unwrap_or(u64::MAX);
    for (done, entry) in (0..).zip(&marked) {
        work.context.tell(done, total, "remove volumes");
        wipe::finish(work, entry, disposal)?;
    }
    Ok(())
}

/// Marks the volumes of an image one by one, each before the one it stands on, so
/// that a crash in between leaves chains that are whole.
fn mark_from_the_top(
    work: &Work<'_>,
    view: &View,
    image: ImageId,
    disposal: Disposal,
) -> Result<()> {
    let mut own: Vec<(usize, &Link)> = view
        .links()
        .filter(|link| link.entry.image == image)
        .map(|link| (view.chain(link.entry.id).map_or(0, |c| c.len()), link))
        .collect();
    own.sort_by_key(|(height, _)| std::cmp::Reverse(*height));
    // The last one is left to the domain, together with what cannot be read.
    for (_, link) in own.iter().take(own.len().saturating_sub(1)) {
        work.context.go_on()?;
        work.domain
            .mark_removed(work.authority, &link.entry, disposal.wipe)?;
    }
    Ok(())
}
