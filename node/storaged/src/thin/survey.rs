//! What QEMU says of its block nodes and of why it stands still, as far as thin
//! drives need it. Plain functions of JSON values.

use serde_json::Value;
use thin::{DriveId, RunReport, RunState};

/// Nodes below a drive that are followed.
const CHAIN_MAX: usize = 16;

/// A disk as QEMU has it: the nodes from the one the guest writes to down to the
/// one that writes to the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Disk {
    /// Node names, the guest's first, the device's last; never empty.
    pub(super) chain: Vec<String>,
    /// Name of the device, in the old way; often empty.
    device: String,
    /// Path of the device in QEMU's tree; often empty.
    qdev: String,
    /// Highest offset written to the last node.
    pub(super) allocation_bytes: u64,
    /// What the guest has written, where there is a guest's device.
    pub(super) written_bytes: Option<u64>,
}

impl Disk {
    /// The node whose writes are counted and watched.
    pub(super) fn protocol_node(&self) -> &str {
        self.chain.last().map_or("", String::as_str)
    }

    /// Whether `name` is one of its nodes or its device.
    pub(super) fn answers_to(&self, name: &str) -> bool {
        !name.is_empty()
            && (self.chain.iter().any(|node| node == name)
                || self.device == name
                || self.qdev == name
                || self.qdev.split('/').any(|part| part == name))
    }
}

/// The disks in an answer to `query-blockstats`.
pub(super) fn disks(stats: &Value) -> Vec<Disk> {
    let entries = stats.as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(disk).collect()
}

fn disk(entry: &Value) -> Option<Disk> {
    let mut disk = Disk {
        device: text(entry, "device").to_owned(),
        qdev: text(entry, "qdev").to_owned(),
        ..Disk::default()
    };
    if !disk.qdev.is_empty() || !disk.device.is_empty() {
        disk.written_bytes = entry.pointer("/stats/wr_bytes").and_then(Value::as_u64);
    }
    let mut node = Some(entry);
    while let Some(at) = node {
        if let Some(name) = at.get("node-name").and_then(Value::as_str) {
            disk.chain.push(name.to_owned());
            disk.allocation_bytes = at
                .pointer("/stats/wr_highest_offset")
                .and_then(Value::as_u64)
                .unwrap_or(0);
        }
        node = at.get("parent").filter(|_| disk.chain.len() < CHAIN_MAX);
    }
    (!disk.chain.is_empty()).then_some(disk)
}

/// Capacity (of the drive's first node) and file name (of its last) in an answer
/// to `query-named-block-nodes`.
pub(super) fn capacity_and_file(nodes: &Value, disk: &Disk) -> (u64, String) {
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |name: Option<&String>| {
        nodes
            .iter()
            .find(|node| name.is_some_and(|name| text(node, "node-name") == name))
    };
    let capacity = named(disk.chain.first())
        .and_then(|node| node.pointer("/image/virtual-size"))
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let file = named(disk.chain.last()).map_or("", |node| text(node, "file"));
    (capacity, file.to_owned())
}

