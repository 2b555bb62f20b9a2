//! A client of the sanlock socket, byte by byte from the protocol's
//! description: it shares no code with the daemon it judges.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::DEADLINE;

/// Command numbers.
pub mod command {
    pub const REGISTER: u32 = 1;
    pub const ADD_LOCKSPACE: u32 = 2;
    pub const REM_LOCKSPACE: u32 = 3;
    pub const STATUS: u32 = 5;
    pub const ACQUIRE: u32 = 7;
    pub const RELEASE: u32 = 8;
    pub const INQUIRE: u32 = 9;
    pub const RESTRICT: u32 = 10;
    pub const REQUEST: u32 = 11;
    pub const EXAMINE_RESOURCE: u32 = 14;
    pub const INQ_LOCKSPACE: u32 = 16;
    pub const KILLPATH: u32 = 17;
    pub const WRITE_LOCKSPACE: u32 = 18;
    pub const WRITE_RESOURCE: u32 = 19;
    pub const READ_LOCKSPACE: u32 = 20;
    pub const READ_RESOURCE: u32 = 21;
    pub const GET_LOCKSPACES: u32 = 22;
    pub const GET_HOSTS: u32 = 23;
    pub const READ_RESOURCE_OWNERS: u32 = 24;
    pub const SET_LVB: u32 = 25;
    pub const GET_LVB: u32 = 26;
    pub const CONVERT: u32 = 27;
    pub const VERSION: u32 = 28;
    pub const REG_EVENT: u32 = 30;
    pub const SET_EVENT: u32 = 32;
    pub const SET_CONFIG: u32 = 33;
    pub const FORMAT_RINDEX: u32 = 35;
    pub const LOOKUP_RINDEX: u32 = 37;
    pub const CREATE_RESOURCE: u32 = 38;
    pub const DELETE_RESOURCE: u32 = 39;
    pub const REBUILD_RINDEX: u32 = 40;
}

/// Flags of the commands and structures.
pub mod flag {
    pub const SHARED: u32 = 0x4;
    pub const LVER: u32 = 0x1;
    pub const NUM_HOSTS: u32 = 0x2;
    pub const PERSISTENT: u32 = 0x8;
    pub const ACQUIRE_LVB: u32 = 0x1;
    pub const ACQUIRE_ORPHAN: u32 = 0x2;
    pub const ACQUIRE_ORPHAN_ONLY: u32 = 0x4;
    pub const ACQUIRE_NOWAIT: u32 = 0x8;
    pub const RELEASE_ALL: u32 = 0x1;
    pub const NEXT_LVER: u32 = 0x1;
    pub const REQUEST_FORCE: u32 = 1;
    pub const REQUEST_GRACEFUL: u32 = 2;
    pub const HOST_FREE: u32 = 2;
    pub const HOST_LIVE: u32 = 3;
    pub const HOST_FAIL: u32 = 4;
    pub const HOST_DEAD: u32 = 5;
}

/// Results that tests name.
pub mod code {
    pub const OK: i32 = 0;
    pub const ENOENT: i32 = -2;
    pub const EAGAIN: i32 = -11;
    pub const EBUSY: i32 = -16;
    pub const EEXIST: i32 = -17;
    pub const ENODEV: i32 = -19;
    pub const EINVAL: i32 = -22;
    pub const ENOSPC: i32 = -28;
    pub const LEADER_MAGIC: i32 = -223;
    pub const ACQUIRE_LVER: i32 = -240;
    pub const ACQUIRE_IDLIVE: i32 = -243;
    pub const ACQUIRE_OWNED: i32 = -244;
    pub const ACQUIRE_OTHER: i32 = -245;
    pub const ACQUIRE_SHRETRY: i32 = -246;
    pub const ACQUIRE_OWNED_RETRY: i32 = -247;
    pub const HOSTID_BUSY: i32 = -262;
}

const MAGIC: u32 = 0x0428_2010;
const HEADER: usize = 32;
const DISK: usize = 1040;
/// The connection a command comes in on, in the place of a pid.
pub const THIS: u32 = u32::MAX;

/// A reply: the header's numbers and what followed it.
#[derive(Debug, Clone)]
pub struct Reply {
    pub command: u32,
    pub flags: u32,
    pub result: i32,
    pub data2: u32,
    pub body: Vec<u8>,
}

/// A lockspace area on a disk.
#[derive(Debug, Clone)]
pub struct Space {
    pub name: String,
    pub path: PathBuf,
    pub offset: u64,
    /// Geometry flags for writing; 0 leaves the choice to the daemon.
    pub flags: u32,
}

