//! Asking multipathd over its socket: no program is started, and the answer has
//! a deadline.
//!
//! A message is its length (eight bytes, this machine's order, the closing NUL
//! included) and its text.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use serde::Deserialize;

use crate::job::Result;

/// Name of multipathd's socket in the abstract name space.
pub const SOCKET: &str = "/org/kernel/linux/storage/multipathd";

/// How long multipathd may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Largest answer taken.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Where multipathd is asked.
#[derive(Debug, Clone)]
pub struct Socket {
    name: String,
}

impl Default for Socket {
    fn default() -> Self {
        Self::named(SOCKET)
    }
}

impl Socket {
    /// A socket of another name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The answer to a command.
    ///
    /// # Errors
    ///
    /// [`FailureKind::WrongState`] when multipathd does not run,
    /// [`FailureKind::Timeout`] without an answer, [`FailureKind::Failed`] when it
    /// refuses.
    pub fn ask(&self, command: &str) -> Result<String> {
        let answer = self.exchange(command).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => {
                    FailureKind::WrongState
                }
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                    FailureKind::Timeout
                }
                _ => FailureKind::Failed,
            };
            Failure::new(kind, format!("multipathd: {command}: {error}"))
        })?;
        let said = answer.trim();
        if said == "fail" || said == "timeout" || said.starts_with("fail\n") {
            return Err(Failure::new(
                FailureKind::Failed,
                format!("multipathd: {command}: {}", said.replace('\n', ", ")),
            ));
        }
        Ok(answer)
    }

    fn exchange(&self, command: &str) -> std::io::Result<String> {
        let address = SocketAddr::from_abstract_name(self.name.as_bytes())?;
        let mut stream = UnixStream::connect_addr(&address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut message = command.as_bytes().to_vec();
        message.push(0);
        let length = u64::try_from(message.len()).unwrap_or(u64::MAX);
        stream.write_all(&length.to_ne_bytes())?;
        stream.write_all(&message)?;
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let length = u64::from_ne_bytes(length);
        if length > ANSWER_BYTES_MAX {
            return Err(std::io::Error::other(format!(
                "answer of {length} bytes; at most {ANSWER_BYTES_MAX}"
            )));
        }
        let mut bytes = Vec::new();
        stream.take(length).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()) != Ok(length) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// What multipathd knows of its maps.
    ///
    /// # Errors
    ///
    /// As [`Socket::ask`], and when the answer cannot be read.
    pub fn maps(&self) -> Result<Vec<Map>> {
        parse_maps(&self.ask("show maps json")?)
    }
}

/// A map, in the words of multipathd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// World-wide name of the LUN.
    pub uuid: String,
    /// The kernel's name: `dm-0`.
    pub sysfs: String,
    /// What happens without paths: `16 chk`, `off`, `on`, `14 sec`.
    pub queueing: String,
    /// State of the map: `active`, `suspend`.
    pub dm_st: String,
    /// Vendor.
    pub vend: String,
    /// Product.
    pub prod: String,
    /// Its path groups.
    pub path_groups: Vec<Group>,
}

/// A path group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Group {
    /// `active`, `enabled`, `disabled`.
    pub dm_st: String,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// A path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Path {
    /// The kernel's name of the disk.
    pub dev: String,
    /// `major:minor`.
    pub dev_t: String,
    /// `active` or `failed`, in the kernel's map.
    pub dm_st: String,
    /// `running`, `offline`, of the disk.
    pub dev_st: String,
    /// `ready`, `faulty`, `shaky`, `ghost`… says the checker.
    pub chk_st: String,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    maps: Vec<Map>,
}

/// Reads the answer to `show maps json`.
///
/// # Errors
///
/// [`FailureKind::Failed`] when it is none.
pub fn parse_maps(text: &str) -> Result<Vec<Map>> {
    let document: Document = serde_json::from_str(text.trim()).map_err(|error| {
        Failure::new(
            FailureKind::Failed,
            format!("multipathd: show maps json: {error}"),
        )
    })?;
    Ok(document.maps)
}

/// Whether the answer to `show daemon` (`pid 612 idle`) says it has nothing to do.
#[must_use]
pub fn is_idle(answer: &str) -> bool {
    let mut words = answer.split_whitespace();
    words.next() == Some("pid") && words.nth(1) == Some("idle")
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
