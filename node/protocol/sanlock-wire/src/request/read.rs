//! From a complete payload to a request.

use super::{ACQUIRE_MAX, KILLPATH_BYTES, LVB_MAX, Release, Request, Target, count_of};
use crate::command::Command;
use crate::flags::{
    AcquireFlags, AddFlags, ConfigAction, ConvertFlags, EventFlags, ForceMode, InquireFlags,
    KillpathFlags, ReleaseFlags, RemoveFlags, RequestFlags, RestrictFlags, RindexFlags, WriteFlags,
};
use crate::header::Header;
use crate::structs::{Disk, DiskPath, HostEvent, Lockspace, Options, Rentry, Resource, Rindex};
use crate::wire::Reader;

impl Request {
    /// The request of a complete payload.
    #[expect(clippy::too_many_lines, reason = "one arm per command")]
    pub(crate) fn decode(command: Command, header: &Header, payload: &[u8]) -> Self {
        let mut reader = Reader(payload);
        let from = &mut reader;
        let target = Target::from_data2(header.data2);
        let flags = header.cmd_flags;
        let rindex_flags = RindexFlags(flags);
        match command {
            Command::Register => Self::Register,
            Command::AddLockspace => Self::AddLockspace {
                lockspace: Lockspace::read(from),
                io_timeout_s: header.data,
                flags: AddFlags(flags),
            },
            Command::RemLockspace => Self::RemLockspace {
                lockspace: Lockspace::read(from),
                flags: RemoveFlags(flags),
            },
            Command::Shutdown => Self::Shutdown {
                force: header.data != 0,
            },
            Command::Status => Self::Status {
                detail: header.data,
            },
            Command::LogDump => Self::LogDump,
            Command::Acquire => Self::Acquire {
                target,
                flags: AcquireFlags(flags),
                resources: (0..header.data.min(ACQUIRE_MAX))
                    .map(|_| Resource::read_with_disks(from))
                    .collect(),
                options: Options::read(from),
            },
            Command::Release => Self::Release {
                target,
                release: Release::read(header, from),
            },
            Command::Inquire => Self::Inquire { target },
            Command::Restrict => Self::Restrict {
                flags: RestrictFlags(flags),
            },
            Command::Request => Self::Request {
                resource: Resource::read_with_disks(from),
                force_mode: ForceMode::from_number(header.data),
                flags: RequestFlags(flags),
            },
            Command::Align => Self::Align {
                disk: Disk::read(from),
            },
            Command::ExamineLockspace => Self::ExamineLockspace {
                lockspace: Lockspace::read(from),
            },
            Command::ExamineResource => Self::ExamineResource {
                resource: Resource::read(from).0,
            },
            Command::HostStatus => Self::HostStatus {
                lockspace: Lockspace::read(from),
            },
            Command::InqLockspace => Self::InqLockspace {
                lockspace: Lockspace::read(from),
                flags: InquireFlags(flags),
            },
            Command::Killpath => Self::Killpath {
                target,
                flags: KillpathFlags(flags),
                path: killpath_text(from, DiskPath::new).unwrap_or_default(),
                arguments: killpath_text(from, |text| text.into()),
            },
            Command::WriteLockspace => Self::WriteLockspace {
                lockspace: Lockspace::read(from),
                max_hosts: header.data,
                io_timeout_s: header.data2,
            },
            Command::WriteResource => Self::WriteResource {
                resource: Resource::read_with_disks(from),
                max_hosts: header.data,
                num_hosts: header.data2,
                flags: WriteFlags(flags),
            },
            Command::ReadLockspace => Self::ReadLockspace {
                lockspace: Lockspace::read(from),
            },
            Command::ReadResource => Self::ReadResource {
                resource: Resource::read_with_disks(from),
            },
            Command::GetLockspaces => Self::GetLockspaces,
            Command::GetHosts => Self::GetHosts {
                lockspace: Lockspace::read(from),
            },
            Command::ReadResourceOwners => Self::ReadResourceOwners {
                resource: Resource::read_with_disks(from),
            },
            Command::SetLvb => Self::SetLvb {
                resource: Resource::read(from).0,
                value: from.slice(LVB_MAX).into(),
            },
            Command::GetLvb => Self::GetLvb {
                resource: Resource::read(from).0,
                wanted: header.data2,
            },
            Command::Convert => Self::Convert {
                target,
                resource: Resource::read(from).0,
                flags: ConvertFlags(flags),
            },
            Command::Version => Self::Version,
            Command::ShutdownWait => Self::ShutdownWait {
                force: header.data != 0,
            },
            Command::RegEvent => Self::RegEvent {
                lockspace: Lockspace::read(from),
            },
            Command::EndEvent => Self::EndEvent {
                lockspace: Lockspace::read(from),
            },
            Command::SetEvent => Self::SetEvent {
                lockspace: Lockspace::read(from),
                event: HostEvent::read(from),
                flags: EventFlags(flags),
            },
            Command::SetConfig => Self::SetConfig {
                lockspace: Lockspace::read(from),
                action: ConfigAction::from_number(header.data),
            },
            Command::Renewal => Self::Renewal {
                lockspace: Lockspace::read(from),
            },
            Command::FormatRindex => Self::FormatRindex {
                rindex: Rindex::read(from),
                flags: rindex_flags,
            },
            Command::UpdateRindex => Self::UpdateRindex {
                rindex: Rindex::read(from),
                entry: Rentry::read(from),
                flags: rindex_flags,
            },
            Command::LookupRindex => Self::LookupRindex {
                rindex: Rindex::read(from),
                entry: Rentry::read(from),
                flags: rindex_flags,
            },
            Command::CreateResource => Self::CreateResource {
                rindex: Rindex::read(from),
                entry: Rentry::read(from),
                max_hosts: header.data,
                num_hosts: header.data2,
                flags: rindex_flags,
            },
            Command::DeleteResource => Self::DeleteResource {
                rindex: Rindex::read(from),
                entry: Rentry::read(from),
                flags: rindex_flags,
            },
            Command::Metrics => Self::Metrics,
            Command::RebuildRindex => Self::RebuildRindex {
                rindex: Rindex::read(from),
                flags: rindex_flags,
            },
        }
    }
}

/// One of killpath's texts; without a NUL it loses its last byte.
fn killpath_text<T>(from: &mut Reader<'_>, make: impl FnOnce(&[u8]) -> T) -> T {
    let text = from.text(KILLPATH_BYTES);
    make(text.get(..KILLPATH_BYTES - 1).unwrap_or(text))
}

impl Release {
    fn read(header: &Header, from: &mut Reader<'_>) -> Self {
        let flags = ReleaseFlags(header.cmd_flags);
        if flags.has(ReleaseFlags::ORPHAN) {
            Self::Orphans(Resource::read(from).0)
        } else if flags.has(ReleaseFlags::ALL) {
            Self::All
        } else if flags.has(ReleaseFlags::RENAME) {
            Self::Rename {
                old: Resource::read(from).0,
                new: Resource::read(from).0,
            }
        } else {
            Self::Resources(
                (0..count_of(header.data))
                    .map(|_| Resource::read(from).0)
                    .collect(),
            )
        }
    }
}
