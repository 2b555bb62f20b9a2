//! From exclusive to shared and back, without letting go in between.

use std::sync::Arc;

use disk_format::{Leader, ModeBlock};

use crate::code::Code;
use crate::resource::acquire::{Acquire, AcquireOptions, Waiting};
use crate::resource::desk::{Desk, Purpose};
use crate::resource::freeing::{Cleanup, Freed, Freeing, LeaderPlan, Plan};
use crate::resource::release::{earliest, lvb_to_write, released};
use crate::resource::{Effect, Held, Input, Operation, Outcome, Owners, Target, Us};
use crate::time::{Monotonic, Now};

/// How to convert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ConvertOptions {
    /// To shared rather than to exclusive.
    pub shared: bool,
    /// Do not wait for an owner's death to become certain.
    pub no_wait: bool,
    /// A lease value block to write before going shared: a whole sector.
    pub lvb: Option<Arc<[u8]>>,
    /// Write it even where it lies in a neighbour's area.
    pub lvb_outside: bool,
}

/// Converts a held lease. [`Outcome::held`] says what is held afterwards,
/// whatever the result.
///
/// Going shared counts as done once our own mark is on disk: a leader that
/// cannot be freed at once is freed in the background. As long as it is not
/// known whether the mark is there, the result is not known either: then it
/// comes when the storage answers, or with [`Input::Abandon`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Convert(Way);

#[expect(
    clippy::large_enum_variant,
    reason = "one for each operation, never many"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Way {
    /// Nothing to do.
    Same(Option<Outcome>, Held),
    Up(Box<Acquire>),
    Down(Box<Down>),
}

impl Convert {
    /// A conversion of what is `held`; `seed` as for [`Acquire::new`].
    ///
    /// # Panics
    /// When the I/O timeout is 0 or the number of disks is not 1–4.
    #[must_use]
    pub fn new(us: Us, target: Target, held: &Held, options: ConvertOptions, seed: u64) -> Self {
        if options.shared == held.shared {
            return Self(Way::Same(None, *held));
        }
        if options.shared {
            return Self(Way::Down(Box::new(Down::new(us, target, held, options))));
        }
        let acquire = AcquireOptions {
            no_wait: options.no_wait,
            expected_hosts: Some(held.num_hosts()),
            ..AcquireOptions::default()
        };
        // The owner's record is still read with the lockspace's geometry; the
        // resource's own is found again by the first reading.
        Self(Way::Up(Box::new(Acquire::with_kept(
            us,
            target,
            acquire,
            seed,
            Some(*held),
        ))))
    }
}

impl Operation for Convert {
    fn handle(&mut self, now: Now, input: Input<'_>, owners: &dyn Owners) {
        match &mut self.0 {
            Way::Same(result, held) => {
                result.get_or_insert_with(|| Outcome {
                    held: Some(*held),
                    ..Outcome::new(Code::EALREADY)
                });
            }
            Way::Up(acquire) => acquire.handle(now, input, owners),
            Way::Down(down) => down.handle(now, input),
        }
    }

    fn next_effect(&mut self) -> Option<Effect> {
        match &mut self.0 {
            Way::Same(..) => None,
            Way::Up(acquire) => acquire.next_effect(),
            Way::Down(down) => down.desk.next_effect(),
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        match &self.0 {
            Way::Same(..) => None,
            Way::Up(acquire) => acquire.deadline(),
            Way::Down(down) => down.deadline(),
        }
    }

    fn result(&self) -> Option<&Outcome> {
        match &self.0 {
            Way::Same(result, _) => result.as_ref(),
            Way::Up(acquire) => acquire.result(),
            Way::Down(down) => down.result.as_ref(),
        }
    }

    fn is_drained(&self) -> bool {
        match &self.0 {
            Way::Same(result, _) => result.is_some(),
            Way::Up(acquire) => acquire.is_drained(),
            Way::Down(down) => down.stage == Stage::Done && down.desk.writes_in_flight() == 0,
        }
    }

    fn writes_in_flight(&self) -> usize {
        match &self.0 {
            Way::Same(..) => 0,
            Way::Up(acquire) => acquire.writes_in_flight(),
            Way::Down(down) => down.desk.writes_in_flight(),
        }
    }

    fn waiting(&self) -> Option<Waiting> {
        match &self.0 {
            Way::Up(acquire) => acquire.waiting(),
            Way::Same(..) | Way::Down(_) => None,
        }
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "one for each operation, never many"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    New,
    Freeing(Freeing),
    /// Trying again.
    Cleaning(Cleanup),
    Done,
}

/// Exclusive to shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Down {
    us: Us,
    target: Target,
    held: Held,
    plan: Plan,
    desk: Desk,
    stage: Stage,
    result: Option<Outcome>,
}

impl Down {
    fn new(us: Us, target: Target, held: &Held, options: ConvertOptions) -> Self {
        Self {
            us,
            target,
            held: *held,
            plan: Plan {
                geometry: held.geometry,
                lvb: lvb_to_write(options.lvb, options.lvb_outside, held.geometry),
                own: Some((released(&held.dblock), ModeBlock::shared(us.generation.0))),
                own_first: true,
                leader: LeaderPlan::Expect(held.leader),
                rename: None,
                spare: None,
            },
            desk: Desk::new(us.io_timeout_s, target.disks),
            stage: Stage::New,
            result: None,
        }
    }

