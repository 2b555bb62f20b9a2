//! The kernel's log as a sink before journald answers.
