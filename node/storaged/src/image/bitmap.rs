//! Dirty bitmaps of QCOW2 volumes: what a backup has to read again.
//!
//! They are in the image itself, written by `qemu-img bitmap` under the volume's
//! lease, and never while a guest has the image open: its own QEMU is asked then.

use std::path::Path;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::VolumeFormat;

use super::copy::Hold;
use super::leases::Leases;
use super::operation::{self, Job};
use super::qemu;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::layout::Layout;

/// Longest name of a bitmap in bytes: what QCOW2 keeps.
pub const NAME_BYTES_MAX: usize = 1023;
/// Bitmaps of a volume: what QCOW2 keeps.
pub const BITMAPS_MAX: usize = 65_535;

/// A bitmap as the image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes that one bit stands for.
    pub granularity_bytes: u64,
    /// Whether it notes writes.
    pub enabled: bool,
    /// It was open when its writer ended: incomplete, and only to be removed.
    pub broken: bool,
}

impl Bitmap {
    /// Bytes it takes in an image of this capacity, its table included.
    #[must_use]
    pub fn size_bytes(&self, capacity_bytes: u64) -> u64 {
        /// QCOW2's clusters as `qemu-img` makes them.
        const CLUSTER_BYTES: u64 = 64 << 10;
        let bits = capacity_bytes.div_ceil(self.granularity_bytes.max(512));
        let clusters = bits.div_ceil(8).div_ceil(CLUSTER_BYTES);
        let table = (clusters * 8).div_ceil(CLUSTER_BYTES);
        (clusters + table) * CLUSTER_BYTES
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new one.
    Add {
        /// Its name.
        name: String,
        /// Bytes that one bit stands for; QEMU's choice when absent.
        granularity_bytes: Option<u32>,
        /// Whether it notes writes from now on.
        enabled: bool,
    },
    /// One goes.
    Remove {
        /// Its name.
        name: String,
    },
    /// All go.
    Clear,
}

/// The bitmaps of a volume; none of a RAW one. Also while a guest uses it: then
/// as they were when it was opened.
///
/// # Errors
///
/// `NotFound`; what cannot be prepared; those of `qemu-img`.
pub fn list(
    context: &Context,
    layout: &Layout,
    domain: &dyn Domain,
    image: ImageId,
    volume: VolumeId,
) -> Result<Vec<Bitmap>> {
    let held = Hold::take(domain, layout, image, volume)?;
    let leaf = held.leaf()?;
    if leaf.format == VolumeFormat::Raw {
        return Ok(Vec::new());
    }
    qemu::bitmaps(context, &leaf.path)
}

/// Changes the bitmaps of a volume, under its lease; any host may.
///
/// # Errors
///
/// `BadRequest` for a RAW volume, a domain below version 4, a name or granularity
/// that cannot be; `Exists`, `NotFound`; `InUse` while a guest has it open; those
/// of the lease, of `qemu-img`.
pub fn change(
    context: &Context,
    layout: &Layout,
    domain: &dyn Domain,
    leases: &dyn Leases,
    (image, volume): (ImageId, VolumeId),
    job: &Job,
    what: &Change,
) -> Result<()> {
    let bad =
        |words: String| Failure::new(FailureKind::BadRequest, format!("volume {volume}: {words}"));
    if domain.version() < DomainVersion::V4 {
        return Err(bad(format!(
            "bitmaps need a domain of version 4, this one has {}; upgrade it",
            domain.version()
        )));
    }
    check(what).map_err(bad)?;
    operation::change_beside(domain, leases, volume, job, |_, _| {
        let held = Hold::take(domain, layout, image, volume)?;
        let leaf = held.leaf()?;
        if leaf.format == VolumeFormat::Raw {
            return Err(bad(
                "RAW, which has no place for bitmaps; only QCOW2 has".into()
            ));
        }
        let there = qemu::bitmaps(context, &leaf.path)?;
        let known = |name: &str| there.iter().any(|bitmap| bitmap.name == name);
        match what {
            Change::Add {
                name,
                granularity_bytes,
                enabled,
            } => {
                if known(name) {
                    return Err(Failure::new(
                        FailureKind::Exists,
                        format!("volume {volume}: has a bitmap {name:?} already"),
                    ));
                }
                if there.len() >= BITMAPS_MAX {
                    return Err(bad(format!("{BITMAPS_MAX} bitmaps, the most there can be")));
                }
                let granularity = granularity_bytes.map(u64::from);
                qemu::add_bitmap(context, &leaf.path, name, granularity, *enabled)
            }
            Change::Remove { name } => {
                if !known(name) {
                    return Err(Failure::new(
                        FailureKind::NotFound,
                        format!("volume {volume}: has no bitmap {name:?}"),
                    ));
                }
                qemu::remove_bitmap(context, &leaf.path, name)
            }
            Change::Clear => there
                .iter()
                .try_for_each(|bitmap| qemu::remove_bitmap(context, &leaf.path, &bitmap.name)),
        }
    })
}

fn check(what: &Change) -> std::result::Result<(), String> {
    let (Change::Add { name, .. } | Change::Remove { name }) = what else {
        return Ok(());
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "name of a bitmap of {} bytes: must be 1 to {NAME_BYTES_MAX}",
            name.len()
        ));
    }
    // Else it is taken for an option.
    if name.starts_with('-') || name.chars().any(char::is_control) {
        return Err(format!(
            "name of a bitmap {name:?}: may not begin with a hyphen or have control characters"
        ));
    }
    if let Change::Add {
        granularity_bytes: Some(bytes),
        ..
    } = what
        && !(bytes.is_power_of_two() && *bytes >= 512)
    {
        return Err(format!(
            "granularity {bytes}: must be a power of two from 512 to {}",
            1_u32 << 31
        ));
    }
    Ok(())
}

