//! The mailbox's I/O: threads that do for the pure cores of `mailbox` what they
//! ask for, with direct reads and writes of the master's two mailbox volumes.
//!
//! ```text
//!  HostMail     thread "mail"      mailbox::Host      reads outbox, writes inbox
//!  ManagerMail  thread "manager"   mailbox::Manager   reads inbox, writes outbox
//!                  └─ a thread for each batch: one commit (the writer's)
//! ```
//!
//! A read or write that hangs keeps neither the thread nor callers: the core
//! gives it up in time, and what comes of it later is told with its old name.
//! Opening a volume may hang too, and has a thread of its own.
//!
//! Tested in `tests/mail.rs` between processes' worth of cores on real files.

mod answers;
mod driver;
mod host;
mod manager;
pub mod process;

pub use host::HostMail;
pub use manager::{Commit, Extended, ManagerMail};

use std::path::PathBuf;

use crate::domain::{Domain, Special};

/// Where a master's mailboxes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailPlace {
    /// Hosts write, the manager reads.
    pub inbox: PathBuf,
    /// The manager writes, hosts read.
    pub outbox: PathBuf,
}

impl MailPlace {
    /// Of a connected master.
    #[must_use]
    pub fn of(master: &dyn Domain) -> Self {
        Self {
            inbox: master.special(Special::Inbox),
            outbox: master.special(Special::Outbox),
        }
    }
}
