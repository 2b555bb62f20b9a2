//! The one owner of reaping: every ended child is taken here, and only here.

use std::io;

use linux::process::{self, Exit};

/// Most processes taken in one go, so that a storm of dying strangers cannot
/// hold the loop; the rest comes with the next event.
const BATCH_MAX: usize = 256;

/// Who ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Process ids, children of the table and strangers alike, and how they ended.
    pub ended: Vec<(u32, Exit)>,
    /// There may be more.
    pub more: bool,
}

/// Takes every process that has ended. Looks before it takes, so that the
/// process id is known to be somebody's until that somebody is told.
///
/// # Errors
/// The kernel refuses, which it has no reason to.
pub fn reap() -> io::Result<Reaped> {
    let mut reaped = Reaped::default();
    for _ in 0..BATCH_MAX {
        let Some(pid) = process::peek_exited()? else {
            return Ok(reaped);
        };
        let Some(exit) = process::reap(pid)? else {
            return Ok(reaped);
        };
        reaped.ended.push((pid, exit));
    }
    reaped.more = true;
    Ok(reaped)
}
