//! Mounting, moving and leaving file systems.
