//! Domains of the classes ISO and Backup (export): read only.

use std::path::{Path, PathBuf};

use disk_format::vdsm::uuid::ImageId;

use super::{FileDomain, direct};
use crate::domain::Special;
use crate::job::Result;

/// How deep below the ISO image's directory is looked.
const DEPTH_MAX: usize = 8;
/// Files listed at most.
const FILES_MAX: usize = 10_000;

/// A file that can be put into a guest's drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsoFile {
    /// Its path below the ISO image's directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size_bytes: u64,
}

/// A guest in an export domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedGuest {
    /// Its id, the name of its directory.
    pub id: String,
    /// Its configuration, as the manager wrote it.
    pub ovf: Vec<u8>,
}

impl FileDomain {
    /// The `.iso` and `.vfd` files of an ISO domain, by name.
    ///
    /// # Errors
    ///
    /// I/O.
    pub fn iso_files(&self) -> Result<Vec<IsoFile>> {
        let base = self.images().join(ImageId::ISO_IMAGE.to_string());
        let mut files = Vec::new();
        let mut rest = vec![(base.clone(), 0)];
        while let Some((directory, depth)) = rest.pop() {
            for name in direct::names(&directory)? {
                let path = directory.join(&name);
                let Ok(status) = std::fs::metadata(&path) else {
                    continue;
                };
                if direct::is_own_directory(&path) && depth < DEPTH_MAX {
                    rest.push((path, depth + 1));
                } else if status.is_file() && is_medium(&name) && files.len() < FILES_MAX {
                    files.push(IsoFile {
                        name: below(&base, &path),
                        path,
                        size_bytes: status.len(),
                    });
                }
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// The guests of an export domain (or those an old manager backed up on a
    /// master), by id.
    ///
    /// # Errors
    ///
    /// I/O.
    pub fn exported_guests(&self) -> Result<Vec<ExportedGuest>> {
        let base = self.special_path(Special::Master).join("vms");
        let mut guests = Vec::new();
        for id in direct::names(&base)? {
            let path = base.join(&id).join(format!("{id}.ovf"));
            if path.is_file() {
                let ovf = direct::read_file(&path)?;
                guests.push(ExportedGuest { id, ovf });
            }
        }
        Ok(guests)
    }
}

fn is_medium(name: &str) -> bool {
    let ending = Path::new(name).extension().and_then(|e| e.to_str());
    ending.is_some_and(|e| e.eq_ignore_ascii_case("iso") || e.eq_ignore_ascii_case("vfd"))
}

fn below(base: &Path, path: &Path) -> String {
    path.strip_prefix(base)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}
