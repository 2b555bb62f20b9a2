//! PID 1 of a Holdfast node.

pub mod identity;
pub mod net;
