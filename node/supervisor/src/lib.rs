//! PID 1 of a Holdfast node.
//!
//! What it is: the process that turns a mounted root into a working node. It
//! runs the boot as a list of named phases, keeps a handful of children alive,
//! owns the watchdog device and serves wdmd's socket over it, answers `nodectl`,
//! and takes the machine down in order.
//!
//! What it is not: it holds no lease, touches no shared disk and waits for
//! nobody. Whatever may hang (a disk, journald, a URL, a module) runs in a
//! child or on a thread, with a deadline.
//!
//! ```text
//!   signals   uevents   power button   control socket   wdmd socket   timers
//!      └─────────┴───────────┴──────┬───────┴────────────────┴──────────┘
//!                                   ▼  one event at a time
//!                                 init ── pets the watchdog, from this loop only
//!        ┌──────────────┬───────────┼────────────────┬───────────────┐
//!   boot::sequence  children::policy  watchdog::multiplexer  net   journal
//!   (pure)          (pure)            (pure)                       (ring, queue, thread)
//! ```
//!
//! Invariants:
//! * the watchdog is petted by the loop that does everything else, so a loop that
//!   hangs stops petting (`tests-qemu` freezes and kills PID 1 and sees the reset);
//! * it is disarmed only at the very end of an ordered shutdown, and only when no
//!   expiry is registered any more (`watchdog::guard`);
//! * every child and stranger is reaped in one place (`children::reaper`);
//! * a bad configuration never stops the boot of console, journal and watchdog
//!   (`boot::phases`).
#![forbid(unsafe_code)]

pub mod boot;
pub mod children;
pub mod config_source;
pub mod console;
pub mod control_socket;
pub mod identity;
pub mod init;
pub mod journal;
pub mod leased;
pub mod net;
pub mod power_button;
pub mod shutdown;
mod socket;
pub mod time;
pub mod trim;
pub mod volume;
pub mod watchdog;
pub mod worker;
