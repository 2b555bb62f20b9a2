//! What the storage daemon answers, for people.

use control::storage::ovf::OvfReport;
use control::storage::report::{
    BitmapReport, ConnectionReport, DomainReport, LeaseReport, PoolReport, SpmReport,
    StorageReport, TaskReport, TaskState, VolumeReport, WorkerReport,
};
use control::storage::{Answer, Format, Lun};

use crate::text::{Table, ago, count, duration, field};

/// Any answer.
pub(crate) fn answer(answer: &Answer) -> String {
    let mut out = String::new();
    match answer {
        Answer::Done { message } => line(&mut out, message),
        Answer::Made { what, id } => line(&mut out, &format!("{what} {id}")),
        // Whole, however long: it is what the next command takes.
        Answer::MadeVolume(name) => {
            let name = format!("{}/{}/{}", name.domain, name.image, name.volume);
            out.push_str(&crate::text::clean(&name));
            out.push('\n');
        }
        Answer::Status(report) => status(&mut out, report),
        Answer::Luns(luns) => table_of_luns(&mut out, luns),
        Answer::Paths(luns) => {
            for lun in luns {
                field(&mut out, "paths", &format!("{}: {}", lun.wwid, lun.words()));
            }
        }
        Answer::Targets(targets) => {
            let mut table = Table::new(0, &[], &["portal", "target"]);
            for target in targets {
                table.row([target.portal.clone(), target.target.clone()]);
            }
            table.draw(&mut out, "");
        }
        Answer::Connection(report) => connection(&mut out, report),
        Answer::Domains(reports) => domains(&mut out, reports),
        Answer::Domain(report) => domain(&mut out, report),
        Answer::Volumes(reports) => volumes(&mut out, reports),
        Answer::Volume(report) => volume(&mut out, report),
        Answer::Bitmaps(reports) => bitmaps(&mut out, reports),
        Answer::Prepared(report) => {
            field(&mut out, "path", &report.path);
            for volume in &report.chain {
                field(
                    &mut out,
                    "volume",
                    &format!("{}, {}", volume.volume, volume.path),
                );
                if !volume.lease_path.is_empty() {
                    let lease = format!("{} at offset {}", volume.lease_path, volume.lease_offset);
                    field(&mut out, "lease", &lease);
                }
            }
        }
        Answer::Leases(reports) => leases(&mut out, reports),
        Answer::Lease(report) => leases(&mut out, std::slice::from_ref(report)),
        Answer::OvfStore(report) => ovf_store(&mut out, report),
        Answer::Ovf { content, .. } => {
            out.push_str(&printable(content));
            if !content.ends_with('\n') {
                out.push('\n');
            }
        }
        Answer::Pool(report) => pool(&mut out, report),
        Answer::Spm(report) => spm(&mut out, report),
        Answer::Tasks(reports) => tasks(&mut out, reports),
        Answer::Task(report) => task(&mut out, report),
    }
    out
}

fn line(out: &mut String, text: &str) {
    crate::text::wrapped(out, "", 2, text);
}

