//! What the daemon remembers while the machine is up, so that a restart of it
//! alone changes nothing for those who use storage.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use control::storage::report::TaskReport;
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::connections::BY_CONFIGURATION;
use super::pool::Wanted;
use super::watches::{Kept, Watched};
use crate::connect::plan::Document;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Remembered {
    /// Those that may be there, and who wants them.
    connections: Document,
    wanted: Option<Wanted>,
    /// The manager's role was asked for.
    spm: bool,
    tasks: Vec<TaskReport>,
    watches: Vec<Kept>,
}

impl Daemon {
    /// Writes down what is to survive. A failure is logged: work goes on.
    pub(crate) fn remember(&self) {
        let remembered = Remembered {
            connections: self.connections.kept().document(),
            wanted: self.wanted.borrow().clone(),
            spm: self.role.borrow().asked,
            tasks: self.tasks.reports(),
            watches: self
                .watches
                .borrow()
                .values()
                .map(Watched::kept)
                .chain(self.unwatched.borrow().iter().cloned())
                .collect(),
        };
        if let Err(error) = write(&self.options.state, &remembered) {
            tracing::warn!("{}: {error}", self.options.state.display());
        }
    }

    /// Takes up what an earlier daemon left.
    pub(crate) fn recall(self: &Rc<Self>) {
        let path = &self.options.state;
        let remembered: Remembered = match std::fs::read(path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(remembered) => remembered,
                Err(error) => {
                    tracing::warn!("{}: {error}: begun anew", path.display());
                    return;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!("{}: {error}", path.display());
                return;
            }
        };
        self.tasks.restore(remembered.tasks);
        // What the configuration wants now was kept before; what it wanted once is dropped.
        self.connections
            .kept_mut()
            .adopt(remembered.connections, |user| user != BY_CONFIGURATION);
        if self.wanted.borrow().is_none() {
            *self.wanted.borrow_mut() = remembered.wanted;
        }
        if let Some(wanted) = self.wanted.borrow().as_ref() {
            self.workers.set_host_id(wanted.host_id);
        }
        self.role.borrow_mut().asked = remembered.spm;
        self.unwatched.borrow_mut().extend(remembered.watches);
    }
}

/// For root alone, since connections have passwords, and in one step.
fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec(remembered)?)?;
    std::fs::rename(&new, path)
}
