//! Each kind of damage is found, told in words, and found alone; a healthy
//! domain has no findings.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod areas;
mod block;
mod file;
mod sample;