fn status(out: &mut String, report: &StorageReport) {
    let daemon = format!(
        "running for {}, {}",
        duration(report.uptime_ms),
        count(
            usize::try_from(report.tasks_running).unwrap_or(usize::MAX),
            "task"
        )
    );
    field(out, "daemon", &daemon);
    match &report.pool {
        Some(report) => pool_line(out, report),
        None => field(out, "pool", "none"),
    }
    if let Some(report) = &report.spm {
        field(out, "manager", &spm_words(report));
    }
    if report.connections.is_empty() {
        field(
            out,
            "connections",
            "none; `nodectl storage connect` makes one",
        );
    } else {
        out.push('\n');
        let mut table = Table::new(0, &[], &["connection", "state", "wanted by"]);
        for connection in &report.connections {
            table.row([
                connection.id.clone(),
                connection.state.clone(),
                connection.users.join(", "),
            ]);
        }
        table.draw(out, "");
        for connection in &report.connections {
            if let Some(reason) = &connection.reason {
                field(out, "reason", &format!("{}: {reason}", connection.id));
            }
            let worse = connection.luns.iter().filter(|lun| lun.active < lun.paths);
            for lun in worse {
                field(out, "paths", &format!("{}: {}", lun.wwid, lun.words()));
            }
        }
        if let Some(reason) = &report.paths_reason {
            field(out, "paths", &format!("not known: {reason}"));
        }
    }
    if !report.domains.is_empty() {
        out.push('\n');
        domains(out, &report.domains);
    }
    let busy: Vec<&WorkerReport> = report
        .workers
        .iter()
        .filter(|worker| worker.work.is_some() || worker.state == "open")
        .collect();
    if !busy.is_empty() || !report.leftovers.is_empty() {
        out.push('\n');
        let mut table = Table::new(0, &[], &["worker", "pid", "state", "work", "for"]);
        for worker in busy.into_iter().chain(&report.leftovers) {
            table.row([
                short_words(&worker.key),
                worker.pid.to_string(),
                worker.state.clone(),
                worker.work.clone().unwrap_or_default(),
                duration(worker.work_ms.unwrap_or(worker.age_ms)),
            ]);
        }
        table.draw(out, "");
    }
}

fn connection(out: &mut String, report: &ConnectionReport) {
    field(out, "connection", &report.id);
    field(out, "state", &report.state);
    for lun in &report.luns {
        field(out, "LUN", &format!("{}: {}", lun.wwid, lun.words()));
    }
    if let Some(path) = &report.path {
        field(out, "path", path);
    }
    if !report.users.is_empty() {
        field(out, "wanted by", &report.users.join(", "));
    }
    if let Some(reason) = &report.reason {
        field(out, "reason", reason);
    }
}

fn table_of_luns(out: &mut String, luns: &[Lun]) {
    if luns.is_empty() {
        line(
            out,
            "no LUNs; `nodectl storage connect` logs in to a target, `nodectl storage luns --rescan` looks again",
        );
        return;
    }
    let mut table = Table::new(
        0,
        &[0, 2],
        &["#", "WWID", "size", "vendor", "product", "status", "paths"],
    );
    for lun in luns {
        table.row([
            lun.number.to_string(),
            lun.wwid.clone(),
            amount(lun.size_bytes),
            cut(&lun.vendor, 8),
            cut(&lun.product, 10),
            lun.status.to_string(),
            format!("{}/{}", lun.paths_active, lun.paths),
        ]);
    }
    table.draw(out, "");
    for lun in luns {
        let notes: Vec<&str> = lun
            .used_by
            .iter()
            .chain(&lun.fault)
            .map(String::as_str)
            .collect();
        if !notes.is_empty() {
            crate::text::wrapped(out, &format!("{:>3}: ", lun.number), 5, &notes.join("; "));
        }
    }
}

fn domains(out: &mut String, reports: &[DomainReport]) {
    if reports.is_empty() {
        line(out, "no domains on connected storage");
        return;
    }
    let mut table = Table::new(
        0,
        &[5],
        &["domain", "name", "kind", "state", "ok", "free of"],
    );
    for report in reports {
        let role = if report.role.eq_ignore_ascii_case("master") {
            "*"
        } else {
            ""
        };
        table.row([
            report.id.clone(),
            cut(&report.name, 12),
            format!("{} v{}", report.kind, report.version),
            format!("{}{role}", report.state),
            match (report.valid, &report.degraded) {
                (Some(false), _) => "NO",
                (_, Some(_)) => "degraded",
                (Some(true), None) => "yes",
                (None, None) => "-",
            }
            .to_owned(),
            space(report),
        ]);
    }
    table.draw(out, "");
    for report in reports {
        for reason in report.reason.iter().chain(&report.degraded) {
            field(out, "reason", &format!("{}: {reason}", report.name));
        }
    }
}

fn space(report: &DomainReport) -> String {
    match (report.free_bytes, report.size_bytes) {
        (Some(free), Some(size)) => format!("{}/{}", amount(free), amount(size)),
        _ => "-".to_owned(),
    }
}

