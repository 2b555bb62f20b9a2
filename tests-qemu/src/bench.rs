//! The boot benchmark's measurements, all by the guest's own clock.
//!
//! *Hand-over* is the moment the kernel starts its first program, as its own
//! log has it. *Address* is the moment the bridge has its address: our node
//! reports when it saw it there; of the reference, the moment systemd-networkd
//! logged that it had it, a little before it is on the bridge. Both sides get
//! it from the same DHCP server. The kernel's log has a clock of its own; it is
//! compared with the other one once in each machine.
//!
//! *Memory* is taken when the machine has been idle for a while and holds its
//! lease: of each process the resident set (RSS) and its proportional share of
//! it (PSS), without the shell that asks. It is the debug image of the node that
//! is measured, because the release image has no shell to ask; the two differ in
//! nothing that runs but that shell.
//!
//! Before the address is there nobody asks a machine anything: with one
//! processor, every question would be part of the answer.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::status::{LockspaceState, Snapshot};
use serde::Serialize;

use crate::document::Document;
use crate::lun::Lun;
use crate::node::{BOOT_PATIENCE, Boot, Node, PATIENCE, Spec};

/// What the kernel logs when it starts its first program.
const HAND_OVER: &str = " as init process";
/// Marks our own line in the kernel's log.
const CLOCK_MARK: &str = "holdfast-bench uptime ";
/// Lockspace both sides join, each on a LUN of its own.
const LOCKSPACE: &str = "bench";
/// Seconds; sanlock's default.
const IO_TIMEOUT_S: u32 = 10;
/// The breath between two questions to a machine that is busy booting.
const QUESTION_PAUSE: Duration = Duration::from_secs(5);
/// Looks at the processes, one question pause apart, that must agree before
/// memory counts: udev keeps idle workers for a few seconds.
const STEADY_LOOKS: u32 = 3;
/// A line for each process but the shell itself: pid, RSS and PSS in KiB, name.
/// Kernel threads have neither and are left out.
const PROCESSES: &str = "for d in /proc/[0-9]*; do [ $d = /proc/$$ ] && continue; p=; \
    while read k v u; do case $k in Rss:) r=$v;; Pss:) p=$v;; esac; done 2> /dev/null < $d/smaps_rollup; \
    [ -n \"$p\" ] && read n < $d/comm && echo process ${d#/proc/} $r $p $n; done 2> /dev/null; true";
/// The journal's entry of the bridge getting its address.
const ADDRESS_ENTRY: &str = "journalctl -b -q -o json --output-fields=MESSAGE,_SOURCE_REALTIME_TIMESTAMP \
    -u systemd-networkd | grep -m1 'ovirtmgmt: DHCPv4 address'";

/// One process, sizes in KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Name, as the kernel has it (15 characters at most).
    pub name: String,
    /// Resident set.
    pub resident_kib: u64,
    /// The same with shared pages divided among those who share them.
    pub proportional_kib: u64,
}

/// What was measured of one boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// From the kernel's start to hand-over, in ms.
    pub kernel_ms: u64,
    /// From hand-over to the bridge's address, in ms.
    pub boot_ms: u64,
    /// Memory the machine could not give to a new program, kernel and tmpfs
    /// included (total less available), in KiB.
    pub used_kib: u64,
    /// What the root file system holds, as stored, in KiB.
    pub root_kib: u64,
    /// Every process, the largest first.
    pub processes: Vec<Process>,
}

impl Figures {
    /// Sum of the proportional set sizes of all processes, in KiB.
    #[must_use]
    pub fn proportional_kib(&self) -> u64 {
        self.proportional_kib_without(&[])
    }

    /// The same without the processes called one of `names`, in KiB.
    #[must_use]
    pub fn proportional_kib_without(&self, names: &[&str]) -> u64 {
        let counted = self.processes.iter();
        counted
            .filter(|process| !names.contains(&process.name.as_str()))
            .map(|process| process.proportional_kib)
            .sum()
    }

