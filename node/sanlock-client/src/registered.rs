//! The connection by which a process holds leases.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sanlock_wire::{
    AcquireFlags, Command, ConvertFlags, DiskPath, KillpathFlags, Options, Release, ReplyBody,
    Request, Resource, ResourceFlags, RestrictFlags, Target, parse_resource,
};

use crate::client::{checked, other};
use crate::connection::Connection;
use crate::error::Error;

/// How a lease is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acquire {
    /// With its value: [`Registered::value`] and [`Registered::set_value`] work.
    pub value: bool,
    /// Refused at once instead of waiting for an owner that may be dead.
    pub no_wait: bool,
    /// Together with others that share it.
    pub shared: bool,
}

/// A registered connection. Dropping its last copy gives every lease back.
#[derive(Debug)]
pub struct Registered {
    connection: Connection,
}

impl Registered {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Takes a lease for this process. Waits for the death of an owner that
    /// may be dead (8 × its io_timeout + 60 s) unless told not to.
    ///
    /// # Errors
    /// [`crate::Code::is_held_elsewhere`] when somebody has it; another refusal; no
    /// answer: then it may be held, and only closing the connection gives it back.
    pub fn acquire(
        &mut self,
        resource: &Resource,
        how: Acquire,
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut resource = resource.clone();
        if how.shared {
            resource.flags |= ResourceFlags::SHARED.0;
        }
        let request = Request::Acquire {
            target: Target::ThisConnection,
            flags: AcquireFlags::NONE
                .with_if(AcquireFlags::LVB, how.value)
                .with_if(AcquireFlags::OWNER_NOWAIT, how.no_wait),
            resources: vec![resource],
            options: Options::default(),
        };
        self.order(&request, deadline)
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// A refusal ([`crate::Code::ENOENT`] when not held) or no answer.
    pub fn release(&mut self, resource: &Resource, deadline: Duration) -> Result<(), Error> {
        let request = Request::Release {
            target: Target::ThisConnection,
            release: Release::Resources(vec![without_disks(resource)]),
        };
        self.order(&request, deadline)
    }

    /// Gives all leases back.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn release_all(&mut self, deadline: Duration) -> Result<(), Error> {
        let request = Request::Release {
            target: Target::ThisConnection,
            release: Release::All,
        };
        self.order(&request, deadline)
    }

    /// The leases this process holds, with their versions.
    ///
    /// # Errors
    /// No answer, or one that makes no sense.
    pub fn inquire(&mut self, deadline: Duration) -> Result<Vec<Resource>, Error> {
        let request = Request::Inquire {
            target: Target::ThisConnection,
        };
        let reply = checked(&request, |request| self.connection.call(request, deadline))?;
        let ReplyBody::Inquiry { text, .. } = reply.body else {
            return Err(other(Command::Inquire));
        };
        split(&text).map(|one| Ok(parse_resource(&one)?)).collect()
    }

    /// Whether it holds this lease: asked of the daemon.
    ///
    /// # Errors
    /// No answer.
    pub fn holds(&mut self, resource: &Resource, deadline: Duration) -> Result<bool, Error> {
        let held = self.inquire(deadline)?;
        Ok(held.iter().any(|one| same(one, resource)))
    }

