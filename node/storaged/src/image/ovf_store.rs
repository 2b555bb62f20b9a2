//! The manager's store of guests' configurations: a tar archive at the start of a
//! RAW volume, its size and whether it is whole in the volume's description.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::ovf::{Description, VOLUME_BYTES, date, newest};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::volume::{Allocation, DiskType, Legality, VolumeFormat};
use linux::disk::{Access, AlignedBuffer, BlockDevice};

use super::Work;
use super::chain::{Link, View};
use super::copy::Hold;
use super::create::{CreateVolume, create};
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::layout::Layout;

/// An archive is never larger than this: the volume is half of it.
const ARCHIVE_BYTES_MAX: u64 = 256 << 20;
/// Read and written at once.
const STEP_BYTES: usize = 1 << 20;
/// Sector size that is right for every device.
const SECTOR: usize = 4096;

/// An OVF_STORE volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Its image.
    pub image: ImageId,
    /// The volume.
    pub volume: VolumeId,
    /// What its description says.
    pub description: Description,
}

/// The OVF_STORE volumes of a domain. One whose description is not of this kind is
/// left out.
///
/// # Errors
///
/// I/O.
pub fn stores(domain: &dyn Domain) -> Result<Vec<Store>> {
    let view = View::of_domain(domain)?;
    let mut stores = Vec::new();
    for link in view.links() {
        if link.metadata.disk_type != DiskType::OvfStore
            || link.metadata.legality != Legality::Legal
        {
            continue;
        }
        match Description::parse(&link.metadata.description) {
            Ok(description) => stores.push(store(link, description)),
            Err(error) => {
                tracing::warn!(volume = %link.entry.id, %error, "OVF_STORE with another description");
            }
        }
    }
    Ok(stores)
}

fn store(link: &Link, description: Description) -> Store {
    Store {
        image: link.metadata.image,
        volume: link.entry.id,
        description,
    }
}

/// Reads the newest whole store of a domain: file name in the archive → content.
///
/// # Errors
///
/// `NotFound` when there is none; `Damaged` for an archive that is none; I/O.
pub fn read_newest(
    context: &Context,
    layout: &Layout,
    domain: &dyn Domain,
) -> Result<(Store, BTreeMap<String, Vec<u8>>)> {
    let stores = stores(domain)?;
    let Some((store, _)) = newest(stores.iter().map(|store| (store, &store.description))) else {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("domain {}: no whole OVF_STORE", domain.id()),
        ));
    };
    let files = read(context, layout, domain, store)?;
    Ok((store.clone(), files))
}

/// Reads one store.
///
/// # Errors
///
/// As [`read_newest`].
pub fn read(
    context: &Context,
    layout: &Layout,
    domain: &dyn Domain,
    store: &Store,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let held = Hold::take(domain, layout, store.image, store.volume)?;
    let size = store.description.size_bytes;
    let most = ARCHIVE_BYTES_MAX.min(held.leaf()?.capacity_bytes);
    if size > most {
        return Err(damaged(
            store,
            format!("{size} bytes; the volume has {most}"),
        ));
    }
    let bytes = read_front(context, &held.prepared.path, size)?;
    unpack(store, &bytes)
}

fn damaged(store: &Store, what: impl std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Damaged,
        format!("OVF_STORE {}: {what}", store.volume),
    )
}

fn unpack(store: &Store, bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if bytes.is_empty() {
        return Ok(files);
    }
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(|e| damaged(store, e))? {
        let entry = entry.map_err(|e| damaged(store, e))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(|e| damaged(store, e))?;
        let name = path.to_string_lossy().trim_start_matches("./").to_owned();
        let room = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut content = Vec::new();
        entry
            .take(room)
            .read_to_end(&mut content)
            .map_err(|e| damaged(store, e))?;
        files.insert(name, content);
    }
    Ok(files)
}

/// Packs files as the archive of a store.
///
/// # Errors
///
/// `BadRequest` for a name no archive can have.
pub fn pack(files: &BTreeMap<String, Vec<u8>>, mtime_s: u64) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let refused = |e: std::io::Error| {
        Failure::new(FailureKind::BadRequest, format!("pack the OVF_STORE: {e}"))
    };
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        header.set_mode(0o644);
        header.set_mtime(mtime_s);
        builder
            .append_data(&mut header, name, Cursor::new(content))
            .map_err(refused)?;
    }
    builder.into_inner().map_err(refused)
}

/// Stores a domain has: while one is written, the other can be read.
const STORES: usize = 2;

