//! Replies too long to be held in memory at once: made as they are taken.

use std::rc::Rc;

use disk_format::HostId;

use super::Daemon;
use super::space::Phase;
use crate::keeper::SpaceId;
use crate::resources::{ClientId, ResourceStatus};

/// Newer than every lockspace.
const NEWEST: SpaceId = SpaceId(u32::MAX);
/// Bytes made at a time, about.
const CHUNK_BYTES: usize = 64 * 1024;

/// How far a reply has been made.
#[derive(Debug)]
pub(crate) enum Stream {
    /// `STATUS`: the daemon itself is already written.
    Status {
        /// What is left out, as the request says.
        detail: u32,
        stage: Stage,
        resources: Rc<Vec<ResourceStatus>>,
        /// Descriptor of the connection that asks.
        descriptor: i32,
    },
    /// `HOST_STATUS`, from this host on.
    Hosts { space: SpaceId, next: usize },
}

/// What of `STATUS` comes next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    /// The client after this one.
    Clients(ClientId),
    /// The lockspace before this one, on the list of this phase.
    Spaces(Phase, SpaceId),
    /// The resource at this place.
    Resources(usize),
}

/// `STATUS` detail: only the daemon.
pub(super) const DETAIL_DAEMON: u32 = 1;
/// `STATUS` detail: clients, too.
const DETAIL_CLIENTS: u32 = 2;
/// `STATUS` detail: lockspaces, too.
const DETAIL_SPACES: u32 = 3;

impl Daemon {
    /// Makes more of a stream; `false`: that was its end.
    pub(super) fn refill(&self, own: ClientId, stream: &mut Stream, out: &mut Vec<u8>) -> bool {
        let enough = out.len() + CHUNK_BYTES;
        while out.len() < enough {
            let more = match stream {
                Stream::Status {
                    detail,
                    stage,
                    resources,
                    descriptor,
                } => {
                    match self.refill_status((own, *descriptor), *detail, *stage, resources, out) {
                        Some(next) => {
                            *stage = next;
                            true
                        }
                        None => false,
                    }
                }
                Stream::Hosts { space, next } => self.refill_hosts(*space, next, out),
            };
            if !more {
                return false;
            }
        }
        true
    }

    /// Makes one item; what comes after it.
    fn refill_status(
        &self,
        own: (ClientId, i32),
        detail: u32,
        stage: Stage,
        resources: &[ResourceStatus],
        out: &mut Vec<u8>,
    ) -> Option<Stage> {
        match stage {
            Stage::Clients(after) => match self.clients.after(after) {
                Some((id, client)) => {
                    self.client_record(id, client).encode(out);
                    Some(Stage::Clients(id))
                }
                None => {
                    // The asking connection is out of the table while it is
                    // written to.
                    self.own_record(own).encode(out);
                    (detail != DETAIL_CLIENTS).then_some(Stage::Spaces(Phase::Joined, NEWEST))
                }
            },
            Stage::Spaces(phase, last) => match self.spaces.before(last, phase) {
                Some(space) => {
                    self.space_record(space).encode(out);
                    Some(Stage::Spaces(phase, space.id))
                }
                None => match phase {
                    Phase::Joined => Some(Stage::Spaces(Phase::Adding, NEWEST)),
                    Phase::Adding => Some(Stage::Spaces(Phase::Removing, NEWEST)),
                    Phase::Removing => (detail != DETAIL_SPACES).then_some(Stage::Resources(0)),
                },
            },
            Stage::Resources(index) => {
                resources.get(index)?.record().encode(out);
                Some(Stage::Resources(index + 1))
            }
        }
    }

    fn refill_hosts(&self, id: SpaceId, next: &mut usize, out: &mut Vec<u8>) -> bool {
        let Some(space) = self.spaces.get(id) else {
            return false;
        };
        let (Some(hosts), Some(geometry)) = (&space.hosts, space.geometry) else {
            return false;
        };
        let found = hosts.seen().find(|(host, _)| host.index() >= *next);
        match found {
            Some((host, seen)) if host.index() < usize::from(geometry.max_hosts()) => {
                Self::host_record(host, &seen).encode(out);
                *next = host.index() + 1;
                HostId::from_index(*next).is_some()
            }
            _ => false,
        }
    }
}
