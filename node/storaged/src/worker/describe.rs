//! What the library found, in the words of reports.

use control::storage::Format;
use control::storage::report::{DomainReport, LeaseReport, VolumeReport};
use disk_format::vdsm::domain::{DomainMetadata, DomainRole};
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeType};

use crate::domain::{Domain, EntryState, Space, VolumeEntry};
use crate::image::leases::LeaseName;

/// A domain by its metadata.
pub(super) fn metadata(metadata: &DomainMetadata) -> DomainReport {
    DomainReport {
        id: metadata.id().to_string(),
        name: metadata.description().to_owned(),
        kind: if metadata.is_block() { "block" } else { "file" }.to_owned(),
        storage_type: metadata.kind().to_string(),
        class: metadata.class().to_string().to_lowercase(),
        version: metadata.version().number(),
        role: match metadata.role() {
            DomainRole::Master => "master",
            DomainRole::Regular => "regular",
        }
        .to_owned(),
        pool: metadata.pools().first().map(ToString::to_string),
        master_version: metadata
            .master_version()
            .ok()
            .flatten()
            .and_then(|version| i64::try_from(version).ok()),
        block_size: metadata.block_bytes().unwrap_or(512),
        alignment: metadata.alignment_bytes().unwrap_or(1 << 20),
        ..DomainReport::default()
    }
}

/// An open domain with its metadata.
pub(super) fn domain(domain: &dyn Domain, read: &DomainMetadata) -> DomainReport {
    DomainReport {
        path: domain.root().display().to_string(),
        block_size: domain.block_size(),
        alignment: u32::try_from(domain.alignment()).unwrap_or(0),
        ..metadata(read)
    }
}

/// Adds its space.
pub(super) fn space(report: &mut DomainReport, space: Space) {
    report.size_bytes = Some(space.total_bytes);
    report.free_bytes = Some(space.free_bytes);
}

pub(super) fn format(format: VolumeFormat) -> Format {
    match format {
        VolumeFormat::Raw => Format::Raw,
        VolumeFormat::Cow => Format::Cow,
    }
}

/// A volume without its metadata.
pub(super) fn entry(domain: &dyn Domain, entry: &VolumeEntry) -> VolumeReport {
    VolumeReport {
        domain: domain.id().to_string(),
        image: entry.image.to_string(),
        volume: entry.id.to_string(),
        parent: entry
            .parent_tag
            .filter(|parent| !parent.is_blank())
            .map(|parent| parent.to_string()),
        state: match entry.state {
            EntryState::Live => "ready",
            EntryState::HalfMade => "initializing",
            EntryState::Removed { zero: false } => "removed",
            EntryState::Removed { zero: true } => "removed-zero",
        }
        .to_owned(),
        size_bytes: entry.allocated_bytes,
        slot: entry.slot.map(|slot| slot.0),
        ..VolumeReport::default()
    }
}

/// A volume.
pub(super) fn volume(
    domain: &dyn Domain,
    found: &VolumeEntry,
    metadata: &VolumeMetadata,
) -> VolumeReport {
    VolumeReport {
        parent: (!metadata.parent.is_blank()).then(|| metadata.parent.to_string()),
        format: format(metadata.format),
        allocation: match metadata.allocation {
            Allocation::Sparse => "sparse",
            Allocation::Preallocated => "preallocated",
        }
        .to_owned(),
        volume_type: match metadata.volume_type {
            VolumeType::Leaf => "leaf",
            VolumeType::Internal => "internal",
            VolumeType::Shared => "shared",
        }
        .to_owned(),
        legality: match metadata.legality {
            Legality::Legal => "legal",
            Legality::Illegal => "illegal",
            Legality::Fake => "fake",
        }
        .to_owned(),
        capacity_bytes: metadata.capacity_bytes,
        disk_type: metadata.disk_type.to_string(),
        description: metadata.description.clone(),
        created_s: metadata.ctime_s,
        generation: Some(metadata.generation.into()),
        sequence: Some(metadata.sequence),
        ..entry(domain, found)
    }
}

/// A lease, not yet who holds it.
pub(super) fn lease(name: &LeaseName) -> LeaseReport {
    LeaseReport {
        lease: name.resource.clone(),
        path: name.location.path.display().to_string(),
        offset: name.location.offset,
        ..LeaseReport::default()
    }
}
