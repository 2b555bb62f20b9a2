//! From a report to text: pure functions, so that a screen can be compared with
//! its picture in a test.

mod boot;
mod disk;
mod domain;
mod lease;
mod leases;
mod network;
mod status;
mod storage;

pub(crate) use boot::boot;
pub(crate) use disk::{area, disk};
pub(crate) use domain::domains;
pub(crate) use lease::lockspaces;
pub(crate) use leases::{leases, owners, waits};
pub(crate) use network::network;
pub(crate) use status::status;
pub(crate) use storage::answer;

#[cfg(test)]
mod tests;
