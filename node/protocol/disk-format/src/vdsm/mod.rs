//! Storage domains in the format of VDSM: text and bytes to types and back.
//!
//! ```text
//! domain (a VG, or a directory)
//!  ├ metadata     keys as VG tags, or dom_md/metadata   [`domain`]
//!  ├ LVs          tags say slot, image, parent          [`lv`], [`lvm`]
//!  ├ metadata     one slot (or .meta file) a volume     [`volume`], [`slot`]
//!  ├ ids, leases  sanlock's records                     the crate's own modules
//!  ├ xleases      index of external leases              [`xlease`]
//!  ├ inbox/outbox mail between hosts and the SPM        [`mailbox`]
//!  └ master       persisted tasks                       [`task`]
//! ```
//!
//! [`check`] takes what was read from a domain and says what is wrong with it.
//!
//! Invariants, tested in `tests/vdsm_*.rs`:
//! - what is made here equals, byte for byte, what the original makes of the
//!   same values, and the original's samples decode to those values;
//! - decoding never panics and never looks outside the bytes given;
//! - what decodes, decodes to the same value after being encoded again.

pub mod check;
pub mod domain;
pub mod error;
pub mod lv;
pub mod lvm;
pub mod mailbox;
pub mod ovf;
pub mod pool;
pub mod slot;
pub mod tag;
pub mod task;
pub mod uuid;
pub mod version;
pub mod volume;
pub mod xlease;

pub use domain::{DomainClass, DomainMetadata, DomainRole, DomainType, PvMapping};
pub use error::FormatError;
pub use lv::{LvState, SpecialLv, VolumeTags};
pub use pool::{PoolDomainStatus, PoolKeys};
pub use slot::SlotNumber;
pub use uuid::{DomainId, ImageId, LeaseId, PoolId, TaskId, VolumeId};
pub use version::DomainVersion;
pub use volume::{
    Allocation, DiskType, Legality, SlotFormat, VolumeFormat, VolumeMetadata, VolumeType,
};
