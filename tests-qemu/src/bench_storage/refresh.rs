//! What it takes a host to follow an extension: device-mapper by our own hand
//! against `lvchange --refresh`. Both are started as commands here; in the
//! daemon ours needs no start.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::table::{Line, Unit};
use super::{DOMAIN, Lab, share, worst};

/// Refreshes of each sort.
const COUNT: usize = 40;

/// Prints the lines for an active `volume`; gives the longest of theirs and ours.
pub(super) fn run(lab: &Lab<'_>, volume: &str) -> Result<(Duration, Duration)> {
    let name = format!("{DOMAIN}/{volume}");
    let map = name.replace('-', "--").replace('/', "-");
    lab.node.shell(&format!(
        "{} 2>&1",
        lab.lvm(&format!("lvchange -ay {name}"))
    ))?;
    let grow = format!(
        "{} >/run/said 2>&1 || cat /run/said",
        lab.lvm(&format!(
            "lvextend --autobackup n --driverloaded n -l +1 {name}"
        ))
    );
    let ours = format!("/usr/lib/holdfast/storaged refresh-table {name}");
    let theirs = lab.lvm(&format!("lvchange --autobackup n --refresh {name}"));
    let sectors = || -> Result<u64> {
        let told = lab
            .node
            .shell(&format!("blockdev --getsz /dev/mapper/{map}"))?;
        Ok(told.trim().parse()?)
    };
    let count = lab.scale.of(COUNT);
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for turn in 0..count {
        for (command, times) in [(&ours, &mut our_times), (&theirs, &mut their_times)] {
            let before = sectors()?;
            times.extend(lab.time(turn..turn + 1, &grow, command)?);
            ensure!(sectors()? > before, "{command}: {name} is not larger");
        }
    }
    // Without a volume it says how it is used.
    let start = lab.time(
        0..count,
        ":",
        "/usr/lib/holdfast/storaged refresh-table || true",
    )?;
    let line = |what: &str, vdsm, ours| {
        Line {
            section: "refresh",
            what,
            unit: Unit::Milliseconds,
            vdsm,
            ours,
            aim: "",
        }
        .print();
    };
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        line(
            &format!("after an extension {name} (VDSM: lvchange --refresh)"),
            Some(share(&their_times, part)),
            share(&our_times, part),
        );
    }
    line(
        "of ours, start of the program, p50",
        None,
        share(&start, 0.5),
    );
    lab.node.shell(&format!(
        "{} 2>&1",
        lab.lvm(&format!("lvchange -an {name}"))
    ))?;
    (lab.say)("refreshes of both sorts");
    Ok((worst(&their_times), worst(&our_times)))
}
