//! Words shared with people and programs: the configuration document, the
//! control-socket requests and replies, the status snapshot, wdmd's messages.
//!
//! What it is not: no sockets, no files, no decisions. Types, their text forms
//! and the checks that need nothing but the text itself.
#![forbid(unsafe_code)]

pub mod config;
pub mod disk;
pub mod lease;
pub mod request;
pub mod status;
pub mod storage;
pub mod wdmd;

/// Where the supervisor listens for `nodectl` (mode 0600, root only).
pub const CONTROL_SOCKET: &str = "/run/holdfast/control.sock";
/// Where `leased` answers status requests (mode 0600, root only).
pub const LEASED_SOCKET: &str = "/run/holdfast/leased.sock";
/// Directory of the lease daemon's socket `sanlock.sock`, fixed by the original
/// unless SANLOCK_RUN_DIR names another (sanlock specification §6.1).
pub const SANLOCK_RUN_DIR: &str = "/run/sanlock";
/// wdmd's socket: path and message format are fixed by the original
/// (sanlock specification §6.9).
pub const WDMD_SOCKET: &str = "/run/wdmd/wdmd.sock";
/// File-system or partition label of the state volume.
pub const STATE_LABEL: &str = "holdfast-state";
/// File-system label of a volume that carries a configuration document.
pub const CONFIG_LABEL: &str = "HOLDFAST";
/// Name of the configuration document on such volumes.
pub const CONFIG_FILE: &str = "holdfast.toml";
