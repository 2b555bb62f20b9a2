//! What the image is made of, for people and for comparing images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::Serialize;

use crate::Error;
use crate::base::Base;

/// The image's contents.
#[derive(Debug, Serialize)]
pub(crate) struct Manifest {
    /// "VERSION+commit".
    pub(crate) release: String,
    /// "release" or "debug".
    pub(crate) profile: &'static str,
    /// Debian's release.
    pub(crate) debian: &'static str,
    /// The kernel's version, as `uname -r` prints it.
    pub(crate) kernel: String,
    /// SHA-256 of the root file system.
    pub(crate) root_sha256: String,
    /// PARTUUID of the root partition.
    pub(crate) root_partuuid: String,
    /// Version of every Debian package that has at least one file in the root.
    pub(crate) packages: BTreeMap<String, String>,
    /// Every file in the root that Debian made, with the package it is from.
    pub(crate) files: BTreeMap<String, String>,
    /// Tools the image was made with.
    pub(crate) tools: BTreeMap<String, String>,
}

/// Package by path.
type Owners = BTreeMap<String, String>;
/// Version by package.
type Versions = BTreeMap<String, String>;

/// Which package each of `paths` is from, and those packages' versions, by dpkg's records in the Debian tree.
pub(crate) fn owners(base: &Base, paths: &BTreeSet<String>) -> Result<(Owners, Versions), Error> {
    let dpkg = base.root.join("var/lib/dpkg");
    let info = dpkg.join("info");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&info).map_err(Error::io("list", &info))? {
        let path = entry.map_err(Error::io("list", &info))?.path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".list"))
        else {
            continue;
        };
        let package = name.split(':').next().unwrap_or(name);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        for line in text.lines() {
            let file = merged(line);
            if paths.contains(&file) {
                files.insert(file, package.to_owned());
            }
        }
    }
    let status_path = dpkg.join("status");
    let status = fs::read_to_string(&status_path).map_err(Error::io("read", &status_path))?;
    let used: BTreeSet<&str> = files.values().map(String::as_str).collect();
    let packages = versions(&status)
        .filter(|(name, _)| used.contains(name.as_str()))
        .collect();
    Ok((packages, files))
}

/// Where a packaged path is now that `/bin`, `/sbin` and `/lib*` are links into `/usr`.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let top = path.split('/').next().unwrap_or_default();
    if matches!(top, "bin" | "sbin" | "lib" | "lib64") {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// Names and versions in dpkg's status file.
pub(crate) fn versions(status: &str) -> impl Iterator<Item = (String, String)> {
    status.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        Some((
            field("Package: ")?.to_owned(),
            field("Version: ")?.to_owned(),
        ))
    })
}

/// Sizes of the image's parts, in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Sizes {
    /// The root file system.
    pub(crate) root: u64,
    /// The kernel.
    pub(crate) kernel: u64,
    /// The initrd.
    pub(crate) initrd: u64,
    /// The initrd with the root inside.
    pub(crate) pxe: u64,
    /// The disk, as long as it is; holes take no room.
    pub(crate) disk: u64,
}

impl Sizes {
    /// Aim for the root.
    const ROOT_AIM: u64 = 160 << 20;
    /// Aim for kernel and initrd together.
    const BOOT_AIM: u64 = 40 << 20;

    /// Lines for people, with the aims.
    pub(crate) fn lines(&self) -> [String; 2] {
        let line = |what: &str, bytes: u64, aim: u64| {
            let verdict = if bytes <= aim { "within" } else { "OVER" };
            let (bytes, aim) = (crate::mebibytes(bytes), crate::mebibytes(aim));
            format!("{what}: {bytes:.1} MiB, {verdict} the aim of {aim:.0} MiB")
        };
        [
            line("root", self.root, Self::ROOT_AIM),
            line("kernel + initrd", self.kernel + self.initrd, Self::BOOT_AIM),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packaged_paths_are_found_behind_the_merged_folders() {
        assert_eq!(
            merged("/lib/x86_64-linux-gnu/libc.so.6"),
            "usr/lib/x86_64-linux-gnu/libc.so.6"
        );
        assert_eq!(merged("/usr/bin/kmod"), "usr/bin/kmod");
        assert_eq!(merged("/library"), "library");
    }

    #[test]
    fn owners_are_only_those_with_files_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let dpkg = dir.path().join("var/lib/dpkg");
        crate::tree::write(&dpkg.join("info/kmod.list"), "/.\n/bin/kmod\n").unwrap();
        crate::tree::write(&dpkg.join("info/libc6:amd64.list"), "/lib/libc.so.6\n").unwrap();
        crate::tree::write(&dpkg.join("info/perl.list"), "/usr/bin/perl\n").unwrap();
        let status = "Package: kmod\nStatus: ok\nVersion: 34.2-2\n\nPackage: libc6\nVersion: 2.41\n\nPackage: perl\nVersion: 5\n";
        crate::tree::write(&dpkg.join("status"), status).unwrap();
        let base = Base {
            root: dir.path().to_owned(),
            key: String::new(),
        };
        let paths = ["usr/bin/kmod", "usr/lib/libc.so.6"]
            .map(str::to_owned)
            .into();
        let (packages, files) = owners(&base, &paths).unwrap();
        let expected = [("kmod", "34.2-2"), ("libc6", "2.41")]
            .map(|(name, version)| (name.into(), version.into()));
        assert_eq!(packages, BTreeMap::from(expected));
        assert_eq!(files["usr/lib/libc.so.6"], "libc6");
    }

    #[test]
    fn sizes_say_when_they_miss_the_aim() {
        let sizes = Sizes {
            root: 161 << 20,
            kernel: 12 << 20,
            initrd: 3 << 20,
            pxe: 0,
            disk: 0,
        };
        assert_eq!(
            sizes.lines(),
            [
                "root: 161.0 MiB, OVER the aim of 160 MiB".to_owned(),
                "kernel + initrd: 15.0 MiB, within the aim of 40 MiB".to_owned()
            ]
        );
    }
}
