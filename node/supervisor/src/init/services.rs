//! What the loop starts by itself because it depends on the loop's own state:
//! the watchdog, the lease daemon behind it, consoles and sockets.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use linux::system;
use linux::watchdog::Watchdog;

use super::{Event, Init};
use crate::boot::sequence::Outcome;
use crate::boot::storage;
use crate::children::table;
use crate::{console, control_socket, watchdog};

/// Seconds, where nothing says otherwise: the original's default.
const IO_TIMEOUT_S: u32 = 10;
/// Marks the debug image.
const DEBUG_MARK: &str = "/usr/lib/holdfast/debug";

impl Init {
    /// Looks for the device the configuration names, or for any.
    pub(super) fn look_for_watchdog(&self, wanted: Option<PathBuf>) {
        let (context, events) = (self.context.clone(), self.context.events.clone());
        let search = async move {
            let configured = wanted.is_some();
            let found = watchdog::search::find(&context, wanted).await;
            events
                .send(Event::WatchdogFound { configured, found })
                .await
                .ok();
        };
        self.context.executor.spawn(search).detach();
    }

    /// A search ended. Any device will do until the configured one is found, and
    /// never takes its place.
    pub(super) fn watchdog_found(
        &mut self,
        now: u64,
        configured: bool,
        found: Result<PathBuf, String>,
    ) {
        if self.down.is_some() {
            return;
        }
        if configured {
            self.awaits_watchdog = false;
        } else if self.guard.path().is_some() {
            return;
        }
        let armed = found.and_then(|path| {
            if self.guard.path() == Some(&path) {
                return Ok(());
            }
            let device = Watchdog::open(&path)
                .map_err(|error| format!("watchdog {}: {error}", path.display()))?;
            if device.never_disarms() {
                tracing::info!("watchdog {}: its driver never disarms it", path.display());
            }
            self.guard.arm(now, Box::new(device))
        });
        let outcome = match armed {
            Ok(()) => Outcome::Done,
            Err(reason) => {
                tracing::error!("{reason}");
                if configured {
                    self.guard.distrust(reason.clone());
                } else {
                    self.guard.absent(reason.clone());
                }
                Outcome::Failed(reason)
            }
        };
        self.boot.ended(now, "watchdog", outcome);
        self.start_leased(now);
    }

    /// Starts the lease daemon if it is wanted and allowed; called again when a
    /// watchdog turns up late.
    pub(super) fn start_leased(&mut self, now: u64) {
        use control::status::PhaseState::{Failed, Running};
        if !matches!(self.boot.state("leased"), Some(Running | Failed))
            || self.children.has("leased")
            || self.awaits_watchdog
            || self.down.is_some()
        {
            return;
        }
        let Some(config) = self.config() else { return };
        if config.lockspace.is_none() && config.storage.is_none() {
            self.boot.ended(
                now,
                "leased",
                Outcome::Skipped("the configuration has neither lockspace nor storage".to_owned()),
            );
            return;
        }
        let trusted = self.guard.trusted();
        if let Err(reason) = may_lease(trusted, config.watchdog.required, self.guard.fault()) {
            self.boot.ended(now, "leased", Outcome::Failed(reason));
            return;
        }
        let Some(identity) = self.context.facts.borrow().identity else {
            self.boot.ended(
                now,
                "leased",
                Outcome::Failed("the machine has no identity to write into a lease".to_owned()),
            );
            return;
        };
        let host_name = identity.lease_name(&config, &system::host_name());
        let own = config.lockspace.as_ref().map(|space| space.io_timeout_s);
        let domains = config.storage.as_ref().map(|storage| storage.io_timeout_s);
        let settings = table::LeasedSettings {
            host_name,
            watchdog: trusted,
            fire_timeout_s: config.watchdog.fire_timeout_s,
            io_timeout_s: own.or(domains).unwrap_or(IO_TIMEOUT_S),
        };
        self.children
            .start(now, table::leased(config.lockspace.as_ref(), &settings));
    }

    /// Starts one of the programs of shared storage, if the configuration has any.
    pub(super) fn start_storage(&mut self, now: u64, name: &'static str) {
        let Some(config) = self.config() else { return };
        if config.storage.is_none() {
            let reason = "the configuration has no storage".to_owned();
            self.boot.ended(now, name, Outcome::Skipped(reason));
            return;
        }
        let child = match name {
            "iscsid" => table::iscsid(),
            "multipathd" => table::multipathd(),
            _ => {
                let identity = self.context.facts.borrow().identity;
                let Some(identity) = identity else {
                    let reason = "the machine has no identity to show to storage".to_owned();
                    self.boot.ended(now, name, Outcome::Failed(reason));
                    return;
                };
                let host_name = identity.lease_name(&config, &system::host_name());
                table::storaged(Path::new(storage::SETTINGS), &host_name)
            }
        };
        self.children.start(now, child);
    }

    pub(super) fn start_consoles(&mut self, now: u64) {
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let line = &self.context.command_line;
        let shell = console::debug_shell(Path::new(DEBUG_MARK).exists(), line);
        for device in console::consoles(&active, line, shell.as_deref()) {
            self.children.start(now, table::console(&device));
        }
        if let Some(device) = shell {
            self.children.start(now, table::shell(&device));
        }
    }

    pub(super) fn open_sockets(&self) -> io::Result<()> {
        let executor = self.context.executor.clone();
        let events = self.context.events.clone();
        let listener = control_socket::bind(Path::new(control::CONTROL_SOCKET))?;
        executor
            .spawn(control_socket::serve(
                executor.clone(),
                listener,
                events,
                |asked| Event::Asked(Box::new(asked)),
            ))
            .detach();
        let listener = watchdog::server::bind(Path::new(control::WDMD_SOCKET))?;
        let events = self.context.events.clone();
        // A full inbox wakes the loop just as well.
        let changed = Rc::new(move || {
            events.try_send(Event::WatchdogClient).ok();
        });
        executor
            .spawn(watchdog::server::serve(
                executor.clone(),
                listener,
                self.multiplexer.clone(),
                changed,
            ))
            .detach();
        Ok(())
    }
}

/// Whether leases may be held behind the watchdog as it is, or why not.
fn may_lease(trusted: bool, required: bool, fault: Option<&str>) -> Result<(), String> {
    if trusted || !required {
        return Ok(());
    }
    let fault = fault.unwrap_or("watchdog: none found yet");
    Err(format!(
        "leases are refused without a watchdog ({fault}); repair it, or set watchdog.required = false"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_need_a_trusted_watchdog_unless_the_configuration_says_otherwise() {
        assert_eq!(may_lease(true, true, None), Ok(()));
        assert_eq!(may_lease(false, false, Some("no watchdog")), Ok(()));
        let why = may_lease(false, true, Some("no watchdog: /dev/watchdog7 not found"));
        let why = why.unwrap_err();
        assert!(
            why.contains("(no watchdog: /dev/watchdog7 not found); repair it, or set"),
            "{why}"
        );
        assert!(
            may_lease(false, true, None).is_err(),
            "nor before one is found"
        );
        let default = control::config::parse("version = 1\n").unwrap();
        assert!(default.watchdog.required, "silence is no permission");
    }
}
