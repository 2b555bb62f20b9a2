//! Worker processes: what they are told, what they answer, and how they serve.
//!
//! ```text
//!  daemon ── Order::Setup, Order::Job, Order::Cancel ──▶ worker (reads, one thread a job)
//!         ◀── Word::Progress, Word::Done ──────────────
//! ```
//!
//! A worker does what may hang. It has no state that matters: the daemon kills it
//! when it is late and starts another. The writer speaks the same frames.

mod describe;
pub mod dispatch;
mod domains;
pub mod frame;
pub mod host;
mod interrupted;
mod ovf;
mod pools;
pub mod serve;
pub(crate) mod upgrade;
mod volumes;
pub mod work;

pub use frame::{Order, Word};
pub use work::{Place, PoolContext, Settings, Work};
