//! Volumes: their metadata, their chains.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, VolumeView};
use crate::vdsm::error::FormatError;
use crate::vdsm::ovf;
use crate::vdsm::uuid::{DomainId, ImageId, VolumeId};
use crate::vdsm::version::DomainVersion;
use crate::vdsm::volume::{
    DiskType, Legality, SlotFormat, VolumeFormat, VolumeMetadata, VolumeType,
};

/// Judges one volume's metadata.
pub(super) fn metadata(
    volume: &VolumeView,
    domain: &DomainId,
    version: Option<DomainVersion>,
    format: Option<SlotFormat>,
    findings: &mut Findings,
) {
    let subject = format!("volume {}", volume.id);
    let metadata = match &volume.metadata {
        None => return,
        Some(Ok(metadata)) => metadata,
        Some(Err(error)) => {
            let advice = match error {
                FormatError::Empty { .. } | FormatError::Cleared => {
                    "its creation was not finished; delete it, unless it is being made just now"
                }
                _ => "it cannot be used; restore its metadata or delete it",
            };
            findings.error(subject, error, advice);
            return;
        }
    };
    if metadata.domain != *domain {
        findings.error(
            &subject,
            format!("its metadata are of domain {}", metadata.domain),
            "the slot is another volume's, or the domain was copied: do not use the volume",
        );
    }
    // A template's volume has its own image wherever it is linked.
    let linked = volume.slot.is_none() && metadata.volume_type == VolumeType::Shared;
    if metadata.image != volume.image && !linked {
        findings.error(
            &subject,
            format!(
                "its metadata are of image {}, it is of image {}",
                metadata.image, volume.image
            ),
            "the slot is another volume's: do not use the volume",
        );
    }
    if let Some(tagged) = volume.tagged_parent.filter(|tag| *tag != metadata.parent) {
        findings.warning(
            &subject,
            format!(
                "its tag says parent {tagged}, its metadata {}",
                metadata.parent
            ),
            "the metadata are right; the SPM repairs the tag when it deletes the merged volume",
        );
    }
    match (version.map(SlotFormat::of), format) {
        (Some(wanted), Some(found)) if wanted == found => {}
        (Some(_), Some(SlotFormat::Converting)) => findings.warning(
            &subject,
            "its metadata are those of a conversion to version 5 that was not finished",
            "repeat the upgrade",
        ),
        (Some(wanted), Some(found)) => findings.error(
            &subject,
            format!("its metadata are in format {found:?}, the domain's is {wanted:?}"),
            "",
        ),
        (None, _) | (_, None) => {}
    }
    match metadata.legality {
        Legality::Legal => {}
        Legality::Illegal => findings.warning(
            &subject,
            "it is illegal: half-made, half-removed or replaced",
            "it cannot be used; delete it when nothing works on it",
        ),
        Legality::Fake => findings.warning(
            &subject,
            "it stands for a template that is not here",
            "bring the template",
        ),
    }
    let raw = metadata.format == VolumeFormat::Raw;
    if raw && metadata.capacity_bytes > volume.size_bytes {
        findings.error(
            &subject,
            format!(
                "it has {} bytes, its metadata say {}",
                volume.size_bytes, metadata.capacity_bytes
            ),
            "extend it",
        );
    }
}

