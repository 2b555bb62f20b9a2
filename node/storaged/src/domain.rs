//! What volumes and images need of a storage domain, whether its volumes are
//! logical volumes or files.
//!
//! Three promises every implementation keeps:
//!
//! * **Half-made things are invisible.** [`Domain::allocate`] makes something
//!   that no reader takes for a volume; only [`Domain::publish`] makes it one, in
//!   one atomic step. What a crash leaves in between is found as
//!   [`EntryState::HalfMade`] and can be removed without loss.
//! * **Removal is the same in reverse.** After [`Domain::mark_removed`] no reader
//!   takes it for a volume; [`Domain::remove`] gives its space back and can be
//!   repeated after a crash at any point.
//! * **Authority first.** Each method that changes what other hosts read asks its
//!   [`Authority`] right before each single change.

use std::fmt;
use std::path::PathBuf;

use disk_format::vdsm::domain::DomainMetadata;
use disk_format::vdsm::slot::SlotNumber;
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::VolumeMetadata;

use crate::authority::Authority;
use crate::job::{Context, Result};

/// What carries a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainKind {
    /// A volume group on LUNs.
    Block,
    /// A directory on a shared file system.
    File,
    /// A directory of this host alone: no lease daemon, no mailbox.
    Local,
}

impl DomainKind {
    /// Whether volumes are logical volumes.
    #[must_use]
    pub fn is_block(self) -> bool {
        self == Self::Block
    }
}

impl fmt::Display for DomainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::File => "file",
            Self::Local => "local",
        })
    }
}

/// The parts of a domain that are not volumes of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// The lockspace.
    Ids,
    /// `SDM` and, on block domains, the leases of volumes.
    Leases,
    /// External leases and their index; from version 4.
    Xleases,
    /// Mailbox towards the pool manager.
    Inbox,
    /// Mailbox towards the hosts.
    Outbox,
    /// The master file system (block) or directory (file).
    Master,
    /// Volume metadata slots (block), the domain's metadata (file).
    Metadata,
}

impl Special {
    /// Its name on disk: of the logical volume, or of the file in `dom_md`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ids => "ids",
            Self::Leases => "leases",
            Self::Xleases => "xleases",
            Self::Inbox => "inbox",
            Self::Outbox => "outbox",
            Self::Master => "master",
            Self::Metadata => "metadata",
        }
    }
}

/// Where a resource of the lease daemon lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseLocation {
    /// Device or file.
    pub path: PathBuf,
    /// Bytes from its start.
    pub offset: u64,
}

/// Space of a domain in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total_bytes: u64,
    /// Not yet given to anything.
    pub free_bytes: u64,
}

/// How far a volume is made or taken to pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryState {
    /// A volume.
    Live,
    /// Allocated and never published, or being taken to pieces: no volume, holds
    /// nothing that anybody was told is kept.
    HalfMade,
    /// Marked for removal.
    Removed {
        /// Its bytes must be zeroed before its space is given back.
        zero: bool,
    },
}

/// One volume as the domain lists it, without its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeEntry {
    /// The volume.
    pub id: VolumeId,
    /// Its own image: for a template, the template's.
    /// For [`EntryState::HalfMade`] on block: BLANK when not known.
    pub image: ImageId,
    /// The `PU_` tag of a block volume. Only a hint: the metadata's parent wins.
    pub parent_tag: Option<VolumeId>,
    /// The metadata slot of a block volume.
    pub slot: Option<SlotNumber>,
    /// Bytes of the logical volume, or apparent bytes of the file.
    pub size_bytes: u64,
    /// Bytes that are allocated: as `size_bytes` on block.
    pub allocated_bytes: u64,
    /// How far it is made.
    pub state: EntryState,
    /// Other images whose directory has links to it: file domains' templates.
    pub shared_with: Vec<ImageId>,
}

impl VolumeEntry {
    /// Whether it is a volume for every reader.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == EntryState::Live
    }
}

/// What to allocate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// The volume; must not exist.
    pub id: VolumeId,
    /// Its image.
    pub image: ImageId,
    /// Bytes of the logical volume (rounded up to extents); on file domains the
    /// file is made empty and this is not used.
    pub size_bytes: u64,
}

/// A volume allocated and not yet visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The volume.
    pub id: VolumeId,
    /// Its image.
    pub image: ImageId,
    /// Where its data is written: active, readable and writable for this process.
    pub path: PathBuf,
    /// Bytes really allocated (block), 0 (file).
    pub size_bytes: u64,
    /// The metadata slot set aside for it (block); free again after
    /// [`Domain::discard_draft`].
    pub slot: Option<SlotNumber>,
    /// Where its lease belongs.
    pub lease: LeaseLocation,
}

