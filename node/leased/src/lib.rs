//! The lease daemon: joins one lockspace, keeps its delta lease renewed, and
//! lets the watchdog reset the machine when it cannot.
//!
//! What it is: the edges around the `lease` core — a device with its workers,
//! the watchdog's socket, the status socket — and [`area`], with which tools
//! make and inspect a lockspace. What it is not: no protocol decision is made
//! here.
//!
//! ```text
//!   nodectl, supervisor ──▶ status socket ─┐            ┌── disk-1, disk-2 ──▶ device
//!                                          ▼            ▼
//!                     main ◀─ snapshot ─ lease ── requests
//!                     journal ◀─ lines ─┘   │ └── updates that do not wait ──▶ wdmd's socket
//!                                           └── helper: opens, connects, registers
//! ```
//!
//! Invariants: the renewing thread never waits for anything but its deadline
//! and its signals; nothing is written before device, geometry, lockspace name
//! and watchdog have been found in order; an expiry once registered is taken
//! back only by an orderly release.
//! Tested in `tests/`, against the original tool.
#![forbid(unsafe_code)]

pub mod area;
pub mod cli;
pub mod daemon;
mod joining;
mod journal;
pub mod keeper;
mod member;
mod options;
mod report;
pub mod resources;
mod run;
mod server;
mod shared;
pub mod storage;
pub mod watchdog;

pub use joining::JoinError;
pub use options::{Command, Options, USAGE, UsageError};
pub use run::{RunError, run};