/// Answers to `query-status` and `query-block`, put together.
pub(super) fn run_report(status: &Value, block: &Value, known: &[(DriveId, Disk)]) -> RunReport {
    let running = status.get("running").and_then(Value::as_bool);
    let state = match (text(status, "status"), running) {
        (_, Some(true)) => RunState::Running,
        ("io-error", _) => RunState::IoError,
        _ => RunState::Other,
    };
    let mut report = RunReport {
        state,
        full: Vec::new(),
        failed: false,
    };
    for entry in block.as_array().map(Vec::as_slice).unwrap_or_default() {
        let full = match text(entry, "io-status") {
            "nospace" => true,
            "failed" => false,
            _ => continue,
        };
        let node = entry
            .pointer("/inserted/node-name")
            .and_then(Value::as_str)
            .unwrap_or("");
        let names = [node, text(entry, "device"), text(entry, "qdev")];
        let drive = known
            .iter()
            .find(|(_, disk)| names.iter().any(|name| disk.answers_to(name)));
        match drive {
            Some((id, _)) if full => report.full.push(*id),
            // Not ours to mend, or no lack of space: nothing we add helps.
            _ => report.failed = true,
        }
    }
    report
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As QEMU 10 answers for `-blockdev` and a virtio disk.
    fn stats() -> Value {
        json!([
            {"device": "floppy0", "node-name": "#block179", "stats": {"wr_highest_offset": 0},
             "parent": {"node-name": "#block098", "stats": {"wr_highest_offset": 0}}},
            {"device": "", "node-name": "disk", "qdev": "/machine/peripheral/vda/virtio-backend",
             "stats": {"wr_highest_offset": 14_974_976, "wr_bytes": 14_974_976},
             "parent": {"node-name": "disk-file", "stats": {"wr_highest_offset": 15_335_424}},
             "backing": {"node-name": "base", "stats": {"wr_highest_offset": 7}}},
        ])
    }

    #[test]
    fn drive_is_found_by_format_node_file_node_and_device() {
        let disks = disks(&stats());
        for name in ["disk", "disk-file", "vda"] {
            let found: Vec<&Disk> = disks.iter().filter(|disk| disk.answers_to(name)).collect();
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!(found[0].protocol_node(), "disk-file");
            assert_eq!(found[0].allocation_bytes, 15_335_424);
            assert_eq!(found[0].written_bytes, Some(14_974_976));
        }
        for name in ["", "base", "vd", "disk-fil"] {
            assert!(!disks.iter().any(|disk| disk.answers_to(name)), "{name}");
        }
    }

    #[test]
    fn capacity_is_of_the_guests_node_and_file_of_the_last() {
        let nodes = json!([
            {"node-name": "disk", "file": "/dev/x", "image": {"virtual-size": 67_108_864}},
            {"node-name": "disk-file", "file": "/dev/dm-7", "image": {"virtual-size": 8_388_608}},
        ]);
        let disks = disks(&stats());
        assert_eq!(
            capacity_and_file(&nodes, &disks[1]),
            (67_108_864, "/dev/dm-7".to_owned())
        );
        assert_eq!(capacity_and_file(&json!([]), &disks[1]), (0, String::new()));
    }

    #[test]
    fn reason_of_standing_still() {
        let known = [(DriveId(4), disks(&stats()).remove(1))];
        let status = json!({"status": "io-error", "running": false});
        let full = json!([{"io-status": "nospace", "inserted": {"node-name": "disk"}}]);
        assert_eq!(
            run_report(&status, &full, &known),
            RunReport {
                state: RunState::IoError,
                full: vec![DriveId(4)],
                failed: false
            }
        );
        let mixed = json!([
            {"io-status": "nospace", "inserted": {"node-name": "disk"}},
            {"io-status": "failed", "inserted": {"node-name": "other"}},
            {"io-status": "ok", "inserted": {"node-name": "third"}},
        ]);
        assert!(run_report(&status, &mixed, &known).failed);
        let foreign = json!([{"io-status": "nospace", "inserted": {"node-name": "other"}}]);
        let report = run_report(&status, &foreign, &known);
        assert!(report.failed && report.full.is_empty());
        let paused = json!({"status": "paused", "running": false});
        assert_eq!(
            run_report(&paused, &json!([]), &known).state,
            RunState::Other
        );
        let running = json!({"status": "running", "running": true});
        assert_eq!(
            run_report(&running, &json!([]), &known).state,
            RunState::Running
        );
    }

    #[test]
    fn nonsense_gives_nothing() {
        for nonsense in [json!(null), json!({}), json!([1, {"parent": {}}, null])] {
            assert!(disks(&nonsense).is_empty());
            let report = run_report(&nonsense, &nonsense, &[]);
            assert_eq!(report.state, RunState::Other);
        }
    }
}
