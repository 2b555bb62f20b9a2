//! Whose the calling thread, or a child, is in the eyes of file systems and of
//! the servers behind them.
//!
//! A file server often takes root for nobody (`root_squash`), so that root reads
//! and writes less than the owner of the files. A thread that acts as the owner
//! keeps what root may do on this host: the kernel sends the server the ids that
//! are set here, and everything else asks for capabilities.

use std::io;
use std::marker::PhantomData;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// A user and a group, by number; neither needs an entry in `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The calling thread acts as somebody until this is dropped. Threads started
/// meanwhile act so for good; programs started meanwhile do not (see
/// [`crate::process::tied`]).
#[derive(Debug)]
#[must_use = "the thread is itself again as soon as this is dropped"]
pub struct Acting {
    before: Owner,
    capabilities: CapabilitySets,
    /// Of this thread, and of no other.
    thread: PhantomData<*const ()>,
}

/// Makes the calling thread act as `owner`, with the capabilities it has.
///
/// # Errors
/// It may not: it is neither root nor that owner already. Then nothing has changed.
pub fn act_as(owner: Owner) -> io::Result<Acting> {
    let capabilities = rustix::thread::capabilities(None)?;
    let acting = Acting {
        before: present(),
        capabilities,
        thread: PhantomData,
    };
    if acting.before == owner {
        return Ok(acting);
    }
    set(owner);
    // The calls above cannot say that they failed.
    if present() != owner {
        // Dropping `acting` takes back the half of it.
        return Err(Errno::PERM.into());
    }
    // No longer being root took those away that concern files.
    rustix::thread::set_capabilities(None, capabilities)?;
    Ok(acting)
}

/// Makes the calling thread act as its process does: for files that nobody else
/// may own.
///
/// # Errors
/// The kernel refuses, which it has no reason to.
pub fn act_as_self() -> io::Result<Acting> {
    act_as(own())
}

/// Whom the calling thread acts as.
#[must_use]
pub fn present() -> Owner {
    // SAFETY: takes a number; −1 is no user, so it only answers who is set now.
    let uid = unsafe { libc::setfsuid(u32::MAX) };
    // SAFETY: as above, for the group.
    let gid = unsafe { libc::setfsgid(u32::MAX) };
    Owner {
        uid: uid.cast_unsigned(),
        gid: gid.cast_unsigned(),
    }
}

/// Does something with the file at `path`, and again as its owner when its
/// server refuses root.
///
/// # Errors
/// What `attempt` answers.
pub fn as_owner_if_refused<T>(
    path: &Path,
    mut attempt: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    let first = attempt();
    if !matches!(first, Err(Errno::ACCESS)) {
        return first;
    }
    // The nearest thing above it that can be looked at, if it cannot itself.
    let Some(status) = path
        .ancestors()
        .find_map(|above| rustix::fs::stat(above).ok())
    else {
        return first;
    };
    let owner = Owner {
        uid: status.st_uid,
        gid: status.st_gid,
    };
    if owner == present() {
        return first;
    }
    match act_as(owner) {
        Ok(_acting) => attempt(),
        Err(_) => first,
    }
}

/// Between fork and exec: makes the child act as itself again. Execution would do
/// so, too, but take what ties it to its parent away.
pub(crate) fn be_self() {
    let own = own();
    if present() != own {
        set(own);
    }
}

/// Between fork and exec: makes the child `owner` for good, in no other group and
/// with no capability but the one to pass this host's own file permissions.
/// A caller that is not root is left as it is.
pub(crate) fn become_owner(owner: Owner) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let mine = rustix::thread::capabilities(None)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let kept = mine.permitted & CapabilitySet::DAC_OVERRIDE;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        },
    )?;
    if !kept.is_empty() {
        rustix::thread::configure_capability_in_ambient_set(kept, true)?;
    }
    Ok(())
}

