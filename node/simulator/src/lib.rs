//! Many machines, one faulty disk, bad clocks, freezes, crashes and
//! watchdogs, all from one seed, around the very cores the daemon runs.
//!
//! What it is: a world in which only the cores of `node/protocol` are real.
//! [`run`] draws a mix of machines and faults from a seed ([`swarm`]), lets
//! them go at it, has every step judged ([`judge`]), then stops the faults and
//! requires progress. What it is not: no thread, no clock, no file is
//! involved in a run; the same seed gives the same run, bit for bit.
//!
//! ```text
//!   seed ──▶ swarm ──▶ world ── events in time order ──▶ one machine acts
//!                        │                                    │ cores: inputs, effects
//!                        │                                    ▼
//!      judge ◀── every write, every claim ◀──────── flights ──▶ disk
//!        │                                          (faults happen here)
//!        └──▶ violation ──▶ the seed again, with trace
//! ```
//!
//! What is promised, and checked at every step that could break it:
//! - a host id has at most one holder, where a machine counts as a holder
//!   until its users have stopped, or its watchdog has fired;
//! - a resource has one exclusive holder, or only shared ones; a living shared
//!   holder's mark stays; only an owner writes a lease's value, and the next
//!   one reads it;
//! - a version has one owner and is granted once; versions and generations
//!   never decrease; a ballot number stands for one value;
//! - nobody writes another's sector, nor writes where an earlier write of its
//!   own may still land;
//! - a holder is never taken for dead;
//! - no core ever finds its own invariants broken;
//! - when faults stop, every host id is held, and every holder of one gets
//!   every resource, before long; when everybody has left, every record can be
//!   read.
//!
//! The fault model is the documentation of [`disk`], the watchdog's that of
//! [`watchdog`]. What the cores are driven by is what `leased` does around
//! them, in few lines (`world/daemon.rs`, `world/operations.rs`).
//!
//! Beside the random schedules (`tests/schedules.rs`) there are exhaustive
//! walks through small models of the same cores (`tests/model_delta.rs`,
//! `tests/model_paxos`), and the proof that the checkers see: copies of the
//! cores, each broken in one way, of which every one must be caught
//! (`tests/mutations.rs`).
//!
//! [`storage`] is a second world, of mailboxes and their SPM, in the same
//! manner.
//!
//! `cargo simulate --help` tells how to run seeds by hand.
#![forbid(unsafe_code)]

pub mod batch;
pub mod clock;
pub mod disk;
pub mod flight;
pub mod judge;
pub mod kept;
pub mod machine;
pub mod random;
mod run;
pub mod seen;
pub mod storage;
pub mod swarm;
pub mod trace;
pub mod watchdog;
mod world;

pub use run::{Report, run};
pub use world::World;
