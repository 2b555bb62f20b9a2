//! Extends a second, and the mailbox with real commits behind it.

use std::time::Duration;

use anyhow::Result;
use disk_format::vdsm::mailbox::Extend;
use disk_format::vdsm::uuid::{DomainId, VolumeId};

use super::hosts::Hosts;
use super::lun::VOLUMES;
use super::model::{self, Sharing};
use super::table::{Line, Unit, ms, percentile};
use super::{DOMAIN, Lab, share, worst};

/// Rounds of all hosts.
const ROUNDS: usize = 4;
/// Requests of one host alone.
const ALONE: usize = 20;
/// `lvextend` commands.
const COMMANDS: usize = 20;
/// How much larger each request wants its volume.
const STEP_MIB: u32 = 2560;

/// Prints the lines; gives what an `lvextend` takes, and the longest of our
/// round trips for one host.
pub(super) fn run(lab: &Lab<'_>, volumes: &[VolumeId]) -> Result<(Duration, Duration)> {
    let domain: DomainId = DOMAIN.parse()?;
    let first = lab.first_mib()?;
    let want = |volume: usize, round: usize| -> Result<Extend> {
        Ok(Extend {
            domain,
            volume: volumes[volume],
            size_mib: first + STEP_MIB * u32::try_from(round + 1)?,
        })
    };
    let mut hosts = Hosts::start(&lab.disk, u16::try_from(VOLUMES)?)?;

    let rounds = lab.scale.of(ROUNDS);
    let mut each = Vec::new();
    let (mut spent, mut commits) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let extends = (0..VOLUMES)
            .map(|volume| want(volume, round))
            .collect::<Result<Vec<_>>>()?;
        let before = lab.disk.group()?.seqno;
        let took = hosts.ask(&extends)?;
        spent += worst(&took);
        commits += lab.disk.group()?.seqno - before;
        each.extend(took);
        (lab.say)(&format!("round {} of {VOLUMES} requests", round + 1));
    }
    let mut alone = Vec::new();
    for turn in 0..lab.scale.of(ALONE) {
        alone.extend(hosts.ask(&[want(0, rounds + turn)?])?);
    }
    drop(hosts);
    (lab.say)("requests of one host alone");

    let count = lab.scale.of(COMMANDS);
    let command = lab.lvm(&format!(
        "lvextend --autobackup n --driverloaded n -L {}m {DOMAIN}/$v",
        // Larger than whatever the mail made them.
        first + STEP_MIB * u32::try_from(rounds + 2)?
    ));
    let pick = "mapfile -t v </run/names; v=${v[$((i + 1))]}";
    let one = lab.time(0..count, pick, &command)?;
    (lab.say)("lvextend for each");

    let mean = one.iter().sum::<Duration>() / u32::try_from(count)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let ours = (rounds * VOLUMES) as f64 / spent.as_secs_f64();
    let line = |what: &str, unit, vdsm, ours, aim| {
        Line {
            section: "extend",
            what,
            unit,
            vdsm,
            ours,
            aim,
        }
        .print();
    };
    line(
        "a second, 249 hosts ask, mail included (VDSM: lvextend)",
        Unit::PerSecond,
        Some(1.0 / mean.as_secs_f64()),
        ours,
        "20 x",
    );
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    line(
        "commits for 249 requests",
        Unit::Count,
        Some(VOLUMES as f64),
        commits as f64 / rounds as f64,
        "",
    );
    line(
        "one lvextend (VDSM's command), mean",
        Unit::Milliseconds,
        Some(ms(mean)),
        ms(mean),
        "",
    );
    let all = model::round_trips(mean, Sharing::Threads(u16::try_from(VOLUMES)?));
    for (hosts, ours, mut vdsm) in [
        ("1 host", &alone, model::round_trips(mean, Sharing::None)),
        ("249 hosts at once", &each, all),
    ] {
        for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
            line(
                &format!("round trip {name}, {hosts}, real commits (VDSM: model)"),
                Unit::Milliseconds,
                Some(percentile(&mut vdsm, part)),
                share(ours, part),
                "",
            );
        }
    }
    Ok((mean, worst(&alone)))
}
