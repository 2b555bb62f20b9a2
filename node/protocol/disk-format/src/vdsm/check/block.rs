//! Block domains.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BlockFacts, Findings, Report, VolumeView, areas, nearly_full,
    volumes::{chains, metadata, ovf_stores},
};
use crate::vdsm::domain::{DomainMetadata, DomainRole, Marker, PVS_MAX};
use crate::vdsm::error::FormatError;
use crate::vdsm::lv::{LvState, SpecialLv};
use crate::vdsm::slot::{HIGHEST, SlotNumber};
use crate::vdsm::uuid::DomainId;
use crate::vdsm::version::DomainVersion;
use crate::vdsm::volume::{SlotFormat, VolumeMetadata};

/// Bytes of an extent of a domain.
const EXTENT_BYTES: u64 = 128 << 20;
const METADATA_AREA_BYTES_MIN: u64 = 64 << 20;

/// Judges a volume group. Of one that is no domain, nothing more than that is
/// said.
#[must_use]
pub fn block(facts: &BlockFacts) -> Report {
    let mut findings = Findings::default();
    let marker = Marker::of(facts.tags.iter().map(String::as_str));
    let mut report = Report {
        name: facts.name.clone(),
        marker,
        metadata: None,
        volumes: Vec::new(),
        leases: Vec::new(),
        ovf_store: None,
        findings: Vec::new(),
    };
    let id: Option<DomainId> = facts.name.parse().ok();
    let subject = format!("volume group {}", facts.name);
    match (marker, id) {
        (Marker::Foreign, _) => {
            findings.error(
                subject,
                "not a storage domain: it lacks the tag RHAT_storage_domain",
                "it belongs to somebody else: nothing is ever written to it",
            );
            return report.sorted(findings);
        }
        (Marker::Unready, _) => findings.error(
            &subject,
            "half-made: it still has the tag RHAT_storage_domain_UNREADY",
            "its creation was interrupted; remove the volume group and create the domain again",
        ),
        (Marker::Ready, _) => {}
    }
    let Some(id) = id else {
        findings.error(
            subject,
            "its name is no domain id",
            "the volume group was renamed: do not attach it",
        );
        return report.sorted(findings);
    };
    report.metadata = domain(facts, id, &mut findings);
    let version = report.metadata.as_ref().map(DomainMetadata::version);
    group(facts, report.metadata.as_ref(), &mut findings);
    specials(facts, report.metadata.as_ref(), &mut findings);
    let states: Vec<LvState> = facts
        .lvs
        .iter()
        .map(|lv| LvState::of(&lv.name, lv.tags.iter().map(String::as_str)))
        .collect();
    slots(facts, &states, version, &mut findings);
    for (lv, state) in facts.lvs.iter().zip(&states) {
        leftover(&lv.name, state, &mut findings);
        let LvState::Volume { id: volume, tags } = state else {
            continue;
        };
        let slot = facts.slots.get(&tags.slot);
        let view = VolumeView {
            id: *volume,
            image: tags.image,
            tagged_parent: Some(tags.parent),
            slot: Some(tags.slot),
            size_bytes: lv.size_bytes,
            metadata: slot.map(|slot| match slot {
                Ok(bytes) => VolumeMetadata::decode_slot(bytes),
                Err(error) => Err(FormatError::syntax("metadata slot", error.clone())),
            }),
        };
        let format = slot
            .and_then(|slot| slot.as_ref().ok())
            .and_then(|bytes| SlotFormat::detect(bytes));
        metadata(&view, &id, version, format, &mut findings);
        report.volumes.push(view);
    }
    report.volumes.sort_by_key(|volume| volume.id);
    chains(&report.volumes, &mut findings);
    report.ovf_store = ovf_stores(&report.volumes, &mut findings);
    let volumes: BTreeSet<_> = report.volumes.iter().map(|volume| volume.id).collect();
    let context = areas::Context {
        id,
        metadata: report.metadata.as_ref(),
        volumes: &volumes,
    };
    report.leases = areas::check(&facts.areas, &context, &mut findings);
    report.sorted(findings)
}

/// The metadata in the tags.
fn domain(facts: &BlockFacts, id: DomainId, findings: &mut Findings) -> Option<DomainMetadata> {
    let metadata = match DomainMetadata::from_vg_tags(facts.tags.iter().map(String::as_str)) {
        Ok(metadata) => metadata,
        Err(error) => {
            let advice = match error {
                FormatError::Checksum { .. } => {
                    "the tags were changed by hand or damaged; it is not attached until they are put right"
                }
                _ => "it cannot be attached",
            };
            findings.error("domain metadata", error, advice);
            return None;
        }
    };
    keys(&metadata, id, findings);
    if !metadata.is_block() {
        findings.error(
            "domain metadata",
            format!("type {} in a volume group", metadata.kind()),
            "",
        );
    }
    let stored = metadata.vg_uuid().filter(|uuid| *uuid != facts.uuid);
    if let (Some(stored), false) = (stored, facts.uuid.is_empty()) {
        findings.note(
            "domain metadata",
            format!("it was made as volume group {stored}, it is {}", facts.uuid),
            "the LUNs may be a copy",
        );
    }
    Some(metadata)
}

