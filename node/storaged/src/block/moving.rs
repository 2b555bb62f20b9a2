//! Emptying a LUN: its volumes' extents are moved one volume after another, so that
//! only one at a time cannot grow.
//!
//! Only this host writes to both places while extents are moved. Another host that
//! has the volume mapped goes on writing to the old place, which is lost: so nobody
//! else may use the domain, as far as its lockspace tells.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use disk_format::delta;
use disk_format::vdsm::lv::SpecialLv;
use linux::disk::Access;

use super::BlockDomain;
use super::group::{Group, Logical};
use crate::authority::Authority;
use crate::job::{Context, Result};
use crate::lvm::Change;

/// Hosts that a domain can have.
const HOSTS_MAX: usize = 2000;
/// Bytes of a host's record in `ids`: domains on LUNs have sectors of that size.
const RECORD_BYTES: usize = 512;
/// Between two looks at the records of others.
const LOOK: Duration = Duration::from_secs(1);

/// How many extents of each volume are on a device, in the volumes' order.
fn on_device(group: &Group, physical: &str) -> Vec<(String, u64)> {
    let extents = |volume: &Logical| {
        let here = volume.segments.iter().filter(|segment| {
            let place = segment.linear.as_ref();
            place.is_some_and(|(name, _)| name == physical)
        });
        here.map(|segment| segment.count).sum()
    };
    group
        .volumes
        .iter()
        .map(|volume| (volume.name.clone(), extents(volume)))
        .filter(|(_, extents)| *extents > 0)
        .collect()
}

impl BlockDomain {
    /// Extents of volumes that are on a LUN.
    ///
    /// # Errors
    /// `NotFound` for a LUN of somebody else; the group cannot be read.
    pub fn extents_on(&self, lun: &str) -> Result<u64> {
        let group = self.group()?;
        let physical = group.device_named(lun)?.name.clone();
        let all = on_device(&group, &physical);
        Ok(all.iter().map(|(_, extents)| extents).sum())
    }

