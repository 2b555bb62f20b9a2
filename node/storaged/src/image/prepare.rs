//! Making an image usable on this host, and letting go of it.
//!
//! ```text
//! block  /run/vdsm/storage/<domain>/<image>/<volume> ─▶ /dev/<domain>/<volume>
//!        <domain's root>/images/<image>              ─▶ /run/vdsm/storage/<domain>/<image>
//! file   /run/vdsm/storage/<domain>/<image>          ─▶ <domain's root>/images/<image>
//! ```
//!
//! A template's volume is used by every image on top of it. The links of all
//! prepared images are the count of its users: it is let go when none is left.
//! That needs no counter that a crash could leave wrong.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::volume::{Legality, VolumeFormat, VolumeType};
use linux::disk::{Access, AlignedBuffer, BlockDevice};

use super::borrow;
use super::chain::{Link, View};
use crate::authority::Authority;
use crate::domain::{Domain, DomainKind, LeaseLocation, VolumeEntry};
use crate::file::failed;
use crate::job::Result;
use crate::layout::Layout;

/// Which chain, and on which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The image.
    pub image: ImageId,
    /// Its leaf, or a volume below; the image's leaf when absent.
    pub leaf: Option<VolumeId>,
    /// Although a volume of it is ILLEGAL: for who repairs it, never for a guest.
    pub allow_illegal: bool,
}

/// One volume of a prepared chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its own image.
    pub image: ImageId,
    /// Its data, in the directory where relative names of parents lead on.
    pub path: PathBuf,
    /// How the data are to be read.
    pub format: VolumeFormat,
    /// What the guest sees, in bytes.
    pub capacity_bytes: u64,
    /// Where its lease is; none on a local domain.
    pub lease: Option<LeaseLocation>,
}

/// A prepared image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The leaf's data.
    pub path: PathBuf,
    /// All volumes, base first.
    pub chain: Vec<PreparedVolume>,
    /// It was prepared before: who asked only for a while must leave it so.
    pub before: bool,
}

/// Makes a chain usable. Repeating it is harmless. With `raise`, a stored capacity
/// below what a QCOW2 header says is corrected.
///
/// # Errors
///
/// `NotFound`; `WrongState` for an ILLEGAL volume; `Damaged` for a broken chain; I/O.
pub fn prepare(
    domain: &dyn Domain,
    layout: &Layout,
    wanted: Wanted,
    raise: Option<&dyn Authority>,
) -> Result<Prepared> {
    // From now on it is somebody's, whoever prepared it only for a while.
    let mark = borrow::mark(domain, layout, wanted.image);
    prepare_with(domain, layout, wanted, raise, &mut |_| {
        borrow::remove(&mark)
    })
}

