//! Connections that give a directory: NFS, POSIX file systems, Gluster, and
//! directories of this host.
//!
//! A file system that is mounted already from the same source is adopted. One
//! whose server forgot it (`ESTALE`) is taken out of the tree and mounted again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::storage::connection::Connection;
use control::storage::{Failure, FailureKind, remote};
use linux::mount::{Flags, Mount};
use rustix::io::Errno;

use super::{Connected, Health, Places, file, io_failure, mount_point, nfs};
use crate::command::{Run, find_program};
use crate::identity;
use crate::job::{Context, Result};

/// How long a mount program may take: a server that is gone is asked for 60 s.
const MOUNT_DEADLINE: Duration = Duration::from_secs(90);

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    source: String,
    fs_type: String,
    options: String,
    /// Programs that mount it, best first; the kernel itself when empty.
    helper: Option<PathBuf>,
    point: PathBuf,
}

/// Mounts, adopts, or links.
///
/// # Errors
///
/// [`FailureKind::Exists`] when something else is at the mount point,
/// [`FailureKind::Unsupported`] without the client program, and what the server
/// or the kernel answered.
pub fn connect(context: &Context, places: &Places, connection: &Connection) -> Result<Connected> {
    connect_asking(context, places, connection, &answers)
}

/// Asks the file system at a mount point whether it is well.
type Ask<'a> = &'a dyn Fn(&Path) -> rustix::io::Result<()>;

fn connect_asking(
    context: &Context,
    places: &Places,
    connection: &Connection,
    ask: Ask<'_>,
) -> Result<Connected> {
    if let Connection::Local { path } = connection {
        return link(places, path);
    }
    let spec = spec(places, connection)?;
    context.go_on()?;
    let mut warnings = Vec::new();
    if let Some(there) = mounted_at(&spec.point)? {
        if !same_source(&there, &spec) {
            return Err(Failure::new(
                FailureKind::Exists,
                format!(
                    "mount point {}: {} ({}) is mounted there, not {}",
                    spec.point.display(),
                    there.source,
                    there.fs_type,
                    spec.source
                ),
            ));
        }
        match ask(&spec.point) {
            Ok(()) => match other_options(&there, &spec) {
                // Nobody has anything of it open: it is mounted as was asked.
                Some(reason) if linux::mount::unmount(&spec.point).is_ok() => {
                    tracing::info!(point = %spec.point.display(), reason, "mounted anew");
                }
                other => {
                    warnings.extend(other);
                    return Ok(Connected {
                        path: Some(spec.point),
                        warnings,
                        ..Connected::default()
                    });
                }
            },
            Err(Errno::STALE) => {
                linux::mount::detach(&spec.point).map_err(kernel_failure)?;
                warnings.push("the server had forgotten the mount; mounted again".to_owned());
            }
            Err(Errno::ACCESS) => {
                warnings.push(closed());
                return Ok(Connected {
                    path: Some(spec.point),
                    warnings,
                    ..Connected::default()
                });
            }
            Err(errno) => {
                return Err(io_failure(
                    format_args!("{} at {}", spec.source, spec.point.display()),
                    &errno.into(),
                ));
            }
        }
    }
    file::folder(&spec.point, 0o755)?;
    context.tell(0, 1, &format!("mounting {}", spec.source));
    if let Err(failure) = mount(context, &spec) {
        // Empty, or another's: then it stays.
        fs::remove_dir(&spec.point).ok();
        return Err(failure);
    }
    tracing::info!(source = spec.source, point = %spec.point.display(), options = spec.options, "mounted");
    if ask(&spec.point) == Err(Errno::ACCESS) {
        warnings.push(closed());
    }
    Ok(Connected {
        path: Some(spec.point),
        warnings,
        ..Connected::default()
    })
}

/// Why a mount that is there is not as it was asked for.
fn other_options(there: &Mount, spec: &Spec) -> Option<String> {
    if spec.fs_type != "nfs" {
        return None;
    }
    let differ = nfs::differences(&spec.options, &there.options);
    (!differ.is_empty()).then(|| {
        format!(
            "mounted with other options than asked for: {}; disconnect it and connect again",
            differ.join(", ")
        )
    })
}

