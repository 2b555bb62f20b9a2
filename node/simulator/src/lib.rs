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
//! What is promised, and checked after every step that could break it:
//! - a host id has at most one holder, where a machine counts as a holder
//!   until its users have stopped, or its watchdog has fired;
//! - generations of holders rise; on disk they never decrease;
//! - nobody writes another's sector;
//! - a holder is never taken for dead;
//! - when faults stop, every host id is held before long.
//!
//! The fault model is the documentation of [`disk`], the watchdog's that of
//! [`watchdog`]. `cargo simulate --help` tells how to run seeds by hand.
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
pub mod swarm;
pub mod trace;
pub mod watchdog;
mod world;

pub use run::{Report, run};
pub use world::World;
