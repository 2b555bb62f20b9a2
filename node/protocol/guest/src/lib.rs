//! One QEMU guest, as bytes in and bytes out.

#![forbid(unsafe_code)]