/// A resource and where its lease is.
#[derive(Debug, Clone)]
pub struct Resource {
    pub lockspace: String,
    pub name: String,
    pub path: PathBuf,
    pub offset: u64,
    pub flags: u32,
    pub lver: u64,
    pub data32: u32,
}

impl Resource {
    pub fn shared(&self) -> Self {
        self.with(flag::SHARED)
    }

    pub fn with(&self, flags: u32) -> Self {
        Self {
            flags: self.flags | flags,
            ..self.clone()
        }
    }

    pub fn version(&self, lver: u64) -> Self {
        Self {
            lver,
            ..self.with(flag::LVER)
        }
    }
}

impl AsRef<[Resource]> for Resource {
    fn as_ref(&self) -> &[Resource] {
        std::slice::from_ref(self)
    }
}

/// Another host as `get_hosts` and `read_resource_owners` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEntry {
    pub host_id: u64,
    pub generation: u64,
    pub timestamp: u64,
    pub io_timeout: u32,
    pub flags: u32,
}

impl HostEntry {
    pub fn state(&self) -> u32 {
        self.flags & 0xf
    }
}

/// An event as its message carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub host_id: u64,
    pub generation: u64,
    pub event: u64,
    pub data: u64,
    pub from_host_id: u64,
    pub from_generation: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(run_dir.join("sanlock.sock"))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream })
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a request whose length says what it carries.
    pub fn send(&mut self, command: u32, flags: u32, data: u32, data2: u32, payload: &[u8]) {
        let mut bytes = header(command, flags, payload.len(), data, data2);
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).expect("sent");
    }

    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a reply")
    }

    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut bytes = [0; HEADER];
        self.stream.read_exact(&mut bytes)?;
        assert_eq!(u32_at(&bytes, 0), MAGIC, "magic of a reply");
        let length = u32_at(&bytes, 16) as usize;
        assert!((HEADER..=HEADER + (1 << 20)).contains(&length), "{length}");
        let mut body = vec![0; length - HEADER];
        self.stream.read_exact(&mut body)?;
        Ok(Reply {
            command: u32_at(&bytes, 8),
            flags: u32_at(&bytes, 12),
            result: u32_at(&bytes, 24).cast_signed(),
            data2: u32_at(&bytes, 28),
            body,
        })
    }

    pub fn call(
        &mut self,
        command: u32,
        flags: u32,
        data: u32,
        data2: u32,
        payload: &[u8],
    ) -> Reply {
        self.send(command, flags, data, data2, payload);
        let reply = self.reply();
        assert_eq!(reply.command, command, "command echoed");
        reply
    }

    /// Registers this process by this connection; there is no reply.
    pub fn register(&mut self) {
        self.send(command::REGISTER, 0, 0, 0, &[]);
    }

    pub fn send_acquire(&mut self, pid: u32, resources: impl AsRef<[Resource]>, flags: u32) {
        let mut payload: Vec<u8> = resources.as_ref().iter().flat_map(with_disk).collect();
        payload.extend_from_slice(&[0; 56]);
        let count = u32::try_from(resources.as_ref().len()).expect("few");
        self.send(command::ACQUIRE, flags, count, pid, &payload);
    }

    pub fn acquire(&mut self, resources: impl AsRef<[Resource]>, flags: u32) -> i32 {
        self.acquire_for(THIS, resources, flags)
    }

    pub fn acquire_for(&mut self, pid: u32, resources: impl AsRef<[Resource]>, flags: u32) -> i32 {
        self.send_acquire(pid, resources, flags);
        self.reply().result
    }

    pub fn release(&mut self, resources: impl AsRef<[Resource]>) -> i32 {
        let payload: Vec<u8> = resources
            .as_ref()
            .iter()
            .flat_map(|one| plain(one, 0))
            .collect();
        let count = u32::try_from(resources.as_ref().len()).expect("few");
        self.call(command::RELEASE, 0, count, THIS, &payload).result
    }

    pub fn release_all(&mut self) -> i32 {
        self.call(command::RELEASE, flag::RELEASE_ALL, 0, THIS, &[])
            .result
    }

    pub fn convert(&mut self, resource: &Resource) -> i32 {
        self.call(command::CONVERT, 0, 0, THIS, &plain(resource, 0))
            .result
    }

    /// What this connection holds, as one string.
    pub fn inquire(&mut self) -> Result<String, i32> {
        let reply = self.call(command::INQUIRE, 0, 0, THIS, &[]);
        if reply.result < 0 {
            return Err(reply.result);
        }
        Ok(text(&reply.body))
    }

    pub fn set_lvb(&mut self, resource: &Resource, value: &[u8]) -> i32 {
        let mut payload = plain(resource, 0);
        payload.extend_from_slice(value);
        self.call(command::SET_LVB, 0, 0, 0, &payload).result
    }

    pub fn get_lvb(&mut self, resource: &Resource) -> Result<Vec<u8>, i32> {
        let reply = self.call(command::GET_LVB, 0, 0, 0, &plain(resource, 0));
        if reply.result < 0 {
            return Err(reply.result);
        }
        Ok(reply.body)
    }

    /// Waits for an event on a connection that REG_EVENT was sent on.
    pub fn event(&mut self) -> Event {
        let mut bytes = [0; 80];
        self.stream.read_exact(&mut bytes).expect("an event");
        assert_eq!(
            [0, 4, 8, 12, 16].map(|at| u32_at(&bytes, at)),
            [MAGIC, 1, 1, 0, 80],
            "header of an event"
        );
        Event {
            host_id: u64_at(&bytes, 32),
            generation: u64_at(&bytes, 40),
            event: u64_at(&bytes, 48),
            data: u64_at(&bytes, 56),
            from_host_id: u64_at(&bytes, 64),
            from_generation: u64_at(&bytes, 72),
        }
    }
}

