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
//! Invariants, each tested in `tests/`:
//! - decoding never panics and never loses a bit: `encode(decode(b)) == b` for
//!   every leader record `b`;
//! - the bytes made here equal those made by the original tool, in all five
//!   geometries (`tests/golden`).
//!
//! Paxos resources use the same leader record ([`Leader`]) and slot in beside
//! [`delta`] as modules of their own.
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
