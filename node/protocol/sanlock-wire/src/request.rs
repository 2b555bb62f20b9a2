//! Requests: what a client sends.

use disk_format::NameField;

use crate::command::Command;
use crate::flags::{
    AcquireFlags, AddFlags, ConfigAction, ConvertFlags, EventFlags, ForceMode, InquireFlags,
    KillpathFlags, ReleaseFlags, RemoveFlags, RequestFlags, RestrictFlags, RindexFlags, WriteFlags,
};
use crate::header::{HEADER_BYTES, Header};
use crate::structs::{
    DISK_BYTES, DISKS_MAX, Disk, DiskPath, HOST_EVENT_BYTES, HostEvent, LOCKSPACE_BYTES, Lockspace,
    OPTIONS_BYTES, Options, RENTRY_BYTES, RESOURCE_BYTES, RINDEX_BYTES, Rentry, Resource, Rindex,
};
use crate::wire::{Put, Reader};

/// Most resources of one `ACQUIRE` or `RELEASE`.
pub const ACQUIRE_MAX: u32 = 8;
/// Largest lock value in bytes: one sector.
pub const LVB_MAX: usize = 4096;
/// Size of each of killpath's two texts in bytes, with a NUL.
const KILLPATH_BYTES: usize = 128;
/// Unused bytes after the lockspace in `REG_EVENT`.
const REG_EVENT_UNUSED: usize = 32;

/// Too many resources or too long a value.
const E2BIG: i32 = -7;
/// No disk, or more than four.
const ERANGE: i32 = -34;

/// Whose leases a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This connection's process.
    ThisConnection,
    /// The registered process with this id.
    Pid(i32),
}

impl Target {
    fn from_data2(data2: u32) -> Self {
        match data2.cast_signed() {
            -1 => Self::ThisConnection,
            pid => Self::Pid(pid),
        }
    }

    fn data2(self) -> u32 {
        match self {
            Self::ThisConnection => u32::MAX,
            Self::Pid(pid) => pid.cast_unsigned(),
        }
    }
}

/// What to release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Every lease of the process.
    All,
    /// These.
    Resources(Vec<Resource>),
    /// One, giving it another name on disk.
    Rename {
        /// The lease.
        old: Resource,
        /// Only its `name` counts.
        new: Resource,
    },
    /// An orphan; with an empty name all orphans of the lockspace.
    Orphans(Resource),
}

/// A request. Resources have disks only where the command carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "fields are named for what they are; see Command"
)]
pub enum Request {
    Register,
    AddLockspace {
        lockspace: Lockspace,
        io_timeout_s: u32,
        flags: AddFlags,
    },
    RemLockspace {
        lockspace: Lockspace,
        flags: RemoveFlags,
    },
    Shutdown {
        force: bool,
    },
    Status {
        detail: u32,
    },
    LogDump,
    Acquire {
        target: Target,
        flags: AcquireFlags,
        resources: Vec<Resource>,
        options: Options,
    },
    Release {
        target: Target,
        release: Release,
    },
    Inquire {
        target: Target,
    },
    Restrict {
        flags: RestrictFlags,
    },
    Request {
        resource: Resource,
        force_mode: ForceMode,
        flags: RequestFlags,
    },
    Align {
        disk: Disk,
    },
    ExamineLockspace {
        lockspace: Lockspace,
    },
    ExamineResource {
        resource: Resource,
    },
    HostStatus {
        lockspace: Lockspace,
    },
    InqLockspace {
        lockspace: Lockspace,
        flags: InquireFlags,
    },
    Killpath {
        target: Target,
        flags: KillpathFlags,
        path: DiskPath,
        arguments: Box<[u8]>,
    },
    WriteLockspace {
        lockspace: Lockspace,
        max_hosts: u32,
        io_timeout_s: u32,
    },
    WriteResource {
        resource: Resource,
        max_hosts: u32,
        num_hosts: u32,
        flags: WriteFlags,
    },
    ReadLockspace {
        lockspace: Lockspace,
    },
    ReadResource {
        resource: Resource,
    },
    GetLockspaces,
    GetHosts {
        lockspace: Lockspace,
    },
    ReadResourceOwners {
        resource: Resource,
    },
    SetLvb {
        resource: Resource,
        value: Box<[u8]>,
    },
    GetLvb {
        resource: Resource,
        wanted: u32,
    },
    Convert {
        target: Target,
        resource: Resource,
        flags: ConvertFlags,
    },
    Version,
    ShutdownWait {
        force: bool,
    },
    RegEvent {
        lockspace: Lockspace,
    },
    EndEvent {
        lockspace: Lockspace,
    },
    SetEvent {
        lockspace: Lockspace,
        event: HostEvent,
        flags: EventFlags,
    },
    SetConfig {
        lockspace: Lockspace,
        action: ConfigAction,
    },
    Renewal {
        lockspace: Lockspace,
    },
    FormatRindex {
        rindex: Rindex,
        flags: RindexFlags,
    },
    UpdateRindex {
        rindex: Rindex,
        entry: Rentry,
        flags: RindexFlags,
    },
    LookupRindex {
        rindex: Rindex,
        entry: Rentry,
        flags: RindexFlags,
    },
    CreateResource {
        rindex: Rindex,
        entry: Rentry,
        max_hosts: u32,
        num_hosts: u32,
        flags: RindexFlags,
    },
    DeleteResource {
        rindex: Rindex,
        entry: Rentry,
        flags: RindexFlags,
    },
    RebuildRindex {
        rindex: Rindex,
        flags: RindexFlags,
    },
}

