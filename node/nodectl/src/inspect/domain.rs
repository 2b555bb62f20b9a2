//! A storage domain, offline: what was found, and what it is told as.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use control::storage::inspection::{
    DomainInspection, FindingInspection, GroupInspection, LeaseInspection, MetadataInspection,
    TaskInspection, VolumeInspection,
};
use disk_format::vdsm::check::{Grade, Report, VolumeView};
use disk_format::vdsm::domain::{DomainMetadata, Marker};

use super::{directory, group};

/// A domain as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Where.
    pub(super) places: Vec<String>,
    /// What the checker says of it.
    pub(super) report: Report,
    /// Its volume group, when it has one.
    pub(super) group: Option<GroupInspection>,
    /// Tasks that are not over.
    pub(super) tasks: Vec<TaskInspection>,
}

impl Found {
    /// Whether nothing needs an operator.
    pub(super) fn is_sound(&self) -> bool {
        self.report.worst() <= Some(Grade::Note)
    }
}

/// The domains at these paths; none for a single disk that is no physical
/// volume of a volume group.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut disks: Vec<&Path> = Vec::new();
    for path in paths {
        if !path.is_dir() {
            disks.push(path);
            continue;
        }
        let inside = directory::find(path)?;
        if !inside.is_empty() {
            found.extend(inside);
        } else if let Some(vg) = group::name_of(path) {
            let group = group::by_name(&vg)?.ok_or_else(|| {
                anyhow!("volume group {vg}: no disk of this host has its metadata")
            })?;
            found.push(group);
        } else {
            bail!(
                "{}: no storage domain (a domain has dom_md/metadata) and no volume group",
                path.display()
            );
        }
    }
    found.extend(group::find(&disks, paths.len() == 1)?);
    Ok(found)
}

/// What is told of a domain.
pub(super) fn report(found: &Found) -> DomainInspection {
    let report = &found.report;
    let state = match report.marker {
        Marker::Foreign => "foreign",
        Marker::Unready => "unready",
        Marker::Ready => "ready",
    };
    DomainInspection {
        name: report.name.clone(),
        places: found.places.clone(),
        kind: if found.group.is_some() {
            "block"
        } else {
            "file"
        }
        .to_owned(),
        state: state.to_owned(),
        metadata: report.metadata.as_ref().map(metadata),
        group: found.group.clone(),
        volumes: report.volumes.iter().map(volume).collect(),
        leases: report
            .leases
            .iter()
            .map(|(id, offset)| LeaseInspection {
                id: id.to_string(),
                offset: *offset,
            })
            .collect(),
        ovf_store: report.ovf_store.map(|id| id.to_string()),
        tasks: found.tasks.clone(),
        findings: report
            .findings
            .iter()
            .map(|finding| FindingInspection {
                grade: finding.grade.to_string(),
                subject: finding.subject.clone(),
                message: finding.message.clone(),
                advice: finding.advice.to_owned(),
            })
            .collect(),
    }
}

fn metadata(metadata: &DomainMetadata) -> MetadataInspection {
    MetadataInspection {
        id: metadata.id().to_string(),
        version: metadata.version().number(),
        storage: metadata.kind().to_string(),
        class: metadata.class().to_string(),
        role: metadata.role().to_string(),
        description: metadata.description().to_owned(),
        pools: metadata.pools().iter().map(ToString::to_string).collect(),
        master_version: metadata.master_version().ok().flatten(),
        block_bytes: metadata.block_bytes().ok(),
        alignment_bytes: metadata.alignment_bytes().ok(),
    }
}

fn volume(view: &VolumeView) -> VolumeInspection {
    let known = view.metadata.as_ref().and_then(|read| read.as_ref().ok());
    VolumeInspection {
        id: view.id.to_string(),
        image: view.image.to_string(),
        slot: view.slot.map(|slot| slot.0),
        size_bytes: view.size_bytes,
        capacity_bytes: known.map(|known| known.capacity_bytes),
        parent: known
            .filter(|known| !known.parent.is_blank())
            .map(|known| known.parent.to_string()),
        format: known.map(|known| known.format.to_string()),
        volume_type: known.map(|known| known.volume_type.to_string()),
        legality: known.map(|known| known.legality.to_string()),
        disk_type: known.map(|known| known.disk_type.to_string()),
        description: known.map(|known| known.description.clone()),
    }
}
