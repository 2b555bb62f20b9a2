//! Names of mount points (VDSM storage specification §2.1).

use std::path::{Path, PathBuf};

use control::storage::connection::Connection;
pub use control::storage::remote::{normalized, split_host};

/// Longest name of a directory entry, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The directory name of a remote path: each `_` doubled, each `/` a `_`.
///
/// ```
/// use storaged::connect::mount_point::name;
/// assert_eq!(name("server:/a_b/c"), "server:_a__b_c");
/// assert_eq!(name("[fe80::1]:/x"), "[fe80::1]:_x");
/// ```
#[must_use]
pub fn name(remote: &str) -> String {
    remote.replace('_', "__").replace('/', "_")
}

/// The remote path a directory name stands for: a guess where a slash and an
/// underscore met, which the names do not tell apart.
#[must_use]
pub fn remote(name: &str) -> String {
    let mut remote = String::with_capacity(name.len());
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        remote.push(match letter {
            '_' if letters.next_if_eq(&'_').is_some() => '_',
            '_' => '/',
            other => other,
        });
    }
    remote
}

/// Where a connection to a file system appears; `None` for those to LUNs.
#[must_use]
pub fn path(mounts: &Path, connection: &Connection) -> Option<PathBuf> {
    let (folder, remote) = match connection {
        Connection::Nfs { export, .. } => (mounts.to_owned(), export),
        Connection::Posix { spec, .. } => (mounts.to_owned(), spec),
        Connection::Local { path } => (mounts.to_owned(), path),
        Connection::Gluster { volume, .. } => (mounts.join("glusterSD"), volume),
        Connection::Iscsi { .. } | Connection::Fc {} => return None,
    };
    Some(folder.join(name(&normalized(remote))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_vdsm() {
        for (remote, expected) in [
            ("server:/export/data", "server:_export_data"),
            ("server:/export_1/data_", "server:_export__1_data__"),
            ("[2001:db8::1]:/data", "[2001:db8::1]:_data"),
            ("/dev/mapper/x_y", "_dev_mapper_x__y"),
            ("gluster1:/volume", "gluster1:_volume"),
        ] {
            assert_eq!(name(remote), expected);
        }
        let mounts = Path::new("/rhev/data-center/mnt");
        let gluster = Connection::Gluster {
            volume: "g1:/vol_1".into(),
            options: Vec::new(),
        };
        assert_eq!(
            path(mounts, &gluster).unwrap(),
            mounts.join("glusterSD/g1:_vol__1")
        );
        assert_eq!(path(mounts, &Connection::Fc {}), None);
    }

    proptest! {
        #[test]
        fn normalizing_twice_is_normalizing_once(text in "[a-z\\[\\]:/._]{0,20}") {
            let once = normalized(&text);
            prop_assert_eq!(normalized(&once), once.clone());
            prop_assert!(!name(&once).contains('/'));
        }

        #[test]
        fn a_name_leads_back_unless_a_slash_meets_an_underscore(text in "[a-z]{1,4}:(/[a-z_.]{0,3}[a-z.]){1,4}") {
            prop_assume!(!text.contains("/_"));
            prop_assert_eq!(remote(&name(&text)), text);
        }
    }
}