fn domain(out: &mut String, report: &DomainReport) {
    field(out, "domain", &report.id);
    field(out, "name", &report.name);
    field(
        out,
        "kind",
        &format!(
            "{}, {} {}, version {}",
            report.kind, report.storage_type, report.class, report.version
        ),
    );
    let pool = report.pool.as_deref().unwrap_or("none");
    field(
        out,
        "pool",
        &format!("{pool}, {}, {}", report.state, report.role),
    );
    field(out, "path", &report.path);
    if report.connections.len() > 1 {
        field(out, "connections", &report.connections.join(", "));
    } else if let Some(connection) = &report.connection {
        field(out, "connection", connection);
    }
    if !report.missing_luns.is_empty() {
        field(out, "not seen here", &report.missing_luns.join(", "));
    }
    if !report.luns.is_empty() {
        field(out, "LUNs", &report.luns.join(", "));
    }
    for lun in &report.lun_paths {
        field(out, "paths", &format!("{}: {}", lun.wwid, lun.words()));
    }
    if report.block_size != 0 {
        let geometry = format!(
            "sectors of {} bytes, leases of {}",
            report.block_size,
            crate::text::size(report.alignment.into())
        );
        field(out, "geometry", &geometry);
    }
    if let (Some(free), Some(size)) = (report.free_bytes, report.size_bytes) {
        field(
            out,
            "space",
            &format!("{} free of {}", amount(free), amount(size)),
        );
    }
    if !report.host_id.is_empty() {
        field(out, "host id", &report.host_id);
    }
    let mut check = match report.valid {
        Some(true) => "good".to_owned(),
        Some(false) => "bad".to_owned(),
        None => "not watched".to_owned(),
    };
    if report.last_check_age_ms.is_some() {
        check.push_str(&format!(", {}", ago(report.last_check_age_ms)));
    }
    if let Some(us) = report.read_delay_us {
        check.push_str(&format!(", read in {}.{:03} ms", us / 1000, us % 1000));
    }
    field(out, "check", &check);
    if let Some(degraded) = &report.degraded {
        field(out, "degraded", degraded);
    }
    if let Some(reason) = &report.reason {
        field(out, "reason", reason);
    }
    for file in &report.held {
        let words = format!("{}, {}", file.name, amount(file.size_bytes));
        field(out, "holds", &words);
    }
    for finding in &report.findings {
        field(out, "finding", finding);
    }
}

fn volumes(out: &mut String, reports: &[VolumeReport]) {
    if reports.is_empty() {
        line(out, "no volumes");
        return;
    }
    let mut image = "";
    let mut first = true;
    for report in reports {
        if report.image != image || first {
            if !first {
                out.push('\n');
            }
            field(out, "image", &report.image);
            image = &report.image;
            first = false;
        }
        let state = if report.state == "ready" || report.state.is_empty() {
            report.legality.clone()
        } else {
            report.state.clone()
        };
        out.push_str(&format!(
            "  {}  {:<4} {:<8} {:>7}/{:<7} {}\n",
            crate::text::clean(&report.volume),
            format_word(report.format),
            cut(&report.volume_type, 8),
            amount(report.size_bytes),
            amount(report.capacity_bytes),
            cut(&state, 12),
        ));
    }
}

fn volume(out: &mut String, report: &VolumeReport) {
    field(out, "volume", &report.volume);
    field(out, "image", &report.image);
    field(out, "domain", &report.domain);
    field(out, "parent", report.parent.as_deref().unwrap_or("none"));
    field(
        out,
        "kind",
        &format!(
            "{}, {}, {}, {}, {}",
            format_word(report.format),
            report.allocation,
            report.volume_type,
            report.legality,
            report.state
        ),
    );
    field(
        out,
        "size",
        &format!(
            "{} for the guest, {} taken",
            amount(report.capacity_bytes),
            amount(report.size_bytes)
        ),
    );
    if !report.description.is_empty() {
        field(out, "description", &report.description);
    }
    let mut numbers = Vec::new();
    for (name, number) in [
        ("generation", report.generation),
        ("sequence", report.sequence),
        ("slot", report.slot),
    ] {
        if let Some(number) = number {
            numbers.push(format!("{name} {number}"));
        }
    }
    if !numbers.is_empty() {
        field(out, "numbers", &numbers.join(", "));
    }
    if let Some(path) = &report.path {
        field(out, "path", path);
    }
    if let Some(reason) = &report.reason {
        field(out, "reason", reason);
    }
}

