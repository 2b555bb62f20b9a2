//! As part of a node: lockspaces that are always joined, and the status
//! socket that the supervisor and `nodectl` ask.

use std::os::unix::ffi::OsStrExt;

use control::status::LockspaceReport;
use lease::Monotonic;
use sanlock_wire::{Disk, DiskPath, Lockspace};

use super::options::Configured;
use super::startup::DaemonError;
use super::{Daemon, now};
use crate::report::report;

impl Daemon {
    /// Joins the configured lockspaces.
    pub(super) fn join_configured(&mut self) -> Result<(), DaemonError> {
        let configured = self
            .options
            .node
            .as_ref()
            .map(|node| node.lockspaces.clone())
            .unwrap_or_default();
        for Configured {
            name,
            host_id,
            path,
            offset,
        } in configured
        {
            let disk = Disk {
                path: DiskPath::new(path.as_os_str().as_bytes()).map_err(|error| {
                    DaemonError::Path {
                        path: path.clone(),
                        error: std::io::Error::other(error),
                    }
                })?,
                offset,
            };
            let asked = Lockspace {
                name: *name.field(),
                host_id: u64::from(host_id.get()),
                flags: 0,
                disk,
            };
            tracing::info!(
                lockspace = name.to_string(),
                host_id = host_id.get(),
                "joining {}",
                path.display()
            );
            self.join(name, host_id, asked, self.options.io_timeout_s, true);
        }
        Ok(())
    }

    /// Answers status requests, when there are any.
    pub(super) fn serve_status(&mut self, at: Monotonic) {
        let Some(socket) = &self.status_socket else {
            return;
        };
        let due = socket.deadline().is_some_and(|due| due <= at);
        if !std::mem::take(&mut self.status_rings) && !due {
            return;
        }
        let statuses: Vec<_> = self
            .spaces
            .iter()
            .filter_map(|space| Some((space.id, self.keeper.status(space.id)?)))
            .collect();
        // What these rest on was told before: a host said to be busy is among
        // those that were seen.
        self.keeper_rings = true;
        self.pump_keeper(now());
        let (keeper, spaces) = (&self.keeper, &self.spaces);
        let status = || -> Vec<LockspaceReport> {
            let now = now().boottime;
            statuses
                .iter()
                .filter_map(|(id, status)| {
                    let join = keeper.joined(*id)?;
                    let hosts = spaces.get(*id).and_then(|space| space.hosts.as_ref());
                    Some(report(join, status, hosts, now))
                })
                .collect()
        };
        if let Some(socket) = &mut self.status_socket {
            socket.serve(&status);
        }
    }
}