/// Gives the base of a merge what the bitmaps of the top say: what was written
/// there is in the base by now. Broken ones say nothing and are left out.
pub(super) fn merge(context: &Context, base: &Path, top: &Path) -> Result<()> {
    let above = qemu::bitmaps(context, top)?;
    if above.is_empty() {
        return Ok(());
    }
    let below = qemu::bitmaps(context, base)?;
    for bitmap in above.iter().filter(|bitmap| !bitmap.broken) {
        match below.iter().find(|other| other.name == bitmap.name) {
            Some(other) if other.broken => continue,
            Some(_) => {}
            None => {
                let granularity = Some(bitmap.granularity_bytes);
                qemu::add_bitmap(context, base, &bitmap.name, granularity, bitmap.enabled)?;
            }
        }
        qemu::merge_bitmap(context, base, top, &bitmap.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_granularities_that_cannot_be_are_refused() {
        let add = |name: &str, granularity| Change::Add {
            name: name.to_owned(),
            granularity_bytes: granularity,
            enabled: true,
        };
        check(&add("a", Some(512))).unwrap();
        check(&add(&"n".repeat(NAME_BYTES_MAX), Some(1 << 31))).unwrap();
        check(&Change::Clear).unwrap();
        for wrong in [
            add("", None),
            add("--all", None),
            add("a\nb", None),
            add(&"n".repeat(NAME_BYTES_MAX + 1), None),
            add("a", Some(0)),
            add("a", Some(256)),
            add("a", Some(65_537)),
            Change::Remove {
                name: String::new(),
            },
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn size_is_of_whole_clusters_with_a_table() {
        let bitmap = Bitmap {
            name: "a".into(),
            granularity_bytes: 65_536,
            enabled: true,
            broken: false,
        };
        assert_eq!(bitmap.size_bytes(1), 2 << 16);
        assert_eq!(bitmap.size_bytes(1 << 40), (32 + 1) << 16);
    }
}
