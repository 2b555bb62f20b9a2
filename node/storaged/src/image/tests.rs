//! Volumes and images on a directory and on loop devices, with the real qemu-img.

mod bitmaps;
mod borrowing;
mod crash;
mod flows;
mod model;
mod real;
mod shelf;
mod site;
mod wiping;
