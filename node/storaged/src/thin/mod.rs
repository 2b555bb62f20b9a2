//! Watches the thin drives of running guests, and has them extended in time.
//!
//! One [`Monitor`] a guest, on a QMP socket that it has for itself. It decides
//! nothing: [`thin::Guest`] does. It does no storage work either: that is what
//! [`Extender`] and [`Refresher`] are given for.
//!
//! ```text
//!  QEMU ◀─ QMP ─▶ Monitor ◀─▶ thin::Guest
//!                  │    └──▶ Refresher: map the new size on this host (a worker)
//!                  └───────▶ Extender: local SPM, or mail to the one there is
//! ```
//!
//! The threshold is set on the lowest node, below QCOW2: that is where offsets
//! are those of the logical volume.

mod device;
mod flight;
mod monitor;
mod survey;
mod words;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use control::storage::VolumeName;

pub use device::size_bytes;
pub use monitor::{Command, Handle, Monitor};

/// Chunk and watermark as the configuration has them.
#[must_use]
pub fn policy(configured: &control::config::Thin) -> thin::Policy {
    thin::Policy {
        chunk_bytes: u64::from(configured.chunk_mib) << 20,
        utilization_percent: configured.utilization_percent,
    }
}

/// How drives are treated, as the configuration has it.
#[must_use]
pub fn config(configured: &control::config::Thin) -> thin::Config {
    thin::Config {
        policy: policy(configured),
        predict: configured.predict,
        ..thin::Config::default()
    }
}

/// Work that somebody else does.
pub type Later<T> = Pin<Box<dyn Future<Output = T>>>;

/// Has volumes made larger.
pub trait Extender {
    /// Has `volume` made at least `mib` MiB large. Resolves when it is answered;
    /// asked again for the same volume only after that. Asking twice is harmless.
    fn extend(&self, volume: &VolumeName, mib: u64) -> Later<thin::ExtendOutcome>;
}

/// Maps on this host what volumes have become.
pub trait Refresher {
    /// Maps the present size of `volume`, and tells it. `at_least_bytes` is what
    /// it should have become; telling less is for the caller to judge.
    fn refresh(&self, volume: &VolumeName, at_least_bytes: u64) -> Later<thin::RefreshOutcome>;

    /// The same on the host the guest is migrating to.
    fn refresh_destination(
        &self,
        _volume: &VolumeName,
        _at_least_bytes: u64,
    ) -> Later<thin::RefreshOutcome> {
        Box::pin(std::future::ready(thin::RefreshOutcome::Impossible))
    }
}

/// A drive to be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Any of QEMU's names of it: the node of its format or of its file, the
    /// device's id.
    pub node: String,
    /// The volume it writes to.
    pub volume: VolumeName,
    /// Where the volume's device is on this host. Used when QEMU's own name of
    /// the file is no path.
    pub path: PathBuf,
}

/// A guest to be watched.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Its QMP socket.
    pub socket: PathBuf,
    /// Its drives.
    pub drives: Vec<Drive>,
    /// Chunk, prediction.
    pub config: thin::Config,
    /// Where sysfs is mounted.
    pub sys: PathBuf,
}
