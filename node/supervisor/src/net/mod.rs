//! The management network.

pub mod dhcp;
pub mod observed;
pub mod plan;
