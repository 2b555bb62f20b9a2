//! The management network: one bridge over a card, a bond, or a VLAN of either.
//!
//! ```text
//!   config ─▶ policy ─▶ plan ─▶ steps ─▶ kernel (netlink)
//!               ▲ │                        │
//!     time ─────┤ └─▶ dhcp ─▶ packets      │ links, addresses, routes
//!               └──────────────────────────┘
//! ```
//!
//! [`policy`], [`plan`] and [`dhcp`] are pure: time and what was observed go
//! in, what to do comes out. [`Manager`] runs them in a thread of its own and
//! is the supervisor's whole view of the network. What it is not: it brings up
//! no storage network and looks after no guest's tap.

pub mod advertised;
pub mod bootstrap;
pub mod dhcp;
mod driver;
pub mod kernel;
pub mod observed;
pub mod plan;
pub mod policy;
pub mod resolv;

pub use driver::{Event, Manager, Options};
