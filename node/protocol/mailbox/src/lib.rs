//! The SPM mailbox as pure state machines: how a host has a volume extended by
//! the one host that may change the storage's metadata.
//!
//! What it is: [`Host`], the requester's side; [`Manager`], the SPM's side;
//! [`role`], when a host becomes the SPM, ceases to be it, or takes a domain's
//! own lease for one commit. What it is not: no I/O, no clock, no thread, no
//! randomness but the seed it is given.
//!
//! ```text
//!  Host                 inbox (hosts write)             Manager                writer
//!   │ request + checksum ──▶ own 4 KiB ─────────────────▶ │                      │
//!   │ event ───────────────▶ block 0 ───── 20 ms poll ──▶ │ one batch a domain   │
//!   │                                                     │ ───────────────────▶ │ one commit
//!   │                       outbox (SPM writes)           │ ◀─────────────────── │
//!   │ ◀── 20 ms poll ─────── own 4 KiB ◀───────────────── │ reply                │
//!   │ CLEAN, event ────────▶ inbox ─────────────────────▶ │                      │
//!   │ ◀───────────────────── outbox ◀──────────────────── │ CLEAN                │
//!   │ slot zeroed ─────────▶ inbox
//! ```
//!
//! The bytes are VDSM's (`disk_format::vdsm::mailbox`), so that either side may
//! be the original; `tests/golden.rs` replays its traces against both.
//!
//! Invariants (`tests/stories` tell each as a story, `tests/random.rs` and
//! the simulator's storage world look for a counter-example):
//! - every request of a caller is answered exactly once, in bounded time;
//! - a request counts as done only after an answer with its very domain, volume
//!   and size that came after it was sent, which an SPM writes only after a
//!   commit with at least that size;
//! - a host writes nothing but its own mailbox and the event block, and nothing
//!   at all before it has read what the outbox held before;
//! - an SPM writes nothing but the outbox, and nothing at all once it is told
//!   that its lease is lost;
//! - a domain has at most one commit under way;
//! - a write whose outcome is unknown is never counted as done nor as not done.
//!
//! Limits that come with the format:
//! - a request carries no number: an answer to an earlier request for the same
//!   volume and the same size, written late, is taken for the new one's. It is
//!   true all the same as long as volumes do not shrink in between;
//! - block 0 holds one event: two at once look like one, which is why an event
//!   is answered by reading everybody's mail.
#![forbid(unsafe_code)]

mod desk;
pub mod host;
pub mod load;
mod mail;
pub mod manager;
mod random;
pub mod role;
mod seam;
pub mod timings;

pub use disk_format::vdsm::mailbox::Extend;
pub use host::Host;
pub use lease::Monotonic;
pub use manager::Manager;
pub use seam::{
    Batch, BatchId, Committed, Effect, IoId, IoOutcome, Note, Outcome, RequestId, Volume,
};
