//! Real-time priority and locked memory, for threads that renew leases.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};

/// Locks every page the process has and will have into memory, so that no
/// page fault ever waits for a disk. Call it before threads start, and give
/// them small stacks: a locked stack is resident as a whole.
///
/// # Errors
/// Without the privilege, or beyond the memory-lock limit.
pub fn lock_memory() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?)
}

/// Puts the calling thread under `SCHED_RR` at a priority 1–99; children
/// processes do not inherit it.
///
/// # Errors
/// Without the privilege, or for a priority out of range.
pub fn round_robin(priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    // SAFETY: `parameters` is a valid sched_param that outlives the call; 0
    // names the calling thread; the kernel reads and keeps no pointer.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_RR | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
