//! The management network.
