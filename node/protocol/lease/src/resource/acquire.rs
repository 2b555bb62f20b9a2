//! Acquiring a lease: looking, deciding a ballot, and what follows from it.
//!
//! This file: the operation as a whole and its ends. Its first reading is in
//! [`super::first`], the check of another owner in [`super::owner`], the ballot
//! in [`super::ballot`], what follows for shared holders in [`super::sharing`].

use std::sync::Arc;

use disk_format::paxos::{self, Hosts};
use disk_format::{Dblock, Generation, Geometry, HostId, Leader, ModeBlock};

use crate::code::Code;
use crate::resource::desk::{Arrived, Desk, Purpose, Tally};
use crate::resource::freeing::{Cleanup, Freeing, LeaderPlan, Plan};
use crate::resource::owner::Watch;
use crate::resource::release::{earliest, released};
use crate::resource::scan::{self, Abort, HostSet, Value};
use crate::resource::{DISKS_MAX, Effect, Held, Input, Operation, Outcome, Owners, Target, Us};
use crate::time::{Monotonic, Now};

/// How to acquire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AcquireOptions {
    /// Shared rather than exclusive.
    pub shared: bool,
    /// Only in this version.
    pub lver: Option<u64>,
    /// Change for how many hosts the lease is; 0 or too many means all that
    /// the geometry has.
    pub num_hosts: Option<u32>,
    /// Do not wait for an owner's death to become certain.
    pub no_wait: bool,
    /// How often a shared acquire is tried again when it met a host that was
    /// itself about to share.
    pub sh_retries: u32,
    /// Read the lease value block.
    pub lvb: bool,
    /// Read it even where it lies in a neighbour's area, as the original does;
    /// without this such a lease is refused.
    pub lvb_outside: bool,
    /// For how many hosts the lease was when last seen: the first reading then
    /// takes no more than that. `None`: read the whole area.
    pub expected_hosts: Option<u32>,
    /// Highest ballot number known of, usually that of the [`Held`] before: the
    /// first reading then takes only the leader and our own block, which for
    /// leases for many hosts is a third of all that is read. The other blocks
    /// are read by the ballot's first phase; if one of them has a higher
    /// number in this ballot, it is as if that had begun in between.
    pub expected_mbal: Option<u64>,
}

impl Default for AcquireOptions {
    fn default() -> Self {
        Self {
            shared: false,
            lver: None,
            num_hosts: None,
            no_wait: false,
            sh_retries: 8,
            lvb: false,
            lvb_outside: false,
            expected_hosts: None,
            expected_mbal: None,
        }
    }
}

/// Whom an acquire waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The owner.
    pub owner: HostId,
    /// Its generation.
    pub generation: Generation,
    /// When it is surely dead, if it is not heard of any more.
    pub until: Monotonic,
}

/// What of an area one disk told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reading {
    pub(super) leader: Leader,
    pub(super) max_mbal: Result<u64, Code>,
    /// Our own block, left from earlier.
    pub(super) own: Dblock,
}

/// Our ballot for one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ballot {
    pub(super) lver: u64,
    pub(super) mbal: u64,
    pub(super) max_seen: u64,
    pub(super) max_lver: u64,
    pub(super) damaged: bool,
    pub(super) abort: Option<Abort>,
    pub(super) accepted: Option<(u64, Value)>,
    pub(super) value: Option<Value>,
    /// Hosts with a shared mark, ours left out.
    pub(super) shared: HostSet,
    pub(super) began: Monotonic,
}

/// Looking at the hosts that hold the lease shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shared {
    pub(super) todo: HostSet,
    pub(super) live: bool,
    pub(super) failed: Option<Code>,
    /// Holders found dead on some disk, the others not yet read.
    pub(super) marked: HostSet,
    /// Holders found alive on some disk.
    pub(super) alive: HostSet,
    /// Dead holders whose marks are to be cleared.
    pub(super) dead: HostSet,
}

/// Why the leader is being given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum After {
    /// We are a shared holder then.
    GoShared,
    /// Others hold it shared.
    Refuse,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one for each operation, never many"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    New,
    Initial,
    OwnerLook(Watch),
    OwnerWait(Watch),
    OwnerDblock,
    /// Waiting to begin from the first reading.
    Later(Monotonic),
    /// Waiting to begin the next ballot.
    Backoff(Monotonic),
    Ballot,
    Shared(Shared),
    OwnMode,
    Freeing(Freeing, After),
    /// All done but for the lease value block's reading.
    Finishing,
    Undoing(Cleanup),
    Done,
}

