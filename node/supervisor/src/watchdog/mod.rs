//! The watchdog: the device, the pure core that decides about pets
//! ([`multiplexer`]) and wdmd's socket ([`server`]).

pub mod guard;
pub mod multiplexer;
pub mod search;
pub mod server;
pub mod stand_alone;
