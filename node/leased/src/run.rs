//! `leased run`: one configured lockspace, kept until SIGTERM.
//!
//! | thread  | priority | waits for                                       |
//! |---------|----------|-------------------------------------------------|
//! | main    | ordinary | signals, status clients, the keeper's events    |
//! | keeper  | real-time| deadlines, completions, main                    |
//! | join    | ordinary | while joining: device, the watchdog's answers   |
//! | buffers | ordinary | the keeper, when it is short of buffers         |
//! | journal | ordinary | whoever reads the log                           |

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::ExitCode;

use control::status::LockspaceReport;
use lease::code::Code;
use lease::hosts::{Hosts, Names, Viewpoint};
use lease::timings;
use linux::process::{Notice, Signals};
use linux::ring::Backend;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::keeper::{Event, Join, Keeper, RequestSize, Settings, SpaceId, now};
use crate::options::Options;
use crate::report::report;
use crate::status_socket::StatusSocket;

/// The only lockspace there is.
const SPACE: SpaceId = SpaceId(1);

/// Why the daemon did not start or had to give up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The status socket.
    #[error("status socket {0}: {1}; choose another with --socket")]
    Socket(String, io::Error),
    /// Something the kernel refused.
    #[error("{0}: {1}")]
    Kernel(&'static str, io::Error),
}

/// Runs until SIGTERM or SIGINT. Exit status: 0 released, or never held;
/// 1 lost, and the watchdog will see to it.
///
/// # Errors
/// See [`RunError`]; nothing is held then.
pub fn run(options: Options) -> Result<ExitCode, RunError> {
    // Before the first thread: all of them must leave the signals alone.
    let signals = Signals::open().map_err(|error| RunError::Kernel("signals", error))?;
    let status = StatusSocket::bind(&options.socket)
        .map_err(|error| RunError::Socket(options.socket.display().to_string(), error))?;
    if options.realtime
        && let Err(error) = linux::realtime::lock_memory()
    {
        tracing::warn!(
            "memory is not locked, a renewal may wait for the swap device: {error}; run as root or give --no-realtime"
        );
    }
    let mut keeper = Keeper::start(Settings {
        realtime: options.realtime,
        backend: Backend::Auto,
        request_size: RequestSize::Kib(1024),
    })
    .map_err(|error| RunError::Kernel("keeper", error))?;
    let join = Join {
        id: SPACE,
        name: options.lockspace,
        host_id: options.host_id,
        host_name: options.host_name,
        path: options.path,
        offset: options.offset,
        io_timeout_s: options.io_timeout_s,
        fire_timeout_s: options.fire_timeout_s,
        watchdog: options.watchdog_socket,
        persistent: true,
    };
    keeper.join(join.clone());
    notify_ready();
    tracing::info!(
        lockspace = join.name.to_string(),
        host_id = join.host_id.get(),
        "joining {}",
        join.path.display()
    );
    let code = Running {
        join,
        keeper: &mut keeper,
        hosts: None,
        status,
        signals,
    }
    .serve()
    .map_err(|error| RunError::Kernel("poll", error))?;
    // What is left to say in the log is said.
    keeper.end();
    Ok(if code == Code::OK {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Running<'a> {
    join: Join,
    keeper: &'a mut Keeper,
    hosts: Option<Hosts>,
    status: StatusSocket,
    signals: Signals,
}

impl Running<'_> {
    /// Serves until the lockspace is left; tells how.
    fn serve(mut self) -> io::Result<Code> {
        loop {
            while let Ok(notice) = self.signals.receive() {
                if matches!(notice, Notice::Terminate | Notice::CtrlAltDel) {
                    // Status is answered all through the release.
                    self.keeper.leave(SPACE);
                }
            }
            while let Some((_, event)) = self.keeper.next_event() {
                if let Some(code) = self.take(event) {
                    return Ok(code);
                }
            }
            let (join, keeper, hosts) = (&self.join, &*self.keeper, self.hosts.as_ref());
            let report = || -> Vec<LockspaceReport> {
                let space = keeper.status(SPACE);
                let now = now().boottime;
                let report = |space| report(join, &space, hosts, now);
                space.map(report).into_iter().collect()
            };
            self.status.serve(&report);
            self.wait()?;
        }
    }

    fn take(&mut self, event: Event) -> Option<Code> {
        match event {
            Event::Area {
                geometry,
                part,
                buffer,
                asked,
                read_at,
            } => {
                let view = Viewpoint {
                    lockspace: self.join.name,
                    geometry,
                    host_id: self.join.host_id,
                    io_timeout_s: self.join.io_timeout_s,
                    fire_timeout_s: self.join.fire_timeout_s,
                    bitmap_s: timings::failing_s(self.join.io_timeout_s),
                };
                let hosts = self
                    .hosts
                    .get_or_insert_with(|| Hosts::new(view, &Names::default()));
                hosts.observe(asked, read_at.boottime, part, &buffer);
                self.keeper.recycle(buffer);
                None
            }
            Event::Left { code } | Event::JoinFailed { code, .. } => Some(code),
            // The keeper logs these, and the status shows them.
            Event::Joined { .. }
            | Event::Renewed(_)
            | Event::RenewalFailed { .. }
            | Event::Failing
            | Event::Lost { .. } => None,
        }
    }

    fn wait(&self) -> io::Result<()> {
        let timeout = self.status.deadline().map(|at| {
            let left_ms = at.ms_since(now().boottime) + 1;
            Timespec {
                tv_sec: i64::try_from(left_ms / 1000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(left_ms % 1000 * 1_000_000).unwrap_or(0),
            }
        });
        let mut fds = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&*self.keeper, PollFlags::IN),
            PollFd::new(&self.status, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells the supervisor, as systemd's protocol has it, that we are up:
/// serving status, not yet holding anything.
fn notify_ready() {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send_ready(&name) {
        tracing::warn!("NOTIFY_SOCKET {}: {error}", name.display());
    }
}

fn send_ready(name: &OsString) -> io::Result<()> {
    let address = match name.as_bytes().split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}