/// Acquires a lease.
///
/// After [`Input::Cancel`] the result may still be success: then what is held
/// must be released.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acquire {
    pub(super) us: Us,
    pub(super) target: Target,
    pub(super) options: AcquireOptions,
    /// Held shared, and to be turned into exclusive.
    pub(super) keep: Option<Held>,
    pub(super) random: u64,
    pub(super) desk: Desk,
    pub(super) geometry: Geometry,
    pub(super) geometries: u8,
    pub(super) stage: Stage,
    pub(super) readings: [Option<Reading>; DISKS_MAX as usize],
    pub(super) leaders: [Option<Leader>; DISKS_MAX as usize],
    pub(super) refused: Option<Code>,
    /// The first reading left the other hosts' blocks to the first phase; the
    /// highest ballot number known without them.
    pub(super) short_of: Option<u64>,
    /// Hosts whose blocks the first reading asked for.
    pub(super) asked_hosts: u64,
    /// The leader our decisions rest on.
    pub(super) leader: Option<Leader>,
    pub(super) hosts: Hosts,
    pub(super) max_mbal: u64,
    pub(super) ballot: Option<Ballot>,
    /// Our own block as the first reading found it.
    pub(super) left: Dblock,
    /// Our own block as last written or tried to be written.
    pub(super) dblock: Option<Dblock>,
    /// Version for which a value of ours may be on disk.
    pub(super) proposed: Option<u64>,
    /// When the first ballot was lost.
    pub(super) contended: Option<Monotonic>,
    /// Ballots lost in a row.
    pub(super) lost: u32,
    /// The leader on its way to disk.
    pub(super) committing: Option<Leader>,
    /// The owner's block on each disk, which may say that it has let go.
    pub(super) owner_dblocks: [Option<Dblock>; DISKS_MAX as usize],
    sh_tries: u32,
    pub(super) lvb: Option<Arc<[u8]>>,
    pub(super) held: Option<Held>,
    cancelled: bool,
    result: Option<Outcome>,
}

impl Acquire {
    /// `seed` decides how long to stand back after a lost ballot; different
    /// hosts must have different ones.
    ///
    /// # Panics
    /// When the I/O timeout is 0 or the number of disks is not 1–4.
    #[must_use]
    pub fn new(us: Us, target: Target, options: AcquireOptions, seed: u64) -> Self {
        Self::with_kept(us, target, options, seed, None)
    }

