//! A volume group as its metadata text tells it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainMetadata, Marker};
use disk_format::vdsm::lv::LvState;
use disk_format::vdsm::slot::SlotNumber;

use crate::job::Result;

/// A volume group at one sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name: the domain's id.
    pub name: String,
    /// LVM's id of it.
    pub uuid: String,
    /// Counts its commits.
    pub seqno: u64,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Its physical volumes, in their order.
    pub devices: Vec<Physical>,
    /// Its logical volumes, in their order.
    pub volumes: Vec<Logical>,
    /// Bytes for one copy of the text: half of a metadata area.
    pub room_bytes: u64,
    /// The text itself, as it is on disk.
    pub text: Arc<str>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Physical {
    /// Its name within the text (`pv0`).
    pub name: String,
    /// LVM's id of it.
    pub uuid: String,
    /// The device that carries its label; `None` when there is none here.
    pub device: Option<PathBuf>,
    /// Bytes of that device, as this host sees it; 0 without one.
    pub device_bytes: u64,
    /// Where its first extent starts, in bytes.
    pub start_bytes: u64,
    /// Its extents.
    pub extents: u64,
    /// Whether new extents may be taken from it.
    pub allocatable: bool,
    /// Metadata areas on it that are used: 2 on the metadata device.
    pub used_areas: usize,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    /// Its name.
    pub name: String,
    /// LVM's id of it.
    pub uuid: String,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Its segments, in their order.
    pub segments: Vec<Segment>,
}

/// A part of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its extents.
    pub count: u64,
    /// Physical volume (name within the text) and first extent there; `None` for
    /// a segment that is not linear.
    pub linear: Option<(String, u64)>,
}

impl Group {
    /// Whether it is a domain.
    #[must_use]
    pub fn marker(&self) -> Marker {
        Marker::of(self.tags.iter().map(String::as_str))
    }

    /// A logical volume by name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Logical> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// A physical volume by its name within the text.
    #[must_use]
    pub fn physical(&self, name: &str) -> Option<&Physical> {
        self.devices.iter().find(|device| device.name == name)
    }

    /// The physical volume that has the metadata.
    #[must_use]
    pub fn metadata_device(&self) -> Option<&Physical> {
        self.devices.iter().find(|device| device.used_areas > 0)
    }

    /// Whether a device is missing.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.devices.iter().any(|device| device.device.is_none())
    }

    /// What this host lacks of it: LUNs that no device is, and those whose device is
    /// smaller than the extents it has, by their names in the domain's metadata, else
    /// by LVM's ids. Another host has added or grown them, or they are gone.
    #[must_use]
    pub fn lacking(&self, metadata: &DomainMetadata) -> Vec<String> {
        let mapping = metadata.pv_mapping().unwrap_or_default();
        self.devices
            .iter()
            .filter(|physical| !self.is_whole(physical))
            .map(|physical| {
                let named = mapping.iter().find(|pv| pv.uuid == physical.uuid);
                named.map_or_else(|| physical.uuid.clone(), |pv| pv.device.clone())
            })
            .collect()
    }

    /// Whether this host sees all of every device.
    #[must_use]
    pub fn is_all_here(&self) -> bool {
        self.devices.iter().all(|physical| self.is_whole(physical))
    }

    /// Whether a device has all its extents on this host.
    #[must_use]
    pub fn is_whole(&self, physical: &Physical) -> bool {
        let extents = physical.extents.saturating_mul(self.extent_bytes);
        physical.device_bytes >= physical.start_bytes.saturating_add(extents)
    }

    /// Whether extents of a volume are on none of the devices themselves: the manager
    /// is moving them from one to another, and it alone may have the volume mapped.
    #[must_use]
    pub fn is_moving(&self, volume: &Logical) -> bool {
        volume.segments.iter().any(|segment| {
            let place = segment.linear.as_ref();
            place.is_none_or(|(name, _)| self.physical(name).is_none())
        })
    }

    /// Paths of its devices that are there.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let paths = self.devices.iter().map(|device| device.device.clone());
        paths.flatten().collect()
    }

    /// Extents in all.
    #[must_use]
    pub fn total_extents(&self) -> u64 {
        self.devices.iter().map(|device| device.extents).sum()
    }

    /// Extents of no volume.
    #[must_use]
    pub fn free_extents(&self) -> u64 {
        let used: u64 = self.volumes.iter().map(Logical::extents).sum();
        self.total_extents().saturating_sub(used)
    }

    /// Bytes rounded up to extents.
    #[must_use]
    pub fn extents_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.extent_bytes.max(1))
    }

    /// Metadata slots that tags occupy, whatever the volumes' states.
    #[must_use]
    pub fn used_slots(&self) -> BTreeSet<SlotNumber> {
        self.volumes
            .iter()
            .filter_map(|volume| volume.state().slot())
            .collect()
    }

    /// Names of the volumes that have a slot: one, unless something went wrong.
    pub fn slot_users(&self, slot: SlotNumber) -> impl Iterator<Item = &str> {
        self.volumes
            .iter()
            .filter(move |volume| volume.state().slot() == Some(slot))
            .map(|volume| volume.name.as_str())
    }

    /// The device of a path, by path or by its last word (the map's name).
    ///
    /// # Errors
    /// `NotFound` when it is not one of the group's.
    pub fn device_named(&self, lun: &str) -> Result<&Physical> {
        self.devices
            .iter()
            .find(|physical| {
                physical.device.as_ref().is_some_and(|path| {
                    path.as_os_str() == lun || path.file_name().is_some_and(|name| name == lun)
                })
            })
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    format!("domain {}: LUN {lun} is not one of its own", self.name),
                )
            })
    }
}

impl Logical {
    /// Its size.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.segments.iter().map(|segment| segment.count).sum()
    }

    /// Whether it is what LVM makes for as long as extents are moved.
    #[must_use]
    pub fn is_move(&self) -> bool {
        let number = self.name.strip_prefix("pvmove");
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// What it is, by name and tags.
    #[must_use]
    pub fn state(&self) -> LvState {
        LvState::of(&self.name, self.tags.iter().map(String::as_str))
    }
}
