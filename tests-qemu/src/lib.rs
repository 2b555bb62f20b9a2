//! Boots the image in QEMU: harness, scenarios, demo.
//!
//! What it is: machines ([`node`]) wired to serial lines ([`line`]), QEMU's
//! control protocol ([`qmp`]) and shared disks ([`lun`]); questions to the node
//! inside through its own console ([`console`]).
//! What it is not: part of a node, or a judge that looks inside one. Whatever a
//! scenario asserts, an operator could have seen: a status, a console, a reset,
//! the bytes on the shared disk.
//!
//! Invariants: a machine never outlives the harness unless told to ([`tied`]);
//! every wait is for a condition, with a deadline sized for emulation on two
//! busy cores; a failure leaves its evidence in `target/tests-qemu/<scenario>/`.
#![forbid(unsafe_code)]

pub mod bench;
pub mod bench_storage;
pub mod console;
pub mod document;
pub mod evidence;
pub mod http;
pub mod kept;
pub mod lab;
pub mod line;
pub mod lun;
pub mod machine;
pub mod node;
pub mod qmp;
pub mod scenarios;
pub mod screen;
pub mod stage;
pub mod story;
pub mod suite;
pub mod table;
pub mod tied;
pub mod tools;
