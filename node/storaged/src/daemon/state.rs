//! What the daemon remembers while the machine is up, so that a restart of it
//! alone changes nothing for those who use storage.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use control::storage::Connection;
use control::storage::report::TaskReport;
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::connections::BY_REQUEST;
use super::pool::Wanted;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Remembered {
    /// Asked for by requests.
    connections: Vec<Connection>,
    wanted: Option<Wanted>,
    /// The manager's role was asked for.
    spm: bool,
    tasks: Vec<TaskReport>,
}

impl Daemon {
    /// Writes down what is to survive. A failure is logged: work goes on.
    pub(crate) fn remember(&self) {
        let connections = self.connections.borrow();
        let remembered = Remembered {
            connections: connections
                .values()
                .filter(|kept| kept.users.contains(BY_REQUEST))
                .map(|kept| kept.connection.clone())
                .collect(),
            wanted: self.wanted.borrow().clone(),
            spm: self.role.borrow().asked,
            tasks: self.tasks.reports(),
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
        for connection in &remembered.connections {
            if let Err(failure) = self.keep(connection, BY_REQUEST) {
                tracing::warn!("{}: {failure}", connection.id());
            }
        }
        if self.wanted.borrow().is_none() {
            *self.wanted.borrow_mut() = remembered.wanted;
        }
        self.role.borrow_mut().asked = remembered.spm;
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
