//! File domains.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    FileFacts, Findings, Report, VolumeView,
    areas::{self, Context},
    block::keys,
    volumes::{chains, metadata, ovf_stores},
};
use crate::vdsm::domain::{DomainClass, DomainMetadata, DomainType, Marker};
use crate::vdsm::error::FormatError;
use crate::vdsm::lv::{REMOVE_PREFIX, SpecialLv};
use crate::vdsm::uuid::{DomainId, VolumeId};
use crate::vdsm::volume::{SlotFormat, VolumeMetadata};

/// Judges a directory.
#[must_use]
pub fn file(facts: &FileFacts) -> Report {
    let mut findings = Findings::default();
    let mut report = Report {
        name: facts.name.clone(),
        marker: Marker::Foreign,
        metadata: None,
        volumes: Vec::new(),
        leases: Vec::new(),
        ovf_store: None,
        findings: Vec::new(),
    };
    let subject = format!("directory {}", facts.name);
    let Some(content) = &facts.metadata else {
        findings.error(
            subject,
            "not a storage domain: there is no dom_md/metadata",
            "it belongs to somebody else, or its creation was interrupted",
        );
        return report.sorted(findings);
    };
    report.marker = Marker::Ready;
    let read = match content {
        Ok(bytes) => DomainMetadata::from_lines(bytes),
        Err(error) => Err(FormatError::syntax("dom_md/metadata", error.clone())),
    };
    match read {
        Ok(metadata) => report.metadata = Some(metadata),
        Err(error) => {
            let advice = match error {
                FormatError::Checksum { .. } => {
                    "the file was changed by hand or damaged; it is not attached until it is put right"
                }
                _ => "it cannot be attached",
            };
            findings.error("domain metadata", error, advice);
        }
    }
    let named: Option<DomainId> = facts.name.parse().ok();
    let stated = report.metadata.as_ref().map(DomainMetadata::id);
    let Some(id) = named.or(stated) else {
        findings.error(subject, "its name is no domain id", "");
        return report.sorted(findings);
    };
    if named.is_none() {
        findings.error(
            subject,
            "its name is no domain id",
            "the directory was renamed: do not attach it",
        );
    }
    if let Some(metadata) = &report.metadata {
        keys(metadata, id, &mut findings);
        if metadata.is_block() {
            findings.error(
                "domain metadata",
                format!("type {} in a directory", metadata.kind()),
                "",
            );
        }
        specials(facts, metadata, &mut findings);
    }
    report.volumes = images(facts, id, report.metadata.as_ref(), &mut findings);
    chains(&report.volumes, &mut findings);
    report.ovf_store = ovf_stores(&report.volumes, &mut findings);
    let volumes: BTreeSet<_> = report.volumes.iter().map(|volume| volume.id).collect();
    let context = Context {
        id,
        metadata: report.metadata.as_ref(),
        volumes: &volumes,
    };
    let mut areas = facts.areas.clone();
    let local = |metadata: &DomainMetadata| metadata.kind() == DomainType::LocalFs;
    if report.metadata.as_ref().is_some_and(local) {
        // Locked with `flock` and used by one host: no leases, and none wanted.
        (areas.ids, areas.sdm, areas.index) = (None, None, None);
    }
    report.leases = areas::check(&areas, &context, &mut findings);
    report.sorted(findings)
}

/// Files in `dom_md`. Local domains lock with `flock` and need no leases.
fn specials(facts: &FileFacts, metadata: &DomainMetadata, findings: &mut Findings) {
    let local = metadata.kind() == DomainType::LocalFs;
    for special in SpecialLv::ALL {
        let wanted = match special {
            SpecialLv::Metadata | SpecialLv::Master => false,
            SpecialLv::Ids => true,
            SpecialLv::Leases => !local,
            // Made when the domain first becomes a master.
            SpecialLv::Inbox | SpecialLv::Outbox => false,
            SpecialLv::Xleases => !local && special.is_in(metadata.version()),
        };
        if wanted && !facts.special.contains_key(&special) {
            findings.error(
                format!("dom_md/{}", special.name()),
                "this file of the domain is missing",
                "the domain cannot be used",
            );
        }
    }
}

fn images(
    facts: &FileFacts,
    id: DomainId,
    domain: Option<&DomainMetadata>,
    findings: &mut Findings,
) -> Vec<VolumeView> {
    let version = domain.map(DomainMetadata::version);
    let leased = domain.is_none_or(|domain| {
        domain.kind() != DomainType::LocalFs && domain.class() == DomainClass::Data
    });
    for directory in &facts.other_directories {
        if directory.starts_with(REMOVE_PREFIX) {
            findings.warning(
                format!("images/{directory}"),
                "being deleted, and still there",
                "the SPM removes it when it next opens the domain",
            );
        } else {
            findings.note(format!("images/{directory}"), "not of a storage domain", "");
        }
    }
    for name in &facts.other_files {
        findings.note(
            format!("images/{name}"),
            "belongs to no volume",
            "left by an interrupted change",
        );
    }
    let mut views = Vec::new();
    let mut places: BTreeMap<VolumeId, usize> = BTreeMap::new();
    for volume in facts.images.values().flat_map(BTreeMap::keys) {
        *places.entry(*volume).or_default() += 1;
    }
    for (image, volumes) in &facts.images {
        for (volume, found) in volumes {
            let subject = format!("volume {volume}");
            let Some(size_bytes) = found.size_bytes else {
                findings.error(
                    subject,
                    format!("there are metadata in image {image} and no data"),
                    "its creation or removal was interrupted; delete it",
                );
                continue;
            };
            if found.meta.is_none() {
                findings.error(
                    subject,
                    format!("there are data in image {image} and no metadata"),
                    "its creation or removal was interrupted; delete it",
                );
                continue;
            }
            if leased && !found.lease {
                findings.warning(
                    &subject,
                    format!("it has no lease file in image {image}"),
                    "",
                );
            }
            let read = found.meta.as_ref().and_then(|meta| meta.as_ref().ok());
            let view = VolumeView {
                id: *volume,
                image: *image,
                tagged_parent: None,
                slot: None,
                size_bytes,
                metadata: found.meta.as_ref().map(|meta| match meta {
                    Ok(bytes) => VolumeMetadata::decode_meta(bytes),
                    Err(error) => Err(FormatError::syntax("volume metadata", error.clone())),
                }),
            };
            let format = read.and_then(|bytes| SlotFormat::detect(bytes));
            metadata(&view, &id, version, format, findings);
            // A template is in its own image, and linked into those on top.
            let own = match &view.metadata {
                Some(Ok(metadata)) => metadata.image == *image,
                Some(Err(_)) | None => true,
            };
            if own {
                views.push(view);
            } else if places.get(volume) == Some(&1) {
                findings.error(
                    subject,
                    format!("it is a template's volume, and its own image is not here (linked in image {image})"),
                    "bring the template",
                );
                views.push(view);
            }
        }
    }
    views.sort_by_key(|view| view.id);
    views
}
