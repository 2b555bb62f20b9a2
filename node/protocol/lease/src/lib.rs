//! The delta-lease protocol: timings, and the decision whether an area may be
//! initialised. Bytes and time in, decisions out; no I/O, no clock, no thread.
#![forbid(unsafe_code)]

pub mod init;
pub mod timings;
