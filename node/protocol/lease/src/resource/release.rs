//! Giving a held lease back, and making sure of a lease we may hold.

use std::sync::Arc;

use disk_format::{Dblock, Geometry, ModeBlock, ResourceName, paxos};

use crate::code::Code;
use crate::resource::desk::Desk;
use crate::resource::freeing::{Cleanup, Freed, Freeing, LeaderPlan, Plan};
use crate::resource::{Effect, Held, Input, Operation, Outcome, Owners, Target, Us};
use crate::time::{Monotonic, Now};

/// How to release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ReleaseOptions {
    /// A lease value block to write first: a whole sector. Left out where the
    /// geometry has no room for one; see [`Self::lvb_outside`].
    pub lvb: Option<Arc<[u8]>>,
    /// Write it even where it lies in a neighbour's area, as the original does.
    pub lvb_outside: bool,
    /// The resource's new name.
    pub rename: Option<ResourceName>,
    /// Free the leader only, one write less: for a lease that is held for a
    /// moment, like that of a resource index. Where the leader was written by
    /// another host, the mark in our own sector is written all the same.
    pub unmarked: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one for each operation, never many"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    New,
    First(Freeing),
    Cleaning(Cleanup),
    Done,
}

/// Gives a lease back. After a failure of the storage it tells the client so,
/// and goes on trying in the background.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Release {
    us: Us,
    target: Target,
    plan: Plan,
    desk: Desk,
    stage: Stage,
    result: Option<Outcome>,
}

/// The dblock of a lease given up.
pub(super) fn released(dblock: &Dblock) -> Dblock {
    Dblock {
        flags: dblock.flags | Dblock::RELEASED,
        ..*dblock
    }
}

/// What of a lease value block may be written.
pub(super) fn lvb_to_write(
    lvb: Option<Arc<[u8]>>,
    outside: bool,
    geometry: Geometry,
) -> Option<Arc<[u8]>> {
    lvb.filter(|bytes| {
        bytes.len() <= geometry.sector_bytes() && (outside || paxos::lvb_allowed(geometry))
    })
}

impl Release {
    /// A release of what is `held`.
    ///
    /// # Panics
    /// When the I/O timeout is 0 or the number of disks is not 1–4.
    #[must_use]
    pub fn new(us: Us, target: Target, held: &Held, options: ReleaseOptions) -> Self {
        let plan = if held.shared {
            Plan {
                geometry: held.geometry,
                lvb: None,
                own: Some((released(&held.dblock), ModeBlock::NONE)),
                own_first: true,
                leader: LeaderPlan::Keep,
                rename: None,
                spare: None,
            }
        } else {
            let mark = Some((released(&held.dblock), ModeBlock::NONE));
            let (own, spare) = if options.unmarked {
                (None, mark)
            } else {
                (mark, None)
            };
            Plan {
                geometry: held.geometry,
                lvb: lvb_to_write(options.lvb, options.lvb_outside, held.geometry),
                own,
                own_first: false,
                leader: LeaderPlan::Expect(held.leader),
                rename: options.rename,
                spare,
            }
        };
        Self::with_plan(us, target, plan)
    }

    fn with_plan(us: Us, target: Target, plan: Plan) -> Self {
        Self {
            us,
            target,
            plan,
            desk: Desk::new(us.io_timeout_s, target.disks),
            stage: Stage::New,
            result: None,
        }
    }

    fn on_freed(&mut self, freed: Freed) {
        self.result = Some(Outcome {
            seen: freed.leader,
            ..Outcome::new(freed.code)
        });
        self.stage = match self.plan.rest(&freed) {
            Some(rest) => Stage::Cleaning(Cleanup::after_failure(rest, &self.desk)),
            None => Stage::Done,
        };
    }

    fn proceed(&mut self) {
        loop {
            if let Stage::Cleaning(cleanup) = &mut self.stage {
                cleanup.proceed(&self.us, &mut self.desk);
            }
            let Some((purpose, tally)) = self.desk.take_ended() else {
                break;
            };
            let (us, target, desk) = (&self.us, &self.target, &mut self.desk);
            match &mut self.stage {
                Stage::First(freeing) => {
                    if let Some(freed) = freeing.on_round(us, target, desk, purpose, tally) {
                        self.on_freed(freed);
                    }
                }
                Stage::Cleaning(cleanup) => {
                    cleanup.on_round(us, target, desk, purpose, tally);
                    if cleanup.is_ended() {
                        self.stage = Stage::Done;
                    }
                }
                Stage::New | Stage::Done => {}
            }
        }
    }
}

impl Operation for Release {
    fn handle(&mut self, now: Now, input: Input<'_>, _: &dyn Owners) {
        self.desk.advance(now);
        match input {
            Input::Start => {
                if self.stage == Stage::New {
                    let freeing = Freeing::start(self.plan.clone(), &self.us, &mut self.desk);
                    self.stage = Stage::First(freeing);
                }
            }
            Input::Io(io, outcome) => {
                if let Some(arrived) = self.desk.on_io(io, outcome) {
                    match &mut self.stage {
                        Stage::First(freeing) => freeing.on_data(&self.us, &self.target, arrived),
                        Stage::Cleaning(cleanup) => {
                            cleanup.on_data(&self.us, &self.target, arrived);
                        }
                        Stage::New | Stage::Done => {}
                    }
                }
            }
            // What is being given back is given back.
            Input::Tick | Input::OwnerChanged | Input::Cancel => {}
            Input::Abandon => {
                self.desk.abandon();
                self.stage = Stage::Done;
                self.result
                    .get_or_insert_with(|| Outcome::new(Code::ENOSPC));
            }
        }
        self.desk.expire();
        self.proceed();
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.desk.next_effect()
    }

    fn deadline(&self) -> Option<Monotonic> {
        let pause = match &self.stage {
            Stage::Cleaning(cleanup) => cleanup.deadline(),
            Stage::New | Stage::First(_) | Stage::Done => None,
        };
        earliest(pause, self.desk.deadline())
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
}

pub(super) fn earliest(one: Option<Monotonic>, other: Option<Monotonic>) -> Option<Monotonic> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Makes sure that we do not own a lease in a version we proposed ourselves
/// for, whether or not the proposal came through (spec §4.5). A failed
/// [`crate::resource::Acquire`] does this by itself; this is for a caller that
/// has only the block left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Erase(Release);

impl Erase {
    /// `dblock` is our block as last written.
    ///
    /// # Panics
    /// When the I/O timeout is 0 or the number of disks is not 1–4.
    #[must_use]
    pub fn new(us: Us, target: Target, dblock: &Dblock, geometry: Geometry) -> Self {
        let plan = Plan {
            geometry,
            lvb: None,
            own: Some((released(dblock), ModeBlock::NONE)),
            own_first: false,
            leader: LeaderPlan::Version(dblock.lver),
            rename: None,
            spare: None,
        };
        Self(Release::with_plan(us, target, plan))
    }
}

impl Operation for Erase {
    fn handle(&mut self, now: Now, input: Input<'_>, owners: &dyn Owners) {
        self.0.handle(now, input, owners);
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.0.next_effect()
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.0.deadline()
    }

    fn result(&self) -> Option<&Outcome> {
        self.0.result()
    }

    fn is_drained(&self) -> bool {
        self.0.is_drained()
    }

    fn writes_in_flight(&self) -> usize {
        self.0.writes_in_flight()
    }
}
