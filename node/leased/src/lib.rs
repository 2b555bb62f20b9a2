//! The lease daemon.
