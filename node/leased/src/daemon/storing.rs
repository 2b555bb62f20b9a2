//! Storage commands (spec §6.8): each on a short-lived thread of its own,
//! with what is known of the lockspace as of its start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk_format::{HostId, LockspaceName};
use lease::code::Code;
use lease::hosts::Hosts;
use lease::resource::{Observed, Owners, Us};
use sanlock_wire::{Disk, Header, Rentry, Reply, ReplyBody, Request, RindexFlags, WriteFlags};

use super::space::Space;
use super::{Daemon, Outcome, startup};
use crate::keeper::SpaceId;
use crate::resources::{ClientId, ReplyTo};
use crate::storage::{self, Member};

/// What came of a storage command.
#[derive(Debug)]
pub(super) struct Stored {
    reply: Reply,
    /// The lockspace whose index was worked on.
    index_of: Option<SpaceId>,
}

/// What was known of a lockspace's hosts when a command began.
struct Snapshot {
    lockspace: LockspaceName,
    hosts: BTreeMap<HostId, Observed>,
    valid_until: Arc<AtomicU64>,
}

impl Owners for Snapshot {
    fn observed(&self, lockspace: &LockspaceName, host: HostId) -> Option<Observed> {
        if *lockspace != self.lockspace {
            return None;
        }
        self.hosts.get(&host).copied()
    }

    fn is_joined(&self, lockspace: &LockspaceName) -> bool {
        *lockspace == self.lockspace && is_valid(&self.valid_until)
    }
}

fn is_valid(until: &AtomicU64) -> bool {
    linux::clock::boottime_ns() < until.load(Ordering::Relaxed)
}

impl Daemon {
    /// Starts a storage command.
    pub(super) fn on_storage(&mut self, id: ClientId, header: &Header, request: Request) {
        let Some(path) = path_of(&request).map(|disk| disk.path.as_bytes().to_vec()) else {
            return self.reply(id, header, &Reply::code(Code::EINVAL.0));
        };
        let member = match self.admit(&request) {
            Ok(member) => member,
            Err(code) => {
                let reply = Reply {
                    result: code.0,
                    body: refused_body(&request),
                };
                return self.reply(id, header, &reply);
            }
        };
        let index_of = member.as_ref().map(|(space, _)| *space);
        let member = member.map(|(_, member)| member);
        let to = self.defer(id, header, None);
        let work = move || {
            let reply = store(&request, member.as_ref());
            Outcome::Stored(to, Stored { reply, index_of })
        };
        if self.jobs.start(&path, Box::new(work)) {
            self.set_indexing(index_of, true);
        } else {
            self.log.warn(format_args!(
                "{}: too many storage commands wait for it",
                path.escape_ascii()
            ));
            self.answer(to, &Reply::code(Code::EBUSY.0));
        }
    }

    pub(super) fn on_stored(&mut self, to: ReplyTo, stored: Stored) {
        self.set_indexing(stored.index_of, false);
        self.answer(to, &stored.reply);
    }

    fn set_indexing(&mut self, id: Option<SpaceId>, indexing: bool) {
        if let Some(space) = id.and_then(|id| self.spaces.get_mut(id)) {
            space.indexing = indexing;
        }
    }

    /// Whether a command may begin: index commands need the lockspace, and
    /// there is one at a time.
    fn admit(&self, request: &Request) -> Result<Option<(SpaceId, Member)>, Code> {
        let (index, flags, always) = match request {
            Request::UpdateRindex { rindex, flags, .. }
            | Request::LookupRindex { rindex, flags, .. }
            | Request::RebuildRindex { rindex, flags } => (rindex, *flags, false),
            Request::CreateResource { rindex, flags, .. }
            | Request::DeleteResource { rindex, flags, .. } => (rindex, *flags, true),
            _ => return Ok(None),
        };
        if flags.has(RindexFlags::NO_LOCKSPACE) && !always {
            return Ok(None);
        }
        let space = self
            .spaces
            .named(&index.lockspace_name)
            .ok_or(Code::ENOENT)?;
        if !space.is_healthy() {
            return Err(Code::ENOSPC);
        }
        if space.indexing {
            return Err(Code::EBUSY);
        }
        let member = self.member(space).ok_or(Code::ENOSPC)?;
        Ok(Some((space.id, member)))
    }

