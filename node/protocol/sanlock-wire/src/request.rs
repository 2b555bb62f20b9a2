//! Requests: what a client sends.

mod put;
mod read;

use disk_format::NameField;

use crate::command::Command;
use crate::flags::{
    AcquireFlags, AddFlags, ConfigAction, ConvertFlags, EventFlags, ForceMode, InquireFlags,
    KillpathFlags, RemoveFlags, RequestFlags, RestrictFlags, RindexFlags, WriteFlags,
};
use crate::structs::{Disk, DiskPath, HostEvent, Lockspace, Options, Rentry, Resource, Rindex};

/// Most resources of one `ACQUIRE` or `RELEASE`.
pub const ACQUIRE_MAX: u32 = 8;
/// Largest lock value in bytes: one sector.
pub const LVB_MAX: usize = 4096;
/// Size of each of killpath's two texts in bytes, with a NUL.
pub(crate) const KILLPATH_BYTES: usize = 128;
/// Unused bytes after the lockspace in `REG_EVENT`.
pub(crate) const REG_EVENT_UNUSED: usize = 32;

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
    Metrics,
}

impl Request {
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
            Self::Metrics => Command::Metrics,
        }
    }
}

/// How many resources a header may announce, at most [`ACQUIRE_MAX`].
pub(crate) fn count_of(data: u32) -> usize {
    usize::try_from(data.min(ACQUIRE_MAX)).unwrap_or(0)
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
