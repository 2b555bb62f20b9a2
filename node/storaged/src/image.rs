//! Volumes and images, on any [`Domain`](crate::domain::Domain).

pub mod chain;
pub mod leases;
pub mod lvb;
pub mod qemu;
pub mod size;
pub mod sync;
