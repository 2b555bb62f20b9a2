//! Every byte on shared storage that Holdfast reads or writes: records,
//! checksums, geometry; decode and encode, nothing more.
//!
//! What it is not: no I/O, no clock, no decision. What a record *means* for
//! who may do what belongs to the `lease` crate.
//!
//! A lockspace area is an array of sectors, one for each host id:
//!
//! ```text
//! area start                                                     + align size
//! | host 1 | host 2 | host 3 | ...        | host max_hosts | zeros |
//!     |
//!     +-- one sector:  0..200   leader record (checksum over 0..168)
//!                    200..256   zeros
//!                    256..512   host bitmap
//!                    512..      zeros (4096-byte sectors)
//! ```
//!
//! A resource area ([`paxos`]) is an array of sectors too, and a resource
//! index ([`rindex`]) says where the resources of a lockspace are:
//!
//! ```text
//! area start                                                     + align size
//! | leader | request | host 1 | host 2 | ...      | value block | ... |
//!                        |                           sector 2002, where it fits
//!                        +-- one sector:   0..56    dblock (checksum over 0..48)
//!                                         128..144  mode block
//! ```
//!
//! Invariants, each tested in `tests/`:
//! - decoding never panics, never looks beyond the bytes given, and never loses
//!   a bit but padding: `encode(decode(b)) == b` for every record `b` whose
//!   padding is zero, `decode(encode(x)) == x` for every `x` (`properties.rs`,
//!   and `fuzz.rs` against a second, naive reading);
//! - the bytes made here equal those made by the original tool, in all five
//!   geometries (`golden.rs`, `golden_paxos.rs`).
//!
//! Storage domains (metadata, tags, volumes, mail) are in [`vdsm`].
//!
//! No daemon is needed to look: `examples/inspect.rs` shows a lockspace's hosts.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

pub mod bitmap;
pub mod checksum;
pub mod content;
pub mod delta;
mod error;
pub mod geometry;
pub mod id;
pub mod leader;
pub mod paxos;
pub mod rindex;
pub mod vdsm;
mod wire;

pub use bitmap::HostBitmap;
pub use content::Content;
pub use delta::HostExtras;
pub use error::{Record, RecordError};
pub use geometry::{Geometry, GeometryError};
pub use id::{
    Generation, HostId, HostIdError, HostName, LockspaceName, NameError, NameField, ResourceName,
};
pub use leader::Leader;
pub use paxos::{Dblock, ModeBlock, RequestRecord};
