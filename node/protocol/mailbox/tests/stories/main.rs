//! The promises of the mailbox, one story each.

#[path = "../disk/mod.rs"]
mod disk;
mod host;
mod manager;
mod pair;
mod role;
mod together;