/// Judges the chains of all images.
pub(super) fn chains(volumes: &[VolumeView], findings: &mut Findings) {
    let known: BTreeMap<VolumeId, (&VolumeView, &VolumeMetadata)> = volumes
        .iter()
        .filter_map(|volume| match &volume.metadata {
            Some(Ok(metadata)) => Some((volume.id, (volume, metadata))),
            Some(Err(_)) | None => None,
        })
        .collect();
    let present: BTreeSet<VolumeId> = volumes.iter().map(|volume| volume.id).collect();
    let mut leaves: BTreeMap<ImageId, Vec<VolumeId>> = BTreeMap::new();
    let mut children: BTreeMap<VolumeId, Vec<VolumeId>> = BTreeMap::new();
    let circles = in_circles(&known);
    for (id, (volume, metadata)) in &known {
        let subject = format!("volume {id}");
        // Illegal ones are on their way out and may contradict anything.
        if metadata.legality == Legality::Illegal {
            continue;
        }
        if metadata.volume_type == VolumeType::Leaf {
            leaves.entry(volume.image).or_default().push(*id);
        }
        if metadata.parent.is_blank() {
            continue;
        }
        if !present.contains(&metadata.parent) {
            findings.error(
                &subject,
                format!("its parent {} is not in the domain", metadata.parent),
                "its data are not complete: bring the template, or restore the image",
            );
            continue;
        }
        let Some((parent, above)) = known.get(&metadata.parent) else {
            continue;
        };
        if parent.image == volume.image {
            children.entry(parent.id).or_default().push(*id);
        } else if above.volume_type != VolumeType::Shared {
            findings.error(
                &subject,
                format!(
                    "its parent {} is of image {} and no template",
                    parent.id, parent.image
                ),
                "writing to the parent would damage this volume",
            );
        }
        if above.volume_type == VolumeType::Leaf {
            findings.error(
                format!("volume {}", parent.id),
                format!("it is marked as the leaf, and {id} is on top of it"),
                "writing to it would damage the volume on top of it",
            );
        }
        if circles.contains(id) {
            findings.error(subject, "its chain goes round in a circle", "");
        }
    }
    for (image, leaves) in leaves {
        if let [first, second, ..] = leaves.as_slice() {
            findings.error(
                format!("image {image}"),
                format!("it has {} leaves, {first} and {second}", leaves.len()),
                "which one a guest wrote to last has to be found out by hand",
            );
        }
    }
    for (parent, children) in children {
        if let [first, second, ..] = children.as_slice() {
            findings.error(
                format!("volume {parent}"),
                format!("{first} and {second} of its image are both on top of it"),
                "",
            );
        }
    }
}

/// The volumes that are their own ancestors. Each volume is walked over once, for
/// the chains of a damaged domain may be as long as it has volumes.
fn in_circles(known: &BTreeMap<VolumeId, (&VolumeView, &VolumeMetadata)>) -> BTreeSet<VolumeId> {
    let mut circles = BTreeSet::new();
    let mut walked = BTreeSet::new();
    for start in known.keys() {
        let mut path = Vec::new();
        let mut at = *start;
        while let Some((_, metadata)) = known.get(&at) {
            if !walked.insert(at) {
                break;
            }
            path.push(at);
            at = metadata.parent;
        }
        // Back on the same walk, and not on an earlier one: from there on it is one.
        let first = path.iter().position(|id| *id == at);
        circles.extend(path.into_iter().skip(first.unwrap_or(usize::MAX)));
    }
    circles
}

/// Judges the stores of configurations; gives the one to read.
pub(super) fn ovf_stores(volumes: &[VolumeView], findings: &mut Findings) -> Option<VolumeId> {
    let mut stores = Vec::new();
    for volume in volumes {
        let Some(Ok(metadata)) = &volume.metadata else {
            continue;
        };
        if metadata.disk_type != DiskType::OvfStore {
            continue;
        }
        match ovf::Description::parse(&metadata.description) {
            Ok(store) => stores.push((volume.id, store)),
            Err(error) => findings.warning(
                format!("volume {}", volume.id),
                error,
                "the manager writes it anew at its next update of the store",
            ),
        }
    }
    let newest = ovf::newest(stores.iter().map(|(id, store)| (*id, store))).map(|(id, _)| id);
    if newest.is_none() && !stores.is_empty() {
        findings.warning(
            "OVF_STORE",
            "no store of configurations is whole",
            "the manager writes it anew at its next update of the store",
        );
    }
    newest
}
