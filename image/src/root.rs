//! Puts the root's files together in a folder, and packs it as EROFS.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::base::Base;
use crate::binaries::{Binaries, Identity};
use crate::modules::Modules;
use crate::progress::Step;
use crate::tools::{self, Tools};
use crate::{Error, Profile, keep, run, tree};

/// Folders of the root, with their modes; the kernel's and the volatile ones are mounted over.
const FOLDERS: [(&str, u32); 13] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("rhev", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
];

/// Links of the root: where it is, and what it says.
const LINKS: [(&str, &str); 14] = [
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
    (
        "etc/iscsi/initiatorname.iscsi",
        "/run/holdfast/initiatorname.iscsi",
    ),
    ("etc/machine-id", "/run/machine-id"),
    ("etc/mtab", "/proc/self/mounts"),
    ("etc/multipath", "/run/multipath"),
    ("etc/multipath.conf", "/run/holdfast/multipath.conf"),
    ("etc/os-release", "../usr/lib/os-release"),
    ("etc/resolv.conf", "/run/holdfast/resolv.conf"),
    ("usr/bin/hosted-engine", "nodectl"),
    ("usr/sbin/init", "../lib/holdfast/supervisor"),
    ("usr/sbin/sanlock", "../lib/holdfast/leased"),
];

/// Files of `depmod` nobody on the node reads: kmod uses the binary forms.
const DEPMOD_LEFTOVERS: [&str; 4] = [
    "modules.symbols",
    "modules.symbols.bin",
    "modules.order",
    "modules.builtin",
];

/// The root's files, in a folder.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// Paths taken from the Debian tree.
    pub(crate) from_debian: BTreeSet<String>,
}

/// Puts the root together in `dir`, which is emptied first.
pub(crate) fn stage(
    source: &Path,
    base: &Base,
    binaries: &Binaries,
    identity: &Identity,
    profile: Profile,
    dir: &Path,
) -> Result<Staged, Error> {
    let step = Step::start(format!("Files of the {} root", profile.name()));
    tree::empty(dir)?;
    for (path, mode) in FOLDERS {
        let path = dir.join(path);
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(Error::io("set the mode of", &path))?;
    }
    for (path, target) in LINKS {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        symlink(target, &path).map_err(Error::io("link", &path))?;
    }

    let files = source.join("image/files");
    let mut lists = read(&files.join("keep.list"))?;
    if profile == Profile::Debug {
        lists += &read(&files.join("keep-debug.list"))?;
    }
    let patterns: Vec<&str> = tree::list(&lists).collect();
    let mut from_debian = keep::choose(&base.root, &patterns)?;
    for path in &from_debian {
        tree::copy(&base.root.join(path), &dir.join(path))?;
    }
    from_debian.extend(kernel_modules(base, &files, dir)?);

    overlay(&files.join("root"), dir)?;
    if profile == Profile::Debug {
        overlay(&files.join("root-debug"), dir)?;
        tree::write(&dir.join("usr/lib/holdfast/debug"), "")?;
    }
    for (from, path) in binaries.in_root() {
        tree::copy(&from, &dir.join(path))?;
    }
    tree::write(
        &dir.join("usr/lib/holdfast/release"),
        format!("{}\n", identity.release),
    )?;
    tree::write(&dir.join("usr/lib/os-release"), os_release(identity))?;
    forbid(dir, profile)?;
    step.finish(format!("{} from Debian", from_debian.len()));
    Ok(Staged {
        dir: dir.to_owned(),
        from_debian,
    })
}

/// Copies the chosen kernel modules and makes the index for them; returns their paths.
fn kernel_modules(base: &Base, files: &Path, dir: &Path) -> Result<Vec<String>, Error> {
    let folder = format!("usr/lib/modules/{}", base.kernel_version()?);
    let list = read(&files.join("modules.list"))?;
    let chosen = Modules::read(&base.root.join(&folder))?.choose(tree::list(&list))?;
    let mut paths = Vec::new();
    for name in chosen {
        let path = format!("{folder}/{name}");
        tree::copy(&base.root.join(&path), &dir.join(&path))?;
        paths.push(path);
    }
    for name in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        tree::copy(
            &base.root.join(&folder).join(name),
            &dir.join(&folder).join(name),
        )?;
    }
    let mut depmod = tools::foreign(&base.root, "usr/bin/kmod", "depmod");
    run::captured(depmod.arg("-b").arg(dir).arg(base.kernel_version()?))?;
    for name in DEPMOD_LEFTOVERS {
        let path = dir.join(&folder).join(name);
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(paths)
}

/// Copies our own files over what is there.
fn overlay(from: &Path, to: &Path) -> Result<(), Error> {
    for path in tree::walk(from)? {
        if !from.join(&path).is_dir() {
            tree::copy(&from.join(&path), &to.join(&path))?;
        }
    }
    Ok(())
}