/// Unmounts, or removes the link; nothing there is success, and so is what one of
/// `still_wanted` has at the same place.
///
/// # Errors
///
/// [`FailureKind::InUse`] while something of it is open.
pub fn disconnect(
    context: &Context,
    places: &Places,
    connection: &Connection,
    still_wanted: &[Connection],
) -> Result<()> {
    context.go_on()?;
    let point = point_of(places, connection)?;
    let shared = still_wanted.iter().find(|other| {
        let there = mount_point::path(&places.mounts, other);
        other.id() != connection.id() && there.as_ref() == Some(&point)
    });
    if let Some(other) = shared {
        tracing::info!(point = %point.display(), "stays for {}", other.id());
        return Ok(());
    }
    if matches!(connection, Connection::Local { .. }) {
        return match fs::read_link(&point) {
            Ok(_) => fs::remove_file(&point)
                .map_err(|error| io_failure(format_args!("link {}", point.display()), &error)),
            Err(_) => Ok(()),
        };
    }
    if mounted_at(&point)?.is_some() {
        let unmounted = linux::mount::unmount(&point);
        match unmounted.map_err(|error| (error.source.raw_os_error(), error)) {
            Ok(()) => {}
            Err((Some(errno), error)) if errno == Errno::BUSY.raw_os_error() => {
                return Err(Failure::new(
                    FailureKind::InUse,
                    format!("{error}: a file or directory of it is open on this host"),
                ));
            }
            // What the server forgot, or cannot be asked about any more, has
            // nothing left to write back.
            Err((Some(errno), _))
                if [Errno::STALE, Errno::IO, Errno::TIMEDOUT]
                    .iter()
                    .any(|gone| gone.raw_os_error() == errno) =>
            {
                linux::mount::detach(&point).map_err(kernel_failure)?;
            }
            Err((_, error)) => return Err(kernel_failure(error)),
        }
        tracing::info!(point = %point.display(), "unmounted");
    }
    // A directory that is not empty is not ours to delete.
    fs::remove_dir(&point).ok();
    Ok(())
}

/// Looks whether the file system is there and answers. Blocks as long as its
/// server does.
///
/// # Errors
///
/// [`FailureKind::Failed`] when the kernel does not list its mounts.
pub fn check(places: &Places, connection: &Connection) -> Result<Health> {
    check_asking(places, connection, &answers)
}

fn check_asking(places: &Places, connection: &Connection, ask: Ask<'_>) -> Result<Health> {
    let point = point_of(places, connection)?;
    if let Connection::Local { path } = connection {
        return Ok(match fs::read_link(&point) {
            Ok(link) if link == Path::new(&mount_point::normalized(path)) && point.is_dir() => {
                match foreign(&point) {
                    Some(reason) => Health::Degraded(reason),
                    None => Health::Connected,
                }
            }
            Ok(link) => Health::Broken(format!(
                "link {} leads to {}, which is no directory",
                point.display(),
                link.display()
            )),
            Err(_) => Health::Absent,
        });
    }
    let Some(there) = mounted_at(&point)? else {
        return Ok(Health::Absent);
    };
    Ok(match ask(&point) {
        Ok(()) => match spec(places, connection)
            .ok()
            .and_then(|spec| other_options(&there, &spec))
        {
            Some(reason) => Health::Degraded(reason),
            None => Health::Connected,
        },
        Err(Errno::STALE) => Health::Broken("the server has forgotten the mount (ESTALE)".into()),
        Err(Errno::ACCESS) => Health::Degraded(closed()),
        // The mount itself comes back with its server.
        Err(errno) => Health::Degraded(format!("the file system does not answer: {errno}")),
    })
}

