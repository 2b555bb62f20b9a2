//! Kernel device events and coldplug.
