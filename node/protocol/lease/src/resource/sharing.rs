//! What follows once we are committed as the owner: other hosts' shared marks,
//! our own, and the lease value block.

use disk_format::{Dblock, Generation, HostId, Leader, ModeBlock, paxos};

use crate::code::Code;
use crate::resource::acquire::{Acquire, After, Shared, Stage};
use crate::resource::desk::{Purpose, Scope, Tally};
use crate::resource::freeing::{Freed, Freeing, LeaderPlan, Plan};
use crate::resource::release::released;
use crate::resource::scan::HostSet;
use crate::resource::{Held, Owners, SectorBytes};

/// Shared holders looked at or cleared at a time.
const SHARED_AT_ONCE: usize = 8;

impl Acquire {
    /// Another host, or we, have committed us as the owner.
    pub(super) fn owned(&mut self, leader: Leader) {
        let dblock = self.dblock.unwrap_or_default();
        self.leader = Some(leader);
        self.held = Some(Held {
            leader,
            dblock,
            shared: false,
            geometry: self.geometry,
        });
        if self.options.lvb && !self.desk.is_under_way(Purpose::Lvb) && self.lvb.is_none() {
            self.read_lvb();
        }
        if self.options.shared {
            let own = (released(&dblock), ModeBlock::shared(self.us.generation.0));
            self.free(Some(own), true, leader, After::GoShared);
            return;
        }
        let mut shared = self.ballot.map(|ballot| ballot.shared).unwrap_or_default();
        shared.remove(self.us.host_id);
        self.stage = Stage::Shared(Shared {
            todo: shared,
            live: false,
            failed: None,
            marked: HostSet::default(),
            alive: HostSet::default(),
            dead: HostSet::default(),
        });
        self.look_at_shared();
    }

    pub(super) fn read_lvb(&mut self) {
        let sector = self.geometry.sector_size();
        let offset = u64::from(paxos::LVB_SECTOR) * u64::from(sector);
        self.desk
            .read(Purpose::Lvb, Scope::FirstDisk, offset, sector);
    }

    fn free(
        &mut self,
        own: Option<(Dblock, ModeBlock)>,
        own_first: bool,
        leader: Leader,
        after: After,
    ) {
        let plan = Plan {
            geometry: self.geometry,
            lvb: None,
            own,
            own_first,
            leader: LeaderPlan::Expect(leader),
            rename: None,
            spare: None,
        };
        let freeing = Freeing::start(plan, &self.us, &mut self.desk);
        self.stage = Stage::Freeing(freeing, after);
    }

    /// Asks for the sectors of shared holders, or for dead ones' to be
    /// cleared; goes on when there are no more.
    pub(super) fn look_at_shared(&mut self) {
        let Stage::Shared(mut shared) = self.stage else {
            return;
        };
        let sector = self.geometry.sector_size();
        while self.desk.rounds_under_way() < SHARED_AT_ONCE {
            if let Some(host) = shared.dead.first() {
                shared.dead.remove(host);
                self.desk.write(
                    Purpose::SharedZero(host),
                    Scope::AllDisks,
                    paxos::host_sector(host),
                    sector,
                    &SectorBytes::ZERO,
                );
            } else if let Some(host) = shared.todo.first() {
                shared.todo.remove(host);
                let offset = u64::from(paxos::host_sector(host)) * u64::from(sector);
                self.desk
                    .read(Purpose::SharedRead(host), Scope::AllDisks, offset, sector);
            } else {
                break;
            }
        }
        self.stage = Stage::Shared(shared);
        if self.desk.has_shared_rounds() {
            return;
        }
        match (shared.failed, shared.live) {
            (Some(code), _) => self.fail(code),
            (None, true) => self.refuse_for_shared(),
            (None, false) if self.keep.is_some() => self.clear_own_mode(),
            (None, false) => self.finish(Code::OK),
        }
    }

    /// Every disk has told about a holder. One disk may still bear the mark of
    /// an earlier life: a single living mark saves the sector.
    pub(super) fn on_shared_round(&mut self, host: HostId, tally: Tally) {
        if let Stage::Shared(shared) = &mut self.stage {
            if let Err(code) = tally.majority() {
                shared.failed = Some(code);
            } else if shared.marked.contains(host) && !shared.alive.contains(host) {
                shared.dead.insert(host);
            }
            shared.marked.remove(host);
        }
        self.look_at_shared();
    }

    pub(super) fn on_shared_data(&mut self, host: HostId, bytes: &[u8], owners: &dyn Owners) {
        let Stage::Shared(shared) = &mut self.stage else {
            return;
        };
        let Ok(mode) = ModeBlock::decode(bytes) else {
            shared.failed = Some(Code::EMSGSIZE);
            return;
        };
        if !mode.is_shared() {
            return;
        }
        let alive = owners
            .observed(&self.target.lockspace, host)
            .is_none_or(|seen| {
                seen.alive(
                    Generation(mode.generation),
                    self.us.io_timeout_s,
                    self.us.fire_timeout_s,
                )
            });
        if alive {
            shared.live = true;
            shared.alive.insert(host);
        } else {
            shared.marked.insert(host);
        }
    }

    fn refuse_for_shared(&mut self) {
        let Some(held) = self.held else {
            return self.fail(Code::ERROR);
        };
        let mark = released(&held.dblock);
        let own = if self.keep.is_none() {
            Some((mark, ModeBlock::NONE))
        } else if held.leader.write_id != u64::from(self.us.host_id.get()) {
            // We must not write that leader: the mark frees the lease.
            self.dblock = Some(mark);
            Some((mark, self.own_mode()))
        } else {
            None
        };
        self.free(own, false, held.leader, After::Refuse);
    }

    fn clear_own_mode(&mut self) {
        self.stage = Stage::OwnMode;
        let dblock = self.dblock.unwrap_or_default();
        self.desk.write(
            Purpose::OwnMode,
            Scope::AllDisks,
            paxos::host_sector(self.us.host_id),
            self.geometry.sector_size(),
            &SectorBytes::host(&dblock, &ModeBlock::NONE),
        );
    }

    pub(super) fn on_freed(&mut self, freed: Freed, after: After) {
        match after {
            After::GoShared if freed.code.is_ok() => {
                if let Some(held) = &mut self.held {
                    held.shared = true;
                    held.dblock = released(&held.dblock);
                    held.leader = freed.leader_of(&held.leader);
                }
                self.finish(Code::OK);
            }
            After::GoShared => self.fail(freed.code),
            After::Refuse if freed.code.is_io() || freed.own_missing => self.fail(Code::EAGAIN),
            After::Refuse => {
                self.proposed = None;
                self.fail(Code::EAGAIN);
            }
        }
    }
}
