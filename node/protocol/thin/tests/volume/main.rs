//! Thin volumes in a model world.

mod fill;
mod random;
mod stories;
mod world;
