//! The SPM mailbox as pure state machines.

#![forbid(unsafe_code)]
