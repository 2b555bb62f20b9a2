//! What the daemon is told at its start: the values of spec §8.1 and §9, with
//! their defaults.

use std::path::PathBuf;

use disk_format::{HostId, HostName, LockspaceName};

/// Seconds a client of a lost lockspace has to end by itself.
pub const KILL_GRACE_DEFAULT_S: u32 = 40;

/// What to set a block device's largest request to when a lockspace is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxSectors {
    /// Leave it alone.
    Ignore,
    /// As large as a lease area.
    #[default]
    Align,
    /// So many KiB: even, at most 8192.
    Kib(u32),
}

/// A lockspace that is joined for as long as the daemon runs: it keeps trying
/// whatever goes wrong, and what is lost stays registered with the watchdog.
#[derive(Debug, Clone)]
pub struct Configured {
    /// Its name.
    pub name: LockspaceName,
    /// Our host id in it.
    pub host_id: HostId,
    /// Device or file, at most 1023 bytes.
    pub path: PathBuf,
    /// Byte offset of the area.
    pub offset: u64,
}

/// What a daemon that is part of a node has besides.
#[derive(Debug, Clone)]
pub struct Node {
    /// Lockspaces that are always joined.
    pub lockspaces: Vec<Configured>,
    /// Where status requests are answered.
    pub status_socket: PathBuf,
    /// Whether sanlock's socket is served, too.
    pub lease_socket: bool,
}

/// Settings of the daemon, the same whether they come from the configuration
/// file, the command line or a default.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stay in the foreground and log to standard error, too (`-D`).
    pub foreground: bool,
    /// Directory of socket and pid file (`SANLOCK_RUN_DIR`).
    pub run_dir: PathBuf,
    /// Change user and limits (`SANLOCK_PRIVILEGED`).
    pub privileged: bool,
    /// User to run as; `None`: `sanlock` if user and group of that name exist,
    /// else root.
    pub user: Option<String>,
    /// Group of the socket; as for [`Self::user`].
    pub group: Option<String>,
    /// Unique name of this host; `None`: a random one for this run.
    pub host_name: Option<HostName>,
    /// Default T of a lockspace in seconds, 1–255.
    pub io_timeout_s: u8,
    /// The watchdog's fire timeout in seconds, equal on every host.
    pub fire_timeout_s: u32,
    /// Seconds between lost and SIGKILL, 0–60; `None`: by the fire timeout.
    pub kill_grace_s: Option<u32>,
    /// Whether lockspaces register with wdmd.
    pub use_watchdog: bool,
    /// wdmd's socket.
    pub watchdog_socket: PathBuf,
    /// Real-time priority.
    pub high_priority: bool,
    /// 0 no locked memory, 1 what there is at the start, 2 all that will be.
    pub mlock_level: u8,
    /// Retries of a shared acquire.
    pub sh_retries: u32,
    /// How long a renewal's read may take beyond T, seconds; `None`: T.
    pub renewal_read_extend_s: Option<u32>,
    /// Renewals remembered per lockspace.
    pub renewal_history_size: u32,
    /// Seconds a host's bit stays set (`-b`); `None`: 6 × T.
    pub bitmap_s: Option<u32>,
    /// Less logging of ordinary contention.
    pub quiet_fail: bool,
    /// Log every renewal.
    pub debug_renew: bool,
    /// Log clients.
    pub debug_clients: bool,
    /// Commands that are logged, a bit for each number; shown by `status`.
    pub debug_commands: u64,
    /// Asynchronous I/O; only shown: ours always is.
    pub use_aio: bool,
    /// Largest request of a block device.
    pub max_sectors: MaxSectors,
    /// Seconds an initialising write may take.
    pub write_init_io_timeout_s: u32,
    /// Only shown: nothing here waits in a pool of threads.
    pub max_worker_threads: u32,
    /// Syslog level up to which lines go to the log file; −1 none.
    pub logfile_priority: i8,
    /// Syslog level up to which lines go to the system's log; −1 none.
    pub syslog_priority: i8,
    /// Syslog level of the names of lockspaces and resources.
    pub names_log_priority: i8,
    /// UTC in the log file.
    pub logfile_use_utc: bool,
    /// The log file.
    pub log_file: PathBuf,
    /// Allow LVBs where sector 2002 lies in a neighbour's area.
    pub unsafe_lvb: bool,
    /// What was odd about the configuration; logged at the start.
    pub warnings: Vec<String>,
    /// As part of a node: a signal ends it in order, and the log is standard
    /// error alone.
    pub node: Option<Node>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            foreground: false,
            run_dir: PathBuf::from("/run/sanlock"),
            privileged: true,
            user: None,
            group: None,
            host_name: None,
            io_timeout_s: 10,
            fire_timeout_s: 60,
            kill_grace_s: None,
            use_watchdog: true,
            watchdog_socket: PathBuf::from(control::WDMD_SOCKET),
            high_priority: false,
            mlock_level: 1,
            sh_retries: 8,
            renewal_read_extend_s: None,
            renewal_history_size: 180,
            bitmap_s: None,
            quiet_fail: true,
            debug_renew: false,
            debug_clients: false,
            debug_commands: 0,
            use_aio: true,
            max_sectors: MaxSectors::Kib(1024),
            write_init_io_timeout_s: 60,
            max_worker_threads: 8,
            logfile_priority: 4,
            syslog_priority: 3,
            names_log_priority: 4,
            logfile_use_utc: false,
            log_file: PathBuf::from("/var/log/sanlock.log"),
            unsafe_lvb: false,
            warnings: Vec::new(),
            node: None,
        }
    }
}

impl Options {
    /// Whether sanlock's socket is served.
    #[must_use]
    pub fn serves_leases(&self) -> bool {
        self.node.as_ref().is_none_or(|node| node.lease_socket)
    }

    /// Whether it keeps nobody's terminal.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.foreground && self.node.is_none()
    }

    /// Seconds between lost and SIGKILL: as told, or what the fire timeout
    /// leaves room for.
    #[must_use]
    pub fn kill_grace_s(&self) -> u32 {
        self.kill_grace_s.unwrap_or(match self.fire_timeout_s {
            60.. => KILL_GRACE_DEFAULT_S,
            30..60 => 15,
            _ => 0,
        })
    }
}
