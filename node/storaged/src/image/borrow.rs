//! Images that work has prepared for itself, and lets go of when it ends.
//!
//! A mark beside the links says so: a file that each piece of work has open and
//! locked, shared with others that read the same image.
//!
//! - the last one that ends lets go of the image;
//! - nobody does once a guest, or an operator, has prepared it meanwhile: that
//!   takes the mark away;
//! - a mark that nobody has locked is of work that died: whoever finds it lets go
//!   of the image.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk_format::vdsm::uuid::ImageId;
use rustix::fs::FlockOperation;

use super::prepare::{self, Prepared, Wanted};
use crate::domain::Domain;
use crate::file::failed;
use crate::job::Result;
use crate::layout::Layout;

/// Ends the names of marks.
const SUFFIX: &str = ".borrowed";

/// The right, and the duty, to let go of an image. Dropped without
/// [`give_back`], it is left to whoever finds the mark.
#[derive(Debug)]
pub(super) struct Borrowed {
    mark: PathBuf,
    file: File,
}

impl Borrowed {
    fn take(mark: &Path) -> Result<Self> {
        let file = open(mark, true)?;
        rustix::fs::flock(&file, FlockOperation::LockShared)
            .map_err(|e| failed("lock", mark, &e.into()))?;
        Ok(Self {
            mark: mark.to_owned(),
            file,
        })
    }

    /// Whether the image is still nobody's but of such work.
    fn counts(&self) -> bool {
        let same = |there: fs::Metadata| {
            let own = self.file.metadata();
            own.is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
        };
        fs::symlink_metadata(&self.mark).is_ok_and(same)
    }
}

/// Prepares an image for work of this process. Nothing to give back comes with one
/// that a guest or an operator had prepared.
///
/// # Errors
///
/// As [`prepare::prepare`].
pub(super) fn borrow(
    domain: &dyn Domain,
    layout: &Layout,
    wanted: Wanted,
) -> Result<(Prepared, Option<Borrowed>)> {
    let mark = mark(domain, layout, wanted.image);
    let mut borrowed = None;
    let prepared = prepare::prepare_with(domain, layout, wanted, None, &mut |before| {
        if !before || fs::symlink_metadata(&mark).is_ok() {
            borrowed = Some(Borrowed::take(&mark)?);
        }
        Ok(())
    });
    match (prepared, borrowed) {
        (Ok(prepared), borrowed) => Ok((prepared, borrowed)),
        (Err(failure), Some(borrowed)) => {
            give_back(domain, layout, wanted.image, &borrowed)?;
            Err(failure)
        }
        (Err(failure), None) => Err(failure),
    }
}

/// Lets go of an image when this is the last work that has it.
///
/// # Errors
///
/// I/O.
pub(super) fn give_back(
    domain: &dyn Domain,
    layout: &Layout,
    image: ImageId,
    borrowed: &Borrowed,
) -> Result<()> {
    let _one_at_a_time = prepare::lock(domain, layout)?;
    if borrowed.counts() && is_free(&borrowed.file) {
        prepare::teardown_locked(domain, layout, image)?;
    }
    Ok(())
}

/// Lets go of what work that died had prepared; how many images.
///
/// # Errors
///
/// I/O.
pub fn let_go_of_left(domain: &dyn Domain, layout: &Layout) -> Result<usize> {
    let _one_at_a_time = prepare::lock(domain, layout)?;
    let list = fs::read_dir(&layout.run).map_err(|e| failed("list", &layout.run, &e))?;
    let mut gone = 0;
    for entry in list {
        let name = entry.map_err(|e| failed("list", &layout.run, &e))?;
        let name = name.file_name();
        let image = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix(domain)))
            .and_then(|name| name.strip_suffix(SUFFIX))
            .and_then(|image| image.parse::<ImageId>().ok());
        let Some(image) = image else { continue };
        if is_free(&open(&layout.run.join(&name), false)?) {
            tracing::info!(domain = %domain.id(), %image, "work that died had prepared it");
            prepare::teardown_locked(domain, layout, image)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Whether nobody else has a mark locked. Our own lock may be lost by asking.
fn is_free(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn open(mark: &Path, create: bool) -> Result<File> {
    File::options()
        .create(create)
        .truncate(false)
        .read(true)
        .write(true)
        .open(mark)
        .map_err(|e| failed("open", mark, &e))
}

fn prefix(domain: &dyn Domain) -> String {
    format!(".{}.", domain.id())
}

/// Where the mark of an image is.
pub(super) fn mark(domain: &dyn Domain, layout: &Layout, image: ImageId) -> PathBuf {
    layout
        .run
        .join(format!("{}{image}{SUFFIX}", prefix(domain)))
}

/// Removes a mark; none is success.
///
/// # Errors
///
/// I/O.
pub(super) fn remove(mark: &Path) -> Result<()> {
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", mark, &error))
        }
        _ => Ok(()),
    }
}
