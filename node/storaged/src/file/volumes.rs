//! Volumes of a file domain.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::DomainMetadata;
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{SlotFormat, VolumeMetadata};

use super::{FileDomain, REMOVE_PREFIX, bad_format, direct};
use crate::authority::Authority;
use crate::domain::{
    Domain, DomainKind, Draft, EntryState, LeaseLocation, NewVolume, Space, Special, VolumeEntry,
};
use crate::job::{Context, Result};

const META: &str = ".meta";
const LEASE: &str = ".lease";
const META_NEW: &str = ".meta.new";

/// Directory below `images` for an entry of this state.
fn directory_name(image: ImageId, state: EntryState) -> String {
    match state {
        EntryState::Removed { .. } => format!("{REMOVE_PREFIX}{image}"),
        EntryState::Live | EntryState::HalfMade => image.to_string(),
    }
}

impl FileDomain {
    /// The directory an entry is in: its own image's, or for a template whose
    /// image is gone the first that has links to it.
    fn directory(&self, entry: &VolumeEntry) -> PathBuf {
        let own = self.images().join(directory_name(entry.image, entry.state));
        match entry.shared_with.first() {
            Some(other) if !own.join(format!("{}{META}", entry.id)).exists() => {
                self.images().join(other.to_string())
            }
            _ => own,
        }
    }

    pub(super) fn meta_path(&self, entry: &VolumeEntry) -> PathBuf {
        self.directory(entry).join(format!("{}{META}", entry.id))
    }

    fn check(&self, authority: &dyn Authority) -> Result<()> {
        authority.check(&self.id().to_string())
    }

    /// Replaces a volume's `.meta`, in every directory that has a link to it.
    pub(super) fn write_meta(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        metadata: &VolumeMetadata,
        format: SlotFormat,
    ) -> Result<()> {
        let path = self.meta_path(entry);
        let content = metadata.encode_meta(format).map_err(|e| {
            Failure::new(FailureKind::BadRequest, format!("volume {}: {e}", entry.id))
        })?;
        if !path.exists() {
            return Err(self.not_there(entry.id));
        }
        self.check(authority)?;
        direct::replace_file(&path, &content, 0o644, self.block_size())?;
        for image in &entry.shared_with {
            let other = self
                .images()
                .join(image.to_string())
                .join(format!("{}{META}", entry.id));
            if other == path {
                continue;
            }
            let new = direct::new_name(&other);
            self.check(authority)?;
            direct::remove_file(&new)?;
            direct::link(&path, &new)?;
            if let Err(failure) = direct::rename(&new, &other) {
                direct::remove_file(&new).ok();
                return Err(failure);
            }
        }
        Ok(())
    }

    fn not_there(&self, id: VolumeId) -> Failure {
        Failure::new(
            FailureKind::NotFound,
            format!("volume {id}: not in domain {}", self.id()),
        )
    }

    /// What a directory below `images` holds, by the names of `.meta` files.
    fn entries_of(&self, directory: &Path, image: ImageId, removed: bool) -> Result<Vec<Seen>> {
        let names: BTreeSet<String> = direct::names(directory)?.into_iter().collect();
        let mut seen = Vec::new();
        for name in &names {
            let (id, state) = if let Some(id) = name.strip_suffix(META) {
                let state = if removed {
                    EntryState::Removed { zero: false }
                } else {
                    EntryState::Live
                };
                (id, state)
            } else if let Some(id) = name.strip_suffix(META_NEW) {
                if names.contains(&format!("{id}{META}")) {
                    // A rewrite that never ended; the old content counts.
                    continue;
                }
                (id, EntryState::HalfMade)
            } else {
                continue;
            };
            let Ok(id) = id.parse::<VolumeId>() else {
                continue;
            };
            let data = directory.join(id.to_string());
            let (size_bytes, allocated_bytes) = match std::fs::metadata(&data) {
                Ok(status) => (status.len(), status.blocks().saturating_mul(512)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if state == EntryState::Live {
                        tracing::warn!(path = %data.display(), "volume without data");
                    }
                    (0, 0)
                }
                Err(error) => return Err(direct::failed("look at", &data, &error)),
            };
            let links = std::fs::metadata(directory.join(name)).map_or(1, |s| s.nlink());
            seen.push(Seen {
                linked: links > 1,
                entry: VolumeEntry {
                    id,
                    image,
                    parent_tag: None,
                    slot: None,
                    size_bytes,
                    allocated_bytes,
                    state,
                    shared_with: Vec::new(),
                },
            });
        }
        Ok(seen)
    }

