//! Every byte on sanlock's client socket, in both directions; decode and
//! encode, nothing more.
//!
//! What it is not: no socket, no clock, no decision. Who may do what, and what
//! a command does, belongs to `leased`.
//!
//! ```text
//!            bytes as they come                  typed
//!  socket ───────────────────▶ Decoder ──▶ Incoming::Request(header, Request)
//!                                          Incoming::Refused   reply this code
//!                                          Incoming::Dropped   no reply at all
//!  socket ◀─────────────────── Reply::encode(&header) ◀── Reply { result, body }
//!
//!  client:  Request::encode(flags…) ──▶ socket ──▶ ReplyShape::of ──▶ Reply::decode
//!
//!  message: | header 32 | payload: size from command and counts, never from header.length |
//! ```
//!
//! Invariants, tested in `tests/`:
//! - no bytes, however cut, make the decoder panic or hold more than
//!   [`MESSAGE_MAX`] bytes;
//! - `decode(encode(x)) == x` for every request and reply;
//! - requests and replies have the bytes that the original's libraries and
//!   daemon were seen to send (`tests/golden`).
//!
//! A server, as far as this crate goes:
//!
//! ```
//! use sanlock_wire::{Decoder, Incoming, Reply, ReplyBody, Request, VERSION_NUMBER};
//!
//! let mut decoder = Decoder::new();
//! let mut answers = Vec::new();
//! // What a client sent, as it arrived: in two pieces.
//! let sent = Request::Version.encode();
//! let (first, second) = sent.split_at(10);
//! for mut piece in [first, second] {
//!     while let Some(incoming) = decoder.next(&mut piece) {
//!         match incoming {
//!             Incoming::Request(header, Request::Version) => {
//!                 let reply = Reply::with(ReplyBody::Version(VERSION_NUMBER));
//!                 answers.push(reply.encode(&header));
//!             }
//!             Incoming::Request(header, _) => answers.push(Reply::code(-22).encode(&header)),
//!             Incoming::Refused(header, reply) => answers.push(reply.encode(&header)),
//!             Incoming::Dropped(..) => {}
//!         }
//!     }
//! }
//! assert_eq!(answers.len(), 1);
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod command;
mod decoder;
mod event;
mod flags;
mod framing;
mod header;
mod reply;
mod request;
mod state;
mod structs;
mod text;
mod wire;

pub use command::{Class, Command};
pub use decoder::{Decoder, Dropped, Incoming, MESSAGE_MAX, Pending};
pub use event::EventMessage;
pub use flags::{
    AcquireFlags, AddFlags, ConfigAction, ConvertFlags, EventFlags, ForceMode, GeometryError,
    HostState, InquireFlags, KillpathFlags, LockspaceFlags, ReleaseFlags, RemoveFlags,
    RequestFlags, ResourceFlags, RestrictFlags, RindexFlags, WriteFlags, geometry_flags,
    geometry_of, sizes_of, with_geometry,
};
pub use header::{HEADER_BYTES, Header, MAGIC, PROTOCOL_VERSION};
pub use reply::{BUFFER_MAX, Reply, ReplyBody, ReplyError, ReplyShape, VERSION_NUMBER};
pub use request::{ACQUIRE_MAX, LVB_MAX, Release, Request, Target};
pub use state::{StateBody, StateDecoder, StateKind, StateRecord};
pub use structs::{
    DISK_BYTES, DISKS_MAX, Disk, DiskPath, Host, HostEvent, LOCKSPACE_BYTES, Lockspace,
    OPTIONS_BYTES, Options, PATH_MAX, RENTRY_BYTES, RESOURCE_BYTES, RINDEX_BYTES, Rentry, Resource,
    Rindex,
};
pub use text::{
    TextError, parse_lockspace, parse_name, parse_rentry, parse_resource, parse_rindex,
};
