//! What a failure says on the consoles. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use linux::probe::BlockDevice;

/// First line of the report; what watches a serial console can wait for.
pub(crate) const HEADLINE: &str = "holdfast initrd: cannot start this machine";

/// Why the machine cannot start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is wrong, one sentence without full stop.
    pub(crate) problem: String,
    /// What was looked for.
    pub(crate) looked_for: Option<String>,
    /// How long it was waited for.
    pub(crate) waited: Option<Duration>,
    /// The block devices found, if they matter.
    pub(crate) devices: Option<Vec<BlockDevice>>,
    /// More of what was found: controllers without driver, drivers that failed.
    pub(crate) notes: Vec<String>,
    /// What the operator can do.
    pub(crate) next_step: String,
}

/// Most devices listed: more would push the reason off the screen.
const DEVICES_MAX: usize = 40;
/// Most notes listed.
const NOTES_MAX: usize = 20;

impl Failure {
    /// The report, with line feeds, for a machine that reboots after `delay`.
    pub(crate) fn render(&self, delay: Duration) -> String {
        let mut text = format!("\n{HEADLINE}\n");
        line(&mut text, "problem", &self.problem);
        if let Some(looked_for) = &self.looked_for {
            line(&mut text, "looked for", looked_for);
        }
        if let Some(waited) = self.waited {
            line(&mut text, "waited", &format!("{} s", waited.as_secs()));
        }
        if let Some(devices) = &self.devices {
            match devices.len() {
                0 => line(&mut text, "found", "no block devices"),
                1 => line(&mut text, "found", "1 block device"),
                count => line(&mut text, "found", &format!("{count} block devices")),
            }
            table(&mut text, devices);
        }
        for note in self.notes.iter().take(NOTES_MAX) {
            line(&mut text, "note", note);
        }
        line(&mut text, "next step", &self.next_step);
        line(
            &mut text,
            "then",
            &format!("reboot in {} s", delay.as_secs()),
        );
        text.push('\n');
        text
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    writeln!(text, "  {key:<11} {}", value.replace('\n', " ")).ok();
}

const COLUMNS: [&str; 6] = [
    "NAME",
    "SIZE",
    "HOLDS",
    "LABEL",
    "PARTITION NAME",
    "PARTUUID",
];

fn table(text: &mut String, devices: &[BlockDevice]) {
    if devices.is_empty() {
        return;
    }
    let rows: Vec<[String; 6]> = devices.iter().take(DEVICES_MAX).map(row).collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .chain([COLUMNS[column].len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut print = |cells: &[String; 6]| {
        let mut line = String::from("   ");
        for (cell, width) in cells.iter().zip(&widths) {
            write!(line, " {cell:<width$}").ok();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    print(&COLUMNS.map(str::to_owned));
    rows.iter().for_each(&mut print);
    if devices.len() > DEVICES_MAX {
        writeln!(text, "    and {} more", devices.len() - DEVICES_MAX).ok();
    }
    for device in devices.iter().take(DEVICES_MAX) {
        if let Some(fault) = &device.fault {
            line(text, "note", &format!("{}: {fault}", device.name));
        }
    }
}

fn row(device: &BlockDevice) -> [String; 6] {
    let or_dash = |value: Option<&str>| value.unwrap_or("-").to_owned();
    let holds = device
        .content
        .as_ref()
        .map(|content| content.kind.name())
        .or(device.table);
    [
        device.name.clone(),
        size(device.size_bytes),
        or_dash(holds),
        or_dash(device.label()),
        or_dash(device.partition_name()),
        or_dash(device.partition_uuid()),
    ]
}

/// Bytes in the largest unit that leaves a whole number of at least one digit.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10_000 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use expect_test::expect;
    use linux::probe::PartitionIdentity;
    use linux::probe::content::{Content, Kind};

    use super::*;

    fn disk(name: &str) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            node: PathBuf::from("/dev").join(name),
            size_bytes: 512 << 20,
            partition: None,
            table: Some("gpt"),
            content: None,
            fault: None,
        }
    }

    #[test]
    fn report_says_what_was_looked_for_what_was_found_and_what_to_do() {
        let mut partition = disk("vda2");
        partition.table = None;
        partition.size_bytes = 150 << 20;
        partition.partition = Some(PartitionIdentity {
            disk: "vda".to_owned(),
            number: 2,
            uuid: Some("0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned()),
            name: Some("holdfast-root".to_owned()),
        });
        partition.content = Some(Content {
            kind: Kind::Erofs,
            label: None,
            uuid: None,
        });
        let mut broken = disk("sda");
        broken.table = None;
        broken.fault = Some("Input/output error (os error 5)".to_owned());
        let failure = Failure {
            problem: "no block device\nis the root".to_owned(),
            looked_for: Some("PARTUUID=11111111-8483-4772-8e79-3d69d8477de4".to_owned()),
            waited: Some(Duration::from_secs(30)),
            devices: Some(vec![broken, disk("vda"), partition]),
            notes: vec!["no driver for storage controller 0000:00:05.0".to_owned()],
            next_step: "attach the disk".to_owned(),
        };
        expect![[r#"

            holdfast initrd: cannot start this machine
              problem     no block device is the root
              looked for  PARTUUID=11111111-8483-4772-8e79-3d69d8477de4
              waited      30 s
              found       3 block devices
                NAME SIZE    HOLDS LABEL PARTITION NAME PARTUUID
                sda  512 MiB -     -     -              -
                vda  512 MiB gpt   -     -              -
                vda2 150 MiB erofs -     holdfast-root  0fc63daf-8483-4772-8e79-3d69d8477de4
              note        sda: Input/output error (os error 5)
              note        no driver for storage controller 0000:00:05.0
              next step   attach the disk
              then        reboot in 10 s

        "#]]
        .assert_eq(&failure.render(Duration::from_secs(10)));
    }

    #[test]
    fn thousands_of_devices_do_not_hide_the_reason() {
        let failure = Failure {
            devices: Some(
                (0..1000)
                    .map(|number| disk(&format!("sd{number}")))
                    .collect(),
            ),
            ..Failure::default()
        };
        let text = failure.render(Duration::ZERO);
        assert!(text.contains("1000 block devices"));
        assert!(text.contains("and 960 more"));
        assert!(text.lines().count() < 60);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(9999), "9999 B");
        assert_eq!(size(1 << 20), "1024 KiB");
        assert_eq!(size(u64::MAX), "16777215 TiB");
    }
}