    /// Changes a held lease between shared and exclusive.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn convert(
        &mut self,
        resource: &Resource,
        shared: bool,
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut resource = without_disks(resource);
        resource.flags &= !ResourceFlags::SHARED.0;
        if shared {
            resource.flags |= ResourceFlags::SHARED.0;
        }
        let request = Request::Convert {
            target: Target::ThisConnection,
            resource,
            flags: ConvertFlags::NONE,
        };
        self.order(&request, deadline)
    }

    /// The value read when the lease was taken with [`Acquire::value`]: a
    /// whole sector, NUL padded.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn value(&mut self, resource: &Resource, deadline: Duration) -> Result<Vec<u8>, Error> {
        let request = Request::GetLvb {
            resource: without_disks(resource),
            wanted: 0,
        };
        let reply = checked(&request, |request| self.connection.call(request, deadline))?;
        match reply.body {
            ReplyBody::Lvb(bytes) => Ok(bytes),
            _ => Err(other(Command::GetLvb)),
        }
    }

    /// Sets the value that goes to disk when the lease is given back; at most
    /// a sector.
    ///
    /// # Errors
    /// [`crate::Code::E2BIG`] when longer; another refusal or no answer.
    pub fn set_value(
        &mut self,
        resource: &Resource,
        value: &[u8],
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::SetLvb {
            resource: without_disks(resource),
            value: value.into(),
        };
        self.order(&request, deadline)
    }

    /// Forbids the daemon to send SIGTERM to this process: a lost lease is
    /// then SIGKILL at once.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn no_term_signal(&mut self, deadline: Duration) -> Result<(), Error> {
        let request = Request::Restrict {
            flags: RestrictFlags::SIGTERM,
        };
        self.order(&request, deadline)
    }

    /// Sets the program that is run, instead of SIGTERM, when the lease is lost.
    ///
    /// # Errors
    /// A path too long, a refusal or no answer.
    pub fn set_killpath(
        &mut self,
        path: &DiskPath,
        arguments: &[u8],
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::Killpath {
            target: Target::ThisConnection,
            flags: KillpathFlags::NONE,
            path: path.clone(),
            arguments: arguments.into(),
        };
        self.order(&request, deadline)
    }

    /// Any other request on this connection.
    ///
    /// # Errors
    /// No whole answer within the deadline.
    pub fn call(
        &mut self,
        request: &Request,
        deadline: Duration,
    ) -> Result<sanlock_wire::Reply, Error> {
        self.connection.call(request, deadline)
    }

    /// The socket itself.
    #[must_use]
    pub fn into_socket(self) -> UnixStream {
        self.connection.into_socket()
    }

    fn order(&mut self, request: &Request, deadline: Duration) -> Result<(), Error> {
        checked(request, |request| self.connection.call(request, deadline)).map(drop)
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// The same lease on the same disks.
fn same(held: &Resource, wanted: &Resource) -> bool {
    held.lockspace_name.same_name(&wanted.lockspace_name)
        && held.name.same_name(&wanted.name)
        && (held.disks.is_empty() || wanted.disks.is_empty() || held.disks == wanted.disks)
}

/// Commands about a held lease carry no disks, and say so.
fn without_disks(resource: &Resource) -> Resource {
    Resource {
        disks: Vec::new(),
        ..resource.clone()
    }
}

/// The strings of an inquiry: joined by a space; a space within is escaped.
fn split(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut escaped = false;
    for &byte in text {
        match byte {
            b' ' if !escaped => parts.push(Vec::new()),
            other => {
                if let Some(last) = parts.last_mut() {
                    last.push(other);
                }
            }
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_space_does_not_end_a_lease() {
        let found: Vec<_> = split(br"LS:one:/a\ b:0:1 LS:two:/c:1048576:2").collect();
        assert_eq!(
            found,
            [
                br"LS:one:/a\ b:0:1".to_vec(),
                b"LS:two:/c:1048576:2".to_vec()
            ]
        );
        let one = parse_resource(&found[0]).expect("parses");
        assert_eq!(one.disks[0].path.as_bytes(), b"/a b");
    }

    #[test]
    fn an_inquiry_without_leases_is_empty() {
        assert_eq!(split(b"").count(), 0);
    }

    #[test]
    fn the_same_name_elsewhere_is_another_lease() {
        let at = |offset| {
            crate::lease("LS", "SDM", std::path::Path::new("/x"), offset, None).expect("valid")
        };
        assert!(same(&at(1 << 20), &at(1 << 20)));
        assert!(!same(&at(1 << 20), &at(2 << 20)));
    }
}
