//! demo

fn main() {}
