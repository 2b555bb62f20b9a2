//! Monotonic, boot-time and wall clocks.
