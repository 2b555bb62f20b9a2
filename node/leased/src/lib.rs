//! The lease daemon.
#![forbid(unsafe_code)]

pub mod area;