/// How much of a payload is known to be needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// This many payload bytes; when they are there, ask again.
    Bytes(usize),
    /// The payload will not be accepted: answer this, then forget so many bytes.
    Refused { code: i32, skip: u64 },
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
        | Command::ShutdownWait => Need::Bytes(0),
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
        | Command::ReadResourceOwners => resources_with_disks(1, payload),
        Command::Acquire if header.data > ACQUIRE_MAX => Need::Refused {
            code: E2BIG,
            skip: 0,
        },
        Command::Acquire => match resources_with_disks(header.data, payload) {
            Need::Bytes(bytes) if bytes <= payload.len() => Need::Bytes(bytes + OPTIONS_BYTES),
            other => other,
        },
        Command::Release => release(header),
        Command::SetLvb => match lvb_bytes(header) {
            value if value <= LVB_MAX => Need::Bytes(RESOURCE_BYTES + value),
            _ => Need::Refused {
                code: E2BIG,
                skip: u64::from(header.length).saturating_sub(32),
            },
        },
        Command::FormatRindex | Command::RebuildRindex => Need::Bytes(RINDEX_BYTES),
        Command::UpdateRindex
        | Command::LookupRindex
        | Command::CreateResource
        | Command::DeleteResource => Need::Bytes(RINDEX_BYTES + RENTRY_BYTES),
    }
}

/// The only length that a header decides.
fn lvb_bytes(header: &Header) -> usize {
    usize::try_from(header.length)
        .unwrap_or(usize::MAX)
        .saturating_sub(HEADER_BYTES + RESOURCE_BYTES)
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
        Need::Refused {
            code: E2BIG,
            skip: 0,
        }
    } else {
        Need::Bytes(count_of(header.data) * RESOURCE_BYTES)
    }
}

fn count_of(data: u32) -> usize {
    usize::try_from(data.min(ACQUIRE_MAX)).unwrap_or(0)
}

