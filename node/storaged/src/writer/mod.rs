//! The only process that changes the metadata of attached domains.
//!
//! ```text
//!  one manager of the pool (SPM)            a manager a domain (SDM)
//!    PoolAuthority                            Commits
//!      master's SDM, held all the time          the domain's SDM, from the first
//!      covers every domain of the pool          check until rest() or the end
//!           │                                        │
//!           └──────────── Held: one registered connection at the lease daemon,
//!                         inherited by every child that writes ───────────────┘
//!                                                  │
//!    Single: a domain's SDM for one change beside the role, or without it
//!      (pool create, attach, detach, upgrade, reconstruct, former masters)
//! ```
//!
//! Invariants:
//! - a check that succeeds was answered by the lease daemon at most [`FRESH`] ago,
//!   and the connection has not been hung up since;
//! - whoever cannot tell whether it holds the lease does not write;
//! - a release whose outcome is unknown ends the process, or, after a single
//!   change of which nothing runs any more, the connection: it closes, and the
//!   daemon frees the lease when the last child is gone too;
//! - the process is never outlived by what it started: children are tied to the
//!   thread that started them.
//!
//! Tested in `tests/writer.rs` with real lease daemons.

mod cluster;
mod commits;
mod desk;
mod held;
mod lock;
mod membership;
pub mod process;
mod recovery;
mod roles;
mod tracking;

pub use cluster::{Cluster, Owner};
pub use commits::{Commits, Single};
pub use held::{FRESH, Held, PoolAuthority};
pub(crate) use membership::listed;

pub use lock::{LockPlace, SDM};
