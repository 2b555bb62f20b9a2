//! Giving the leader back: the end of a release, of an acquire that goes
//! shared, and of everything that has to be undone.
//!
//! ```text
//! [lease value block] ─▶ own sector ∥ read leader ─▶ checks ─▶ leader, timestamp 0
//! ```
//!
//! Our own sector is written before the leader, always: it is what tells the
//! others of the release when the leader was written by one of them.

use std::sync::Arc;

use disk_format::{Dblock, Geometry, Leader, ModeBlock, ResourceName, paxos};

use crate::code::Code;
use crate::resource::desk::{Arrived, Desk, Purpose, Scope, Tally};
use crate::resource::{DISKS_MAX, SectorBytes, Target, Us, scan};
use crate::time::Monotonic;

/// What is to be given back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub(super) geometry: Geometry,
    /// Written first.
    pub(super) lvb: Option<Arc<[u8]>>,
    /// What our own sector shall say.
    pub(super) own: Option<(Dblock, ModeBlock)>,
    /// Whether the leader stays as it is if our own sector cannot be written.
    pub(super) own_first: bool,
    pub(super) leader: LeaderPlan,
    /// The leader's new resource name.
    pub(super) rename: Option<ResourceName>,
    /// What our own sector shall say if the leader turns out to be another's to
    /// write, where it is otherwise left alone.
    pub(super) spare: Option<(Dblock, ModeBlock)>,
}

impl Plan {
    /// What an attempt has left to do.
    pub(super) fn rest(&self, freed: &Freed) -> Option<Self> {
        let leader = match self.leader {
            // Our own write, told as failed, may have changed it: from now on
            // the version tells whether it is still ours to free.
            LeaderPlan::Expect(leader) if freed.code.is_io() => LeaderPlan::Version(leader.lver),
            other if freed.code.is_io() => other,
            _ if freed.own_missing => LeaderPlan::Keep,
            _ => return None,
        };
        Some(Self {
            lvb: self.lvb.clone().filter(|_| !freed.marked),
            own: self.own.or(self.spare),
            spare: None,
            leader,
            ..self.clone()
        })
    }
}

/// What to do about the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LeaderPlan {
    /// Nothing.
    Keep,
    /// Free it if it is still exactly this one.
    Expect(Leader),
    /// Free it if it names us as the owner of this version.
    Version(u64),
    /// Free it if it names us as the owner, in whatever version.
    Ours,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Freed {
    pub(super) code: Code,
    /// The leader as it is now, as far as known.
    pub(super) leader: Option<Leader>,
    /// Whether our own sector surely says what it should.
    pub(super) own_written: bool,
    /// Whether our own sector should say something, and perhaps does not: then
    /// another host that writes the leader for us would bind us to it.
    pub(super) own_missing: bool,
    /// Whether the mark was asked for: from then on the lease value block may
    /// be another's, and is not written again.
    pub(super) marked: bool,
}

