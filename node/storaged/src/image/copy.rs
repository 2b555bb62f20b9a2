//! Copies: clones, templates, conversions, images on another domain.
//!
//! A copy is what the guest sees of a chain, collapsed into one volume. Its target
//! is made ILLEGAL, filled under its own lease, and LEGAL only at the end: a copy
//! that was cancelled, failed or lost stays ILLEGAL for ever, and is deleted.

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat, VolumeMetadata};

use super::borrow::{self, Borrowed};
use super::create::{CreateVolume, create};
use super::leases::Leases;
use super::operation::{self, Job};
use super::prepare::{self, Prepared, Wanted};
use super::qemu::{self, Convert};
use super::wipe::Disposal;
use super::{Work, delete, size};
use crate::authority::Authority;
use crate::domain::{Domain, VolumeEntry};
use crate::job::{Context, Result};
use crate::layout::Layout;

/// A volume to be read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its domain.
    pub domain: &'a dyn Domain,
    /// The image whose chain it is in.
    pub image: ImageId,
    /// The volume; what the guest sees of it.
    pub volume: VolumeId,
}

/// What of a copy can be chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Copy persistent bitmaps (QCOW2, from version 4).
    pub bitmaps: bool,
    /// Compress (QCOW2).
    pub compress: bool,
    /// MiB a second at most; as fast as it goes when absent.
    pub mib_per_s: Option<u32>,
    /// The target was just made and never written.
    pub fresh: bool,
    /// Generation and job of the target.
    pub job: Job,
}

/// A copy to be made, with its new volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCopy {
    /// The new image.
    pub image: ImageId,
    /// The new volume.
    pub volume: VolumeId,
    /// Its format; the source's when absent.
    pub format: Option<VolumeFormat>,
    /// Whether all its room is taken.
    pub allocation: Allocation,
    /// Free text; the source's when absent.
    pub description: Option<String>,
    /// Whether it becomes a template.
    pub template: bool,
    /// How to copy.
    pub options: CopyOptions,
    /// An earlier attempt of the same request may have begun.
    pub again: bool,
}

/// Makes a new image, or template, that is a copy. Both halves by one who may
/// create (the pool manager); the halves can be done apart with [`create`] and
/// [`copy_data`].
///
/// # Errors
///
/// Those of [`create`] and [`copy_data`]. When the copy fails or is cancelled the
/// new volume goes; it is left ILLEGAL only where that fails too.
pub fn copy_image(work: &Work<'_>, source: Source<'_>, new: &NewCopy) -> Result<VolumeEntry> {
    let held = Hold::take(source.domain, work.layout, source.image, source.volume)?;
    let leaf = held.leaf()?;
    let from = leaf.format;
    let format = new.format.unwrap_or(from);
    let entry = source.domain.volume(source.volume)?;
    let template = source.domain.volume_metadata(&entry)?;
    // A thin copy on block must have room for everything before the first byte.
    let initial_bytes = if work.domain.kind().is_block() && format == VolumeFormat::Cow {
        let measured = qemu::measure(work.context, &held.prepared.path, from, format)?;
        Some(measured.required_bytes)
    } else {
        None
    };
    if new.options.bitmaps
        && (format != VolumeFormat::Cow || work.domain.version() < DomainVersion::V4)
    {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!(
                "volume {}: bitmaps are kept in QCOW2 volumes of domains from version 4 on, \
                 this is {} of version {}",
                new.volume,
                qemu::word(format),
                work.domain.version()
            ),
        ));
    }
    let request = CreateVolume {
        capacity_bytes: template.capacity_bytes,
        initial_bytes,
        format,
        allocation: new.allocation,
        description: new
            .description
            .clone()
            .unwrap_or_else(|| template.description.clone()),
        disk_type: template.disk_type,
        sequence: Some(0),
        legal: false,
        template: new.template,
        again: new.again,
        ..CreateVolume::new(new.image, new.volume, 0)
    };
    let made = create(work, &request)?;
    let options = CopyOptions {
        fresh: !new.again,
        ..new.options.clone()
    };
    let target = Target {
        domain: work.domain,
        image: new.image,
        volume: new.volume,
    };
    work.authority.rest(&work.domain.id().to_string());
    let copied = copy_data(
        work.context,
        work.layout,
        work.leases,
        source,
        target,
        &options,
    );
    drop(held);
    if let Err(failure) = copied {
        give_up(work, new.volume);
        return Err(failure);
    }
    Ok(made)
}

