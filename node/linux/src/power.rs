//! Reboot, power off, Ctrl-Alt-Del.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::system::RebootCommand;

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Through the firmware, and up again.
    Reboot,
    /// Power off; a machine that cannot, halts.
    PowerOff,
    /// Stop, power on.
    Halt,
}

/// Ends the machine now. Nothing is stopped, unmounted or written back first;
/// call [`sync_bounded`] before if that matters.
///
/// Returns only when the kernel refused both ways to do it: the system call, and
/// for a reboot the magic key behind it.
///
/// # Errors
/// The kernel's answer to the system call: `EPERM` without `CAP_SYS_BOOT`.
pub fn end(end: End) -> io::Error {
    let command = match end {
        End::Reboot => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
        End::Halt => RebootCommand::Halt,
    };
    let answer = rustix::system::reboot(command);
    if end == End::Reboot
        && let Ok(mut trigger) = OpenOptions::new().write(true).open("/proc/sysrq-trigger")
    {
        // The last resort; when it fails as well, the first answer says why.
        drop(trigger.write_all(b"b"));
    }
    match answer {
        Err(errno) => errno.into(),
        Ok(()) => io::Error::other("the machine is still running"),
    }
}

/// What Ctrl-Alt-Del does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtrlAltDel {
    /// The kernel resets the machine at once.
    ResetsAtOnce,
    /// PID 1 gets `SIGINT`.
    SignalsInit,
}

/// Chooses what Ctrl-Alt-Del does.
///
/// # Errors
/// `EPERM` without `CAP_SYS_BOOT`, `EINVAL` in a PID namespace.
pub fn set_ctrl_alt_del(action: CtrlAltDel) -> io::Result<()> {
    let command = match action {
        CtrlAltDel::ResetsAtOnce => RebootCommand::CadOn,
        CtrlAltDel::SignalsInit => RebootCommand::CadOff,
    };
    rustix::system::reboot(command).map_err(io::Error::from)
}

/// How a bounded write-back ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// Everything dirty reached its device.
    Done,
    /// The limit passed first. The write-back goes on behind the caller's back
    /// and may or may not finish.
    TimedOut,
}

/// Writes everything dirty back, waiting no longer than `limit`: a dead disk
/// must not keep a machine from rebooting.
#[must_use]
pub fn sync_bounded(limit: Duration) -> Synced {
    finish_within(limit, rustix::fs::sync)
}

/// Runs `work` on a thread and waits for it up to `limit`; the thread is left
/// alone afterwards.
fn finish_within(limit: Duration, work: impl FnOnce() + Send + 'static) -> Synced {
    let (done, finished) = mpsc::channel();
    let started = thread::Builder::new()
        .name("sync".to_owned())
        .spawn(move || {
            work();
            // Nobody listens after the limit.
            done.send(()).ok();
        });
    match started {
        Ok(_handle) if finished.recv_timeout(limit).is_ok() => Synced::Done,
        // Without a thread there is no bounded way to write back.
        _ => Synced::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_finishes_on_a_healthy_machine() {
        assert_eq!(sync_bounded(Duration::from_secs(300)), Synced::Done);
    }

    #[test]
    fn stuck_sync_is_left_behind_at_the_limit() {
        let (release, stuck) = mpsc::channel::<()>();
        let outcome = finish_within(Duration::from_millis(20), move || {
            stuck.recv().ok();
        });
        assert_eq!(outcome, Synced::TimedOut);
        drop(release);
    }
}
