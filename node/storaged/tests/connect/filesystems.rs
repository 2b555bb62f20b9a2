//! The kernel's own file systems, and directories of this host.

use std::fs;
use std::path::Path;

use control::storage::FailureKind;
use control::storage::connection::Connection;
use storaged::connect::{self, Health, Places};
use storaged::job::Context;

use super::run;

fn posix(spec: &str, vfs_type: &str, options: &str) -> Connection {
    Connection::Posix {
        spec: spec.into(),
        vfs_type: vfs_type.into(),
        options: vec![options.into()],
    }
}

pub(super) fn memory_file_system(context: &Context, places: &Places) {
    let connection = posix("some/source_1", "tmpfs", "size=1m,nodev,noatime");
    assert_eq!(
        connect::check(context, places, &connection).unwrap(),
        Health::Absent
    );
    let path = connect::connect(context, places, &connection)
        .unwrap()
        .path
        .unwrap();
    assert_eq!(path, places.mounts.join("some_source__1"));
    let mounts = linux::mount::list().unwrap();
    let mount = mounts.iter().find(|mount| mount.target == path).unwrap();
    assert_eq!(
        (mount.source.as_str(), mount.fs_type.as_str()),
        ("some/source_1", "tmpfs")
    );
    fs::write(path.join("file"), "kept").unwrap();
    // Again is the same mount, not one above it.
    connect::connect(context, places, &connection).unwrap();
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
    assert_eq!(linux::mount::list().unwrap().len(), mounts.len());
    assert_eq!(
        connect::check(context, places, &connection).unwrap(),
        Health::Connected
    );
    let open = fs::File::open(path.join("file")).unwrap();
    let busy = connect::disconnect(context, places, &connection, &[]).unwrap_err();
    assert_eq!(busy.kind, FailureKind::InUse, "{busy}");
    drop(open);
    connect::disconnect(context, places, &connection, &[]).unwrap();
    assert!(!path.exists());
    connect::disconnect(context, places, &connection, &[]).unwrap();
    // Another way to say the same, and another connection with the same place.
    let blanks = posix("my source/a:b é/", "tmpfs", "size=1m");
    let same = posix("my source/a:b é", "tmpfs", "size=1m");
    assert_eq!(blanks.id(), same.id());
    let there = connect::connect(context, places, &blanks).unwrap();
    assert_eq!(connect::connect(context, places, &same).unwrap(), there);
    assert_eq!(
        connect::check(context, places, &same).unwrap(),
        Health::Connected
    );
    let shared = Connection::Nfs {
        export: "server:/x".into(),
        version: None,
        timeo: None,
        retrans: None,
        options: Vec::new(),
        hard: false,
    };
    let other = posix("server:/x", "tmpfs", "size=1m");
    let mounted = connect::connect(context, places, &other).unwrap();
    let point = mounted.path.unwrap();
    connect::disconnect(context, places, &shared, std::slice::from_ref(&other)).unwrap();
    assert!(
        linux::mount::list()
            .unwrap()
            .iter()
            .any(|m| m.target == point)
    );
    connect::disconnect(context, places, &other, &[]).unwrap();
    connect::disconnect(context, places, &same, &[]).unwrap();
    assert!(!there.path.unwrap().exists());
    // Somebody else's mount is neither used nor taken away by making ours.
    fs::create_dir_all(&path).unwrap();
    run("mount", &["-t", "tmpfs", "other", path.to_str().unwrap()]);
    let foreign = connect::connect(context, places, &connection).unwrap_err();
    assert_eq!(foreign.kind, FailureKind::Exists);
    assert!(
        foreign.message.contains("other (tmpfs) is mounted there"),
        "{foreign}"
    );
    run("umount", &[path.to_str().unwrap()]);
}

pub(super) fn disk_file_system(context: &Context, places: &Places, home: &Path) {
    let image = home.join("image");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
    let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
    let device = device.trim();
    // A link, as udev makes them; the kernel names the device itself.
    let link = home.join("disk");
    std::os::unix::fs::symlink(device, &link).unwrap();
    let connection = posix(link.to_str().unwrap(), "ext4", "ro");
    let path = connect::connect(context, places, &connection)
        .unwrap()
        .path
        .unwrap();
    assert!(path.join("lost+found").is_dir());
    connect::connect(context, places, &connection).unwrap();
    assert!(fs::write(path.join("x"), "").is_err(), "read-only");
    connect::disconnect(context, places, &connection, &[]).unwrap();
    run("losetup", &["--detach", device]);
}

pub(super) fn local_directory(context: &Context, places: &Places, home: &Path) {
    let directory = home.join("data_1");
    let local = |path: &Path| Connection::Local {
        path: path.to_str().unwrap().to_owned(),
    };
    let connection = local(&directory);
    let missing = connect::connect(context, places, &connection).unwrap_err();
    assert_eq!(missing.kind, FailureKind::NotFound, "{missing}");
    fs::create_dir(&directory).unwrap();
    let path = connect::connect(context, places, &connection)
        .unwrap()
        .path
        .unwrap();
    assert!(path.to_str().unwrap().ends_with("_data__1"));
    assert_eq!(fs::read_link(&path).unwrap(), directory);
    // Only root may write there: guests could not.
    let made = connect::connect(context, places, &connection).unwrap();
    assert!(made.warnings[0].contains("chown 36:36"), "{made:?}");
    assert!(matches!(
        connect::check(context, places, &connection).unwrap(),
        Health::Degraded(_)
    ));
    std::os::unix::fs::chown(&directory, Some(36), Some(36)).unwrap();
    let made = connect::connect(context, places, &connection).unwrap();
    assert_eq!(made.warnings, Vec::<String>::new());
    assert_eq!(
        connect::check(context, places, &connection).unwrap(),
        Health::Connected
    );
    let file = home.join("file");
    fs::write(&file, "").unwrap();
    let no_directory = connect::connect(context, places, &local(&file)).unwrap_err();
    assert_eq!(no_directory.kind, FailureKind::BadRequest, "{no_directory}");
    fs::remove_dir(&directory).unwrap();
    assert!(matches!(
        connect::check(context, places, &connection).unwrap(),
        Health::Broken(_)
    ));
    connect::disconnect(context, places, &connection, &[]).unwrap();
    assert_eq!(
        connect::check(context, places, &connection).unwrap(),
        Health::Absent
    );
    let inside = connect::connect(context, places, &local(&places.mounts)).unwrap_err();
    assert_eq!(inside.kind, FailureKind::BadRequest);
}

pub(super) fn what_cannot_be_mounted(context: &Context, places: &Places) {
    let unknown = connect::connect(context, places, &posix("x", "nosuchfs", "")).unwrap_err();
    assert_eq!(unknown.kind, FailureKind::Unsupported, "{unknown}");
    assert!(
        !places.mounts.join("x").exists(),
        "no empty directory is left"
    );
    let missing = posix("/dev/no-such-disk", "ext4", "");
    let missing = connect::connect(context, places, &missing).unwrap_err();
    assert_eq!(missing.kind, FailureKind::NotFound, "{missing}");
    for odd in ["", "-osuid", "a\nb", " x"] {
        let odd = connect::connect(context, places, &posix(odd, "tmpfs", "")).unwrap_err();
        assert_eq!(odd.kind, FailureKind::BadRequest, "{odd}");
    }
    let escape = posix("x", "../../bin/sh", "");
    let escape = connect::connect(context, places, &escape).unwrap_err();
    assert_eq!(escape.kind, FailureKind::BadRequest);
}