/// Resources one after the other, each followed by as many disks as it says.
fn resources_with_disks(count: u32, payload: &[u8]) -> Need {
    let mut end = 0;
    for _ in 0..count {
        let start = end;
        end += RESOURCE_BYTES;
        let Some(bytes) = payload.get(start..end) else {
            return Need::Bytes(end);
        };
        let (_, disks) = Resource::read(&mut Reader(bytes));
        match usize::try_from(disks) {
            Ok(disks @ 1..=DISKS_MAX) => end += disks * DISK_BYTES,
            Ok(_) | Err(_) => {
                return Need::Refused {
                    code: ERANGE,
                    skip: 0,
                };
            }
        }
        if payload.len() < end {
            return Need::Bytes(end);
        }
    }
    Need::Bytes(end)
}

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
            Command::RebuildRindex => Self::RebuildRindex {
                rindex: Rindex::read(from),
                flags: rindex_flags,
            },
        }
    }

    /// Its command.
    #[must_use]
    pub fn command(&self) -> Command {
        match self {
            Self::Register => Command::Register,
            Self::AddLockspace { .. } => Command::AddLockspace,
            Self::RemLockspace { .. } => Command::RemLockspace,
            Self::Shutdown { .. } => Command::Shutdown,
            Self::Status { .. } => Command::Status,
            Self::LogDump => Command::LogDump,
            Self::Acquire { .. } => Command::Acquire,
            Self::Release { .. } => Command::Release,
            Self::Inquire { .. } => Command::Inquire,
            Self::Restrict { .. } => Command::Restrict,
            Self::Request { .. } => Command::Request,
            Self::Align { .. } => Command::Align,
            Self::ExamineLockspace { .. } => Command::ExamineLockspace,
            Self::ExamineResource { .. } => Command::ExamineResource,
            Self::HostStatus { .. } => Command::HostStatus,
            Self::InqLockspace { .. } => Command::InqLockspace,
            Self::Killpath { .. } => Command::Killpath,
            Self::WriteLockspace { .. } => Command::WriteLockspace,
            Self::WriteResource { .. } => Command::WriteResource,
            Self::ReadLockspace { .. } => Command::ReadLockspace,
            Self::ReadResource { .. } => Command::ReadResource,
            Self::GetLockspaces => Command::GetLockspaces,
            Self::GetHosts { .. } => Command::GetHosts,
            Self::ReadResourceOwners { .. } => Command::ReadResourceOwners,
            Self::SetLvb { .. } => Command::SetLvb,
            Self::GetLvb { .. } => Command::GetLvb,
            Self::Convert { .. } => Command::Convert,
            Self::Version => Command::Version,
            Self::ShutdownWait { .. } => Command::ShutdownWait,
            Self::RegEvent { .. } => Command::RegEvent,
            Self::EndEvent { .. } => Command::EndEvent,
            Self::SetEvent { .. } => Command::SetEvent,
            Self::SetConfig { .. } => Command::SetConfig,
            Self::Renewal { .. } => Command::Renewal,
            Self::FormatRindex { .. } => Command::FormatRindex,
            Self::UpdateRindex { .. } => Command::UpdateRindex,
            Self::LookupRindex { .. } => Command::LookupRindex,
            Self::CreateResource { .. } => Command::CreateResource,
            Self::DeleteResource { .. } => Command::DeleteResource,
            Self::RebuildRindex { .. } => Command::RebuildRindex,
        }
    }

    /// The message, as the original's library sends it (also where its
    /// `length` is wrong).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut header = Header::request(self.command());
        let mut out = vec![0; HEADER_BYTES];
        self.put(&mut header, &mut out);
        let payload = out.len() - HEADER_BYTES;
        let said = match self {
            Self::HostStatus { .. } | Self::Renewal { .. } => 0,
            Self::LookupRindex { .. } => RINDEX_BYTES + RESOURCE_BYTES,
            _ => payload,
        };
        header.length = u32::try_from(HEADER_BYTES + said).unwrap_or(u32::MAX);
        if let Some(place) = out.first_chunk_mut() {
            *place = header.encode();
        }
        out
    }

    /// Sets the header's words and appends the payload.
    #[expect(clippy::too_many_lines, reason = "one arm per command")]
    fn put(&self, header: &mut Header, out: &mut Vec<u8>) {
        match self {
            Self::Register | Self::LogDump | Self::GetLockspaces | Self::Version => {}
            Self::AddLockspace {
                lockspace,
                io_timeout_s,
                flags,
            } => {
                header.cmd_flags = flags.0;
                header.data = *io_timeout_s;
                lockspace.put(out);
            }
            Self::RemLockspace { lockspace, flags } => {
                header.cmd_flags = flags.0;
                lockspace.put(out);
            }
            Self::Shutdown { force } | Self::ShutdownWait { force } => {
                header.data = u32::from(*force);
            }
            Self::Status { detail } => header.data = *detail,
            Self::Acquire {
                target,
                flags,
                resources,
                options,
            } => {
                header.cmd_flags = flags.0;
                header.data = u32::try_from(resources.len()).unwrap_or(u32::MAX);
                header.data2 = target.data2();
                for resource in resources {
                    resource.put_with_disks(out);
                }
                options.put(out);
            }
            Self::Release { target, release } => {
                header.data2 = target.data2();
                release.put(header, out);
            }
            Self::Inquire { target } => header.data2 = target.data2(),
            Self::Restrict { flags } => {
                header.cmd_flags = flags.0;
                header.data2 = u32::MAX;
            }
            Self::Request {
                resource,
                force_mode,
                flags,
            } => {
                header.cmd_flags = flags.0;
                header.data = force_mode.number();
                resource.put_with_disks(out);
            }
            Self::Align { disk } => disk.put(out),
            Self::ExamineLockspace { lockspace }
            | Self::HostStatus { lockspace }
            | Self::ReadLockspace { lockspace }
            | Self::GetHosts { lockspace }
            | Self::EndEvent { lockspace }
            | Self::Renewal { lockspace } => lockspace.put(out),
            Self::ExamineResource { resource } => resource.put(out),
            Self::InqLockspace { lockspace, flags } => {
                header.cmd_flags = flags.0;
                lockspace.put(out);
            }
            Self::Killpath {
                target,
                flags,
                path,
                arguments,
            } => {
                header.cmd_flags = flags.0;
                header.data2 = target.data2();
                for text in [path.as_bytes(), arguments] {
                    out.put_text(
                        text.get(..KILLPATH_BYTES - 1).unwrap_or(text),
                        KILLPATH_BYTES,
                    );
                }
            }
            Self::WriteLockspace {
                lockspace,
                max_hosts,
                io_timeout_s,
            } => {
                header.data = *max_hosts;
                header.data2 = *io_timeout_s;
                lockspace.put(out);
            }
            Self::WriteResource {
                resource,
                max_hosts,
                num_hosts,
                flags,
            } => {
                header.cmd_flags = flags.0;
                header.data = *max_hosts;
                header.data2 = *num_hosts;
                resource.put_with_disks(out);
            }
            Self::ReadResource { resource } | Self::ReadResourceOwners { resource } => {
                resource.put_with_disks(out);
            }
            Self::SetLvb { resource, value } => {
                resource.put(out);
                out.extend_from_slice(value);
            }
            Self::GetLvb { resource, wanted } => {
                header.data2 = *wanted;
                resource.put(out);
            }
            Self::Convert {
                target,
                resource,
                flags,
            } => {
                header.cmd_flags = flags.0;
                header.data2 = target.data2();
                resource.put(out);
            }
            Self::RegEvent { lockspace } => {
                lockspace.put(out);
                out.put_text(&[], REG_EVENT_UNUSED);
            }
            Self::SetEvent {
                lockspace,
                event,
                flags,
            } => {
                header.cmd_flags = flags.0;
                lockspace.put(out);
                event.put(out);
            }
            Self::SetConfig { lockspace, action } => {
                header.data = action.number();
                lockspace.put(out);
            }
            Self::FormatRindex { rindex, flags } | Self::RebuildRindex { rindex, flags } => {
                header.cmd_flags = flags.0;
                rindex.put(out);
            }
            Self::UpdateRindex {
                rindex,
                entry,
                flags,
            }
            | Self::LookupRindex {
                rindex,
                entry,
                flags,
            }
            | Self::DeleteResource {
                rindex,
                entry,
                flags,
            } => {
                header.cmd_flags = flags.0;
                rindex.put(out);
                entry.put(out);
            }
            Self::CreateResource {
                rindex,
                entry,
                max_hosts,
                num_hosts,
                flags,
            } => {
                header.cmd_flags = flags.0;
                header.data = *max_hosts;
                header.data2 = *num_hosts;
                rindex.put(out);
                entry.put(out);
            }
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

    fn put(&self, header: &mut Header, out: &mut Vec<u8>) {
        match self {
            Self::All => header.cmd_flags = ReleaseFlags::ALL.0,
            Self::Resources(resources) => {
                header.data = u32::try_from(resources.len()).unwrap_or(u32::MAX);
                for resource in resources {
                    resource.put(out);
                }
            }
            Self::Rename { old, new } => {
                header.cmd_flags = ReleaseFlags::RENAME.0;
                header.data = 2;
                old.put(out);
                new.put(out);
            }
            Self::Orphans(resource) => {
                header.cmd_flags = ReleaseFlags::ORPHAN.0;
                header.data = 1;
                resource.put(out);
            }
        }
    }
}

/// A lockspace known by name only, as most questions about one have it.
impl From<NameField> for Lockspace {
    fn from(name: NameField) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }
}
