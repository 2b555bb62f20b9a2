//! Making and destroying file domains.

use std::fs;
use std::path::{Path, PathBuf};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{Backing, DomainClass, DomainMetadata, DomainType, NewDomain};
use disk_format::vdsm::uuid::{DomainId, ImageId};
use disk_format::vdsm::version::DomainVersion;

use super::{DOM_MD, FileDomain, IMAGES, direct, metadata_path, probe};
use crate::authority::Authority;
use crate::domain::{LeaseLocation, Special};
use crate::image::leases::{LeaseName, Leases};
use crate::job::{Context, Result};

/// Bytes of an inbox or outbox.
const MAILBOX_BYTES: u64 = 16 << 20;

/// What a new file domain shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFileDomain {
    /// Its id.
    pub id: DomainId,
    /// 3, 4 or 5.
    pub version: DomainVersion,
    /// NFS, POSIXFS, GLUSTERFS, CIFS or LOCALFS.
    pub kind: DomainType,
    /// What it holds.
    pub class: DomainClass,
    /// One line, at most 50 characters.
    pub description: String,
    /// What was mounted, as on the command line of `mount`.
    pub remote_path: String,
    /// Bytes of a sector: found out by trying when absent.
    pub block_size: Option<u32>,
    /// Hosts that shall be able to use it at the same time; decides the size of
    /// leases.
    pub hosts_max: u32,
}

/// Bytes of a lease on sectors of `block_size` bytes with room for `hosts_max` hosts.
///
/// # Errors
///
/// `Unsupported` for other sectors than 512 and 4096, or more than 2000 hosts.
pub fn alignment_for(block_size: u32, hosts_max: u32) -> Result<u32> {
    match (block_size, hosts_max) {
        (512, ..=2000) | (4096, ..=250) => Ok(1 << 20),
        (4096, ..=500) => Ok(2 << 20),
        (4096, ..=1000) => Ok(4 << 20),
        (4096, ..=2000) => Ok(8 << 20),
        (512 | 4096, _) => Err(Failure::new(
            FailureKind::Unsupported,
            format!("hosts of a domain: {hosts_max}; largest is 2000"),
        )),
        _ => Err(Failure::new(
            FailureKind::Unsupported,
            format!("block size {block_size}; supported are 512 and 4096"),
        )),
    }
}

/// The block size a domain of this type on `mount` gets.
fn block_size_for(mount: &Path, new: &NewFileDomain) -> Result<u32> {
    let probed = probe::block_size(mount)?;
    let wanted = match new.kind {
        // The server decides about sectors; its own size does not show.
        DomainType::Nfs | DomainType::PosixFs | DomainType::Cifs => 512,
        _ => new.block_size.unwrap_or(probed),
    };
    if new.block_size.is_some_and(|size| size != wanted) || wanted != probed {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "{}: direct I/O in blocks of {probed} bytes; a domain of type {} wants {}",
                mount.display(),
                new.kind,
                new.block_size.unwrap_or(wanted),
            ),
        ));
    }
    if wanted != 512 && new.version < DomainVersion::V5 {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "{}: blocks of {wanted} bytes; a domain of version {} has blocks of 512, use version 5",
                mount.display(),
                new.version
            ),
        ));
    }
    Ok(wanted)
}