/// What holds for block and file domains.
pub(super) fn keys(metadata: &DomainMetadata, id: DomainId, findings: &mut Findings) {
    const SUBJECT: &str = "domain metadata";
    if metadata.id() != id {
        findings.error(
            SUBJECT,
            format!("they are of domain {}", metadata.id()),
            "the domain was copied or renamed: do not attach it",
        );
    }
    let version = metadata.version();
    if !version.is_supported() {
        findings.error(
            SUBJECT,
            format!("version {version}: supported are 3 to 5"),
            "upgrade it with the software that made it",
        );
    }
    let values = [
        metadata.block_bytes().err(),
        metadata.alignment_bytes().err(),
        metadata.master_version().err(),
        metadata.pool_keys().err(),
    ];
    for error in values.into_iter().flatten() {
        findings.error(SUBJECT, error, "");
    }
    let pools = metadata.pools();
    if pools.len() > 1 {
        findings.error(
            SUBJECT,
            format!("attached to {} pools", pools.len()),
            "detach it from all but one",
        );
    }
    if metadata.role() == DomainRole::Master && pools.is_empty() {
        findings.warning(SUBJECT, "a master that is attached to no pool", "");
    }
}

/// The volume group.
fn group(facts: &BlockFacts, metadata: Option<&DomainMetadata>, findings: &mut Findings) {
    let subject = "volume group";
    if facts.extent_bytes != EXTENT_BYTES {
        findings.warning(
            subject,
            format!(
                "extents of {} bytes: a domain has {EXTENT_BYTES}",
                facts.extent_bytes
            ),
            "",
        );
    }
    if let Some(flags) = &facts.flags
        && !flags.iter().any(|flag| flag == "NOAUTOACTIVATE")
    {
        findings.note(
            subject,
            "its volumes are activated at boot: it lacks the flag NOAUTOACTIVATE",
            "made by an old version; harmless on this node",
        );
    }
    for fault in &facts.lvm_faults {
        findings.warning(
            "LVM metadata",
            fault,
            "the next change by the SPM writes both areas anew",
        );
    }
    if let Some((size, free)) = facts.metadata_room {
        // One copy may take half of the area.
        let room = size / 2;
        if size < METADATA_AREA_BYTES_MIN {
            findings.warning(
                subject,
                format!(
                    "metadata areas of {size} bytes: at least {METADATA_AREA_BYTES_MIN} are needed"
                ),
                "",
            );
        }
        if free.saturating_mul(5) < room {
            findings.warning(
                subject,
                format!("{free} of {room} bytes for LVM's metadata are free"),
                "delete volumes or snapshots",
            );
        }
    }
    for pv in facts.pvs.iter().filter(|pv| pv.device.is_none()) {
        findings.error(
            subject,
            format!("physical volume {} is missing", pv.uuid),
            "connect its LUN; volumes on it cannot be used and nothing can be changed until then",
        );
    }
    if facts.pvs.len() > PVS_MAX {
        findings.error(
            subject,
            format!(
                "{} physical volumes: allowed are {PVS_MAX}",
                facts.pvs.len()
            ),
            "",
        );
    } else if nearly_full(facts.pvs.len(), PVS_MAX) {
        findings.note(
            subject,
            format!("{} of {PVS_MAX} physical volumes are used", facts.pvs.len()),
            "grow the LUNs rather than adding others",
        );
    }
    let holders: Vec<&str> = facts
        .pvs
        .iter()
        .filter(|pv| pv.areas_used == Some(2))
        .map(|pv| pv.uuid.as_str())
        .collect();
    let known = facts.pvs.iter().all(|pv| pv.areas_used.is_some());
    if known && holders.len() != 1 {
        findings.warning(
            subject,
            format!(
                "{} physical volumes have both metadata areas in use, expected 1",
                holders.len()
            ),
            "",
        );
    }
    let start = facts
        .lvs
        .iter()
        .find(|lv| lv.name == SpecialLv::Metadata.name())
        .and_then(|lv| lv.start.as_ref());
    if let Some((pv, extent)) = start {
        let on_holder = !known || holders.contains(&pv.as_str());
        if *extent != 0 || !on_holder {
            findings.error(
                "metadata",
                format!("it starts at extent {extent} of physical volume {pv}: expected is extent 0 of the one with LVM's metadata"),
                "",
            );
        }
        if let Some(metadata) = metadata {
            mapping(facts, metadata, pv, findings);
        }
    }
}