    fn member(&self, space: &Space) -> Option<Member> {
        let snapshot = Snapshot {
            lockspace: space.name,
            // Right after joining nobody was looked at yet.
            hosts: space
                .hosts
                .iter()
                .flat_map(Hosts::seen)
                .map(|(host, seen)| (host, Observed::from(&seen)))
                .collect(),
            valid_until: Arc::clone(&space.valid_until),
        };
        let valid_until = Arc::clone(&space.valid_until);
        Some(Member {
            us: Us {
                host_id: space.host_id,
                generation: space.generation,
                io_timeout_s: space.io_timeout_s,
                fire_timeout_s: self.options.fire_timeout_s,
            },
            lockspace: space.name,
            geometry: space.geometry?,
            space: space.asked.disk.clone(),
            owners: Box::new(snapshot),
            alive: Box::new(move || is_valid(&valid_until)),
            seed: startup::seed(),
        })
    }
}

/// The disk whose path a command may hang on.
fn path_of(request: &Request) -> Option<&Disk> {
    match request {
        Request::Align { disk } => Some(disk),
        Request::WriteLockspace { lockspace, .. } | Request::ReadLockspace { lockspace } => {
            Some(&lockspace.disk)
        }
        Request::WriteResource { resource, .. }
        | Request::ReadResource { resource }
        | Request::ReadResourceOwners { resource } => resource.disks.first(),
        Request::FormatRindex { rindex, .. }
        | Request::UpdateRindex { rindex, .. }
        | Request::LookupRindex { rindex, .. }
        | Request::CreateResource { rindex, .. }
        | Request::DeleteResource { rindex, .. }
        | Request::RebuildRindex { rindex, .. } => Some(&rindex.disk),
        _ => None,
    }
}

/// What follows the header of a refusal, as the original sends it.
fn refused_body(request: &Request) -> ReplyBody {
    match request {
        Request::UpdateRindex { .. }
        | Request::LookupRindex { .. }
        | Request::CreateResource { .. }
        | Request::DeleteResource { .. } => ReplyBody::Entry(Rentry::default()),
        _ => ReplyBody::Empty,
    }
}

/// Does a command; may block for as long as the device likes.
fn store(request: &Request, member: Option<&Member>) -> Reply {
    let entry = |(code, entry): (Code, Rentry)| Reply {
        result: code.0,
        body: ReplyBody::Entry(entry),
    };
    // Only index commands that were admitted with a membership get here.
    let joined = |work: &dyn Fn(&Member) -> (Code, Rentry)| {
        entry(member.map_or((Code::ENOENT, Rentry::default()), work))
    };
    match request {
        Request::Align { disk } => Reply::code(storage::align(disk).0),
        Request::WriteLockspace {
            lockspace,
            io_timeout_s,
            ..
        } => Reply::code(storage::write_lockspace(lockspace, *io_timeout_s).0),
        Request::ReadLockspace { lockspace } => {
            let (code, lockspace, io_timeout_s) = storage::read_lockspace(lockspace);
            Reply {
                result: code.0,
                body: ReplyBody::Lockspace {
                    io_timeout_s,
                    lockspace,
                },
            }
        }
        Request::WriteResource {
            resource,
            max_hosts,
            num_hosts,
            flags,
        } => {
            // The original takes the number of hosts from the field that is
            // meant for the largest one, and its tools count on that.
            let hosts = if *max_hosts == 0 {
                num_hosts
            } else {
                max_hosts
            };
            let clear = flags.has(WriteFlags::CLEAR);
            Reply::code(storage::write_resource(resource, hosts.cast_signed(), clear).0)
        }
        Request::ReadResource { resource } => {
            let (code, resource) = storage::read_resource(resource);
            Reply {
                result: code.0,
                body: ReplyBody::Resource(resource),
            }
        }
        Request::ReadResourceOwners { resource } => {
            let (code, resource, owners) = storage::read_resource_owners(resource);
            Reply {
                result: code.0,
                body: ReplyBody::Owners { resource, owners },
            }
        }
        Request::FormatRindex { rindex, .. } => Reply::code(storage::format_rindex(rindex).0),
        Request::RebuildRindex { rindex, .. } => {
            Reply::code(storage::rebuild_rindex(rindex, member).0)
        }
        Request::UpdateRindex {
            rindex,
            entry: wanted,
            flags,
        } => entry(storage::update_rindex(rindex, wanted, *flags)),
        Request::LookupRindex {
            rindex,
            entry: wanted,
            ..
        } => entry(storage::lookup_rindex(rindex, wanted)),
        Request::CreateResource {
            rindex,
            entry: wanted,
            num_hosts,
            ..
        } => joined(&|member| storage::create_resource(rindex, wanted, *num_hosts, member)),
        Request::DeleteResource {
            rindex,
            entry: wanted,
            ..
        } => joined(&|member| storage::delete_resource(rindex, wanted, member)),
        _ => Reply::code(Code::EINVAL.0),
    }
}
