//! Unix sockets that PID 1 serves.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use smol::net::unix::UnixListener;

/// Binds a socket at `path` with permissions `mode`, taking the place of a
/// stale one and making its directory.
///
/// # Errors
/// The directory cannot be made or the socket not bound.
pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