/// The same; `first` is told whether it was prepared before, when nobody else
/// prepares or lets go of anything and nothing is done yet.
pub(super) fn prepare_with(
    domain: &dyn Domain,
    layout: &Layout,
    wanted: Wanted,
    raise: Option<&dyn Authority>,
    first: &mut dyn FnMut(bool) -> Result<()>,
) -> Result<Prepared> {
    let view = View::of_image(domain, wanted.image)?;
    let leaf = match wanted.leaf {
        Some(leaf) => leaf,
        None => view.leaf(wanted.image)?.entry.id,
    };
    let chain = view.chain(leaf)?;
    if let Some(link) = chain
        .iter()
        .find(|link| link.metadata.legality != Legality::Legal)
        && !wanted.allow_illegal
    {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "image {}: volume {} is {}; a job on it has not ended well",
                wanted.image, link.entry.id, link.metadata.legality
            ),
        ));
    }
    let _one_at_a_time = lock(domain, layout)?;
    let directory = run_directory(domain, layout, wanted.image);
    let before = fs::symlink_metadata(&directory).is_ok();
    first(before)?;
    let entries: Vec<&VolumeEntry> = chain.iter().map(|link| &link.entry).collect();
    if domain.kind().is_block() {
        // Links first: from then on nobody else's teardown lets the volumes go.
        fs::create_dir_all(&directory).map_err(|e| failed("make directory", &directory, &e))?;
        for entry in &entries {
            place_link(&domain.path(entry), &directory.join(entry.id.to_string()))?;
        }
        domain.activate(&entries)?;
        let images = domain.root().join("images");
        fs::create_dir_all(&images).map_err(|e| failed("make directory", &images, &e))?;
        place_link(&directory, &images.join(wanted.image.to_string()))?;
    } else {
        let parent = layout.prepared(domain.id());
        fs::create_dir_all(&parent).map_err(|e| failed("make directory", &parent, &e))?;
        place_link(&image_directory(domain, wanted.image), &directory)?;
    }
    let base = if domain.kind().is_block() {
        directory
    } else {
        image_directory(domain, wanted.image)
    };
    let mut prepared = Vec::new();
    for link in &chain {
        let path = base.join(link.entry.id.to_string());
        prepared.push(PreparedVolume {
            id: link.entry.id,
            image: link.metadata.image,
            capacity_bytes: raised(domain, link, &path, raise)?,
            path,
            format: link.metadata.format,
            lease: (domain.kind() != DomainKind::Local).then(|| domain.lease(&link.entry)),
        });
    }
    Ok(Prepared {
        path: base.join(leaf.to_string()),
        chain: prepared,
        before,
    })
}

/// Lets go of an image. Volumes that are open, or that another prepared image
/// stands on, stay active. Repeating it is harmless.
///
/// # Errors
///
/// I/O.
pub fn teardown(domain: &dyn Domain, layout: &Layout, image: ImageId) -> Result<()> {
    let _one_at_a_time = lock(domain, layout)?;
    teardown_locked(domain, layout, image)
}

/// The same under [`lock`].
pub(super) fn teardown_locked(domain: &dyn Domain, layout: &Layout, image: ImageId) -> Result<()> {
    unlink(domain, layout, image)?;
    borrow::remove(&borrow::mark(domain, layout, image))
}

fn unlink(domain: &dyn Domain, layout: &Layout, image: ImageId) -> Result<()> {
    let directory = run_directory(domain, layout, image);
    if !domain.kind().is_block() {
        return remove_link(&directory);
    }
    let mut ids = Vec::new();
    for name in links(&directory)? {
        remove_link(&directory.join(&name))?;
        ids.extend(name.parse::<VolumeId>());
    }
    let listed = domain.root().join("images").join(image.to_string());
    remove_link(&listed)?;
    match fs::remove_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &directory, &error));
        }
        _ => {}
    }
    let entries: Vec<VolumeEntry> = domain
        .volumes()?
        .into_iter()
        .filter(|entry| ids.contains(&entry.id))
        .collect();
    let mut idle = Vec::new();
    for entry in &entries {
        if users(domain, layout, entry.id)?.is_empty() {
            idle.push(entry);
        }
    }
    let busy = domain.deactivate(&idle)?;
    if !busy.is_empty() {
        tracing::info!(%image, ?busy, "volumes still open stay active");
    }
    Ok(())
}

/// Images prepared on this host that stand on this volume.
///
/// # Errors
///
/// I/O.
pub fn users(domain: &dyn Domain, layout: &Layout, volume: VolumeId) -> Result<Vec<ImageId>> {
    let base = layout.prepared(domain.id());
    let mut users = Vec::new();
    for name in links(&base)? {
        let Ok(image) = name.parse::<ImageId>() else {
            continue;
        };
        if fs::symlink_metadata(base.join(&name).join(volume.to_string())).is_ok() {
            users.push(image);
        }
    }
    Ok(users)
}

/// Refuses to take a volume away under this host's own feet.
///
/// # Errors
///
/// `InUse`; I/O.
pub(super) fn refuse_prepared(
    layout: &Layout,
    domain: &dyn Domain,
    entry: &VolumeEntry,
) -> Result<()> {
    if !users(domain, layout, entry.id)?.is_empty() {
        // Perhaps by work that died here.
        borrow::let_go_of_left(domain, layout)?;
    }
    match users(domain, layout, entry.id)?.first() {
        Some(image) => Err(Failure::new(
            FailureKind::InUse,
            format!(
                "volume {}: prepared on this host for image {image}; tear that down first",
                entry.id
            ),
        )),
        None => Ok(()),
    }
}

