//! The LUNs of a domain: more, larger, fewer.

use std::path::PathBuf;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::lv::SpecialLv;

use super::{BlockDomain, devices, unstorable, vg};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::lvm::Change;

impl BlockDomain {
    /// Adds LUNs. Repeating it after a crash goes on where it ended.
    ///
    /// # Errors
    /// What the checks refuse; authority; LVM.
    pub fn add_devices(
        &self,
        context: &Context,
        authority: &dyn Authority,
        luns: &[PathBuf],
        force: bool,
    ) -> Result<()> {
        let group = self.group()?;
        // Those that an interrupted attempt added already.
        let present = group.paths();
        let new: Vec<PathBuf> = luns
            .iter()
            .filter(|lun| !present.contains(lun))
            .cloned()
            .collect();
        if !new.is_empty() {
            devices::usable(
                &self.lvm,
                context,
                &self.name,
                &new,
                group.devices.len(),
                force,
            )?;
            self.change(
                authority,
                &Change::CreatePhysical {
                    devices: &new,
                    force,
                },
            )?;
            self.lvm.learn(&self.name, present);
            let wanted = group.devices.len() + new.len();
            self.change_until(authority, &Change::AddPhysical { devices: &new }, |group| {
                group.devices.len() >= wanted
            })?;
        }
        self.write_mapping(authority)
    }

    /// Uses what a LUN has more than before; all hosts have to see its new size
    /// already.
    ///
    /// # Errors
    /// `NotFound` for a LUN of somebody else; authority; LVM.
    pub fn grow_device(&self, authority: &dyn Authority, lun: &str) -> Result<()> {
        let device = self.own(lun)?;
        self.change(authority, &Change::GrowPhysical { device: &device })?;
        self.write_mapping(authority)
    }

    /// Moves everything off a LUN and takes it out. Needs a device-mapper when
    /// there is something to move, and that nobody else uses the domain.
    ///
    /// # Errors
    /// `WrongState` for the LUN with the metadata; `NoSpace`; `Cancelled`; authority;
    /// LVM.
    pub fn remove_device(
        &self,
        context: &Context,
        authority: &dyn Authority,
        lun: &str,
    ) -> Result<()> {
        let device = self.own(lun)?;
        let group = self.group()?;
        let physical = group.device_named(lun)?;
        let is_metadata = group
            .volume(SpecialLv::Metadata.name())
            .and_then(|volume| volume.segments.first()?.linear.as_ref())
            .is_some_and(|(name, _)| *name == physical.name);
        if is_metadata || physical.used_areas > 0 {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!(
                    "domain {}: LUN {lun} has the metadata and cannot be taken out",
                    self.name
                ),
            ));
        }
        self.move_off(context, authority, lun, &device)?;
        context.tell(1, 1, "taking the LUN out");
        let uuid = physical.uuid.clone();
        self.change_until(
            authority,
            &Change::DropPhysical { device: &device },
            |group| group.devices.iter().all(|device| device.uuid != uuid),
        )?;
        self.write_mapping(authority)?;
        // The LUN is free; its empty label would only puzzle the next one who looks.
        if let Err(failure) = self.change(authority, &Change::RemovePhysical { device: &device }) {
            tracing::warn!(lun, %failure, "label not removed");
        }
        Ok(())
    }

    fn own(&self, lun: &str) -> Result<PathBuf> {
        let group = self.group()?;
        let physical = group.device_named(lun)?;
        physical.device.clone().ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!("domain {}: LUN {lun} is missing", self.name),
            )
        })
    }

    /// Rewrites the PV keys from what the group has.
    fn write_mapping(&self, authority: &dyn Authority) -> Result<()> {
        let mapping = vg::mapping(&*self.group()?)?;
        self.change_metadata(authority, &mut |metadata| {
            metadata
                .set_pv_mapping(&mapping)
                .map_err(|error| unstorable(&self.name, &error))
        })?;
        Ok(())
    }
}
