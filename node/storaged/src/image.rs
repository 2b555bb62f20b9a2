//! Volumes and images, on any [`Domain`](crate::domain::Domain).
//!
//! An image is a guest's disk: a chain of volumes, each with its parent's id in
//! its metadata. What is kept here, whatever fails and whoever dies:
//!
//! - a volume that can be seen is whole: its metadata, its lease and, unless it
//!   is ILLEGAL, its data;
//! - no volume goes that another one stands on;
//! - bytes promised to be zeroed are zeros before their room can be given to
//!   anything else;
//! - templates (SHARED) are never written;
//! - every request can be made again after a crash, and ends the same.
//!
//! Who creates or deletes must be the pool manager ([`Work::authority`] is then
//! its `SDM` lease); who changes the content of one volume holds that volume's
//! lease ([`operation`]).

pub mod bitmap;
pub mod borrow;
pub mod chain;
pub mod copy;
pub mod create;
pub mod delete;
pub mod leases;
pub mod lvb;
pub mod merge;
pub mod operation;
pub mod ovf_store;
mod preallocate;
pub mod prepare;
pub mod qemu;
pub mod resize;
pub mod size;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod wipe;

use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::Context;
use crate::layout::Layout;
use ::thin::Policy;
use leases::Leases;

/// What work on a domain's volumes needs.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Progress and cancel.
    pub context: &'a Context,
    /// The domain.
    pub domain: &'a dyn Domain,
    /// The right to change its metadata.
    pub authority: &'a dyn Authority,
    /// Leases of volumes.
    pub leases: &'a dyn Leases,
    /// Where links go on this host.
    pub layout: &'a Layout,
    /// How much room thin volumes get at once.
    pub growth: Policy,
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("domain", &self.domain.id())
            .finish_non_exhaustive()
    }
}
