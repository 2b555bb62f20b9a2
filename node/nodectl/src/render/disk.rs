use control::disk::{AreaReport, DiskReport};

use crate::text::{Table, field, size, wrapped};

/// A disk: its table, what is in it, its lockspaces, and what is wrong.
pub(crate) fn disk(report: &DiskReport) -> String {
    let mut out = String::new();
    let sectors = report.sector_size.map_or_else(
        || "a file".to_owned(),
        |bytes| format!("sectors of {bytes} bytes"),
    );
    field(
        &mut out,
        "disk",
        &format!("{}, {}, {sectors}", report.path, size(report.size)),
    );
    faults(&mut out, &report.faults);
    match &report.table {
        Some(table) => field(&mut out, "table", table),
        None => field(&mut out, "table", "none"),
    }
    if !report.partitions.is_empty() {
        let mut table = Table::new(
            0,
            &[0, 1, 2],
            &["part", "offset", "size", "name", "partuuid"],
        );
        for partition in &report.partitions {
            table.row([
                partition.number.to_string(),
                size(partition.offset),
                size(partition.size),
                or_dash(&partition.name),
                or_dash(&partition.uuid),
            ]);
        }
        out.push('\n');
        table.draw(&mut out, "");
    }
    if !report.contents.is_empty() {
        let mut table = Table::new(0, &[0, 1], &["offset", "part", "content", "label", "uuid"]);
        for content in &report.contents {
            table.row([
                size(content.offset),
                content
                    .partition
                    .map_or_else(|| "-".to_owned(), |number| number.to_string()),
                content.kind.clone(),
                or_dash(content.label.as_deref().unwrap_or_default()),
                or_dash(content.uuid.as_deref().unwrap_or_default()),
            ]);
        }
        out.push('\n');
        table.draw(&mut out, "");
    }
    if report.areas.is_empty() {
        field(&mut out, "lockspaces", "none");
    }
    if report.searched < report.size {
        let searched = size(report.searched);
        field(
            &mut out,
            "searched",
            &format!(
                "the first {searched} and the start of each partition for lockspaces and resources"
            ),
        );
    }
    for found in &report.areas {
        out.push('\n');
        out.push_str(&area(found));
    }
    out
}

/// A lockspace area: what is wrong with it, then every host ever seen.
pub(crate) fn area(report: &AreaReport) -> String {
    let mut out = String::new();
    field(
        &mut out,
        "lockspace",
        &format!("{}, up to {} hosts", report.name, report.max_hosts),
    );
    field(
        &mut out,
        "disk",
        &format!(
            "{} at offset {}, sectors of {} bytes, area of {}",
            report.path,
            report.offset,
            report.sector_size,
            size(report.align_size.into())
        ),
    );
    faults(&mut out, &report.damage);
    if report.hosts.is_empty() {
        field(&mut out, "hosts", "no host ever held a lease");
        return out;
    }
    let mut table = Table::new(
        0,
        &[0, 1, 3, 4],
        &[
            "host",
            "generation",
            "state",
            "timestamp",
            "io timeout",
            "name",
        ],
    );
    for host in &report.hosts {
        table.row([
            host.host_id.to_string(),
            host.generation.to_string(),
            host.state.word().to_owned(),
            host.timestamp.to_string(),
            format!("{} s", host.io_timeout_s),
            host.name.clone(),
        ]);
    }
    out.push('\n');
    table.draw(&mut out, "");
    out
}

fn faults(out: &mut String, faults: &[String]) {
    for fault in faults {
        wrapped(out, "!! ", 3, fault);
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}