/// The list of physical volumes in the metadata.
fn mapping(facts: &BlockFacts, metadata: &DomainMetadata, first: &str, findings: &mut Findings) {
    const SUBJECT: &str = "domain metadata";
    const ADVICE: &str = "the SPM writes the list anew when a LUN is added, grown or removed";
    let listed = match metadata.pv_mapping() {
        Ok(listed) => listed,
        Err(error) => {
            findings.warning(SUBJECT, error, ADVICE);
            return;
        }
    };
    if listed.first().is_some_and(|pv| pv.uuid != first) {
        findings.warning(
            SUBJECT,
            "PV0 is not the physical volume with the metadata",
            ADVICE,
        );
    }
    let real: BTreeMap<&str, u64> = facts
        .pvs
        .iter()
        .map(|pv| (pv.uuid.as_str(), pv.extents))
        .collect();
    for (number, pv) in listed.iter().enumerate() {
        match real.get(pv.uuid.as_str()) {
            None => findings.warning(
                SUBJECT,
                format!("PV{number} {} is not in the volume group", pv.uuid),
                ADVICE,
            ),
            Some(extents) if *extents != pv.extents => findings.warning(
                SUBJECT,
                format!(
                    "PV{number} has {extents} extents, listed are {}",
                    pv.extents
                ),
                ADVICE,
            ),
            Some(_) => {}
        }
    }
    let listed: BTreeSet<&str> = listed.iter().map(|pv| pv.uuid.as_str()).collect();
    for pv in real.keys() {
        if !listed.contains(pv) {
            findings.warning(
                SUBJECT,
                format!("physical volume {pv} is not listed"),
                ADVICE,
            );
        }
    }
}

/// The domain's own logical volumes.
fn specials(facts: &BlockFacts, metadata: Option<&DomainMetadata>, findings: &mut Findings) {
    let version = metadata.map(DomainMetadata::version);
    let alignment = metadata
        .and_then(|metadata| metadata.alignment_bytes().ok())
        .unwrap_or(1 << 20);
    for special in SpecialLv::ALL {
        if !special.is_in(version.unwrap_or(DomainVersion::V3)) {
            continue;
        }
        let name = special.name();
        let Some(lv) = facts.lvs.iter().find(|lv| lv.name == name) else {
            findings.error(
                name,
                "this volume of the domain is missing",
                "the domain cannot be used",
            );
            continue;
        };
        let needed = special.requested_bytes(u64::from(alignment));
        if lv.size_bytes < needed {
            findings.error(
                name,
                format!(
                    "it has {} bytes: at least {needed} are needed",
                    lv.size_bytes
                ),
                "",
            );
        }
    }
}

/// Who uses which slot.
fn slots(
    facts: &BlockFacts,
    states: &[LvState],
    version: Option<DomainVersion>,
    findings: &mut Findings,
) {
    let mut users: BTreeMap<SlotNumber, &str> = BTreeMap::new();
    for (lv, state) in facts.lvs.iter().zip(states) {
        let Some(slot) = state.slot() else {
            continue;
        };
        if let Some(other) = users.insert(slot, &lv.name) {
            findings.error(
                format!("slot {slot}"),
                format!("volumes {other} and {} both use it", lv.name),
                "their metadata and leases overwrite each other: use neither; two programs changed the domain at once",
            );
        }
        let Some(version) = version else {
            continue;
        };
        if slot < SlotNumber::first(version) {
            findings.error(
                format!("slot {slot}"),
                format!("volume {} uses a reserved slot", lv.name),
                "",
            );
        } else if slot > HIGHEST {
            findings.error(
                format!("slot {slot}"),
                format!(
                    "volume {} uses a slot without a lease: the highest is {HIGHEST}",
                    lv.name
                ),
                "",
            );
        }
    }
    if let Some(version) = version {
        let all = SlotNumber::usable_count(version);
        let used = users.len();
        if nearly_full(used, usize::try_from(all).unwrap_or(usize::MAX)) {
            findings.warning(
                "metadata",
                format!("{used} of {all} slots for volumes are used"),
                "delete volumes or snapshots, or use another domain",
            );
        }
    }
}

/// Logical volumes that are no complete volumes.
fn leftover(name: &str, state: &LvState, findings: &mut Findings) {
    let subject = format!("volume {name}");
    match state {
        LvState::Special(_) | LvState::Volume { .. } => {}
        LvState::Initializing { .. } => findings.warning(
            subject,
            "half-made",
            "left by a writer that died, unless it is being made just now; delete it",
        ),
        LvState::Removed { zero: false, .. } => findings.warning(
            subject,
            "marked for removal and still there",
            "the SPM can finish its removal",
        ),
        LvState::Removed { zero: true, .. } => findings.warning(
            subject,
            "marked for wiping and still there: it may hold its data",
            "the SPM has to zero it before it removes it",
        ),
        LvState::Incomplete { error, .. } => findings.error(
            subject,
            error,
            "nobody uses it and its slot may be taken by another; restore its tags or delete it",
        ),
        LvState::Foreign => findings.warning(
            format!("logical volume {name}"),
            "not of a storage domain",
            "nothing is written to it; its extents are lost for the domain",
        ),
    }
}
