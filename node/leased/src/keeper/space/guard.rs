//! A lockspace's registration with the watchdog.

use std::sync::Arc;

use lease::Input;

use super::{EIO, Space};
use crate::keeper::journal::What;
use crate::keeper::now;
use crate::keeper::opening::Task;
use crate::keeper::worker::Edges;

impl Space {
    pub(super) fn register(&mut self, renewal_s: u64, expire_s: u64) {
        let handed = match (&self.watchdog, &self.tasks) {
            (Some(watchdog), Some(tasks)) if !self.opening && !self.registering => {
                let watchdog = Arc::clone(watchdog);
                let task = Task::Register {
                    watchdog,
                    renewal_s,
                    expire_s,
                };
                tasks.try_send(task).is_ok()
            }
            _ => false,
        };
        if handed {
            self.registering = true;
        } else {
            self.lease.handle(now(), Input::WatchdogRegistered(false));
        }
    }

    /// Sends the latest expiry, if it has not been sent.
    pub(super) fn resend(&mut self, edges: &mut Edges) {
        let (Some((renewal_s, expire_s)), Some(watchdog)) = (self.unsent, &self.watchdog) else {
            return;
        };
        match watchdog.update(renewal_s, expire_s) {
            Ok(()) => self.unsent = None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.unsent = None;
                let error = error.raw_os_error().unwrap_or(EIO);
                edges
                    .journal
                    .tell(&self.join, What::WatchdogUnreachable(error));
                self.lease.handle(now(), Input::WatchdogGone);
            }
        }
    }

    /// The orderly end of a registration; the connection goes with it.
    pub(super) fn clear_watchdog(&mut self, edges: &mut Edges) {
        self.unsent = None;
        self.uncleared = false;
        if let Some(watchdog) = &self.watchdog
            && let Err(error) = watchdog.clear()
        {
            if error.kind() == std::io::ErrorKind::WouldBlock {
                self.uncleared = true;
                return;
            }
            let error = error.raw_os_error().unwrap_or(EIO);
            edges
                .journal
                .tell(&self.join, What::WatchdogUnreachable(error));
        }
    }
}
