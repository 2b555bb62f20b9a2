//! Connections that give a directory: NFS, POSIX file systems, Gluster, and
//! directories of this host.
//!
//! A file system that is mounted already from the same source is adopted. One
//! whose server forgot it (`ESTALE`) is taken out of the tree and mounted again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::storage::connection::Connection;
use control::storage::{Failure, FailureKind};
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
            Ok(()) => {
                return Ok(Connected {
                    path: Some(spec.point),
                    warnings,
                });
            }
            Err(Errno::STALE) => {
                linux::mount::detach(&spec.point).map_err(kernel_failure)?;
                warnings.push("the server had forgotten the mount; mounted again".to_owned());
            }
            Err(Errno::ACCESS) => {
                warnings.push(closed());
                return Ok(Connected {
                    path: Some(spec.point),
                    warnings,
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
    })
}

/// Unmounts, or removes the link; nothing there is success.
///
/// # Errors
///
/// [`FailureKind::InUse`] while something of it is open.
pub fn disconnect(context: &Context, places: &Places, connection: &Connection) -> Result<()> {
    context.go_on()?;
    let point = point_of(places, connection)?;
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
                Health::Connected
            }
            Ok(link) => Health::Broken(format!(
                "link {} leads to {}, which is no directory",
                point.display(),
                link.display()
            )),
            Err(_) => Health::Absent,
        });
    }
    if mounted_at(&point)?.is_none() {
        return Ok(Health::Absent);
    }
    Ok(match ask(&point) {
        Ok(()) => Health::Connected,
        Err(Errno::STALE) => Health::Broken("the server has forgotten the mount (ESTALE)".into()),
        Err(Errno::ACCESS) => Health::Degraded(closed()),
        // The mount itself comes back with its server.
        Err(errno) => Health::Degraded(format!("the file system does not answer: {errno}")),
    })
}

/// Refuses a connection that no mount and no link can come of.
pub(super) fn check_request(places: &Places, connection: &Connection) -> Result<()> {
    match connection {
        Connection::Local { path } => link_of(places, path).map(drop),
        _ => spec(places, connection).map(drop),
    }
}

/// A directory of this host, and the link that stands for it.
fn link_of(places: &Places, path: &str) -> Result<(PathBuf, PathBuf)> {
    let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
    let directory = PathBuf::from(mount_point::normalized(path));
    if !directory.is_absolute() {
        return Err(bad(format!(
            "directory {path:?}: has to begin with a slash"
        )));
    }
    let local = Connection::Local {
        path: path.to_owned(),
    };
    let point = point_of(places, &local)?;
    if directory.starts_with(&places.mounts) {
        return Err(bad(format!(
            "directory {path:?}: below the mount points themselves"
        )));
    }
    Ok((directory, point))
}

