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
        options: "rw".into(),
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
    disconnect(&context, &places, &connection, &[]).unwrap();
    assert!(!point.exists());
}