    fn on_freed(&mut self, freed: Freed) {
        let Some(rest) = self.plan.rest(&freed) else {
            return self.end(freed.code, freed.leader_of(&self.held.leader));
        };
        self.stage = Stage::Cleaning(Cleanup::after_failure(rest, &self.desk));
        if freed.own_written {
            // Our mark is on disk, the leader is not free yet: until it is,
            // nobody else can come in, which harms no shared holder.
            self.tell(Code::OK, self.held.leader);
        }
        // Otherwise the mark may or may not be there, and with it the release:
        // neither "shared" nor "still exclusive" would be true.
    }

    fn tell(&mut self, code: Code, leader: Leader) {
        let held = Held {
            shared: true,
            dblock: released(&self.held.dblock),
            leader,
            ..self.held
        };
        self.result.get_or_insert_with(|| Outcome {
            held: Some(held),
            seen: Some(leader),
            ..Outcome::new(code)
        });
    }

    fn end(&mut self, code: Code, leader: Leader) {
        self.tell(code, leader);
        self.stage = Stage::Done;
    }

    fn on_round(&mut self, purpose: Purpose, tally: super::desk::Tally) {
        let (us, target, desk) = (&self.us, &self.target, &mut self.desk);
        match &mut self.stage {
            Stage::Freeing(freeing) => {
                if let Some(freed) = freeing.on_round(us, target, desk, purpose, tally) {
                    self.on_freed(freed);
                }
            }
            Stage::Cleaning(cleanup) => {
                cleanup.on_round(us, target, desk, purpose, tally);
                if cleanup.is_ended() {
                    self.end(Code::OK, self.held.leader);
                }
            }
            Stage::New | Stage::Done => {}
        }
    }

    fn handle(&mut self, now: Now, input: Input<'_>) {
        self.desk.advance(now);
        match input {
            Input::Start => {
                if self.stage == Stage::New {
                    let freeing = Freeing::start(self.plan.clone(), &self.us, &mut self.desk);
                    self.stage = Stage::Freeing(freeing);
                }
            }
            Input::Io(io, outcome) => {
                if let Some(arrived) = self.desk.on_io(io, outcome) {
                    match &mut self.stage {
                        Stage::Freeing(freeing) => {
                            freeing.on_data(&self.us, &self.target, arrived);
                        }
                        Stage::Cleaning(cleanup) => {
                            cleanup.on_data(&self.us, &self.target, arrived);
                        }
                        Stage::New | Stage::Done => {}
                    }
                }
            }
            Input::Tick | Input::OwnerChanged | Input::Cancel => {}
            Input::Abandon => {
                self.desk.abandon();
                self.stage = Stage::Done;
                let held = self.held;
                self.result.get_or_insert_with(|| Outcome {
                    held: Some(held),
                    ..Outcome::new(Code::ENOSPC)
                });
            }
        }
        self.desk.expire();
        loop {
            if let Stage::Cleaning(cleanup) = &mut self.stage {
                cleanup.proceed(&self.us, &mut self.desk);
            }
            let Some((purpose, tally)) = self.desk.take_ended() else {
                break;
            };
            self.on_round(purpose, tally);
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        let pause = match &self.stage {
            Stage::Cleaning(cleanup) => cleanup.deadline(),
            Stage::New | Stage::Freeing(_) | Stage::Done => None,
        };
        earliest(pause, self.desk.deadline())
    }
}
