//! Storage domains that are directories: NFS, POSIX file systems, Gluster, and
//! local directories.
//!
//! ```text
//! <mount>/<domain>/
//!   dom_md/     metadata ids leases xleases inbox outbox
//!   images/     <image>/<volume> <volume>.meta <volume>.lease
//!               _remove_me_<image>/          being deleted
//!   master/     vms/ tasks/                  only of a pool's master
//! ```
//!
//! A volume is there when its `.meta` is. While it is made, and again while it is
//! taken to pieces, that file is named `.meta.new`: a data file beside a
//! `.meta.new` alone is half-made and may go, a data file beside neither is
//! somebody's loss and is never touched.
//!
//! Metadata is read and written with direct I/O and replaced as a whole, so that
//! a reader on another host sees the old or the new.

mod create;
mod direct;
mod iso;
#[cfg(test)]
mod odd_tests;
mod probe;
#[cfg(test)]
mod tests;
mod upgrade;
mod volumes;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainMetadata, DomainType};
use disk_format::vdsm::error::FormatError;
use disk_format::vdsm::uuid::DomainId;
use disk_format::vdsm::version::DomainVersion;

pub use create::{NewFileDomain, alignment_for};
pub(crate) use direct::failed;
pub use direct::{OWNER, new_name, read_file, replace_file};
pub use iso::{ExportedGuest, IsoFile};
pub use probe::{DIRECT_IO_TEST, PROBE_PREFIX, block_size as probe_block_size};

use crate::authority::Authority;
use crate::domain::{DomainKind, Space, Special};
use crate::job::Result;

/// Directory of the domain's own files.
const DOM_MD: &str = "dom_md";
/// Directory of the images.
const IMAGES: &str = "images";
/// What begins the name of an image's directory while the image is deleted.
pub(crate) const REMOVE_PREFIX: &str = "_remove_me_";

/// What was last read of the domain's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    version: DomainVersion,
    block_size: u32,
    alignment: u64,
}

/// A domain that is a directory.
#[derive(Debug)]
pub struct FileDomain {
    root: PathBuf,
    id: DomainId,
    kind: DomainKind,
    known: Mutex<Known>,
    /// One change of the domain's metadata at a time.
    changing: Mutex<()>,
}

/// A domain found below a mount.
#[derive(Debug)]
pub struct Found {
    /// The domain by the name of its directory.
    pub id: DomainId,
    /// Its directory.
    pub root: PathBuf,
    /// Its metadata, or why they cannot be used.
    pub metadata: Result<DomainMetadata>,
}

/// Turns what the format says into a failure.
pub(crate) fn bad_format(what: &Path, error: &FormatError) -> Failure {
    Failure::new(FailureKind::Damaged, format!("{}: {error}", what.display()))
}

/// Looks for domains below a mount: `<uuid>/dom_md/metadata`. Anything else,
/// `__DIRECT_IO_TEST__` and leftovers of probes included, is passed over.
///
/// # Errors
///
/// The mount cannot be listed.
pub fn discover(mount: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in direct::names(mount)? {
        let Ok(id) = name.parse::<DomainId>() else {
            continue;
        };
        let root = mount.join(&name);
        match read_metadata(&root) {
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            metadata => found.push(Found { id, root, metadata }),
        }
    }
    Ok(found)
}

/// Reads `dom_md/metadata` below a domain's root.
///
/// # Errors
///
/// `NotFound`, I/O, `Damaged` for a broken seal.
pub fn read_metadata(root: &Path) -> Result<DomainMetadata> {
    let path = metadata_path(root);
    let content = direct::read_file(&path)?;
    DomainMetadata::from_lines(&content).map_err(|e| bad_format(&path, &e))
}

fn metadata_path(root: &Path) -> PathBuf {
    root.join(DOM_MD).join(Special::Metadata.name())
}

impl FileDomain {
    /// Opens the domain whose directory is `root`, for reading or writing.
    /// Nothing is changed.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Damaged` (broken seal, another domain's metadata);
    /// `Unsupported` below version 3.
    pub fn open(root: &Path) -> Result<Self> {
        let metadata = read_metadata(root)?;
        let known = judge(root, &metadata)?;
        Ok(Self {
            root: root.to_path_buf(),
            id: metadata.id(),
            kind: kind_of(metadata.kind()),
            known: Mutex::new(known),
            changing: Mutex::default(),
        })
    }

