//! A client of sanlock's socket, the same for both daemons.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use disk_format::{LockspaceName, NameField};
use sanlock_wire::{
    AcquireFlags, AddFlags, Disk, DiskPath, Header, InquireFlags, Lockspace, Options, Release,
    Reply, ReplyShape, Request, Resource, StateDecoder, Target, WriteFlags,
};

/// A connection.
pub(crate) struct Client {
    stream: UnixStream,
}

/// A name as the wire has it.
pub(crate) fn name(text: &str) -> Result<NameField> {
    Ok(*LockspaceName::new(text)?.field())
}

/// A byte range of a device.
pub(crate) fn disk(path: &Path, offset: u64) -> Result<Disk> {
    Ok(Disk {
        path: DiskPath::new(path.as_os_str().as_encoded_bytes())?,
        offset,
    })
}

impl Client {
    /// Connects to the daemon with this run directory.
    pub(crate) fn connect(run_dir: &Path) -> Result<Self> {
        let socket = run_dir.join("sanlock.sock");
        let stream = UnixStream::connect(&socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self { stream })
    }

    /// A registered connection.
    pub(crate) fn registered(run_dir: &Path) -> Result<Self> {
        let mut client = Self::connect(run_dir)?;
        client.stream.write_all(&Request::Register.encode())?;
        Ok(client)
    }

    /// One request, one reply.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Reply> {
        self.stream.write_all(&request.encode())?;
        let mut bytes = [0; 32];
        self.stream.read_exact(&mut bytes)?;
        let header = Header::decode(&bytes);
        let mut payload = Vec::new();
        match ReplyShape::of(&header)? {
            ReplyShape::Bytes(count) => {
                payload.resize(count, 0);
                self.stream.read_exact(&mut payload)?;
            }
            ReplyShape::UntilEnd(_) | ReplyShape::Stream => {
                self.stream.read_to_end(&mut payload)?;
            }
        }
        Ok(Reply::decode(&header, &payload)?)
    }

    fn must(&mut self, what: &str, request: &Request) -> Result<()> {
        let result = self.call(request)?.result;
        ensure!(result == 0, "{what}: result {result}");
        Ok(())
    }

    /// `io_timeout_s` is what the first host to join waits by.
    pub(crate) fn write_lockspace(
        &mut self,
        lockspace: &Lockspace,
        io_timeout_s: u32,
    ) -> Result<()> {
        let request = Request::WriteLockspace {
            lockspace: lockspace.clone(),
            max_hosts: 0,
            io_timeout_s,
        };
        self.must("write_lockspace", &request)
    }

    /// `num_hosts` 0: as many as the geometry has.
    pub(crate) fn write_resource(&mut self, resource: &Resource, num_hosts: u32) -> Result<()> {
        let request = Request::WriteResource {
            resource: resource.clone(),
            max_hosts: num_hosts,
            num_hosts,
            flags: WriteFlags::default(),
        };
        self.must("write_resource", &request)
    }

    /// Starts joining; [`Self::wait_joined`] waits for it.
    pub(crate) fn start_joining(&mut self, lockspace: &Lockspace, io_timeout_s: u32) -> Result<()> {
        let request = Request::AddLockspace {
            lockspace: lockspace.clone(),
            io_timeout_s,
            flags: AddFlags::ASYNC,
        };
        self.must("add_lockspace", &request)
    }

    pub(crate) fn wait_joined(&mut self, lockspace: &Lockspace) -> Result<()> {
        let request = Request::InqLockspace {
            lockspace: lockspace.clone(),
            flags: InquireFlags::WAIT,
        };
        self.must("inq_lockspace", &request)
    }

    pub(crate) fn acquire(&mut self, resources: Vec<Resource>) -> Result<()> {
        let request = Request::Acquire {
            target: Target::ThisConnection,
            flags: AcquireFlags::default(),
            resources,
            options: Options::default(),
        };
        self.must("acquire", &request)
    }

    pub(crate) fn release(&mut self, resources: Vec<Resource>) -> Result<()> {
        let request = Request::Release {
            target: Target::ThisConnection,
            release: Release::Resources(resources),
        };
        self.must("release", &request)
    }

    /// How many renewals the daemon remembers of a lockspace, and the
    /// timestamp of the newest.
    pub(crate) fn renewals(run_dir: &Path, lockspace: &Lockspace) -> Result<Vec<u64>> {
        let mut client = Self::connect(run_dir)?;
        let request = Request::Renewal {
            lockspace: lockspace.clone(),
        };
        client.stream.write_all(&request.encode())?;
        let mut bytes = Vec::new();
        client.stream.read_to_end(&mut bytes)?;
        let mut rest = bytes.get(32..).unwrap_or_default();
        let mut decoder = StateDecoder::new();
        let mut timestamps = Vec::new();
        while let Some(record) = decoder.next(&mut rest)? {
            timestamps.push(record.data64);
        }
        Ok(timestamps)
    }
}
