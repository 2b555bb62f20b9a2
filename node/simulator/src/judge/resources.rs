//! Checkers for resources.

use std::collections::{BTreeMap, BTreeSet};

use disk_format::{Dblock, HostId, Leader, ModeBlock, paxos};

use super::Judge;
use crate::disk::{Area, Disk, SECTORS};
use crate::flight::Flight;
use crate::machine::{Holder, Machine};

/// What is remembered of one resource.
#[derive(Debug, Clone, Default)]
pub(super) struct ResourceHistory {
    /// The owner (host id, generation) committed for each version.
    committed: BTreeMap<u64, (u64, u64)>,
    /// The value accepted in each ballot of each version.
    accepted: BTreeMap<(u64, u64), (u64, u64, u64)>,
    /// The machine that was granted it last.
    granted: Option<usize>,
    /// Highest version granted exclusively.
    exclusive: u64,
    /// Highest version granted to share.
    shared: u64,
    /// Versions committed by another host than the owner.
    meddled: BTreeSet<u64>,
    /// Of the lease value block, what is surely on disk.
    lvb: u64,
}

/// What a grant meant.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Granted {
    /// Another machine was the last to have it, and never gave it back.
    pub(crate) taken_over: bool,
    /// Another machine shares it.
    pub(crate) together: bool,
}

impl Judge {
    /// A user was told that it has a resource. `machines` count it already.
    pub(crate) fn on_granted(
        &mut self,
        machines: &[Machine],
        who: usize,
        holder: &Holder,
    ) -> Granted {
        let mut granted = Granted::default();
        let one = &machines[who];
        for (number, other) in machines.iter().enumerate() {
            for rival in &other.holders {
                let same = number == who && rival.membership == holder.membership;
                if rival.resource != holder.resource || same {
                    continue;
                }
                if holder.shared && rival.shared {
                    granted.together |= number != who;
                    continue;
                }
                let text = format!(
                    "R{} is granted to {} ({}, version {}) while {} has it ({}, version {})",
                    holder.resource,
                    one.who(),
                    mode(holder.shared),
                    holder.lver,
                    other.who(),
                    mode(rival.shared),
                    rival.lver
                );
                self.object("a resource has one holder, or only shared ones", text);
            }
        }
        let history = &mut self.resources[holder.resource];
        // Shared holders let go of the leader before they are told, so their
        // versions may be told in another order.
        let least = if holder.shared {
            history.exclusive
        } else {
            history.exclusive.max(history.shared)
        };
        let last = history.granted.replace(who);
        if holder.shared {
            history.shared = history.shared.max(holder.lver);
        } else {
            history.exclusive = history.exclusive.max(holder.lver);
        }
        if holder.lver <= least {
            let text = format!(
                "R{} is granted in version {} after {least}",
                holder.resource, holder.lver
            );
            self.object("versions granted rise", text);
        }
        granted.taken_over = last.is_some_and(|machine| machine != who);
        granted
    }

    /// A write is about to change one sector of a resource.
    pub(crate) fn on_resource_write(
        &mut self,
        machines: &[Machine],
        flight: &Flight,
        resource: usize,
        before: &[u8],
    ) {
        let bytes = flight.write.as_deref().unwrap_or_default();
        match flight.spot.sector {
            paxos::LEADER_SECTOR => self.on_leader_write(machines, flight, resource, before, bytes),
            paxos::REQUEST_SECTOR => {}
            paxos::LVB_SECTOR => self.on_lvb_write(machines, flight, resource),
            sector => {
                let own = paxos::host_sector(machines[flight.machine].config.host_id);
                if sector == own {
                    self.on_own_write(machines, flight, resource, bytes);
                } else {
                    self.on_foreign_write(machines, flight, resource, bytes);
                }
            }
        }
    }

    fn on_leader_write(
        &mut self,
        machines: &[Machine],
        flight: &Flight,
        resource: usize,
        before: &[u8],
        bytes: &[u8],
    ) {
        let (Ok(old), Ok(new)) = (paxos::leader(before), paxos::leader(bytes)) else {
            self.object("a leader is a whole record", format!("R{resource}"));
            return;
        };
        let who = machines[flight.machine].who();
        if new.computed_checksum() != new.checksum {
            self.object("a leader is a valid record", format!("R{resource}, {who}"));
        }
        // A value chosen in a ballot may be committed by whoever saw it chosen.
        // Such a commit may land after the owner has let go and the next has
        // committed; and it lets the next one in before the owner's own write
        // to the leader has landed. The blocks still say what was decided.
        let history = &mut self.resources[resource];
        if new.owner_id != new.write_id {
            history.meddled.insert(new.lver);
        }
        if new.lver < old.lver {
            // With several disks the minority may lag behind.
            if !history.meddled.contains(&new.lver) && !self.several_disks {
                let text = format!(
                    "{who} writes version {} over {} of R{resource}",
                    new.lver, old.lver
                );
                self.object("versions on disk never decrease", text);
            }
        }
        let owner = (new.owner_id, new.owner_generation);
        let committed = *self.resources[resource]
            .committed
            .entry(new.lver)
            .or_insert(owner);
        if committed != owner && !self.several_disks {
            let text = format!(
                "version {} of R{resource} was committed for host {} generation {}, and {who} writes host {} generation {}",
                new.lver, committed.0, committed.1, owner.0, owner.1
            );
            self.object("a version has one owner", text);
        }
        self.check_hosts(&new, resource);
    }