/// Makes the link that stands for a directory of this host.
fn link(places: &Places, path: &str) -> Result<Connected> {
    let connection = Connection::Local {
        path: path.to_owned(),
    };
    check_request(places, &connection)?;
    let directory = PathBuf::from(mount_point::normalized(path));
    let point = point_of(places, &connection)?;
    let found = fs::metadata(&directory)
        .map_err(|error| io_failure(format_args!("directory {}", directory.display()), &error))?;
    if !found.is_dir() {
        return Err(Failure::new(
            FailureKind::BadRequest,
            format!("{}: not a directory", directory.display()),
        ));
    }
    file::folder(&places.mounts, 0o755)?;
    match fs::read_link(&point) {
        Ok(there) if there == directory => {}
        Ok(there) => {
            return Err(Failure::new(
                FailureKind::Exists,
                format!("link {}: leads to {}", point.display(), there.display()),
            ));
        }
        Err(_) => std::os::unix::fs::symlink(&directory, &point)
            .map_err(|error| io_failure(format_args!("link {}", point.display()), &error))?,
    }
    let warnings = foreign(&directory).into_iter().collect();
    Ok(Connected {
        path: Some(point),
        warnings,
        ..Connected::default()
    })
}

/// Why guests cannot use images in a directory of this host, which only root may
/// use. This process keeps root's rights, so nothing else would tell.
fn foreign(directory: &Path) -> Option<String> {
    const ALL: u32 = 0o7;
    let found = fs::metadata(directory).ok()?;
    let owner = identity::OWNER;
    let shift = if found.uid() == owner.uid {
        6
    } else if found.gid() == owner.gid {
        3
    } else {
        0
    };
    let may = (found.mode() >> shift) & ALL == ALL;
    (!may).then(|| {
        format!(
            "user {} and group {} (vdsm, kvm) may not read and write in {}: \
             `chown {}:{}` gives it to them",
            owner.uid,
            owner.gid,
            directory.display(),
            owner.uid,
            owner.gid
        )
    })
}

fn point_of(places: &Places, connection: &Connection) -> Result<PathBuf> {
    let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
    let point = mount_point::path(&places.mounts, connection)
        .ok_or_else(|| bad(format!("{}: gives no directory", connection.id())))?;
    let length = point.file_name().map_or(0, std::ffi::OsStr::len);
    if length == 0 || length > mount_point::NAME_BYTES_MAX {
        return Err(bad(format!(
            "{}: its mount point's name has {length} bytes, from 1 to {} are possible",
            connection.id(),
            mount_point::NAME_BYTES_MAX
        )));
    }
    Ok(point)
}

/// Refuses what cannot be mounted or linked, whatever is there; asks nobody.
///
/// # Errors
///
/// [`FailureKind::BadRequest`]: what is wrong.
pub(super) fn check_request(places: &Places, connection: &Connection) -> Result<()> {
    point_of(places, connection)?;
    let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
    match connection {
        Connection::Nfs { export, .. } => {
            remote::check_export(export)
                .map_err(|why| bad(format!("NFS export {export:?}: {why}")))?;
            nfs_options(connection).map(drop)
        }
        Connection::Gluster { volume, options } => {
            remote::check(volume)
                .map_err(|why| bad(format!("Gluster volume {volume:?}: {why}")))?;
            let (host, path) = mount_point::split_host(volume);
            if host.is_none_or(str::is_empty) || path.trim_matches('/').is_empty() {
                return Err(bad(format!(
                    "Gluster volume {volume:?}: server:volume is expected"
                )));
            }
            nfs::further(options).map(drop)
        }
        Connection::Posix {
            spec,
            vfs_type,
            options,
        } => {
            remote::check(spec).map_err(|why| bad(format!("file system {spec:?}: {why}")))?;
            let word = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
            if vfs_type.is_empty() || !vfs_type.chars().all(word) {
                return Err(bad(format!(
                    "file system type {vfs_type:?}: a word is expected"
                )));
            }
            nfs::further(options).map(drop)
        }
        Connection::Local { path } => {
            remote::check(path).map_err(|why| bad(format!("directory {path:?}: {why}")))?;
            let directory = PathBuf::from(mount_point::normalized(path));
            if !directory.is_absolute() {
                return Err(bad(format!(
                    "directory {path:?}: has to begin with a slash"
                )));
            }
            if directory.starts_with(&places.mounts) {
                return Err(bad(format!(
                    "directory {path:?}: below the mount points themselves"
                )));
            }
            Ok(())
        }
        Connection::Iscsi { .. } | Connection::Fc {} => {
            Err(bad(format!("{}: nothing to mount", connection.id())))
        }
    }
}

