//! The delta-lease protocol as a pure state machine.
