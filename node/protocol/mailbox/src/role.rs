//! Who changes metadata, and when.
//!
//! [`Spm`] is the life of the one host of a pool that does: taking the lease,
//! the steps to service and back, and what happens when the lease is lost.
//! [`takeover`] decides when a host makes itself the SPM because nobody is.
//! [`Sdm`] is the other mode: no such host, but each domain's own lease, taken
//! by whoever changes that domain and only for the change; and, in either mode,
//! what goes on under a domain's own lease for a single change.
//!
//! Both live in a *writer*: the process that changes metadata, registered at the
//! lease daemon as the holder. The daemon sees the lease as free when that
//! process and all its children are gone, so its end is always safe, and is the
//! answer to everything that is not certain. `storaged` runs both cores in its
//! writers; before each change they are asked for their permission.

pub mod sdm;
pub mod spm;
mod steps;
pub mod takeover;

pub use sdm::{Sdm, SdmEffect, SdmEnd, SdmInput, Took};
pub use spm::{Config, Effect, Input, LeaseView, Phase, Refusal, Spm, StopReason};
pub use steps::{Step, StepFailed, StepId};