fn nfs_options(connection: &Connection) -> Result<String> {
    let Connection::Nfs {
        version,
        timeo,
        retrans,
        options,
        hard,
        ..
    } = connection
    else {
        return Ok(String::new());
    };
    nfs::options(&nfs::Choices {
        version: version.as_deref().unwrap_or("auto").parse()?,
        timeo: *timeo,
        retrans: *retrans,
        hard: *hard,
        further: options,
    })
}

fn spec(places: &Places, connection: &Connection) -> Result<Spec> {
    check_request(places, connection)?;
    let point = point_of(places, connection)?;
    let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
    match connection {
        Connection::Nfs { export, .. } => Ok(Spec {
            source: mount_point::normalized(export),
            fs_type: "nfs".into(),
            options: nfs_options(connection)?,
            helper: Some(client("mount.nfs", "NFS", "nfs-common")?),
            point,
        }),
        Connection::Gluster { volume, options } => Ok(Spec {
            source: mount_point::normalized(volume),
            fs_type: "fuse.glusterfs".into(),
            options: nfs::further(options)?.join(","),
            helper: Some(client("mount.glusterfs", "Gluster", "glusterfs-client")?),
            point,
        }),
        Connection::Posix {
            spec,
            vfs_type,
            options,
        } => {
            let source = match spec.split_once('=') {
                Some(("UUID", uuid)) => places.dev.join("disk/by-uuid").join(uuid),
                Some(("LABEL", label)) => places.dev.join("disk/by-label").join(label),
                _ => PathBuf::from(mount_point::normalized(spec)),
            };
            Ok(Spec {
                source: source.to_string_lossy().into_owned(),
                fs_type: vfs_type.clone(),
                options: nfs::further(options)?.join(","),
                helper: find_program(format!("mount.{vfs_type}")),
                point,
            })
        }
        Connection::Local { .. } | Connection::Iscsi { .. } | Connection::Fc {} => {
            Err(bad(format!("{}: nothing to mount", connection.id())))
        }
    }
}

fn client(program: &str, what: &str, package: &str) -> Result<PathBuf> {
    find_program(program).ok_or_else(|| {
        Failure::new(
            FailureKind::Unsupported,
            format!(
                "{what}: its client program {program} is not installed on this host; build the \
                 image with the Debian package {package}"
            ),
        )
    })
}

fn mount(context: &Context, spec: &Spec) -> Result<()> {
    let Some(helper) = &spec.helper else {
        let (flags, data) = kernel_options(&spec.options);
        return linux::mount::mount(
            Path::new(&spec.source),
            &spec.point,
            &spec.fs_type,
            flags,
            &data,
        )
        .map_err(|error| match error.source.raw_os_error() {
            Some(errno) if errno == Errno::NODEV.raw_os_error() => Failure::new(
                FailureKind::Unsupported,
                format!(
                    "{}: the kernel knows no file system type {}",
                    spec.source, spec.fs_type
                ),
            ),
            _ => kernel_failure(error).while_doing(&spec.source),
        });
    };
    let mut run = Run::new(helper).arg(&spec.source).arg(&spec.point);
    if !spec.options.is_empty() {
        run = run.args(["-o", &spec.options]);
    }
    let output = run.within(MOUNT_DEADLINE).run(context).map_err(|failure| {
        let silent = failure.kind == FailureKind::Timeout;
        let what = if silent {
            "the server does not answer"
        } else {
            "not run"
        };
        failure.while_doing(format_args!("mount {}: {what}", spec.source))
    })?;
    if output.code == Some(0) {
        return Ok(());
    }
    let words = output.words();
    let mut failure = output
        .failure(kind_of(&words))
        .while_doing(format_args!("mount {}", spec.source));
    if words.contains("rpc.statd") {
        failure.kind = FailureKind::Unsupported;
        failure.message +=
            "; locks of NFS 3 need that helper: leave the option lock out, or use version 4";
    }
    Err(failure)
}