impl FileDomain {
    /// Makes a domain below `mount`. Its `metadata` file comes last, so nobody
    /// finds half a domain; when a step fails everything made is removed.
    ///
    /// # Errors
    ///
    /// `Exists` when there is a domain already; `Unsupported` for the
    /// combination; I/O.
    pub fn create(
        context: &Context,
        mount: &Path,
        new: &NewFileDomain,
        leases: &dyn Leases,
    ) -> Result<Self> {
        if new.kind.is_block() || new.kind == DomainType::Unknown {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("domain type {}: not one of a directory", new.kind),
            ));
        }
        if !new.version.is_supported() {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!("domain version {}; supported are 3, 4, 5", new.version),
            ));
        }
        if let Some(other) = super::discover(mount)?.first() {
            return Err(Failure::new(
                FailureKind::Exists,
                format!(
                    "{}: has domain {} already; one mount holds one domain",
                    mount.display(),
                    other.id
                ),
            ));
        }
        let block_size = block_size_for(mount, new)?;
        let alignment = alignment_for(block_size, new.hosts_max)?;
        let metadata = DomainMetadata::new(&NewDomain {
            id: new.id,
            version: new.version,
            kind: new.kind,
            class: new.class,
            description: new.description.clone(),
            backing: Backing::File {
                remote_path: new.remote_path.clone(),
            },
            block_bytes: block_size,
            alignment_bytes: alignment,
        })
        .map_err(|e| Failure::new(FailureKind::BadRequest, e.to_string()))?;
        context.go_on()?;

        let root = mount.join(new.id.to_string());
        if !direct::make_directory(&root, 0o755)? {
            // Not found as a domain, so half-made by an attempt that died, or
            // somebody's directory: only an empty or half-made one is taken.
            half_made(&root)?;
        }
        let shape = Shape {
            id: new.id,
            version: new.version,
            local: new.kind == DomainType::LocalFs,
            class: new.class,
            block_size,
            alignment,
        };
        let made = fill(&root, &shape, leases).and_then(|()| {
            direct::replace_file(
                &metadata_path(&root),
                &metadata.to_lines(),
                0o644,
                block_size,
            )
        });
        match made.and_then(|()| Self::open(&root)) {
            Ok(domain) => Ok(domain),
            Err(failure) => {
                if let Err(error) = take_away(&root) {
                    tracing::warn!(root = %root.display(), %error, "half-made domain left behind");
                }
                Err(failure)
            }
        }
    }

    /// Destroys a domain that is in no pool: its metadata first, so that nobody
    /// finds half of it.
    ///
    /// # Errors
    ///
    /// `InUse` while it is attached; authority; I/O. Can be repeated by making
    /// the same domain anew, or by hand.
    pub fn destroy(self, authority: &dyn Authority) -> Result<()> {
        let metadata = self.read()?;
        if let Some(pool) = metadata.pools().first() {
            return Err(Failure::new(
                FailureKind::InUse,
                format!(
                    "domain {}: attached to pool {pool}; detach it first",
                    self.id
                ),
            ));
        }
        authority.check(&self.id.to_string())?;
        direct::remove_file(&metadata_path(&self.root))?;
        take_away(&self.root).map_err(|e| direct::failed("remove", &self.root, &e))
    }

    /// Makes the tree that a pool's master has: `master/vms` and `master/tasks`.
    ///
    /// # Errors
    ///
    /// Authority; I/O.
    pub fn make_master_tree(&self, authority: &dyn Authority) -> Result<()> {
        authority.check(&self.id.to_string())?;
        let master = self.special_path(Special::Master);
        for path in [master.clone(), master.join("vms"), master.join("tasks")] {
            direct::make_directory(&path, 0o755)?;
        }
        Ok(())
    }
}

struct Shape {
    id: DomainId,
    version: DomainVersion,
    local: bool,
    class: DomainClass,
    block_size: u32,
    alignment: u32,
}

fn fill(root: &Path, shape: &Shape, leases: &dyn Leases) -> Result<()> {
    let own = root.join(DOM_MD);
    direct::make_directory(&own, 0o775)?;
    direct::make_directory(&root.join(IMAGES), 0o755)?;
    if shape.class == DomainClass::Iso {
        // Where people put their files.
        direct::make_directory(&iso_directory(root), 0o755)?;
    }
    let file = |which: Special| own.join(which.name());
    let mut parts = vec![
        (Special::Ids, 0),
        (Special::Leases, 0),
        (Special::Inbox, MAILBOX_BYTES),
        (Special::Outbox, MAILBOX_BYTES),
    ];
    let external = shape.version.has_external_leases() && !shape.local;
    if external {
        parts.push((Special::Xleases, 0));
    }
    for (which, length) in parts {
        direct::remove_file(&file(which))?;
        direct::make_file(&file(which), 0o660, length)?;
    }
    if shape.local {
        return Ok(());
    }
    let area = |which: Special, offset: u64, resource: &str| LeaseName {
        lockspace: shape.id,
        resource: resource.to_owned(),
        location: LeaseLocation {
            path: file(which),
            offset,
        },
        block_size: shape.block_size,
        alignment: u64::from(shape.alignment),
    };
    leases.create_lockspace(&area(Special::Ids, 0, ""))?;
    leases.create(&area(Special::Leases, u64::from(shape.alignment), "SDM"))?;
    if external {
        super::upgrade::format_xleases(
            &file(Special::Xleases),
            shape.id,
            shape.block_size,
            shape.alignment,
        )?;
    }
    Ok(())
}

/// Succeeds when a directory holds nothing but what an unfinished creation makes.
fn half_made(root: &Path) -> Result<()> {
    let foreign = |path: PathBuf| {
        Err(Failure::new(
            FailureKind::Foreign,
            format!(
                "{}: there already and no domain's; remove it first",
                path.display()
            ),
        ))
    };
    for name in direct::names(root)? {
        let path = root.join(&name);
        match name.as_str() {
            DOM_MD => {}
            IMAGES if holds_nothing(root)? => {}
            _ => return foreign(path),
        }
    }
    Ok(())
}

/// Whether there are no images yet.
fn holds_nothing(root: &Path) -> Result<bool> {
    let iso = ImageId::ISO_IMAGE.to_string();
    let others = direct::names(&root.join(IMAGES))?
        .into_iter()
        .any(|name| name != iso);
    Ok(!others && direct::names(&iso_directory(root))?.is_empty())
}

fn iso_directory(root: &Path) -> PathBuf {
    root.join(IMAGES).join(ImageId::ISO_IMAGE.to_string())
}

fn take_away(root: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