/// Makes the link that stands for a directory of this host.
fn link(places: &Places, path: &str) -> Result<Connected> {
    let (directory, point) = link_of(places, path)?;
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
    Ok(Connected {
        path: Some(point),
        warnings: Vec::new(),
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

fn spec(places: &Places, connection: &Connection) -> Result<Spec> {
    let point = point_of(places, connection)?;
    let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
    match connection {
        Connection::Nfs {
            export,
            version,
            timeo,
            retrans,
            options,
            hard,
        } => {
            let (host, path) = mount_point::split_host(export);
            if host.is_none_or(str::is_empty) || !path.starts_with('/') {
                return Err(bad(format!(
                    "NFS export {export:?}: server:/path is expected"
                )));
            }
            let version = version.as_deref().unwrap_or("auto").parse()?;
            Ok(Spec {
                source: mount_point::normalized(export),
                fs_type: "nfs".into(),
                options: nfs::options(&nfs::Choices {
                    version,
                    timeo: *timeo,
                    retrans: *retrans,
                    hard: *hard,
                    further: options,
                })?,
                helper: Some(client("mount.nfs", "NFS", "nfs-common")?),
                point,
            })
        }
        Connection::Gluster { volume, options } => {
            let (host, path) = mount_point::split_host(volume);
            if host.is_none_or(str::is_empty) || path.trim_matches('/').is_empty() {
                return Err(bad(format!(
                    "Gluster volume {volume:?}: server:volume is expected"
                )));
            }
            Ok(Spec {
                source: mount_point::normalized(volume),
                fs_type: "fuse.glusterfs".into(),
                options: nfs::further(options)?.join(","),
                helper: Some(client("mount.glusterfs", "Gluster", "glusterfs-client")?),
                point,
            })
        }
        Connection::Posix {
            spec,
            vfs_type,
            options,
        } => {
            let word = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
            if vfs_type.is_empty() || !vfs_type.chars().all(word) {
                return Err(bad(format!(
                    "file system type {vfs_type:?}: a word is expected"
                )));
            }
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
    let output = run.within(MOUNT_DEADLINE).run(context)?;
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
mod tests {
    use super::*;

    #[test]
    fn words_of_mount_programs_have_their_kinds() {
        for (words, kind) in [
            (
                "mount.nfs: access denied by server while mounting 10.0.0.1:/x",
                FailureKind::Denied,
            ),
            (
                "mount.nfs: Connection timed out for 10.0.0.1:/x on /mnt",
                FailureKind::Timeout,
            ),
            (
                "mount.nfs: mounting 10.0.0.1:/y failed, reason given by server: No such file or directory",
                FailureKind::NotFound,
            ),
            (
                "mount.nfs: requested NFS version or transport protocol is not supported",
                FailureKind::Unsupported,
            ),
            (
                "mount.nfs: an incorrect mount option was specified for /mnt",
                FailureKind::BadRequest,
            ),
            (
                "mount.nfs: Failed to resolve server nowhere: Name or service not known",
                FailureKind::NotFound,
            ),
            (
                "mount.nfs: Connection refused for 10.0.0.1:/x on /mnt",
                FailureKind::Io,
            ),
        ] {
            assert_eq!(kind_of(words), kind, "{words}");
        }
    }

    #[test]
    fn flags_go_to_the_kernel_and_the_rest_to_the_file_system() {
        let (flags, data) = kernel_options("rw,noatime,size=1m,nodev,mode=0755,_netdev");
        assert_eq!(flags, Flags::NOATIME | Flags::NODEV);
        assert_eq!(data, "size=1m,mode=0755");
    }

    #[test]
    fn what_is_mounted_is_recognised_in_the_spellings_of_the_kernel() {
        let mount = |source: &str, fs_type: &str| Mount {
            target: "/m".into(),
            source: source.into(),
            fs_type: fs_type.into(),
            read_only: false,
            device: "0:40".into(),
        };
        let spec = |source: &str, fs_type: &str| Spec {
            source: source.into(),
            fs_type: fs_type.into(),
            options: String::new(),
            helper: None,
            point: "/m".into(),
        };
        let nfs = spec("server:/x", "nfs");
        assert!(same_source(&mount("server:/x", "nfs4"), &nfs));
        assert!(same_source(&mount("server:/x/", "nfs"), &nfs));
        assert!(!same_source(&mount("server:/y", "nfs4"), &nfs));
        assert!(!same_source(&mount("server:/x", "fuse.sshfs"), &nfs));
        let gluster = spec("server:volume", "fuse.glusterfs");
        assert!(same_source(
            &mount("server:/volume", "fuse.glusterfs"),
            &gluster
        ));
    }

    #[test]
    fn requests_that_name_nothing_to_mount_are_refused() {
        let places = Places::under(Path::new("/nowhere"));
        let nfs = |export: &str| Connection::Nfs {
            export: export.into(),
            version: None,
            timeo: None,
            retrans: None,
            options: Vec::new(),
            hard: false,
        };
        for export in ["", "server", "server:relative", ":/x", "/x"] {
            let failure = spec(&places, &nfs(export)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BadRequest, "{export}");
        }
        let long = format!("server:/{}", "x".repeat(300));
        assert!(
            spec(&places, &nfs(&long))
                .unwrap_err()
                .message
                .contains("308 bytes")
        );
        let gluster = Connection::Gluster {
            volume: "g:v".into(),
            options: Vec::new(),
        };
        let failure = spec(&places, &gluster).unwrap_err();
        assert_eq!(
            failure.message,
            "Gluster: its client program mount.glusterfs is not installed on this host; build the \
             image with the Debian package glusterfs-client"
        );
    }

    #[test]
    fn a_mount_that_its_server_has_forgotten_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::under(folder.path());
        let context = Context::quiet();
        let connection = Connection::Posix {
            spec: "memory".into(),
            vfs_type: "tmpfs".into(),
            options: vec!["size=1m".into()],
        };
        let made = connect(&context, &places, &connection).unwrap();
        assert!(made.warnings.is_empty(), "{made:?}");
        let point = made.path.unwrap();
        fs::write(point.join("old"), "").unwrap();
        // A working directory of somebody else does not keep the old one in place.
        let open = fs::File::open(&point).unwrap();

        let forgotten = |_: &Path| Err(Errno::STALE);
        let health = check_asking(&places, &connection, &forgotten).unwrap();
        assert!(matches!(health, Health::Broken(_)), "{health:?}");
        let asked = std::cell::Cell::new(0);
        let once = |path: &Path| {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                return Err(Errno::STALE);
            }
            answers(path)
        };
        let again = connect_asking(&context, &places, &connection, &once).unwrap();
        assert_eq!(again.path.as_ref(), Some(&point));
        assert_eq!(again.warnings.len(), 1, "{again:?}");
        assert!(!point.join("old").exists(), "it is a new mount");
        let mounts = linux::mount::list().unwrap();
        let real = fs::canonicalize(&point).unwrap();
        assert_eq!(
            mounts.iter().filter(|mount| mount.target == real).count(),
            1
        );
        drop(open);

        // Closed to those who work there: adopted as it is, and told.
        let closed = |_: &Path| Err(Errno::ACCESS);
        let adopted = connect_asking(&context, &places, &connection, &closed).unwrap();
        assert!(adopted.warnings[0].contains("user 36 and group 36"));
        let health = check_asking(&places, &connection, &closed).unwrap();
        assert!(matches!(health, Health::Degraded(_)), "{health:?}");
        disconnect(&context, &places, &connection).unwrap();
        assert!(!point.exists());
    }
}
