//! What each client action asks and prints.

pub(super) mod leases;
pub(super) mod lockspaces;
pub(super) mod storage;
