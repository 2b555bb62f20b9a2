//! Another host owns the lease: is it alive (spec §4.2, step C)?
//!
//! The evidence for death is always a fresh reading of the owner's own record,
//! unchanged since long enough; what our monitoring saw earlier only says
//! since when. The wait costs nothing in between: it ends at its deadline, or
//! when the monitoring sees the owner change, and is looked after every 2T in
//! case it does not.

use disk_format::{Dblock, Generation, HostId, Leader, delta, paxos};

use crate::code::Code;
use crate::resource::acquire::{Acquire, Stage, Waiting};
use crate::resource::desk::{Arrived, Purpose, Scope, Tally};
use crate::resource::{Owners, scan};
use crate::time::Monotonic;
use crate::timings;

/// Until the monitoring knows the owner we look for ourselves, this often.
const LOOK_MS: u64 = 1000;

/// What is known of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    leader: Leader,
    owner: HostId,
    /// Its clock, and since when it stands still; `None`: not read yet.
    still: Option<(u64, Monotonic)>,
    /// Whether the monitoring told so.
    monitored: bool,
    io_timeout_s: u8,
    fire_timeout_s: u32,
    /// Its record as just read, and when that was asked for.
    record: Option<(Leader, Monotonic)>,
    look_failed: Option<Code>,
    next_look: Monotonic,
}

impl Watch {
    pub(super) fn next_look(&self) -> Monotonic {
        self.next_look
    }

    /// The last moment at which it may still be alive.
    fn dead_after(&self) -> Option<Monotonic> {
        let dead_s = timings::host_dead_s(self.io_timeout_s, self.fire_timeout_s);
        Some(self.still?.1.plus_s(dead_s))
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        Some(Waiting {
            owner: self.owner,
            generation: Generation(self.leader.owner_generation),
            until: self.dead_after()?,
        })
    }
}

impl Acquire {
    pub(super) fn check_owner(&mut self, leader: Leader, owners: &dyn Owners) {
        let lockspace = &self.target.lockspace;
        if !owners.is_joined(lockspace) {
            return self.fail(Code::ACQUIRE_LOCKSPACE);
        }
        let owner = match HostId::new(leader.owner_id) {
            Ok(owner) if owner.fits(self.target.geometry).is_ok() => owner,
            Ok(_) | Err(_) => return self.fail(Code::ACQUIRE_IDDISK),
        };
        let still = owners
            .observed(lockspace, owner)
            .filter(|seen| {
                seen.owner_id == leader.owner_id && seen.generation.0 == leader.owner_generation
            })
            .and_then(|seen| Some((seen.timestamp, seen.last_live?)));
        let watch = Watch {
            leader,
            owner,
            still,
            monitored: still.is_some(),
            io_timeout_s: self.us.io_timeout_s,
            fire_timeout_s: self.us.fire_timeout_s,
            record: None,
            look_failed: None,
            next_look: self.desk.now.boottime,
        };
        self.look_at_owner(watch, false);
    }

    /// Reads the owner's record, and after a wait the leader as well.
    pub(super) fn look_at_owner(&mut self, mut watch: Watch, again: bool) {
        watch.record = None;
        watch.look_failed = None;
        // What an earlier look or ballot read of the leader says nothing now.
        self.refused = None;
        self.leaders = Default::default();
        self.desk.read(
            Purpose::OwnerDelta,
            Scope::Delta(self.target.lockspace, watch.owner),
            0,
            self.target.geometry.sector_size(),
        );
        if again {
            self.desk.read(
                Purpose::OwnerLeader,
                Scope::AllDisks,
                0,
                self.geometry.sector_size(),
            );
        }
        self.stage = Stage::OwnerLook(watch);
    }

    pub(super) fn on_delta_data(&mut self, arrived: Arrived<'_>) {
        let Stage::OwnerLook(watch) = &mut self.stage else {
            return;
        };
        match delta::leader(arrived.bytes) {
            Some(record) => match delta::verify(&record, &self.target.lockspace) {
                Ok(()) => watch.record = Some((record, arrived.since)),
                Err(error) => watch.look_failed = Some(error.into()),
            },
            None => watch.look_failed = Some(Code::EMSGSIZE),
        }
    }

    pub(super) fn on_owner_looked(&mut self, tally: Tally, owners: &dyn Owners) {
        let Stage::OwnerLook(mut watch) = self.stage else {
            return;
        };
        if let Err(code) = tally.majority() {
            watch.look_failed.get_or_insert(code);
        }
        self.stage = Stage::OwnerLook(watch);
        if self.desk.is_under_way(Purpose::OwnerDelta)
            || self.desk.is_under_way(Purpose::OwnerLeader)
        {
            return;
        }
        if let Some(code) = watch.look_failed {
            return self.fail(code);
        }
        if self.refused.is_some() || self.leaders.iter().any(Option::is_some) {
            match scan::majority(&self.leaders, self.target.disks) {
                Ok(leader) if leader == watch.leader => {}
                Ok(_) => return self.look(),
                Err(code) => return self.fail(self.refused.unwrap_or(code)),
            }
        }
        let Some((record, asked)) = watch.record else {
            return self.fail(Code::ERROR);
        };
        self.judge_owner(watch, &record, asked, owners);
    }

