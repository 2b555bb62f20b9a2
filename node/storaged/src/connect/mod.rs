//! Connections to storage: iSCSI sessions, multipath maps, mounted file systems,
//! and the LUNs of this host.
//!
//! Everything here but [`plan`] blocks, and runs in worker processes. [`plan`]
//! is pure: it decides which connection is made, looked after or dropped, and
//! runs in the daemon.
//!
//! ```text
//!   wanted by configuration, requests, domains ──▶ plan::Keeper ──▶ actions
//!        ▲ outcomes                                                    │
//!        └───────────── connect(), check(), disconnect() ◀─────────────┘ one worker per connection
//! ```

use std::path::{Path, PathBuf};

use control::storage::connection::Connection;
use control::storage::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::job::{Context, Result};

mod file;
pub mod filesystem;
pub mod iscsi;
pub mod luns;
pub mod mount_point;
pub mod multipath;
pub mod nfs;
pub mod plan;
pub mod rescan;
mod signature;
mod transport;

pub use luns::luns;
pub use rescan::rescan;
pub use transport::is_iscsi;

/// Where connections meet the host. [`Places::default`] is a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Mount points: `/rhev/data-center/mnt`.
    pub mounts: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// Data base of udev: `/run/udev/data`.
    pub udev: PathBuf,
    /// Data base of open-iscsi (`nodes`, `send_targets`, `ifaces` below it).
    pub iscsi_db: PathBuf,
    /// `initiatorname.iscsi`.
    pub initiator_name: PathBuf,
    /// `multipath.conf`.
    pub multipath_conf: PathBuf,
    /// Directory of further multipath configuration and of its own files.
    pub multipath_dir: PathBuf,
    /// What storaged remembers while the machine is up.
    pub state: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            mounts: "/rhev/data-center/mnt".into(),
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            udev: "/run/udev/data".into(),
            iscsi_db: "/var/lib/iscsi".into(),
            initiator_name: "/etc/iscsi/initiatorname.iscsi".into(),
            multipath_conf: "/etc/multipath.conf".into(),
            multipath_dir: "/etc/multipath".into(),
            state: "/run/holdfast/connections".into(),
        }
    }
}

impl Places {
    /// A node's places with everything that is written below `folder`.
    #[must_use]
    pub fn under(folder: &Path) -> Self {
        Self {
            mounts: folder.join("mnt"),
            iscsi_db: folder.join("iscsi"),
            initiator_name: folder.join("initiatorname.iscsi"),
            multipath_conf: folder.join("multipath.conf"),
            multipath_dir: folder.join("multipath"),
            state: folder.join("connections"),
            ..Self::default()
        }
    }
}

/// What a connection gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connected {
    /// Directory of a file system.
    pub path: Option<PathBuf>,
    /// What did not work although the connection does: a portal of several.
    pub warnings: Vec<String>,
    /// iSCSI sessions it has or wants: `target portal`.
    pub sessions: Vec<String>,
}

/// How a connection is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// All of it works.
    Connected,
    /// It works, with less than was asked for: why.
    Degraded(String),
    /// It has to be made again: why.
    Broken(String),
    /// It is not there at all.
    Absent,
}

/// Writes what the host's own storage programs have to know before they start:
/// `multipath.conf`, the local disks they keep off, the initiator's name.
///
/// # Errors
///
/// [`FailureKind::Io`] when a file cannot be written, [`FailureKind::BadRequest`]
/// for an initiator name that is none.
pub fn prepare(
    places: &Places,
    io_timeout_s: u32,
    initiator_name: Option<&str>,
    host_name: &str,
) -> Result<()> {
    file::folder(&places.state, 0o700)?;
    multipath::conf::write(places, io_timeout_s)?;
    multipath::conf::write_local_disks(places)?;
    iscsi::write_initiator_name(places, initiator_name, host_name)
}

/// Refuses a connection that can never be made, whatever this host has. Asks nobody.
///
/// # Errors
///
/// [`FailureKind::BadRequest`]: what is wrong with it.
pub fn check_request(places: &Places, connection: &Connection) -> Result<()> {
    match connection {
        Connection::Iscsi { .. } => iscsi::Wanted::of(connection).map(drop),
        Connection::Fc {} => Ok(()),
        _ => filesystem::check_request(places, connection),
    }
}

/// Makes a connection; one that is there already is adopted.
///
/// # Errors
///
/// Whatever kept all of it from working; what works in part is [`Connected`]
/// with warnings.
pub fn connect(context: &Context, places: &Places, connection: &Connection) -> Result<Connected> {
    let made = match connection {
        Connection::Iscsi { .. } => {
            let made = iscsi::connect(context, places, connection)?;
            multipath::settle(context, places)?;
            made
        }
        Connection::Fc {} => {
            rescan(context, places)?;
            Connected::default()
        }
        _ => filesystem::connect(context, places, connection)?,
    };
    Ok(made)
}

/// Drops a connection, except for what `still_wanted` ones share with it.
///
/// # Errors
///
/// [`FailureKind::InUse`] while a LUN or a file of it is in use on this host.
pub fn disconnect(
    context: &Context,
    places: &Places,
    connection: &Connection,
    still_wanted: &[Connection],
) -> Result<()> {
    match connection {
        Connection::Iscsi { .. } => iscsi::disconnect(context, places, connection, still_wanted),
        // Nothing was logged in to.
        Connection::Fc {} => Ok(()),
        _ => filesystem::disconnect(context, places, connection, still_wanted),
    }
}

/// Looks how a connection is, without changing anything.
///
/// # Errors
///
/// [`FailureKind::Failed`] when the kernel does not tell.
pub fn check(context: &Context, places: &Places, connection: &Connection) -> Result<Health> {
    context.go_on()?;
    match connection {
        Connection::Iscsi { .. } => iscsi::check(places, connection),
        Connection::Fc {} => Ok(Health::Connected),
        _ => filesystem::check(places, connection),
    }
}

/// Asks the portals of an iSCSI connection for their targets.
///
/// # Errors
///
/// [`FailureKind::BadRequest`] for another kind of connection; else as
/// [`iscsi::discover`].
pub fn discover(
    context: &Context,
    places: &Places,
    connection: &Connection,
) -> Result<Vec<control::storage::report::TargetReport>> {
    let wanted = iscsi::Wanted::of(connection)?;
    Ok(iscsi::discover(context, places, &wanted)?
        .into_iter()
        .map(|found| control::storage::report::TargetReport {
            portal: found.portal.to_string(),
            target: found.target,
        })
        .collect())
}

/// World-wide name of a SCSI disk. The one that multipath goes by is udev's; the
/// kernel's where udev has none.
fn wwid(
    places: &Places,
    block: &linux::blkdev::Block,
    identity: &linux::scsi::Identity,
) -> Option<String> {
    let known = places.udev.join(format!("b{}", block.number));
    let text = file::read(&known).ok().flatten().unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("E:ID_SERIAL="))
        .map(str::to_owned)
        .or_else(|| identity.wwid.clone())
}

/// A failure of the host's own files or interfaces.
fn io_failure(what: impl std::fmt::Display, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => FailureKind::NotFound,
        std::io::ErrorKind::PermissionDenied => FailureKind::Denied,
        std::io::ErrorKind::ResourceBusy => FailureKind::InUse,
        std::io::ErrorKind::TimedOut => FailureKind::Timeout,
        _ => FailureKind::Io,
    };
    Failure::new(kind, format!("{what}: {error}"))
}