fn leases(out: &mut String, reports: &[LeaseReport]) {
    if reports.is_empty() {
        line(out, "no leases");
        return;
    }
    for report in reports {
        let owners = if report.owners.is_empty() {
            "free".to_owned()
        } else {
            let hosts: Vec<String> = report.owners.iter().map(u32::to_string).collect();
            format!("held by host {}", hosts.join(", "))
        };
        field(out, "lease", &format!("{}, {owners}", report.lease));
        field(
            out,
            "",
            &format!("{} at offset {}", report.path, report.offset),
        );
        if let Some(reason) = &report.reason {
            field(out, "reason", reason);
        }
    }
}

fn bitmaps(out: &mut String, reports: &[BitmapReport]) {
    if reports.is_empty() {
        line(out, "no bitmaps");
    }
    for report in reports {
        let state = match (report.broken, report.enabled) {
            (true, _) => "broken: incomplete, remove it",
            (false, true) => "notes writes",
            (false, false) => "notes nothing",
        };
        field(out, "bitmap", &report.name);
        let granularity = amount(report.granularity_bytes);
        field(out, "", &format!("{granularity} a bit, {state}"));
    }
}

fn ovf_store(out: &mut String, report: &OvfReport) {
    let Some(volume) = &report.volume else {
        line(out, "no whole OVF_STORE");
        return;
    };
    field(
        out,
        "store",
        &format!("volume {volume}, written {}", report.written),
    );
    for file in &report.files {
        let guest = file.name.strip_suffix(".ovf");
        field(
            out,
            if guest.is_some() { "guest" } else { "file" },
            &format!("{}, {} bytes", guest.unwrap_or(&file.name), file.size_bytes),
        );
    }
}

/// A document without what would steer a terminal; its lines and tabs stay.
fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}

fn pool_line(out: &mut String, report: &PoolReport) {
    let mut words = report.id.clone();
    if !report.state.is_empty() {
        words.push_str(&format!(", {}", report.state));
    }
    if report.host_id != 0 {
        words.push_str(&format!(", as host {}", report.host_id));
    }
    if let Some(reason) = &report.reason {
        words.push_str(&format!(": {reason}"));
    }
    field(out, "pool", &words);
}

fn pool(out: &mut String, report: &PoolReport) {
    pool_line(out, report);
    if !report.name.is_empty() {
        field(out, "name", &report.name);
    }
    if !report.manager.is_empty() {
        field(out, "managers", &format!("one per {}", report.manager));
    }
    if let Some(master) = &report.master {
        let version = report
            .master_version
            .map_or_else(String::new, |version| format!(", version {version}"));
        field(out, "master", &format!("{master}{version}"));
    }
    for domain in &report.domains {
        field(out, "domain", &format!("{}, {}", domain.id, domain.status));
    }
}

fn spm_words(report: &SpmReport) -> String {
    let mut words = match (report.state.as_str(), report.host_id) {
        ("", _) => "not known yet".to_owned(),
        ("here", _) => "this host".to_owned(),
        ("elsewhere", Some(host)) => format!("host {host}"),
        ("free", _) => "nobody; `nodectl spm start` makes this host it".to_owned(),
        ("none", _) => "one per domain".to_owned(),
        (state, _) => state.to_owned(),
    };
    if let Some(since) = report.since_ms {
        words.push_str(&format!(" for {}", duration(since)));
    }
    if let Some(lver) = report.lver {
        words.push_str(&format!(", lease version {lver}"));
    }
    if let Some(reason) = &report.reason {
        words.push_str(&format!("; {reason}"));
    }
    words
}

