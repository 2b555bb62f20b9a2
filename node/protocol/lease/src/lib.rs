//! Who may do what on shared storage: delta leases, which make a host a member
//! of a lockspace, and leases on resources, which members take from each other.
//!
//! [`resource`] holds the second kind and says how it works; [`code`] has the
//! numbers both report. The rest of this page is about delta leases: one host
//! id of one lockspace, held by at most one host at a time.
//!
//! What it is: [`DeltaLease`], a state machine that takes time and the
//! outcomes of I/O in and gives reads, writes and watchdog calls out;
//! [`hosts`], what to believe of the others; [`timings`], every number with
//! the safety argument; [`init`], whether an area may be made. What it is not:
//! no I/O, no clock, no thread, and in the renewal path no allocation.
//!
//! ```text
//!            Start          free, or ours            written        settled, same
//!  Waiting ────────▶ First ───────────────▶ Writing ────────▶ Settling ──────────▶ Registering
//!     ▲                │ another's             │ unknown        │ changed               │ registered
//!     │                ▼                       ▼                ▼                       ▼
//!     │◀── error ── Watching ◀──────────── (Waiting;         Watching                 Held ──▶ Lost
//!     │                │ unchanged for       then our own                               │
//!     │                ▼ 8T + W              record counts                              ▼
//!     │             Writing                  as another's)                          Releasing ──▶ Released
//! ```
//!
//! Invariants (`tests/stories.rs` tells each as a story, `tests/random.rs`
//! looks for a counter-example):
//! - two hosts never hold one host id at a time, where a host that no longer
//!   runs counts as a holder until its watchdog has fired;
//! - a holder's generation is higher than every earlier one, unless a claim
//!   that hung for longer than an acquire takes lands on top of it;
//! - the expiry is counted from when a renewal was submitted, never from when
//!   it was done;
//! - a write whose outcome is unknown is never counted as done nor as not done;
//! - lost is final.
//!
//! Limits that come with the format:
//! - a record does not tell a claim from a renewal, nor whose T the claim it
//!   covers was made with: hosts that compete for one host id must have the
//!   same T;
//! - a write that hung when its process was killed is assumed to be gone when
//!   the machine has been reset, or 8T + W after the kill;
//! - a freeing write that hangs for longer than 8T + W lands on the next
//!   holder's record, which then reads free while it is held. To stay
//!   registered with the watchdog until it has come back would reset machines
//!   for leaving dead storage.
#![forbid(unsafe_code)]

pub mod code;
mod delta;
pub mod hosts;
pub mod init;
pub mod resource;
pub mod status;
pub mod time;
pub mod timings;

pub use code::Code;
pub use delta::{Config, DeltaLease, Effect, Input, IoId, IoOutcome, Record};
pub use status::{Failure, Loss, Note, Renewal, RenewalFailure, Rival, Stalled, State, Status};
pub use time::{Monotonic, Now};