/// Takes the target of a copy that did not come to its end away again: nobody can
/// use it. One that is LEGAL is not that, whoever made it.
fn give_up(work: &Work<'_>, volume: VolumeId) {
    let quiet = Context::quiet();
    // The copy's own context is cancelled, perhaps.
    let work = Work {
        context: &quiet,
        ..*work
    };
    let gone = work
        .domain
        .volume(volume)
        .and_then(|entry| work.domain.volume_metadata(&entry))
        .and_then(|metadata| match metadata.legality {
            Legality::Illegal => delete::delete_volume(&work, volume, Disposal::default()),
            _ => Ok(()),
        });
    if let Err(failure) = gone {
        tracing::warn!(%volume, %failure, "target of a copy left, ILLEGAL");
    }
}

/// A volume to be written.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its domain.
    pub domain: &'a dyn Domain,
    /// Its image.
    pub image: ImageId,
    /// The volume: all its content is replaced.
    pub volume: VolumeId,
}

/// Copies what the guest sees of a volume into another, under the lease of the
/// target; any host may. Tells progress; a cancel kills the copy and leaves the
/// target ILLEGAL.
///
/// # Errors
///
/// `WrongState` for a target that is a template in use or a source that is
/// ILLEGAL; those of the lease, of `qemu-img`, I/O.
pub fn copy_data(
    context: &Context,
    layout: &Layout,
    leases: &dyn Leases,
    source: Source<'_>,
    target: Target<'_>,
    options: &CopyOptions,
) -> Result<()> {
    if source.volume == target.volume && source.domain.id() == target.domain.id() {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!("volume {}: cannot be copied onto itself", source.volume),
        ));
    }
    context.go_on()?;
    let from = Hold::take(source.domain, layout, source.image, source.volume)?;
    operation::change_content(
        target.domain,
        leases,
        target.volume,
        &options.job,
        |entry, authority| fill(context, layout, &from, target, entry, authority, options),
    )
}

fn fill(
    context: &Context,
    layout: &Layout,
    from: &Hold<'_>,
    target: Target<'_>,
    entry: &VolumeEntry,
    authority: &dyn Authority,
    options: &CopyOptions,
) -> Result<()> {
    let metadata = target.domain.volume_metadata(entry)?;
    let to = Hold::take_for_writing(target.domain, layout, target.image, target.volume)?;
    let source = from.leaf()?;
    if metadata.capacity_bytes < source.capacity_bytes {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!(
                "volume {}: capacity {}; its source has {}",
                target.volume, metadata.capacity_bytes, source.capacity_bytes
            ),
        ));
    }
    let block = target.domain.kind().is_block();
    let backing = to.backing();
    let convert = Convert {
        from: source.format,
        to: metadata.format,
        to_block: block,
        to_preallocated: metadata.allocation == Allocation::Preallocated,
        to_zeroed: options.fresh && !block,
        to_backing: backing,
        compat: qemu::compat(target.domain.version()),
        bitmaps: options.bitmaps,
        compress: options.compress,
        mib_per_s: options.mib_per_s,
    };
    qemu::convert(context, &convert, &from.prepared.path, &to.prepared.path)?;
    settle(context, target.domain, authority, entry, &metadata, &to)
}

