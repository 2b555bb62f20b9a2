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

use disk_format::Geometry;
use sanlock_wire::geometry_flags;

pub use index_lock::Member;
pub use lockspace::{align, read_lockspace, write_lockspace};
pub use resource::{read_resource, read_resource_owners, write_resource};
pub use rindex::{
    create_resource, delete_resource, format_rindex, lookup_rindex, rebuild_rindex, update_rindex,
};

/// The sector size that the flags of a request state, whatever they say of the
/// align size.
pub(crate) fn sector_of(flags: u32) -> Option<u32> {
    let says = |geometry| flags & SECTOR_BITS & geometry_flags(geometry) != 0;
    [Geometry::Sector512Align1M, Geometry::Sector4096Align1M]
        .into_iter()
        .find(|&geometry| says(geometry))
        .map(Geometry::sector_size)
}

/// The flag bits that state a sector size.
const SECTOR_BITS: u32 = 0x300;
