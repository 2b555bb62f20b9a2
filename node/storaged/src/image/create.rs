//! Making volumes.
//!
//! In this order, each step undone when a later one fails; after a crash the same
//! request made again (`again`) finishes or starts over:
//!
//! 1. rules, against what is there; metadata encoded once, so that nothing is
//!    begun that cannot be written down
//! 2. the image's directory; links to the template's volumes
//! 3. parent LEAF → INTERNAL
//! 4. space, invisible to everybody
//! 5. data: QCOW2 header, or a file of the right length
//! 6. the volume's lease
//! 7. metadata, and in one step: visible
//! 8. the host lets go of it

use std::time::{SystemTime, UNIX_EPOCH};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::volume::{
    Allocation, DiskType, Legality, SlotFormat, VolumeFormat, VolumeMetadata, VolumeType,
    cut_description,
};

use super::Work;
use super::chain::{Link, View};
use super::leases::LeaseName;
use super::{preallocate, qemu, size};
use crate::domain::{DomainKind, Draft, EntryState, NewVolume, VolumeEntry};
use crate::job::Result;

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateVolume {
    /// Its image.
    pub image: ImageId,
    /// Its id.
    pub volume: VolumeId,
    /// The volume below it; a template's when it is of another image.
    pub parent: Option<VolumeId>,
    /// The image its parent must be of; any when absent.
    pub parent_image: Option<ImageId>,
    /// What the guest sees, in bytes; the parent's when 0.
    pub capacity_bytes: u64,
    /// Bytes of data a QCOW2 volume on a block domain has room for at first.
    pub initial_bytes: Option<u64>,
    /// RAW or COW.
    pub format: VolumeFormat,
    /// Whether all room is taken now.
    pub allocation: Allocation,
    /// Free text of one line, cut to 210 bytes.
    pub description: String,
    /// What for.
    pub disk_type: DiskType,
    /// Position of creation within its image; after the last one when absent.
    pub sequence: Option<u32>,
    /// Whether it may be used at once; a target of a copy may not.
    pub legal: bool,
    /// Whether it is a template.
    pub template: bool,
    /// An earlier attempt of the same request may have made it: then it is
    /// taken as it is instead of being in the way.
    pub again: bool,
}

impl CreateVolume {
    /// A volume with the usual choices: sparse QCOW2 data, legal, no parent.
    #[must_use]
    pub fn new(image: ImageId, volume: VolumeId, capacity_bytes: u64) -> Self {
        Self {
            image,
            volume,
            parent: None,
            parent_image: None,
            capacity_bytes,
            initial_bytes: None,
            format: VolumeFormat::Cow,
            allocation: Allocation::Sparse,
            description: String::new(),
            disk_type: DiskType::Data,
            sequence: None,
            legal: true,
            template: false,
            again: false,
        }
    }
}

/// Makes a volume.
///
/// # Errors
///
/// `BadRequest` for a combination that is not allowed; `WrongState` for a parent
/// that may not have a child; `Exists`; `NoSpace`; authority; I/O. Nothing is left
/// behind unless it is I/O that failed twice: that is half-made, and collected.
pub fn create(work: &Work<'_>, request: &CreateVolume) -> Result<VolumeEntry> {
    work.context.go_on()?;
    let view = View::of_image(work.domain, request.image)?;
    if let Some(made) = made_before(work, &view, request)? {
        return Ok(made);
    }
    let plan = plan(work, &view, request)?;
    let mut undo = Undo::default();
    match steps(work, &view, request, &plan, &mut undo) {
        Ok(entry) => Ok(entry),
        Err(failure) => {
            undo.all();
            Err(failure.while_doing(format!("create volume {}", request.volume)))
        }
    }
}

/// Deals with what an earlier attempt left: a half-made volume goes, a whole one
/// is returned to who asks `again`.
fn made_before(
    work: &Work<'_>,
    view: &View,
    request: &CreateVolume,
) -> Result<Option<VolumeEntry>> {
    let exists = |what: &str| {
        Err(Failure::new(
            FailureKind::Exists,
            format!("volume {}: {what}", request.volume),
        ))
    };
    for entry in view.entries.iter().filter(|e| e.id == request.volume) {
        match entry.state {
            EntryState::HalfMade => work.domain.remove(work.authority, entry)?,
            EntryState::Removed { .. } => {
                return exists("still being removed; finish that first");
            }
            EntryState::Live => {
                let same = request.again
                    && entry.image == request.image
                    && work.domain.volume_metadata(entry).is_ok_and(|found| {
                        let parent = request.parent.unwrap_or(VolumeId::BLANK);
                        // Asked for "a child of the leaf", which is itself by now.
                        let is_leaf = parent == request.volume;
                        found.format == request.format
                            && (found.parent == parent || is_leaf)
                            && found.generation == 0
                    });
                if same {
                    return Ok(Some(entry.clone()));
                }
                return exists("there already");
            }
        }
    }
    Ok(None)
}

