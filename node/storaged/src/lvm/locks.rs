//! Locks between the processes of this host.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::job::Result;
use crate::layout::Layout;

/// LVM commands that run at a time on this host; further ones wait.
const SLOTS: u32 = 10;

/// The right to run one LVM command. Ends with the process at the latest.
#[derive(Debug)]
pub(super) struct Slot {
    _file: File,
}

impl Slot {
    pub(super) fn take(layout: &Layout) -> Result<Self> {
        let path = |number: u32| layout.lvm.join(format!("lock/slot-{number}"));
        for number in 0..SLOTS {
            let file = open(&path(number))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(failed(&path(number), error.into())),
            }
        }
        // Waiters spread over the slots, so none waits behind all others.
        let mine = path(std::process::id() % SLOTS);
        let file = open(&mine)?;
        wait(&file, &mine)?;
        Ok(Self { _file: file })
    }
}

/// Keeps other changes of a volume group, by processes of this host, away.
#[derive(Debug)]
pub struct GroupLock {
    group: String,
    _file: File,
}

impl GroupLock {
    /// Waits for it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub(super) fn take(layout: &Layout, group: &str) -> Result<Self> {
        if group.is_empty() || group.contains('/') || group.starts_with('-') {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("volume group {group:?}: not a name"),
            ));
        }
        super::config::prepare(layout)?;
        let path: PathBuf = layout.lvm.join(format!("lock/change-{group}"));
        let file = open(&path)?;
        wait(&file, &path)?;
        Ok(Self {
            group: group.to_owned(),
            _file: file,
        })
    }

    /// The group's name.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }
}

fn open(path: &Path) -> Result<File> {
    let _own = crate::identity::own();
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| failed(path, error))
}

fn wait(file: &File, path: &Path) -> Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(path, error.into())),
        }
    }
}

fn failed(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("{}: {error}", path.display()))
}
