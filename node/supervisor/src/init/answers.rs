//! What `nodectl` is told.

use control::config::Config;
use control::request::{Reply, Request};
use control::status::{
    ChildReport, LockspaceReport, LockspaceState, NetworkReport, Snapshot, WatchdogReport,
};
use linux::power::End;
use linux::system;

use super::Init;
use crate::children::resident_kib;
use crate::control_socket::Asked;

impl Init {
    pub(super) fn answer(&mut self, now: u64, asked: Asked) {
        if let Some(answer) = asked.lockspace {
            self.remember_lockspace(answer);
        }
        let reply = match asked.request {
            Request::Status => Reply::Status(Box::new(self.snapshot(now))),
            Request::Boot => Reply::Boot {
                phases: self.boot.report(now),
            },
            Request::Log { lines } => Reply::Log {
                lines: self
                    .context
                    .logger
                    .last(usize::try_from(lines).unwrap_or(usize::MAX)),
            },
            Request::NetApply { toml } => self.apply_network(&toml),
            Request::Shutdown => self.ordered(
                now,
                End::PowerOff,
                "shutting down: leases are released, then the power goes off",
            ),
            Request::Reboot => {
                self.ordered(now, End::Reboot, "rebooting: leases are released first")
            }
        };
        // The client may be gone.
        asked.reply.try_send(reply).ok();
    }

    fn ordered(&mut self, now: u64, end: End, message: &str) -> Reply {
        let message = match &self.down {
            None => message.to_owned(),
            Some((other, _)) if *other == end => "it is under way already".to_owned(),
            Some((other, _)) => {
                return Reply::Error {
                    message: format!(
                        "a shutdown that ends in {} is under way already; wait for it",
                        match other {
                            End::Reboot => "a reboot",
                            End::PowerOff | End::Halt => "power off",
                        }
                    ),
                };
            }
        };
        self.go_down(now, end);
        Reply::Done { message }
    }

    fn apply_network(&self, toml: &str) -> Reply {
        let error = |message: String| Reply::Error { message };
        match control::config::parse(toml) {
            Err(mistakes) => {
                let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                error(lines.join("\n"))
            }
            Ok(Config { network: None, .. }) => {
                error("the document has no network section; add one".to_owned())
            }
            Ok(Config {
                network: Some(network),
                ..
            }) => match self.context.apply_network(network) {
                Ok(()) => Reply::Done {
                    message: "applying; watch it with nodectl net".to_owned(),
                },
                Err(cause) => error(format!("network: {cause}; try again")),
            },
        }
    }

    /// Keeps the last thing the lease daemon said, and says so when it is silent.
    fn remember_lockspace(&mut self, answer: Result<Option<LockspaceReport>, String>) {
        match answer {
            Ok(report) => self.lockspace = report,
            Err(error) if self.children.has("leased") => {
                let report = self.lockspace.get_or_insert_default();
                report.reason = Some(format!(
                    "leased does not answer ({error}); what is shown may be old"
                ));
            }
            Err(_) => self.lockspace = None,
        }
    }

    fn snapshot(&self, now: u64) -> Snapshot {
        let facts = self.context.facts.borrow();
        let network = self
            .context
            .network()
            .map_or_else(unconfigured, |manager| manager.report());
        let watchdog = self.guard.report(now);
        let children = self.children.report(now);
        let impaired = self.boot.failures().next().is_some()
            || is_impaired(&children, &network, &watchdog, self.lockspace.as_ref());
        let phase = match (&self.down, self.boot.settled(), impaired) {
            (Some(_), _, _) => "shutting-down",
            (None, false, _) => "booting",
            (None, true, false) => "ready",
            (None, true, true) => "degraded",
        };
        Snapshot {
            version: self.version.clone(),
            hostname: system::host_name(),
            boot_id: self.boot_id.clone(),
            uptime_ms: now,
            phase: phase.to_owned(),
            resident_kib: resident_kib(std::process::id()),
            config: facts
                .loaded
                .as_ref()
                .map(|loaded| loaded.report.clone())
                .unwrap_or_default(),
            boot: self.boot.report(now),
            children,
            network,
            watchdog,
            lockspace: self.lockspace.clone(),
        }
    }
}

/// Whether something that once worked no longer does. A lockspace not joined yet
/// is no impairment: its device may be initialised later.
fn is_impaired(
    children: &[ChildReport],
    network: &NetworkReport,
    watchdog: &WatchdogReport,
    lockspace: Option<&LockspaceReport>,
) -> bool {
    // A terminal nobody has plugged in keeps its console from starting.
    let on_terminal = |name: &str| name.starts_with("console-") || name.starts_with("shell-");
    let dying = children
        .iter()
        .any(|child| child.state == "backing-off" && !on_terminal(&child.name));
    let network = ["failed", "restored", "gateway-unreachable"].contains(&network.state.as_str());
    let lease = lockspace.is_some_and(|report| {
        matches!(report.state, LockspaceState::Failing | LockspaceState::Lost)
    });
    dying || network || lease || watchdog.state == "withheld"
}

fn unconfigured() -> NetworkReport {
    NetworkReport {
        state: "unconfigured".to_owned(),
        ..NetworkReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_lost_something_is_degraded_and_a_console_without_terminal_is_not() {
        let child = |name: &str, state: &str| ChildReport {
            name: name.to_owned(),
            state: state.to_owned(),
            ..ChildReport::default()
        };
        let network = |state: &str| NetworkReport {
            state: state.to_owned(),
            ..NetworkReport::default()
        };
        let watchdog = |state: &str| WatchdogReport {
            state: state.to_owned(),
            ..WatchdogReport::default()
        };
        let lockspace = |state| LockspaceReport {
            state,
            ..LockspaceReport::default()
        };
        let well = [
            child("leased", "ready"),
            child("console-ttyS9", "backing-off"),
        ];
        let (up, armed) = (network("ready"), watchdog("armed"));
        let held = lockspace(LockspaceState::Held);
        assert!(!is_impaired(&well, &up, &armed, Some(&held)));
        assert!(!is_impaired(&well, &up, &watchdog("absent"), None));
        assert!(is_impaired(
            &[child("journald", "backing-off")],
            &up,
            &armed,
            None
        ));
        for state in ["failed", "restored", "gateway-unreachable"] {
            assert!(is_impaired(&well, &network(state), &armed, None), "{state}");
        }
        assert!(is_impaired(&well, &up, &watchdog("withheld"), None));
        for state in [LockspaceState::Failing, LockspaceState::Lost] {
            assert!(is_impaired(&well, &up, &armed, Some(&lockspace(state))));
        }
    }
}
