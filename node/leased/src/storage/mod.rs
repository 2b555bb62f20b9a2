//! Storage commands: making and reading lockspaces, resources and resource
//! indexes on a device, with the original's results.
//!
//! What it is: blocking functions on plain reads and writes, for the daemon's
//! short-lived threads and for tools without a daemon. What it is not: it
//! knows nothing of what is joined or held; who may do what is decided before.
//!
//! Invariants: nothing is written outside the area named; an area larger than
//! one write becomes valid only with its last write.
//! Tested in `tests/direct.rs` against the original, byte for byte.

pub(crate) mod device;
pub(crate) mod driver;
mod index_lock;
mod lockspace;
mod resource;
mod rindex;

use sanlock_wire::sizes_of;

pub use index_lock::Member;
pub use lockspace::{align, read_lockspace, write_lockspace};
pub use resource::{read_resource, read_resource_owners, write_resource};
pub use rindex::{
    create_resource, delete_resource, format_rindex, lookup_rindex, rebuild_rindex, update_rindex,
};

/// The sector size that the flags of a request state, whatever they say of the
/// align size.
pub(crate) fn sector_of(flags: u32) -> Option<u32> {
    sizes_of(flags).0
}
