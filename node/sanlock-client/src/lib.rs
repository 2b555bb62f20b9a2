//! A client of the lease daemon's socket.

#![forbid(unsafe_code)]
