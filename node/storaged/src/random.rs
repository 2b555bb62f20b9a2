//! Random numbers of the kernel's.

use control::storage::{Failure, FailureKind};
use rustix::rand::{GetRandomFlags, getrandom};
use uuid::{Builder, Uuid};

use crate::job::Result;

/// A UUID nobody else has.
///
/// # Errors
/// `Failed` when the kernel gives no random bytes.
pub fn new() -> Result<Uuid> {
    let mut bytes = [0; 16];
    let failed =
        |what: String| Failure::new(FailureKind::Failed, format!("get random bytes: {what}"));
    let got = getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| failed(error.to_string()))?;
    if got != bytes.len() {
        return Err(failed(format!("{got} of {}", bytes.len())));
    }
    Ok(Builder::from_random_bytes(bytes).into_uuid())
}

/// The same as text.
///
/// # Errors
/// As [`new`].
pub fn uuid() -> Result<String> {
    new().map(|uuid| uuid.to_string())
}
