//! `leased run`: the daemon as part of a node.

use std::process::ExitCode;

use crate::daemon::{self, DaemonError, Node};
use crate::options::Options;

/// Runs until SIGTERM or SIGINT. Exit status: 0 released, or never held;
/// 1 lost, and the watchdog will see to it.
///
/// # Errors
/// See [`DaemonError`]; nothing is held then.
pub fn run(options: Options) -> Result<ExitCode, DaemonError> {
    let usual = daemon::Options::default();
    daemon::run(daemon::Options {
        run_dir: options.sanlock_dir.clone().unwrap_or(usual.run_dir),
        // The node runs it as root, and nobody else has a shell there.
        privileged: false,
        user: Some("root".to_owned()),
        group: Some("root".to_owned()),
        host_name: Some(options.host_name),
        io_timeout_s: options.io_timeout_s,
        fire_timeout_s: options.fire_timeout_s,
        use_watchdog: options.watchdog_socket.is_some(),
        watchdog_socket: options.watchdog_socket.unwrap_or(usual.watchdog_socket),
        high_priority: options.realtime,
        mlock_level: if options.realtime { 2 } else { 0 },
        node: Some(Node {
            lockspaces: options.lockspaces,
            status_socket: options.socket,
            lease_socket: options.sanlock_dir.is_some(),
        }),
        ..daemon::Options::default()
    })
}
