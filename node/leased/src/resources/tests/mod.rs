//! Stories about leases, told with hosts in memory that share a disk.

mod acquire;
mod convert;
mod line;
mod random;
mod release;
mod requests;
mod rig;
mod spaces;
mod view;