/// What sort of failure the words of a mount program tell of.
fn kind_of(words: &str) -> FailureKind {
    let words = words.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if says(&["access denied", "permission denied", "not permitted"]) {
        FailureKind::Denied
    } else if says(&["timed out", "no route to host", "unreachable"]) {
        FailureKind::Timeout
    } else if says(&["no such file", "resolve"]) {
        FailureKind::NotFound
    } else if says(&["not supported", "unknown filesystem", "no such device"]) {
        FailureKind::Unsupported
    } else if says(&["incorrect mount option", "invalid argument"]) {
        FailureKind::BadRequest
    } else {
        FailureKind::Io
    }
}

/// Splits mount options into the kernel's flags and what the file system reads.
fn kernel_options(options: &str) -> (Flags, String) {
    let mut flags = Flags::empty();
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let flag = match option {
            "ro" => Flags::RDONLY,
            "nosuid" => Flags::NOSUID,
            "nodev" => Flags::NODEV,
            "noexec" => Flags::NOEXEC,
            "sync" => Flags::SYNCHRONOUS,
            "dirsync" => Flags::DIRSYNC,
            "noatime" => Flags::NOATIME,
            "nodiratime" => Flags::NODIRATIME,
            "relatime" => Flags::RELATIME,
            "strictatime" => Flags::STRICTATIME,
            "lazytime" => Flags::LAZYTIME,
            // The kernel's own defaults, and words for other programs.
            "defaults" | "rw" | "suid" | "dev" | "exec" | "async" | "auto" | "noauto"
            | "nofail" | "_netdev" => continue,
            other => {
                data.push(other);
                continue;
            }
        };
        flags |= flag;
    }
    (flags, data.join(","))
}

/// The file system that is seen at `point`.
fn mounted_at(point: &Path) -> Result<Option<Mount>> {
    let mounts = linux::mount::list().map_err(kernel_failure)?;
    // The kernel lists the directory by its real path.
    let parent = point
        .parent()
        .and_then(|parent| fs::canonicalize(parent).ok());
    let real = match (parent, point.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => point.to_owned(),
    };
    Ok(mounts.into_iter().rev().find(|mount| mount.target == real))
}

fn same_source(there: &Mount, spec: &Spec) -> bool {
    let plain = |source: &str| {
        let normal = mount_point::normalized(source);
        let (host, path) = mount_point::split_host(&normal);
        (
            host.map(str::to_owned),
            path.trim_start_matches('/').to_owned(),
        )
    };
    let family = |fs_type: &str| if fs_type == "nfs4" { "nfs" } else { fs_type }.to_owned();
    let source_fits = plain(&there.source) == plain(&spec.source)
        || fs::canonicalize(&spec.source).is_ok_and(|real| real == Path::new(&there.source));
    source_fits && family(&there.fs_type) == family(&spec.fs_type)
}

/// Why nobody can work on a file system that is mounted.
fn closed() -> String {
    format!(
        "user {} and group {} (vdsm, kvm) may not read its directory: \
         give it to them at the server",
        identity::OWNER.uid,
        identity::OWNER.gid
    )
}

/// Asks the file system itself, not only what the kernel remembers of it, as
/// those who will work there: to its server root may be nobody.
fn answers(point: &Path) -> rustix::io::Result<()> {
    let _acting = identity::owner();
    rustix::fs::statvfs(point)?;
    rustix::fs::open(
        point,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(())
}

fn kernel_failure(error: linux::error::Error) -> Failure {
    io_failure(error.to_string(), &error.source)
}

#[cfg(test)]
#[path = "filesystem_tests.rs"]
mod tests;
