//! The first process: finds the root, switches to it.

fn main() {}