struct Plan {
    metadata: VolumeMetadata,
    size_bytes: u64,
    /// Name and format for the QCOW2 header.
    backing: Option<(String, VolumeFormat)>,
    /// Volumes of another image to be linked.
    shared: Vec<VolumeEntry>,
    /// To become INTERNAL.
    parent: Option<Link>,
}

fn plan(work: &Work<'_>, view: &View, request: &CreateVolume) -> Result<Plan> {
    let bad = |what: String| {
        Failure::new(
            FailureKind::BadRequest,
            format!("volume {}: {what}", request.volume),
        )
    };
    if request.volume.is_blank() || request.image.is_blank() {
        return Err(bad(format!("blank id, of image {}", request.image)));
    }
    if request.image == ImageId::ISO_IMAGE {
        return Err(bad(format!(
            "image {} stands for the files of an ISO domain; choose another id",
            request.image
        )));
    }
    let block = work.domain.kind().is_block();
    if request.format == VolumeFormat::Raw {
        if request.parent.is_some() {
            return Err(bad("RAW has no parent; use COW".into()));
        }
        if block && request.allocation == Allocation::Sparse {
            return Err(bad(
                "RAW and sparse is not possible on a block domain".into()
            ));
        }
    }
    let (parent, shared) = match request.parent {
        Some(parent) => {
            let (link, shared) = parent_of(work, view, request, parent)?;
            (Some(link), shared)
        }
        None => (None, Vec::new()),
    };
    let below = parent.as_ref().map_or(0, |p| p.metadata.capacity_bytes);
    let asked = match request.capacity_bytes {
        0 => below,
        asked => asked,
    };
    let capacity = size::capacity(asked).map_err(bad)?;
    if capacity == 0 {
        return Err(bad("capacity 0; smallest is 4096 bytes".into()));
    }
    if capacity < below {
        return Err(bad(format!(
            "capacity {capacity}: less than its parent's {below}"
        )));
    }
    let size_bytes = match (block, request.format) {
        (true, VolumeFormat::Raw) => capacity,
        (true, VolumeFormat::Cow) => size::cow_initial(
            &work.growth,
            capacity,
            request.allocation == Allocation::Preallocated,
            request.initial_bytes,
        ),
        (false, _) => 0,
    };
    let sequence = request.sequence.unwrap_or_else(|| {
        view.links()
            .filter(|link| link.metadata.image == request.image)
            .map(|link| link.metadata.sequence.saturating_add(1))
            .max()
            .unwrap_or(0)
    });
    let metadata = VolumeMetadata {
        domain: work.domain.id(),
        image: request.image,
        parent: request.parent.unwrap_or(VolumeId::BLANK),
        capacity_bytes: capacity,
        ctime_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs()),
        description: cut_description(&request.description).trim_end().to_owned(),
        disk_type: request.disk_type,
        format: request.format,
        generation: 0,
        legality: if request.legal {
            Legality::Legal
        } else {
            Legality::Illegal
        },
        sequence,
        volume_type: if request.template {
            VolumeType::Shared
        } else {
            VolumeType::Leaf
        },
        allocation: request.allocation,
    };
    metadata
        .encode_slot(SlotFormat::of(work.domain.version()))
        .map_err(|e| bad(e.to_string()))?;
    Ok(Plan {
        backing: parent
            .as_ref()
            .map(|link| (link.entry.id.to_string(), link.metadata.format)),
        metadata,
        size_bytes,
        shared,
        parent: parent.filter(|link| link.metadata.volume_type == VolumeType::Leaf),
    })
}

/// Checks that `parent` may have this child. Returns it, and what of another
/// image has to be linked.
fn parent_of(
    work: &Work<'_>,
    view: &View,
    request: &CreateVolume,
    parent: VolumeId,
) -> Result<(Link, Vec<VolumeEntry>)> {
    let wrong =
        |what: String| Failure::new(FailureKind::WrongState, format!("parent {parent}: {what}"));
    let entry = view.find(parent).ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("parent {parent}: not in domain {}", work.domain.id()),
        )
    })?;
    if let Some(other) = request.parent_image.filter(|image| *image != entry.image) {
        return Err(wrong(format!("of image {}, not of {other}", entry.image)));
    }
    let theirs;
    let around = if entry.image == request.image {
        view
    } else {
        theirs = View::of_image(work.domain, entry.image)?;
        &theirs
    };
    let chain = around.chain(parent)?;
    for link in &chain {
        if link.metadata.legality != Legality::Legal {
            return Err(wrong(format!(
                "volume {} of its chain is {}",
                link.entry.id, link.metadata.legality
            )));
        }
    }
    let link = around.link(parent)?.clone();
    let mut shared = Vec::new();
    if link.metadata.image == request.image {
        if link.metadata.volume_type == VolumeType::Shared {
            return Err(wrong(
                "a template; its children have images of their own".into(),
            ));
        }
        let children = view.children(parent);
        if let Some(child) = children.first() {
            return Err(wrong(format!("has child {} already", child.entry.id)));
        }
        // An INTERNAL volume without a child: of a creation that died here.
    } else {
        if link.metadata.volume_type != VolumeType::Shared {
            return Err(wrong(format!(
                "of image {} and no template",
                link.metadata.image
            )));
        }
        shared.extend(chain.into_iter().map(|link| link.entry.clone()));
    }
    Ok((link, shared))
}

