//! Block domains: volume groups on shared LUNs.
//!
//! ```text
//! LUNs ─ LVM text metadata (one writer: whoever has the domain's authority)
//!          │ read directly, without lvm        reader, group
//!          │ written by the lvm program alone  crate::lvm
//!          ├─ metadata  one slot a volume      region (direct I/O)
//!          ├─ ids leases xleases inbox outbox master
//!          └─ a logical volume for each volume
//! ```
//!
//! * A volume group without a domain's marker is never written to.
//! * What LVM commits is decided by the metadata read afterwards, never by an
//!   exit status.
//! * A volume's slot is written before the tags that make it a volume.

mod batch;
mod create;
mod devices;
mod group;
mod health;
mod implementation;
mod links;
mod members;
mod moving;
mod reader;
mod region;
mod slots;
#[cfg(test)]
pub(crate) mod tests;
mod unused;
mod upgrade;
mod vg;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainMetadata, Marker};
use disk_format::vdsm::error::FormatError;
use disk_format::vdsm::lv::{LvState, SpecialLv};
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use linux::disk::Access;

pub use create::{NewBlockDomain, create};
pub use devices::lun_path;
pub use group::{Group, Logical, Physical, Segment};
pub use health::Health;
pub use region::{Piece, Reach, Region};
pub use unused::{deactivate_unused, take_down};

use crate::authority::Authority;
use crate::domain::{EntryState, LeaseLocation, VolumeEntry};
use crate::job::{Context, Result};
use crate::lvm::{Change, Lvm, Mapping};

/// A block domain that is connected.
#[derive(Debug)]
pub struct BlockDomain {
    lvm: Arc<Lvm>,
    id: DomainId,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: reader::Seen,
    version: DomainVersion,
    alignment: u64,
}

/// A domain found on LUNs.
#[derive(Debug)]
pub struct Found {
    /// Its id.
    pub id: DomainId,
    /// Whether it is complete.
    pub marker: Marker,
    /// The volume group.
    pub group: Arc<Group>,
    /// Its metadata, or why they cannot be read.
    pub metadata: Result<DomainMetadata>,
}

/// The domains on the LUNs of this host, complete or half-made.
///
/// # Errors
/// The LUNs cannot be listed.
pub fn find(lvm: &Lvm) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (name, group) in reader::all(lvm)? {
        let group = match group {
            Ok(group) => group,
            Err(failure) => {
                tracing::warn!(group = name, %failure, "volume group not read");
                continue;
            }
        };
        let Ok(id) = name.parse() else { continue };
        let marker = group.marker();
        if marker == Marker::Foreign {
            continue;
        }
        let metadata = metadata_of(&group);
        found.push(Found {
            id,
            marker,
            group,
            metadata,
        });
    }
    Ok(found)
}

/// Removes a domain, complete or half-made, with all that is in it. Can be
/// repeated after a crash.
///
/// # Errors
/// `WrongState` when it is attached to a pool; `Foreign`; `NotFound`; LVM.
pub fn remove(lvm: &Lvm, context: &Context, authority: &dyn Authority, id: DomainId) -> Result<()> {
    let group = reader::read(lvm, &id.to_string())?;
    if group.marker() == Marker::Ready
        && let Ok(metadata) = metadata_of(&group)
        && let Some(pool) = metadata.pools().first()
    {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!("domain {id}: attached to pool {pool}; detach it first"),
        ));
    }
    links::remove(lvm.layout(), id);
    vg::remove(lvm, context, authority, &group)
}

impl BlockDomain {
    /// Opens a domain: reads its group and its metadata, activates its special
    /// volumes and makes its links.
    ///
    /// # Errors
    /// `NotFound`; `Foreign` for a group that is no domain; `Damaged` for one that
    /// is half-made, lacks a special volume or has a broken seal; `Unsupported`
    /// version.
    pub fn open(lvm: &Arc<Lvm>, context: &Context, id: DomainId) -> Result<Self> {
        let domain = Self::look(lvm, id)?;
        if domain.reach() == Reach::Mapped {
            domain.activate_specials(context)?;
        }
        let version = domain.lock().version;
        links::make(lvm.layout(), id, version)?;
        Ok(domain)
    }