    /// The image that a linked volume says it belongs to.
    fn own_image(&self, seen: &Seen) -> ImageId {
        let path = self.meta_path(&seen.entry);
        direct::read_file(&path)
            .ok()
            .and_then(|content| VolumeMetadata::decode_meta(&content).ok())
            .map_or(seen.entry.image, |metadata| metadata.image)
    }

    fn removed_directory(&self, image: ImageId) -> PathBuf {
        self.images().join(format!("{REMOVE_PREFIX}{image}"))
    }
}

struct Seen {
    entry: VolumeEntry,
    /// Its metadata have another name somewhere.
    linked: bool,
}

impl Domain for FileDomain {
    fn id(&self) -> DomainId {
        self.id
    }

    fn kind(&self) -> DomainKind {
        self.kind
    }

    fn version(&self) -> DomainVersion {
        self.known().version
    }

    fn block_size(&self) -> u32 {
        self.known().block_size
    }

    fn alignment(&self) -> u64 {
        self.known().alignment
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn special(&self, which: Special) -> PathBuf {
        self.special_path(which)
    }

    fn metadata(&self) -> Result<DomainMetadata> {
        self.read()
    }

    fn change_metadata(
        &self,
        authority: &dyn Authority,
        change: &mut dyn FnMut(&mut DomainMetadata) -> Result<()>,
    ) -> Result<DomainMetadata> {
        self.change(authority, change)
    }

    fn upgrade(
        &self,
        context: &Context,
        authority: &dyn Authority,
        to: DomainVersion,
    ) -> Result<()> {
        self.upgrade_to(context, authority, to)
    }

    fn space(&self) -> Result<Space> {
        self.space_now()
    }

    fn volumes(&self) -> Result<Vec<VolumeEntry>> {
        let mut all: BTreeMap<(VolumeId, EntryState, ImageId), VolumeEntry> = BTreeMap::new();
        for name in direct::names(&self.images())? {
            let (image, removed) = match name.strip_prefix(REMOVE_PREFIX) {
                Some(rest) => (rest, true),
                None => (name.as_str(), false),
            };
            let Ok(image) = image.parse::<ImageId>() else {
                continue;
            };
            if !direct::is_own_directory(&self.images().join(&name)) {
                tracing::warn!(image = %name, "no directory, passed over");
                continue;
            }
            let seen = self.entries_of(&self.images().join(&name), image, removed)?;
            // A template may be among several, the last of its links even when its
            // own image is gone; a volume alone and with one name is its own image's.
            let several = seen.len() > 1;
            for seen in seen {
                let mut entry = seen.entry.clone();
                if entry.is_live() && (seen.linked || several) {
                    entry.image = self.own_image(&seen);
                }
                let is_link = entry.image != image;
                let key = if entry.is_live() {
                    (entry.id, entry.state, ImageId::BLANK)
                } else {
                    (entry.id, entry.state, image)
                };
                let known = all.entry(key).or_insert(entry);
                if is_link {
                    known.shared_with.push(image);
                }
            }
        }
        Ok(all.into_values().collect())
    }

    fn volume(&self, id: VolumeId) -> Result<VolumeEntry> {
        // Not by listing everything: one look at each image.
        let mut found: Option<VolumeEntry> = None;
        for name in direct::names(&self.images())? {
            let Ok(image) = name.parse::<ImageId>() else {
                continue;
            };
            let directory = self.images().join(&name);
            if !directory.join(format!("{id}{META}")).exists()
                || !direct::is_own_directory(&directory)
            {
                continue;
            }
            let mut seen = self.entries_of(&directory, image, false)?;
            seen.retain(|one| one.entry.id == id && one.entry.is_live());
            for one in seen {
                let own = self.own_image(&one);
                let known = found.get_or_insert(VolumeEntry {
                    image: own,
                    ..one.entry
                });
                if image != own {
                    known.shared_with.push(image);
                }
            }
        }
        found.ok_or_else(|| self.not_there(id))
    }

    fn volume_metadata(&self, entry: &VolumeEntry) -> Result<VolumeMetadata> {
        let path = self.meta_path(entry);
        let content = direct::read_file(&path)?;
        let metadata = VolumeMetadata::decode_meta(&content).map_err(|e| bad_format(&path, &e))?;
        if metadata.domain != self.id() || metadata.image != entry.image {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!(
                    "{}: written for image {} of domain {}",
                    path.display(),
                    metadata.image,
                    metadata.domain
                ),
            ));
        }
        Ok(metadata)
    }

    fn write_volume_metadata(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        metadata: &VolumeMetadata,
    ) -> Result<()> {
        self.write_meta(authority, entry, metadata, SlotFormat::of(self.version()))
    }

    fn make_image(&self, authority: &dyn Authority, image: ImageId) -> Result<()> {
        let path = self.images().join(image.to_string());
        if direct::is_own_directory(&path) {
            return Ok(());
        }
        self.check(authority)?;
        direct::make_directory(&path, 0o775)?;
        if direct::is_own_directory(&path) {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Damaged,
            format!("image {image}: {} leads elsewhere", path.display()),
        ))
    }

    fn share(
        &self,
        authority: &dyn Authority,
        template: &VolumeEntry,
        image: ImageId,
    ) -> Result<()> {
        let from = self.directory(template);
        let to = self.images().join(image.to_string());
        if from == to {
            return Ok(());
        }
        // `.meta` last: the template shows there only when it is there whole.
        for ending in ["", LEASE, META] {
            let name = format!("{}{ending}", template.id);
            if ending == LEASE && !from.join(&name).exists() {
                continue;
            }
            self.check(authority)?;
            direct::link(&from.join(&name), &to.join(&name))?;
        }
        Ok(())
    }

    fn forget_image(&self, authority: &dyn Authority, image: ImageId) -> Result<()> {
        let path = self.images().join(image.to_string());
        for seen in self.entries_of(&path, image, false)? {
            let foreign = seen.entry.is_live() && self.own_image(&seen) != image;
            if !foreign {
                return Ok(());
            }
        }
        let names = direct::names(&path)?;
        for name in &names {
            let stem = name
                .strip_suffix(META)
                .or_else(|| name.strip_suffix(LEASE))
                .unwrap_or(name);
            // The template's own directory has the same file. A file without
            // metadata that is nowhere else is somebody's loss: it keeps its place.
            let meta = names.contains(&format!("{stem}{META}"));
            let links = std::fs::metadata(path.join(name)).map_or(1, |s| s.nlink());
            if !meta && links < 2 {
                return Ok(());
            }
        }
        // `.meta` first: what is left of the template does not show as it.
        let (metas, others): (Vec<_>, Vec<_>) = names.iter().partition(|n| n.ends_with(META));
        for name in metas.into_iter().chain(others) {
            self.check(authority)?;
            direct::remove_file(&path.join(name))?;
        }
        self.check(authority)?;
        match std::fs::remove_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(direct::failed("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }

    fn allocate(
        &self,
        _context: &Context,
        authority: &dyn Authority,
        new: &NewVolume,
    ) -> Result<Draft> {
        let directory = self.images().join(new.image.to_string());
        let data = directory.join(new.id.to_string());
        let meta = directory.join(format!("{}{META}", new.id));
        let lease = directory.join(format!("{}{LEASE}", new.id));
        if meta.exists() || data.exists() {
            return Err(Failure::new(
                FailureKind::Exists,
                format!("volume {}: {} is there", new.id, data.display()),
            ));
        }
        let draft = Draft {
            id: new.id,
            image: new.image,
            path: data.clone(),
            size_bytes: 0,
            slot: None,
            lease: LeaseLocation {
                path: lease.clone(),
                offset: 0,
            },
        };
        let make = || -> Result<()> {
            self.check(authority)?;
            // The mark of a half-made volume, before there is anything to mark.
            direct::remove_file(&direct::new_name(&meta))?;
            direct::make_file(&direct::new_name(&meta), 0o644, 0)?;
            self.check(authority)?;
            direct::make_file(&data, 0o660, 0)?;
            if self.kind() != DomainKind::Local {
                self.check(authority)?;
                direct::remove_file(&lease)?;
                direct::make_file(&lease, 0o660, 0)?;
            }
            Ok(())
        };
        match make() {
            Ok(()) => Ok(draft),
            Err(failure) => {
                if let Err(left) = self.discard_draft(authority, &draft) {
                    tracing::warn!(volume = %new.id, failure = %left, "half-made volume left behind");
                }
                Err(failure)
            }
        }
    }

    fn publish(
        &self,
        authority: &dyn Authority,
        draft: &Draft,
        metadata: &VolumeMetadata,
    ) -> Result<VolumeEntry> {
        let directory = self.images().join(draft.image.to_string());
        let meta = directory.join(format!("{}{META}", draft.id));
        let content = metadata
            .encode_meta(SlotFormat::of(self.version()))
            .map_err(|e| {
                Failure::new(FailureKind::BadRequest, format!("volume {}: {e}", draft.id))
            })?;
        // Its data, before its name.
        let data = std::fs::File::open(&draft.path)
            .and_then(|file| file.sync_all().and_then(|()| file.metadata()))
            .map_err(|e| direct::failed("sync", &draft.path, &e))?;
        self.check(authority)?;
        direct::replace_file(&meta, &content, 0o644, self.block_size())?;
        Ok(VolumeEntry {
            id: draft.id,
            image: draft.image,
            parent_tag: None,
            slot: None,
            size_bytes: data.len(),
            allocated_bytes: data.blocks().saturating_mul(512),
            state: EntryState::Live,
            shared_with: Vec::new(),
        })
    }

    fn discard_draft(&self, authority: &dyn Authority, draft: &Draft) -> Result<()> {
        self.remove(
            authority,
            &VolumeEntry {
                id: draft.id,
                image: draft.image,
                parent_tag: None,
                slot: None,
                size_bytes: 0,
                allocated_bytes: 0,
                state: EntryState::HalfMade,
                shared_with: Vec::new(),
            },
        )
    }

    fn activate(&self, _entries: &[&VolumeEntry]) -> Result<()> {
        Ok(())
    }

    fn deactivate(&self, _entries: &[&VolumeEntry]) -> Result<Vec<VolumeId>> {
        Ok(Vec::new())
    }

    fn refresh(&self, _entries: &[&VolumeEntry]) -> Result<()> {
        Ok(())
    }

    fn path(&self, entry: &VolumeEntry) -> PathBuf {
        self.directory(entry).join(entry.id.to_string())
    }

    fn lease(&self, entry: &VolumeEntry) -> LeaseLocation {
        LeaseLocation {
            path: self.directory(entry).join(format!("{}{LEASE}", entry.id)),
            offset: 0,
        }
    }

    fn extend(&self, authority: &dyn Authority, entry: &VolumeEntry, to_bytes: u64) -> Result<u64> {
        let path = self.path(entry);
        let failed = |e| direct::failed("extend", &path, &e);
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let now = file.metadata().map_err(failed)?.len();
        if now >= to_bytes {
            return Ok(now);
        }
        self.check(authority)?;
        file.set_len(to_bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(to_bytes)
    }

    fn reduce(
        &self,
        _authority: &dyn Authority,
        entry: &VolumeEntry,
        _to_bytes: u64,
    ) -> Result<u64> {
        // A file takes what it holds and no more.
        let path = self.path(entry);
        std::fs::metadata(&path)
            .map(|status| status.len())
            .map_err(|e| direct::failed("look at", &path, &e))
    }

    fn set_parent_tag(
        &self,
        _authority: &dyn Authority,
        _entry: &VolumeEntry,
        _parent: VolumeId,
    ) -> Result<()> {
        Ok(())
    }

    fn mark_removed(
        &self,
        authority: &dyn Authority,
        entry: &VolumeEntry,
        zero: bool,
    ) -> Result<VolumeEntry> {
        if zero {
            warn_not_wiped(entry.image);
        }
        if !entry.is_live() {
            return Ok(entry.clone());
        }
        let meta = self.meta_path(entry);
        self.check(authority)?;
        direct::rename(&meta, &direct::new_name(&meta))?;
        Ok(VolumeEntry {
            state: EntryState::HalfMade,
            ..entry.clone()
        })
    }

    fn mark_image_removed(
        &self,
        authority: &dyn Authority,
        image: ImageId,
        zero: bool,
    ) -> Result<Vec<VolumeEntry>> {
        if zero {
            warn_not_wiped(image);
        }
        let from = self.images().join(image.to_string());
        let to = self.removed_directory(image);
        if direct::is_own_directory(&from) {
            if to.is_dir() {
                // Of an earlier image of the same id whose removal never ended.
                self.check(authority)?;
                remove_tree(&to)?;
            }
            self.check(authority)?;
            direct::rename(&from, &to)?;
        }
        let seen = self.entries_of(&to, image, true)?;
        if seen.is_empty() && to.is_dir() {
            self.check(authority)?;
            remove_tree(&to)?;
        }
        Ok(seen.into_iter().map(|one| one.entry).collect())
    }

    fn remove(&self, authority: &dyn Authority, entry: &VolumeEntry) -> Result<()> {
        let directory = self.images().join(directory_name(entry.image, entry.state));
        let meta = directory.join(format!("{}{META}", entry.id));
        let removed = matches!(entry.state, EntryState::Removed { .. });
        if entry.is_live() || (!removed && meta.exists()) {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("volume {}: not marked for removal", entry.id),
            ));
        }
        // The mark last: until then whoever comes next knows what this is.
        let mark = if removed {
            META.to_owned()
        } else {
            META_NEW.to_owned()
        };
        for ending in [String::new(), LEASE.to_owned(), mark] {
            self.check(authority)?;
            direct::remove_file(&directory.join(format!("{}{ending}", entry.id)))?;
        }
        if removed
            && directory.is_dir()
            && self.entries_of(&directory, entry.image, true)?.is_empty()
        {
            self.check(authority)?;
            remove_tree(&directory)?;
        }
        Ok(())
    }

    fn sweep(&self, authority: &dyn Authority) -> Result<usize> {
        let mut swept = 0;
        for name in direct::names(&self.images())? {
            if name.starts_with(REMOVE_PREFIX) {
                let path = self.images().join(&name);
                self.check(authority)?;
                tracing::info!(path = %path.display(), "removing what is left of a deleted image");
                remove_tree(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

fn warn_not_wiped(image: ImageId) {
    tracing::warn!(%image, "not zeroed before removal: a file system returns zeros for new files");
}

/// Removes a directory and what is in it. Already gone is success.
fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(direct::failed("remove", path, &error))
        }
        _ => Ok(()),
    }
}
