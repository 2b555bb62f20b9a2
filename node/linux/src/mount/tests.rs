use super::*;

/// Runs `test` on a thread with its own mount namespace and root directory, so
/// that mounts and `chroot` stay there. Needs root.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || {
        // SAFETY: NEWNS and FS leave the descriptor table shared, and no other
        // thread relies on this thread's view of the file system.
        unsafe {
            rustix::thread::unshare_unsafe(
                rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS,
            )
        }
        .expect("a private mount namespace (run the tests as root)");
        make_private(Path::new("/")).expect("private mounts");
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn tmpfs(target: &Path) {
    fs::create_dir_all(target).expect("directory");
    mount(Path::new("t"), target, "tmpfs", Flags::NOSUID, "size=1m").expect("tmpfs");
}

#[test]
fn mountinfo_lines_are_understood() {
    let text = b"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
        garbage\n\
        30 22 0:26 / /mnt/a\\040b ro,nosuid - tmpfs my\\011fs ro,size=1k\n";
    let mounts = parse_mountinfo(text);
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts[0].target, Path::new("/"));
    assert_eq!(mounts[0].device, "254:1");
    assert!(!mounts[0].read_only);
    assert_eq!(mounts[1].target, Path::new("/mnt/a b"));
    assert_eq!(mounts[1].source, "my\tfs");
    assert_eq!(mounts[1].fs_type, "tmpfs");
    assert!(mounts[1].read_only);
}

#[test]
fn broken_escapes_are_kept_as_they_are() {
    assert_eq!(unescape("a\\"), "a\\");
    assert_eq!(unescape("a\\9zz"), "a\\9zz");
    assert_eq!(unescape("\\134"), "\\");
}

#[test]
fn remounted_file_system_refuses_writes_and_detaches() {
    in_namespace(|| {
        let home = tempfile::tempdir().expect("tempdir");
        let target = home.path().join("t");
        tmpfs(&target);
        fs::write(target.join("file"), "x").expect("writable at first");
        remount_read_only(&target, Flags::NOSUID).expect("remount");
        let refused = fs::write(target.join("file"), "y").expect_err("read-only");
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let listed = list().expect("list");
        assert!(
            listed
                .iter()
                .any(|mount| mount.target == target && mount.read_only)
        );

        let open = fs::File::open(target.join("file")).expect("open");
        unmount(&target).expect_err("busy while a file is open");
        detach(&target).expect("detach");
        drop(open);
        assert!(
            !list()
                .expect("list")
                .iter()
                .any(|mount| mount.target == target)
        );
    });
}

#[test]
fn switch_root_frees_the_old_root_and_nothing_else() {
    in_namespace(|| {
        let home = tempfile::tempdir().expect("tempdir");
        let initramfs = home.path().join("initramfs");
        tmpfs(&initramfs);
        // The kernel moves a mount only onto a mount's root: make ours one.
        rustix::process::chdir(&initramfs).expect("chdir");
        rustix::process::chroot(".").expect("chroot");
        fs::create_dir_all("/etc/deep/er").expect("dir");
        fs::write("/etc/deep/er/file", "x").expect("file");
        fs::write("/init", "x").expect("file");
        std::os::unix::fs::symlink("/newroot/etc", "/link").expect("link");
        let held = fs::File::open("/etc/deep/er/file").expect("held open");
        tmpfs(Path::new("/newroot"));
        tmpfs(Path::new("/run"));
        tmpfs(Path::new("/left-behind"));
        fs::write("/left-behind/data", "keep").expect("file");
        let left_behind = fs::File::open("/left-behind").expect("open");
        fs::write("/run/state", "state").expect("file");
        fs::create_dir("/newroot/run").expect("dir");
        fs::create_dir("/newroot/etc").expect("dir");
        fs::write("/newroot/etc/release", "new").expect("file");
        let old = fs::File::open("/").expect("open");

        let freed = switch_root(Path::new("/newroot"), &["/run"]).expect("switch");

        assert_eq!(fs::read_to_string("/etc/release").expect("new root"), "new");
        assert_eq!(fs::read_to_string("/run/state").expect("moved"), "state");
        assert!(!Path::new("/init").exists());
        // init, link, file, er, deep, etc, newroot, run; left-behind is a mount.
        assert_eq!(
            freed,
            Freed {
                deleted: 8,
                kept: 1
            }
        );
        let names: Vec<_> = Dir::read_from(&old)
            .expect("old root")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(names, ["left-behind"]);
        assert_eq!(io::read_to_string(held).expect("held"), "x");
        let kept = rustix::fs::openat(&left_behind, "data", OFlags::RDONLY, Mode::empty())
            .expect("a file of another file system");
        assert_eq!(
            io::read_to_string(fs::File::from(kept)).expect("data"),
            "keep"
        );
    });
}

#[test]
fn switch_root_refuses_what_is_no_initramfs() {
    in_namespace(|| {
        let home = tempfile::tempdir().expect("tempdir");
        // Not the machine's own root: the test must be harmless even if it fails.
        mount(Path::new("p"), home.path(), "proc", Flags::NOSUID, "").expect("proc");
        rustix::process::chdir(home.path()).expect("chdir");
        rustix::process::chroot(".").expect("chroot");
        let error = switch_root(Path::new("/self"), &[]).expect_err("not an initramfs");
        assert!(crate::error::chain(&error).contains("not an initramfs"));
    });
}
