//! The lease daemon.

fn main() {}
