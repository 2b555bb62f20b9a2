//! Locked memory and real-time scheduling.
