//! The watchdog device.
