//! The kernel's side: the only `unsafe` code of Holdfast.
//!
//! What it is: thin, typed calls for block devices, mounts, modules, links,
//! processes, the watchdog and the clock. What it is not: no protocol state,
//! no decisions.

pub mod blkdev;
pub mod cgroup;
pub mod clock;
pub mod disk;
pub mod dm;
pub mod error;
pub mod identity;
pub mod kmsg;
pub mod loop_device;
pub mod memory;
pub mod module;
pub mod mount;
pub mod net;
pub mod power;
pub mod probe;
pub mod process;
pub mod realtime;
pub mod ring;
pub mod scsi;
pub mod system;
pub mod uevent;
pub mod watchdog;
pub mod zero;