fn steps<'a>(
    work: &'a Work<'a>,
    view: &View,
    request: &CreateVolume,
    plan: &Plan,
    undo: &mut Undo<'a>,
) -> Result<VolumeEntry> {
    let (domain, authority) = (work.domain, work.authority);
    let image = request.image;
    if !view.entries.iter().any(|e| e.image == image && e.is_live()) {
        undo.push("image's directory", move || {
            domain.forget_image(authority, image)
        });
    }
    domain.make_image(authority, image)?;
    for template in &plan.shared {
        domain.share(authority, template, image)?;
    }
    if let Some(parent) = &plan.parent {
        let before = parent.clone();
        undo.push("parent's type", move || {
            domain.write_volume_metadata(authority, &before.entry, &before.metadata)
        });
        let mut internal = parent.metadata.clone();
        internal.volume_type = VolumeType::Internal;
        domain.write_volume_metadata(authority, &parent.entry, &internal)?;
    }
    work.context.go_on()?;
    let draft = domain.allocate(
        work.context,
        authority,
        &NewVolume {
            id: request.volume,
            image,
            size_bytes: plan.size_bytes,
        },
    )?;
    let given_up = draft.clone();
    undo.push("space", move || domain.discard_draft(authority, &given_up));
    let mut metadata = plan.metadata.clone();
    if domain.kind().is_block() && metadata.format == VolumeFormat::Raw {
        // The guest sees all of it, extents' rounding included.
        metadata.capacity_bytes = draft.size_bytes.max(metadata.capacity_bytes);
    }
    fill(work, &draft, plan, &metadata)?;
    if domain.kind() != DomainKind::Local {
        let lease = LeaseName::of_volume(domain, request.volume, draft.lease.clone());
        work.leases.create(&lease)?;
    }
    // The last moment to stop: what is visible stays.
    work.context.go_on()?;
    let entry = match domain.publish(authority, &draft, &metadata) {
        Ok(entry) => entry,
        // It may have become visible all the same, and then it is whole.
        Err(failure) => match domain.volume(request.volume) {
            Ok(entry) => entry,
            Err(gone) if gone.kind == FailureKind::NotFound => return Err(failure),
            Err(unknown) => {
                // Neither can be told: taking it to pieces might take a volume.
                undo.forget();
                return Err(failure.while_doing(unknown));
            }
        },
    };
    undo.forget();
    if let Err(failure) = domain.deactivate(&[&entry]) {
        tracing::warn!(volume = %entry.id, %failure, "stays active");
    }
    Ok(entry)
}

fn fill(work: &Work<'_>, draft: &Draft, plan: &Plan, metadata: &VolumeMetadata) -> Result<()> {
    let block = work.domain.kind().is_block();
    let preallocated = metadata.allocation == Allocation::Preallocated;
    match metadata.format {
        VolumeFormat::Cow => qemu::create(
            work.context,
            &qemu::CreateCow {
                compat: qemu::compat(work.domain.version()),
                backing: plan.backing.clone(),
                capacity_bytes: metadata.capacity_bytes,
                preallocate: preallocated && !block && plan.backing.is_none(),
            },
            &draft.path,
        ),
        VolumeFormat::Raw if block => Ok(()),
        VolumeFormat::Raw => {
            // May be long. On a block domain nothing here is: there the slot set
            // aside must stay ours until it is published.
            work.authority.rest(&work.domain.id().to_string());
            preallocate::raw_file(
                work.context,
                &draft.path,
                metadata.capacity_bytes,
                preallocated,
            )
        }
    }
}

/// What to do backwards when a step fails.
#[derive(Default)]
struct Undo<'a> {
    steps: Vec<(&'static str, UndoStep<'a>)>,
}

type UndoStep<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

impl<'a> Undo<'a> {
    fn push(&mut self, what: &'static str, step: impl FnOnce() -> Result<()> + 'a) {
        self.steps.push((what, Box::new(step)));
    }

    fn all(&mut self) {
        while let Some((what, step)) = self.steps.pop() {
            if let Err(failure) = step() {
                tracing::warn!(what, %failure, "not undone");
            }
        }
    }

    fn forget(&mut self) {
        self.steps.clear();
    }
}