    /// Resident set of the process `pid`, in KiB.
    #[must_use]
    pub fn resident_of_pid(&self, pid: u32) -> Option<u64> {
        let found = self.processes.iter().find(|process| process.pid == pid);
        found.map(|process| process.resident_kib)
    }

    /// Resident set of the only process called `name`, in KiB.
    #[must_use]
    pub fn resident_of(&self, name: &str) -> Option<u64> {
        let mut named = self.processes.iter().filter(|process| process.name == name);
        let found = named.next().filter(|_| named.next().is_none());
        found.map(|process| process.resident_kib)
    }
}

/// Boots our debug image in `directory` and measures it.
pub fn measure_node(image: &image::Artifacts, directory: &Path) -> Result<Figures> {
    let lun = Lun::create(&directory.join("node.lun"), 1, 4)?;
    lun.initialise(LOCKSPACE, IO_TIMEOUT_S)?;
    let document = Document::new(1).with_lockspace(LOCKSPACE, &lun, 1, IO_TIMEOUT_S);
    let spec = Spec::new(image, 1)
        .with_config(document.text())
        .with_lun(&lun)
        .with_shell();
    warm(&image.disk)?;
    let node = Node::start(spec, directory)?;
    let hand_over = hand_over(&node)?;
    enter_shell(&node)?;
    let address = wait_until(&node, "lease held and bridge address", || {
        let snapshot = node.status()?;
        Ok(address_of(&snapshot).filter(|_| holds(&snapshot)))
    })?;
    figures(&node, hand_over, Duration::from_millis(address))
}

/// Boots the reference machine in `directory` and measures it; `like` gives the
/// machine around it.
pub fn measure_reference(
    reference: &image::Reference,
    like: &image::Artifacts,
    directory: &Path,
) -> Result<Figures> {
    let lun = Lun::create(&directory.join("reference.lun"), 2, 4)?;
    lun.initialise(LOCKSPACE, IO_TIMEOUT_S)?;
    let disk = Copy::of(&reference.disk, directory.join("reference.raw"))?;
    let mut spec = Spec::new(like, 2).with_lun(&lun);
    spec.name = "reference".to_owned();
    spec.boot = Boot::Direct {
        kernel: reference.vmlinuz.clone(),
        initrd: reference.initrd.clone(),
        cmdline: reference.cmdline.clone(),
    };
    spec.append = String::new();
    spec.root = Some((disk.0.clone(), true));
    spec.shell = true;
    warm(&disk.0)?;
    let node = Node::start(spec, directory)?;
    let hand_over = hand_over(&node)?;
    enter_shell(&node)?;
    // Waits inside, at no cost, until every unit has been started.
    if let Err(error) = node.shell("systemctl is-system-running --wait") {
        let failed = node.shell("systemctl list-units --failed --no-legend --plain")?;
        return Err(error.context(format!("reference: units that failed: {failed}")));
    }
    let entry = node.shell(ADDRESS_ENTRY)?;
    let address =
        entry_time(&entry).with_context(|| format!("reference: journal entry {entry}"))?;
    let lockspace = format!("{LOCKSPACE}:1:{}:0", lun.guest_path());
    node.shell(&format!("sanlock client add_lockspace -s {lockspace}"))?;
    let status = node.shell("sanlock client status")?;
    ensure!(
        status.contains(&format!("s {lockspace}")),
        "reference: lockspace not held:\n{status}"
    );
    figures(&node, hand_over, address)
}

