//! The storage world: hosts that want their volumes larger, the SPM that may
//! do it, and the mailboxes between them.
//!
//! What is real: the cores of `node/protocol/mailbox` ([`mailbox::Host`],
//! [`mailbox::Manager`], [`mailbox::role`]). What is a model: the `SDM` leases
//! (`lease.rs`: the timing of the real ones, which the lease world looks
//! after), the writer (a process in which the role's core and the SPM's side of
//! the mail live, and with which they die; what it was at is done by then or
//! never), single changes under a domain's own lease in that same process
//! (`single.rs`), what each step does, the metadata of a domain as one document, and hosts and
//! SPMs that follow the original's rules (`original.rs`).
//!
//! ```text
//!   seed ──▶ swarm ──▶ world ── events in time order ──▶ a core is called
//!                        │                                    │ effects
//!                        │          reads, writes ◀───────────┤
//!                        │          (faults: disk.rs)         ├──▶ commits ──▶ metadata
//!                        ▼                                    │
//!       violation ◀── judged at every answer, write, commit ◀─┘
//! ```
//!
//! What is promised, and checked at every step that could break it:
//! - a request is done only when its volume is that large in the metadata on
//!   the disk; no volume ever shrinks, or is gone;
//! - a domain has one writer at a time, and metadata changes only under the
//!   lease; nothing is begun once its loss is known; it is released last, and
//!   a role is free only when its lease is;
//! - an answer is written only after the commit it speaks of;
//! - a host writes only its own mailbox, with its checksum, and the event block;
//!   an SPM only the outbox;
//! - every request is answered once, to its caller, in time;
//! - no core finds its own invariants broken;
//! - when faults stop, every host of ours soon gets more, whoever the SPM is.
//!
//! `tests/model_role` walks through every interleaving of small pools.
//! `tests/storage.rs` runs thousands of schedules; `tests/mutations.rs` breaks
//! the cores in thirty ways, each of which must be caught; [`race`] compares
//! our timing with the original's. `storaged` runs the same cores in its writers.
//! Without a model here: what its steps do inside, and LVM.

pub mod batch;
mod commits;
mod disk;
mod io;
mod lease;
mod machine;
mod original;
pub mod race;
mod roles;
mod run;
pub mod seen;
mod single;
pub mod swarm;
mod trouble;
mod world;

pub use run::{Report, run};