    /// Opens a domain for reading what LVM's metadata tell, activating nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn look(lvm: &Arc<Lvm>, id: DomainId) -> Result<Self> {
        let name = id.to_string();
        let seen = reader::read_again(lvm, &name, None)?;
        match seen.group.marker() {
            Marker::Ready => {}
            Marker::Unready => {
                return Err(Failure::new(
                    FailureKind::Damaged,
                    format!(
                        "domain {id}: half-made, its creation was interrupted; \
                         `nodectl domain remove {id}` clears it"
                    ),
                ));
            }
            Marker::Foreign => {
                return Err(Failure::new(
                    FailureKind::Foreign,
                    format!("volume group {id}: not a storage domain"),
                ));
            }
        }
        let metadata = metadata_of(&seen.group)?;
        if metadata.id() != id {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!("domain {id}: its metadata say that it is {}", metadata.id()),
            ));
        }
        let version = metadata.version();
        if !matches!(
            version,
            DomainVersion::V3 | DomainVersion::V4 | DomainVersion::V5
        ) {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!("domain {id}: version {version}, block domains of 3 to 5 are supported"),
            ));
        }
        let missing = SpecialLv::ALL
            .into_iter()
            .find(|special| special.is_in(version) && seen.group.volume(special.name()).is_none());
        if let Some(special) = missing {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!("domain {id}: logical volume {} is missing", special.name()),
            ));
        }
        let alignment = metadata.alignment_bytes().map_err(|e| damaged(&name, &e))?;
        Ok(Self {
            lvm: Arc::clone(lvm),
            id,
            name,
            state: Mutex::new(State {
                seen,
                version,
                alignment: u64::from(alignment),
            }),
        })
    }

    /// The LVM it uses.
    #[must_use]
    pub fn lvm(&self) -> &Arc<Lvm> {
        &self.lvm
    }

    /// The group as it is now; read anew when something was committed.
    ///
    /// # Errors
    /// I/O; the group is gone.
    pub fn group(&self) -> Result<Arc<Group>> {
        let before = self.lock().seen.clone();
        let seen = reader::read_again(&self.lvm, &self.name, Some(&before))?;
        let group = Arc::clone(&seen.group);
        let committed = seen.group.seqno != before.group.seqno;
        let mut state = self.lock();
        // Another host may have upgraded it.
        if committed && let Ok(metadata) = metadata_of(&group) {
            state.version = metadata.version();
        }
        state.seen = seen;
        drop(state);
        Ok(group)
    }

    /// How the bytes of its volumes are reached on this host.
    #[must_use]
    pub fn reach(&self) -> Reach {
        reach(&self.lvm)
    }

    /// Where bytes of a logical volume are, for programs that want a device and
    /// an offset.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest` behind its end.
    pub fn location(&self, volume: &str, offset: u64) -> Result<LeaseLocation> {
        let group = Arc::clone(&self.lock().seen.group);
        location(&self.lvm, &group, volume, offset)
    }

    /// Where a logical volume's bytes are, in order.
    ///
    /// # Errors
    /// `NotFound`; `Io` when a LUN is missing.
    pub fn pieces(&self, volume: &str) -> Result<Vec<Piece>> {
        let group = Arc::clone(&self.lock().seen.group);
        region::pieces(self.reach(), self.lvm.layout(), &group, volume)
    }

    /// Opens the bytes of a logical volume.
    ///
    /// # Errors
    /// `NotFound`; it cannot be opened.
    pub fn region(&self, volume: &str, access: Access) -> Result<Region> {
        // A special volume that another host made, or that somebody deactivated.
        if SpecialLv::from_name(volume).is_some() {
            self.activate_volume(volume)?;
        }
        Region::open(self.pieces(volume)?, access)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device_of(&self, volume: &str) -> PathBuf {
        self.lvm.layout().logical_volume(&self.name, volume)
    }

    fn change(&self, authority: &dyn Authority, change: &Change<'_>) -> Result<()> {
        self.lvm
            .change(&Context::quiet(), authority, &self.name, change)
            .map(drop)
    }

    /// Makes a change that `done` recognises in the metadata afterwards, which
    /// decides whether it was made, whatever the command said.
    fn change_until(
        &self,
        authority: &dyn Authority,
        change: &Change<'_>,
        done: impl Fn(&Group) -> bool,
    ) -> Result<()> {
        let said = self.change(authority, change);
        let is_done = self.group().map(|group| done(&group));
        match (said, is_done) {
            (_, Ok(true)) => Ok(()),
            (Err(failure), _) | (Ok(()), Err(failure)) => Err(failure),
            (Ok(()), Ok(false)) => Err(Failure::new(
                FailureKind::Failed,
                format!("domain {}: lvm succeeded and changed nothing", self.name),
            )),
        }
    }

    /// Has a logical volume's device appear, where there are such devices.
    fn activate_volume(&self, name: &str) -> Result<()> {
        if self.reach() == Reach::Beneath || self.device_of(name).exists() {
            return Ok(());
        }
        self.lvm
            .map(&Context::quiet(), Mapping::Activate, &self.name, &[name])
    }

    fn activate_specials(&self, context: &Context) -> Result<()> {
        let version = self.lock().version;
        // Master is the pool manager's to activate.
        let missing: Vec<&str> = SpecialLv::ALL
            .into_iter()
            .filter(|special| *special != SpecialLv::Master && special.is_in(version))
            .map(SpecialLv::name)
            .filter(|name| !self.device_of(name).exists())
            .collect();
        self.lvm
            .map(context, Mapping::Activate, &self.name, &missing)
    }

    fn entry(&self, group: &Group, volume: &Logical) -> Option<VolumeEntry> {
        let size_bytes = volume.extents() * group.extent_bytes;
        let entry = |id, image, parent_tag, slot, state| VolumeEntry {
            id,
            image,
            parent_tag,
            slot,
            size_bytes,
            allocated_bytes: size_bytes,
            state,
            shared_with: Vec::new(),
        };
        match volume.state() {
            LvState::Volume { id, tags } => Some(entry(
                id,
                tags.image,
                Some(tags.parent),
                Some(tags.slot),
                EntryState::Live,
            )),
            LvState::Removed { id, tags, zero } => Some(entry(
                id,
                tags.image,
                Some(tags.parent),
                Some(tags.slot),
                EntryState::Removed { zero },
            )),
            LvState::Initializing { id, slot } => Some(entry(
                id,
                disk_format::vdsm::uuid::ImageId::BLANK,
                None,
                slot,
                EntryState::HalfMade,
            )),
            LvState::Incomplete { id, error, .. } => {
                tracing::warn!(domain = self.name, volume = %id, %error, "volume without its tags skipped");
                None
            }
            LvState::Special(_) => None,
            LvState::Foreign if volume.is_move() => None,
            LvState::Foreign => {
                tracing::warn!(
                    domain = self.name,
                    volume = volume.name,
                    "foreign logical volume skipped"
                );
                None
            }
        }
    }

    fn entry_of(&self, group: &Group, id: VolumeId) -> Option<VolumeEntry> {
        let volume = group.volume(&id.to_string())?;
        self.entry(group, volume)
    }
}