/// Puts a file into what the domain keeps, or takes it out: the newest store's
/// files with this change are written to another store, which is then the newest.
/// Stores that are missing are made. `now_s` is the time in seconds after 1970.
///
/// # Errors
///
/// `NotFound` for a file to be taken out that is not there; as [`read_newest`],
/// [`write`] and [`create`].
pub fn change(work: &Work<'_>, name: &str, content: Option<&[u8]>, now_s: u64) -> Result<()> {
    let mut stores = stores(work.domain)?;
    let newest = newest(stores.iter().map(|store| (store, &store.description)))
        .map(|(store, _)| store.clone());
    let mut files = match &newest {
        Some(store) => read(work.context, work.layout, work.domain, store)?,
        None => BTreeMap::new(),
    };
    match content {
        Some(content) => drop(files.insert(name.to_owned(), content.to_owned())),
        None if files.remove(name).is_some() => {}
        None => {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!(
                    "domain {}: {name} is not in its OVF_STORE",
                    work.domain.id()
                ),
            ));
        }
    }
    while stores.len() < STORES {
        stores.push(make(work)?);
    }
    let target = stores
        .iter()
        .filter(|store| newest.as_ref().map(|newest| newest.volume) != Some(store.volume))
        .min_by_key(|store| store.description.written_s());
    let target = target.ok_or_else(|| {
        Failure::new(
            FailureKind::Failed,
            format!("domain {}: no OVF_STORE to write to", work.domain.id()),
        )
    })?;
    // Newer than the one before, whatever the clock says.
    let before = newest.and_then(|store| store.description.written_s());
    let when = before.map_or(now_s, |before| now_s.max(before.saturating_add(1)));
    write(work, target, &files, &date(when))
}

/// Makes an empty store.
fn make(work: &Work<'_>) -> Result<Store> {
    let image = ImageId::from_bytes(crate::random::new()?.into_bytes());
    let volume = VolumeId::from_bytes(crate::random::new()?.into_bytes());
    let description = Description {
        updated: false,
        size_bytes: 0,
        last_updated: String::new(),
        domains: vec![work.domain.id()],
    };
    create(
        work,
        &CreateVolume {
            allocation: Allocation::Preallocated,
            format: VolumeFormat::Raw,
            disk_type: DiskType::OvfStore,
            description: description.emit(),
            ..CreateVolume::new(image, volume, VOLUME_BYTES)
        },
    )?;
    Ok(Store {
        image,
        volume,
        description,
    })
}

/// Writes a store: its description says "not whole" before the first byte and
/// "whole" after the last. A crash in between leaves the other store to read.
///
/// `when` is the text managers write, as `Tue Sep 21 14:01:02 UTC 2021`.
///
/// # Errors
///
/// `NoSpace` when the archive is larger than the volume; authority; I/O.
pub fn write(
    work: &Work<'_>,
    store: &Store,
    files: &BTreeMap<String, Vec<u8>>,
    when: &str,
) -> Result<()> {
    let archive = pack(files, 0)?;
    let size = u64::try_from(archive.len()).unwrap_or(u64::MAX);
    let held = Hold::take(work.domain, work.layout, store.image, store.volume)?;
    let room = held.leaf()?.capacity_bytes;
    if size > room {
        return Err(Failure::new(
            FailureKind::NoSpace,
            format!("OVF_STORE {}: {size} bytes; it has {room}", store.volume),
        ));
    }
    let before = Description {
        updated: false,
        ..store.description.clone()
    };
    describe(work, store, &before)?;
    work.authority.check(&work.domain.id().to_string())?;
    write_front(work.context, &held.prepared.path, &archive)?;
    let after = Description {
        updated: true,
        size_bytes: size,
        last_updated: when.to_owned(),
        domains: vec![work.domain.id()],
    };
    describe(work, store, &after)
}

fn describe(work: &Work<'_>, store: &Store, description: &Description) -> Result<()> {
    let entry = work.domain.volume(store.volume)?;
    let mut metadata = work.domain.volume_metadata(&entry)?;
    let text = description.emit();
    if disk_format::vdsm::volume::cut_description(&text) != text {
        return Err(damaged(
            store,
            format!("its description would have {} bytes", text.len()),
        ));
    }
    metadata.description = text;
    work.domain
        .write_volume_metadata(work.authority, &entry, &metadata)
}

fn io(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Io, format!("{}: {error}", path.display()))
}

fn read_front(context: &Context, path: &Path, size: u64) -> Result<Vec<u8>> {
    let device = BlockDevice::open(path, Access::Read).map_err(|e| io(path, e))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut buffer = AlignedBuffer::new(STEP_BYTES);
    while bytes.len() < size {
        context.go_on()?;
        let left = size - bytes.len();
        let step = left.next_multiple_of(SECTOR).min(STEP_BYTES);
        let at = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let part = buffer.get_mut(..step).unwrap_or_default();
        device.read_at(part, at).map_err(|e| io(path, e))?;
        bytes.extend_from_slice(part.get(..left.min(step)).unwrap_or_default());
    }
    Ok(bytes)
}

fn write_front(context: &Context, path: &Path, bytes: &[u8]) -> Result<()> {
    let device = BlockDevice::open(path, Access::ReadWrite).map_err(|e| io(path, e))?;
    let mut buffer = AlignedBuffer::new(STEP_BYTES);
    for (number, part) in (0_u64..).zip(bytes.chunks(STEP_BYTES)) {
        context.go_on()?;
        let padded = part.len().next_multiple_of(SECTOR);
        let room = buffer.get_mut(..padded).unwrap_or_default();
        room.fill(0);
        room.get_mut(..part.len())
            .unwrap_or_default()
            .copy_from_slice(part);
        device
            .write_at(room, number * (1 << 20))
            .map_err(|e| io(path, e))?;
    }
    Ok(())
}
