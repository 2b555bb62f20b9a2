//! Storage of a Holdfast node: connections, domains, the pool and its manager,
//! the mailbox and thin extension.
//!
//! Everything below `connect`, `block`, `file`, `image` and `pool` is ordinary
//! blocking code that takes a [`job::Context`]. The daemon never calls it in its
//! own process: it runs in worker processes, which may hang and be given up.
#![forbid(unsafe_code)]

pub mod authority;
pub mod block;
pub mod command;
pub mod connect;
pub mod daemon;
pub mod domain;
pub mod file;
pub mod identity;
pub mod image;
pub mod job;
pub mod layout;
pub mod lvm;
pub mod mail;
pub mod pool;
pub mod random;
pub mod refresh;
pub mod task;
pub mod thin;
pub mod worker;
pub mod writer;
pub mod xlease;
