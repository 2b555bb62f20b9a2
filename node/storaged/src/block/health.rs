//! What is wrong with a block domain that still works.

use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::slot::SlotNumber;

use super::{BlockDomain, metadata_of};
use crate::job::{Context, Result};

/// Bytes of a metadata area (both copies) below which a group is too small.
const AREA_BYTES_MIN: u64 = 64 << 20;

/// A domain's condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether LUNs are missing.
    pub is_partial: bool,
    /// Bytes that LVM's text may have.
    pub text_room_bytes: u64,
    /// Bytes that it has.
    pub text_bytes: u64,
    /// Volumes that exist, of those that can.
    pub volumes: (u32, u32),
    /// What an operator should look at, one line each.
    pub findings: Vec<String>,
}

impl BlockDomain {
    /// Looks for what is wrong. `thorough` has LVM compare its copies of the
    /// metadata too (at most every 300 s).
    ///
    /// # Errors
    /// The group cannot be read.
    pub fn health(&self, context: &Context, thorough: bool) -> Result<Health> {
        let group = self.group()?;
        let mut findings = Vec::new();
        for device in &group.devices {
            if device.device.is_none() {
                findings.push(format!("LUN of physical volume {} is missing", device.uuid));
            } else if !group.is_whole(device) {
                findings.push(format!(
                    "LUN of physical volume {} has {} bytes on this host, fewer than its extents: \
                     it has grown at the storage",
                    device.uuid, device.device_bytes
                ));
            }
        }
        let text_bytes = u64::try_from(group.text.len()).unwrap_or(u64::MAX);
        let room = group.room_bytes;
        if room * 2 < AREA_BYTES_MIN {
            findings.push(format!(
                "LVM metadata area has {} MiB, smallest allowed is {} MiB",
                (room * 2) >> 20,
                AREA_BYTES_MIN >> 20
            ));
        }
        // Free must be at least a fifth.
        if text_bytes.saturating_mul(5) > room.saturating_mul(4) {
            findings.push(format!(
                "LVM metadata use {text_bytes} of {room} bytes, more than 80 %"
            ));
        }
        let version = self.lock().version;
        let most = SlotNumber::usable_count(version);
        let used = u32::try_from(group.used_slots().len()).unwrap_or(u32::MAX);
        if used.saturating_mul(5) > most.saturating_mul(4) {
            findings.push(format!("{used} of {most} volumes exist, more than 80 %"));
        }
        if group.metadata_device().is_none() {
            findings.push("no LUN with LVM metadata in use is here".to_owned());
        }
        let metadata_volume = group.volume(SpecialLv::Metadata.name());
        let start = metadata_volume.and_then(|volume| volume.segments.first()?.linear.as_ref());
        if let (Some((device, extent)), Some(first)) = (start, group.metadata_device())
            && (*device != first.name || *extent != 0)
        {
            findings.push(format!(
                "volume metadata starts at extent {extent} of another LUN than LVM's metadata: \
                 that LUN cannot be taken out either"
            ));
        }
        match metadata_of(&group).and_then(|metadata| {
            metadata
                .pv_mapping()
                .map_err(|error| super::damaged(&self.name, &error))
        }) {
            Ok(mapping) => {
                let same = mapping.len() == group.devices.len()
                    && group.devices.iter().all(|device| {
                        mapping
                            .iter()
                            .any(|pv| pv.uuid == device.uuid && pv.extents == device.extents)
                    });
                if !same {
                    findings.push("PV keys of the metadata differ from the LUNs".to_owned());
                }
            }
            Err(failure) => findings.push(failure.message),
        }
        if thorough && let Err(failure) = self.lvm.check(context, &self.name) {
            findings.push(failure.message);
        }
        Ok(Health {
            is_partial: group.is_partial(),
            text_room_bytes: room,
            text_bytes,
            volumes: (used, most),
            findings,
        })
    }
}
