//! Where a request ends.

use crate::command::Command;
use crate::flags::ReleaseFlags;
use crate::header::{HEADER_BYTES, Header};
use crate::reply::{Reply, ReplyBody};
use crate::request::{ACQUIRE_MAX, KILLPATH_BYTES, LVB_MAX, REG_EVENT_UNUSED, count_of};
use crate::structs::{
    DISK_BYTES, DISKS_MAX, HOST_EVENT_BYTES, LOCKSPACE_BYTES, OPTIONS_BYTES, RENTRY_BYTES,
    RESOURCE_BYTES, RINDEX_BYTES, Resource,
};
use crate::wire::Reader;

/// Too many resources or too long a value.
const E2BIG: i32 = -7;
/// A value whose length would be negative.
const ENOMEM: i32 = -12;
/// No disk, or more than four.
const ERANGE: i32 = -34;

/// How much of a payload is known to be needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// This many payload bytes; when they are there, ask again.
    Bytes(usize),
    /// The payload will not be accepted: answer this, then forget so many
    /// bytes of it, at least.
    Refused { reply: Reply, skip: u64 },
}

impl Need {
    fn refused(code: i32, skip: u64) -> Self {
        Self::Refused {
            reply: Reply::code(code),
            skip,
        }
    }
}

/// How many payload bytes are needed, by command and counts in what came so far.
pub(crate) fn need(command: Command, header: &Header, payload: &[u8]) -> Need {
    match command {
        Command::Register
        | Command::Shutdown
        | Command::Status
        | Command::LogDump
        | Command::Inquire
        | Command::Restrict
        | Command::GetLockspaces
        | Command::Version
        | Command::ShutdownWait
        | Command::Metrics => Need::Bytes(0),
        Command::AddLockspace
        | Command::RemLockspace
        | Command::ExamineLockspace
        | Command::HostStatus
        | Command::InqLockspace
        | Command::WriteLockspace
        | Command::ReadLockspace
        | Command::GetHosts
        | Command::EndEvent
        | Command::SetConfig
        | Command::Renewal => Need::Bytes(LOCKSPACE_BYTES),
        Command::RegEvent => Need::Bytes(LOCKSPACE_BYTES + REG_EVENT_UNUSED),
        Command::SetEvent => Need::Bytes(LOCKSPACE_BYTES + HOST_EVENT_BYTES),
        Command::Align => Need::Bytes(DISK_BYTES),
        Command::Killpath => Need::Bytes(2 * KILLPATH_BYTES),
        Command::ExamineResource | Command::GetLvb | Command::Convert => {
            Need::Bytes(RESOURCE_BYTES)
        }
        Command::Request
        | Command::WriteResource
        | Command::ReadResource
        | Command::ReadResourceOwners => match resources_with_disks(1, payload) {
            Need::Refused { reply, skip } => Need::Refused {
                reply: with_resource(command, reply, payload),
                skip,
            },
            needed @ Need::Bytes(_) => needed,
        },
        Command::Acquire if header.data > ACQUIRE_MAX => Need::refused(E2BIG, 0),
        Command::Acquire => match resources_with_disks(header.data, payload) {
            Need::Bytes(bytes) if bytes <= payload.len() => Need::Bytes(bytes + OPTIONS_BYTES),
            other => other,
        },
        Command::Release => release(header),
        Command::SetLvb => lvb(header, payload),
        Command::FormatRindex | Command::RebuildRindex => Need::Bytes(RINDEX_BYTES),
        Command::UpdateRindex
        | Command::LookupRindex
        | Command::CreateResource
        | Command::DeleteResource => Need::Bytes(RINDEX_BYTES + RENTRY_BYTES),
    }
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The only length that a header decides. It is judged once the resource is
/// there, as in the original.
fn lvb(header: &Header, payload: &[u8]) -> Need {
    if payload.len() < RESOURCE_BYTES {
        return Need::Bytes(RESOURCE_BYTES);
    }
    let said = usize::try_from(header.length).unwrap_or(usize::MAX);
    match said.checked_sub(HEADER_BYTES + RESOURCE_BYTES) {
        Some(value) if value <= LVB_MAX => Need::Bytes(RESOURCE_BYTES + value),
        Some(_) => Need::refused(E2BIG, bytes(said - HEADER_BYTES)),
        None => Need::refused(ENOMEM, bytes(RESOURCE_BYTES)),
    }
}

fn release(header: &Header) -> Need {
    let flags = ReleaseFlags(header.cmd_flags);
    if flags.has(ReleaseFlags::ORPHAN) {
        Need::Bytes(RESOURCE_BYTES)
    } else if flags.has(ReleaseFlags::ALL) {
        Need::Bytes(0)
    } else if flags.has(ReleaseFlags::RENAME) {
        Need::Bytes(2 * RESOURCE_BYTES)
    } else if header.data > ACQUIRE_MAX {
        Need::refused(E2BIG, u64::from(header.data) * bytes(RESOURCE_BYTES))
    } else {
        Need::Bytes(count_of(header.data) * RESOURCE_BYTES)
    }
}

/// Resources one after the other, each followed by as many disks as it says.
fn resources_with_disks(count: u32, payload: &[u8]) -> Need {
    let mut end = 0;
    for _ in 0..count {
        let start = end;
        end += RESOURCE_BYTES;
        let Some(fields) = payload.get(start..end) else {
            return Need::Bytes(end);
        };
        let (_, disks) = Resource::read(&mut Reader(fields));
        match usize::try_from(disks) {
            Ok(disks @ 1..=DISKS_MAX) => end += disks * DISK_BYTES,
            Ok(_) | Err(_) => {
                return Need::refused(ERANGE, bytes(end));
            }
        }
        if payload.len() < end {
            return Need::Bytes(end);
        }
    }
    Need::Bytes(end)
}

/// Clients of the two reading commands take a resource even with an error.
fn with_resource(command: Command, reply: Reply, payload: &[u8]) -> Reply {
    let (resource, _) = Resource::read(&mut Reader(payload));
    let body = match command {
        Command::ReadResource => ReplyBody::Resource(resource),
        Command::ReadResourceOwners => ReplyBody::Owners {
            resource,
            owners: Vec::new(),
        },
        _ => return reply,
    };
    Reply { body, ..reply }
}
