//! Calls that need no registration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lease::code::Code;
use sanlock_wire::{
    AddFlags, Command, ForceMode, Header, Host, HostState, InquireFlags, Lockspace, RemoveFlags,
    Reply, ReplyBody, Request, RequestFlags, Resource, ResourceFlags, WriteFlags,
};

use crate::connection::Connection;
use crate::error::Error;
use crate::registered::Registered;

/// How often a question is put before its deadline: the original has been seen
/// to forget one that came right after another. Orders are given once.
const QUESTIONS: u32 = 3;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    socket: PathBuf,
}

/// How far this host is in a lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Its host id is held.
    Yes,
    /// Being joined or left.
    Changing,
    /// Neither.
    No,
}

/// Who holds a lease, by what is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// Names, version and geometry as found.
    pub resource: Resource,
    /// Empty when it is free. Whether they live is [`Client::hosts`]' to say.
    pub owners: Vec<Host>,
}

impl Owners {
    /// Whether the holders share it.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.resource.has(ResourceFlags::SHARED)
    }
}

impl Client {
    /// The daemon behind this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection for this and that.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub fn connect(&self, deadline: Duration) -> Result<Connection, Error> {
        Connection::open(&self.socket, deadline)
    }

    /// A connection by which this process may hold leases.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub fn register(&self, deadline: Duration) -> Result<Registered, Error> {
        let mut connection = self.connect(deadline)?;
        connection.send(&Request::Register, deadline)?;
        Ok(Registered::new(connection))
    }

    /// One request, one reply; a refusal is a reply.
    ///
    /// # Errors
    /// No whole answer within the deadline.
    pub fn call(&self, request: &Request, deadline: Duration) -> Result<Reply, Error> {
        self.connect(deadline)?.call(request, deadline)
    }

    /// The bytes of the daemon's report.
    ///
    /// # Errors
    /// No whole answer within the deadline.
    pub fn metrics(&self, header: &Header, deadline: Duration) -> Result<Vec<u8>, Error> {
        self.connect(deadline)?.report(header, deadline)
    }

    /// Joins a lockspace and waits until the host id is held: at least two
    /// I/O time-outs, longer after a crash. `io_timeout_s` 0 is the daemon's own.
    ///
    /// # Errors
    /// A refusal, [`Code::EEXIST`] when joined already, [`Code::HOSTID_BUSY`]
    /// when another host has the id; or no answer in time.
    pub fn add_lockspace(
        &self,
        lockspace: &Lockspace,
        io_timeout_s: u32,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.add(lockspace, io_timeout_s, AddFlags::NONE, deadline)
    }

    /// Begins to join a lockspace; [`Self::inq_lockspace`] tells how far it is.
    /// Already joined, or being joined, is success.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn add_lockspace_async(
        &self,
        lockspace: &Lockspace,
        io_timeout_s: u32,
        deadline: Duration,
    ) -> Result<(), Error> {
        match self.add(lockspace, io_timeout_s, AddFlags::ASYNC, deadline) {
            Err(Error::Refused {
                code: Code::EEXIST | Code::EINPROGRESS,
                ..
            }) => Ok(()),
            other => other,
        }
    }

    fn add(
        &self,
        lockspace: &Lockspace,
        io_timeout_s: u32,
        flags: AddFlags,
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::AddLockspace {
            lockspace: lockspace.clone(),
            io_timeout_s,
            flags,
        };
        self.order(&request, deadline)
    }

    /// Leaves a lockspace. With `only_unused` it is refused with
    /// [`Code::EBUSY`] while somebody here holds a lease in it; without, the
    /// holders are killed.
    ///
    /// # Errors
    /// A refusal ([`Code::ENOENT`] when not joined) or no answer.
    pub fn rem_lockspace(
        &self,
        lockspace: &Lockspace,
        only_unused: bool,
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::RemLockspace {
            lockspace: lockspace.clone(),
            flags: RemoveFlags::NONE.with_if(RemoveFlags::UNUSED, only_unused),
        };
        self.order(&request, deadline)
    }

    /// Whether the lockspace is joined with this host id; with `wait` not
    /// before it is settled.
    ///
    /// # Errors
    /// No answer.
    pub fn inq_lockspace(
        &self,
        lockspace: &Lockspace,
        wait: bool,
        deadline: Duration,
    ) -> Result<Joined, Error> {
        let request = Request::InqLockspace {
            lockspace: lockspace.clone(),
            flags: InquireFlags::NONE.with_if(InquireFlags::WAIT, wait),
        };
        let reply = if wait {
            self.call(&request, deadline)?
        } else {
            self.question(&request, deadline)?
        };
        match Code(reply.result) {
            code if code.is_ok() => Ok(Joined::Yes),
            Code::EINPROGRESS => Ok(Joined::Changing),
            Code::ENOENT => Ok(Joined::No),
            code => Err(Error::Refused {
                what: Command::InqLockspace,
                code,
            }),
        }
    }

    /// The lockspaces that are joined, being joined or being left.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn lockspaces(&self, deadline: Duration) -> Result<Vec<Lockspace>, Error> {
        let reply = checked(&Request::GetLockspaces, |request| {
            self.question(request, deadline)
        })?;
        match reply.body {
            ReplyBody::Lockspaces(lockspaces) => Ok(lockspaces),
            _ => Err(other(Command::GetLockspaces)),
        }
    }

    /// The hosts seen in a joined lockspace; with a host id only that one.
    ///
    /// # Errors
    /// [`Code::ENOENT`] when it is not joined, [`Code::EAGAIN`] before the
    /// first look at the hosts; or no answer.
    pub fn hosts(&self, lockspace: &Lockspace, deadline: Duration) -> Result<Vec<Host>, Error> {
        let request = Request::GetHosts {
            lockspace: lockspace.clone(),
        };
        let reply = checked(&request, |request| self.question(request, deadline))?;
        match reply.body {
            ReplyBody::Hosts(hosts) => Ok(hosts),
            _ => Err(other(Command::GetHosts)),
        }
    }

    /// What is believed of one host; `None` when nothing is known of it yet.
    ///
    /// # Errors
    /// As [`Self::hosts`], but [`Code::EAGAIN`] is `None`.
    pub fn host_state(
        &self,
        lockspace: &Lockspace,
        host_id: u64,
        deadline: Duration,
    ) -> Result<Option<(Host, HostState)>, Error> {
        let one = Lockspace {
            host_id,
            ..lockspace.clone()
        };
        let hosts = match self.hosts(&one, deadline) {
            Err(Error::Refused {
                code: Code::EAGAIN, ..
            }) => return Ok(None),
            hosts => hosts?,
        };
        Ok(hosts
            .into_iter()
            .find(|host| host.host_id == host_id)
            .and_then(|host| host.state().map(|state| (host, state))))
    }

    /// Writes a new, empty lockspace area.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn write_lockspace(
        &self,
        lockspace: &Lockspace,
        max_hosts: u32,
        io_timeout_s: u32,
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::WriteLockspace {
            lockspace: lockspace.clone(),
            max_hosts,
            io_timeout_s,
        };
        // Writing it twice does no harm: nobody uses it yet.
        checked(&request, |request| self.question(request, deadline)).map(drop)
    }

    /// Writes a new, free lease; with `clear` one that is no lease any more.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn write_resource(
        &self,
        resource: &Resource,
        max_hosts: u32,
        clear: bool,
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::WriteResource {
            resource: resource.clone(),
            max_hosts,
            num_hosts: 0,
            flags: WriteFlags::NONE.with_if(WriteFlags::CLEAR, clear),
        };
        checked(&request, |request| self.question(request, deadline)).map(drop)
    }

    /// Names, version and geometry of a lease on disk.
    ///
    /// # Errors
    /// [`Code::LEADER_MAGIC`] when there is none; another refusal or no answer.
    pub fn read_resource(
        &self,
        resource: &Resource,
        deadline: Duration,
    ) -> Result<Resource, Error> {
        let request = Request::ReadResource {
            resource: resource.clone(),
        };
        let reply = checked(&request, |request| self.question(request, deadline))?;
        match reply.body {
            ReplyBody::Resource(found) => Ok(found),
            _ => Err(other(Command::ReadResource)),
        }
    }

    /// Name and geometry of a lockspace on disk.
    ///
    /// # Errors
    /// As [`Self::read_resource`].
    pub fn read_lockspace(
        &self,
        lockspace: &Lockspace,
        deadline: Duration,
    ) -> Result<Lockspace, Error> {
        let request = Request::ReadLockspace {
            lockspace: lockspace.clone(),
        };
        let reply = checked(&request, |request| self.question(request, deadline))?;
        match reply.body {
            ReplyBody::Lockspace { lockspace, .. } => Ok(lockspace),
            _ => Err(other(Command::ReadLockspace)),
        }
    }

    /// Who holds a lease, by what is on disk.
    ///
    /// # Errors
    /// As [`Self::read_resource`].
    pub fn read_resource_owners(
        &self,
        resource: &Resource,
        deadline: Duration,
    ) -> Result<Owners, Error> {
        let request = Request::ReadResourceOwners {
            resource: resource.clone(),
        };
        let reply = checked(&request, |request| self.question(request, deadline))?;
        match reply.body {
            ReplyBody::Owners { resource, owners } => Ok(Owners { resource, owners }),
            _ => Err(other(Command::ReadResourceOwners)),
        }
    }

    /// Asks the owner of a lease to give it up, or (`kill`) to be killed.
    ///
    /// # Errors
    /// A refusal or no answer.
    pub fn request(
        &self,
        resource: &Resource,
        kill: bool,
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::Request {
            resource: resource.clone(),
            force_mode: if kill {
                ForceMode::Force
            } else {
                ForceMode::Graceful
            },
            flags: RequestFlags::NEXT_LVER,
        };
        self.order(&request, deadline)
    }

    fn order(&self, request: &Request, deadline: Duration) -> Result<(), Error> {
        checked(request, |request| self.call(request, deadline)).map(drop)
    }

    /// What may be asked twice.
    fn question(&self, request: &Request, deadline: Duration) -> Result<Reply, Error> {
        let mut answer = self.call(request, deadline / QUESTIONS);
        for _ in 1..QUESTIONS {
            if !matches!(answer, Err(Error::Silent { .. })) {
                break;
            }
            answer = self.call(request, deadline / QUESTIONS);
        }
        answer
    }
}

/// A reply that is no refusal.
pub(crate) fn checked(
    request: &Request,
    call: impl FnOnce(&Request) -> Result<Reply, Error>,
) -> Result<Reply, Error> {
    let reply = call(request)?;
    let code = Code(reply.result);
    if code.is_ok() {
        return Ok(reply);
    }
    Err(Error::Refused {
        what: request.command(),
        code,
    })
}

pub(crate) fn other(what: Command) -> Error {
    Error::Other { what }
}