/// A storage domain that is connected and whose metadata was read.
///
/// Blocking; every method may take as long as the storage likes.
/// [`VolumeEntry`] arguments come from [`Domain::volumes`] or [`Domain::volume`]
/// of the same domain; a stale one fails with [`NotFound`] rather than touch
/// another volume.
///
/// [`NotFound`]: control::storage::FailureKind::NotFound
pub trait Domain: Send + Sync + fmt::Debug {
    /// Which domain it is.
    fn id(&self) -> DomainId;

    /// What carries it.
    fn kind(&self) -> DomainKind;

    /// Its version when its metadata was last read or written by this object.
    fn version(&self) -> DomainVersion;

    /// Sector size in bytes, 512 or 4096: of leases, metadata and direct I/O.
    fn block_size(&self) -> u32;

    /// Bytes from one lease to the next.
    fn alignment(&self) -> u64;

    /// `…/mnt/…/<domain>`: has `dom_md` and `images`, as links on block.
    fn root(&self) -> PathBuf;

    /// Where a special part is. It need not exist (`xleases` below version 4).
    fn special(&self, which: Special) -> PathBuf;

    /// Reads the domain's metadata now.
    ///
    /// # Errors
    /// I/O; `Damaged` for a broken seal.
    fn metadata(&self) -> Result<DomainMetadata>;

    /// Reads, lets `change` change, and writes the domain's metadata when it did
    /// change, atomically for readers. Returns what is on disk then.
    ///
    /// # Errors
    /// Of `change` (nothing written), of the authority, of I/O.
    fn change_metadata(
        &self,
        authority: &dyn Authority,
        change: &mut dyn FnMut(&mut DomainMetadata) -> Result<()>,
    ) -> Result<DomainMetadata>;

    /// Brings the domain to a newer version, volume metadata included. May be
    /// repeated after a crash at any point.
    ///
    /// # Errors
    /// `BadRequest` for a step that is not allowed; authority; I/O.
    fn upgrade(
        &self,
        context: &Context,
        authority: &dyn Authority,
        to: DomainVersion,
    ) -> Result<()>;

    /// Space in all and free.
    ///
    /// # Errors
    /// I/O.
    fn space(&self) -> Result<Space>;

    /// Everything that is or was going to be a volume, in order of id.
    /// Incomplete or foreign things are left out (and logged).
    ///
    /// # Errors
    /// I/O.
    fn volumes(&self) -> Result<Vec<VolumeEntry>>;

    /// One live volume.
    ///
    /// # Errors
    /// `NotFound` when it is not there, or not live.
    fn volume(&self, id: VolumeId) -> Result<VolumeEntry>;

    /// Reads a live volume's metadata now. Its `domain` and `image` were compared
    /// with where it was found (a stale slot is `Damaged`).
    ///
    /// # Errors
    /// I/O; `Damaged`.
    fn volume_metadata(&self, entry: &VolumeEntry) -> Result<VolumeMetadata>;

    /// Writes a live volume's metadata in one atomic step.
    ///
    /// # Errors
    /// Authority; I/O; `BadRequest` when it does not fit a slot.
    fn write_volume_metadata(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        metadata: &VolumeMetadata,
    ) -> Result<()>;

    /// Makes the image's directory (file); nothing on block.
    ///
    /// # Errors
    /// Authority; I/O.
    fn make_image(&self, authority: &dyn Authority, image: ImageId) -> Result<()>;

    /// Makes a volume reachable from another image's directory (file: hard links
    /// of data, metadata, lease); nothing on block. Repeating it is harmless.
    ///
    /// # Errors
    /// Authority; I/O.
    fn share(
        &self,
        authority: &dyn Authority,
        template: &VolumeEntry,
        image: ImageId,
    ) -> Result<()>;

    /// Removes an image's directory that has no volume of its own any more, with
    /// the links to templates in it (file); nothing on block, or while the image
    /// has a volume.
    ///
    /// # Errors
    /// Authority; I/O.
    fn forget_image(&self, authority: &dyn Authority, image: ImageId) -> Result<()> {
        let _ = (authority, image);
        Ok(())
    }

    /// Allocates space for a volume that nobody sees yet (block: the logical
    /// volume tagged INITIALIZING, active, its slot set aside; file: an empty file
    /// of mode 0660, marked half-made).
    ///
    /// # Errors
    /// `Exists`, `NoSpace`, authority, I/O. Nothing is left behind.
    fn allocate(
        &self,
        context: &Context,
        authority: &dyn Authority,
        new: &NewVolume,
    ) -> Result<Draft>;