impl Freed {
    /// The leader of the version we held, as far as known: another host may
    /// have gone on to the next.
    pub(super) fn leader_of(&self, held: &Leader) -> Leader {
        self.leader
            .filter(|leader| leader.lver == held.lver)
            .unwrap_or(*held)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Lvb,
    OwnAndRead,
    /// Our mark took long, or is in doubt: what was read beside it is old.
    ReadAgain,
    /// Only the spare mark is left to write.
    Spare(Leader),
    Write(Leader),
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Freeing {
    plan: Plan,
    step: Step,
    own: Option<Tally>,
    read: Option<Tally>,
    leaders: [Option<Leader>; DISKS_MAX as usize],
    /// Why a leader read is not to be believed.
    refused: Option<Code>,
    /// When writing the mark and reading began.
    began: Monotonic,
}

/// A leader read this long before it is written is read again: another host may
/// have written it since.
const OLD_MS: u64 = 500;

impl Freeing {
    /// Begins; the rounds' ends are to be handed to [`Self::on_round`].
    pub(super) fn start(plan: Plan, us: &Us, desk: &mut Desk) -> Self {
        let mut this = Self {
            plan,
            step: Step::Lvb,
            own: None,
            read: None,
            leaders: [None; DISKS_MAX as usize],
            refused: None,
            began: desk.now.boottime,
        };
        match this.plan.lvb.clone() {
            Some(lvb) => desk.write(
                Purpose::FreeLvb,
                Scope::FirstDisk,
                paxos::LVB_SECTOR,
                this.plan.geometry.sector_size(),
                &SectorBytes::Lvb(lvb),
            ),
            None => this.own_and_read(us, desk),
        }
        this
    }

    fn own_and_read(&mut self, us: &Us, desk: &mut Desk) {
        self.step = Step::OwnAndRead;
        self.began = desk.now.boottime;
        let sector = self.plan.geometry.sector_size();
        if let Some((dblock, mode)) = self.plan.own {
            self.write_own(us, desk, &dblock, &mode);
        }
        // Reading may overlap with that write: nothing is decided before both
        // have ended.
        if self.plan.leader != LeaderPlan::Keep {
            desk.read(Purpose::FreeRead, Scope::AllDisks, 0, sector);
        }
    }

    fn write_own(&self, us: &Us, desk: &mut Desk, dblock: &Dblock, mode: &ModeBlock) {
        desk.write(
            Purpose::FreeOwn,
            Scope::AllDisks,
            paxos::host_sector(us.host_id),
            self.plan.geometry.sector_size(),
            &SectorBytes::host(dblock, mode),
        );
    }

    /// Takes in a leader read.
    pub(super) fn on_data(&mut self, us: &Us, target: &Target, arrived: Arrived<'_>) {
        if arrived.purpose != Purpose::FreeRead {
            return;
        }
        match scan::leader_of(arrived.bytes, target, us.host_id) {
            Ok(leader) => {
                if let Some(place) = self.leaders.get_mut(usize::from(arrived.disk)) {
                    *place = Some(leader);
                }
            }
            Err(code) => self.refused = Some(code),
        }
    }

    /// Takes in the end of a round; gives the result when it was the last.
    pub(super) fn on_round(
        &mut self,
        us: &Us,
        target: &Target,
        desk: &mut Desk,
        purpose: Purpose,
        tally: Tally,
    ) -> Option<Freed> {
        match (self.step, purpose) {
            (Step::Lvb, Purpose::FreeLvb) => {
                // A failed write is reported by nobody but the log, as in the
                // original. One that may still land must not land on the next
                // owner's data: the lease is kept until it has.
                if desk.writes_in_flight() > 0 {
                    return self.ended(Code::AIO_TIMEOUT, None);
                }
                self.own_and_read(us, desk);
                None
            }
            (Step::OwnAndRead, Purpose::FreeOwn | Purpose::FreeRead) => {
                if purpose == Purpose::FreeOwn {
                    self.own = Some(tally);
                } else {
                    self.read = Some(tally);
                }
                if desk.is_under_way(Purpose::FreeOwn) || desk.is_under_way(Purpose::FreeRead) {
                    return None;
                }
                let late = desk.now.boottime.ms_since(self.began) > OLD_MS;
                let doubtful = self.own_result().is_err();
                let read = self.read.is_some_and(|tally| tally.majority().is_ok());
                let ends = doubtful && self.plan.own_first;
                if read && !ends && (late || doubtful) {
                    self.read_again(desk);
                    return None;
                }
                self.decide(us, target, desk)
            }
            (Step::ReadAgain, Purpose::FreeRead) => {
                self.read = Some(tally);
                self.decide(us, target, desk)
            }
            (Step::Spare(leader), Purpose::FreeOwn) => match tally.majority() {
                Ok(()) => self.ended(Code::OK, Some(leader)),
                Err(code) => self.ended(code, Some(leader)),
            },
            (Step::Write(leader), Purpose::FreeWrite) => match tally.majority() {
                Ok(()) => self.ended(Code::OK, Some(leader)),
                Err(code) => self.ended(code, None),
            },
            _ => None,
        }
    }

    fn read_again(&mut self, desk: &mut Desk) {
        self.step = Step::ReadAgain;
        self.leaders = Default::default();
        self.refused = None;
        let sector = self.plan.geometry.sector_size();
        desk.read(Purpose::FreeRead, Scope::AllDisks, 0, sector);
    }

    fn decide(&mut self, us: &Us, target: &Target, desk: &mut Desk) -> Option<Freed> {
        let own = self.own_result();
        if let Err(code) = own
            && (self.plan.own_first || self.plan.leader == LeaderPlan::Keep)
        {
            return self.ended(code, None);
        }
        if self.plan.leader == LeaderPlan::Keep {
            return self.ended(Code::OK, None);
        }
        let read = self.read.map_or(Err(Code::ERROR), Tally::majority);
        if let Err(code) = read {
            return self.ended(code, None);
        }
        let current = match scan::majority(&self.leaders, target.disks) {
            Ok(leader) => leader,
            Err(code) => return self.ended(self.refused.unwrap_or(code), None),
        };
        if let Some(code) = refusal(&current, us, &self.plan.leader) {
            if code == Code::OK
                && let Some((dblock, mode)) = self.plan.spare
            {
                self.step = Step::Spare(current);
                self.write_own(us, desk, &dblock, &mode);
                return None;
            }
            // Nothing to write there; so the mark in our own sector is all
            // there is, and must be there.
            let code = own.err().unwrap_or(code);
            return self.ended(code, Some(current));
        }
        let freed = self.freed(&current, us, desk);
        self.step = Step::Write(freed);
        assert!(
            freed.lver == current.lver && freed.owner_id == u64::from(us.host_id.get()),
            "only a version of our own is freed"
        );
        desk.write(
            Purpose::FreeWrite,
            Scope::AllDisks,
            paxos::LEADER_SECTOR,
            self.plan.geometry.sector_size(),
            &SectorBytes::leader(&freed),
        );
        None
    }

    fn own_result(&self) -> Result<(), Code> {
        match &self.plan.own {
            Some(_) => self.own.map_or(Err(Code::ERROR), Tally::majority),
            None => Ok(()),
        }
    }

    fn freed(&self, current: &Leader, us: &Us, desk: &Desk) -> Leader {
        Leader {
            timestamp: 0,
            flags: current.flags & !paxos::SHORT_HOLD,
            write_id: u64::from(us.host_id.get()),
            write_generation: us.generation.0,
            write_timestamp: desk.timestamp(),
            resource_name: self
                .plan
                .rename
                .map_or(current.resource_name, |name| *name.field()),
            ..*current
        }
        .sealed()
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as what on_round gives")]
    fn ended(&self, code: Code, leader: Option<Leader>) -> Option<Freed> {
        Some(Freed {
            code,
            leader,
            own_written: self.plan.own.is_some() && self.own_result().is_ok(),
            own_missing: self.own_result().is_err(),
            marked: self.step != Step::Lvb,
        })
    }
}

/// Why the leader is not ours to free; the order is the original's.
fn refusal(current: &Leader, us: &Us, plan: &LeaderPlan) -> Option<Code> {
    let host = u64::from(us.host_id.get());
    if current.write_id != host {
        // Another host committed us: the mark in our own sector is the release.
        return Some(Code::OK);
    }
    let lver = match plan {
        LeaderPlan::Keep => return Some(Code::OK),
        LeaderPlan::Expect(leader) => leader.lver,
        LeaderPlan::Version(lver) => *lver,
        LeaderPlan::Ours => current.lver,
    };
    if current.lver != lver {
        return Some(Code::RELEASE_LVER);
    }
    let ours = current.owner_id == host && current.owner_generation == us.generation.0;
    if current.timestamp == 0 || !ours {
        return Some(Code::RELEASE_OWNER);
    }
    match plan {
        LeaderPlan::Expect(leader) if leader != current => Some(Code::RELEASE_OWNER),
        _ => None,
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "one for each operation, never many"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Turn {
    /// Waiting for writes whose outcome is unknown.
    Draining,
    Trying(Freeing),
    Pausing(Monotonic),
    Ended,
}

/// Attempts until one is answered by the disk, in the background.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Cleanup {
    plan: Plan,
    turn: Turn,
    tries: u32,
}

impl Cleanup {
    /// Begins once nothing of ours is in flight.
    pub(super) fn start(plan: Plan, us: &Us, desk: &mut Desk) -> Self {
        let mut this = Self {
            plan,
            turn: Turn::Draining,
            tries: 0,
        };
        this.proceed(us, desk);
        this
    }

    /// Begins after a failed attempt: T later.
    pub(super) fn after_failure(plan: Plan, desk: &Desk) -> Self {
        let mut this = Self {
            plan,
            turn: Turn::Draining,
            tries: 0,
        };
        this.pause(desk);
        this
    }

    fn pause(&mut self, desk: &Desk) {
        let factor = if self.tries == 0 { 1 } else { 2 };
        self.tries = self.tries.saturating_add(1);
        let until = desk.now.boottime.plus_s(factor * desk.timeout_s());
        self.turn = Turn::Pausing(until);
    }

    /// To be called after everything that happened.
    pub(super) fn proceed(&mut self, us: &Us, desk: &mut Desk) {
        if let Turn::Pausing(until) = self.turn
            && until <= desk.now.boottime
        {
            self.turn = Turn::Draining;
        }
        if self.turn == Turn::Draining && desk.writes_in_flight() == 0 {
            self.turn = Turn::Trying(Freeing::start(self.plan.clone(), us, desk));
        }
    }

    pub(super) fn on_data(&mut self, us: &Us, target: &Target, arrived: Arrived<'_>) {
        if let Turn::Trying(freeing) = &mut self.turn {
            freeing.on_data(us, target, arrived);
        }
    }

    pub(super) fn on_round(
        &mut self,
        us: &Us,
        target: &Target,
        desk: &mut Desk,
        purpose: Purpose,
        tally: Tally,
    ) {
        let Turn::Trying(freeing) = &mut self.turn else {
            return;
        };
        if let Some(freed) = freeing.on_round(us, target, desk, purpose, tally) {
            match self.plan.rest(&freed) {
                Some(rest) => {
                    self.plan = rest;
                    self.pause(desk);
                }
                None => self.turn = Turn::Ended,
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        match self.turn {
            Turn::Pausing(until) => Some(until),
            Turn::Draining | Turn::Trying(_) | Turn::Ended => None,
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.turn == Turn::Ended
    }
}
