//! Which devices may carry domains.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;

use control::storage::{Failure, FailureKind};

use crate::job::Result;
use crate::layout::Layout;

/// Where LVM may look when the devices of a group are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// The multipath maps of this host, and `also` these.
    Multipath {
        /// Allowed though they are no multipath maps.
        also: Vec<PathBuf>,
    },
    /// These and no others.
    Fixed(Vec<PathBuf>),
}

impl Candidates {
    /// The devices that are there now, sorted.
    ///
    /// # Errors
    /// `/sys` cannot be read.
    pub fn list(&self, layout: &Layout) -> Result<Vec<PathBuf>> {
        let mut devices = match self {
            Self::Fixed(devices) => devices.clone(),
            Self::Multipath { also } => {
                let mut devices = multipath(layout)?;
                devices.extend(also.iter().filter(|device| device.exists()).cloned());
                devices
            }
        };
        devices.sort();
        devices.dedup();
        Ok(devices)
    }
}

/// The multipath maps: device-mapper devices whose uuid begins so. Partitions on
/// them begin otherwise.
fn multipath(layout: &Layout) -> Result<Vec<PathBuf>> {
    let folder = layout.sys.join("block");
    let entries = fs::read_dir(&folder)
        .map_err(|error| Failure::new(FailureKind::Io, format!("{}: {error}", folder.display())))?;
    let mut maps = Vec::new();
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(b"dm-") {
            continue;
        }
        let about = entry.path().join("dm");
        // A map that goes away meanwhile is none.
        let uuid = fs::read_to_string(about.join("uuid")).unwrap_or_default();
        let name = fs::read_to_string(about.join("name")).unwrap_or_default();
        if uuid.starts_with("mpath-") && !name.trim().is_empty() {
            maps.push(layout.mapper(name.trim()));
        }
    }
    Ok(maps)
}

/// The value of `--devices`.
pub(super) fn join(devices: &[PathBuf]) -> OsString {
    let words: Vec<&OsStr> = devices.iter().map(|device| device.as_os_str()).collect();
    words.join(OsStr::new(","))
}