    /// Proves that no host but `own` uses the domain: none holds a host id in its
    /// lockspace, or the record of one that died is not renewed any more, which
    /// takes up to two renewals to see.
    ///
    /// # Errors
    /// `InUse`: which host; `Cancelled`; the records cannot be read.
    pub fn unused_by_others(&self, context: &Context, own: u16) -> Result<()> {
        let before = self.holders(own)?;
        let Some(longest) = before.values().map(|(_, timeout)| *timeout).max() else {
            return Ok(());
        };
        let ids: Vec<String> = before.keys().map(ToString::to_string).collect();
        // A host renews every two of its timeouts, and may be late by one.
        let wait = Duration::from_secs(3 * u64::from(longest.max(1)));
        let until = Instant::now() + wait;
        loop {
            context.tell(
                0,
                1,
                &format!("waiting whether host {} still uses it", ids.join(", ")),
            );
            context.go_on()?;
            let now = self.holders(own)?;
            let renewed = now
                .iter()
                .find(|(id, record)| before.get(id) != Some(record));
            if let Some((id, _)) = renewed {
                return Err(Failure::new(
                    FailureKind::InUse,
                    format!(
                        "domain {}: host {id} uses it, and would go on writing to where its \
                         volumes were; `nodectl domain deactivate` it first",
                        self.name
                    ),
                ));
            }
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Hosts but `own` that hold a host id here: the renewal they wrote last, and
    /// their timeout in seconds.
    fn holders(&self, own: u16) -> Result<BTreeMap<usize, (u64, u16)>> {
        let ids = self.region(SpecialLv::Ids.name(), Access::Read)?;
        let area = ids.read(0, HOSTS_MAX * RECORD_BYTES)?;
        let records = area.chunks(RECORD_BYTES).zip(1_usize..);
        Ok(records
            .filter(|(_, id)| *id != usize::from(own))
            .filter_map(|(sector, id)| {
                let leader = delta::leader(sector)?;
                delta::verify_kind(&leader).ok()?;
                (leader.timestamp != 0).then_some((id, (leader.timestamp, leader.io_timeout)))
            })
            .collect())
    }

    /// Refuses to map volumes whose extents are being moved: a second host that copies
    /// them, or writes to their old place, destroys them.
    pub(super) fn refuse_moving(&self, names: &[String]) -> Result<()> {
        let group = self.group()?;
        let moving = names.iter().find(|name| {
            let volume = group.volume(name);
            volume.is_some_and(|volume| group.is_moving(volume))
        });
        match moving {
            None => Ok(()),
            Some(name) => Err(Failure::new(
                FailureKind::WrongState,
                format!(
                    "volume {name} of domain {}: its extents are being moved to another LUN by \
                     the pool's manager; wait for its task, or cancel it",
                    self.name
                ),
            )),
        }
    }

    /// Moves all extents off a LUN. Repeating it after a crash, or after it was
    /// cancelled, goes on with what is still there.
    pub(super) fn move_off(
        &self,
        context: &Context,
        authority: &dyn Authority,
        lun: &str,
        device: &PathBuf,
    ) -> Result<()> {
        let mut group = self.group()?;
        if group.volumes.iter().any(Logical::is_move) {
            // One that a dead manager began: nobody attends to it any more.
            context.tell(0, 1, "ending an interrupted move");
            self.change(authority, &Change::AbortMoves)?;
            group = self.group()?;
        }
        let physical = group.device_named(lun)?;
        let name = physical.name.clone();
        let volumes = on_device(&group, &name);
        let total: u64 = volumes.iter().map(|(_, extents)| extents).sum();
        if total == 0 {
            return Ok(());
        }
        let unused = physical.extents.saturating_sub(total);
        let elsewhere = group.free_extents().saturating_sub(unused);
        if elsewhere < total {
            return Err(Failure::new(
                FailureKind::NoSpace,
                format!(
                    "domain {}: {total} extents are on LUN {lun}, {elsewhere} are free elsewhere",
                    self.name
                ),
            ));
        }
        let bytes = total.saturating_mul(group.extent_bytes);
        let mut before = 0;
        for (volume, extents) in volumes {
            context.go_on()?;
            let own = extents.saturating_mul(group.extent_bytes);
            let mut told = |moved: u32| {
                let done = before + share(own, moved);
                context.tell(done, bytes, &format!("moving {volume} off the LUN"));
            };
            told(0);
            self.lvm
                .move_extents(context, authority, &self.name, &volume, device, &mut told)?;
            before += own;
        }
        let left = on_device(&*self.group()?, &name);
        match left.first() {
            None => Ok(()),
            Some((volume, extents)) => Err(Failure::new(
                FailureKind::Failed,
                format!(
                    "domain {}: {extents} extents of {volume} are still on LUN {lun}; repeat it",
                    self.name
                ),
            )),
        }
    }
}

/// A part of `bytes`, given in ten-thousandths.
fn share(bytes: u64, moved: u32) -> u64 {
    let part = u128::from(bytes) * u128::from(moved) / 10_000;
    u64::try_from(part).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::group::{Physical, Segment};
    use super::*;

    #[test]
    fn shares_of_bytes_are_those_told() {
        for (bytes, moved, expected) in [
            (1_000_000, 0, 0),
            (1_000_000, 1250, 125_000),
            (u64::MAX, 10_000, u64::MAX),
        ] {
            assert_eq!(share(bytes, moved), expected, "{moved}");
        }
    }

    #[test]
    fn volumes_that_are_being_moved_are_told_from_those_that_are_on_luns() {
        let physical = |name: &str| Physical {
            name: name.to_owned(),
            uuid: name.to_owned(),
            device: None,
            device_bytes: 0,
            start_bytes: 0,
            extents: 100,
            allocatable: true,
            used_areas: 0,
        };
        let volume = |name: &str, segments: &[(u64, Option<&str>)]| Logical {
            name: name.to_owned(),
            uuid: name.to_owned(),
            tags: BTreeSet::new(),
            segments: segments
                .iter()
                .map(|(count, place)| Segment {
                    count: *count,
                    linear: place.map(|place| (place.to_owned(), 0)),
                })
                .collect(),
        };
        let group = Group {
            name: "g".to_owned(),
            uuid: "g".to_owned(),
            seqno: 1,
            tags: BTreeSet::new(),
            extent_bytes: 128 << 20,
            devices: vec![physical("pv0"), physical("pv1")],
            volumes: vec![
                volume("a", &[(3, Some("pv0")), (4, Some("pv1"))]),
                volume("b", &[(2, Some("pv0"))]),
                volume("c", &[(5, Some("pvmove0")), (1, Some("pv1"))]),
                volume("pvmove0", &[(5, None)]),
            ],
            room_bytes: 0,
            text: "".into(),
        };
        let here = on_device(&group, "pv1");
        assert_eq!(here, [("a".to_owned(), 4), ("c".to_owned(), 1)]);
        let moving: Vec<&str> = group
            .volumes
            .iter()
            .filter(|volume| group.is_moving(volume))
            .map(|volume| volume.name.as_str())
            .collect();
        assert_eq!(moving, ["c", "pvmove0"]);
        assert!(group.volumes[3].is_move() && !group.volumes[2].is_move());
    }
}