    fn check_hosts(&mut self, leader: &Leader, resource: usize) {
        if leader.num_hosts == 0 || leader.num_hosts > leader.max_hosts {
            let text = format!("R{resource}: {} hosts", leader.num_hosts);
            self.object("a leader is for a possible number of hosts", text);
        }
    }

    fn on_own_write(
        &mut self,
        machines: &[Machine],
        flight: &Flight,
        resource: usize,
        bytes: &[u8],
    ) {
        let who = machines[flight.machine].who();
        let (Ok(dblock), Ok(_)) = (Dblock::decode(bytes), ModeBlock::decode(bytes)) else {
            self.object("a block is a whole record", format!("R{resource}, {who}"));
            return;
        };
        if dblock.verify().is_err() {
            self.object("a block is a valid record", format!("R{resource}, {who}"));
        }
        if dblock.bal == 0 {
            return;
        }
        let value = (dblock.inp, dblock.inp2, dblock.inp3);
        let accepted = *self.resources[resource]
            .accepted
            .entry((dblock.lver, dblock.bal))
            .or_insert(value);
        if accepted != value {
            let text = format!(
                "{who} proposes {value:?} in ballot {} for version {} of R{resource}, where it was {accepted:?}",
                dblock.bal, dblock.lver
            );
            self.object("a ballot number stands for one value", text);
        }
    }

    fn on_foreign_write(
        &mut self,
        machines: &[Machine],
        flight: &Flight,
        resource: usize,
        bytes: &[u8],
    ) {
        let who = machines[flight.machine].who();
        let host = u64::from(flight.spot.sector.saturating_sub(1));
        if bytes.iter().any(|byte| *byte != 0) || HostId::new(host).is_err() {
            let text = format!("{who} writes sector {} of R{resource}", flight.spot.sector);
            self.object("nobody writes another's sector", text);
            return;
        }
        let victim = machines.iter().find(|machine| {
            u64::from(machine.config.host_id.get()) == host
                && machine
                    .holders
                    .iter()
                    .any(|holder| holder.resource == resource && holder.shared)
        });
        if let Some(victim) = victim {
            let text = format!(
                "{who} clears the shared mark of {} on R{resource}",
                victim.who()
            );
            self.object("a living shared holder's mark stays", text);
        }
    }

    fn on_lvb_write(&mut self, machines: &[Machine], flight: &Flight, resource: usize) {
        let other = machines.iter().enumerate().find(|(number, machine)| {
            *number != flight.machine
                && machine
                    .holders
                    .iter()
                    .any(|holder| holder.resource == resource)
        });
        if let Some((_, other)) = other {
            let text = format!(
                "{} writes the value of R{resource} while {} has the lease",
                machines[flight.machine].who(),
                other.who()
            );
            self.object("only its owner writes a lease's value", text);
        }
    }

    /// A release has succeeded.
    pub(crate) fn on_returned(&mut self, who: usize, resource: usize) {
        let granted = &mut self.resources[resource].granted;
        if *granted == Some(who) {
            *granted = None;
        }
    }

    /// Nothing is in flight and nobody holds anything: every record of a
    /// resource's disk can be read by whoever comes next.
    pub(crate) fn on_idle_resource(&mut self, disk: &Disk, resource: usize, number: u8) {
        let area = Area::Resource(resource, number);
        let of_sector = |sector| disk.sector(area, sector).unwrap_or_default();
        match paxos::leader(of_sector(paxos::LEADER_SECTOR)) {
            Ok(leader) => {
                let verdict = paxos::verify_kind(&leader)
                    .and_then(|()| paxos::hosts(&leader, disk.geometry()));
                if verdict.is_err() || leader.computed_checksum() != leader.checksum {
                    let text = format!("leader of R{resource} on disk {number}: {leader:?}");
                    self.object("an idle disk is readable", text);
                }
            }
            Err(error) => self.object("an idle disk is readable", error.to_string()),
        }
        for sector in paxos::REQUEST_SECTOR + 1..SECTORS {
            let intact =
                Dblock::decode(of_sector(sector)).is_ok_and(|dblock| dblock.verify().is_ok());
            if !intact {
                let text = format!("sector {sector} of R{resource} on disk {number}");
                self.object("an idle disk is readable", text);
            }
        }
    }

    /// A release that wrote the value has succeeded.
    pub(crate) fn on_lvb_kept(&mut self, resource: usize, value: u64) {
        let kept = &mut self.resources[resource].lvb;
        *kept = (*kept).max(value);
    }

    /// A new owner read the value.
    pub(crate) fn on_lvb_read(&mut self, resource: usize, value: u64) {
        let kept = self.resources[resource].lvb;
        if value < kept {
            let text = format!("R{resource}: {value} was read after {kept} was written");
            self.object("a lease's value is the last owner's", text);
        }
    }
}

fn mode(shared: bool) -> &'static str {
    if shared { "shared" } else { "exclusive" }
}
