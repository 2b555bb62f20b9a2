//! The master's file system: a directory of a file domain, a mounted logical
//! volume of a block domain.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use linux::mount::Flags;

use super::left;
use crate::authority::Authority;
use crate::command::Run;
use crate::domain::{Domain, DomainKind, Special};
use crate::job::{Context, Result};

/// Bytes of the inbox and of the outbox.
pub const MAILBOX_BYTES: u64 = 16 << 20;
/// What every master has, and what a migration takes along.
const TREES: [&str; 2] = ["vms", "tasks"];
/// Left out of a copy: every file system has its own.
const LOST_AND_FOUND: &str = "lost+found";
/// First exit status of a check that means it could not put everything right.
const FSCK_ERRORS_LEFT: i32 = 4;
/// How long a check of 1 GiB, or making its journal, may take: both within the
/// step's limit of the role's core.
const FSCK: Duration = Duration::from_secs(120);
/// Directories deeper than this are not copied: none are.
const DEPTH_MAX: u32 = 32;

/// The master's files, usable until [`MasterFiles::close`].
#[derive(Debug)]
pub struct MasterFiles {
    dir: PathBuf,
    mounted: bool,
}

impl MasterFiles {
    /// Checks and mounts (block) and makes what every master has. A file system
    /// that cannot be mounted is never made anew.
    ///
    /// # Errors
    /// [`FailureKind::Damaged`] when the check leaves errors; authority; I/O.
    pub fn open(context: &Context, authority: &dyn Authority, domain: &dyn Domain) -> Result<Self> {
        let name = domain.id().to_string();
        let files = if domain.kind() == DomainKind::Block {
            Self::mount(context, authority, domain, &name)?
        } else {
            Self {
                dir: domain.special(Special::Master),
                mounted: false,
            }
        };
        let made = files.make_trees(authority, &name);
        match made {
            Ok(()) => Ok(files),
            Err(failure) => match files.close(domain) {
                Ok(()) => Err(failure),
                Err(worse) => Err(worse.while_doing(failure)),
            },
        }
    }

    fn mount(
        context: &Context,
        authority: &dyn Authority,
        domain: &dyn Domain,
        name: &str,
    ) -> Result<Self> {
        // Before anything reads the device through what is left of it.
        let dir = domain.root().join(Special::Master.name());
        left::take_away(context, &dir, domain.id())?;
        domain.activate_special(Special::Master)?;
        let device = domain.special(Special::Master);
        fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
        authority.check(name)?;
        let checked = Run::new("e2fsck")
            .arg("-p")
            .arg(&device)
            .inherit(authority.registration())
            .within(FSCK)
            .run(context)?;
        if checked.code.is_none_or(|code| code >= FSCK_ERRORS_LEFT) {
            return Err(checked
                .failure(FailureKind::Damaged)
                .while_doing(format_args!(
                    "domain {name}: file system of the master cannot be used as it is"
                )));
        }
        authority.check(name)?;
        // A file system that has a journal refuses; old ones get theirs.
        drop(
            Run::new("tune2fs")
                .arg("-j")
                .arg(&device)
                .inherit(authority.registration())
                .within(FSCK)
                .run(context),
        );
        authority.check(name)?;
        linux::mount::mount(&device, &dir, "ext3", Flags::empty(), "").map_err(|error| {
            Failure::new(
                FailureKind::Io,
                format!("domain {name}: file system of the master: {error}"),
            )
        })?;
        Ok(Self { dir, mounted: true })
    }

    fn make_trees(&self, authority: &dyn Authority, name: &str) -> Result<()> {
        for tree in TREES {
            authority.check(name)?;
            let path = self.dir.join(tree);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .map_err(|error| failed(&path, &error))?;
        }
        Ok(())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where persisted tasks are.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.dir.join("tasks")
    }

    /// Removes what is in the trees.
    ///
    /// # Errors
    /// Authority; I/O.
    pub fn clean(&self, authority: &dyn Authority, domain: &str) -> Result<()> {
        for tree in TREES {
            let path = self.dir.join(tree);
            for entry in entries(&path)? {
                authority.check(domain)?;
                remove(&entry)?;
            }
        }
        Ok(())
    }

    /// Copies the trees of another master here, durable on return.
    ///
    /// # Errors
    /// Authority of `domain`, this one; I/O.
    pub fn copy_from(
        &self,
        context: &Context,
        authority: &dyn Authority,
        domain: &str,
        other: &Self,
    ) -> Result<()> {
        for tree in TREES {
            context.tell(0, 0, "copying the master's files");
            copy(
                &other.dir.join(tree),
                &self.dir.join(tree),
                &mut || authority.check(domain),
                DEPTH_MAX,
            )?;
        }
        let dir = fs::File::open(&self.dir).map_err(|error| failed(&self.dir, &error))?;
        rustix::fs::syncfs(&dir).map_err(|error| failed(&self.dir, &error.into()))
    }

