//! Whose this process is to the servers that domains of files are on.
//!
//! Every file of a domain belongs to [`OWNER`], and many servers take root for
//! nobody. So threads that work on domains act as the owner; they keep root's
//! rights on this host, where volume groups, mounts and links need them.
//!
//! ```text
//!   connect, scan: root ── a look at a mounted file system: owner
//!   domain workers, writer, mail: owner ┬─ lvm, mke2fs, e2fsck: root
//!                                       ├─ qemu-img: owner, for good
//!                                       └─ what lvm reads and locks: root
//! ```

use linux::identity::{Acting, Owner, act_as, act_as_self};

use crate::worker::Work;

/// User vdsm and group kvm, as every host of a pool numbers them.
pub const OWNER: Owner = Owner { uid: 36, gid: 36 };

/// Acts as the owner until the result is dropped. Who may not, because it is not
/// root, goes on as who it is: the files may be its own, as they are in tests.
pub fn owner() -> Option<Acting> {
    taken(act_as(OWNER))
}

/// Acts as this process until the result is dropped: for files that make root do
/// something.
pub fn own() -> Option<Acting> {
    taken(act_as_self())
}

/// Acts as who has to do `work`.
pub fn of(work: &Work) -> Option<Acting> {
    match work {
        // Mounts, sessions with their secrets, disks.
        Work::Connect { .. }
        | Work::Disconnect { .. }
        | Work::LookAt { .. }
        | Work::Discover { .. }
        | Work::Luns { .. }
        | Work::Rescan
        | Work::Paths
        | Work::Tidy
        | Work::TakeMastersAway => None,
        _ => owner(),
    }
}

fn taken(acting: std::io::Result<Acting>) -> Option<Acting> {
    acting
        .inspect_err(|error| tracing::debug!(%error, "this process stays who it is"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};

    use control::storage::FailureKind;
    use disk_format::vdsm::domain::{DomainClass, DomainType};
    use disk_format::vdsm::version::DomainVersion;
    use rustix::thread::CapabilitySet;

    use super::*;
    use crate::domain::Domain;
    use crate::file::{FileDomain, NewFileDomain};
    use crate::image::leases::NoLeases;
    use crate::image::qemu;
    use crate::job::Context;

    /// Root that passes no permissions, as behind a server that squashes it; on a
    /// thread of its own, for good.
    fn squashed(run: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut sets = rustix::thread::capabilities(None).unwrap();
                let gone = CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::DAC_READ_SEARCH
                    | CapabilitySet::FOWNER
                    | CapabilitySet::CHOWN;
                sets.effective -= gone;
                sets.permitted -= gone;
                rustix::thread::set_capabilities(None, sets)
                    .expect("run the tests as root: they take the part of it");
                run();
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_domain_on_an_export_that_squashes_root_is_made_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let export = folder.path().join("export");
        fs::DirBuilder::new().mode(0o700).create(&export).unwrap();
        chown(&export, Some(OWNER.uid), Some(OWNER.gid)).unwrap();
        let context = Context::quiet();
        let new = NewFileDomain {
            id: "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap(),
            version: DomainVersion::V5,
            kind: DomainType::LocalFs,
            class: DomainClass::Data,
            description: "squashed".to_owned(),
            remote_path: "/export".to_owned(),
            block_size: None,
            hosts_max: 250,
        };
        squashed(|| {
            let refused = FileDomain::create(&context, &export, &new, &NoLeases).unwrap_err();
            assert_eq!(refused.kind, FailureKind::Denied, "{refused}");
            let acting = owner();
            let domain = FileDomain::create(&context, &export, &new, &NoLeases).unwrap();
            assert_eq!(domain.metadata().unwrap().description(), "squashed");
            let image = export.join(new.id.to_string()).join("images/volume");
            let what = qemu::CreateCow {
                compat: "1.1",
                backing: None,
                capacity_bytes: 1 << 20,
                preallocate: false,
            };
            qemu::create(&context, &what, &image).unwrap();
            let made = fs::metadata(&image).unwrap();
            assert_eq!((made.uid(), made.gid()), (OWNER.uid, OWNER.gid));
            drop(acting);
            assert!(fs::read_dir(&export).is_err());
        });
    }

    #[test]
    fn what_root_alone_may_write_stays_roots_while_work_is_done_for_a_domain() {
        let folder = tempfile::tempdir().unwrap();
        let _acting = owner();
        let theirs = folder.path().join("link");
        fs::write(&theirs, "").unwrap();
        let ours = folder.path().join("lvm.conf");
        {
            let _own = own();
            fs::write(&ours, "").unwrap();
        }
        assert_eq!(fs::metadata(theirs).unwrap().uid(), OWNER.uid);
        assert_eq!(fs::metadata(ours).unwrap().uid(), 0);
    }

    #[test]
    fn secrets_of_connections_are_never_given_to_the_owner_of_domains() {
        let connection: control::storage::Connection =
            serde_json::from_str(r#"{"type":"fc"}"#).unwrap();
        let connect = Work::Connect {
            connection: connection.clone(),
        };
        assert!(of(&connect).is_none());
        assert!(of(&Work::LookAt { connection }).is_none());
        assert!(of(&Work::StopSpm).is_some());
    }
}