fn reach(lvm: &Lvm) -> Reach {
    if lvm.env().device_mapper {
        Reach::Mapped
    } else {
        Reach::Beneath
    }
}

fn location(lvm: &Lvm, group: &Group, volume: &str, offset: u64) -> Result<LeaseLocation> {
    let mut begins = 0;
    for piece in region::pieces(reach(lvm), lvm.layout(), group, volume)? {
        if offset < begins + piece.length {
            return Ok(LeaseLocation {
                path: piece.device,
                offset: piece.start + (offset - begins),
            });
        }
        begins += piece.length;
    }
    Err(Failure::new(
        FailureKind::BadRequest,
        format!(
            "domain {}: offset {offset} of {volume}, which has {begins} bytes",
            group.name
        ),
    ))
}

/// The metadata in a group's tags.
fn metadata_of(group: &Group) -> Result<DomainMetadata> {
    DomainMetadata::from_vg_tags(group.tags.iter().map(String::as_str))
        .map_err(|error| damaged(&group.name, &error))
}

fn damaged(domain: &str, error: &FormatError) -> Failure {
    Failure::new(FailureKind::Damaged, format!("domain {domain}: {error}"))
}

fn unstorable(domain: &str, error: &FormatError) -> Failure {
    Failure::new(FailureKind::BadRequest, format!("domain {domain}: {error}"))
}
