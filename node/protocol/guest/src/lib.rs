//! One QEMU guest, as bytes in and bytes out.
//!
//! What it is: [`qmp`], a session with QEMU's monitor. What it is not: no
//! socket, no clock, no process.
#![forbid(unsafe_code)]

pub mod qmp;
