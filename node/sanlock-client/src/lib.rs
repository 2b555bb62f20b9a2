//! A client of the lease daemon's socket, which is sanlock's: ours and the
//! original answer alike.
//!
//! What it is not: no thread, no retry of orders, no judgement about who may
//! take what. Every call blocks until the daemon answered or its deadline has
//! passed; a deadline that passed leaves the outcome unknown, never "failed".
//!
//! ```text
//!  Client ──── one connection a call ────▶ lockspaces, hosts, records on disk
//!  Registered ─ one connection, kept ────▶ acquire, release, inquire, values
//!       └─ its descriptor, inherited by children: the daemon takes the process
//!          for gone, and frees its leases, when the last copy is closed
//! ```
//!
//! Tested against both daemons in `tests/`.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod error;
mod events;
mod place;
mod registered;

pub use client::{Client, Joined, Owners};
pub use connection::Connection;
pub use error::Error;
pub use place::{lease, lockspace};
pub use registered::{Acquire, Registered};

pub use lease::code::Code;
pub use sanlock_wire::{
    Disk, DiskPath, EventMessage, Host, HostEvent, HostState, Lockspace, Resource,
};
