//! From a request to its message.

use super::{KILLPATH_BYTES, REG_EVENT_UNUSED, Release, Request};
use crate::flags::ReleaseFlags;
use crate::header::{HEADER_BYTES, Header};
use crate::structs::{RESOURCE_BYTES, RINDEX_BYTES};
use crate::wire::Put;

impl Request {
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
            Self::Register
            | Self::LogDump
            | Self::GetLockspaces
            | Self::Version
            | Self::Metrics => {}
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

impl Release {
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
