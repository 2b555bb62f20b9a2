//! Replies: what the daemon answers.

use crate::command::Command;
use crate::header::{HEADER_BYTES, Header, MAGIC, PROTOCOL_VERSION};
use crate::state::StateRecord;
use crate::structs::{
    HOST_BYTES, Host, LOCKSPACE_BYTES, Lockspace, RENTRY_BYTES, RESOURCE_BYTES, Rentry, Resource,
};
use crate::wire::{Reader, until_nul};

/// Version of the daemon that clients are told: 3.8.5.
pub const VERSION_NUMBER: u32 = 0x0308_0500;
/// Most bytes of entries in a reply to `GET_LOCKSPACES` or `GET_HOSTS`.
pub const BUFFER_MAX: usize = 1 << 20;
/// Most bytes a client takes of any other reply.
const PAYLOAD_MAX: usize = 64 << 20;

const ENOSPC: i32 = -28;

/// A reply. [`Reply::encode`] turns it into bytes; where more entries are
/// given than a reply may have, it sends those that fit and the result -28.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 0, a negative error number, or a positive size or count.
    pub result: i32,
    /// What follows the header.
    pub body: ReplyBody,
}

/// What follows a reply's header, and its second number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyBody {
    /// Only a header.
    Empty,
    /// Of `INQUIRE`: number of resources and their strings
    /// ([`ReplyBody::inquiry`]), without NUL.
    Inquiry {
        /// How many.
        count: u32,
        /// Their strings, joined by spaces.
        text: Vec<u8>,
    },
    /// Of `READ_LOCKSPACE`, also with an error.
    Lockspace {
        /// Of the record on disk, in seconds.
        io_timeout_s: u32,
        /// As asked, and as found.
        lockspace: Lockspace,
    },
    /// Of `READ_RESOURCE`, also with an error. Its disks are only counted.
    Resource(Resource),
    /// Of `READ_RESOURCE_OWNERS`. The disks are only counted.
    Owners {
        /// As asked, and as found.
        resource: Resource,
        /// Who holds it.
        owners: Vec<Host>,
    },
    /// Of `GET_LOCKSPACES`.
    Lockspaces(Vec<Lockspace>),
    /// Of `GET_HOSTS`.
    Hosts(Vec<Host>),
    /// Of `GET_LVB`.
    Lvb(Vec<u8>),
    /// Of `VERSION`: the number, see [`VERSION_NUMBER`].
    Version(u32),
    /// Of the commands about one index entry, also with an error.
    Entry(Rentry),
    /// Of `LOG_DUMP`; the result is its length.
    Log(Vec<u8>),
    /// Of `METRICS`: JSON.
    Metrics(Vec<u8>),
    /// Of `STATUS`, `HOST_STATUS` and `RENEWAL`.
    Stream {
        /// I/O time-out in seconds, for `RENEWAL`; else 0.
        data2: u32,
        /// The records; a server may send more after them.
        records: Vec<StateRecord>,
    },
}

/// A reply that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Wrong magic.
    #[error("reply magic {0:#010x}: expected is {MAGIC:#010x}")]
    Magic(u32),
    /// Says to be longer than any reply.
    #[error("reply payload of {0} bytes: largest allowed is {PAYLOAD_MAX}")]
    Length(usize),
    /// Shorter than its kind.
    #[error("reply payload of {found} bytes: expected are {expected}")]
    Short {
        /// Bytes there are.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The text of a state record says to be longer than any.
    #[error("state text of {0} bytes: largest allowed is 4096")]
    StateText(usize),
}

/// How a client finds the end of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyShape {
    /// So many bytes follow the header.
    Bytes(usize),
    /// Everything until the daemon closes, at most so many bytes.
    UntilEnd(usize),
    /// State records until the daemon closes: [`crate::StateDecoder`].
    Stream,
}

impl ReplyShape {
    /// The shape of the reply with this header.
    ///
    /// # Errors
    /// When it is no reply, or one longer than any.
    pub fn of(header: &Header) -> Result<Self, ReplyError> {
        if header.magic != MAGIC {
            return Err(ReplyError::Magic(header.magic));
        }
        let bytes = match header.command() {
            Some(Command::Status | Command::HostStatus | Command::Renewal) => {
                return Ok(Self::Stream);
            }
            Some(Command::GetLockspaces | Command::GetHosts) if header.result() == ENOSPC => {
                return Ok(Self::UntilEnd(BUFFER_MAX));
            }
            Some(Command::LogDump) => header.data,
            _ => header.length.saturating_sub(32),
        };
        match usize::try_from(bytes).unwrap_or(usize::MAX) {
            bytes if bytes <= PAYLOAD_MAX => Ok(Self::Bytes(bytes)),
            bytes => Err(ReplyError::Length(bytes)),
        }
    }
}

impl Reply {
    /// A header with this result.
    #[must_use]
    pub const fn code(result: i32) -> Self {
        Self {
            result,
            body: ReplyBody::Empty,
        }
    }

    /// Success with a body.
    #[must_use]
    pub const fn with(body: ReplyBody) -> Self {
        Self { result: 0, body }
    }

    /// The message that answers `request`.
    #[must_use]
    pub fn encode(&self, request: &Header) -> Vec<u8> {
        let mut header = Header {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
            length: 32,
            data: self.result.cast_unsigned(),
            data2: 0,
            ..*request
        };
        if request.command() == Some(Command::Version) {
            header.cmd_flags = 0;
            header.seq = 0;
        }
        let mut out = vec![0; HEADER_BYTES];
        self.put(&mut header, &mut out);
        match &self.body {
            ReplyBody::Log(_) | ReplyBody::Stream { .. } => {}
            _ => header.length = u32::try_from(out.len()).unwrap_or(u32::MAX),
        }
        if let Some(place) = out.first_chunk_mut() {
            *place = header.encode();
        }
        out
    }

