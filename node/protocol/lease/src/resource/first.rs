//! The first reading of an acquire, and what it decides (spec §4.2, steps A
//! and B).

use disk_format::{Dblock, Geometry, Leader, paxos};

use crate::code::Code;
use crate::resource::acquire::{Acquire, Reading, Stage};
use crate::resource::desk::{Arrived, Purpose, Scope, Tally};
use crate::resource::{DISKS_MAX, Owners, scan};

/// A leader may state a geometry other than the assumed one; it is believed
/// this often before the area counts as unreadable.
const GEOMETRIES_MAX: u8 = 3;
/// A short first reading must save more sectors than this to be worth its
/// lower ballot numbers.
const SHORT_SAVES: u32 = 64;

impl Acquire {
    /// Step A: read everything and look.
    pub(super) fn look(&mut self) {
        self.readings = [None; DISKS_MAX as usize];
        self.refused = None;
        self.ballot = None;
        let max = u64::from(self.geometry.max_hosts());
        let known = self.leader.map(|leader| leader.num_hosts);
        self.asked_hosts = known
            .or(self.options.expected_hosts.map(u64::from))
            .filter(|hosts| (1..=max).contains(hosts))
            .unwrap_or(max);
        let all = paxos::ballot_sectors(self.asked_hosts, self.geometry);
        let to_own = paxos::host_sector(self.us.host_id) + 1;
        // What the others have in their blocks, the first phase finds out. Only
        // the first look is so short: whoever meets others reads them.
        self.short_of = self.options.expected_mbal.take();
        let sectors = if self.short_of.is_some() && to_own + SHORT_SAVES < all {
            to_own
        } else {
            self.short_of = None;
            all
        };
        self.stage = Stage::Initial;
        self.desk.read(
            Purpose::Initial,
            Scope::AllDisks,
            0,
            sectors * self.geometry.sector_size(),
        );
    }

    pub(super) fn on_initial_data(&mut self, arrived: Arrived<'_>) {
        let reading = scan::leader_of(arrived.bytes, &self.target, self.us.host_id).map(|leader| {
            let num_hosts = u16::try_from(leader.num_hosts.min(self.asked_hosts));
            Reading {
                leader,
                max_mbal: scan::max_mbal(arrived.bytes, self.geometry, num_hosts.unwrap_or(0)),
                own: paxos::Area::new(arrived.bytes, self.geometry)
                    .host(self.us.host_id)
                    .map(|(dblock, _)| dblock)
                    .unwrap_or_default(),
            }
        });
        match reading {
            Ok(reading) => {
                if let Some(place) = self.readings.get_mut(usize::from(arrived.disk)) {
                    *place = Some(reading);
                }
            }
            Err(code) => self.refused = Some(code),
        }
    }

    pub(super) fn on_initial(&mut self, tally: Tally, owners: &dyn Owners) {
        if let Err(code) = self.judge_initial(tally, owners) {
            self.fail(code);
        }
    }

    fn judge_initial(&mut self, tally: Tally, owners: &dyn Owners) -> Result<(), Code> {
        tally.majority()?;
        let leaders = self.readings.map(|reading| Some(reading?.leader));
        let leader = scan::majority(&leaders, self.target.disks)
            .map_err(|code| self.refused.unwrap_or(code))?;
        let geometry = Geometry::from_leader(leader.sector_size, leader.flags)?;
        self.settle_proposal(&leader);
        self.leader = Some(leader);
        if geometry != self.geometry {
            self.geometries += 1;
            if self.geometries > GEOMETRIES_MAX {
                return Err(Code::LEADER_SECTORSIZE);
            }
            self.geometry = geometry;
            self.look();
            return Ok(());
        }
        self.hosts = paxos::hosts(&leader, geometry)?;
        if self.hosts.num > self.hosts.max {
            // Two hosts would have the same ballot numbers.
            return Err(Code::LEADER_NUMHOSTS);
        }
        if u64::from(self.hosts.num) > self.asked_hosts && self.short_of.is_none() {
            self.look();
            return Ok(());
        }
        self.max_mbal = self.short_of.unwrap_or(0);
        self.left = Dblock::default();
        for reading in self.readings.iter().flatten() {
            self.max_mbal = self.max_mbal.max(reading.max_mbal?);
            if reading.own.mbal > self.left.mbal {
                self.left = reading.own;
            }
        }
        if self.options.lver.is_some_and(|lver| lver != leader.lver) {
            return Err(Code::ACQUIRE_LVER);
        }
        if self.options.lvb && !self.options.lvb_outside && !paxos::lvb_allowed(geometry) {
            return Err(Code::EINVAL);
        }
        if self.may_run(&leader) {
            self.run_ballot();
        } else {
            self.check_owner(leader, owners);
        }
        Ok(())
    }

    /// Step B: free, or left from an earlier life of ours.
    fn may_run(&self, leader: &Leader) -> bool {
        leader.timestamp == 0
            || (leader.owner_id == u64::from(self.us.host_id.get())
                && leader.owner_generation <= self.us.generation.0)
    }

    /// A version once committed makes every proposal for it history.
    pub(super) fn settle_proposal(&mut self, leader: &Leader) {
        if self.proposed.is_some_and(|lver| leader.lver >= lver) {
            self.proposed = None;
        }
    }
}
