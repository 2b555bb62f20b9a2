//! Booting: the pure sequencer, the table of phases, and what each phase does.

mod network;
pub mod phases;
pub mod sequence;
pub mod steps;
pub mod storage;
