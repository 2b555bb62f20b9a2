//! The storage layer's figures inside a node: the shipped programs, the real
//! `lvm` and the kernel's device-mapper, in the debug image on an emulated
//! machine with one LUN.
//!
//! ```text
//!  this process                                 the node
//!  249 hosts' cores ──inbox──▶ the LUN's file ◀──▶ manager ─▶ lvm (`extend`)
//!                   ◀─outbox──                     refresh  ─▶ device-mapper (`refresh`)
//!                                                  qemu-img ─NBD▶ QEMU ─▶ thin volume (`guest`)
//! ```
//!
//! Of the original, what its commands take is measured in the same node; its
//! waiting and polling is computed from its constants, as in `cargo
//! bench-storage`. Emulation makes every program slow, those of both sides: the
//! ratios are worth more than the times.

mod extend;
mod guest;
mod hosts;
mod lun;
#[path = "../../../node/storaged/benches/storage/model.rs"]
#[expect(dead_code, reason = "the other benchmark uses more of it")]
mod model;
mod refresh;
#[path = "../../../node/storaged/benches/storage/table.rs"]
#[expect(dead_code, reason = "the other benchmark uses more of it")]
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::lun::Disk;
use crate::document::Document;
use crate::node::{Node, PATIENCE, Spec};
use crate::scenarios::storage::{POOL, ask, become_manager, done, until, wait_luns, wait_up};

/// The domain everything is measured in.
const DOMAIN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
/// What it is called.
const NAME: &str = "images";
/// The LUN's size: room for hundreds of volumes; a file with holes.
const LUN_MIB: u64 = 4 << 20;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// What the figures are worth something for.
    Full,
    /// Whether it works.
    Quick,
}

impl Scale {
    fn of(self, count: usize) -> usize {
        match self {
            Self::Full => count,
            Self::Quick => (count / 4).max(1),
        }
    }
}

/// What the parts share.
struct Lab<'a> {
    node: Node,
    disk: Disk,
    /// The LUN's name in the node.
    wwid: String,
    scale: Scale,
    say: &'a dyn Fn(&str),
}

/// What a part found that a later one computes with.
#[derive(Debug, Clone, Copy)]
struct Commands {
    /// An `lvextend` of the original's.
    extend: Duration,
    /// Its `lvchange --refresh`, at worst.
    refresh: Duration,
    /// Our refresh, at worst.
    our_refresh: Duration,
    /// Our round trip through the mailbox for one host, commit included, at worst.
    our_mail: Duration,
}

/// Boots `image`, the debug one, in `directory`, measures all parts and prints
/// a line for each figure; `say` tells how far it is.
///
/// # Errors
/// The node does not do what it should.
pub fn run(
    image: &image::Artifacts,
    directory: &Path,
    scale: Scale,
    say: &dyn Fn(&str),
) -> Result<()> {
    let disk = Disk::create(&directory.join("pool.img"), LUN_MIB)?;
    let text = format!(
        "{}\n[storage]\nhost_id = 1\n\n[[storage.connection]]\ntype = \"fc\"\n",
        Document::new(1).text()
    );
    let mut spec = Spec::new(image, 1)
        .with_config(text)
        .with_shell()
        .with_lun(disk.lun());
    spec.memory_mib = 1536;
    let node = Node::start(spec, directory)?;
    wait_up(&node)?;
    // Long lines are not worth editing.
    node.shell("set +o emacs; PS1='# '; export LVM_SYSTEM_DIR=/run/holdfast/lvm")?;
    let luns = wait_luns(&node, 1, 1)?;
    let wwid = luns.into_iter().next().context("no LUN")?;
    say("the node is up");
    done(
        &node,
        &format!("domain create {NAME} --lun {wwid} --id {DOMAIN}"),
    )?;
    until("the domain", PATIENCE, || {
        let made = ask(&node, &format!("pool create main {NAME} --id {POOL}"))?;
        if made.is_err() {
            done(&node, "storage rescan")?;
        }
        Ok(made.ok())
    })?;
    done(&node, &format!("pool connect {POOL} --host-id 1"))?;
    become_manager(&node, PATIENCE)?;
    say("it manages a pool");
    let lab = Lab {
        node,
        disk,
        wwid,
        scale,
        say,
    };
    table::head();
    let volumes = lab.fill()?;
    let (extend, our_mail) = extend::run(&lab, &volumes)?;
    let (refresh, our_refresh) = refresh::run(&lab, &volumes[0].to_string())?;
    let commands = Commands {
        extend,
        refresh,
        our_refresh,
        our_mail,
    };
    guest::run(&lab, &commands)
}

impl Lab<'_> {
    /// `lvm` as the original calls it.
    fn lvm(&self, command: &str) -> String {
        let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
        format!(
            "lvm {name} --devices /dev/mapper/{} --config 'devices {{ preferred_names=[\"^/dev/mapper/\"] \
             ignore_suspended_devices=1 write_cache_state=0 disable_after_error_count=3 hints=\"none\" \
             obtain_device_list_from_udev=0 }} global {{ prioritise_write_locks=1 wait_for_locks=1 \
             use_lvmpolld=1 }} backup {{ retain_min=50 retain_days=0 }}' {rest}",
            self.wwid
        )
    }

    /// Has the node's shell run `line` for each number, as `$i`, and gives what
    /// each took; `before` is run first each time and not counted.
    fn time(
        &self,
        numbers: std::ops::Range<usize>,
        before: &str,
        line: &str,
    ) -> Result<Vec<Duration>> {
        numbers
            .map(|number| {
                let told = self.node.shell(&format!(
                    "i={number}; {before}; a=$EPOCHREALTIME; {line} >/run/said 2>&1; s=$?; b=$EPOCHREALTIME; \
                     echo took $((${{b/./}} - ${{a/./}})) $s; cat /run/said"
                ))?;
                let words = told.lines().find_map(|line| line.strip_prefix("took "));
                let (took, status) = words
                    .and_then(|words| words.split_once(' '))
                    .with_context(|| format!("time of {line}: {told}"))?;
                ensure!(status == "0", "{line}: exit {told}");
                Ok(Duration::from_micros(took.parse().context("microseconds")?))
            })
            .collect()
    }
}

/// Of times, in milliseconds.
fn share(times: &[Duration], share: f64) -> f64 {
    let mut times: Vec<f64> = times.iter().map(|time| table::ms(*time)).collect();
    table::percentile(&mut times, share)
}

/// The longest of times.
fn worst(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}
