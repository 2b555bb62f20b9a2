//! Mounting, moving and leaving file systems.
//!
//! Thin calls: which file system goes where is the caller's decision. The one
//! piece of judgement here is [`switch_root`], which deletes files and therefore
//! refuses to start anywhere but in an initramfs.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
pub use rustix::mount::MountFlags as Flags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::error::Error;

/// One file system interface of the kernel and the mount options it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiFileSystem {
    /// Type, also used as the source's name.
    pub fs_type: &'static str,
    /// Where it is mounted.
    pub target: &'static str,
    /// Mount flags.
    pub flags: Flags,
    /// Options of the file system itself.
    pub options: &'static str,
}

const HARDENED: Flags = Flags::NOSUID.union(Flags::NODEV).union(Flags::NOEXEC);

/// `/proc`.
pub const PROC: ApiFileSystem = ApiFileSystem {
    fs_type: "proc",
    target: "/proc",
    flags: HARDENED,
    options: "",
};

/// `/sys`.
pub const SYSFS: ApiFileSystem = ApiFileSystem {
    fs_type: "sysfs",
    target: "/sys",
    flags: HARDENED,
    options: "",
};

/// `/dev`, filled by the kernel.
pub const DEVTMPFS: ApiFileSystem = ApiFileSystem {
    fs_type: "devtmpfs",
    target: "/dev",
    flags: Flags::NOSUID,
    options: "mode=0755",
};

/// `/run`. A fifth of memory is its limit: a runaway writer there must not take
/// the memory of the lease daemon.
pub const RUN: ApiFileSystem = ApiFileSystem {
    fs_type: "tmpfs",
    target: "/run",
    flags: Flags::NOSUID.union(Flags::NODEV),
    options: "mode=0755,size=20%",
};

/// The unified control group tree.
pub const CGROUP2: ApiFileSystem = ApiFileSystem {
    fs_type: "cgroup2",
    target: "/sys/fs/cgroup",
    flags: HARDENED,
    options: "nsdelegate",
};

/// Mounts an interface of the kernel, creating the directory if it is missing.
/// Already mounted there (`EBUSY`) is success.
///
/// # Errors
/// The directory cannot be made or the kernel refuses the mount.
pub fn mount_api(api: &ApiFileSystem) -> Result<(), Error> {
    let target = Path::new(api.target);
    create_dir(target)?;
    match mount(
        Path::new(api.fs_type),
        target,
        api.fs_type,
        api.flags,
        api.options,
    ) {
        Err(error)
            if error.source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Mounts `source` on `target`. `options` are the file system's own, comma
/// separated; an empty string means none.
///
/// # Errors
/// The kernel's refusal, naming the target.
pub fn mount(
    source: &Path,
    target: &Path,
    fs_type: &str,
    flags: Flags,
    options: &str,
) -> Result<(), Error> {
    let options = CString::new(options)
        .map_err(|_nul| Error::new("mount", target, rustix::io::Errno::INVAL))?;
    rustix::mount::mount(source, target, fs_type, flags, options.as_c_str())
        .map_err(|errno| Error::new("mount", target, errno))
}

/// Shows the tree at `source` at `target` too, with everything mounted below it.
///
/// # Errors
/// The kernel's refusal, naming the target.
pub fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|errno| Error::new("bind mount", target, errno))
}

/// Moves the mount at `source`, with what is mounted below it, to `target`.
///
/// # Errors
/// The kernel's refusal, naming the target.
pub fn move_mount(source: &Path, target: &Path) -> Result<(), Error> {
    rustix::mount::mount_move(source, target)
        .map_err(|errno| Error::new("move mount to", target, errno))
}

/// Makes a mounted file system read-only, keeping `flags` beside it (flags not
/// named are cleared, as the kernel does).
///
/// # Errors
/// The kernel's refusal: `EBUSY` while a file is open for writing.
pub fn remount_read_only(target: &Path, flags: Flags) -> Result<(), Error> {
    rustix::mount::mount_remount(target, flags | Flags::RDONLY, c"")
        .map_err(|errno| Error::new("remount read-only", target, errno))
}

/// Keeps mount changes below `target` to this mount namespace.
///
/// # Errors
/// The kernel's refusal: `target` is not a mount point.
pub fn make_private(target: &Path) -> Result<(), Error> {
    rustix::mount::mount_change(
        target,
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|errno| Error::new("make private", target, errno))
}

/// Unmounts `target`.
///
/// # Errors
/// The kernel's refusal: `EBUSY` while it is in use.
pub fn unmount(target: &Path) -> Result<(), Error> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)
        .map_err(|errno| Error::new("unmount", target, errno))
}

/// Takes `target` out of the tree now; the file system goes when its last user
/// does. The call does not wait for a dead device.
///
/// # Errors
/// The kernel's refusal: `target` is not a mount point.
pub fn detach(target: &Path) -> Result<(), Error> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .map_err(|errno| Error::new("detach", target, errno))
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// What is mounted: a device, or a name the file system chose.
    pub source: String,
    /// File system type.
    pub fs_type: String,
    /// True if this mount cannot be written to.
    pub read_only: bool,
    /// Device number, `major:minor`.
    pub device: String,
    /// Options of the file system itself, separated by commas, as it tells them.
    pub options: String,
}