    fn judge_owner(
        &mut self,
        mut watch: Watch,
        record: &Leader,
        asked: Monotonic,
        owners: &dyn Owners,
    ) {
        if record.timestamp == 0
            || record.owner_id != watch.leader.owner_id
            || record.owner_generation > watch.leader.owner_generation
        {
            return self.run_ballot();
        }
        watch.io_timeout_s = match timings::io_timeout_of_record(record.io_timeout) {
            0 => self.us.io_timeout_s,
            theirs => theirs,
        };
        let now = self.desk.now.boottime;
        let Some((timestamp, since)) = watch.still else {
            watch.still = Some((record.timestamp, now));
            return self.wait(watch);
        };
        let just_seen = owners
            .observed(&self.target.lockspace, watch.owner)
            .is_some_and(|seen| seen.last_live.is_some() && seen.last_live == seen.last_check);
        // The leader names a newer life of our own host id than the one we lead:
        // a late claim of ours must have thrown the record back. That other
        // life cannot renew any more; its end is sure like that of any other.
        let ours =
            watch.owner == self.us.host_id && record.owner_generation == self.us.generation.0;
        if !ours && (record.timestamp != timestamp || just_seen) {
            return self.owner_alive(&watch);
        }
        // Counted to when the reading was asked for: by then at least the
        // owner had not renewed.
        let dead_s = timings::host_dead_s(watch.io_timeout_s, watch.fire_timeout_s);
        if asked > since.plus_s(dead_s) {
            return self.run_ballot();
        }
        if self.options.no_wait {
            return self.fail(Code::ACQUIRE_OWNED_RETRY);
        }
        self.wait(watch);
    }

    fn wait(&mut self, mut watch: Watch) {
        if self.is_cancelled() {
            return self.fail(Code::ERROR);
        }
        let now = self.desk.now.boottime;
        let pause_ms = if watch.monitored {
            1000 * timings::renewal_s(self.us.io_timeout_s)
        } else {
            LOOK_MS
        };
        let look = now.plus_ms(pause_ms);
        // The bound itself is not yet enough; a millisecond more is.
        let dead = watch.dead_after().map_or(look, |after| after.plus_ms(1));
        watch.next_look = look.min(dead).max(now.plus_ms(1));
        self.stage = Stage::OwnerWait(watch);
    }

    /// The monitoring has news: look at once.
    pub(super) fn on_owner_changed(&mut self) {
        if let Stage::OwnerWait(watch) = self.stage {
            self.look_at_owner(watch, true);
        }
    }

    /// Alive. Yet if another host wrote the leader for it, it may have given
    /// the lease up without having been able to say so there.
    fn owner_alive(&mut self, watch: &Watch) {
        if watch.leader.write_id == watch.leader.owner_id {
            return self.held_elsewhere(Code::ACQUIRE_IDLIVE);
        }
        let sector = self.geometry.sector_size();
        let offset = u64::from(paxos::host_sector(watch.owner)) * u64::from(sector);
        if watch.owner.fits(self.geometry).is_err() {
            return self.held_elsewhere(Code::ACQUIRE_IDLIVE);
        }
        self.owner_dblocks = Default::default();
        self.stage = Stage::OwnerDblock;
        self.desk
            .read(Purpose::OwnerDblock, Scope::AllDisks, offset, sector);
    }

    pub(super) fn on_owner_dblock_data(&mut self, arrived: Arrived<'_>) {
        if let (Some(place), Ok(dblock)) = (
            self.owner_dblocks.get_mut(usize::from(arrived.disk)),
            Dblock::decode(arrived.bytes),
        ) {
            *place = Some(dblock).filter(|dblock| dblock.verify().is_ok());
        }
    }

    pub(super) fn on_owner_dblock(&mut self, tally: Tally) {
        match tally.majority() {
            Err(code) => self.fail(code),
            Ok(()) if self.has_owner_let_go() => self.run_ballot(),
            Ok(()) => self.held_elsewhere(Code::ACQUIRE_IDLIVE),
        }
    }

    /// Whether the newest block of the owner bears the mark, on a majority.
    fn has_owner_let_go(&self) -> bool {
        let age = |block: &&Dblock| (block.lver, block.mbal, block.bal);
        let blocks = || self.owner_dblocks.iter().flatten();
        let (Some(newest), Some(leader)) = (blocks().max_by_key(age), &self.leader) else {
            return false;
        };
        let marked = blocks()
            .filter(|block| age(block) == age(&newest) && block.is_released())
            .count();
        // Without a value the block is a ballot's beginning, and its mark that
        // of an older version.
        let of_version = if newest.bal == 0 {
            newest.lver > leader.lver
        } else {
            newest.lver >= leader.lver
        };
        of_version && marked > usize::from(self.target.disks / 2)
    }
}
