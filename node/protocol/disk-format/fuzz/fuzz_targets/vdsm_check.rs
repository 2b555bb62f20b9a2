//! Runs one body of `bodies.rs`.
#![no_main]

use disk_format_fuzz as bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::vdsm::vdsm_check(bytes));