/// The mounts of the calling thread's namespace, in the order they were made.
///
/// # Errors
/// `/proc` is not there.
pub fn list() -> Result<Vec<Mount>, Error> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = fs::read(path).map_err(|source| Error::new("read", path, source))?;
    Ok(parse_mountinfo(&text))
}

/// Parses mountinfo; lines it does not understand are left out.
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let line = String::from_utf8_lossy(line);
            let (mount_side, fs_side) = line.split_once(" - ")?;
            let mut fields = mount_side.split(' ');
            let device = fields.nth(2)?.to_owned();
            let target = PathBuf::from(unescape(fields.nth(1)?));
            let options = fields.next()?;
            let mut fs_fields = fs_side.split(' ');
            let fs_type = fs_fields.next()?.to_owned();
            let source = unescape(fs_fields.next()?);
            // The mount or the file system below it: either makes writes fail.
            let fs_options = fs_fields.next().unwrap_or_default();
            let has_ro = |options: &str| options.split(',').any(|option| option == "ro");
            Some(Mount {
                target,
                source,
                fs_type,
                read_only: has_ro(options) || has_ro(fs_options),
                device,
                options: unescape(fs_options),
            })
        })
        .collect()
}

/// The kernel writes blanks, tabs, newlines and backslashes as `\ooo`.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// What [`switch_root`] freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Files, links and directories deleted.
    pub deleted: u64,
    /// Entries that could not be deleted; their memory stays in use.
    pub kept: u64,
}

/// Makes `new_root` (a mount point) the root of this process and gives the
/// memory of the initramfs back.
///
/// `move_first` are mounts (absolute paths, such as `/dev`) that go along to the
/// same path below `new_root`. Afterwards every file of the old root is deleted,
/// but never one on another file system: a mount left behind, and what a loop
/// device or an open descriptor still holds, keep their contents.
///
/// # Errors
/// `/` is not an initramfs (neither ramfs nor tmpfs), so that nothing is ever
/// deleted from a real disk; or the kernel refuses a step. Nothing has been
/// deleted when this fails.
pub fn switch_root(new_root: &Path, move_first: &[&str]) -> Result<Freed, Error> {
    let root = Path::new("/");
    let old = open_dir(rustix::fs::CWD, root).map_err(|errno| Error::new("open", root, errno))?;
    let kind = rustix::fs::fstatfs(&old).map_err(|errno| Error::new("statfs", root, errno))?;
    if kind.f_type != RAMFS_MAGIC && kind.f_type != TMPFS_MAGIC {
        return Err(Error::new(
            "switch root",
            root,
            io::Error::other("the present root is not an initramfs"),
        ));
    }
    for source in move_first {
        let below = source.trim_start_matches('/');
        move_mount(Path::new(source), &new_root.join(below))?;
    }
    rustix::process::chdir(new_root).map_err(|errno| Error::new("enter", new_root, errno))?;
    move_mount(Path::new("."), root)?;
    rustix::process::chroot(".").map_err(|errno| Error::new("chroot to", new_root, errno))?;
    rustix::process::chdir("/").map_err(|errno| Error::new("enter", root, errno))?;

    let mut freed = Freed::default();
    if let Ok(stat) = rustix::fs::fstat(&old) {
        delete_contents(old.as_fd(), stat.st_dev, &mut freed, 0);
    }
    Ok(freed)
}

const RAMFS_MAGIC: rustix::fs::FsWord = 0x8584_58f6;
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Deepest directory [`switch_root`] descends to; what lies below stays in
/// memory. An initramfs is a handful of levels deep.
const DEPTH_MAX: u32 = 64;

/// Deletes what is in `dir` and lives on `device`. Errors are counted, not
/// reported: leftovers cost memory, nothing else.
fn delete_contents(dir: BorrowedFd<'_>, device: u64, freed: &mut Freed, depth: u32) {
    // Names first: deleting while reading a directory may skip entries.
    let mut names = Vec::new();
    let Ok(entries) = Dir::read_from(dir) else {
        freed.kept += 1;
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    for name in names {
        let Ok(stat) = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) else {
            freed.kept += 1;
            continue;
        };
        if stat.st_dev != device {
            freed.kept += 1;
            continue;
        }
        let mut flags = AtFlags::empty();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            flags = AtFlags::REMOVEDIR;
            if depth < DEPTH_MAX
                && let Ok(child) =
                    open_dir(dir, Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())))
            {
                delete_contents(child.as_fd(), device, freed, depth + 1);
            }
        }
        match rustix::fs::unlinkat(dir, &name, flags) {
            Ok(()) => freed.deleted += 1,
            Err(_) => freed.kept += 1,
        }
    }
}

fn open_dir(at: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        at,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn create_dir(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::new("create directory", path, error)),
    }
}

#[cfg(test)]
mod tests;
