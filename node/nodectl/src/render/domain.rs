use control::storage::inspection::{
    DomainInspection, FindingInspection, GroupInspection, MetadataInspection, VolumeInspection,
};

use crate::text::{Table, count, field, size, wrapped};

/// Storage domains: what they are, what is in them, what is wrong.
pub(crate) fn domains(reports: &[DomainInspection]) -> String {
    let mut out = String::new();
    for (number, report) in reports.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        domain(&mut out, report);
    }
    out
}

fn domain(out: &mut String, report: &DomainInspection) {
    let state = match report.state.as_str() {
        "foreign" => ", not a storage domain",
        "unready" => ", half-made",
        _ => "",
    };
    field(out, "domain", &format!("{}{state}", report.name));
    field(out, "read from", &report.places.join(", "));
    if let Some(metadata) = &report.metadata {
        about(out, metadata);
    }
    if let Some(group) = &report.group {
        space(out, group);
    }
    if let Some(store) = &report.ovf_store {
        field(out, "ovf store", store);
    }
    if !report.volumes.is_empty() {
        volumes(out, &report.volumes);
    }
    if !report.leases.is_empty() {
        let mut table = Table::new(0, &[1], &["external lease", "offset"]);
        for lease in &report.leases {
            table.row([lease.id.clone(), size(lease.offset)]);
        }
        out.push('\n');
        table.draw(out, "");
    }
    if !report.tasks.is_empty() {
        let mut table = Table::new(0, &[], &["task", "state", "name"]);
        for task in &report.tasks {
            table.row([task.id.clone(), task.state.clone(), task.name.clone()]);
        }
        out.push('\n');
        table.draw(out, "");
    }
    out.push('\n');
    findings(out, &report.findings);
}

fn about(out: &mut String, metadata: &MetadataInspection) {
    if !metadata.description.is_empty() {
        field(out, "called", &metadata.description);
    }
    let mut words = format!(
        "version {}, {} on {}, {}",
        metadata.version,
        metadata.class.to_lowercase(),
        metadata.storage,
        metadata.role.to_lowercase()
    );
    if let (Some(version), "Master") = (metadata.master_version, metadata.role.as_str()) {
        words.push_str(&format!(" version {version}"));
    }
    field(out, "kind", &words);
    let pools = if metadata.pools.is_empty() {
        "none".to_owned()
    } else {
        metadata.pools.join(", ")
    };
    field(out, "pool", &pools);
    if let (Some(block), Some(alignment)) = (metadata.block_bytes, metadata.alignment_bytes) {
        let words = format!(
            "sectors of {block} bytes, leases of {}",
            size(alignment.into())
        );
        field(out, "layout", &words);
    }
}

fn space(out: &mut String, group: &GroupInspection) {
    let bytes = |extents: u64| size(extents.saturating_mul(group.extent_bytes));
    let words = format!(
        "{} of {} free, extents of {}, commit {}",
        bytes(group.free_extents),
        bytes(group.extents),
        size(group.extent_bytes),
        group.seqno
    );
    field(out, "space", &words);
}

fn volumes(out: &mut String, volumes: &[VolumeInspection]) {
    let mut table = Table::new(
        0,
        &[2, 3, 4],
        &[
            "volume", "image", "slot", "size", "capacity", "format", "type", "state",
        ],
    );
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for volume in volumes {
        table.row([
            volume.id.clone(),
            volume.image.clone(),
            volume
                .slot
                .map_or_else(|| "-".to_owned(), |slot| slot.to_string()),
            size(volume.size_bytes),
            volume.capacity_bytes.map_or_else(|| "-".to_owned(), size),
            or_dash(&volume.format),
            or_dash(&volume.volume_type),
            or_dash(&volume.legality),
        ]);
    }
    out.push('\n');
    table.draw(out, "");
}

fn findings(out: &mut String, findings: &[FindingInspection]) {
    if findings.is_empty() {
        field(out, "findings", "none");
        return;
    }
    field(out, "findings", &count(findings.len(), "finding"));
    for finding in findings {
        let mut words = format!("{}: {}", finding.subject, finding.message);
        if !finding.advice.is_empty() {
            words.push_str(&format!(" ({})", finding.advice));
        }
        wrapped(out, &format!("{:<9}", finding.grade), 9, &words);
    }
}
