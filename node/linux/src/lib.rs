//! The kernel's side: the only `unsafe` code of Holdfast.
//!
//! What it is: thin, typed calls for block devices, mounts, modules, links,
//! processes, the watchdog and the clock. What it is not: no protocol state,
//! no decisions.
