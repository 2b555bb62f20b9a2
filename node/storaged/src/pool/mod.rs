//! The storage pool: which domains belong together, who is their master, and
//! the manager's role.
//!
//! ```text
//!  master domain   ROLE=Master, MASTER_VERSION, POOL_*; SDM = the role of SPM
//!  other domains   ROLE=Regular, POOL_UUID
//!  /rhev/data-center/<pool>/<domain> → domain;  …/mastersd → master domain
//! ```
//!
//! Two ways of keeping the pool's list of domains exist: in the master's
//! `POOL_DOMAINS`, and in a manager's memory with nothing on disk. Where the
//! keys are on disk they are kept up to date; where they are not, none appear,
//! and every domain that names the pool is one of its domains.
//!
//! Invariants, tested in `tests/pool*.rs`:
//! - at every moment, a crash included, at least one connected domain says it is
//!   the master, and of several the one with the highest version is;
//! - a domain's metadata is changed under the pool's lease, and its membership
//!   under its own as well;
//! - the master's lease is given back only after its file system is unmounted.

mod create;
mod directory;
mod each;
pub mod files;
pub mod left;
mod life;
mod links;
mod look;
mod member;
mod migrate;
mod spm;

pub use create::{NewPool, create, reconstruct};
pub use directory::{Choice, Directory, check_master, choose_master};
pub(crate) use each::{BESIDE, each};
pub use life::OnLost;
pub(crate) use life::{Life, Settled, Stumble};
pub use links::{rebuild as rebuild_links, remove as remove_links};
pub use look::{Look, look};
pub use member::{attach, detach, force_detach, set_status, upgrade};
pub use migrate::{Migration, Step};
pub use spm::{Fatal, Manager, Start, StartError};
pub(crate) use spm::{metadata_of, not_there};