/// Everything but the address, which each side tells in its own way.
///
/// `hand_over` is by the kernel log's clock, `address` by the boot-time clock.
fn figures(node: &Node, hand_over: Duration, address: Duration) -> Result<Figures> {
    let name = &node.spec.name;
    let processes = steady_processes(node)?;
    let memory = node.shell("while read k v u; do echo $k $v; done < /proc/meminfo")?;
    let memory = |key: &str| {
        field(&memory, key).with_context(|| format!("{name}: {key} in /proc/meminfo: {memory:?}"))
    };
    let used_kib = memory("MemTotal:")? - memory("MemAvailable:")?;
    let usage = node.shell("df -kP /")?;
    let root_kib = used_blocks(&usage).with_context(|| format!("{name}: df /: {usage:?}"))?;

    let position = node.serial.position();
    node.shell(&format!(
        "read u rest < /proc/uptime; echo \"<1>{CLOCK_MARK}$u\" > /dev/kmsg"
    ))?;
    let (logged, uptime) =
        node.serial
            .wait(position, PATIENCE, "our line in the kernel's log", |text| {
                text.lines().find_map(|line| {
                    let uptime = line.split_once(CLOCK_MARK)?.1;
                    Some((stamp(line)?, seconds(uptime.trim())?))
                })
            })?;
    let clock = |log: Duration| (log + uptime).saturating_sub(logged);
    let hand_over = clock(hand_over);
    ensure!(
        address > hand_over,
        "{name}: address at {address:?}, before hand-over at {hand_over:?}"
    );
    Ok(Figures {
        kernel_ms: milliseconds(hand_over)?,
        boot_ms: milliseconds(address - hand_over)?,
        used_kib,
        root_kib,
        processes,
    })
}

/// Waits for hand-over; its time by the clock of the kernel's log.
fn hand_over(node: &Node) -> Result<Duration> {
    node.serial
        .wait(0, BOOT_PATIENCE, "the kernel's hand-over", |text| {
            let line = text.lines().find(|line| line.contains(HAND_OVER))?;
            stamp(line)
        })
        .with_context(|| node.spec.name.clone())
}

/// Waits for the root shell, and has it print nothing but answers.
fn enter_shell(node: &Node) -> Result<()> {
    node.wait_shell(0)?;
    node.shell("bind 'set enable-bracketed-paste off'")?;
    Ok(())
}

/// Asks until there is an answer, with pauses.
fn wait_until<T>(node: &Node, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + BOOT_PATIENCE;
    loop {
        let seen = node.qmp.event_count();
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(
            Instant::now() < deadline,
            "{}: {what}: not seen within {} s",
            node.spec.name,
            BOOT_PATIENCE.as_secs()
        );
        node.qmp.rest(seen, QUESTION_PAUSE);
    }
}

fn address_of(snapshot: &Snapshot) -> Option<u64> {
    snapshot.network.address_at_ms
}

fn holds(snapshot: &Snapshot) -> bool {
    let lockspace = snapshot.lockspace.as_ref();
    lockspace.is_some_and(|lockspace| lockspace.state == LockspaceState::Held)
}

/// The processes, once several looks in a row found the same ones.
fn steady_processes(node: &Node) -> Result<Vec<Process>> {
    let mut before: Vec<u32> = Vec::new();
    let mut same = 0;
    wait_until(node, "the same processes for a while", || {
        let listing = node.shell(PROCESSES)?;
        let mut processes = processes(&listing);
        if processes.is_empty() {
            bail!("{}: list of processes: {listing:?}", node.spec.name);
        }
        processes.sort_by_key(|process| process.pid);
        let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        same = if pids == before { same + 1 } else { 1 };
        before = pids;
        processes.sort_by_key(|process| std::cmp::Reverse(process.proportional_kib));
        Ok((same == STEADY_LOOKS).then_some(processes))
    })
}