fn os_release(identity: &Identity) -> String {
    format!(
        "ID=holdfast\nID_LIKE=debian\nNAME=Holdfast\nPRETTY_NAME=\"Holdfast {0}\"\nVERSION_ID=\"{0}\"\n",
        identity.release
    )
}

/// Names of programs no image may hold: they would be a way to change the node behind its supervisor's back.
const NEVER: [&str; 12] = [
    "apt", "apt-get", "dpkg", "perl", "python3", "sshd", "login", "su", "sudo", "agetty", "getty",
    "passwd",
];

/// Names of programs the release image may not hold besides.
const NEVER_IN_RELEASE: [&str; 8] = [
    "sh",
    "bash",
    "dash",
    "busybox",
    "cp",
    "cat",
    "env",
    "systemd-run",
];

/// Makes sure that what must not be in the root is not.
fn forbid(dir: &Path, profile: Profile) -> Result<(), Error> {
    let release = NEVER_IN_RELEASE
        .iter()
        .filter(|_| profile == Profile::Release);
    let names: BTreeSet<&str> = NEVER.iter().chain(release).copied().collect();
    for path in tree::walk(dir)? {
        let full = dir.join(&path);
        let meta = fs::symlink_metadata(&full).map_err(Error::io("read", &full))?;
        let name = path.rsplit('/').next().unwrap_or(&path);
        let program =
            meta.is_symlink() || (meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if program && names.contains(name) {
            return Err(Error::Input(format!(
                "/{path}: must not be in the {} image",
                profile.name()
            )));
        }
        if meta.is_file() && meta.permissions().mode() & 0o6000 != 0 {
            return Err(Error::Input(format!(
                "/{path}: set-uid and set-gid files must not be in an image"
            )));
        }
        if meta.is_file() && profile == Profile::Release && is_script(&full)? {
            return Err(Error::Input(format!(
                "/{path}: a script, and the release image has nothing to run it"
            )));
        }
    }
    Ok(())
}

fn is_script(path: &Path) -> Result<bool, Error> {
    let meta = fs::metadata(path).map_err(Error::io("read", path))?;
    Ok(meta.permissions().mode() & 0o111 != 0
        && fs::read(path)
            .map_err(Error::io("read", path))?
            .starts_with(b"#!"))
}

/// Packs a staged root as EROFS.
///
/// Time stamps are the commit's, owners root, the UUID fixed and files in sorted order, so equal files give equal bytes.
/// lz4 at its highest level: it unpacks several times faster than zstd, which an emulated node notices, and most of the
/// root is kernel modules that are compressed already.
pub(crate) fn pack(
    tools: &Tools,
    staged: &Path,
    identity: &Identity,
    out: &Path,
    log: &Path,
) -> Result<(), Error> {
    /// Any constant will do: the root is found by its partition's UUID.
    const FILE_SYSTEM_UUID: &str = "686f6c64-6661-4374-8000-726f6f740001";
    let step = Step::start("Packing the root (EROFS)");
    let mut command = tools.mkfs_erofs();
    command.args([
        "-zlz4hc,12",
        "-C65536",
        "-Efragments,ztailpacking",
        "-x-1",
        "--all-root",
        "--quiet",
    ]);
    command
        .args(["-U", FILE_SYSTEM_UUID, "-L", "holdfast-root"])
        .arg(format!("-T{}", identity.time));
    command.arg(out).arg(staged);
    run::logged(&step, "packing the root", &mut command, log)?;
    let bytes = fs::metadata(out).map_err(Error::io("read", out))?.len();
    step.finish(format!("{:.1} MiB", crate::mebibytes(bytes)));
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(path: &str, mode: u32, contents: &str, profile: Profile) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().join(path);
        tree::write(&full, contents).unwrap();
        fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
        forbid(dir.path(), profile)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn shells_are_for_the_debug_image_only() {
        assert_eq!(complaint("usr/bin/bash", 0o755, "", Profile::Debug), None);
        assert_eq!(
            complaint("usr/bin/bash", 0o755, "", Profile::Release).unwrap(),
            "/usr/bin/bash: must not be in the release image"
        );
    }

    #[test]
    fn package_managers_and_logins_are_in_neither() {
        for profile in Profile::ALL {
            assert!(complaint("usr/bin/dpkg", 0o755, "", profile).is_some());
            assert!(complaint("usr/sbin/sshd", 0o755, "", profile).is_some());
            assert!(
                complaint("usr/bin/mount", 0o4755, "", profile)
                    .unwrap()
                    .contains("set-uid")
            );
        }
    }

    #[test]
    fn release_has_no_scripts() {
        assert!(
            complaint("usr/sbin/fsadm", 0o755, "#!/bin/sh\n", Profile::Release)
                .unwrap()
                .contains("a script")
        );
        assert_eq!(
            complaint("usr/lib/notes", 0o644, "#!/bin/sh\n", Profile::Release),
            None
        );
    }
}