    /// Unmounts (block) and lets the volume of `domain`, whose files these are,
    /// be inactive again. When unmounting fails, the lease must not be given back.
    ///
    /// # Errors
    /// The kernel's refusal: [`FailureKind::InUse`] while a file is open.
    pub fn close(self, domain: &dyn Domain) -> Result<()> {
        if !self.mounted {
            return Ok(());
        }
        linux::mount::unmount(&self.dir)
            .map_err(|error| Failure::new(FailureKind::InUse, error.to_string()))?;
        if let Err(failure) = domain.deactivate_special(Special::Master) {
            // Active without being used harms nobody.
            tracing::warn!(domain = %domain.id(), %failure, "volume of the master stays active");
        }
        Ok(())
    }
}

/// Makes the mailboxes of a master ready: on file domains two files of
/// [`MAILBOX_BYTES`]; on block domains they are always there.
///
/// # Errors
/// Authority; I/O.
pub fn prepare_mailboxes(authority: &dyn Authority, domain: &dyn Domain) -> Result<()> {
    if domain.kind() != DomainKind::File {
        return Ok(());
    }
    for which in [Special::Inbox, Special::Outbox] {
        let path = domain.special(which);
        let right = fs::metadata(&path).is_ok_and(|found| found.len() == MAILBOX_BYTES);
        if right {
            continue;
        }
        authority.check(&domain.id().to_string())?;
        let file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(&path, &error))?;
        file.set_permissions(fs::Permissions::from_mode(0o660))
            .and_then(|()| file.set_len(MAILBOX_BYTES))
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(dir, &error)),
    };
    listed
        .map(|entry| Ok(entry.map_err(|error| failed(dir, &error))?.path()))
        .collect()
}

fn remove(path: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(path).map_err(|error| failed(path, &error))?;
    let removed = if kind.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

/// Copies a directory's content: directories, files and links, with owner and mode.
fn copy(from: &Path, to: &Path, check: &mut dyn FnMut() -> Result<()>, depth: u32) -> Result<()> {
    if depth == 0 {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!("{}: deeper than {DEPTH_MAX} directories", from.display()),
        ));
    }
    for entry in entries(from)? {
        let Some(name) = entry.file_name() else {
            continue;
        };
        if name == LOST_AND_FOUND {
            continue;
        }
        let target = to.join(name);
        let found = fs::symlink_metadata(&entry).map_err(|error| failed(&entry, &error))?;
        check()?;
        let io = |error: std::io::Error| failed(&target, &error);
        if found.is_dir() {
            fs::create_dir_all(&target).map_err(io)?;
            copy(&entry, &target, check, depth - 1)?;
        } else if found.is_symlink() {
            let link = fs::read_link(&entry).map_err(|error| failed(&entry, &error))?;
            symlink(link, &target).map_err(io)?;
            continue;
        } else if found.is_file() {
            fs::copy(&entry, &target).map_err(io)?;
        } else {
            continue;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(found.mode() & 0o7777))
            .map_err(io)?;
        chown(&target, Some(found.uid()), Some(found.gid())).map_err(io)?;
    }
    Ok(())
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::NoSpace,
        ErrorKind::PermissionDenied => FailureKind::Denied,
        ErrorKind::NotFound => FailureKind::NotFound,
        _ => FailureKind::Io,
    };
    Failure::new(kind, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Unattached;

    #[test]
    fn trees_are_copied_without_what_every_file_system_has() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let files = MasterFiles {
                dir: dir.path().join(name),
                mounted: false,
            };
            let one = Unattached {
                domain: "one".to_owned(),
            };
            files.make_trees(&one, "one").expect("made");
            files
        };
        let (old, new) = (make("old"), make("new"));
        let task = old.tasks().join("a-task");
        fs::create_dir_all(&task).expect("made");
        fs::create_dir_all(old.tasks().join(LOST_AND_FOUND)).expect("made");
        fs::write(task.join("a-task.task"), "state = running\n").expect("written");
        fs::set_permissions(task.join("a-task.task"), fs::Permissions::from_mode(0o640))
            .expect("set");
        symlink("a-task.task", task.join("link")).expect("linked");
        fs::create_dir_all(new.tasks().join("stale")).expect("made");

        let right = Unattached {
            domain: "two".to_owned(),
        };
        new.clean(&right, "two").expect("cleaned");
        new.copy_from(&Context::quiet(), &right, "two", &old)
            .expect("copied");
        let copied = new.tasks().join("a-task/a-task.task");
        assert_eq!(
            fs::read_to_string(&copied).expect("read"),
            "state = running\n"
        );
        let mode = fs::metadata(&copied).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(
            fs::read_link(new.tasks().join("a-task/link")).expect("a link"),
            Path::new("a-task.task")
        );
        assert!(!new.tasks().join(LOST_AND_FOUND).exists());
        assert!(!new.tasks().join("stale").exists());

        let wrong = new.copy_from(&Context::quiet(), &right, "three", &old);
        assert_eq!(
            wrong.expect_err("no authority").kind,
            FailureKind::LeaseNotHeld
        );
    }
}
