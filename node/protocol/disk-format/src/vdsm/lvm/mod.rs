//! LVM as far as domains need it: reports of the `lvm` program, and its
//! on-disk metadata, read only.

pub mod label;
pub mod report;
pub mod table;
pub mod text;

pub use label::{Copy, Device, Label, MdaHeader};
pub use report::{LvReport, LvRow, PvReport, PvRow, VgReport, VgRow};
pub use table::{TableLine, linear_table};
pub use text::{Lv, Pv, Segment, Stripe, Vg};