    fn put(&self, header: &mut Header, out: &mut Vec<u8>) {
        match &self.body {
            ReplyBody::Empty => {}
            ReplyBody::Inquiry { count, text } => {
                header.data2 = *count;
                if *count > 0 {
                    out.extend_from_slice(text);
                    out.push(0);
                }
            }
            ReplyBody::Lockspace {
                io_timeout_s,
                lockspace,
            } => {
                header.data2 = *io_timeout_s;
                lockspace.put(out);
            }
            ReplyBody::Resource(resource) => resource.put(out),
            ReplyBody::Owners { resource, owners } => {
                header.data2 = count(owners.len());
                resource.put(out);
                for owner in owners {
                    owner.put(out);
                }
            }
            ReplyBody::Lockspaces(lockspaces) => {
                let fit = fit(header, lockspaces, LOCKSPACE_BYTES);
                for lockspace in fit {
                    lockspace.put(out);
                }
            }
            ReplyBody::Hosts(hosts) => {
                let fit = fit(header, hosts, HOST_BYTES);
                for host in fit {
                    host.put(out);
                }
            }
            ReplyBody::Lvb(bytes) | ReplyBody::Metrics(bytes) => out.extend_from_slice(bytes),
            ReplyBody::Version(version) => header.data2 = *version,
            ReplyBody::Entry(entry) => entry.put(out),
            ReplyBody::Log(text) => {
                header.data = count(text.len());
                out.extend_from_slice(text);
            }
            ReplyBody::Stream { data2, records } => {
                header.data2 = *data2;
                for record in records {
                    record.encode(out);
                }
            }
        }
    }

    /// The reply with this header and payload, whose length
    /// [`ReplyShape::of`] gave. State records are not part of it.
    ///
    /// # Errors
    /// When the payload is shorter than the command's.
    pub fn decode(header: &Header, payload: &[u8]) -> Result<Self, ReplyError> {
        let mut reader = Reader(payload);
        let from = &mut reader;
        let result = header.result();
        let body = match header.command() {
            Some(Command::Inquire) => ReplyBody::Inquiry {
                count: header.data2,
                text: until_nul(payload).to_vec(),
            },
            Some(Command::ReadLockspace) if !payload.is_empty() => {
                check(payload, LOCKSPACE_BYTES)?;
                ReplyBody::Lockspace {
                    io_timeout_s: header.data2,
                    lockspace: Lockspace::read(from),
                }
            }
            Some(Command::ReadResource) if !payload.is_empty() => {
                check(payload, RESOURCE_BYTES)?;
                ReplyBody::Resource(Resource::read(from).0)
            }
            Some(Command::ReadResourceOwners) if !payload.is_empty() => {
                check(payload, RESOURCE_BYTES)?;
                let resource = Resource::read(from).0;
                let owners = entries(from.0, header.data2, HOST_BYTES);
                ReplyBody::Owners {
                    resource,
                    owners: owners.map(|bytes| Host::read(&mut Reader(bytes))).collect(),
                }
            }
            Some(Command::GetLockspaces) => ReplyBody::Lockspaces(
                entries(payload, header.data2, LOCKSPACE_BYTES)
                    .map(|bytes| Lockspace::read(&mut Reader(bytes)))
                    .collect(),
            ),
            Some(Command::GetHosts) => ReplyBody::Hosts(
                entries(payload, header.data2, HOST_BYTES)
                    .map(|bytes| Host::read(&mut Reader(bytes)))
                    .collect(),
            ),
            Some(Command::GetLvb) if result >= 0 => ReplyBody::Lvb(payload.to_vec()),
            Some(Command::Version) => ReplyBody::Version(header.data2),
            Some(
                Command::UpdateRindex
                | Command::LookupRindex
                | Command::CreateResource
                | Command::DeleteResource,
            ) if !payload.is_empty() => {
                check(payload, RENTRY_BYTES)?;
                ReplyBody::Entry(Rentry::read(from))
            }
            Some(Command::LogDump) => ReplyBody::Log(payload.to_vec()),
            Some(Command::Metrics) => ReplyBody::Metrics(payload.to_vec()),
            Some(Command::Status | Command::HostStatus | Command::Renewal) => ReplyBody::Stream {
                data2: header.data2,
                records: Vec::new(),
            },
            _ => ReplyBody::Empty,
        };
        Ok(Self { result, body })
    }
}

fn check(payload: &[u8], expected: usize) -> Result<(), ReplyError> {
    if payload.len() < expected {
        return Err(ReplyError::Short {
            found: payload.len(),
            expected,
        });
    }
    Ok(())
}

/// The whole entries there are, at most as many as said.
fn entries(payload: &[u8], said: u32, size: usize) -> impl Iterator<Item = &[u8]> {
    payload
        .chunks_exact(size)
        .take(usize::try_from(said).unwrap_or(usize::MAX))
}

/// The entries that fit; the header tells their number and whether some did not.
fn fit<'a, T>(header: &mut Header, entries: &'a [T], size: usize) -> &'a [T] {
    let most = BUFFER_MAX / size;
    let fit = entries.get(..most).unwrap_or(entries);
    if fit.len() < entries.len() {
        header.data = ENOSPC.cast_unsigned();
    }
    header.data2 = count(fit.len());
    fit
}

fn count(entries: usize) -> u32 {
    u32::try_from(entries).unwrap_or(u32::MAX)
}