    pub(super) fn with_kept(
        us: Us,
        target: Target,
        options: AcquireOptions,
        seed: u64,
        keep: Option<Held>,
    ) -> Self {
        let geometry = keep.map_or(target.geometry, |kept| kept.geometry);
        let max = geometry.max_hosts();
        Self {
            us,
            target,
            options,
            keep,
            random: seed,
            desk: Desk::new(us.io_timeout_s, target.disks),
            geometry,
            geometries: 0,
            stage: Stage::New,
            readings: [None; DISKS_MAX as usize],
            leaders: [None; DISKS_MAX as usize],
            refused: None,
            short_of: None,
            asked_hosts: 0,
            leader: None,
            hosts: Hosts { num: max, max },
            max_mbal: 0,
            ballot: None,
            left: Dblock::default(),
            dblock: None,
            proposed: None,
            contended: None,
            lost: 0,
            committing: None,
            owner_dblocks: [None; DISKS_MAX as usize],
            sh_tries: 0,
            lvb: None,
            held: None,
            cancelled: false,
            result: None,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// What our own sector's mode block says while this runs.
    pub(super) fn own_mode(&self) -> ModeBlock {
        match self.keep {
            Some(_) => ModeBlock::shared(self.us.generation.0),
            None => ModeBlock::NONE,
        }
    }

    /// splitmix64.
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Somebody else has it: the end, unless a shared acquire met a host that
    /// may hold it only for a moment. One that lost a ballot cannot know what
    /// the winner wants, and looks again; so does one that finds a leader
    /// which another host wrote for the owner, because only the owner can say
    /// that it is for a moment.
    pub(super) fn held_elsewhere(&mut self, code: Code) {
        let said = |leader: Leader| leader.flags & paxos::SHORT_HOLD != 0;
        let (short, exhausted) = match (code, self.leader) {
            (Code::ACQUIRE_IDLIVE, None) => (false, code),
            (Code::ACQUIRE_IDLIVE, Some(leader)) if !said(leader) => {
                (leader.write_id != leader.owner_id, code)
            }
            _ => (true, Code::ACQUIRE_SHRETRY),
        };
        if !self.options.shared || !short {
            return self.fail(code);
        }
        if self.sh_tries >= self.options.sh_retries {
            return self.fail(exhausted);
        }
        // The other needs three I/Os to let go. The window doubles up to the
        // original's one second.
        let window_ms = (40_u64 << self.sh_tries.min(5)).min(1000);
        self.sh_tries += 1;
        let pause_ms = window_ms / 2 + self.next_random() % (window_ms / 2 + 1);
        self.stage = Stage::Later(self.desk.now.boottime.plus_ms(pause_ms));
    }

    pub(super) fn finish(&mut self, code: Code) {
        if self.desk.is_under_way(Purpose::Lvb) {
            self.stage = Stage::Finishing;
            return;
        }
        self.proposed = None;
        self.result = Some(Outcome {
            held: self.held,
            lvb: self.lvb.take(),
            seen: self.leader,
            ..Outcome::new(code)
        });
        self.stage = Stage::Done;
    }

    /// Ends without the lease; takes back what may still make us its owner.
    pub(super) fn fail(&mut self, code: Code) {
        self.result.get_or_insert_with(|| Outcome {
            held: self.keep.map(|kept| Held {
                dblock: self.dblock.unwrap_or(kept.dblock),
                geometry: self.geometry,
                ..kept
            }),
            seen: self.leader,
            ..Outcome::new(code)
        });
        self.desk.forget_reads();
        self.stage = match (self.proposed, self.dblock) {
            (Some(_), Some(dblock)) => {
                let plan = Plan {
                    geometry: self.geometry,
                    lvb: None,
                    own: Some((released(&dblock), self.own_mode())),
                    // A shared holder's mark must be back before others come in;
                    // one that shall not be must not stay for ever.
                    own_first: self.keep.is_some() || self.options.shared,
                    leader: LeaderPlan::Ours,
                    rename: None,
                    spare: None,
                };
                Stage::Undoing(Cleanup::start(plan, &self.us, &mut self.desk))
            }
            _ => Stage::Done,
        };
    }

    fn on_data(&mut self, arrived: Arrived<'_>, owners: &dyn Owners) {
        match arrived.purpose {
            Purpose::Initial => self.on_initial_data(arrived),
            Purpose::Recheck | Purpose::OwnerLeader => {
                match scan::leader_of(arrived.bytes, &self.target, self.us.host_id) {
                    Ok(leader) => {
                        if let Some(place) = self.leaders.get_mut(usize::from(arrived.disk)) {
                            *place = Some(leader);
                        }
                    }
                    Err(code) => self.refused = Some(code),
                }
            }
            Purpose::Phase1Read | Purpose::Phase2Read => self.on_phase_data(arrived),
            Purpose::OwnerDelta => self.on_delta_data(arrived),
            Purpose::OwnerDblock => self.on_owner_dblock_data(arrived),
            Purpose::SharedRead(host) => self.on_shared_data(host, arrived.bytes, owners),
            Purpose::Lvb => self.lvb = Some(Arc::from(arrived.bytes)),
            Purpose::FreeRead => match &mut self.stage {
                Stage::Freeing(freeing, _) => freeing.on_data(&self.us, &self.target, arrived),
                Stage::Undoing(cleanup) => cleanup.on_data(&self.us, &self.target, arrived),
                _ => {}
            },
            _ => {}
        }
    }

    fn on_round(&mut self, purpose: Purpose, tally: Tally, owners: &dyn Owners) {
        if self.cancelled && self.result.is_none() && self.is_before_commit() {
            return self.fail(Code::ERROR);
        }
        match purpose {
            Purpose::Initial => self.on_initial(tally, owners),
            Purpose::Recheck => self.on_recheck(tally),
            Purpose::Phase1Write | Purpose::Phase2Write => self.on_phase_written(purpose, tally),
            Purpose::Phase1Read | Purpose::Phase2Read => self.on_phase_read(purpose, tally),
            Purpose::Commit => self.on_commit(tally),
            Purpose::OwnerDelta | Purpose::OwnerLeader => self.on_owner_looked(tally, owners),
            Purpose::OwnerDblock => self.on_owner_dblock(tally),
            Purpose::SharedRead(host) | Purpose::SharedZero(host) => {
                self.on_shared_round(host, tally);
            }
            Purpose::OwnMode => match tally.majority() {
                Ok(()) => self.finish(Code::OK),
                Err(code) => self.fail(code),
            },
            Purpose::Lvb => {
                if self.stage == Stage::Finishing {
                    self.finish(Code::OK);
                }
            }
            Purpose::FreeLvb | Purpose::FreeOwn | Purpose::FreeRead | Purpose::FreeWrite => {
                self.on_free_round(purpose, tally);
            }
            Purpose::RequestRead | Purpose::RequestWrite => {}
        }
    }

    fn is_before_commit(&self) -> bool {
        matches!(
            self.stage,
            Stage::Initial | Stage::OwnerLook(_) | Stage::OwnerDblock
        ) || (self.stage == Stage::Ballot && self.committing.is_none())
    }

    fn on_free_round(&mut self, purpose: Purpose, tally: Tally) {
        let (us, target, desk) = (&self.us, &self.target, &mut self.desk);
        match &mut self.stage {
            Stage::Freeing(freeing, after) => {
                let after = *after;
                if let Some(freed) = freeing.on_round(us, target, desk, purpose, tally) {
                    self.on_freed(freed, after);
                }
            }
            Stage::Undoing(cleanup) => {
                cleanup.on_round(us, target, desk, purpose, tally);
                if cleanup.is_ended() {
                    self.stage = Stage::Done;
                }
            }
            _ => {}
        }
    }

    fn proceed(&mut self, owners: &dyn Owners) {
        loop {
            self.on_time();
            if let Stage::Undoing(cleanup) = &mut self.stage {
                cleanup.proceed(&self.us, &mut self.desk);
            }
            let Some((purpose, tally)) = self.desk.take_ended() else {
                break;
            };
            self.on_round(purpose, tally, owners);
        }
    }

    fn on_time(&mut self) {
        let now = self.desk.now.boottime;
        let waiting = match &self.stage {
            Stage::Later(until) | Stage::Backoff(until) => Some(*until),
            Stage::OwnerWait(watch) => Some(watch.next_look()),
            _ => None,
        };
        let Some(until) = waiting else { return };
        if self.cancelled {
            return self.fail(Code::ERROR);
        }
        if until > now {
            return;
        }
        match self.stage.clone() {
            Stage::Later(_) => self.look(),
            Stage::Backoff(_) => self.recheck(),
            Stage::OwnerWait(watch) => self.look_at_owner(watch, true),
            _ => {}
        }
    }
}

impl Operation for Acquire {
    fn handle(&mut self, now: Now, input: Input<'_>, owners: &dyn Owners) {
        self.desk.advance(now);
        match input {
            Input::Start => {
                if self.stage == Stage::New {
                    self.look();
                }
            }
            Input::Io(io, outcome) => {
                if let Some(arrived) = self.desk.on_io(io, outcome) {
                    self.on_data(arrived, owners);
                }
            }
            Input::Tick => {}
            Input::OwnerChanged => self.on_owner_changed(),
            Input::Cancel => {
                self.cancelled = true;
                if self.stage == Stage::New {
                    self.fail(Code::ERROR);
                }
            }
            Input::Abandon => {
                self.desk.abandon();
                self.proposed = None;
                if self.stage != Stage::Done {
                    self.fail(Code::ENOSPC);
                }
            }
        }
        self.desk.expire();
        self.proceed(owners);
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.desk.next_effect()
    }

    fn deadline(&self) -> Option<Monotonic> {
        let own = match &self.stage {
            Stage::Later(until) | Stage::Backoff(until) => Some(*until),
            Stage::OwnerWait(watch) => Some(watch.next_look()),
            Stage::Undoing(cleanup) => cleanup.deadline(),
            _ => None,
        };
        earliest(own, self.desk.deadline())
    }

    fn result(&self) -> Option<&Outcome> {
        self.result.as_ref()
    }

    fn is_drained(&self) -> bool {
        self.stage == Stage::Done && self.desk.writes_in_flight() == 0
    }

    fn writes_in_flight(&self) -> usize {
        self.desk.writes_in_flight()
    }

    fn waiting(&self) -> Option<Waiting> {
        match &self.stage {
            Stage::OwnerLook(watch) | Stage::OwnerWait(watch) => watch.waiting(),
            _ => None,
        }
    }
}