fn run_directory(domain: &dyn Domain, layout: &Layout, image: ImageId) -> PathBuf {
    layout.prepared(domain.id()).join(image.to_string())
}

fn image_directory(domain: &dyn Domain, image: ImageId) -> PathBuf {
    domain.root().join("images").join(image.to_string())
}

/// One prepare or teardown of a domain at a time on this host: between looking
/// for a template's users and letting it go nobody may become one.
pub(super) fn lock(domain: &dyn Domain, layout: &Layout) -> Result<File> {
    fs::create_dir_all(&layout.run).map_err(|e| failed("make directory", &layout.run, &e))?;
    let path = layout.run.join(format!(".{}.lock", domain.id()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| failed("open", &path, &e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| failed("lock", &path, &e.into()))?;
    Ok(file)
}

/// Makes `at` a link to `target`, whatever link was there.
fn place_link(target: &Path, at: &Path) -> Result<()> {
    match fs::read_link(at) {
        Ok(there) if there == target => return Ok(()),
        Ok(_) => remove_link(at)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // A file or directory in the place of a link is not ours to remove.
        Err(error) => return Err(failed("look at", at, &error)),
    }
    symlink(target, at).map_err(|e| failed("link", at, &e))
}

fn remove_link(at: &Path) -> Result<()> {
    match fs::symlink_metadata(at) {
        Ok(status) if status.file_type().is_symlink() => {
            fs::remove_file(at).map_err(|e| failed("remove", at, &e))
        }
        Ok(_) => Err(Failure::new(
            FailureKind::Foreign,
            format!("{}: no link, not removed", at.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", at, &error)),
    }
}

fn links(directory: &Path) -> Result<Vec<String>> {
    let list = match fs::read_dir(directory) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", directory, &error)),
    };
    let mut names = Vec::new();
    for entry in list {
        let entry = entry.map_err(|e| failed("list", directory, &e))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// The capacity, corrected when the header of a QCOW2 volume says more.
fn raised(
    domain: &dyn Domain,
    link: &Link,
    path: &Path,
    raise: Option<&dyn Authority>,
) -> Result<u64> {
    let stored = link.metadata.capacity_bytes;
    let (Some(authority), VolumeFormat::Cow) = (raise, link.metadata.format) else {
        return Ok(stored);
    };
    if link.metadata.volume_type == VolumeType::Shared {
        return Ok(stored);
    }
    match cow_capacity(path)? {
        Some(real) if real > stored => {
            let mut metadata = link.metadata.clone();
            metadata.capacity_bytes = super::size::round_up(real, 512);
            domain.write_volume_metadata(authority, &link.entry, &metadata)?;
            tracing::info!(volume = %link.entry.id, stored, real, "capacity corrected");
            Ok(metadata.capacity_bytes)
        }
        _ => Ok(stored),
    }
}

/// Virtual size in the header of a QCOW2 volume; `None` when it has no header.
pub(super) fn cow_capacity(path: &Path) -> Result<Option<u64>> {
    let failed = |e: String| Failure::new(FailureKind::Io, format!("{}: {e}", path.display()));
    let device = BlockDevice::open(path, Access::Read).map_err(|e| failed(e.to_string()))?;
    if device.size() < 4096 {
        return Ok(None);
    }
    let mut header = AlignedBuffer::new(4096);
    device
        .read_at(&mut header, 0)
        .map_err(|e| failed(e.to_string()))?;
    if header.get(..4) != Some(b"QFI\xfb") {
        return Ok(None);
    }
    let bytes = header.get(24..32).and_then(|b| b.try_into().ok());
    Ok(bytes.map(u64::from_be_bytes))
}
