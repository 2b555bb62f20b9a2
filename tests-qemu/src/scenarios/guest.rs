//! A guest's writes into a thin volume through a real QEMU. Its processor never
//! runs: what matters is how fast the writes take new room, and emulation inside
//! emulation would have no processor to spare for a guest's own kernel. The
//! writes come in over NBD and go the way a guest's go, through QEMU's limit,
//! its QCOW2 driver and the volume.

use anyhow::{Context as _, Result, ensure};

use super::storage::until;
use crate::node::{Node, PATIENCE};

/// Requests a second that QEMU lets through. Two clusters are taken by each, so
/// this is 192 MiB/s: well above one extent a second, and what an emulated node
/// keeps up with several times over.
const REQUESTS_PER_S: u32 = 48;
/// MiB that one request takes: it lies across the border of two clusters.
const REQUEST_MIB: u32 = 4;
/// Bytes it writes: the last subcluster of one cluster, the first of the next.
const REQUEST_BYTES: u32 = 128 << 10;
/// Where QEMU says what it answers and what happens.
const LOG: &str = "/run/guest.log";

/// QEMU on a node, with one drive.
pub(super) struct Guest<'a> {
    node: &'a Node,
    written_mib: u32,
}

impl<'a> Guest<'a> {
    /// Its monitor, for whoever watches it.
    pub(super) const MONITOR: &'static str = "/run/vm.qmp";
    /// Its drive's node.
    pub(super) const DRIVE: &'static str = "disk";

    /// Starts QEMU with an empty QCOW2 of `gib` GiB on the volume at `path`.
    pub(super) fn start(node: &'a Node, path: &str, gib: u32) -> Result<Self> {
        // Large clusters of small parts: few small writes take much room.
        node.shell(&format!(
            "qemu-img create -q -f qcow2 -o cluster_size=2M,extended_l2=on {path} {gib}G"
        ))?;
        let monitor = Self::MONITOR;
        let disk = Self::DRIVE;
        node.shell(&format!(
            "coproc GUEST {{ qemu-system-x86_64 -M q35,accel=tcg -S -nodefaults -display none \
             -qmp stdio -qmp unix:{monitor},server,nowait \
             -object '{{\"qom-type\":\"throttle-group\",\"id\":\"limit\",\"limits\":{{\"iops-total\":{REQUESTS_PER_S}}}}}' \
             -blockdev driver=host_device,node-name={disk},filename={path},cache.direct=on,aio=io_uring \
             -blockdev driver=qcow2,node-name=image,file={disk} \
             -blockdev driver=throttle,node-name=top,throttle-group=limit,file=image \
             -device virtio-blk-pci,drive=top,share-rw=on,werror=stop,rerror=stop >{LOG} 2>&1; }}"
        ))?;
        for order in [
            r#"{"execute":"qmp_capabilities"}"#,
            r#"{"execute":"nbd-server-start","arguments":{"addr":{"type":"unix","data":{"path":"/run/vm.nbd"}}}}"#,
            r#"{"execute":"block-export-add","arguments":{"type":"nbd","id":"writes","node-name":"top","name":"disk","writable":true}}"#,
        ] {
            node.shell(&format!("echo '{order}' >&${{GUEST[1]}}"))?;
        }
        until("QEMU", PATIENCE, || {
            let answers = node.shell(&format!("cat {LOG} || true"))?;
            ensure!(!answers.contains("error"), "QEMU: {answers}");
            Ok((answers.matches("return").count() == 3).then_some(()))
        })?;
        Ok(Self {
            node,
            written_mib: 0,
        })
    }

    /// Where it is.
    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    /// MiB that are taken from its start.
    pub(super) fn written_mib(&self) -> u32 {
        self.written_mib
    }

    /// Takes every cluster below `mib` that is not taken yet; how many MiB a
    /// second that were, by the node's clock. A write that fails, or that stops
    /// the guest, is a failure.
    pub(super) fn write_to(&mut self, mib: u32) -> Result<f64> {
        let first = self.written_mib;
        ensure!(
            mib > first && (mib - first).is_multiple_of(REQUEST_MIB),
            "writing from {first} to {mib} MiB: must be a multiple of {REQUEST_MIB}"
        );
        let count = (mib - first) / REQUEST_MIB;
        let offset = (u64::from(first + REQUEST_MIB / 2) << 20) - u64::from(REQUEST_BYTES / 2);
        let told = self.node.shell(&format!(
            "qemu-img bench -f raw -w -c {count} -d 8 -s {REQUEST_BYTES} -S {} -o {offset} \
             'nbd+unix:///disk?socket=/run/vm.nbd' 2>&1",
            REQUEST_MIB << 20
        ))?;
        self.written_mib = mib;
        let seconds = told
            .split_once("Run completed in ")
            .and_then(|(_, rest)| rest.split_once(" seconds"))
            .and_then(|(seconds, _)| seconds.parse::<f64>().ok())
            .with_context(|| format!("qemu-img bench: {told}"))?;
        let events = self.node.shell(&format!(
            "grep -e BLOCK_IO_ERROR -e '\"STOP\"' -e '\"error\"' {LOG} || true"
        ))?;
        ensure!(events.trim().is_empty(), "the guest was stopped: {events}");
        Ok(f64::from(mib - first) / seconds)
    }
}