fn spm(out: &mut String, report: &SpmReport) {
    field(out, "manager", &spm_words(report));
    if !report.mode.is_empty() {
        field(out, "mode", &report.mode);
    }
    if let Some(pid) = report.writer_pid {
        field(out, "writer", &format!("process {pid}"));
    }
    if report.extends > 0 {
        field(out, "extends", &report.extends.to_string());
    }
}

fn tasks(out: &mut String, reports: &[TaskReport]) {
    if reports.is_empty() {
        line(out, "no tasks");
        return;
    }
    let mut table = Table::new(0, &[2], &["task", "state", "done", "for", "what"]);
    for report in reports {
        table.row([
            report.id.chars().take(8).collect(),
            report.state.word().to_owned(),
            percent(report),
            duration(report.took_ms.unwrap_or(report.age_ms)),
            report.what.clone(),
        ]);
    }
    table.draw(out, "");
}

fn percent(report: &TaskReport) -> String {
    if report.state == TaskState::Done {
        return "100 %".to_owned();
    }
    // How far one came that ended otherwise says nothing when that is nowhere.
    if report.total == 0 || report.state.ended() && report.done == 0 {
        return "-".to_owned();
    }
    let percent = report.done.min(report.total).saturating_mul(100) / report.total;
    format!("{percent} %")
}

fn task(out: &mut String, report: &TaskReport) {
    field(out, "task", &report.id);
    field(out, "what", &report.what);
    if let Some(domain) = &report.domain {
        field(out, "domain", domain);
    }
    let mut state = report.state.word().to_owned();
    if !report.state.ended() {
        if report.total > 0 {
            state.push_str(&format!(", {}", percent(report)));
        }
        if !report.step.is_empty() {
            state.push_str(&format!(", {}", report.step));
        }
    }
    field(out, "state", &state);
    match report.took_ms {
        Some(took) => field(out, "took", &duration(took)),
        None => field(out, "for", &duration(report.age_ms)),
    }
    if let Some(failure) = &report.failure {
        field(out, "reason", &failure.message);
    }
    if let Some(result) = &report.result {
        field(out, "result", answer(result).trim_end());
    }
}

fn format_word(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Cow => "cow",
    }
}

/// A size in three digits: `512 B`, `1.5 G`, `931 G`.
fn amount(bytes: u64) -> String {
    let mut value = bytes;
    let mut rest = 0;
    let mut unit = "B";
    for next in ["K", "M", "G", "T", "P"] {
        if value < 1024 {
            break;
        }
        rest = value % 1024;
        value /= 1024;
        unit = next;
    }
    if unit == "B" || value >= 10 || rest == 0 {
        return format!("{value}{unit}");
    }
    format!("{value}.{}{unit}", rest * 10 / 1024)
}

fn cut(text: &str, longest: usize) -> String {
    let text = text.trim();
    if text.chars().count() <= longest {
        return crate::text::clean(text);
    }
    let mut short: String = text.chars().take(longest - 1).collect();
    short.push('~');
    crate::text::clean(&short)
}

fn short_words(key: &str) -> String {
    cut(key, 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_never_shown_as_begun() {
        let report = |state, done, total| TaskReport {
            state,
            done,
            total,
            ..TaskReport::default()
        };
        let cases = [
            (report(TaskState::Running, 0, 8), "0 %"),
            (report(TaskState::Running, 2, 8), "25 %"),
            (report(TaskState::Running, 0, 0), "-"),
            (report(TaskState::Done, 0, 8), "100 %"),
            (report(TaskState::Done, 0, 0), "100 %"),
            (report(TaskState::Failed, 0, 8), "-"),
            (report(TaskState::Cancelled, 4, 8), "50 %"),
        ];
        for (report, expected) in cases {
            assert_eq!(percent(&report), expected, "{report:?}");
        }
    }
}