fn processes(listing: &str) -> Vec<Process> {
    let parse = |line: &str| {
        let mut words = line.strip_prefix("process ")?.splitn(4, ' ');
        Some(Process {
            pid: words.next()?.parse().ok()?,
            resident_kib: words.next()?.parse().ok()?,
            proportional_kib: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    };
    listing.lines().filter_map(parse).collect()
}

/// When a journal entry was sent, by the monotonic clock. The journal itself
/// stamps entries as it gets to them, which may be late in a busy boot; the
/// sender's time is known by the wall clock only.
fn entry_time(output: &str) -> Option<Duration> {
    let document = output.lines().find(|line| line.starts_with('{'))?;
    let entry: serde_json::Value = serde_json::from_str(document).ok()?;
    let micros = |name: &str| entry[name].as_str()?.parse::<u64>().ok();
    let received = micros("__MONOTONIC_TIMESTAMP")?;
    let late =
        micros("__REALTIME_TIMESTAMP")?.checked_sub(micros("_SOURCE_REALTIME_TIMESTAMP")?)?;
    Some(Duration::from_micros(received.checked_sub(late)?))
}

/// The clock of a log line, `[    3.123456] …`.
fn stamp(line: &str) -> Option<Duration> {
    let (_, rest) = line.split_once('[')?;
    let (clock, _) = rest.split_once(']')?;
    seconds(clock.trim())
}

/// A number of seconds with a fraction of at most six digits.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let micros: u64 = format!("{fraction:0<6}").parse().ok()?;
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_micros(micros))
}

fn milliseconds(duration: Duration) -> Result<u64> {
    u64::try_from(duration.as_millis()).context("a boot of ages")
}

/// The number after `key` at the start of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// The third column of the last line of `df -kP`.
fn used_blocks(text: &str) -> Option<u64> {
    let line = text.lines().rfind(|line| line.ends_with('/'))?;
    line.split_whitespace().nth(2)?.parse().ok()
}

/// Reads a disk once, so that neither side waits for the host's own disk.
fn warm(disk: &Path) -> Result<()> {
    let mut file = File::open(disk).with_context(|| disk.display().to_string())?;
    io::copy(&mut file, &mut io::sink()).with_context(|| disk.display().to_string())?;
    Ok(())
}

/// A disk of its own for a machine that writes; removed when done with.
#[derive(Debug)]
struct Copy(PathBuf);

impl Copy {
    fn of(disk: &Path, to: PathBuf) -> Result<Self> {
        fs::copy(disk, &to).with_context(|| to.display().to_string())?;
        Ok(Self(to))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Left behind, it is only in the way until the next run.
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_log_line_is_read() {
        let line = "[    3.120045] Run /init as init process";
        assert_eq!(stamp(line), Some(Duration::from_micros(3_120_045)));
        assert_eq!(stamp("Run /init as init process"), None);
        assert_eq!(seconds("81.27"), Some(Duration::from_millis(81_270)));
        assert_eq!(seconds("81"), None);
    }

    #[test]
    fn a_journal_entry_counts_from_when_it_was_sent() {
        let entry = "noise\n{\"__REALTIME_TIMESTAMP\":\"1000900000\",\"_SOURCE_REALTIME_TIMESTAMP\":\"1000200000\",\
             \"__MONOTONIC_TIMESTAMP\":\"9000000\",\"MESSAGE\":\"ovirtmgmt: DHCPv4 address\"}\n";
        assert_eq!(entry_time(entry), Some(Duration::from_millis(8_300)));
        assert_eq!(entry_time("{\"MESSAGE\":\"x\"}"), None);
    }

    #[test]
    fn names_with_spaces_stay_whole_and_noise_is_left_out() {
        let listing =
            "process 1 4100 3900 init\nprocess 77 900 800 (sd-pam) x\nprocess 9  kthreadd\n# ";
        let found = processes(listing);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].name, "(sd-pam) x");
        assert_eq!(
            (found[0].resident_kib, found[0].proportional_kib),
            (4100, 3900)
        );
    }

    #[test]
    fn sizes_are_found_in_what_the_tools_print() {
        assert_eq!(
            field("MemFree: 1\nMemTotal: 750000\n", "MemTotal:"),
            Some(750_000)
        );
        let usage = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda2 800000 500000 300000 63% /\n";
        assert_eq!(used_blocks(usage), Some(500_000));
    }
}