fn own() -> Owner {
    Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn set(owner: Owner) {
    // The group first: it may be set only as long as the user is root, or by capability.
    // SAFETY: takes a number; changes nothing but this thread's credentials.
    unsafe { libc::setfsgid(owner.gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(owner.uid) };
}

impl Drop for Acting {
    fn drop(&mut self) {
        if present() != self.before {
            set(self.before);
        }
        // Being root again gave some back that may not have been in effect before.
        rustix::thread::set_capabilities(None, self.capabilities).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};

    use super::*;

    const VDSM: Owner = Owner { uid: 36, gid: 36 };

    /// Runs as root with nothing that passes permissions of files: what a server
    /// with `root_squash` makes of root. On a thread of its own, as it cannot be
    /// taken back.
    fn squashed<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let mut sets = rustix::thread::capabilities(None).unwrap();
                    let gone = CapabilitySet::DAC_OVERRIDE
                        | CapabilitySet::DAC_READ_SEARCH
                        | CapabilitySet::FOWNER
                        | CapabilitySet::CHOWN;
                    sets.effective -= gone;
                    sets.permitted -= gone;
                    rustix::thread::set_capabilities(None, sets)
                        .expect("run the tests as root: they take the part of it");
                    run()
                })
                .join()
                .unwrap()
        })
    }

    /// A directory that 36:36 alone may enter.
    fn closed() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let inner = folder.path().join("domain");
        fs::DirBuilder::new().mode(0o700).create(&inner).unwrap();
        fs::write(inner.join("ids"), [0; 4096]).unwrap();
        chown(inner.join("ids"), Some(36), Some(36)).unwrap();
        fs::set_permissions(inner.join("ids"), fs::Permissions::from_mode(0o660)).unwrap();
        chown(&inner, Some(36), Some(36)).unwrap();
        folder
    }

    #[test]
    fn who_acts_as_the_owner_is_let_in_where_root_is_not_and_is_itself_afterwards() {
        let folder = closed();
        let file = folder.path().join("domain/new");
        squashed(|| {
            let refused = fs::write(&file, "x").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            let before = present();
            {
                let _acting = act_as(VDSM).unwrap();
                fs::write(&file, "x").unwrap();
                let made = fs::metadata(&file).unwrap();
                assert_eq!((made.uid(), made.gid()), (36, 36));
                {
                    let _self = act_as_self().unwrap();
                    assert_eq!(present(), before);
                    assert!(fs::read(&file).is_err());
                }
                assert_eq!(present(), VDSM);
            }
            assert_eq!(present(), before);
            assert!(fs::read(&file).is_err());
        });
    }

    #[test]
    fn who_acts_keeps_what_root_may_do_on_this_host() {
        let folder = tempfile::tempdir().unwrap();
        // Mode 0700, of root: a stranger could not write here.
        let before = rustix::thread::capabilities(None).unwrap();
        let acting = act_as(VDSM).unwrap();
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
        fs::write(folder.path().join("a"), "x").unwrap();
        drop(acting);
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
        let made = fs::metadata(folder.path().join("a")).unwrap();
        assert_eq!(made.uid(), 36);
    }

    #[test]
    fn other_threads_are_who_they_were() {
        let before = present();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _acting = act_as(VDSM).unwrap();
                assert_eq!(present(), VDSM);
            });
        });
        assert_eq!(present(), before);
    }

    #[test]
    fn a_device_is_opened_as_its_owner_when_root_is_refused() {
        use crate::disk::{Access, AlignedBuffer, BlockDevice};
        let folder = closed();
        let path = folder.path().join("domain/ids");
        squashed(|| {
            let device = BlockDevice::open(&path, Access::ReadWrite).unwrap();
            assert_eq!(device.size(), 4096);
            // What is open stays usable by whoever the thread is.
            let mut buffer = AlignedBuffer::new(4096);
            device.read_at(&mut buffer, 0).unwrap();
            assert_eq!(present(), own());
            let missing = BlockDevice::open(&folder.path().join("domain/none"), Access::Read);
            assert!(
                matches!(missing, Err(crate::disk::OpenError::Missing { .. })),
                "{missing:?}"
            );
        });
    }

    #[test]
    fn a_child_can_be_the_owner_and_is_root_otherwise() {
        use std::process::Command;
        let folder = closed();
        let path = folder.path().join("domain/ids");
        let status = |owner: Option<Owner>| {
            let _acting = act_as(VDSM).unwrap();
            let mut command = Command::new("grep");
            command.args(["-E", "^(Uid|Gid|Groups|CapEff):", "/proc/self/status"]);
            if let Some(owner) = owner {
                crate::process::owned_by(&mut command, owner);
            }
            let output = crate::process::tied(&mut command, &[]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let text = status(Some(VDSM));
        assert!(text.contains("Uid:\t36\t36\t36\t36\n"), "{text}");
        assert!(text.contains("Gid:\t36\t36\t36\t36\n"), "{text}");
        assert!(text.contains("CapEff:\t0000000000000002\n"), "{text}");
        let text = status(None);
        assert!(text.contains("Uid:\t0\t0\t0\t0\n"), "{text}");
        // Let in as the owner, without any capability.
        squashed(|| {
            let mut command = Command::new("cat");
            crate::process::owned_by(command.arg(&path), VDSM);
            assert!(command.output().unwrap().status.success());
        });
    }

    #[test]
    fn a_child_of_a_thread_that_acts_dies_with_it_all_the_same() {
        use std::process::{Command, Stdio};
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _acting = act_as(VDSM).unwrap();
            let mut command = Command::new("sleep");
            command.arg("600").stdout(Stdio::piped());
            let child = crate::process::tied(&mut command, &[]).spawn().unwrap();
            tell.send(child).unwrap();
        })
        .join()
        .unwrap();
        let mut child = told.recv().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGKILL)
        );
    }
}
