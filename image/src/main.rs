//! Builds the Holdfast node image.

fn main() {}
