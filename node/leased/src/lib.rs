//! The lease daemon: joins lockspaces, keeps their delta leases renewed, gives
//! out leases on resources, and lets the watchdog reset the machine when it
//! cannot.
//!
//! What it is: the edges around the `lease` cores. [`keeper`] is the real-time
//! thread with every delta lease; [`daemon`] answers sanlock's socket, with
//! [`resources`] as the pure part of it; [`run`] is the same daemon as part of a
//! node, with a configured lockspace and [`status_socket`]; [`cli`] is the
//! `sanlock` command line;
//! [`area`] and [`storage`] make and inspect what is on disk. What it is not: no
//! protocol decision is made here.
//!
//! ```text
//!   clients ──▶ sanlock.sock ──┐
//!   nodectl, supervisor ──▶ status ──┴▶ daemon ──commands─▶ keeper ──▶ ring ──▶ devices
//!                                       │ │ │   ◀─events──   │ └──▶ wdmd's sockets, without waiting
//!         leases: resources ◀───────────┘ │ │                └──▶ one thread a lockspace that is being joined
//!         their I/O: another ring ◀───────┘ └──▶ helper process: signals, killpath
//! ```
//!
//! Invariants: the renewing thread never waits for anything but its deadlines
//! and the kernel's completions; nothing is written before device, geometry,
//! lockspace name and watchdog have been found in order; an expiry once
//! registered is taken back only by an orderly end.
//! Tested in `tests/`, against the original tool.
#![forbid(unsafe_code)]

pub mod area;
pub mod cli;
pub mod daemon;
pub mod keeper;
mod options;
pub mod report;
pub mod resources;
mod run;
pub mod status_socket;
pub mod storage;
pub mod watchdog;

pub use keeper::JoinError;
pub use options::{Command, Options, USAGE, UsageError};
pub use run::run;