    /// Makes a draft a volume: metadata first, then the one atomic step that
    /// makes it visible (block: slot, then tags; file: rename to `.meta`).
    ///
    /// # Errors
    /// Authority; I/O. It is then still a draft, or (outcome unknown) a volume.
    fn publish(
        &self,
        authority: &dyn Authority,
        draft: &Draft,
        metadata: &VolumeMetadata,
    ) -> Result<VolumeEntry>;

    /// Gives up a draft: its space, its slot (cleared), its lease file.
    ///
    /// # Errors
    /// Authority; I/O.
    fn discard_draft(&self, authority: &dyn Authority, draft: &Draft) -> Result<()>;

    /// Makes the volumes' data readable on this host (block: activates; refreshes
    /// those already active). No lease is needed.
    ///
    /// # Errors
    /// I/O.
    fn activate(&self, entries: &[&VolumeEntry]) -> Result<()>;

    /// Undoes [`Domain::activate`]. A volume that is open stays active and is
    /// named in the answer.
    ///
    /// # Errors
    /// I/O.
    fn deactivate(&self, entries: &[&VolumeEntry]) -> Result<Vec<VolumeId>>;

    /// Loads the present size of active volumes (block).
    ///
    /// # Errors
    /// I/O.
    fn refresh(&self, entries: &[&VolumeEntry]) -> Result<()>;

    /// The data: device or file. Only readable while active. Works for volumes
    /// marked for removal too.
    fn path(&self, entry: &VolumeEntry) -> PathBuf;

    /// Where the volume's lease is.
    fn lease(&self, entry: &VolumeEntry) -> LeaseLocation;

    /// Makes the volume at least `to_bytes` long (block: extents; file: length of
    /// a RAW file, never less than it is). Returns its size.
    ///
    /// # Errors
    /// `NoSpace`, authority, I/O.
    fn extend(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64>;

    /// Makes each volume at least so many bytes long, in as few commits as the
    /// domain can. One that finds no room does not keep the others from growing.
    /// Returns what became of each, in the order asked for.
    ///
    /// # Errors
    /// When nothing can be said of any: authority, I/O.
    fn extend_many(
        &self,
        context: &Context,
        authority: &dyn Authority,
        requests: &[(VolumeId, u64)],
    ) -> Result<Vec<Result<u64>>> {
        let one = |&(id, bytes): &(VolumeId, u64)| {
            context.go_on()?;
            self.extend(authority, &self.volume(id)?, bytes)
        };
        Ok(requests.iter().map(one).collect())
    }

    /// Makes the volume at most `to_bytes` long (rounded up to extents). The
    /// caller has proved that nothing behind it is used. Returns its size.
    ///
    /// # Errors
    /// Authority, I/O.
    fn reduce(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64>;

    /// Sets the `PU_` tag; nothing on file.
    ///
    /// # Errors
    /// Authority; I/O.
    fn set_parent_tag(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        parent: VolumeId,
    ) -> Result<()>;

    /// Marks one volume for removal: no reader takes it for a volume then. With
    /// `zero` its bytes are promised to be zeroed before its space is given back.
    /// Returns the entry as it is then.
    ///
    /// # Errors
    /// Authority; I/O.
    fn mark_removed(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        zero: bool,
    ) -> Result<VolumeEntry>;

    /// Marks a whole image, every live volume whose own image it is, at once if
    /// the domain can (file: renames the directory). Returns the entries as they
    /// are then, those marked by an earlier attempt included.
    ///
    /// # Errors
    /// Authority; I/O.
    fn mark_image_removed(
        &self,
        authority: &dyn Authority,
        image: ImageId,
        zero: bool,
    ) -> Result<Vec<VolumeEntry>>;

    /// Gives back the space of a volume marked for removal, or half-made. Refuses
    /// a live one (`WrongState`). Already gone is success.
    ///
    /// # Errors
    /// Authority; I/O.
    fn remove(&self, authority: &dyn Authority, entry: &VolumeEntry) -> Result<()>;

    /// Makes a special part's device appear on this host (block: the master's is
    /// not there until the pool manager needs it); nothing on file.
    ///
    /// # Errors
    /// I/O.
    fn activate_special(&self, _which: Special) -> Result<()> {
        Ok(())
    }

    /// Undoes [`Domain::activate_special`]; nothing on file.
    ///
    /// # Errors
    /// `InUse`; I/O.
    fn deactivate_special(&self, _which: Special) -> Result<()> {
        Ok(())
    }

    /// Removes what only this kind of domain can leave behind besides entries
    /// (file: `images/_remove_me_*` directories). Called by the pool manager when
    /// it starts. Returns how many things went.
    ///
    /// # Errors
    /// Authority; I/O.
    fn sweep(&self, authority: &dyn Authority) -> Result<usize>;
}
