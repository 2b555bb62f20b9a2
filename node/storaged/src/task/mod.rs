//! Persisted tasks: what a manager was doing, for whoever is the manager next.
//!
//! A task is a directory of small files in the master's `tasks` directory, in
//! VDSM's own form, so that either kind of manager can take over from the other.
//! What undoes a task is on disk before what it undoes is begun, and run last in
//! first out.
//!
//! Tested in `task/tests.rs`, with a crash after each change of the directory.

mod recover;
mod store;

pub use recover::{Recovered, recover};
pub use store::{Store, Tracked};

#[cfg(test)]
mod tests;
