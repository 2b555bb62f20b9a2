//! Thin volumes that grow before the guest notices, as a pure state machine.
//!
//! What it is: [`Drive`], one thin drive of a running guest: when to ask for
//! more, how much, what to do with the answer; [`Guest`], its drives together and
//! whether a paused guest may go on; [`size`], every number and formula;
//! [`predict`], for guests that write faster than the formulas allow. What it is
//! not: no I/O, no clock, no QEMU, no LVM; who extends and how is the caller's.
//!
//! ```text
//!            room: threshold set              event, or ENOSPC
//!   UNSET ────────────────────────▶ SET ──────────────────────▶ EXCEEDED ◀──┐
//!     ▲  │ no room                   ▲    refreshed, large enough,  │  │     │ refused,
//!     │  └──────────────────────────────▶ threshold set ───────────┘  └─────┘ lost, small:
//!     │ resized, resumed            (SET)                  P ≥ M │            again, later
//!     └──────────────────────── DISABLED ◀──────────────────────┘
//! ```
//!
//! One cycle of a drive:
//!
//! ```text
//!   event ─▶ sample ─▶ extend(N) ─▶ refresh ─▶ real size ≥ N? ─▶ threshold ─▶ continue
//!                      replica first; at a migration the destination refreshes first
//! ```
//!
//! Invariants (`tests/volume/stories.rs` tells each as a story, `random.rs` beside it
//! looks for a counter-example, `fill.rs` measures):
//! - a request is absolute, never below the size there is, never above M;
//! - a threshold is set only below the size that a refresh has proved;
//! - a guest is continued only if it stopped for lack of space, every drive that
//!   lacked it has it, and nothing else keeps it stopped;
//! - a capacity of 0 is no sample;
//! - at most one step of a drive is outstanding, and every step has a deadline.
#![forbid(unsafe_code)]

mod drive;
mod guest;
pub mod predict;
pub mod size;
mod time;

pub use drive::{
    Config, Drive, Effect, ExtendOutcome, Input, Notice, PauseReason, RefreshOutcome, Sample,
    State, Status, Target, ThresholdOutcome, Ticket,
};
pub use guest::{DriveId, Guest, GuestEffect, GuestInput, GuestStatus, RunReport, RunState};
pub use size::Policy;
pub use time::Monotonic;