/// The 32 bytes before a payload of so many bytes.
pub fn header(command: u32, flags: u32, payload: usize, data: u32, data2: u32) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload).expect("small");
    [MAGIC, 1, command, flags, length, 0, data, data2]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

fn padded(bytes: &[u8], length: usize) -> Vec<u8> {
    assert!(bytes.len() <= length, "{} bytes in {length}", bytes.len());
    let mut field = bytes.to_vec();
    field.resize(length, 0);
    field
}

fn disk(path: &Path, offset: u64) -> Vec<u8> {
    let mut bytes = padded(path.as_os_str().as_encoded_bytes(), 1024);
    bytes.extend_from_slice(&offset.to_le_bytes());
    padded(&bytes, DISK)
}

/// sanlk_resource, saying that so many disks follow.
pub fn plain(resource: &Resource, disks: u32) -> Vec<u8> {
    let mut bytes = padded(resource.lockspace.as_bytes(), 48);
    bytes.extend(padded(resource.name.as_bytes(), 48));
    bytes.extend_from_slice(&resource.lver.to_le_bytes());
    bytes.extend_from_slice(&0_u64.to_le_bytes());
    for word in [resource.data32, 0, resource.flags, disks] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// sanlk_resource with its one disk.
pub fn with_disk(resource: &Resource) -> Vec<u8> {
    let mut bytes = plain(resource, 1);
    bytes.extend(disk(&resource.path, resource.offset));
    bytes
}

/// sanlk_lockspace.
pub fn space(space: &Space, host_id: u64) -> Vec<u8> {
    let mut bytes = padded(space.name.as_bytes(), 48);
    bytes.extend_from_slice(&host_id.to_le_bytes());
    bytes.extend_from_slice(&space.flags.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(disk(&space.path, space.offset));
    bytes
}

/// sanlk_rindex.
pub fn rindex(space: &Space, max_resources: u32) -> Vec<u8> {
    let mut bytes = space.flags.to_le_bytes().to_vec();
    bytes.extend_from_slice(&max_resources.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend(padded(space.name.as_bytes(), 48));
    bytes.extend(disk(&space.path, space.offset));
    bytes
}

/// sanlk_rentry.
pub fn rentry(name: &str, offset: u64) -> Vec<u8> {
    let mut bytes = padded(name.as_bytes(), 48);
    bytes.extend_from_slice(&offset.to_le_bytes());
    padded(&bytes, 64)
}

/// sanlk_host_event.
pub fn host_event(host_id: u64, generation: u64, event: u64, data: u64) -> Vec<u8> {
    [host_id, generation, event, data]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// An array of sanlk_host.
pub fn host_entries(bytes: &[u8]) -> Vec<HostEntry> {
    bytes
        .chunks_exact(32)
        .map(|bytes| HostEntry {
            host_id: u64_at(bytes, 0),
            generation: u64_at(bytes, 8),
            timestamp: u64_at(bytes, 16),
            io_timeout: u32_at(bytes, 24),
            flags: u32_at(bytes, 28),
        })
        .collect()
}

/// Text up to its NUL.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
