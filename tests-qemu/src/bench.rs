//! The boot benchmark's measurements, all from the guest's own clock so that a
//! busy host stretches both sides alike.
//!
//! *Hand-over* is the moment the kernel starts its first program, as its own
//! log has it. *Address* is the moment the bridge has its address: our node
//! reports it, systemd's journal has it. *Memory* is the sum over all processes
//! of their proportional set sizes, without the shell that does the sum.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::node::{BOOT_PATIENCE, Node, Spec};

/// What the kernel logs when it starts its first program.
const HAND_OVER: &str = " as init process";
/// Sums the proportional set sizes of all processes but the shell itself.
const SUM_PSS: &str = "t=0; for f in /proc/[0-9]*/smaps_rollup; do [ $f = /proc/$$/smaps_rollup ] && continue; \
    while read k v u; do [ \"$k\" = Pss: ] && t=$((t+v)); done < $f; done 2> /dev/null; echo $t";
/// The line of systemd's journal that says when the bridge got its address.
const REFERENCE_ADDRESS: &str =
    "journalctl -b -o short-monotonic -u systemd-networkd | grep -m1 'ovirtmgmt: DHCPv4 address'";

/// One image's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// From hand-over to the bridge's address.
    pub boot: Duration,
    /// From the kernel's start to hand-over, for information.
    pub kernel: Duration,
    /// Memory of all processes in KiB.
    pub pss_kib: u64,
    /// Resident memory in KiB of processes with a limit of their own.
    pub resident_kib: Vec<(String, u64)>,
}

/// Measures our image; `spec` must give it a shell and a lockspace it can join.
pub fn measure_node(spec: Spec, directory: &Path) -> Result<Figures> {
    let node = Node::start(spec, directory)?;
    let snapshot =
        node.wait_status("lease held and bridge address", BOOT_PATIENCE, |snapshot| {
            let held = snapshot
                .lockspace
                .as_ref()
                .is_some_and(|lockspace| lockspace.generation.is_some());
            held && snapshot.network.address_at_ms.is_some()
        })?;
    let address = Duration::from_millis(snapshot.network.address_at_ms.unwrap_or_default());
    node.wait_shell(0)?;
    let mut figures = figures(&node, address)?;
    let supervisor =
        node.shell("while read k v u; do [ $k = VmRSS: ] && echo $v; done < /proc/1/status; true")?;
    let supervisor =
        number(&supervisor).with_context(|| format!("memory of PID 1: {supervisor:?}"))?;
    figures
        .resident_kib
        .push(("supervisor".to_owned(), supervisor));
    let leased = snapshot
        .children
        .iter()
        .find(|child| child.name == "leased");
    let leased = leased
        .and_then(|child| child.resident_kib)
        .context("memory of leased: not in the status")?;
    figures.resident_kib.push(("leased".to_owned(), leased));
    Ok(figures)
}

/// Measures the reference image.
pub fn measure_reference(spec: Spec, directory: &Path) -> Result<Figures> {
    let node = Node::start(spec, directory)?;
    node.wait_shell(0)?;
    let deadline = Instant::now() + BOOT_PATIENCE;
    let line = loop {
        match node.shell(REFERENCE_ADDRESS) {
            Ok(line) => break line,
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context("reference: bridge address"));
            }
            Err(_) => node
                .qmp
                .rest(node.qmp.event_count(), Duration::from_secs(1)),
        }
    };
    let address = stamp(&line).with_context(|| format!("reference: journal line {line:?}"))?;
    figures(&node, address)
}

fn figures(node: &Node, address: Duration) -> Result<Figures> {
    let log = node.serial.text_after(0);
    let kernel = log
        .lines()
        .find(|line| line.contains(HAND_OVER))
        .and_then(stamp);
    let kernel = kernel
        .with_context(|| format!("{}: no {HAND_OVER:?} in the kernel's log", node.spec.name))?;
    ensure!(
        address > kernel,
        "{}: address at {address:?}, before the first program",
        node.spec.name
    );
    let sum = node.shell(SUM_PSS)?;
    let pss_kib =
        number(&sum).with_context(|| format!("{}: sum of memory {sum:?}", node.spec.name))?;
    Ok(Figures {
        boot: address - kernel,
        kernel,
        pss_kib,
        resident_kib: Vec::new(),
    })
}

/// The clock of a log line, `[    3.123456] …`.
fn stamp(line: &str) -> Option<Duration> {
    let (_, rest) = line.split_once('[')?;
    let (seconds, _) = rest.split_once(']')?;
    let (whole, fraction) = seconds.trim().split_once('.')?;
    let micros: u64 = fraction.parse().ok().filter(|_| fraction.len() == 6)?;
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_micros(micros))
}

/// The last line that is a number.
fn number(output: &str) -> Option<u64> {
    output
        .lines()
        .rev()
        .find_map(|line| line.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_log_line_is_read() {
        let line = "[    3.120045] Run /init as init process";
        assert_eq!(stamp(line), Some(Duration::from_micros(3_120_045)));
        assert_eq!(stamp("Run /init as init process"), None);
    }
}