    /// Takes the lock that stands for all leases of a local domain, without
    /// waiting. It is the authority to change that domain, until dropped.
    ///
    /// # Errors
    ///
    /// `InUse` when another process has it; `WrongState` when the domain is not
    /// local; I/O.
    pub fn lock_local(&self) -> Result<LocalLock> {
        if self.kind != DomainKind::Local {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("domain {}: not local, guarded by leases", self.id),
            ));
        }
        let path = self.root.join(DOM_MD).join(Special::Ids.name());
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| direct::failed("open", &path, &e))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(LocalLock {
                domain: self.id.to_string(),
                _file: file,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                FailureKind::InUse,
                format!(
                    "lock {}: held by another process of this host",
                    path.display()
                ),
            )),
            Err(error) => Err(direct::failed("lock", &path, &error.into())),
        }
    }

    fn known(&self) -> Known {
        *self.lock_known()
    }

    fn lock_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<DomainMetadata> {
        let metadata = read_metadata(&self.root)?;
        *self.lock_known() = judge(&self.root, &metadata)?;
        Ok(metadata)
    }

    fn change(
        &self,
        authority: &dyn Authority,
        change: &mut dyn FnMut(&mut DomainMetadata) -> Result<()>,
    ) -> Result<DomainMetadata> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read()?;
        let mut after = before.clone();
        change(&mut after)?;
        if after == before {
            return Ok(before);
        }
        let known = judge(&self.root, &after)?;
        authority.check(&self.id.to_string())?;
        direct::replace_file(
            &metadata_path(&self.root),
            &after.to_lines(),
            0o644,
            self.known().block_size,
        )?;
        *self.lock_known() = known;
        Ok(after)
    }

    fn space_now(&self) -> Result<Space> {
        let answer = rustix::fs::statvfs(&self.root)
            .map_err(|e| direct::failed("ask for the space of", &self.root, &e.into()))?;
        Ok(Space {
            total_bytes: answer.f_blocks.saturating_mul(answer.f_frsize),
            // What an ordinary user may use: root's reserve is no domain's space.
            free_bytes: answer.f_bavail.saturating_mul(answer.f_frsize),
        })
    }

    fn special_path(&self, which: Special) -> PathBuf {
        match which {
            Special::Master => self.root.join(which.name()),
            _ => self.root.join(DOM_MD).join(which.name()),
        }
    }

    fn images(&self) -> PathBuf {
        self.root.join(IMAGES)
    }
}

fn kind_of(kind: DomainType) -> DomainKind {
    if kind == DomainType::LocalFs {
        DomainKind::Local
    } else {
        DomainKind::File
    }
}

/// Checks that metadata are those of the file domain in `root`, and usable.
fn judge(root: &Path, metadata: &DomainMetadata) -> Result<Known> {
    let wrong = |kind, what: String| Failure::new(kind, format!("{}: {what}", root.display()));
    let named = root
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if named != metadata.id().to_string() {
        return Err(wrong(
            FailureKind::Damaged,
            format!("its metadata are those of domain {}", metadata.id()),
        ));
    }
    if metadata.is_block() {
        return Err(wrong(
            FailureKind::Damaged,
            format!("type {} is not one of a directory", metadata.kind()),
        ));
    }
    if !metadata.version().is_supported() {
        return Err(wrong(
            FailureKind::Unsupported,
            format!("version {}; supported are 3, 4, 5", metadata.version()),
        ));
    }
    let format = |e| bad_format(&metadata_path(root), &e);
    Ok(Known {
        version: metadata.version(),
        block_size: metadata.block_bytes().map_err(format)?,
        alignment: u64::from(metadata.alignment_bytes().map_err(format)?),
    })
}

/// The lock of a local domain, held until dropped.
#[derive(Debug)]
pub struct LocalLock {
    domain: String,
    _file: File,
}

impl Authority for LocalLock {
    fn check(&self, domain: &str) -> Result<()> {
        if domain == self.domain {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::LeaseNotHeld,
            format!("domain {domain}: the lock held is that of {}", self.domain),
        ))
    }

    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