/// What making the target anew changed: a copy has the capacity of its source,
/// the guest was promised that of the volume.
fn settle(
    context: &Context,
    domain: &dyn Domain,
    authority: &dyn Authority,
    entry: &VolumeEntry,
    metadata: &VolumeMetadata,
    to: &Hold<'_>,
) -> Result<()> {
    if domain.kind().is_block() && metadata.format == VolumeFormat::Raw {
        return Ok(());
    }
    match metadata.format {
        VolumeFormat::Raw => domain
            .extend(authority, entry, metadata.capacity_bytes)
            .map(drop),
        VolumeFormat::Cow => qemu::resize(context, &to.prepared.path, metadata.capacity_bytes),
    }
}

/// An image prepared for as long as this lives, and left as it was.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    domain: &'a dyn Domain,
    layout: &'a Layout,
    image: ImageId,
    pub(super) prepared: Prepared,
    borrowed: Option<Borrowed>,
}

impl<'a> Hold<'a> {
    /// For reading: every volume must be LEGAL.
    pub(super) fn take(
        domain: &'a dyn Domain,
        layout: &'a Layout,
        image: ImageId,
        leaf: VolumeId,
    ) -> Result<Self> {
        Self::prepare(domain, layout, image, leaf, false)
    }

    /// For writing: the leaf is ILLEGAL while it is written.
    pub(super) fn take_for_writing(
        domain: &'a dyn Domain,
        layout: &'a Layout,
        image: ImageId,
        leaf: VolumeId,
    ) -> Result<Self> {
        Self::prepare(domain, layout, image, leaf, true)
    }

    fn prepare(
        domain: &'a dyn Domain,
        layout: &'a Layout,
        image: ImageId,
        leaf: VolumeId,
        allow_illegal: bool,
    ) -> Result<Self> {
        let wanted = Wanted {
            image,
            leaf: Some(leaf),
            allow_illegal,
        };
        let (prepared, borrowed) = borrow::borrow(domain, layout, wanted)?;
        Ok(Self {
            domain,
            layout,
            image,
            prepared,
            borrowed,
        })
    }

    pub(super) fn leaf(&self) -> Result<&prepare::PreparedVolume> {
        self.prepared.chain.last().ok_or_else(|| {
            Failure::new(
                FailureKind::Damaged,
                format!("image {}: no volumes", self.image),
            )
        })
    }

    /// Relative name and format of what is below the leaf.
    fn backing(&self) -> Option<(String, VolumeFormat)> {
        let below = self.prepared.chain.len().checked_sub(2)?;
        let parent = self.prepared.chain.get(below)?;
        Some((parent.id.to_string(), parent.format))
    }

    /// A volume of the chain.
    pub(super) fn volume(&self, id: VolumeId) -> Result<&prepare::PreparedVolume> {
        self.prepared
            .chain
            .iter()
            .find(|volume| volume.id == id)
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    format!("volume {id}: not in the chain of image {}", self.image),
                )
            })
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let Some(borrowed) = self.borrowed.take() else {
            return;
        };
        let given = borrow::give_back(self.domain, self.layout, self.image, &borrowed);
        if let Err(failure) = given {
            tracing::warn!(image = %self.image, %failure, "stays prepared");
        }
    }
}

/// How many bytes a volume of this format needs for a copy of `source`.
///
/// # Errors
///
/// As [`copy_data`].
pub fn measure(
    context: &Context,
    layout: &Layout,
    source: Source<'_>,
    format: VolumeFormat,
) -> Result<qemu::Measured> {
    let held = Hold::take(source.domain, layout, source.image, source.volume)?;
    let from = held.leaf()?.format;
    let mut measured = qemu::measure(context, &held.prepared.path, from, format)?;
    if format == VolumeFormat::Raw {
        let whole = size::round_up(held.leaf()?.capacity_bytes, size::CAPACITY_STEP);
        measured.full_bytes = measured.full_bytes.max(whole);
    }
    Ok(measured)
}
